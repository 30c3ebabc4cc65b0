"""Episodes → an immutable version on disk. Orchestrates; holds no encoding of its own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhive.data import arrow, cache, shards
from rlhive.data.card import card_of
from rlhive.data.episodes import EpisodeRecord
from rlhive.data.manifest import EPISODES_PATH, FileEntry, Manifest, fingerprint_of, sha256_of
from rlhive.data.schema import Schema
from rlhive.data.statistics import Moments, merge_all
from rlhive.errors import SchemaMismatch

# What the Hub and `datasets` accept as a split name, without the "+" that joins splits.
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")


def export(
    records: Iterable[EpisodeRecord],
    name: str,
    *,
    version: str,
    schema: Schema,
    license: str,
    description: str = "",
    env_name: str = "",
    task: str = "",
    splits: Sequence[str] = (),
    runs: Sequence[Mapping[str, Any]] = (),
    parents: Sequence[Mapping[str, Any]] = (),
    store: Path | None = None,
    shard_bytes: int = shards.SHARD_BYTES,
) -> Path:
    """Write a new version of a dataset; it appears complete or not at all.

    The fingerprint depends on the schema and the episodes alone: not on ``shard_bytes``, nor on who recorded them
    in which order of files, nor on pyarrow.

    Args:
        records: Episodes in rising order of their ids; read once, one at a time.
        name: ``name`` or ``namespace/name``.
        version: MAJOR.MINOR.PATCH.
        schema: Of the transitions.
        license: Identifier that the Hub knows; asked for, never guessed.
        description: A sentence or two.
        env_name: Environment of the episodes.
        task: Its name in the catalogue.
        splits: Splits that must be there even if empty, first in order.
        runs: Provenance of the recording runs.
        parents: Versions that this one is made from.
        store: Folder of all datasets; the default is :func:`rlhive.data.cache.store_dir`.
        shard_bytes: Size at which a shard is closed.

    Returns:
        The version's folder.

    Raises:
        DatasetExists: That version is there.
        SchemaMismatch: An episode id comes twice or out of order, or a split's name is not a word.
        StoreNotWritable, DiskFull: The store cannot take it; nothing half-written is left.
    """
    target = cache.version_dir(name, version, store=store)
    manifest = Manifest(
        name="/".join(cache.qualified(name)),
        version=version,
        fingerprint="",
        schema=schema,
        splits={},
        files=(),
        license=license,
        description=description,
        env_name=env_name,
        task=task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=tuple(runs),
        parents=tuple(parents),
    )
    with cache.publishing(target) as folder:
        tally = _write_shards(folder, records, schema, splits, shard_bytes)
        manifest = replace(
            manifest,
            fingerprint=fingerprint_of(schema, tally.identities),
            splits={split: part.counts() for split, part in tally.splits.items()},
            statistics={
                split: {column: moments.to_json() for column, moments in part.moments.items()}
                for split, part in tally.splits.items()
            },
        )
        returns = {split: part.mean_return_and_success() for split, part in tally.splits.items()}
        (folder / "README.md").write_text(card_of(manifest, returns), encoding="utf-8")
        replace(manifest, files=_entries(folder, tally)).write(folder)
    return target


@dataclass
class _Split:
    writer: shards.ShardWriter
    moments: dict[str, Moments] = field(default_factory=dict)
    episodes: int = 0
    transitions: int = 0
    returns: float = 0.0
    successes: int = 0

    def add(self, record: EpisodeRecord, rows: pa.RecordBatch) -> None:
        self.writer.write(rows)
        own = {name: Moments.of(column) for name, column in record.columns.items() if column.dtype != object}
        self.moments = merge_all([self.moments, own])
        self.episodes += 1
        self.transitions += record.length
        self.returns += record.episode_return
        self.successes += record.success

    def counts(self) -> dict[str, int]:
        return {"num_episodes": self.episodes, "num_transitions": self.transitions}

    def mean_return_and_success(self) -> tuple[float, float]:
        return self.returns / max(self.episodes, 1), self.successes / max(self.episodes, 1)


@dataclass
class _Tally:
    """What one pass over the episodes gathers."""

    splits: dict[str, _Split]
    identities: list[str]
    shards: dict[str, tuple[str, int, int]] = field(default_factory=dict)


def _write_shards(
    folder: Path, records: Iterable[EpisodeRecord], schema: Schema, splits: Sequence[str], shard_bytes: int
) -> _Tally:
    """Write data/ and meta/ and return the tally."""
    data = folder / "data"
    data.mkdir()
    (folder / EPISODES_PATH).parent.mkdir()
    row_schema = arrow.row_schema(schema)

    def new_split(name: str) -> _Split:
        return _Split(shards.ShardWriter(data, _split_name(name), row_schema, shard_bytes=shard_bytes))

    tally = _Tally({name: new_split(name) for name in splits}, [])
    table: list[pa.Table] = []
    previous = -1
    for record in records:
        if record.episode <= previous:
            msg = f"Episode {record.episode} comes after {previous}: expected rising ids, each once. Sort the episodes."
            raise SchemaMismatch(msg)
        previous = record.episode
        if record.split not in tally.splits:
            tally.splits[record.split] = new_split(record.split)
        tally.splits[record.split].add(record, arrow.rows_of(record, schema))
        tally.identities.append(record.identity())
        table.append(arrow.episode_table([record], schema))
    episodes = pa.concat_tables(table) if table else arrow.episode_table([], schema)
    shards.write_table(episodes, folder / EPISODES_PATH)
    for name, split in tally.splits.items():
        for path, rows, count in split.writer.finish():
            tally.shards[path.relative_to(folder).as_posix()] = (name, rows, count)
    return tally


def _entries(folder: Path, tally: _Tally) -> tuple[FileEntry, ...]:
    """Hash every file of the folder; shards in the order in which they were written."""
    others = ["README.md", EPISODES_PATH]
    entries = []
    for path in (*tally.shards, *others):
        split, rows, episodes = tally.shards.get(path, ("", 0, 0))
        file = folder / path
        entries.append(FileEntry(path, sha256_of(file), file.stat().st_size, split, rows, episodes))
    return tuple(entries)


def _split_name(name: str) -> str:
    if not _SPLIT.fullmatch(name):
        msg = f"Split {name!r}: expected letters, digits and '_'. Choose another name."
        raise SchemaMismatch(msg)
    return name
