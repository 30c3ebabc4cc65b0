"""A version in the local store → the Hub: one commit with its files, then a tag that is never moved.

::

    check every file ──► repository there? ─► tag there? ─► commit on top of the head we saw ─► tag v<version>
                         create it            same files: done      somebody else's since: refuse
                                              other files: refuse

Every step can be repeated: what the Hub holds is not sent again, so an interrupted push goes on where it stopped.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from rlhive.data import _store
from rlhive.data.checks import FAILED, CheckReport, run_checks
from rlhive.data.hub._client import bars, translate_errors, with_retries
from rlhive.data.hub._pull import git_blob_hash
from rlhive.data.versions import (
    MANIFEST_NAME,
    PICTURE_PATH,
    FileEntry,
    Manifest,
    compute_sha256,
    read_certificate,
    read_episodes,
    render_card,
)
from rlhive.errors import (
    CheckFailed,
    CorruptDataset,
    DatasetExists,
    DatasetNotFound,
    HubConflict,
    HubRefused,
    InvalidName,
)

CARD_NAME = "README.md"
#: Folders of a repository that belong to RLHive: what the new version does not have there is deleted.
OWN_FOLDERS = ("data/", "meta/")


@dataclass(frozen=True)
class PublishedVersion:
    """A version on the Hub.

    Attributes:
        repo_id: ``namespace/name``.
        version: MAJOR.MINOR.PATCH.
        commit: The commit that the tag ``v<version>`` names.
        url: Its page.
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
    check: Callable[[Path], CheckReport] = run_checks,
    progress: bool = True,
) -> PublishedVersion:
    """Publish a version under the tag ``v<version>``.

    Files that the Hub holds already are not sent again, so a second version sends what changed, and a push that was
    interrupted goes on. A version that is there with the same files is left as it is.

    Args:
        folder: The version's folder; all of its files are checked first.
        repo_id: ``namespace/name``; the card and the manifest on the Hub carry this name.
        private: Whether a new repository is private; an existing one that is public is then refused.
        license: Licence to publish under, where the repository's name is not the version's own.
        check: Looks for what must not be published; by default at the files alone, see :mod:`rlhive.data.checks`.
        progress: Whether to show the Hub's progress bars.

    Raises:
        CorruptDataset: A file is not what the manifest recorded.
        CheckFailed: The content fails a check.
        DatasetExists: The Hub has another content under that version; a tag is never moved.
        HubConflict: Somebody else committed meanwhile.
        HubAccessDenied: No token, or one that may not write.
        HubRefused: The repository is public and ``private`` was asked for, or the Hub gives another reason.
        HubUnreachable: Nobody answered.
    """
    manifest = Manifest.read(folder)
    _require_sound(check(folder), manifest)
    repo_id = _whole(repo_id)
    tag = f"v{manifest.version}"
    with _staged(Path(folder), manifest, repo_id, license) as files, bars(progress):
        _require_no_token(files)
        message, otherwise = f"Version {manifest.version}", "Choose another version."
        return _place(repo_id, files, tag, manifest.version, private=private, message=message, otherwise=otherwise)


def push_folder(
    folder: Path, repo_id: str, *, version: str, tag: str, private: bool = False, progress: bool = True
) -> PublishedVersion:
    """Publish a dataset in another library's format, with all that its folder holds, under the tag of that format.

    Args:
        folder: The dataset, as :func:`rlhive.data.formats.export_to` wrote it.
        repo_id: ``namespace/name``; a repository of its own, since a format's tag names one content.
        version: Of the dataset that it was made from, for the commit's message.
        tag: What the other library looks for, ``v3.0`` for LeRobot.
        private: Whether a new repository is private; an existing one that is public is then refused.
        progress: Whether to show the Hub's progress bars.

    Raises:
        DatasetExists: The repository has that tag with another content; a tag is never moved.
        HubConflict, HubAccessDenied, HubRefused, HubUnreachable: As for :func:`push`.
    """
    repo_id = _whole(repo_id)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    message, otherwise = f"Version {version}, as {tag}", "Push to a repository of its own, or delete the tag there."
    with bars(progress):
        return _place(repo_id, files, tag, version, private=private, message=message, otherwise=otherwise)


def _place(
    repo_id: str, files: Mapping[str, Path], tag: str, version: str, *, private: bool, message: str, otherwise: str
) -> PublishedVersion:
    """Bring files under a tag; where it names others, refuse and say what to do otherwise."""
    head, tags = _refs(repo_id)
    if head is None:
        head = _create(repo_id, private=private)
    elif private:
        _require_private(repo_id)
    commit = tags.get(tag) or _tag(repo_id, tag, _commit(repo_id, files, head, message=message))
    if not _holds(repo_id, commit, files):
        msg = (
            f"{repo_id}: the Hub has other files there (tag {tag} names commit {commit[:12]}), and a tag is never "
            f"moved. {otherwise}"
        )
        raise DatasetExists(msg)
    return PublishedVersion(repo_id, version, commit, f"{constants.ENDPOINT}/datasets/{repo_id}/tree/{tag}")


def _require_no_token(files: Mapping[str, Path]) -> None:
    """Refuse to publish a secret: a command line, which holds anything, is part of the provenance."""
    token = get_token()
    for path in (MANIFEST_NAME, CARD_NAME):
        if token and token in files[path].read_text(encoding="utf-8"):
            msg = f"{path}: expected no secret, it quotes your Hub token. Revoke the token, and make the version again."
            raise CheckFailed(msg)


def _require_sound(report: CheckReport, manifest: Manifest) -> None:
    for outcome in report.results.values():
        if outcome.status == FAILED:
            if outcome.name in ("manifest", "files", "pages"):
                raise CorruptDataset(outcome.findings[0])
            msg = (
                f"{manifest.name} {manifest.version} is not published: expected no failed check, got {outcome.name!r}: "
                f"{outcome.findings[0]} See all of them: rlhive check {manifest.name} --version {manifest.version}"
            )
            raise CheckFailed(msg)


def _whole(repo_id: str) -> str:
    """Return the name of a repository; the namespace that a local name may leave out is nobody's to publish in."""
    if "/" not in repo_id:
        msg = f"{repo_id!r}: expected a repository as org/name, got no org. Write YOUR-NAME/{repo_id}."
        raise InvalidName(msg)
    return "/".join(_store.parse_name(repo_id))


@contextmanager
def _staged(folder: Path, manifest: Manifest, repo_id: str, license: str | None) -> Iterator[Mapping[str, Path]]:
    """Yield the files to publish by their path in the repository.

    Under the version's own name they are its files. Under another name, card and manifest say the new one.
    """
    names = [entry.path for entry in manifest.files]
    files = {name: folder / name for name in (*names, MANIFEST_NAME)}
    license = license or manifest.license
    if repo_id == manifest.name:
        if license != manifest.license:
            msg = (
                f"{repo_id} {manifest.version}: expected its licence {manifest.license}, got {license}. "
                "Make a new PATCH version with the other licence, and push that."
            )
            raise DatasetExists(msg)
        yield files
        return
    renamed = replace(manifest, name=repo_id, license=license)
    with tempfile.TemporaryDirectory(prefix="rlhive-push-") as name:
        card = Path(name) / CARD_NAME
        picture = PICTURE_PATH if PICTURE_PATH in names else ""
        said = str(read_certificate(manifest.fingerprint) or "")
        returns = _returns(folder, manifest)
        card.write_text(render_card(renamed, returns, picture=picture, certificate=said), encoding="utf-8")
        entry = FileEntry(CARD_NAME, compute_sha256(card), card.stat().st_size)
        others = tuple(other for other in manifest.files if other.path != CARD_NAME)
        replace(renamed, files=(*others, entry)).write(Path(name))
        yield files | {CARD_NAME: card, MANIFEST_NAME: Path(name) / MANIFEST_NAME}


def _returns(folder: Path, manifest: Manifest) -> dict[str, tuple[float, float]]:
    """Mean return and success rate of each split."""
    rows = read_episodes(folder, manifest).select(["split", "return", "success"]).to_pylist()
    found = {}
    for split in manifest.splits:
        own = [row for row in rows if row["split"] == split]
        count = max(len(own), 1)
        found[split] = (sum(row["return"] for row in own) / count, sum(row["success"] for row in own) / count)
    return found


def _refs(repo_id: str) -> tuple[str | None, dict[str, str]]:
    """Return the head of main, None without a repository, and the commit of every tag."""
    try:
        with translate_errors(repo_id, "its tags"):
            refs = with_retries(HfApi().list_repo_refs, repo_id, repo_type="dataset")
    except DatasetNotFound:
        return None, {}
    head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
    return head, {tag.name: tag.target_commit for tag in refs.tags}


def _create(repo_id: str, *, private: bool) -> str:
    with translate_errors(repo_id, "creating it"):
        with_retries(HfApi().create_repo, repo_id, repo_type="dataset", private=private, exist_ok=True)
    head, _ = _refs(repo_id)
    if head is None:
        msg = f"{repo_id}: expected a commit on main after creating it, got none. Look at it on the Hub."
        raise HubRefused(msg)
    return head


def _require_private(repo_id: str) -> None:
    with translate_errors(repo_id, "its visibility"):
        found = with_retries(HfApi().repo_info, repo_id, repo_type="dataset").private
    if not found:
        msg = f"{repo_id}: expected a private repository, it is public. Make it private on the Hub, or choose another."
        raise HubRefused(msg)


def _commit(repo_id: str, files: Mapping[str, Path], head: str, *, message: str) -> str:
    """Put the files on main on top of ``head``; return the commit that holds them."""
    there = _hashes(repo_id, head)
    changed = [path for path, file in files.items() if not _is(file, there.get(path))]
    gone = [path for path in there if path.startswith(OWN_FOLDERS) and path not in files]
    operations = [CommitOperationAdd(path, str(files[path])) for path in changed]
    operations += [CommitOperationDelete(path, is_folder=False) for path in gone]
    if not operations:
        return head
    try:
        with translate_errors(repo_id, "the commit"):
            # May be sent twice: a second one has another parent than the first, and is refused.
            made = with_retries(
                HfApi().create_commit,
                repo_id,
                operations,
                repo_type="dataset",
                commit_message=message,
                parent_commit=head,
            )
        return made.oid
    except HubConflict:
        now, _ = _refs(repo_id)
        if now is not None and _holds(repo_id, now, files):  # our own, whose answer was lost; or another's, the same
            return now
        raise


def _tag(repo_id: str, tag: str, commit: str) -> str:
    """Tag a commit; return the commit that the tag names, another one's where somebody was faster."""
    with translate_errors(repo_id, f"tag {tag}"):
        try:
            with_retries(HfApi().create_tag, repo_id, repo_type="dataset", tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            return _refs(repo_id)[1][tag]
    return commit


def _holds(repo_id: str, commit: str, files: Mapping[str, Path]) -> bool:
    """Whether a commit has exactly these files in RLHive's folders and the card and manifest beside them."""
    there = _hashes(repo_id, commit)
    own = {path for path in there if path.startswith(OWN_FOLDERS)}
    return own <= files.keys() and all(_is(file, there.get(path)) for path, file in files.items())


def _hashes(repo_id: str, commit: str) -> dict[str, str]:
    """Return what the Hub knows every file of a commit by: SHA-256 of a large one, git's hash of a small one."""

    def listing() -> list[RepoFile]:
        tree = HfApi().list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
        return [item for item in tree if isinstance(item, RepoFile)]

    with translate_errors(repo_id, f"commit {commit[:12]}"):
        return {item.path: item.lfs.sha256 if item.lfs else item.blob_id for item in with_retries(listing)}


def _is(file: Path, known: str | None) -> bool:
    """Whether a file has the hash that the Hub knows; git's are of small files only."""
    if known is None:
        return False
    return known == (compute_sha256(file) if len(known) == 64 else git_blob_hash(file.read_bytes()))
