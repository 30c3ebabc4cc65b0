"""The one pass over the episodes of a new version: blocks of rows to the shards, rows to the episode table, sums.

Reading, hashing and statistics run in the caller's thread. Parquet encoding of the block before runs beside it in
another: it is one call that needs no lock of Python's, where statistics are many. Which block lies where depends on the
episodes alone, so the files do not depend on timing.
"""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import DTYPES, Schema
from rlhive.data._statistics import ColumnStatistics, choose_anchor
from rlhive.data.versions import _sketches
from rlhive.data.versions._manifest import EPISODES_PATH, SKETCHES_PATH, Fingerprint
from rlhive.data.versions._numbering import VersionChange
from rlhive.data.versions._source import VersionSource
from rlhive.errors import SchemaMismatch

# What the Hub and `datasets` accept as a split name, without the "+" that joins splits.
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_DTYPES = {name: np.dtype(object if name == "string" else name) for name in DTYPES}
_TABLE_ROWS = 2_000  # rows of the episode table kept before they are written


@dataclass(frozen=True)
class Written:
    """What one pass over the episodes gathered.

    Attributes:
        fingerprint: Of the schema and the episodes.
        counts: Number of episodes and transitions per split.
        outcomes: Mean return and success rate per split.
        statistics: Per split and column, as the manifest keeps them.
        shards: Split, number of transitions and of episodes of each shard, by its path in the folder.
    """

    fingerprint: str
    counts: dict[str, dict[str, int]]
    outcomes: dict[str, tuple[float, float]]
    statistics: dict[str, dict[str, Any]]
    shards: dict[str, tuple[str, int, int]]


def write_episodes(folder: Path, source: VersionSource, change: VersionChange | None, *, shard_bytes: int) -> Written:
    """Write data/ and meta/ of a version into an empty folder.

    Args:
        folder: The folder.
        source: The episodes.
        change: Fed with every episode, to say what changed since an earlier version.
        shard_bytes: Size at which a shard is closed.

    Raises:
        SchemaMismatch: An episode comes twice or out of order, is not of the schema, or has another kind of start
            state; or a split's name is not a word.
    """
    (folder / "data").mkdir()
    (folder / EPISODES_PATH).parent.mkdir()
    schema = source.schema
    fingerprint, table = Fingerprint(schema), _EpisodeTable(folder / EPISODES_PATH, schema)
    splits = {name: _Split(folder, name, schema, shard_bytes) for name in source.splits}
    guard = _Guard(schema)
    with ThreadPoolExecutor(1, "rlhive-export") as worker:
        pipeline = _Pipeline(worker)
        for record in source.records():
            guard.check(record)
            fingerprint.add(record.identity())
            if change is not None:
                change.add(record)
            row = table.add(record)
            if record.split not in splits:
                splits[record.split] = _Split(folder, record.split, schema, shard_bytes)
            block = splits[record.split].add(record, row)
            if block:
                pipeline.put(splits[record.split], block, guard.anchors)
        for split in splits.values():
            pipeline.put(split, split.rest(), guard.anchors)
        table.close()
        _sketches.write_sketches(folder / SKETCHES_PATH, {name: split.summaries for name, split in splits.items()})
        pipeline.drain()
    named = {name: split.writer.finish() for name, split in splits.items()}
    return Written(
        fingerprint=fingerprint.hexdigest(),
        counts={name: split.counts() for name, split in splits.items()},
        outcomes={name: split.outcome() for name, split in splits.items()},
        statistics={name: split.statistics() for name, split in splits.items()},
        shards={
            path.relative_to(folder).as_posix(): (name, rows, episodes)
            for name, files in named.items()
            for path, rows, episodes in files
        },
    )


class _Guard:
    """Refuse episodes that cannot stand in one table; remember the first values for the statistics."""

    def __init__(self, schema: Schema):
        self._fields = {item.column: (_DTYPES[item.dtype], item.shape) for item in schema.fields}
        self._observed = {item.column for item in schema.observed}
        self._previous = -1
        self._start: dict[str, int] | None = None
        self.anchors: dict[str, np.ndarray] = {}

    def check(self, record: EpisodeRecord) -> None:
        if record.episode <= self._previous:
            msg = (
                f"Episode {record.episode} comes after {self._previous}: expected rising ids, each once. "
                "Sort the episodes."
            )
            raise SchemaMismatch(msg)
        self._previous = record.episode
        found = {name: (array.dtype, array.shape[1:]) for name, array in record.columns.items()}
        if found != self._fields or record.final.keys() != self._observed or not record.length:
            differs = sorted(name for name in found.keys() | self._fields if found.get(name) != self._fields.get(name))
            what = f"{differs[0]} {self._fields.get(differs[0])}" if differs else f"final {sorted(self._observed)}"
            got = found.get(differs[0]) if differs else f"{sorted(record.final)}, {record.length} transitions"
            msg = f"Episode {record.episode}: expected {what}, got {got}. Export it under another dataset name."
            raise SchemaMismatch(msg)
        start = {name: int(np.size(value)) for name, value in record.start_state.items()}
        if self._start is None:
            self._start = start
            self.anchors = {name: choose_anchor(rows) for name, rows in record.columns.items() if rows.dtype != object}
        if start != self._start:
            msg = (
                f"Episode {record.episode}: expected a start state of {self._start}, got {start}. "
                "Keep episodes of different simulator models in different datasets."
            )
            raise SchemaMismatch(msg)


@dataclass
class _Block:
    """Episodes that become one row group."""

    records: list[EpisodeRecord] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


class _Split:
    """One split on its way: the block that fills and the statistics in the caller's thread, shards in the worker's."""

    def __init__(self, folder: Path, name: str, schema: Schema, shard_bytes: int):
        self.writer = _parquet.ShardWriter(
            folder / "data", _split_name(name), _arrow.row_schema(schema), shard_bytes=shard_bytes
        )
        self.summaries: dict[str, ColumnStatistics] = {}
        self._schema, self._limit = schema, min(shard_bytes, _parquet.ROW_GROUP_BYTES)
        self._block = _Block()
        self._episodes = self._transitions = self._successes = 0
        self._returns = 0.0

    def add(self, record: EpisodeRecord, row: _arrow.EpisodeRow) -> _Block | None:
        """Add an episode, given its row of the episode table; return a block when one is full."""
        block = self._block
        block.records.append(record)
        block.rows += record.length
        block.bytes += sum(array.nbytes for array in record.columns.values())
        self._episodes += 1
        self._transitions += record.length
        self._returns += row.values["return"]
        self._successes += row.values["success"]
        return self.rest() if block.rows >= _parquet.ROW_GROUP_ROWS or block.bytes >= self._limit else None

    def rest(self) -> _Block:
        """Return what has gathered since the last full block."""
        block, self._block = self._block, _Block()
        return block

    def gather(self, block: _Block, anchors: dict[str, np.ndarray]) -> Any:
        """Return a block's rows in Arrow's form, counted in the statistics; the block's records are let go."""
        records = block.records
        columns = {
            item.column: np.concatenate([record.columns[item.column] for record in records])
            for item in self._schema.fields
        }
        ids, lengths = [record.episode for record in records], [record.length for record in records]
        records.clear()  # the copies are enough
        for name, rows in columns.items():
            if rows.dtype == object:  # text
                continue
            if name not in self.summaries:
                self.summaries[name] = ColumnStatistics.from_rows(rows[:0], anchor=anchors[name])
            self.summaries[name].add(rows)
        return _arrow.columns_to_batch(columns, ids, lengths, self._schema)

    def counts(self) -> dict[str, int]:
        return {"num_episodes": self._episodes, "num_transitions": self._transitions}

    def outcome(self) -> tuple[float, float]:
        return self._returns / max(self._episodes, 1), self._successes / max(self._episodes, 1)

    def statistics(self) -> dict[str, Any]:
        return {name: self.summaries[name].to_json() for name in sorted(self.summaries)}


class _Pipeline:
    """Hand blocks to the worker, one in work and one waiting; its first error is raised here."""

    def __init__(self, worker: ThreadPoolExecutor):
        self._worker = worker
        self._running: list[Future] = []

    def put(self, split: _Split, block: _Block, anchors: dict[str, np.ndarray]) -> None:
        if block.records:
            num_episodes, rows = len(block.records), split.gather(block, anchors)
            self._wait(1)
            self._running.append(self._worker.submit(split.writer.write, rows, num_episodes=num_episodes))

    def drain(self) -> None:
        self._wait(0)

    def _wait(self, allowed: int) -> None:
        while len(self._running) > allowed:
            self._running.pop(0).result()


class _EpisodeTable:
    """Write meta/episodes.parquet a few rows at a time."""

    def __init__(self, path: Path, schema: Schema):
        self._path, self._schema = path, schema
        self._rows: list[_arrow.EpisodeRow] = []
        self._bytes = 0
        self._writer = None

    def add(self, record: EpisodeRecord) -> _arrow.EpisodeRow:
        """Add an episode; return its row."""
        row = _arrow.EpisodeRow.from_record(record)
        self._rows.append(row)
        self._bytes += sum(array.nbytes for array in (*row.final.values(), *row.start_state.values()))
        if len(self._rows) >= _TABLE_ROWS or self._bytes >= _parquet.ROW_GROUP_BYTES:
            self._flush()
        return row

    def close(self) -> None:
        if self._rows or self._writer is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        table = _arrow.build_episode_table(self._rows, self._schema)
        if self._writer is None:
            self._writer = _parquet.open_writer(self._path, table.schema)
        self._writer.write_table(table)
        self._rows, self._bytes = [], 0


def _split_name(name: str) -> str:
    if not _SPLIT.fullmatch(name):
        msg = f"Split {name!r}: expected letters, digits and '_'. Choose another name."
        raise SchemaMismatch(msg)
    return name
