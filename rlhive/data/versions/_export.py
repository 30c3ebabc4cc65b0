"""Export: write episodes as an immutable version on disk.

::

    source ─► one episode at a time: order, schema, hashes ─► block of a row group, per split
                                                                   │ (a thread of its own)
                                  statistics, Parquet shards ◄─────┘
    then: episode table, sketches, version number, card, hashes of the files, manifest, rename

Memory: a row group per split, the statistics, and a few blocks of the episode table. It does not grow with the dataset.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import _arrow, _parquet, _store, _untrusted
from rlhive.data._schema import Schema, find_unrecorded
from rlhive.data.versions._append import BaseVersion, append_source
from rlhive.data.versions._card import LICENSE_ID, render_card
from rlhive.data.versions._manifest import (
    EPISODES_PATH,
    SKETCHES_PATH,
    FileEntry,
    Manifest,
    compute_sha256,
    verify_files,
)
from rlhive.data.versions._numbering import FIRST_VERSION, VersionChange, find_earlier_version
from rlhive.data.versions._objects import fetch_stored_version, publish_version, require_uncommitted
from rlhive.data.versions._picture import PICTURE_PATH, render_returns
from rlhive.data.versions._source import Exportable, Splits, VersionSource, assign_splits, to_source
from rlhive.data.versions._writer import WriteResult, write_episodes
from rlhive.errors import CorruptDatasetError, InvalidLicenseError, InvalidOptionError

logger = logging.getLogger(__name__)

CARD_PATH = "README.md"

# Name of the partial folder while the version's number is not known: the number depends on what is written.
_UNNUMBERED = "next"


def export(
    source: Exportable,
    name: str,
    *,
    license: str,
    version: str | None = None,
    splits: Splits | None = None,
    seed: int = 0,
    schema: Schema | None = None,
    storage: Mapping[str, str] | None = None,
    description: str = "",
    env_name: str = "",
    task: str = "",
    runs: Sequence[Mapping[str, Any]] | None = None,
    parents: Sequence[Mapping[str, Any]] | None = None,
    certificate: str = "",
    store: Path | None = None,
    shard_bytes: int = _parquet.SHARD_BYTES,
    append: bool | Path = False,
) -> Path:
    """Write a new version of a dataset. The folder appears complete or not at all.

    The fingerprint depends on the schema and the episodes only. It does not depend on ``shard_bytes``, on which process
    recorded an episode, on the order of files, or on the version of pyarrow. One process at a time exports a dataset; a
    second process waits. Shards that are equal to shards of the earlier version take no disk of their own, where the
    file system has hard links.

    Args:
        source: A recording, a TorchRL replay buffer of TED transitions, a dataset or a view of one, or episode
            records in rising order of their ids.
        name: ``name`` or ``namespace/name``.
        license: Licence identifier that the Hub knows, such as ``"apache-2.0"``. There is no default, except that an
            empty one stands for that of the version that ``append`` continues.
        version: MAJOR.MINOR.PATCH. By default the number that follows from what changed, and 1.0.0 for the first
            version; if nothing changed since the newest version in the store, no version is written.
        splits: Split names that the version must have even if they are empty; or split → share of the episodes; or
            split → episode ids.
        seed: Seed of the random assignment by share.
        schema: Schema of the transitions, where the source does not know it.
        storage: How to store columns: ``{"pixels": "raw"}`` for lists of numbers, ``"png"`` for pictures, which
            ``datasets`` and the Hub's viewer show, ``"ffv1"`` for a lossless video; or, with a loss that the manifest
            notes, ``"jpeg"``, ``"av1"``, ``"h264"`` or ``"h265"``, with options as in ``"av1:crf=20:gop=10"``. By
            default as in the version that the episodes come from, and otherwise png for uint8 and uint16 pictures of
            32 x 32 pixels or more.
        description: Description of the dataset in a sentence or two; by default the source's, or else that of the
            earlier version.
        env_name: Environment of the episodes; by default as for the description.
        task: Name of the task in the catalogue; by default as for the description.
        runs: Provenance of the recording runs; by default the source's.
        parents: Versions that this version is derived from; by default the source's.
        certificate: Result of replaying the episodes, as a sentence for the card.
        store: Folder of all datasets; the default is :func:`rlhive.data.store_dir`.
        shard_bytes: Size in bytes at which a shard is closed.
        append: Whether the version begins with all episodes of the newest version in the store, if there is one; or
            the folder of the version that it begins with. Those episodes keep their ids and splits, the source's get
            the ids that follow, and ``splits`` is about the source's.

    Returns:
        The folder of the new version, or of the newest version in the store if nothing changed.

    Raises:
        DatasetExistsError: The version exists.
        WrongVersionError: The number does not fit what changed since the earlier version; the message names the right
            one.
        SchemaMismatchError: An episode id is repeated or out of order, a split name has characters that are not
            allowed, or the columns are not those of the version that ``append`` continues.
        DatasetNotFoundError: A shard of that version was not pulled.
        InvalidNameError: The name or the version does not have the right form.
        InvalidLicenseError: The licence is not an identifier.
        InvalidOptionError: A column cannot have its storage.
        MissingExtraError: A storage is a video, and PyAV is not installed.
        StoreNotWritableError, DiskFullError: The store cannot be written; the partial folder is removed.
        StoreAccessDeniedError, StoreUnreachableError: The object store denies access or does not answer.

    Example:
        >>> export(recording, "my/knob", license="mit", splits={"train": 0.9, "test": 0.1})  # doctest: +SKIP
        PosixPath('/home/me/.rlhive/datasets/my/knob/1.0.0')
    """
    if license or not append:
        license = _require_license(license)  # before the source, which may be long or used up by reading it
    source = assign_splits(to_source(source, schema), splits, seed=seed)
    name = "/".join(_store.parse_name(name))
    target = _store.version_dir(name, version or FIRST_VERSION, store=store)
    with _store.locked(target.parent):
        earlier = find_earlier_version(name, version, store=store)
        base = _open_base(append, earlier)
        if base is not None:
            base_name = f"{base.manifest.name} {base.manifest.version}"
            earlier_episodes = base.to_table_source() if base.has_sketches else base.to_source()
            source = append_source(earlier_episodes, source, base_name=base_name)
            base = base if base.has_sketches else None  # written anew where statistics cannot go on
        source = replace(source, schema=_decide_storage(source.schema, storage, base))
        change = None if earlier is None else VersionChange(earlier, source.schema)
        previous = None if change is None else change.manifest
        manifest = Manifest(
            name=name,
            version=version or "",
            fingerprint="",
            schema=source.schema,
            splits={},
            files=(),
            license=_require_license(license or source.license),
            description=_clean(_first_text("description", description, source, previous), "description"),
            env_name=_clean(_first_text("env_name", env_name, source, previous), "environment"),
            task=_clean(_first_text("task", task, source, previous), "task"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            runs=tuple(source.runs if runs is None else runs),
            parents=tuple(source.parents if parents is None else parents),
        )
        if version is not None:
            require_uncommitted(target)
        return _write_and_publish(
            source, manifest, change, target, shard_bytes=shard_bytes, certificate=certificate, base=base
        )


def _open_base(append: bool | Path, earlier: Path | None) -> BaseVersion | None:
    """Return the version that the new one begins with; None for a version of its own."""
    if isinstance(append, Path):
        return BaseVersion.open(append)
    if not append or earlier is None:
        return None
    fetch_stored_version(earlier)
    return BaseVersion.open(earlier)


def _decide_storage(schema: Schema, storage: Mapping[str, str] | None, base: BaseVersion | None) -> Schema:
    """Return the schema with the storage of every column; that of a version whose shards are shared stays."""
    stored_schema = schema.with_storage(storage)
    if base is not None and stored_schema != schema:
        different = next(new for new, old in zip(stored_schema.fields, schema.fields, strict=True) if new != old)
        msg = (
            f"storage of {different.column}: expected that of {base.manifest.name} {base.manifest.version}, which the "
            f"version continues, got {different.storage}. Change it afterwards: rlhive encode"
        )
        raise InvalidOptionError(msg)
    return stored_schema


def _first_text(name: str, given: str, source: VersionSource, previous: Manifest | None) -> str:
    """Return the text that was given, or else the source's, or else that of the earlier version."""
    return given or str(getattr(source, name)) or (str(getattr(previous, name)) if previous is not None else "")


def _write_and_publish(
    source: VersionSource,
    manifest: Manifest,
    change: VersionChange | None,
    target: Path,
    *,
    shard_bytes: int,
    certificate: str,
    base: BaseVersion | None,
) -> Path:
    """Write the episodes into a partial folder, then publish it, or return the earlier version if nothing changed.

    Args:
        source: The episodes.
        manifest: The manifest as far as it is known; its version is empty where the number is to be chosen.
        change: Comparison with the earlier version; None for the first version.
        target: Folder of the version; its last part is replaced where the number is to be chosen.
        shard_bytes: Size in bytes at which a shard is closed.
        certificate: Sentence for the card.
        base: Version whose shards are shared.
    """
    requested = manifest.version
    with _store.partial_dir(target if requested else target.with_name(_UNNUMBERED)) as partial:
        result = write_episodes(partial, source, change, shard_bytes=shard_bytes, base=base)
        manifest = replace(
            manifest,
            version=_choose_version(requested, change),
            fingerprint=result.fingerprint,
            splits=result.counts,
            statistics=result.statistics,
            success_rates={split: success_rate for split, (_, success_rate) in result.outcomes.items()},
            picture_loss=result.picture_loss,
        )
        if change is not None and not requested and _has_same_content(manifest, change.manifest):
            logger.info("%s is in the store already, with the same content and description", change.folder)
            return change.folder
        _write_card(partial, manifest, result, certificate)
        entries = _build_file_entries(partial, result, {} if base is None else _find_shared(result, base))
        if change is not None:
            _share_equal_shards(partial, entries, change)
        replace(manifest, files=entries).write(partial)
        final = target.with_name(manifest.version)
        publish_version(partial, final, None if change is None else change.folder)
    return final


def _choose_version(requested: str, change: VersionChange | None) -> str:
    """Return the requested version number if it fits what changed, or else the next number."""
    if change is None:
        return requested or FIRST_VERSION
    if requested:
        change.require(requested)
        return requested
    return change.next_version


def _has_same_content(new: Manifest, old: Manifest) -> bool:
    """Whether two manifests have the same content and description."""
    fields = ("fingerprint", "schema", "license", "description", "env_name", "task")
    return all(getattr(new, name) == getattr(old, name) for name in fields) and list(new.splits) == list(old.splits)


def _write_card(folder: Path, manifest: Manifest, result: WriteResult, certificate: str) -> None:
    """Write the dataset card and its picture."""
    table = _parquet.read_table(folder / EPISODES_PATH, ["split", "return", "seed"])
    has_picture = "return" not in find_unrecorded(manifest.schema)
    if has_picture:
        splits = np.array(table["split"].to_pylist(), dtype=object)
        values = np.array(table["return"].to_pylist(), dtype=float)
        returns = {split: values[splits == split] for split in manifest.splits}
        picture = render_returns(returns, f"{manifest.name} {manifest.version}: return of each episode")
        (folder / PICTURE_PATH).write_text(picture, encoding="utf-8")
    columns = _parquet.read_arrow_schema(folder / EPISODES_PATH).names
    card = render_card(
        manifest,
        result.outcomes,
        picture=PICTURE_PATH if has_picture else "",
        certificate=certificate,
        has_seeds=table["seed"].null_count < len(table),
        has_start_states=any(name.startswith(_arrow.START_PREFIX) for name in columns),
    )
    (folder / CARD_PATH).write_text(card, encoding="utf-8")


def _build_file_entries(folder: Path, result: WriteResult, shared: Mapping[str, FileEntry]) -> tuple[FileEntry, ...]:
    """Return the entry of every file of the folder; shards first, in the order in which they were written.

    Args:
        folder: Folder of the version.
        result: What was written.
        shared: Entries of files that another version's manifest describes, by path. They are not read again.

    Raises:
        CorruptDatasetError: A shared file has another size than the other version's manifest says.
    """
    entries = []
    pictures = [PICTURE_PATH] if (folder / PICTURE_PATH).exists() else []
    for path in (*result.shards, *result.videos, CARD_PATH, *pictures, EPISODES_PATH, SKETCHES_PATH):
        file = folder / path
        num_bytes = file.stat().st_size
        if path in shared:
            _require_shared_size(path, num_bytes, shared[path])
            entries.append(replace(shared[path], path=path))
            continue
        split, num_transitions, num_episodes = result.shards.get(path, ("", 0, 0))
        entries.append(FileEntry(path, compute_sha256(file), num_bytes, split, num_transitions, num_episodes))
    return tuple(entries)


def _find_shared(result: WriteResult, base: BaseVersion) -> dict[str, FileEntry]:
    """Return the base version's entries of the files that are its own, by their paths in the new version."""
    shared = {entry.path: entry for entry in base.manifest.videos}
    for split in base.manifest.splits:
        paths = [path for path, (owner, _, _) in result.shards.items() if owner == split]
        shared |= dict(zip(paths, base.shards(split), strict=False))  # the shards of further episodes follow
    return shared


def _require_shared_size(path: str, num_bytes: int, entry: FileEntry) -> None:
    if num_bytes != entry.bytes:
        msg = f"{entry.path}, appended to as {path}: expected {entry.bytes} bytes, got {num_bytes}. Fetch it again."
        raise CorruptDatasetError(msg)


def _share_equal_shards(folder: Path, entries: Sequence[FileEntry], change: VersionChange) -> None:
    """Replace each shard that is equal to one of the earlier version by a link to it."""
    old_entries = {entry.sha256: entry for entry in change.manifest.files if entry.split}
    for entry in entries:
        old_entry = old_entries.get(entry.sha256) if entry.split else None
        if old_entry is None or not (change.folder / old_entry.path).is_file():  # another shard, or one not pulled
            continue
        if (folder / entry.path).samefile(change.folder / old_entry.path):
            continue
        if not _has_recorded_hash(change.folder, old_entry):
            continue
        with contextlib.suppress(OSError):  # another disk, or a file system without links
            linked = folder / f"{entry.path}.link"
            linked.hardlink_to(change.folder / old_entry.path)
            linked.replace(folder / entry.path)


def _has_recorded_hash(folder: Path, entry: FileEntry) -> bool:
    try:
        verify_files(folder, [entry])
    except CorruptDatasetError:
        return False
    return True


def _clean(text: str, subject: str) -> str:
    """Return text that a manifest may hold; characters that it may not are escaped, and logged."""
    cleaned = _untrusted.escape_control_characters(text)
    if cleaned != text:
        logger.warning("The %s has characters that cannot be shown; they are escaped: %s", subject, cleaned)
    return cleaned


def _require_license(license: str) -> str:
    if not isinstance(license, str) or not LICENSE_ID.fullmatch(license):
        msg = f"License {license!r}: expected an identifier such as 'apache-2.0' or 'cc-by-4.0'."
        raise InvalidLicenseError(msg)
    return license
