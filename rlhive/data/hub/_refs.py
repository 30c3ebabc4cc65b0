"""Datasets, versions and revisions on the Hub, and the pin that ties a local version to a commit.

A version is the git tag ``v<version>`` of a dataset repository.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # in its __all__, which is computed

from rlhive._text import printable
from rlhive.data import _store
from rlhive.data.hub._client import translate_errors, with_retries
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._pin import COMMIT, HubPin
from rlhive.errors import CorruptDatasetError, DatasetNotFoundError, HubRefusedError, InvalidNameError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every request."""
    return bool(constants.HF_HUB_OFFLINE)


def read_refs(repo_id: str) -> tuple[str | None, dict[str, str]]:
    """Return the commit of the main branch, None without a repository, and the commit of every tag by its name.

    Raises:
        HubUnreachableError: The Hub did not answer, or HF_HUB_OFFLINE is set.
        HubAccessDeniedError: The token is not valid.
        HubRefusedError: The answer is not one of a Hub, or a commit in it is none.
    """
    try:
        with translate_errors(repo_id, "its tags"):
            refs = with_retries(_make_client().list_repo_refs, repo_id, repo_type="dataset")
    except DatasetNotFoundError:
        return None, {}
    head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
    tags = {tag.name: tag.target_commit for tag in refs.tags if isinstance(tag.name, str)}
    for name, commit in tags.items():
        require_commit(commit, repo_id, f"tag {name}")
    return None if head is None else require_commit(head, repo_id, "branch main"), tags


def require_commit(value: object, repo_id: str, subject: str) -> str:
    """Return a commit of an answer.

    Raises:
        HubRefusedError: It is none. A branch's name, for example, would mean another commit every time.
    """
    if not isinstance(value, str) or not COMMIT.fullmatch(value):
        msg = (
            f"{repo_id}: expected the 40 hexadecimal digits of a commit for {printable(subject)}, got "
            f"{printable(repr(value))[:80]} from the Hub. Try again later, or ask the dataset's owner."
        )
        raise HubRefusedError(msg)
    return value


def list_versions(repo_id: str) -> dict[str, str]:
    """Return the versions of a dataset on the Hub, oldest first.

    The result is empty if there is no such repository, or if HF_HUB_OFFLINE is set. Cost: one request.

    Args:
        repo_id: ``namespace/name``.

    Returns:
        Commit sha by version, for example ``{"1.0.0": "0f3c…"}``.

    Raises:
        HubUnreachableError: The Hub did not answer.
        HubAccessDeniedError: The token is not valid.
    """
    if is_offline():
        return {}
    _, tags = read_refs(repo_id)
    commits = {tag.removeprefix("v"): commit for tag, commit in tags.items() if tag.startswith("v")}
    versions = sorted(filter(_store.is_version, commits), key=_store.parse_version)
    return {version: commits[version] for version in versions}


def list_datasets(namespace: str | None = None) -> dict[str, str]:
    """Return the RLHive datasets on the Hub that the token may see.

    Args:
        namespace: User or organization whose datasets are listed; all by default.

    Returns:
        Date of the last change, ``YYYY-MM-DD``, by ``namespace/name``.

    Raises:
        HubUnreachableError, HubAccessDeniedError: As for :func:`list_versions`.
    """
    with translate_errors(namespace or "All datasets", "their list"), guarded():
        with_retries(_probe)
        datasets = list(_make_client().list_datasets(filter="rlhive", author=namespace))
    days = {item.id: f"{item.last_modified:%Y-%m-%d}" if item.last_modified else "" for item in datasets}
    try:
        return {"/".join(_store.parse_name(name)): day for name, day in days.items()}
    except (InvalidNameError, TypeError, AttributeError) as error:
        msg = f"The list of datasets: expected names, got something else from the Hub: {printable(error)[:200]}"
        raise HubRefusedError(msg) from None


def resolve_revision(repo_id: str, revision: str) -> str:
    """Return the commit that a tag, a branch or a commit sha refers to now.

    Raises:
        DatasetNotFoundError: There is no such repository or revision.
        HubUnreachableError: The Hub did not answer, or HF_HUB_OFFLINE is set and the revision is not a full commit sha.
        HubAccessDeniedError: The token is not valid.
    """
    if COMMIT.fullmatch(revision):
        return revision
    with translate_errors(repo_id, f"revision {revision}"):
        commit = with_retries(_make_client().dataset_info, repo_id, revision=revision).sha
    if commit is None:
        msg = f"{repo_id}: expected a commit for revision {revision}, got none from the Hub."
        raise DatasetNotFoundError(msg)
    return require_commit(commit, repo_id, f"revision {revision}")


def require_tag_unmoved(folder: Path, version: str, commit: str) -> None:
    """Raise if a version's tag does not refer to the commit from which the local copy was pulled.

    Args:
        folder: Folder of the local copy, which is not changed.
        version: Its version.
        commit: Commit of the tag on the Hub.

    Raises:
        CorruptDatasetError: The tag was moved.
    """
    pin = HubPin.read(folder)
    if pin is not None and pin.commit != commit:
        msg = (
            f"{pin.repo_id}: tag v{version} was moved: expected commit {pin.commit[:12]}, from which the copy in "
            f"{folder} was pulled, got {commit[:12]}. Keep your copy and ask the dataset's owner why."
        )
        raise CorruptDatasetError(msg)


def _make_client() -> "HfApi":
    from huggingface_hub import HfApi  # slow to import, and an offline look into the store needs no request

    return HfApi()


def _probe() -> None:
    """Send one request to the Hub, so that a busy or unreachable Hub is noticed before a list is requested.

    The client itself repeats the request of a list for half a minute and logs two lines per attempt.
    """
    url, headers = f"{constants.ENDPOINT}/api/datasets", build_hf_headers()
    hf_raise_for_status(get_session().get(url, params={"limit": 1}, headers=headers))
