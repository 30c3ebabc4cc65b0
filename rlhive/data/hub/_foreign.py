"""Datasets of other libraries on the Hub, fetched file by file from one commit."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhive._text import printable
from rlhive.data._untrusted import parse_count, parse_file_path
from rlhive.data.hub._client import translate_errors, with_retries
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import HubPin
from rlhive.data.hub._pull import _download
from rlhive.data.hub._refs import _make_client
from rlhive.errors import DatasetNotFoundError, HubRefusedError


def fetch_foreign_files(repo_id: str, commit: str, folders: Iterable[str], *, progress: bool = True) -> Path:
    """Fetch the files of some folders of a repository into the Hub client's cache.

    Args:
        repo_id: ``namespace/name``.
        commit: Commit sha, as :func:`resolve_revision` returns it.
        folders: Folders at the root of the repository, ``("meta", "data")``; its README.md is fetched too.
        progress: Whether to show the Hub client's progress bars.

    Returns:
        The folder of the snapshot. Its files are links to the cache.

    Raises:
        DatasetNotFoundError: There is no such repository or commit, or it has no file in the folders.
        HubUnreachableError, HubAccessDeniedError, HubRefusedError: The Hub does not answer, denies access, or lists
            files whose paths or sizes are none.
    """
    pin = HubPin(repo_id, commit)
    with translate_errors(repo_id, f"commit {commit[:12]}"), guarded():
        files = with_retries(_list_files_at, pin)
    wanted = tuple(f"{folder}/" for folder in folders)
    sizes: dict[str, int] = {}
    for path, size in files:
        if str(path).startswith(wanted) or path == "README.md":
            try:
                sizes[parse_file_path(path)] = parse_count(size)
            except ValueError as error:
                msg = f"{pin}: expected a list of files, got from the Hub: {printable(error)[:200]}."
                raise HubRefusedError(msg) from None
    if not any(path.startswith(wanted) for path in sizes):
        msg = f"{pin}: expected files in {' or '.join(wanted)}, got none. Is it a dataset of that library?"
        raise DatasetNotFoundError(msg)
    return _download(pin, sizes, progress=progress)


def _list_files_at(pin: HubPin) -> list[tuple[Any, Any]]:
    """Return paths and sizes of all files of a commit, as the Hub says."""
    entries = _make_client().list_repo_tree(pin.repo_id, recursive=True, revision=pin.commit, repo_type="dataset")
    return [(entry.path, entry.size) for entry in entries if hasattr(entry, "size")]
