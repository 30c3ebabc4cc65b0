"""Episodes → an immutable version on disk. Orchestrates; holds no encoding of its own.

::

    source ─► one episode at a time: order, schema, hashes ─► block of a row group, per split
                                                                   │ (a thread of its own)
                                  statistics, Parquet shards ◄─────┘
    then: episode table, sketches, card, hashes of the files, version rule, manifest, rename

Memory: a row group per split, the statistics, and a few blocks of the episode table; not the dataset.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhive.data import _parquet, _store
from rlhive.data._schema import Schema
from rlhive.data.versions import _numbering
from rlhive.data.versions._card import render_card
from rlhive.data.versions._manifest import EPISODES_PATH, SKETCHES_PATH, FileEntry, Manifest, compute_sha256
from rlhive.data.versions._picture import PICTURE_PATH, render_returns
from rlhive.data.versions._source import Exportable, Splits, VersionSource, assign_splits, to_source
from rlhive.data.versions._writer import Written, write_episodes
from rlhive.errors import InvalidName

logger = logging.getLogger(__name__)

# Identifiers of the Hub and of SPDX.
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def export(
    source: Exportable,
    name: str,
    *,
    license: str,
    version: str | None = None,
    splits: Splits | None = None,
    seed: int = 0,
    schema: Schema | None = None,
    description: str = "",
    env_name: str = "",
    task: str = "",
    runs: Sequence[Mapping[str, Any]] | None = None,
    parents: Sequence[Mapping[str, Any]] | None = None,
    certificate: str = "",
    store: Path | None = None,
    shard_bytes: int = _parquet.SHARD_BYTES,
) -> Path:
    """Write a new version of a dataset; it appears complete or not at all.

    The fingerprint depends on the schema and the episodes alone: not on ``shard_bytes``, nor on who recorded them
    in which order of files, nor on pyarrow. One process at a time exports a dataset; a second one waits.

    Args:
        source: A recording, a TorchRL replay buffer of TED transitions, a dataset or a view of one, or episode
            records in rising order of their ids.
        name: ``name`` or ``namespace/name``.
        license: Identifier that the Hub knows, such as ``"apache-2.0"``; asked for, never guessed.
        version: MAJOR.MINOR.PATCH; by default the right next one, and 1.0.0 for the first. Without it, and with
            nothing that differs from the newest version in the store, that version is returned.
        splits: Names of splits that must be there even if empty; or split → share of the episodes; or split → ids.
        seed: Of the shares.
        schema: Of the transitions, where the source does not know it.
        description: A sentence or two.
        env_name: Environment of the episodes.
        task: Its name in the catalogue.
        runs: Provenance of the recording runs; by default the source's.
        parents: Versions that this one is made from; by default the source's.
        certificate: What a replay of its episodes found, for the card.
        store: Folder of all datasets; the default is :func:`rlhive.data.store_dir`.
        shard_bytes: Size at which a shard is closed.

    Returns:
        The version's folder.

    Raises:
        DatasetExists: That version is there.
        WrongVersion: The number does not say what changed since the version before; the message names the right one.
        SchemaMismatch: An episode id comes twice or out of order, or a split's name is not a word.
        InvalidName: Name, version or license are not of their forms.
        StoreNotWritable, DiskFull: The store cannot take it; nothing half-written is left.

    Example:
        >>> export(recording, "my/knob", license="mit", splits={"train": 0.9, "test": 0.1})  # doctest: +SKIP
        PosixPath('/home/me/.rlhive/datasets/my/knob/1.0.0')
    """
    source = assign_splits(to_source(source, schema), splits, seed=seed)
    manifest = Manifest(
        name="/".join(_store.parse_name(name)),
        version=version or "",
        fingerprint="",
        schema=source.schema,
        splits={},
        files=(),
        license=_require_license(license),
        description=description or source.description,
        env_name=env_name or source.env_name,
        task=task or source.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=tuple(source.runs if runs is None else runs),
        parents=tuple(source.parents if parents is None else parents),
    )
    target = _store.version_dir(name, version or _numbering.FIRST, store=store)
    with _store.locked(target.parent):
        try:
            return _publish(source, manifest, target, store, shard_bytes, certificate)
        except _Unchanged as same:
            logger.info("%s is in the store already, with the same content and description", same.folder)
            return same.folder


class _Unchanged(Exception):
    """Not an error: the way out of a block that would otherwise publish."""

    def __init__(self, folder: Path):
        self.folder = folder


def _publish(
    source: VersionSource, manifest: Manifest, target: Path, store: Path | None, shard_bytes: int, certificate: str
) -> Path:
    given = manifest.version
    before = _numbering.find_earlier_version(manifest.name, given or None, store=store)
    change = _numbering.VersionChange(before, source.schema) if before is not None else None
    final = target if given else target.with_name("next")
    with _store.atomic_dir(final, settle=lambda: final) as folder:
        written = write_episodes(folder, source, change, shard_bytes=shard_bytes)
        manifest = replace(
            manifest,
            version=_settle(given, change),
            fingerprint=written.fingerprint,
            splits=written.counts,
            statistics=written.statistics,
        )
        if not given and change is not None and _same(manifest, change.manifest):
            raise _Unchanged(before)
        final = target.with_name(manifest.version)
        _write_card(folder, manifest, written, certificate)
        replace(manifest, files=_entries(folder, written)).write(folder)
    return final


def _write_card(folder: Path, manifest: Manifest, written: Written, certificate: str) -> None:
    """Write README.md and its picture."""
    rows = _parquet.read_table(folder / EPISODES_PATH, ["split", "return"]).to_pylist()
    returns = {split: [row["return"] for row in rows if row["split"] == split] for split in manifest.splits}
    picture = render_returns(returns, f"{manifest.name} {manifest.version}: return of each episode")
    (folder / PICTURE_PATH).write_text(picture, encoding="utf-8")
    card = render_card(manifest, written.outcomes, picture=PICTURE_PATH, certificate=certificate)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _settle(version: str, change: _numbering.VersionChange | None) -> str:
    """Return the version to write, if it is the right one."""
    if change is None:
        return version or _numbering.FIRST
    if version:
        change.require(version)
    return version or change.next_version


def _same(new: Manifest, old: Manifest) -> bool:
    names = ("fingerprint", "schema", "license", "description", "env_name", "task")
    return all(getattr(new, name) == getattr(old, name) for name in names) and list(new.splits) == list(old.splits)


def _entries(folder: Path, written: Written) -> tuple[FileEntry, ...]:
    """Hash every file of the folder; shards in the order in which they were written."""
    entries = []
    for path in (*written.shards, "README.md", PICTURE_PATH, EPISODES_PATH, SKETCHES_PATH):
        split, rows, episodes = written.shards.get(path, ("", 0, 0))
        file = folder / path
        entries.append(FileEntry(path, compute_sha256(file), file.stat().st_size, split, rows, episodes))
    return tuple(entries)


def _require_license(license: str) -> str:
    if not isinstance(license, str) or not _LICENSE.fullmatch(license):
        msg = f"License {license!r}: expected an identifier such as 'apache-2.0' or 'cc-by-4.0'. Name the data's."
        raise InvalidName(msg)
    return license
