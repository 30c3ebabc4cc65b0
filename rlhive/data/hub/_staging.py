"""The files of a push: a version's own, its card and manifest under the repository's name, and its release."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from huggingface_hub import constants

from rlhive.data._arrow import START_PREFIX
from rlhive.data._schema import find_unrecorded
from rlhive.data.release import Address, read_released_answers, render_release
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
from rlhive.errors import DatasetExistsError

CARD_NAME = "README.md"


@contextmanager
def stage_files(
    folder: Path, manifest: Manifest, repo_id: str, license: str | None
) -> Iterator[tuple[dict[str, Path], dict[str, Path]]]:
    """Yield the files to publish and those of the release, each by its path in the repository.

    In a repository of the version's own name they are the version's files. In another repository, card and manifest
    are rewritten with the new name. The release is rendered from its answers with the addresses of the repository.
    """
    answers = read_released_answers(folder)
    with tempfile.TemporaryDirectory(prefix="rlhive-push-") as name:
        staging = Path(name)
        files, published = _stage_version(folder, staging, manifest, repo_id, license)
        if answers is None:
            yield files, {}
            return
        address = Address(f"{constants.ENDPOINT}/datasets/{repo_id}", f"v{manifest.version}", is_published=True)
        rendered = render_release(folder, published, answers, address, manifest_path=files[MANIFEST_NAME])
        for path, content in rendered.items():
            (staging / path).write_bytes(content)
        yield files, {path: staging / path for path in rendered}


def _stage_version(
    folder: Path, staging: Path, manifest: Manifest, repo_id: str, license: str | None
) -> tuple[dict[str, Path], Manifest]:
    """Return the version's files by their path in the repository, and the manifest among them."""
    paths = [entry.path for entry in manifest.files]
    files = {path: folder / path for path in (*paths, MANIFEST_NAME)}
    license = license or manifest.license
    if repo_id == manifest.name:
        if license != manifest.license:
            msg = (
                f"{repo_id} {manifest.version}: expected its licence {manifest.license}, got {license}. "
                "Make a new PATCH version with the other licence, and push that."
            )
            raise DatasetExistsError(msg)
        return files, manifest
    renamed = replace(manifest, name=repo_id, license=license)
    card = staging / CARD_NAME
    picture = PICTURE_PATH if PICTURE_PATH in paths else ""
    certificate = str(read_certificate(manifest.fingerprint) or "")
    episodes = read_episodes(folder, manifest)
    text = render_card(
        renamed,
        _compute_outcomes(episodes, manifest),
        picture=picture,
        certificate=certificate,
        has_seeds=episodes["seed"].null_count < len(episodes),
        has_start_states=any(name.startswith(START_PREFIX) for name in episodes.column_names),
    )
    card.write_text(text, encoding="utf-8")
    card_entry = FileEntry(CARD_NAME, compute_sha256(card), card.stat().st_size)
    other_entries = tuple(entry for entry in manifest.files if entry.path != CARD_NAME)
    renamed = replace(renamed, files=(*other_entries, card_entry))
    renamed.write(staging)
    return files | {CARD_NAME: card, MANIFEST_NAME: staging / MANIFEST_NAME}, renamed


def _compute_outcomes(episodes: pa.Table, manifest: Manifest) -> dict[str, tuple[float | None, float | None]]:
    """Return mean return and success rate of each split; None for what was not recorded."""
    unrecorded = find_unrecorded(manifest.schema)  # older versions hold 0.0 and False there
    rows = episodes.select(["split", "return", "success"]).to_pylist()
    results = {}
    for split in manifest.splits:
        split_rows = [row for row in rows if row["split"] == split]
        count = max(len(split_rows), 1)
        mean_return, success = (
            None if name in unrecorded else sum(row[name] for row in split_rows) / count
            for name in ("return", "success")
        )
        results[split] = (mean_return, success)
    return results
