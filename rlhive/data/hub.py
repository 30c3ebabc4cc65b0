"""Versions on the Hugging Face Hub. The only room that knows huggingface_hub; it moves files and never opens them.

A version is the git tag ``v<version>`` of a dataset repository. A tag is resolved to a commit first and everything
is fetched from that commit, since tags can move and `datasets.load_dataset` silently serves another revision when
the Hub does not answer.
"""

import shutil
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from rlhive.data import cache
from rlhive.data.manifest import FILE_NAME, Manifest, verify
from rlhive.errors import CorruptDataset, DatasetExists, DatasetNotFound


def versions_of(repo_id: str) -> dict[str, str]:
    """Return the versions of a dataset on the Hub and the commit of each.

    One request. No such repository, no network, or HF_HUB_OFFLINE: an empty dict.

    Args:
        repo_id: ``namespace/name``.

    Returns:
        Commit sha by version, for example ``{"1.0.0": "0f3c…"}``.
    """
    if constants.HF_HUB_OFFLINE:
        return {}
    try:
        refs = HfApi().list_repo_refs(repo_id, repo_type="dataset")
    except RepositoryNotFoundError:
        return {}
    except Exception as error:
        if not _unreachable(error):
            raise
        return {}
    tags = {tag.name.removeprefix("v"): tag.target_commit for tag in refs.tags if tag.name.startswith("v")}
    return {version: commit for version, commit in tags.items() if _is_version(version)}


def pull(repo_id: str, version: str, commit: str, *, store: Path | None = None) -> Path:
    """Fetch a version into the local store, verified; it appears complete or not at all.

    Args:
        repo_id: ``namespace/name``.
        version: Its version.
        commit: The commit that :func:`versions_of` named.
        store: Folder of all datasets.

    Returns:
        The version's folder.

    Raises:
        DatasetNotFound: The commit holds no RLHive version.
        CorruptDataset: What came is another version, or a file's hash is not the manifest's.
    """
    target = cache.version_dir(repo_id, version, store=store)
    snapshot = Path(snapshot_download(repo_id, repo_type="dataset", revision=commit))
    manifest = Manifest.read(snapshot)
    if manifest.version != version:
        msg = f"{repo_id}@v{version}: expected that version, got {manifest.version}. Tell the dataset's owner."
        raise CorruptDataset(msg)
    try:
        with cache.publishing(target) as partial:
            for entry in manifest.files:
                path = partial / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(snapshot / entry.path, path)
            verify(partial, manifest.files)
            shutil.copyfile(snapshot / FILE_NAME, partial / FILE_NAME)
    except DatasetExists:
        pass  # another process was faster
    except FileNotFoundError as error:
        msg = f"{repo_id}@v{version}: the Hub has no file {error.filename}. Tell the dataset's owner."
        raise DatasetNotFound(msg) from error
    return target


def _is_version(text: str) -> bool:
    try:
        cache.parse_version(text)
    except ValueError:
        return False
    return True


def _unreachable(error: Exception) -> bool:
    """Whether nobody answered: no name, no route, no connection, a time-out, or a server out of order."""
    if isinstance(error, (OfflineModeIsEnabled, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
