"""Upload of versions to the Hugging Face Hub: one commit with the files, then a tag that is never moved.

::

    check every file ──► repository? ──► tag? ──────────────► commit on top of the head ─────► tag v<version>
                         no: create it   same files: done     somebody committed meanwhile:
                                         other files: refuse  refuse

Every step can be repeated. Files that the Hub already has are not sent again, so an interrupted push continues where it
stopped.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from rlhive.data import _store
from rlhive.data.checks import FAILED, CheckReport, run_checks
from rlhive.data.hub._client import progress_bars, translate_errors, with_retries
from rlhive.data.hub._guard import guarded
from rlhive.data.hub._history import require_same_history
from rlhive.data.hub._inspection import describe_files, describe_provenance, require_no_secret
from rlhive.data.hub._pull import git_blob_hash
from rlhive.data.hub._refs import read_refs, require_commit
from rlhive.data.hub._staging import stage_files
from rlhive.data.release import RELEASE_FILES
from rlhive.data.versions import Manifest, compute_sha256
from rlhive.errors import (
    CheckFailedError,
    CorruptDatasetError,
    DatasetExistsError,
    HubConflictError,
    HubRefusedError,
    InvalidNameError,
)

logger = logging.getLogger(__name__)

#: Folders of a repository that RLHive manages: a push deletes their files that the new version does not have.
MANAGED_FOLDERS = ("data/", "meta/", "videos/")

_SCRUB = (
    "Revoke the secret. Then make a version without it (rlhive scrub {name} --version {version}; drop_column() for a "
    "column of the data), and push that."
)


@dataclass(frozen=True)
class PublishedVersion:
    """A version on the Hub.

    Attributes:
        repo_id: ``namespace/name``.
        version: MAJOR.MINOR.PATCH.
        commit: Commit of the tag ``v<version>``.
        url: Address of the version's page.
    """

    repo_id: str
    version: str
    commit: str
    url: str


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    unrelated: bool = False,
    check: Callable[[Path], CheckReport] = run_checks,
    progress: bool = True,
) -> PublishedVersion:
    """Publish a version under the tag ``v<version>``, with its release if there is one.

    Files that the Hub already has are not sent again. So a new version sends only what changed, an interrupted push
    can be repeated, and pushing a published version again changes nothing.

    Args:
        folder: The version's folder; all of its files are checked first.
        repo_id: ``namespace/name``. The card and the manifest on the Hub have this name.
        private: Whether a new repository is private. An existing public repository is then refused.
        license: Licence on the Hub, which may differ from the version's if the repository has another name.
        unrelated: Whether to publish into a repository whose newest version has another history; see
            :func:`require_same_history`.
        check: Function that checks the version; by default :func:`rlhive.data.checks.run_checks`, without rewards.
        progress: Whether to show the Hub client's progress bars.

    Raises:
        CorruptDatasetError: A file is not what the manifest recorded.
        CheckFailedError: The content fails a check, or a file holds a secret: a token of a known form, the Hub's token,
            or a secret of this environment.
        DatasetExistsError: The Hub has that version with other content; a tag is never moved. Or the repository holds
            another dataset.
        HubConflictError: Somebody else committed meanwhile.
        HubAccessDeniedError: There is no token, or it may not write.
        HubRefusedError: The repository is public although ``private`` is set, or the Hub gives another reason.
        HubUnreachableError: The Hub did not answer.
    """
    manifest = Manifest.read(folder)
    _require_no_failure(check(folder), manifest)
    repo_id = _require_namespace(repo_id)
    with stage_files(Path(folder), manifest, repo_id, license) as (files, release), progress_bars(progress):
        next_step = _SCRUB.format(name=manifest.name, version=manifest.version)
        require_no_secret({**files, **release}, next_step=next_step)
        logger.warning("%s %s publishes: %s", repo_id, manifest.version, describe_provenance(manifest, Path(folder)))
        if not unrelated:
            require_same_history(repo_id, Path(folder), manifest)
        commit = _commit_and_tag(
            repo_id,
            files,
            f"v{manifest.version}",
            private=private,
            message=f"Version {manifest.version}",
            next_step="Choose another version.",
            release=release,
        )
        if release:
            _update_release(repo_id, commit, files, release, manifest.version)
    return _describe_published(repo_id, manifest.version, commit, f"v{manifest.version}")


def push_folder(
    folder: Path, repo_id: str, *, version: str, tag: str, private: bool = False, progress: bool = True
) -> PublishedVersion:
    """Publish a dataset in another library's format under the tag that the library expects.

    Args:
        folder: Folder of the dataset, as :func:`rlhive.data.formats.export_to` wrote it. All files are published.
        repo_id: ``namespace/name`` of a repository for this format only, since its tag refers to one content.
        version: Version of the dataset that was exported, for the commit message.
        tag: Tag that the other library expects, ``v3.0`` for LeRobot.
        private: Whether a new repository is private. An existing public repository is then refused.
        progress: Whether to show the Hub client's progress bars.

    Raises:
        CheckFailedError: A file holds a secret, as for :func:`push`.
        DatasetExistsError: The repository has that tag with other content; a tag is never moved.
        HubConflictError, HubAccessDeniedError, HubRefusedError, HubUnreachableError: As for :func:`push`.
    """
    repo_id = _require_namespace(repo_id)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    require_no_secret(files, next_step="Revoke the secret, and export a version without it.")
    logger.warning("%s %s publishes: %s", repo_id, tag, describe_files(files))
    with progress_bars(progress):
        commit = _commit_and_tag(
            repo_id,
            files,
            tag,
            private=private,
            message=f"Version {version}, as {tag}",
            next_step="Push to a repository of its own, or delete the tag on the Hub.",
        )
    return _describe_published(repo_id, version, commit, tag)


def _describe_published(repo_id: str, version: str, commit: str, tag: str) -> PublishedVersion:
    return PublishedVersion(repo_id, version, commit, f"{constants.ENDPOINT}/datasets/{repo_id}/tree/{tag}")


def _commit_and_tag(
    repo_id: str,
    files: Mapping[str, Path],
    tag: str,
    *,
    private: bool,
    message: str,
    next_step: str,
    release: Mapping[str, Path] | None = None,
) -> str:
    """Commit and tag files, and return the tag's commit. A tag that exists must have the same files.

    Args:
        repo_id: ``namespace/name``.
        files: Local files by path in the repository.
        tag: Name of the tag.
        private: Whether a new repository is private, and an existing one must be.
        message: Commit message.
        next_step: What the user can do if the tag has other files, for the error message.
        release: Further files of a new tag, which one that exists may lack.
    """
    head, tags = read_refs(repo_id)
    if head is None:
        head = _create_repository(repo_id, private=private)
    elif private:
        _require_private(repo_id)
    commit = tags.get(tag)
    if commit is None:
        all_files = {**files, **(release or {})}
        commit = _create_tag(repo_id, tag, _commit_files(repo_id, all_files, head, message=message))
    if not _has_same_files(repo_id, commit, files):
        msg = (
            f"{repo_id}: tag {tag} (commit {commit[:12]}) has other files on the Hub, and a tag is never moved. "
            f"{next_step}"
        )
        raise DatasetExistsError(msg)
    return commit


def _update_release(
    repo_id: str, commit: str, files: Mapping[str, Path], release: Mapping[str, Path], version: str
) -> None:
    """Commit a release that the version's tag lacks to the main branch, if that holds the version; no tag is moved."""
    head, _ = read_refs(repo_id)
    for known in dict.fromkeys([commit, head]):
        hashes = _read_hashes(repo_id, known) if known is not None else {}
        if all(_has_hash(file, hashes.get(path)) for path, file in release.items()):
            return
    if head is not None and _has_same_files(repo_id, head, files):
        _commit_files(repo_id, {**files, **release}, head, message=f"Release {version}")
        return
    logger.warning(
        "%s %s was published before without this release, and a tag is never moved; the main branch holds another "
        "version. Release and push the newest version.",
        repo_id,
        version,
    )


def _require_no_failure(report: CheckReport, manifest: Manifest) -> None:
    """Raise CorruptDatasetError or CheckFailedError for the first failed check of a report."""
    failed = next((result for result in report.results.values() if result.status == FAILED), None)
    if failed is None:
        return
    if failed.name in ("manifest", "files", "pages"):
        raise CorruptDatasetError(failed.findings[0])
    msg = (
        f"{manifest.name} {manifest.version} is not published: expected no failed check, got {failed.name!r}: "
        f"{failed.findings[0]} See all findings: rlhive check {manifest.name} --version {manifest.version}"
    )
    raise CheckFailedError(msg)


def _require_namespace(repo_id: str) -> str:
    """Return the id of a repository to publish to. The default namespace of local names is not assumed."""
    if "/" not in repo_id:
        msg = f"{repo_id!r}: expected a repository as org/name, got no org. Write YOUR-NAME/{repo_id}."
        raise InvalidNameError(msg)
    return "/".join(_store.parse_name(repo_id))


def _create_repository(repo_id: str, *, private: bool) -> str:
    """Create a repository and return the commit of its main branch."""
    with translate_errors(repo_id, "creating it"):
        with_retries(HfApi().create_repo, repo_id, repo_type="dataset", private=private, exist_ok=True)
    head, _ = read_refs(repo_id)
    if head is None:
        msg = f"{repo_id}: expected a commit on main after creating the repository, got none. Look at it on the Hub."
        raise HubRefusedError(msg)
    return head


def _require_private(repo_id: str) -> None:
    with translate_errors(repo_id, "its visibility"):
        is_private = with_retries(HfApi().dataset_info, repo_id).private
    if not is_private:
        msg = f"{repo_id}: expected a private repository, it is public. Make it private on the Hub, or use another one."
        raise HubRefusedError(msg)


def _commit_files(repo_id: str, files: Mapping[str, Path], head: str, *, message: str) -> str:
    """Commit the files to the main branch on top of ``head``; return the commit, ``head`` itself without a change."""
    hashes = _read_hashes(repo_id, head)
    changed = [path for path, file in files.items() if not _has_hash(file, hashes.get(path))]
    managed = [path for path in hashes if path.startswith(MANAGED_FOLDERS)]
    if hashes.keys() >= set(RELEASE_FILES):  # of an earlier version; a single such file may be the owner's
        managed.extend(RELEASE_FILES)
    deleted = [path for path in managed if path not in files]
    operations: list[CommitOperationAdd | CommitOperationDelete | CommitOperationCopy] = [
        *(CommitOperationAdd(path, str(files[path])) for path in changed),
        *(CommitOperationDelete(path, is_folder=False) for path in deleted),
    ]
    if not operations:
        return head
    try:
        sizes = {path: files[path].stat().st_size for path in changed}
        with translate_errors(repo_id, "the commit"), guarded(sizes, is_upload=True):
            # May be sent twice: a repeated commit has another parent than the first one, and is refused.
            commit = with_retries(
                HfApi().create_commit,
                repo_id,
                operations,
                repo_type="dataset",
                commit_message=message,
                parent_commit=head,
            )
        return require_commit(commit.oid, repo_id, "the commit")
    except HubConflictError:
        new_head, _ = read_refs(repo_id)
        # Our own commit, whose answer was lost, or an equal one by somebody else.
        if new_head is not None and _has_same_files(repo_id, new_head, files):
            return new_head
        raise


def _create_tag(repo_id: str, tag: str, commit: str) -> str:
    """Tag a commit; return the tag's commit, which is another one if somebody else created the tag first."""
    with translate_errors(repo_id, f"tag {tag}"):
        try:
            with_retries(HfApi().create_tag, repo_id, repo_type="dataset", tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            _, tags = read_refs(repo_id)
            if tag not in tags:
                msg = f"{repo_id}: the Hub says that tag {tag} exists, and does not list it. Push again."
                raise HubConflictError(msg) from error
            return tags[tag]
    return commit


def _has_same_files(repo_id: str, commit: str, files: Mapping[str, Path]) -> bool:
    """Whether a commit has exactly these files in the managed folders, and the other ones outside of them."""
    hashes = _read_hashes(repo_id, commit)
    managed_paths = {path for path in hashes if path.startswith(MANAGED_FOLDERS)}
    return managed_paths <= files.keys() and all(_has_hash(file, hashes.get(path)) for path, file in files.items())


def _read_hashes(repo_id: str, commit: str) -> dict[str, str]:
    """Return the hash of every file of a commit by path: SHA-256 for an LFS file, git's hash for any other."""

    def list_files() -> list[RepoFile]:
        tree = HfApi().list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
        return [item for item in tree if isinstance(item, RepoFile)]

    with translate_errors(repo_id, f"commit {commit[:12]}"):
        hashes = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in with_retries(list_files)}
    if not all(isinstance(text, str) for item in hashes.items() for text in item):
        msg = f"{repo_id}, commit {commit[:12]}: expected paths and hashes, got something else from the Hub."
        raise HubRefusedError(msg)
    return hashes


def _has_hash(file: Path, expected: str | None) -> bool:
    """Whether a file has a hash of the Hub, SHA-256 or git's by its length; False without a hash."""
    if expected is None:
        return False
    return expected == (compute_sha256(file) if len(expected) == 64 else git_blob_hash(file.read_bytes()))
