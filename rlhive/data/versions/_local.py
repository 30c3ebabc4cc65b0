"""Datasets and versions in the store, found by the names of their folders and manifests: nothing is opened.

An object store holds the files of a version under other names than a folder does::

    <url>/<namespace>/<name>/
      1.0.0.json                                      the manifest: the version exists when this file exists
      1.0.0/data/train-00000-of-00001.<hash>.parquet  a file that the manifest names, with 16 digits of its SHA-256

So one listing tells the versions of a dataset, and two processes that write the same version never overwrite each
other's files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rlhive.data import _store
from rlhive.data._object_store import ObjectStore, in_parallel
from rlhive.errors import InvalidNameError

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
    url = _store.store_url(store)
    if url is None:
        versions = [manifest.parent.name for manifest in root.glob(f"*/{MANIFEST_NAME}")]
    else:
        versions = _find_manifests(ObjectStore(url).list_folder(f"{namespace}/{dataset}"))
    return {
        version: root / version for version in sorted(filter(_store.is_version, versions), key=_store.parse_version)
    }


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
    folders = list_local_versions(name, store=store)
    number = version or next(reversed(folders), None)
    if number is None or number not in folders:
        return None
    if _store.store_url(store) is not None:
        from rlhive.data.versions._objects import fetch_stored_version  # imports NumPy, which a list does not need

        fetch_stored_version(folders[number], splits)
    return folders[number]


def list_folders(*, store: Path | None = None) -> list[Path]:
    """Return the folders of all versions that lie on this machine: in the store, or in its mirror."""
    manifests = (store or _store.store_dir()).glob(f"[!.]*/[!.]*/*/{MANIFEST_NAME}")
    return sorted(path.parent for path in manifests if _store.is_version(path.parent.name))


def _list_folder_names(store: Path | None) -> list[str]:
    return sorted({"/".join(folder.parts[-3:-1]) for folder in list_folders(store=store)})


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
