"""From a dataset's name to the folder of a version: in the store, on the Hub, or made by the task's recipe."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive.data import (
    DEFAULT_NAMESPACE,
    as_path,
    describe_store,
    hub,
    is_version,
    list_memmap_dirs,
    list_remains,
    parse_name,
    parse_version,
    release_dir,
    remove_dir,
    remove_remains,
    store_url,
    version_dir,
)
from rlhive.data.versions import (
    MANIFEST_NAME,
    ObjectAddress,
    find_stored_version,
    has_manifest,
    list_folders,
    list_incomplete_versions,
    list_local_datasets,
    list_local_versions,
)
from rlhive.dataset._foreign import ForeignAddress, open_foreign
from rlhive.envs import Task, catalogue
from rlhive.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    HubUnreachableError,
    InvalidOptionError,
    RLHiveError,
    SplitNotFoundError,
)

logger = logging.getLogger(__name__)


def find_version(
    name: str | Path,
    *,
    version: str | None = None,
    revision: str | None = None,
    splits: list[str] | None = None,
    generate: bool = True,
    store: Path | None = None,
    import_options: Mapping[str, Any] | None = None,
) -> Path:
    """Return the folder of a version; :class:`~rlhive.RoboHiveDataset` documents the order of the lookup.

    The folder is not opened: it may be damaged. Importing this function loads no torch.

    Args:
        name: Dataset name, or the path of a version's folder.
        version: MAJOR.MINOR.PATCH; the newest by default.
        revision: Tag, branch or commit on the Hub, instead of a version.
        splits: Splits to fetch from the Hub or an object store; all by default, and an empty list for the episode table
            only.
        generate: Whether the task's recipe may be run.
        store: Folder of all datasets.
        import_options: reward, success and rename, for an address of another library's dataset; None counts as not
            given.

    Raises:
        DatasetNotFoundError: No such dataset or version.
        InvalidOptionError: An option of an import is given for a dataset of RLHive, or a version for an address.
        HubUnreachableError, HubAccessDeniedError: The Hub does not answer or denies access.
        StoreUnreachableError, StoreAccessDeniedError: The object store does not answer or denies access.
    """
    options = {option: value for option, value in (import_options or {}).items() if value is not None}
    address = ForeignAddress.parse(name)
    if address is not None:
        _require_no_option(name, "version", version, "another library's dataset has none of RLHive's versions")
        return open_foreign(address, revision=revision, store=store, **options)
    for option, value in options.items():
        _require_no_option(name, option, value, "it is for an address such as lerobot:org/name")
    if revision is not None:
        return _find_revision(str(name), revision, version, splits, store=store)
    path = as_path(name)
    if path is not None:
        return path
    name = str(name)
    if version is not None:
        parse_version(version)
    folder = find_stored_version(name, version, splits=splits, store=store)
    if folder is not None:
        return folder
    local = list_local_versions(name, store=store)
    return _fetch_or_generate(name, version, splits, list(local), generate=generate, store=store)


def _require_no_option(name: str | Path, option: str, value: object, reason: str) -> None:
    if value is not None:
        msg = f"{name}: {option}={value!r}: expected none: {reason}."
        raise InvalidOptionError(msg)


def pull(
    name: str,
    *,
    version: str | None = None,
    revision: str | None = None,
    splits: list[str] | None = None,
    store: Path | None = None,
) -> Path:
    """Fetch a version from the Hub into the store and return its folder.

    A copy in the store is completed, after a check that its tag still points to the same commit. An object store gets
    the version as a whole.

    Args:
        name: Dataset name, ``"kitchen_knob1"`` or ``"org/name"``.
        version: MAJOR.MINOR.PATCH; the newest on the Hub by default.
        revision: Tag, branch or commit, instead of a version.
        splits: Splits to fetch; all by default.
        store: Folder of all datasets.

    Raises:
        DatasetNotFoundError: The Hub has no such dataset or version.
        SplitNotFoundError: The version has no such split; the message names a version that has it, if there is one.
        CorruptDatasetError: The hash of a file is not the one in the manifest, or the tag was moved.
        HubUnreachableError, HubAccessDeniedError: The Hub does not answer or denies access.
    """
    if store_url(store) is None:
        return _pull(name, version, revision, splits, store)
    return _add_to_object_store(_pull(name, version, revision, None, store))


def _add_to_object_store(folder: Path) -> Path:
    """Commit a pulled version that lies in the mirror of an object store, unless the store has it.

    Raises:
        DatasetExistsError: The store has a version of that name with other content.
    """
    from rlhive.data.versions import commit_version  # imports pyarrow, which listing versions does not need

    name, fingerprint = "/".join(folder.parts[-3:-1]), _read_fingerprint(folder)
    if find_stored_version(name, folder.name, splits=(), store=folder.parents[2]) is None:
        commit_version(folder, folder)
    elif _read_fingerprint(folder) != fingerprint:
        msg = f"{ObjectAddress.of(folder)}: expected the version of the Hub, the store has another of that number."
        raise DatasetExistsError(msg)
    return folder


def _pull(name: str, version: str | None, revision: str | None, splits: list[str] | None, store: Path | None) -> Path:
    repo_id = "/".join(parse_name(name))
    if revision is not None:
        return hub.fetch_version(repo_id, version, hub.resolve_revision(repo_id, revision), splits=splits, store=store)
    if hub.is_offline():
        msg = f"{repo_id}: cannot be pulled while HF_HUB_OFFLINE is set. Unset it, or open the local versions."
        raise HubUnreachableError(msg)
    remote = hub.list_versions(repo_id)
    number = version or next(reversed(remote), None)
    if number is None or number not in remote:
        available = f"expected one of {', '.join(remote)}" if remote else "the Hub has no dataset of that name for you"
        msg = f"{repo_id} has no version {version or 'at all'} on the Hub: {available}. Look: rlhive versions {repo_id}"
        raise DatasetNotFoundError(msg)
    local = list_local_versions(name, store=store)
    if number in local:
        hub.require_tag_unmoved(local[number], number, remote[number])
    try:
        return hub.fetch_version(repo_id, number, remote[number], splits=splits, store=store)
    except SplitNotFoundError as error:
        other = hub.find_splits(repo_id, remote, splits or [])
        if other is None:
            raise
        msg = f"{error} {other} has it: rlhive pull {repo_id} --version {other} --split {'+'.join(splits or [])}"
        raise SplitNotFoundError(msg) from error


def versions(name: str, *, store: Path | None = None) -> tuple[dict[str, dict[str, str | None]], str]:
    """List the versions of a dataset in the store and on the Hub, oldest first.

    Args:
        name: Dataset name, ``"kitchen_knob1"`` or ``"org/name"``.
        store: Folder of all datasets.

    Returns:
        For each version ``path``, its folder or address in the store or None, and ``commit``, the commit of its tag on
        the Hub or None. And the reason why the Hub's versions are missing; empty if they are not.

    Raises:
        DatasetNotFoundError: Neither the store nor the Hub has the dataset.
    """
    local = list_local_versions(name, store=store)
    remote: dict[str, str] = {}
    warning = ""
    try:
        remote = hub.list_versions("/".join(parse_name(name)))
    except RLHiveError as error:
        warning = str(error)
    if hub.is_offline():
        warning = "The Hub was not asked, because HF_HUB_OFFLINE is set."
    for version in list_incomplete_versions(name, store=store):
        logger.warning(
            "%s %s: the store has files of a commit that runs or was killed. If it was killed: rlhive delete %s "
            "--version %s",
            name,
            version,
            name,
            version,
        )
    rows: dict[str, dict[str, str | None]] = {}
    for version in sorted({*local, *remote}, key=parse_version):
        path = str(ObjectAddress.of(local[version]) or local[version]) if version in local else None
        rows[version] = {"path": path, "commit": remote.get(version)}
    if not rows and not warning:
        raise DatasetNotFoundError(_describe_missing(name, None, [], _find_task(name), store))
    return rows, warning


def delete(name: str, version: str, *, store: Path | None = None) -> Path:
    """Remove a version from the store, its release, and its memmap caches unless another version needs them.

    Published versions stay on the Hub. The folder goes last: after a kill, the same call removes the rest.
    From an object store the manifest goes first, so that no reader sees half of the version.

    Args:
        name: Dataset name.
        version: MAJOR.MINOR.PATCH.
        store: Folder of all datasets.

    Returns:
        The folder that was removed.

    Raises:
        DatasetNotFoundError: The store has no such version.
    """
    # The import loads pyarrow, which listing versions does not need.
    from rlhive.data.versions import delete_stored_version, fetch_stored_manifests

    folder = find_deletable(name, version, store=store)
    fetch_stored_manifests([folder])  # for the fingerprint in the names of its caches: the mirror may lack the version
    delete_stored_version(folder)
    if not folder.exists():
        remove_remains(folder)
        return folder
    fingerprint = _read_fingerprint(folder)
    caches = [] if fingerprint is None else list_memmap_dirs(fingerprint, store=store)
    if caches and not any(_has_fingerprint(path, fingerprint) for path in list_folders(store=store) if path != folder):
        for cache in caches:
            remove_dir(cache)
    remove_dir(release_dir(folder))
    remove_dir(folder)
    return folder


def find_deletable(name: str, version: str, *, store: Path | None = None) -> Path:
    """Return the folder of a version in the store, also if a killed process left only a part of it.

    Raises:
        DatasetNotFoundError: The store has no such version and no part of it.
    """
    folder = version_dir(name, version, store=store) if is_version(version) else None
    if folder is not None and not folder.exists() and list_remains(folder):
        return folder
    if folder is not None and version in list_incomplete_versions(name, store=store):
        return folder
    return local_version(name, version, store=store)


def local_version(name: str, version: str, *, store: Path | None = None) -> Path:
    """Return the folder of a version in the store; that of an object store need not exist yet.

    Raises:
        DatasetNotFoundError: The store has no such version.
    """
    if store_url(store) is None and is_version(version) and has_manifest(version_dir(name, version, store=store)):
        return version_dir(name, version, store=store)
    local = list_local_versions(name, store=store)
    if version not in local:
        available = f"expected one of {', '.join(local)}" if local else "the store has no version of it"
        msg = f"{name} has no version {version} in {describe_store(store)}: {available}. Look: rlhive list"
        raise DatasetNotFoundError(msg)
    return local[version]


def _read_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a version; None if its manifest is unreadable."""
    from rlhive.data.versions import Manifest  # imports NumPy and Arrow, which a list of versions does not need

    try:
        return Manifest.read(folder).fingerprint
    except RLHiveError:
        return None


def _has_fingerprint(folder: Path, fingerprint: str | None) -> bool:
    """Return whether a version has a fingerprint; a manifest that does not name it is not parsed."""
    try:
        if str(fingerprint).encode() not in (folder / MANIFEST_NAME).read_bytes():
            return False
    except OSError:
        return False
    return _read_fingerprint(folder) == fingerprint


def _fetch_or_generate(
    name: str, version: str | None, splits: list[str] | None, local: list[str], *, generate: bool, store: Path | None
) -> Path:
    """Fetch a version that the store does not have from the Hub, or run the recipe that makes it."""
    task = _find_task(name)
    recipe = task.recipe if task is not None else None
    can_generate = recipe is not None and version in (None, recipe.version)
    repo_id = "/".join(parse_name(name))
    remote: dict[str, str] = {}
    try:
        remote = hub.list_versions(repo_id)
    except HubUnreachableError as error:
        if task is None or not can_generate:
            msg = f"{error} {_describe_store_content(name, local, store)}"
            raise HubUnreachableError(msg) from error
        if not generate:
            msg = (
                f"{error} The store {describe_store(store)} has no version of it. Make one: rlhive collect {task.name}"
            )
            raise HubUnreachableError(msg) from error
        logger.warning("%s", error)
    if remote and version in (None, *remote):
        number = version or list(remote)[-1]
        return hub.fetch_version(repo_id, number, remote[number], splits=splits, store=store)
    if task is None or recipe is None or not can_generate:
        raise DatasetNotFoundError(_describe_missing(name, version, [*local, *remote], task, store))
    if not generate:
        msg = (
            f"{name}: expected a version in the store {describe_store(store)} or on the Hub, got none. "
            f"Make it: rlhive collect {task.name}"
        )
        raise DatasetNotFoundError(msg)
    logger.warning(
        "%s is neither in the store nor on the Hub: running its recipe, %d episodes in %s",
        name,
        recipe.num_episodes,
        task.env_name,
    )
    from rlhive.rollouts import collect  # imports torch, which finding a local version does not need

    return collect(task, store=store)


def _find_revision(
    name: str, revision: str, version: str | None, splits: list[str] | None, *, store: Path | None
) -> Path:
    """Return the folder of the version at a revision; a local version of that commit needs no network access."""
    repo_id = "/".join(parse_name(name))
    local = list_local_versions(name, store=store)
    for number, path in local.items():
        pin = hub.HubPin.read(path)
        # A version's tag is never moved, so it identifies the content as the commit does.
        if pin is not None and pin.repo_id == repo_id and revision in (pin.commit, f"v{number}"):
            return path
    return hub.fetch_version(repo_id, version, hub.resolve_revision(repo_id, revision), splits=splits, store=store)


def _find_task(name: str) -> Task | None:
    """Return the catalogue's task of a dataset name; None if there is none."""
    namespace, task_name = parse_name(name)
    return catalogue().get(task_name) if namespace == DEFAULT_NAMESPACE else None


def _describe_missing(
    name: str, version: str | None, available: list[str], task: Task | None, store: Path | None
) -> str:
    """Return the error message for a dataset or version that does not exist."""
    recipe_versions = [task.recipe.version] if task is not None and task.recipe is not None else []
    numbers = sorted({*available, *recipe_versions}, key=parse_version)
    if numbers:
        return f"{name} has no version {version}: expected one of {', '.join(numbers)}."
    nearest = _find_nearest(name, store) or sorted(catalogue())
    return (
        f"No dataset named {name!r}: it is not in the store {describe_store(store)}, not on the Hub, and not in "
        f"the catalogue. Nearest: {', '.join(nearest)}. List all: rlhive list"
    )


def _describe_store_content(name: str, versions: list[str], store: Path | None) -> str:
    """Return what the store has of a dataset that the Hub was asked for in vain."""
    if versions:
        return f"The store {describe_store(store)} has {', '.join(versions)} of it."
    nearest = _find_nearest(name, store)
    similar = f" Nearest: {', '.join(nearest)}." if nearest else ""
    return f"The store {describe_store(store)} has no version of it.{similar} List all: rlhive list"


def _find_nearest(name: str, store: Path | None) -> list[str]:
    local = [other.removeprefix(f"{DEFAULT_NAMESPACE}/") for other in list_local_datasets(store=store)]
    names = list(dict.fromkeys([*catalogue(), *local]))
    return difflib.get_close_matches(name, names, n=3, cutoff=0.4)
