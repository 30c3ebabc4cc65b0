"""Datasets and versions in the local store, found by the names of their folders: nothing is opened."""

from pathlib import Path

from rlhive.data import _store

MANIFEST_NAME = "rlhive.json"


def list_local_versions(name: str, *, store: Path | None = None) -> dict[str, Path]:
    """Return the complete versions of a dataset in the local store and their folders, oldest first."""
    namespace, dataset = _store.parse_name(name)
    root = (store or _store.store_dir()) / namespace / dataset
    folders = [manifest.parent for manifest in root.glob(f"*/{MANIFEST_NAME}")]
    versions = {folder.name: folder for folder in folders if _store.is_version(folder.name)}
    return {version: versions[version] for version in sorted(versions, key=_store.parse_version)}


def list_local_datasets(*, store: Path | None = None) -> list[str]:
    """Return the names ``namespace/name`` of all datasets in the local store."""
    root = store or _store.store_dir()
    manifests = root.glob(f"[!.]*/[!.]*/*/{MANIFEST_NAME}")
    return sorted({"/".join(path.parts[-4:-2]) for path in manifests if _store.is_version(path.parent.name)})
