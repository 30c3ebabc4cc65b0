"""Datasets and versions in the store, found by the names of their folders and manifests: nothing is opened.

An object store holds the files of a version under other names than a folder does::

    <url>/<namespace>/<name>/
      1.0.0.json                                      the manifest: the version exists when this file exists
      1.0.0/data/train-00000-of-00001.<hash>.parquet  a file that the manifest names, with 16 digits of its SHA-256

So one listing tells the versions of a dataset, and two processes that write the same version never overwrite each
other's files.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlhive.data import _store
from rlhive.data._object_store import ObjectStore, in_parallel
from rlhive.errors import DatasetNotFoundError, InvalidNameError

MANIFEST_NAME = "rlhive.json"
_SUFFIX = ".json"
_HASH_DIGITS = 16


@dataclass(frozen=True)
class ObjectAddress:
    """Where a version lies in an object store.

    Attributes:
        store: The object store.
        dataset: ``namespace/name``.
        version: MAJOR.MINOR.PATCH.
    """

    store: ObjectStore
    dataset: str
    version: str

    @classmethod
    def of(cls, folder: Path) -> "ObjectAddress | None":
        """Return the address of a version's folder in a mirror; None for any other folder."""
        parents = Path(folder).absolute().parents
        url = _store.store_url(parents[2]) if len(parents) > 2 else None
        if url is None:
            return None
        return cls(ObjectStore(url), f"{parents[1].name}/{parents[0].name}", Path(folder).name)

    @property
    def manifest_key(self) -> str:
        """Key of the manifest."""
        return f"{self.dataset}/{self.version}{_SUFFIX}"

    @property
    def folder_key(self) -> str:
        """Key of the folder of the other files."""
        return f"{self.dataset}/{self.version}"

    def file_key(self, path: str, sha256: str) -> str:
        """Return the key of a file with a path and hash of the manifest."""
        file = PurePosixPath(path)
        return f"{self.folder_key}/{file.with_name(f'{file.stem}.{sha256[:_HASH_DIGITS]}{file.suffix}')}"

    def list_files(self) -> dict[str, int]:
        """Return the size in bytes of every file in the version's folder, by its key."""
        files = self.store.list_files(self.folder_key)
        return {key: size for key, size in files.items() if key.startswith(f"{self.folder_key}/")}

    def __str__(self) -> str:
        return f"{self.store.url}/{self.folder_key}"


def list_local_versions(name: str, *, store: Path | None = None) -> dict[str, Path]:
    """Return the complete versions of a dataset in the store and their folders, oldest first.

    A folder in the mirror of an object store need not exist: :func:`find_stored_version` fetches it.
    """
    namespace, dataset = _store.parse_name(name)
    root = (store or _store.store_dir()) / namespace / dataset
    versions = _list_version_names(root, store)
    if _store.store_url(store) is None:
        versions = [version for version in versions if has_manifest(root / version)]
    return {version: root / version for version in sorted(versions, key=_store.parse_version)}


def find_newest_version(name: str, *, below: str | None = None, store: Path | None = None) -> str | None:
    """Return the number of the newest complete version in the store; None if it has none.

    One listing tells it, and no other version is looked at.

    Args:
        name: Dataset name.
        below: Only versions before this number.
        store: Folder of all datasets.
    """
    namespace, dataset = _store.parse_name(name)
    root = (store or _store.store_dir()) / namespace / dataset
    versions = sorted(_list_version_names(root, store), key=_store.parse_version, reverse=True)
    if below is not None:
        limit = _store.parse_version(below)
        versions = [version for version in versions if _store.parse_version(version) < limit]
    is_listed = _store.store_url(store) is not None
    return next((version for version in versions if is_listed or has_manifest(root / version)), None)


def has_manifest(folder: Path) -> bool:
    """Whether a folder on this machine holds a complete version."""
    # pathlib takes twice as long, and a store may have many versions.
    return os.path.exists(f"{folder}/{MANIFEST_NAME}")  # noqa: PTH110


def list_local_datasets(*, store: Path | None = None) -> list[str]:
    """Return the names ``namespace/name`` of all datasets in the store."""
    return sorted(list_all_versions(store=store))


def list_all_versions(*, store: Path | None = None) -> dict[str, dict[str, Path]]:
    """Return the versions of every dataset in the store, by ``namespace/name``, as :func:`list_local_versions` does.

    An object store is asked for each level of its folders, with several requests at the same time.
    """
    url = _store.store_url(store)
    names = _list_folder_names(store) if url is None else _list_object_names(ObjectStore(url))
    versions = in_parallel(lambda name: list_local_versions(name, store=store), names)
    return {name: folders for name, folders in zip(names, versions, strict=True) if folders}


def list_incomplete_versions(name: str, *, store: Path | None = None) -> list[str]:
    """Return the versions of an object store that have files and no manifest: of a commit that runs or was killed."""
    url = _store.store_url(store)
    if url is None:
        return []
    names = ObjectStore(url).list_folder("/".join(_store.parse_name(name)))
    complete = _find_manifests(names)
    return [item for item, size in names.items() if size is None and _store.is_version(item) and item not in complete]


def find_stored_version(
    name: str, version: str | None = None, *, splits: Iterable[str] | None = None, store: Path | None = None
) -> Path | None:
    """Return the folder of a version in the store; None if the store has none.

    Args:
        name: Dataset name.
        version: MAJOR.MINOR.PATCH; the newest by default.
        splits: Splits whose shards are fetched from an object store; all by default, none for ``()``.
        store: Folder of all datasets.

    Raises:
        CorruptDatasetError: A file in the object store is not what the manifest recorded.
        StoreAccessDeniedError, StoreUnreachableError: The object store denies access or does not answer.
    """
    number = version or find_newest_version(name, store=store)
    if number is None or not _store.is_version(number):
        return None
    folder = _store.version_dir(name, number, store=store)
    if _store.store_url(store) is None:
        return folder if has_manifest(folder) else None
    from rlhive.data.versions._objects import fetch_stored_version  # imports NumPy, which a list does not need

    try:
        fetch_stored_version(folder, splits)
    except DatasetNotFoundError:
        return None
    return folder


def list_folders(*, store: Path | None = None) -> list[Path]:
    """Return the folders of all versions that lie on this machine: in the store, or in its mirror."""
    root = store or _store.store_dir()
    datasets = [root / name for name in _list_folder_names(store)]
    versions = (dataset / name for dataset in datasets for name in _list_entries(dataset) if _store.is_version(name))
    return [folder for folder in versions if has_manifest(folder)]


def _list_folder_names(store: Path | None) -> list[str]:
    """Return the names of a store's datasets, sorted, whether they have versions or not."""
    root = store or _store.store_dir()
    names = [f"{namespace}/{name}" for namespace in _list_entries(root) for name in _list_entries(root / namespace)]
    return sorted(name for name in names if _is_name(name))


def _list_version_names(root: Path, store: Path | None) -> list[str]:
    """Return the numbers in a dataset's folder; on a disk those of folders without a manifest, too."""
    url = _store.store_url(store)
    if url is None:
        names = _list_entries(root)
    else:
        names = _find_manifests(ObjectStore(url).list_folder(f"{root.parent.name}/{root.name}"))
    return [name for name in names if _store.is_version(name)]


def _list_entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without hidden ones; none for what is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _list_object_names(store: ObjectStore) -> list[str]:
    """Return the names of an object store's datasets; what is no name of a dataset is ignored."""

    def list_folders_of(key: str) -> list[str]:
        return [name for name, size in store.list_folder(key).items() if size is None and not name.startswith(".")]

    namespaces = list_folders_of("")
    datasets = in_parallel(list_folders_of, namespaces)
    names = [f"{namespace}/{name}" for namespace, part in zip(namespaces, datasets, strict=True) for name in part]
    return sorted(name for name in names if _is_name(name))


def _is_name(name: str) -> bool:
    try:
        _store.parse_name(name)
    except InvalidNameError:
        return False
    return True


def _find_manifests(names: dict[str, int | None]) -> list[str]:
    """Return the names of the manifests in the listing of a dataset's folder, without their suffix."""
    return [name.removesuffix(_SUFFIX) for name, size in names.items() if size is not None and name.endswith(_SUFFIX)]
