"""Writing of a release: rendered into a partial folder beside the version, validated, and renamed."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from rlhive import keys
from rlhive.data import _parquet, _store
from rlhive.data.release._answers import (
    ANSWERS_NAME,
    Answers,
    complete_answers,
    parse_answers,
    read_answers_file,
)
from rlhive.data.release._croissant import render_croissant
from rlhive.data.release._datasheet import render_datasheet
from rlhive.data.release._description import Address
from rlhive.data.release._validation import validate_croissant
from rlhive.data.versions import (
    EPISODES_PATH,
    MANIFEST_NAME,
    Manifest,
    compute_sha256,
    read_episodes,
    verify_files,
)
from rlhive.errors import InvalidOptionError, RLHiveError

logger = logging.getLogger(__name__)

CROISSANT_NAME = "croissant.json"
#: Files that a release adds to those of the version.
RELEASE_FILES = (CROISSANT_NAME, "DATASHEET.md", ANSWERS_NAME, "SHA256SUMS")


def write_release(
    folder: Path, answers: Mapping[str, str] | Path | None = None, *, ask: Callable[[str, str], str] | None = None
) -> Path:
    """Write the release of a version, or replace it. The version's folder is not touched.

    Args:
        folder: Folder of the version, all of whose files exist.
        answers: Answers by their name in QUESTIONS, or the path of a YAML file of them. Those that are missing are
            taken from the release that is replaced, or else from that of an earlier version of the dataset.
        ask: Function of the name of an answer and its question, for what is missing then.

    Returns:
        Folder of the release.

    Raises:
        InvalidOptionError: An answer is missing or no text. Nothing was written.
        CorruptDatasetError: A file is not what the manifest recorded.
        CheckFailedError: mlcroissant finds an error in the description.
        StoreNotWritableError, DiskFullError: The release cannot be written.
    """
    manifest = Manifest.read(folder)
    given = read_answers_file(answers) if isinstance(answers, Path) else parse_answers(answers or {}, context="answers")
    complete = complete_answers(given, _find_earlier_answers(folder, manifest), ask)
    verify_files(folder, manifest.files)
    target = _store.release_dir(folder)
    with _store.replaced_dir(target) as partial:
        for path in (*(entry.path for entry in manifest.files), MANIFEST_NAME):
            _store.link_or_copy(folder / path, partial / path)
        rendered = render_release(partial, manifest, complete, Address.of_manifest(manifest))
        for name, content in rendered.items():
            _store.write_atomically(partial / name, content)
        validate_croissant(partial / CROISSANT_NAME)
    return target


def render_release(
    folder: Path, manifest: Manifest, answers: Answers, address: Address, *, manifest_path: Path | None = None
) -> dict[str, bytes]:
    """Return the content of RELEASE_FILES by name.

    Args:
        folder: Folder with the version's files.
        manifest: Manifest as it is published.
        answers: What a person says about the dataset.
        address: Where the version is published.
        manifest_path: File of that manifest; by default that in the folder.
    """
    read_episodes(folder, manifest, [keys.EPISODE])  # verifies the table and its columns
    episode_schema = _parquet.read_arrow_schema(folder / EPISODES_PATH)
    croissant = render_croissant(manifest, episode_schema, answers, address)
    texts = [croissant, render_datasheet(manifest, answers, address), answers.to_yaml()]
    contents = {name: text.encode() for name, text in zip(RELEASE_FILES, texts, strict=False)}
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    hashes[MANIFEST_NAME] = compute_sha256(manifest_path or folder / MANIFEST_NAME)
    hashes |= {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    sums = "".join(f"{digest}  {path}\n" for path, digest in sorted(hashes.items()))
    return contents | {RELEASE_FILES[-1]: sums.encode()}


def read_released_answers(folder: Path) -> Answers | None:
    """Return the answers in the release of a version; None for a version that was not released.

    Raises:
        InvalidOptionError: The answers are damaged or incomplete.
    """
    path = _store.release_dir(folder) / ANSWERS_NAME
    return complete_answers(read_answers_file(path), {}, None) if path.is_file() else None


def _find_earlier_answers(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the answers of the release that is replaced, or of the newest release of an earlier version."""
    target = _store.release_dir(folder)
    for release in (target, *_store.list_remains(target), *_list_earlier_releases(folder, manifest)):
        path = release / ANSWERS_NAME
        if not path.is_file():
            continue
        try:
            answers = read_answers_file(path)
        except InvalidOptionError as error:
            logger.warning("Answers of an earlier release are left out: %s", error)
            continue
        if release.name != target.name:
            logger.warning("Answers that are not given are those of %s; others: --answers FILE", release)
        return answers
    return {}


def _list_earlier_releases(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the releases of other versions of the dataset that lie beside a version, newest first; earlier ones."""
    number = _store.parse_version(manifest.version)
    releases = []
    for path in folder.parent.glob(f"*{_store.RELEASE_SUFFIX}"):
        version = path.name.removesuffix(_store.RELEASE_SUFFIX)
        if _store.is_version(version) and _store.parse_version(version) < number and _is_of(path, manifest.name):
            releases.append((_store.parse_version(version), path))
    return [path for _, path in sorted(releases, reverse=True)]


def _is_of(folder: Path, name: str) -> bool:
    """Whether a folder holds a version of a dataset."""
    try:
        return Manifest.read(folder).name == name
    except RLHiveError:
        return False
