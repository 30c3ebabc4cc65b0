"""Versions on the Hugging Face Hub, read: which there are, and how one comes into the local store. Opens no data file.

A version is the git tag ``v<version>`` of a dataset repository. A tag is resolved to a commit first and everything
is fetched from that commit, since tags can be moved and `datasets.load_dataset` silently serves another revision when
the Hub does not answer. The commit is kept beside the files, as the pin::

    <store>/<namespace>/<name>/<version>/
      rlhive.json     the whole manifest, README.md, meta/episodes.parquet
      data/…          the shards that somebody asked for; the others come from the pinned commit when they are needed
      .hub.json       the pin: repository and commit
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, get_session, snapshot_download
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from rlhive.data import _store
from rlhive.data.hub._client import bars, translate_errors, with_retries
from rlhive.data.versions import MANIFEST_NAME, FileEntry, Manifest, compute_sha256
from rlhive.errors import CorruptDataset, DatasetExists, DatasetNotFound, HubUnreachable

PIN_NAME = ".hub.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPin:
    """Where the files of a local version come from.

    Attributes:
        repo_id: ``namespace/name`` on the Hub.
        commit: The 40 hexadecimal digits of the commit.
    """

    repo_id: str
    commit: str

    @classmethod
    def read(cls, folder: Path) -> "HubPin | None":
        """Return the pin of a version's folder; None where the version was made here."""
        try:
            row = json.loads((Path(folder) / PIN_NAME).read_text(encoding="utf-8"))
            pin = cls(str(row["repo_id"]), str(row["commit"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pin if _COMMIT.fullmatch(pin.commit) else None

    @property
    def url(self) -> str:
        """Page of the commit."""
        return f"{constants.ENDPOINT}/datasets/{self.repo_id}/tree/{self.commit}"

    def write(self, folder: Path) -> None:
        """Keep the pin in a version's folder."""
        _store.write_atomically(Path(folder) / PIN_NAME, json.dumps(asdict(self)).encode())


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every request."""
    return bool(constants.HF_HUB_OFFLINE)


def list_versions(repo_id: str) -> dict[str, str]:
    """Return the versions of a dataset on the Hub and the commit of each, oldest first.

    One request, repeated with back-off while the Hub is busy. No such repository, or HF_HUB_OFFLINE: an empty dict.

    Args:
        repo_id: ``namespace/name``.

    Returns:
        Commit sha by version, for example ``{"1.0.0": "0f3c…"}``.

    Raises:
        HubUnreachable: Nobody answered.
        HubAccessDenied: The token is not valid.
    """
    if is_offline():
        return {}
    try:
        with translate_errors(repo_id, "its versions"):
            refs = with_retries(HfApi().list_repo_refs, repo_id, repo_type="dataset")
    except DatasetNotFound:
        return {}
    tags = {tag.name.removeprefix("v"): tag.target_commit for tag in refs.tags if tag.name.startswith("v")}
    found = {version: commit for version, commit in tags.items() if _store.is_version(version)}
    return {version: found[version] for version in sorted(found, key=_store.parse_version)}


def list_datasets(namespace: str | None = None) -> dict[str, str]:
    """Return the RLHive datasets on the Hub that the token may see, with the day of their last change.

    Args:
        namespace: Only those of a user or organization.

    Raises:
        HubUnreachable, HubAccessDenied: As for :func:`list_versions`.
    """
    with translate_errors(namespace or "All datasets", "their list"):
        with_retries(_probe)
        found = list(HfApi().list_datasets(filter="rlhive", author=namespace))
    return {item.id: f"{item.last_modified:%Y-%m-%d}" if item.last_modified else "" for item in found}


def _probe() -> None:
    """Ask whether anybody is there: the client repeats a page of a list for half a minute, with two lines each time."""
    answer = get_session().get(f"{constants.ENDPOINT}/api/datasets", params={"limit": 1}, headers=build_hf_headers())
    hf_raise_for_status(answer)


def resolve_revision(repo_id: str, revision: str) -> str:
    """Return the commit that a tag, a branch or a commit names now.

    Raises:
        DatasetNotFound: No such repository or revision.
        HubUnreachable, HubAccessDenied: As for :func:`list_versions`; offline, only a whole commit sha is known.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    with translate_errors(repo_id, f"revision {revision}"):
        return with_retries(HfApi().repo_info, repo_id, repo_type="dataset", revision=revision).sha


def fetch_version(
    repo_id: str,
    version: str | None,
    commit: str,
    *,
    splits: Iterable[str] | None = None,
    store: Path | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a version into the local store, verified; it appears complete or not at all.

    An interrupted call goes on where it stopped: finished files lie in the Hub's own cache (HF_HOME).

    Args:
        repo_id: ``namespace/name``.
        version: Its version; None for whatever version the commit holds.
        commit: The commit that :func:`list_versions` named.
        splits: Fetch the shards of these only; all by default, none for ``()``. The rest comes when it is asked for.
        store: Folder of all datasets.
        progress: Whether to show the Hub's progress bars.

    Returns:
        The version's folder.

    Raises:
        DatasetNotFound: The commit holds no RLHive version.
        CorruptDataset: What came is another version, or a file's hash is not the manifest's.
        DatasetExists: The store holds something else under that version's name.
        HubUnreachable, HubAccessDenied: As for :func:`list_versions`.
    """
    pin = HubPin(repo_id, commit)
    manifest = fetch_manifest(pin)
    if version not in (None, manifest.version):
        msg = f"{repo_id}@v{version}: expected that version, got {manifest.version}. Tell the dataset's owner."
        raise CorruptDataset(msg)
    target = _store.version_dir(repo_id, manifest.version, store=store)
    entries = [entry for entry in manifest.files if not entry.split or splits is None or entry.split in splits]
    if not target.exists():
        _download(pin, [entry.path for entry in entries], progress=progress)
    try:
        with _store.atomic_dir(target) as partial:
            _place(pin, entries, partial, progress=False)
            pin.write(partial)
            _link(_download(pin, [MANIFEST_NAME], progress=False) / MANIFEST_NAME, partial / MANIFEST_NAME)
    except DatasetExists:
        _require_same(target, manifest, pin)
        fetch_missing_files(target, manifest, entries, progress=progress)
    return target


def fetch_manifest(pin: HubPin) -> Manifest:
    """Return the manifest of a commit, checked against the hash that git keeps of it.

    Raises:
        DatasetNotFound: The commit holds no RLHive version.
        CorruptDataset: What came has another hash, twice.
    """
    for again in (False, True):
        folder = _download(pin, [MANIFEST_NAME], progress=False, again=again)
        tree = get_cached_repo_tree(pin.repo_id, repo_type="dataset", revision=pin.commit)
        known = next((file.blob_id for file in tree if file.path == MANIFEST_NAME and file.lfs is None), None)
        if known in (None, git_blob_hash((folder / MANIFEST_NAME).read_bytes())):
            return Manifest.read(folder)
    msg = (
        f"{pin.repo_id}@{pin.commit[:12]}, {MANIFEST_NAME}: expected git hash {known}, got another twice. "
        "Try again later."
    )
    raise CorruptDataset(msg)


def git_blob_hash(content: bytes) -> str:
    """Return the hash under which git keeps a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch_missing_files(
    folder: Path, manifest: Manifest, entries: Iterable[FileEntry], *, progress: bool = True
) -> None:
    """Fetch those files of a local version that were not pulled with it. No network where all are there.

    Args:
        folder: The version's folder.
        manifest: Its manifest.
        entries: The files that are needed.
        progress: Whether to show the Hub's progress bars.

    Raises:
        HubUnreachable: They are needed and the Hub does not answer, or HF_HUB_OFFLINE is set.
        CorruptDataset: What came has another hash.
    """
    folder = Path(folder)
    missing = [entry for entry in entries if not (folder / entry.path).is_file()]
    pin = HubPin.read(folder)
    if not missing or pin is None:
        return
    if is_offline():
        msg = (
            f"{folder} lacks {missing[0].path} ({len(missing)} files), which was never pulled, and HF_HUB_OFFLINE "
            f"forbids fetching it. Ask for a split that is there, or run online: rlhive pull {pin.repo_id} "
            f"--version {manifest.version}"
        )
        raise HubUnreachable(msg)
    with _store.locked(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        _place(pin, missing, Path(name), progress=progress)
        for entry in missing:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / entry.path).replace(folder / entry.path)


def require_tag_unmoved(folder: Path, version: str, commit: str) -> None:
    """Check that a version's tag still names the commit that the local copy came from.

    Raises:
        CorruptDataset: The tag was moved since; the local copy is untouched.
    """
    pin = HubPin.read(folder)
    if pin is not None and pin.commit != commit:
        msg = (
            f"{pin.repo_id}: tag v{version} was moved: expected commit {pin.commit[:12]}, which the copy in {folder} "
            f"came from, got {commit[:12]}. Keep your copy and ask the dataset's owner why."
        )
        raise CorruptDataset(msg)


def _download(pin: HubPin, paths: list[str], *, progress: bool, again: bool = False) -> Path:
    """Fetch files of a commit into the Hub's own cache and return the snapshot's folder."""
    with translate_errors(pin.repo_id, f"commit {pin.commit[:12]}"), bars(progress):
        folder = with_retries(
            snapshot_download,
            pin.repo_id,
            repo_type="dataset",
            revision=pin.commit,
            allow_patterns=[_literal(path) for path in paths],
            force_download=again,
        )
    for path in paths:
        if not (Path(folder) / path).is_file():
            msg = f"{pin.repo_id}@{pin.commit[:12]}: expected the file {path}, the Hub has none. Tell its owner."
            raise DatasetNotFound(msg)
    return Path(folder)


def _place(pin: HubPin, entries: Iterable[FileEntry], target: Path, *, progress: bool) -> None:
    """Put files of a commit into a folder and verify them; what came damaged is fetched a second time."""
    entries = list(entries)
    snapshot = _download(pin, [entry.path for entry in entries], progress=progress)
    for attempt in ("first", "second"):
        for entry in entries:
            _link(snapshot / entry.path, target / entry.path)
        damaged = [entry for entry in entries if not _is_sound(target / entry.path, entry)]
        if not damaged:
            return
        if attempt == "first":
            _download(pin, [entry.path for entry in damaged], progress=progress, again=True)
            entries = damaged
    bad = damaged[0]
    msg = (
        f"{pin.repo_id}@{pin.commit[:12]}, {bad.path}: expected SHA-256 {bad.sha256}, got "
        f"{compute_sha256(target / bad.path)} twice. Nothing was kept; tell the dataset's owner if it happens again."
    )
    raise CorruptDataset(msg)


def _link(source: Path, target: Path) -> None:
    """Share a file with the Hub's cache, which never writes into one; copy it where it lies on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _is_sound(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.bytes and compute_sha256(path) == entry.sha256


def _literal(path: str) -> str:
    """A path as a pattern that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _require_same(target: Path, manifest: Manifest, pin: HubPin) -> None:
    """Refuse to mix two different things under one version."""
    there = Manifest.read(target)
    if there.fingerprint != manifest.fingerprint:
        msg = (
            f"{target} holds fingerprint {there.fingerprint[:16]}, expected {manifest.fingerprint[:16]} of "
            f"{pin.repo_id}@{pin.commit[:12]}. Keep one of them: rlhive delete, or set {_store.STORE_VARIABLE}"
        )
        raise DatasetExists(msg)
