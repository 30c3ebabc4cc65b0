"""Versions of a repository as a history: what belongs to it, and which of its versions has a split."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhive.data.hub._pin import HubPin
from rlhive.data.hub._pull import fetch_episode_table, fetch_manifest
from rlhive.data.hub._refs import read_refs
from rlhive.data.versions import Manifest, read_episodes, share_history
from rlhive.errors import CorruptDatasetError, DatasetExistsError, DatasetNotFoundError, UnsupportedFormatError

#: Number of versions whose manifests are read to find a split.
_MAX_SEARCHED = 20

_UNREADABLE = (CorruptDatasetError, DatasetNotFoundError, UnsupportedFormatError)


def require_same_history(repo_id: str, folder: Path, manifest: Manifest) -> None:
    """Raise if a repository holds another dataset than a version.

    It is the same dataset if its newest version and this one, or another version of this dataset in the store, have the
    same content, an episode, a recording run or a parent in common. A repository without a version of RLHive holds no
    dataset.

    Args:
        repo_id: ``namespace/name``.
        folder: Folder of the version that is published.
        manifest: Its manifest.

    Raises:
        DatasetExistsError: The repository holds another dataset.
    """
    head, tags = read_refs(repo_id)
    if head is None or f"v{manifest.version}" in tags:  # a tag that exists must have the same files
        return
    pin = HubPin(repo_id, head)
    try:
        remote = fetch_manifest(pin)
        if any(share_history(local, remote) for local in (manifest, *_read_siblings(folder, manifest))):
            return
        with tempfile.TemporaryDirectory(prefix="rlhive-push-") as name:
            fetch_episode_table(pin, remote, Path(name))
            remote_hashes = _read_content_hashes(Path(name), remote)
    except _UNREADABLE:  # nothing to compare with
        return
    if not remote_hashes or not remote_hashes.isdisjoint(_read_content_hashes(folder, manifest)):
        return
    msg = (
        f"{repo_id}: expected an earlier version of {manifest.name} {manifest.version}, got another dataset: "
        f"{remote.version} with {remote.num_episodes} episodes, of which none is in it, nor a recording run or a "
        "parent. Publish to a repository of its own, or pass unrelated=True (rlhive push --unrelated)."
    )
    raise DatasetExistsError(msg)


def find_splits(repo_id: str, versions: Mapping[str, str], splits: Sequence[str]) -> str | None:
    """Return the newest of some versions that has all splits; None where there is none.

    Args:
        repo_id: ``namespace/name``.
        versions: Commits by version, oldest first; the newest 20 are looked at.
        splits: Names of the splits.
    """
    for version, commit in reversed(list(versions.items())[-_MAX_SEARCHED:]):
        try:
            if set(splits) <= set(fetch_manifest(HubPin(repo_id, commit)).splits):
                return version
        except _UNREADABLE:
            continue
    return None


def _read_siblings(folder: Path, manifest: Manifest) -> list[Manifest]:
    """Return the manifests of the other versions of a dataset that lie beside a version's folder."""
    siblings = []
    for path in sorted(folder.resolve().parent.iterdir()):
        try:
            sibling = Manifest.read(path)
        except (*_UNREADABLE, NotADirectoryError):
            continue
        if sibling.name == manifest.name:
            siblings.append(sibling)
    return siblings


def _read_content_hashes(folder: Path, manifest: Manifest) -> set[str]:
    return set(read_episodes(folder, manifest, ["content_hash"])["content_hash"].to_pylist())
