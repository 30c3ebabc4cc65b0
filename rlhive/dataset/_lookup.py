"""From a dataset's name to the folder of a version: in the local store, from the Hub, or by running the recipe."""

import difflib
import logging
from pathlib import Path

from rlhive.data import DEFAULT_NAMESPACE, discard, memmap_dir, parse_version, qualified, store_dir
from rlhive.data.hub import Pin, fetch_version, is_offline, require_unmoved, resolve, versions_of
from rlhive.data.versions import Manifest, local_datasets, local_versions
from rlhive.envs import Task, catalogue
from rlhive.errors import DatasetNotFound, HubUnreachable, RLHiveError
from rlhive.rollouts import collect

logger = logging.getLogger(__name__)


def find(
    name: str | Path,
    *,
    version: str | None = None,
    revision: str | None = None,
    splits: list[str] | None = None,
    generate: bool = True,
    store: Path | None = None,
) -> Path:
    """Return the folder of a version; :class:`~rlhive.RoboHiveDataset` says what is looked up where."""
    if revision is not None:
        return _at_revision(str(name), revision, version, splits, store=store)
    return _as_path(name) or _resolve(str(name), version, splits, generate=generate, store=store)


def pull(
    name: str,
    *,
    version: str | None = None,
    revision: str | None = None,
    splits: list[str] | None = None,
    store: Path | None = None,
) -> Path:
    """Fetch a version from the Hub, the newest there by default, and return its folder.

    A copy that is here already is completed, after a look whether its tag still names the same commit.

    Raises:
        DatasetNotFound: The Hub has no such dataset or version.
        CorruptDataset: A file's hash is not the manifest's, or the tag was moved.
        HubUnreachable, HubAccessDenied: The Hub does not answer or does not give it.
    """
    repo_id = "/".join(qualified(name))
    if revision is not None:
        return fetch_version(repo_id, version, resolve(repo_id, revision), splits=splits, store=store)
    if is_offline():
        msg = f"{repo_id}: a pull asks the Hub, and HF_HUB_OFFLINE forbids that. Unset it, or open what is here."
        raise HubUnreachable(msg)
    remote = versions_of(repo_id)
    chosen = version or next(reversed(remote), None)
    if chosen not in remote:
        there = f"expected one of {', '.join(remote)}" if remote else "the Hub has no dataset of that name for you"
        msg = f"{repo_id} has no version {version or 'at all'} on the Hub: {there}. Look: rlhive versions {repo_id}"
        raise DatasetNotFound(msg)
    local = local_versions(name, store=store)
    if chosen in local:
        require_unmoved(local[chosen], chosen, remote[chosen])
    return fetch_version(repo_id, chosen, remote[chosen], splits=splits, store=store)


def versions(name: str, *, store: Path | None = None) -> tuple[dict[str, dict[str, str | None]], str]:
    """Return the versions of a dataset, oldest first, and why the Hub's are missing, empty where they are not.

    Returns:
        By version ``path``, its folder here, and ``commit``, what its tag names on the Hub; None where it is not there.
    """
    local, said = local_versions(name, store=store), ""
    try:
        remote = versions_of("/".join(qualified(name)))
    except RLHiveError as error:
        remote, said = {}, str(error)
    if is_offline():
        said = "HF_HUB_OFFLINE forbids asking the Hub."
    rows = {}
    for version in sorted({*local, *remote}, key=parse_version):
        path = local.get(version)
        rows[version] = {"path": path and str(path), "commit": remote.get(version)}
    if not rows and not said:
        raise DatasetNotFound(_not_found(name, None, [], _task_of(name), store))
    return rows, said


def delete(name: str, version: str, *, store: Path | None = None) -> Path:
    """Remove a version from the local store, with its memmap cache where no other version has the same content.

    Nothing happens on the Hub: what is published stays.

    Raises:
        DatasetNotFound: The store has no such version.
    """
    folder = local_version(name, version, store=store)
    content = _fingerprint(folder)
    discard(folder)
    others = (path for other in local_datasets(store=store) for path in local_versions(other, store=store).values())
    if content is not None and content not in map(_fingerprint, others):
        for encoded in (False, True):
            discard(memmap_dir(content, encoded=encoded, store=store))
    return folder


def local_version(name: str, version: str, *, store: Path | None = None) -> Path:
    """Return the folder of a version in the local store.

    Raises:
        DatasetNotFound: The store has no such version.
    """
    local = local_versions(name, store=store)
    if version not in local:
        there = f"expected one of {', '.join(local)}" if local else "no version of it is there"
        msg = f"{name} has no version {version} in {store or store_dir()}: {there}. Look: rlhive list"
        raise DatasetNotFound(msg)
    return local[version]


def _fingerprint(folder: Path) -> str | None:
    try:
        return Manifest.read(folder).fingerprint
    except RLHiveError:
        return None


def _as_path(name: str | Path) -> Path | None:
    if isinstance(name, Path):
        return name.expanduser().absolute()
    if name.startswith(("/", ".", "~")):
        return Path(name).expanduser().absolute()
    return None


def _resolve(name: str, version: str | None, splits: list[str] | None, *, generate: bool, store: Path | None) -> Path:
    """Return the folder of a version: local, fetched from the Hub, or made by the recipe."""
    local = local_versions(name, store=store)
    if version is not None:
        parse_version(version)
    if local and version in (None, *local):
        return local[version or list(local)[-1]]
    task = _task_of(name)
    can_make = task is not None and task.recipe is not None and version in (None, task.recipe.version)
    repo_id = "/".join(qualified(name))
    try:
        remote = versions_of(repo_id)
    except HubUnreachable as error:
        if not (can_make and generate):
            raise
        logger.warning("%s", error)
        remote = {}
    if remote and version in (None, *remote):
        chosen = version or list(remote)[-1]
        return fetch_version(repo_id, chosen, remote[chosen], splits=splits, store=store)
    if not can_make:
        raise DatasetNotFound(_not_found(name, version, [*local, *remote], task, store))
    if not generate:
        msg = (
            f"{name}: expected a version in the store {store or store_dir()} or on the Hub, got none, and "
            f"generate=False forbids running its recipe. Run: rlhive collect {task.name}"
        )
        raise DatasetNotFound(msg)
    logger.warning(
        "%s is neither in the local store nor on the Hub: running its recipe, %d episodes in %s",
        name,
        task.recipe.num_episodes,
        task.env_name,
    )
    return collect(task, store=store)


def _at_revision(
    name: str, revision: str, version: str | None, splits: list[str] | None, *, store: Path | None
) -> Path:
    """Return the folder of the version that a revision of the Hub holds; of a commit known here without a network."""
    repo_id = "/".join(qualified(name))
    local = local_versions(name, store=store)
    for number, path in local.items():
        pin = Pin.read(path)
        # A version's tag is never moved: its name is as good as its commit.
        if pin is not None and pin.repo_id == repo_id and revision in (pin.commit, f"v{number}"):
            return path
    return fetch_version(repo_id, version, resolve(repo_id, revision), splits=splits, store=store)


def _task_of(name: str) -> Task | None:
    namespace, bare = qualified(name)
    return catalogue().get(bare) if namespace == DEFAULT_NAMESPACE else None


def _not_found(name: str, version: str | None, there: list[str], task: Task | None, store: Path | None) -> str:
    recipe = [task.recipe.version] if task is not None and task.recipe is not None else []
    versions = sorted({*there, *recipe}, key=parse_version)
    if versions:
        return f"{name} has no version {version}: expected one of {', '.join(versions)}. Ask for one of them."
    known = [*catalogue(), *local_datasets(store=store)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(catalogue())
    return (
        f"No dataset named {name!r}: it is not in the store {store or store_dir()}, not on the Hub, and not in "
        f"the catalogue. Nearest: {', '.join(near)}. List what there is: rlhive list"
    )
