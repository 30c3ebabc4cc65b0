"""Versions in an object store: fetched into its mirror, committed and deleted.

::

    commit   files, each under a key that holds its hash ──► manifest, by a conditional put: one of two writers wins
    fetch    manifest ──► compare with the mirror's ──► missing files, verified
    delete   manifest ──► files

A process that is killed leaves files without a manifest: no version, and :func:`delete_stored_version` removes them.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlhive.data import _store
from rlhive.data._object_store import in_parallel
from rlhive.data.versions._local import MANIFEST_NAME, ObjectAddress
from rlhive.data.versions._manifest import FileEntry, Manifest, compute_sha256
from rlhive.data.versions._manifest_file import MAX_MANIFEST_BYTES
from rlhive.errors import CorruptDatasetError, DatasetExistsError, DatasetNotFoundError, RLHiveError

logger = logging.getLogger(__name__)

#: Seconds for which a version that was opened stays in its mirror.
RECENT_S = 24 * 3600
_ANNOUNCED_BYTES = 50e6


def fetch_stored_version(folder: Path, splits: Iterable[str] | None = None) -> None:
    """Bring a version's folder in a mirror up to date with the object store; any other folder stays as it is.

    Args:
        folder: The version's folder, whether it exists or not.
        splits: Splits whose shards are fetched; all by default, none for ``()``.

    Raises:
        DatasetNotFoundError: The store has no such version.
        CorruptDatasetError: The manifest, or a file that it names, is damaged in the store.
    """
    address = ObjectAddress.of(folder)
    if address is None:
        return
    _fetch_manifest(folder, address)
    manifest = _read_mirrored(folder, address)
    wanted = None if splits is None else set(splits)
    entries = [entry for entry in manifest.files if not entry.split or wanted is None or entry.split in wanted]
    os.utime(folder / MANIFEST_NAME)  # versions that were not opened for long make room for others
    fetch_stored_files(folder, entries)


def fetch_stored_manifests(folders: Iterable[Path]) -> None:
    """Bring the manifests of several versions in a mirror up to date, with several requests at the same time.

    A version that was deleted meanwhile, or whose manifest is too large, is left out.
    """

    def fetch(folder: Path) -> None:
        address = ObjectAddress.of(folder)
        if address is not None:
            with contextlib.suppress(DatasetNotFoundError, CorruptDatasetError):
                _fetch_manifest(folder, address)

    in_parallel(fetch, folders)


def _fetch_manifest(folder: Path, address: ObjectAddress) -> None:
    """Write the manifest of the object store into a version's folder in the mirror.

    What the folder held is removed if it belonged to another manifest: the version was deleted and made again.
    """
    content = address.store.read(address.manifest_key, MAX_MANIFEST_BYTES)
    if content is None:
        msg = f"{address}: expected a version, the store has none of that number."
        raise DatasetNotFoundError(msg)
    path = folder / MANIFEST_NAME
    if _has_content(path, content):
        return
    with _store.locked(folder), _store.translate_disk_errors(folder):
        if not _has_content(path, content):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _store.write_atomically(path, content)


def fetch_stored_files(folder: Path, entries: Iterable[FileEntry]) -> None:
    """Fetch the files of a version that its folder in the mirror lacks; nothing is sent if all of them exist.

    Versions that no process opened for a day are removed from the mirrors if the limit of their size asks for it.

    Args:
        folder: The version's folder, with its manifest.
        entries: Files that are needed.

    Raises:
        CorruptDatasetError: A file is missing in the store, or its size or hash is not the manifest's.
    """
    address = ObjectAddress.of(folder)
    entries = [entry for entry in entries if not (folder / entry.path).is_file()]
    if address is None or not entries:
        return
    sizes = address.list_files()
    for entry in entries:
        _require_stored_size(address, entry, sizes)
    _log_transfer("Fetching", address, entries)
    _make_room(folder, sum(entry.bytes for entry in entries))
    with (
        _store.translate_disk_errors(folder),
        _store.locked(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name,
    ):
        entries = [entry for entry in entries if not (folder / entry.path).is_file()]
        in_parallel(lambda entry: _fetch_file(address, entry, Path(name), folder), entries)


def publish_version(partial: Path, final: Path, earlier: Path | None = None) -> None:
    """Give a complete partial folder its final name; in a mirror, commit it to the object store first.

    Args:
        partial: Folder of the version, with its manifest.
        final: Folder of that version in the store.
        earlier: Folder of another version of the dataset. Files that are equal are copied inside the object store.

    Raises:
        DatasetExistsError: The store has the version. Its files are untouched.
    """
    if ObjectAddress.of(final) is None:
        _store.publish_dir(partial, final)
        return
    shutil.rmtree(final, ignore_errors=True)  # what the mirror holds of a version that was deleted elsewhere
    commit_version(partial, final, earlier)
    with contextlib.suppress(DatasetExistsError):  # another process of this machine fetched it since
        _store.publish_dir(partial, final)


def commit_version(folder: Path, final: Path, earlier: Path | None = None) -> None:
    """Commit a complete version to the object store of a folder in its mirror: the files, then the manifest.

    Args:
        folder: Folder of the version, with its manifest.
        final: Folder of the version in the mirror.
        earlier: As for :func:`publish_version`.

    Raises:
        DatasetExistsError: The store has the version. Its files are untouched.
    """
    address = ObjectAddress.of(final)
    if address is None:
        return
    manifest = Manifest.read(folder)
    _send_files(address, folder, manifest, earlier)
    if not address.store.create(address.manifest_key, (folder / MANIFEST_NAME).read_bytes()):
        _remove_unnamed(address, manifest)
        raise _exists_error(address)
    # Somebody may have removed the files meanwhile, as those of a commit that was killed.
    _send_files(address, folder, manifest, earlier)


def require_uncommitted(folder: Path) -> None:
    """Raise if an object store has the version of a folder in its mirror; remove the folder of one that it lacks.

    Raises:
        DatasetExistsError: The store has the version.
    """
    address = ObjectAddress.of(folder)
    if address is None:
        return
    if address.store.read(address.manifest_key, MAX_MANIFEST_BYTES) is not None:
        raise _exists_error(address)
    shutil.rmtree(folder, ignore_errors=True)


def delete_stored_version(folder: Path) -> None:
    """Remove a version from the object store of a folder in its mirror: the manifest first, then the files."""
    address = ObjectAddress.of(folder)
    if address is not None:
        address.store.remove([address.manifest_key])
        address.store.remove(address.list_files())


def _send_files(address: ObjectAddress, folder: Path, manifest: Manifest, earlier: Path | None) -> None:
    """Send the files that the store lacks. A key holds a hash: what is under it has the right content."""
    sizes = address.list_files()
    sources = _find_copies(earlier)

    def send(entry: FileEntry) -> None:
        key = address.file_key(entry.path, entry.sha256)
        source = sources.get(entry.sha256)
        if source is None or not address.store.copy(source, key):
            address.store.upload(folder / entry.path, key)

    keys = {entry: address.file_key(entry.path, entry.sha256) for entry in manifest.files}
    missing = [entry for entry, key in keys.items() if sizes.get(key) != entry.bytes]
    _log_transfer("Sending", address, [entry for entry in missing if entry.sha256 not in sources])
    in_parallel(send, missing)


def _find_copies(earlier: Path | None) -> dict[str, str]:
    """Return the keys of the files of a version in an object store, by SHA-256."""
    address = None if earlier is None else ObjectAddress.of(earlier)
    if earlier is None or address is None:
        return {}
    return {entry.sha256: address.file_key(entry.path, entry.sha256) for entry in Manifest.read(earlier).files}


def _remove_unnamed(address: ObjectAddress, manifest: Manifest) -> None:
    """Remove the files of a manifest that came too late, except for those that the version's own manifest names."""
    with contextlib.suppress(RLHiveError), tempfile.TemporaryDirectory(prefix="rlhive-commit-") as name:
        content = address.store.read(address.manifest_key, MAX_MANIFEST_BYTES)
        (Path(name) / MANIFEST_NAME).write_bytes(content or b"")
        named = {(entry.path, entry.sha256) for entry in Manifest.read(Path(name)).files}
        ours = {(entry.path, entry.sha256) for entry in manifest.files}
        address.store.remove(address.file_key(path, sha256) for path, sha256 in ours - named)


def _exists_error(address: ObjectAddress) -> DatasetExistsError:
    msg = (
        f"{address}: expected no such version, the store has it, perhaps from a process that committed meanwhile. It "
        "was not changed, and recorded episodes are kept. Run the same command again without a version number."
    )
    return DatasetExistsError(msg)


def _read_mirrored(folder: Path, address: ObjectAddress) -> Manifest:
    """Return the manifest in a mirror, which must be about the version at the address."""
    try:
        manifest = Manifest.read(folder)
    except CorruptDatasetError as error:
        msg = f"{address.store.url}/{address.manifest_key}: {error}"
        raise CorruptDatasetError(msg) from error
    if (manifest.name, manifest.version) != (address.dataset, address.version):
        msg = (
            f"{address.store.url}/{address.manifest_key}: expected a manifest of {address.dataset} {address.version}, "
            f"got one of {manifest.name} {manifest.version}."
        )
        raise CorruptDatasetError(msg)
    return manifest


def _require_stored_size(address: ObjectAddress, entry: FileEntry, sizes: dict[str, int]) -> None:
    key = address.file_key(entry.path, entry.sha256)
    if sizes.get(key) != entry.bytes:
        actual = f"{sizes[key]} bytes" if key in sizes else "no such file"
        msg = f"{address.store.url}/{key}: expected {entry.bytes} bytes, got {actual}. Commit the version again."
        raise CorruptDatasetError(msg)


def _fetch_file(address: ObjectAddress, entry: FileEntry, temporary: Path, folder: Path) -> None:
    """Fetch a file and verify it; a damaged one is fetched a second time."""
    key = address.file_key(entry.path, entry.sha256)
    path = temporary / entry.path
    for _ in range(2):
        address.store.download(key, path, entry.bytes)
        digest = compute_sha256(path)
        if digest == entry.sha256:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / entry.path)
            return
    msg = f"{address.store.url}/{key}: expected SHA-256 {entry.sha256}, got {digest} twice. Commit the version again."
    raise CorruptDatasetError(msg)


def _log_transfer(verb: str, address: ObjectAddress, entries: Sequence[FileEntry]) -> None:
    """Announce a transfer that takes a while."""
    num_bytes = sum(entry.bytes for entry in entries)
    if num_bytes > _ANNOUNCED_BYTES:
        logger.warning("%s %d files of %s, %.0f MB", verb, len(entries), address, num_bytes / 1e6)


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove versions from the mirrors, the one first that was opened longest ago, until some more bytes fit.

    The version of a folder stays, and so do those that were opened within the last day: they may be in use.
    """
    opened = {path.parent: path.stat().st_mtime for path in folder.parents[3].glob(f"*/[!.]*/[!.]*/*/{MANIFEST_NAME}")}
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in opened}
    excess = sum(sizes.values()) + num_bytes - _store.mirror_limit_bytes()
    excess = max(excess, num_bytes - _store.free_bytes(folder.parents[2]))
    for path in sorted(opened, key=opened.__getitem__):
        if excess <= 0 or time.time() - opened[path] < RECENT_S:
            return
        if path != folder and ObjectAddress.of(path) is not None:
            _store.remove_dir(path)
            excess -= sizes[path]


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False
