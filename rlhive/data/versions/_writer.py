"""The writer of a new version: one pass over the episodes writes the shards and the episode table.

Reading, hashing and statistics run in the caller's thread. Meanwhile a worker thread encodes the previous block as
Parquet, in one call that does not need the interpreter's lock. Which block an episode goes to depends on the episodes
only, so the files do not depend on timing.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet, _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema, find_unrecorded
from rlhive.data._statistics import ColumnStatistics, choose_anchor
from rlhive.data._timing import find_fps
from rlhive.data.versions import _sketches
from rlhive.data.versions._append import BaseVersion
from rlhive.data.versions._card import Outcomes
from rlhive.data.versions._encoding import DEFAULT_FPS, SplitVideos, encode_ahead
from rlhive.data.versions._manifest import EPISODES_PATH, SKETCHES_PATH, Fingerprint
from rlhive.data.versions._numbering import VersionChange
from rlhive.data.versions._picture_loss import PictureErrors, PictureLoss
from rlhive.data.versions._source import VersionSource
from rlhive.errors import CorruptDatasetError, SchemaMismatchError

# What the Hub and `datasets` accept as a split name, without the "+" that joins splits.
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_TABLE_ROWS = 2_000  # rows of the episode table that are buffered


@dataclass(frozen=True)
class WriteResult:
    """What one pass over the episodes computed.

    Attributes:
        fingerprint: Fingerprint of the schema and the episodes.
        counts: Number of episodes and transitions per split.
        outcomes: Mean return and success rate per split; None for what was not recorded.
        statistics: Statistics per split and column, in the manifest's form.
        shards: Split, number of transitions and number of episodes of each shard, by its path in the folder.
        videos: Paths of the video files in the folder, sorted.
        picture_loss: What pictures lost per split and column, in the manifest's form.
    """

    fingerprint: str
    counts: dict[str, dict[str, int]]
    outcomes: Outcomes
    statistics: dict[str, dict[str, Any]]
    shards: dict[str, tuple[str, int, int]]
    videos: list[str]
    picture_loss: dict[str, dict[str, dict[str, Any]]]


def write_episodes(
    folder: Path,
    source: VersionSource,
    change: VersionChange | None,
    *,
    shard_bytes: int,
    base: BaseVersion | None = None,
) -> WriteResult:
    """Write the ``data`` and ``meta`` folders of a version into an empty folder.

    Args:
        folder: The version's folder.
        source: The episodes.
        change: Comparison with an earlier version, which is fed with every episode.
        shard_bytes: Size in bytes at which a shard is closed.
        base: Version whose episodes the source begins with, all of them and unchanged; its shards are shared.

    Raises:
        SchemaMismatchError: An episode id is repeated or out of order, an episode does not have the schema or has a
            start state of another size, or a split name has characters that are not allowed.
    """
    (folder / "data").mkdir()
    (folder / EPISODES_PATH).parent.mkdir()
    schema = source.schema
    schema.require_values(context="Export")
    fingerprint = Fingerprint(schema)
    table = _EpisodeTableWriter(folder / EPISODES_PATH, schema)
    fps = find_fps(source.runs) or DEFAULT_FPS
    make_split = partial(
        _SplitWriter, folder, schema=schema, shard_bytes=shard_bytes, fps=fps, may_link=source.may_link_videos
    )
    splits = {name: make_split(name) for name in source.splits}
    validator = _EpisodeValidator(schema)

    def add_episodes(records: Iterable[EpisodeRecord]) -> None:
        for episode in encode_ahead(records, schema, validator.check):
            record = episode.record
            fingerprint.add(record.identity())
            if change is not None:
                change.add(episode)
            if record.split not in splits:
                splits[record.split] = make_split(record.split)
            split = splits[record.split]
            split.add_loss(episode.errors)
            record = split.videos.add(record)
            row = table.add(record)
            block = split.add(record, row)
            if block is not None:
                encoder.submit(split, block, validator.anchors)
        for split in splits.values():
            encoder.submit(split, split.take_block(), validator.anchors)

    with ThreadPoolExecutor(1, "rlhive-export") as worker:
        encoder = _BlockEncoder(worker)
        records = source.records()
        if base is not None:
            for record in itertools.islice(records, base.manifest.num_episodes):
                fingerprint.add(record.identity())
                if change is not None:
                    change.add_stored(record)
            _require_fingerprint(fingerprint, base)
            validator.continue_from(base)
            table.copy(base.episodes)
            for name, columns in base.read_statistics().items():
                splits[name].continue_from(base, columns)
            _share_videos(folder, base)
        add_episodes(records)
        table.close()
        _sketches.write_sketches(
            folder / SKETCHES_PATH, {name: split.column_statistics for name, split in splits.items()}
        )
        encoder.finish()
    videos = [path for split in splits.values() for path in split.videos.finish()]
    return WriteResult(
        fingerprint=fingerprint.hexdigest(),
        counts={name: split.counts() for name, split in splits.items()},
        outcomes={name: split.outcome() for name, split in splits.items()},
        statistics={name: split.statistics() for name, split in splits.items()},
        shards=_finish_shards(folder, splits),
        videos=sorted([*videos, *([entry.path for entry in base.manifest.videos] if base is not None else [])]),
        picture_loss={name: loss for name, split in splits.items() if (loss := split.picture_loss())},
    )


def _require_fingerprint(fingerprint: Fingerprint, base: BaseVersion) -> None:
    """Raise unless the episode table of a version is that of its fingerprint.

    Raises:
        CorruptDatasetError: It is another one.
    """
    if fingerprint.hexdigest() != base.manifest.fingerprint:
        msg = (
            f"{base.folder / EPISODES_PATH}: expected episodes of the fingerprint {base.manifest.fingerprint}, got "
            f"{fingerprint.hexdigest()}. Fetch or make the version again."
        )
        raise CorruptDatasetError(msg)


def _share_videos(folder: Path, base: BaseVersion) -> None:
    """Make the videos of another version, whose shards are shared, those of the folder."""
    for entry in base.manifest.videos:
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        _store.link_or_copy(base.folder / entry.path, folder / entry.path)


class _EpisodeValidator:
    """Checks that every episode fits into the tables; chooses the histogram anchors from the first episode."""

    def __init__(self, schema: Schema):
        self._columns = {item.column: item.kind for item in schema.fields}
        self._observed = {item.column for item in schema.observed}
        self._previous_id = -1
        self._start_state_sizes: dict[str, int] = {}
        self.anchors: dict[str, np.ndarray] = {}

    def check(self, record: EpisodeRecord) -> None:
        """Check the next episode.

        Raises:
            SchemaMismatchError: The episode does not follow the previous one, or does not fit into the tables.
        """
        self._check_order(record)
        self._check_columns(record)
        self._check_start_state(record)
        if not self.anchors:
            self.anchors = {name: choose_anchor(rows) for name, rows in record.columns.items() if rows.dtype != object}

    def continue_from(self, base: BaseVersion) -> None:
        """Take the episodes of a version for checked; its anchors are those of the statistics."""
        if base.manifest.num_episodes:
            self._previous_id = base.episodes[keys.EPISODE][-1].as_py()
        start_states = _arrow.read_start_states(base.episodes)
        first_state = next((state for state in start_states if state), {})
        self._start_state_sizes = {name: values.size for name, values in first_state.items()}
        for columns in base.read_statistics().values():
            self.anchors |= {name: row.anchor for name, row in columns.items() if row.count}

    def _check_order(self, record: EpisodeRecord) -> None:
        if record.episode <= self._previous_id:
            msg = (
                f"Episode {record.episode} comes after {self._previous_id}: expected rising ids, each once. "
                "Sort the episodes."
            )
            raise SchemaMismatchError(msg)
        self._previous_id = record.episode

    def _check_columns(self, record: EpisodeRecord) -> None:
        columns = {name: (array.dtype, array.shape[1:]) for name, array in record.columns.items()}
        if columns == self._columns and record.final.keys() == self._observed and record.length:
            return
        names = columns.keys() | self._columns.keys()
        different = sorted(name for name in names if columns.get(name) != self._columns.get(name))
        if different:
            expected = f"{different[0]} {self._columns.get(different[0])}"
            actual = str(columns.get(different[0]))
        else:
            expected = f"final {sorted(self._observed)}"
            actual = f"{sorted(record.final)}, {record.length} transitions"
        msg = f"Episode {record.episode}: expected {expected}, got {actual}. Export it under another dataset name."
        raise SchemaMismatchError(msg)

    def _check_start_state(self, record: EpisodeRecord) -> None:
        sizes = {name: int(np.size(value)) for name, value in record.start_state.items()}
        self._start_state_sizes = self._start_state_sizes or sizes
        if sizes and sizes != self._start_state_sizes:
            msg = (
                f"Episode {record.episode}: expected a start state of {self._start_state_sizes}, got {sizes}. "
                "Keep episodes of different simulator models in different datasets."
            )
            raise SchemaMismatchError(msg)


@dataclass
class _EpisodeBlock:
    """Episodes that become one row group."""

    records: list[EpisodeRecord] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0

    def add(self, record: EpisodeRecord) -> None:
        self.records.append(record)
        self.num_rows += record.length
        self.num_bytes += record.num_bytes


class _SplitWriter:
    """Collects the blocks and statistics of one split. The shard writer runs in the worker thread."""

    def __init__(self, folder: Path, name: str, schema: Schema, shard_bytes: int, fps: float, may_link: bool):
        row_schema = _arrow.row_schema(schema)
        self.shards = _parquet.ShardWriter(
            folder / "data", _require_split_name(name), row_schema, shard_bytes=shard_bytes
        )
        self.videos = SplitVideos(folder, schema, fps=fps, max_bytes=shard_bytes, may_link=may_link)
        self.column_statistics: dict[str, ColumnStatistics] = {}
        self._losses: dict[str, PictureLoss] = {}
        self._name = name
        self._schema = schema
        self._max_block_bytes = min(shard_bytes, _parquet.ROW_GROUP_BYTES)
        self._block = _EpisodeBlock()
        self._num_episodes = 0
        self._num_transitions = 0
        self._num_successes = 0
        self._sum_of_returns = 0.0

    def add(self, record: EpisodeRecord, row: _arrow.EpisodeRow) -> _EpisodeBlock | None:
        """Add an episode and its row of the episode table; return the block if it is full."""
        self._block.add(record)
        self._num_episodes += 1
        self._num_transitions += record.length
        self._sum_of_returns += row.values["return"] or 0.0
        self._num_successes += row.values["success"] or 0
        is_full = self._block.num_rows >= _parquet.ROW_GROUP_ROWS or self._block.num_bytes >= self._max_block_bytes
        return self.take_block() if is_full else None

    def add_loss(self, errors: Mapping[str, PictureErrors]) -> None:
        """Add what the pictures of an episode lost, by column."""
        for column, values in errors.items():
            self._losses.setdefault(column, PictureLoss()).errors.append(values)

    def continue_from(self, base: BaseVersion, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Begin with the split of another version: its shards, counts and statistics."""
        for entry in base.shards(self._name):
            self.shards.share(base.folder / entry.path, num_rows=entry.num_transitions, num_episodes=entry.num_episodes)
        rows = base.episodes.filter(pa.array(base.episodes["split"].to_numpy() == self._name))
        self._num_episodes = len(rows)
        self._num_transitions = sum(rows["length"].to_pylist())
        self._sum_of_returns = sum(value or 0.0 for value in rows["return"].to_pylist())
        self._num_successes = sum(value or 0 for value in rows["success"].to_pylist())
        self.column_statistics = dict(statistics)

    def take_block(self) -> _EpisodeBlock:
        """Return the current block and start an empty one."""
        block = self._block
        self._block = _EpisodeBlock()
        return block

    def to_batch(self, block: _EpisodeBlock, anchors: Mapping[str, np.ndarray]) -> Any:
        """Return a block's rows as an Arrow batch and add them to the statistics. Empties the block's records."""
        records = block.records
        columns = {
            item.column: np.concatenate([record.columns[item.column] for record in records])
            for item in self._schema.fields
        }
        ids = [record.episode for record in records]
        lengths = [record.length for record in records]
        cells = {
            item.column: [cell for record in records for cell in record.encoded[item.column].row_cells()]
            for item in self._schema.carried
        }
        records.clear()  # frees the arrays that were just copied
        for name, rows in columns.items():
            if rows.dtype == object:  # text has no statistics
                continue
            if name not in self.column_statistics:
                self.column_statistics[name] = ColumnStatistics.from_rows(rows[:0], anchor=anchors[name])
            self.column_statistics[name].add(rows)
        return _arrow.columns_to_batch(columns, ids, lengths, self._schema, cells)

    def counts(self) -> dict[str, int]:
        """Return the number of episodes and transitions."""
        return {"num_episodes": self._num_episodes, "num_transitions": self._num_transitions}

    def outcome(self) -> tuple[float | None, float | None]:
        """Return the mean return and the success rate, zeros for an empty split; None for what was not recorded."""
        num_episodes = max(self._num_episodes, 1)
        unrecorded = find_unrecorded(self._schema)
        return (
            None if "return" in unrecorded else self._sum_of_returns / num_episodes,
            None if "success" in unrecorded else self._num_successes / num_episodes,
        )

    def picture_loss(self) -> dict[str, dict[str, Any]]:
        """Return what the pictures lost by column, in the manifest's form."""
        return {column: self._losses[column].to_json() for column in sorted(self._losses)}

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of every column in the manifest's form."""
        return {name: self.column_statistics[name].to_json() for name in sorted(self.column_statistics)}


class _BlockEncoder:
    """Encodes blocks in the worker thread, one at a time; at most one more waits. Errors are raised in the caller."""

    def __init__(self, worker: ThreadPoolExecutor):
        self._worker = worker
        self._pending: list[Future[None]] = []

    def submit(self, split: _SplitWriter, block: _EpisodeBlock, anchors: Mapping[str, np.ndarray]) -> None:
        """Add a block to the statistics of its split and append it to the shards. An empty block is ignored."""
        if not block.records:
            return
        num_episodes = len(block.records)
        batch = split.to_batch(block, anchors)
        self._wait(max_pending=1)
        self._pending.append(self._worker.submit(split.shards.write, batch, num_episodes=num_episodes))

    def finish(self) -> None:
        """Wait until every block is written."""
        self._wait(max_pending=0)

    def _wait(self, *, max_pending: int) -> None:
        while len(self._pending) > max_pending:
            self._pending.pop(0).result()


class _EpisodeTableWriter:
    """Writes ``meta/episodes.parquet`` in blocks of rows."""

    def __init__(self, path: Path, schema: Schema):
        self._path = path
        self._schema = schema
        self._rows: list[_arrow.EpisodeRow] = []
        self._num_bytes = 0
        self._start_state_sizes: _arrow.StartStateSizes = {}
        self._writer: Any = None  # pyarrow.parquet.ParquetWriter; the first block decides its schema

    def add(self, record: EpisodeRecord) -> _arrow.EpisodeRow:
        """Add an episode and return its row."""
        row = _arrow.EpisodeRow.from_record(record)
        self._rows.append(row)
        self._num_bytes += sum(array.nbytes for array in (*row.final.values(), *row.start_state.values()))
        if len(self._rows) >= _TABLE_ROWS or self._num_bytes >= _parquet.ROW_GROUP_BYTES:
            self._write_rows()
        return row

    def copy(self, episodes: pa.Table) -> None:
        """Begin with the rows of another version of the same schema."""
        self._start_state_sizes = _arrow.read_start_state_sizes(episodes.schema)
        arrow_schema = _arrow.episode_schema(self._schema, self._start_state_sizes)
        self._writer = _parquet.open_writer(self._path, arrow_schema)
        if len(episodes):
            self._writer.write_table(_arrow.widen_episode_table(episodes, arrow_schema), _TABLE_ROWS)

    def close(self) -> None:
        """Write the remaining rows; a table without episodes gets its columns."""
        if self._rows or self._writer is None:
            self._write_rows()
        self._writer.close()

    def _write_rows(self) -> None:
        sizes: _arrow.StartStateSizes = _arrow.find_start_state_sizes(self._rows)
        if self._writer is not None:
            sizes = _arrow.merge_start_state_sizes(self._start_state_sizes, sizes)
        table = _arrow.build_episode_table(self._rows, self._schema, sizes)
        if self._writer is None:
            self._writer = _parquet.open_writer(self._path, table.schema)
        elif sizes != self._start_state_sizes:
            self._rewrite(table.schema)
        self._start_state_sizes = sizes
        self._writer.write_table(table)
        self._rows = []
        self._num_bytes = 0

    def _rewrite(self, arrow_schema: Any) -> None:
        """Write the earlier rows again, in a schema with nulls for episodes without a start state."""
        self._writer.close()
        table = _parquet.read_table(self._path)
        self._writer = _parquet.open_writer(self._path, arrow_schema)
        self._writer.write_table(_arrow.widen_episode_table(table, arrow_schema))


def _finish_shards(folder: Path, splits: Mapping[str, _SplitWriter]) -> dict[str, tuple[str, int, int]]:
    """Close the shards and return split, number of transitions and number of episodes by path."""
    shards = {}
    for name, split in splits.items():
        for path, num_transitions, num_episodes in split.shards.finish():
            shards[path.relative_to(folder).as_posix()] = (name, num_transitions, num_episodes)
    return shards


def _require_split_name(name: str) -> str:
    if not _SPLIT.fullmatch(name):
        msg = f"Split {name!r}: expected letters, digits and '_', at most 64 characters."
        raise SchemaMismatchError(msg)
    return name
