"""Download of versions from the Hugging Face Hub into the local store. No data file is opened.

A tag is first resolved to a commit, and every file comes from that commit: tags can be moved, and
`datasets.load_dataset` silently loads another revision if the Hub does not answer. The pin in the version's folder
records the commit::

    <store>/<namespace>/<name>/<version>/
      rlhive.json     the complete manifest, as README.md and meta/episodes.parquet are
      data/…          the requested shards; the others are fetched from the pinned commit when they are needed
      .hub.json       the pin: repository and commit
"""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import _tree_cache, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.file_download import repo_folder_name

from rlhive.data import _store
from rlhive.data.hub._client import progress_bars, translate_errors, with_retries
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import HubPin
from rlhive.data.hub._refs import is_offline
from rlhive.data.versions import (
    EPISODES_PATH,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    compute_sha256,
    fetch_stored_files,
)
from rlhive.errors import (
    CorruptDatasetError,
    DatasetExistsError,
    DatasetNotFoundError,
    HubUnreachableError,
    SplitNotFoundError,
)


def fetch_version(
    repo_id: str,
    version: str | None,
    commit: str,
    *,
    splits: Iterable[str] | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a version into the local store and verify it. The version's folder appears complete or not at all.

    An interrupted call can be repeated: files that were downloaded are in the Hub client's cache (HF_HOME).

    Args:
        repo_id: ``namespace/name``.
        version: Version that the commit must contain; any by default (None).
        commit: Commit sha, as :func:`list_versions` or :func:`resolve_revision` return it.
        splits: Splits whose shards are fetched; all by default, none for ``()``. :func:`fetch_missing_files` fetches
            the others later.
        store: Folder of all datasets; :func:`rlhive.data.store_dir` by default.
        progress: Whether to show the Hub client's progress bars.

    Returns:
        The version's folder.

    Raises:
        DatasetNotFoundError: The commit does not contain a version of RLHive.
        CorruptDatasetError: The commit contains another version, or a file's hash is not the manifest's.
        DatasetExistsError: The store has a version of that name with other content.
        SplitNotFoundError: The version has no such split.
        HubUnreachableError: The Hub did not answer, or HF_HUB_OFFLINE is set.
        HubAccessDeniedError: The token may not read the repository.
    """
    pin = HubPin(repo_id, commit)
    manifest = fetch_manifest(pin)
    if version not in (None, manifest.version):
        msg = f"{pin}: expected version {version}, got {manifest.version}. Tell the dataset's owner."
        raise CorruptDatasetError(msg)
    target = _store.version_dir(repo_id, manifest.version, store=store)
    splits = None if splits is None else list(splits)
    _require_splits(pin, manifest, splits or [])
    entries = [entry for entry in manifest.files if not entry.split or splits is None or entry.split in splits]
    if not target.exists():
        _download(pin, _get_sizes(entries), progress=progress)
    try:
        with _store.atomic_dir(target) as partial:
            _fetch_verified(pin, entries, partial, progress=False)
            pin.write(partial)
            snapshot = _download(pin, {MANIFEST_NAME: MAX_MANIFEST_BYTES}, progress=False)
            _store.link_or_copy(snapshot / MANIFEST_NAME, partial / MANIFEST_NAME)
    except DatasetExistsError:
        _require_same_content(target, manifest, pin)
        fetch_missing_files(target, manifest, entries, progress=progress)
    return target


def fetch_episode_table(pin: HubPin, manifest: Manifest, target: Path) -> None:
    """Fetch the episode table of a commit into a folder.

    Raises:
        CorruptDatasetError: The file is not what the manifest recorded.
    """
    _fetch_verified(pin, [entry for entry in manifest.files if entry.path == EPISODES_PATH], target, progress=False)


def _require_splits(pin: HubPin, manifest: Manifest, splits: Iterable[str]) -> None:
    missing = [split for split in splits if split not in manifest.splits]
    if missing:
        msg = (
            f"{pin.repo_id} {manifest.version} has no split {missing[0]!r}: expected one of "
            f"{', '.join(manifest.splits)}."
        )
        raise SplitNotFoundError(msg)


def fetch_manifest(pin: HubPin) -> Manifest:
    """Return the manifest of a commit, verified against git's hash of it.

    Raises:
        DatasetNotFoundError: The commit does not contain a version of RLHive.
        CorruptDatasetError: The downloaded manifest has another hash, twice.
    """
    for retry in (False, True):
        snapshot = _download(pin, {MANIFEST_NAME: MAX_MANIFEST_BYTES}, progress=False, force=retry)
        tree = get_cached_repo_tree(pin.repo_id, repo_type="dataset", revision=pin.commit)
        expected = next((file.blob_id for file in tree if file.path == MANIFEST_NAME and file.lfs is None), None)
        if expected in (None, git_blob_hash((snapshot / MANIFEST_NAME).read_bytes())):
            return Manifest.read(snapshot)
    msg = f"{pin}, {MANIFEST_NAME}: expected git hash {expected}, got another twice. Try again later."
    raise CorruptDatasetError(msg)


def git_blob_hash(content: bytes) -> str:
    """Return git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch_missing_files(
    folder: Path, manifest: Manifest, entries: Iterable[FileEntry], *, progress: bool = True
) -> None:
    """Fetch the files of a version that its folder lacks, from the Hub or from the object store that holds it.

    No request is sent if all of them exist.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        entries: Files that are needed.
        progress: Whether to show the Hub client's progress bars.

    Raises:
        HubUnreachableError: Files are missing, and the Hub did not answer or HF_HUB_OFFLINE is set.
        CorruptDatasetError: The hash of a fetched file is not the manifest's.
    """
    folder = Path(folder)
    missing = [entry for entry in entries if not (folder / entry.path).is_file()]
    pin = HubPin.read(folder)
    if pin is None:
        fetch_stored_files(folder, missing)
        return
    if not missing:
        return
    if is_offline():
        msg = (
            f"{folder}: {missing[0].path} ({len(missing)} missing files) was not pulled, and HF_HUB_OFFLINE forbids "
            f"fetching it. Open a split that was pulled, or run online: rlhive pull {pin.repo_id} "
            f"--version {manifest.version}"
        )
        raise HubUnreachableError(msg)
    with _store.locked(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        _fetch_verified(pin, missing, Path(name), progress=progress)
        for entry in missing:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / entry.path).replace(folder / entry.path)


def _download(pin: HubPin, sizes: Mapping[str, int], *, progress: bool, force: bool = False) -> Path:
    """Fetch files of a commit into the Hub client's cache and return the folder of the snapshot.

    Args:
        pin: Repository and commit.
        sizes: Size of each file in bytes, or the most that it may have, by its path in the repository.
        progress: Whether to show the Hub client's progress bars.
        force: Whether to fetch files again that the cache has.
    """
    if force:
        _forget_listing(pin)
    with (
        translate_errors(pin.repo_id, f"commit {pin.commit[:12]}"),
        progress_bars(progress),
        guarded(sizes) as guard,
    ):
        folder = with_retries(
            snapshot_download,
            pin.repo_id,
            repo_type="dataset",
            revision=pin.commit,
            allow_patterns=[_escape_glob(path) for path in sizes],
            force_download=force,
            headers=guard.headers,
        )
    for path in sizes:
        if not (Path(folder) / path).is_file():
            _forget_listing(pin)  # the client keeps it for ever, and it may have been wrong
            msg = f"{pin}: expected the file {path}, the Hub has none. Tell the dataset's owner."
            raise DatasetNotFoundError(msg)
    return Path(folder)


def _forget_listing(pin: HubPin) -> None:
    """Remove the client's list of a commit's files from its caches, so that the next download asks for it again."""
    folder = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    path = folder / repo_folder_name(repo_id=pin.repo_id, repo_type="dataset") / "trees" / f"{pin.commit}.json"
    path.unlink(missing_ok=True)
    _tree_cache._IN_MEMORY_TREE_CACHE.pop(str(path), None)


def _get_sizes(entries: Iterable[FileEntry]) -> dict[str, int]:
    return {entry.path: entry.bytes for entry in entries}


def _fetch_verified(pin: HubPin, entries: Iterable[FileEntry], target: Path, *, progress: bool) -> None:
    """Fetch files of a commit into a folder and verify them; damaged files are fetched a second time."""
    entries = list(entries)
    damaged = _link_files(_download(pin, _get_sizes(entries), progress=progress), entries, target)
    if damaged:
        snapshot = _download(pin, _get_sizes(damaged), progress=progress, force=True)
        damaged = _link_files(snapshot, damaged, target)
    if damaged:
        entry = damaged[0]
        msg = (
            f"{pin}, {entry.path}: expected SHA-256 {entry.sha256}, got {compute_sha256(target / entry.path)} twice. "
            "Nothing was kept; tell the dataset's owner if it happens again."
        )
        raise CorruptDatasetError(msg)


def _link_files(snapshot: Path, entries: list[FileEntry], target: Path) -> list[FileEntry]:
    """Link files of a snapshot into a folder; return those whose size or hash is not the manifest's."""
    for entry in entries:
        _store.link_or_copy(snapshot / entry.path, target / entry.path)
    return [entry for entry in entries if not _is_intact(target / entry.path, entry)]


def _is_intact(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.bytes and compute_sha256(path) == entry.sha256


def _escape_glob(path: str) -> str:
    """Return a glob pattern that matches only this path."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _require_same_content(target: Path, manifest: Manifest, pin: HubPin) -> None:
    """Raise DatasetExistsError if the version in a folder has another fingerprint than the manifest of the Hub."""
    local = Manifest.read(target)
    if local.fingerprint != manifest.fingerprint:
        msg = (
            f"{target} holds fingerprint {local.fingerprint[:16]}, expected {manifest.fingerprint[:16]} of {pin}. "
            f"Delete the local version (rlhive delete), or use another store: set {_store.STORE_VARIABLE}"
        )
        raise DatasetExistsError(msg)
