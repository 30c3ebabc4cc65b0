"""Operations on the episodes of versions: each takes sources and gives one, lazily; export writes it.

    version ─► stream ─┬─► merged ─────────────► export ─► new version
    version ─► stream ─┘   with other columns
                           with other rewards

Memory: a row group and an episode per source, whatever the size of the version; merging also remembers 32 bytes for
each episode.
"""

import heapq
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data._schema import DTYPES, INDEX_COLUMNS, Field, Schema
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.versions import _reader
from rlhive.data.versions._manifest import Manifest, verify_files
from rlhive.data.versions._source import VersionSource
from rlhive.errors import SchemaMismatch

logger = logging.getLogger(__name__)

#: Of the columns ``[T, *shape]`` and final values of an episode, an array ``[T, …]``.
ColumnFunction = Callable[[Columns, Columns], np.ndarray]


def stream_selected(folder: Path, manifest: Manifest, selection: Mapping[str, np.ndarray]) -> Iterator[EpisodeRecord]:
    """Yield the selected episodes of a version in rising order of their ids, in the splits of the selection.

    A shard is verified before it is read, and only those that hold a selected episode are; every episode is checked
    by its content hash.

    Raises:
        CorruptDataset: A file or an episode is not what the manifest recorded.
    """
    split_of = {int(episode): split for split, ids in selection.items() for episode in ids}
    episodes = _reader.read_episodes(folder, manifest)
    parts = [_stream_split(folder, manifest, episodes, split, split_of) for split in manifest.splits]
    for record in heapq.merge(*parts, key=lambda record: record.episode):
        split = split_of[record.episode]
        yield record if record.split == split else replace(record, split=split)


def merge(sources: Sequence[VersionSource], *, keep_ids_of_first: bool = False) -> VersionSource:
    """Return the episodes of several sources, one source after the other, each content once.

    Args:
        sources: At least one. Episodes get new ids from 0 on and keep split, seed, start state, policy, metadata, run.
        keep_ids_of_first: The first source's episodes keep their ids, and the others' follow the highest.

    Raises:
        SchemaMismatch: The sources have different schemas; names the first difference.
    """
    first = sources[0]
    for number, source in enumerate(sources[1:], start=2):
        first.schema.require(source.schema, context=f"Merging: source {number} is not like the first")

    def records() -> Iterator[EpisodeRecord]:
        seen: set[bytes] = set()
        episode, dropped = -1, 0
        for source in sources:
            for record in source.records():
                content = bytes.fromhex(record.content_hash())
                if content in seen:
                    dropped += 1
                    continue
                seen.add(content)
                kept = keep_ids_of_first and source is first
                episode = record.episode if kept else episode + 1
                yield record if kept else replace(record, episode=episode)
        if dropped:
            logger.warning("Merging: dropped %d episodes whose content was there already", dropped)

    licenses, envs, tasks = ({getattr(item, name) for item in sources} for name in ("license", "env_name", "task"))
    runs = {repr(run): run for source in sources for run in source.runs}
    return VersionSource(
        first.schema,
        records,
        splits=tuple(dict.fromkeys(split for source in sources for split in source.splits)),
        runs=tuple(runs.values()),
        parents=tuple(parent for source in sources for parent in source.parents),
        license=licenses.pop() if len(licenses) == 1 else "",
        description=first.description,
        env_name=envs.pop() if len(envs) == 1 else "",
        task=tasks.pop() if len(tasks) == 1 else "",
    )


def rename_column(source: VersionSource, old: str, new: str) -> VersionSource:
    """Return the source with a column under another name.

    Raises:
        SchemaMismatch: There is no such column, the new name is taken, or RLHive needs the old one.
    """
    item = _require_free(source.schema, old)
    _require_new(source.schema, new, observed=item.observed)
    fields = [replace(item, column=new), *(field for field in source.schema.fields if field.column != old)]

    def change(record: EpisodeRecord) -> EpisodeRecord:
        parts = ({new if name == old else name: array for name, array in part.items()} for part in _both(record))
        return _with(record, *parts)

    return _changed(source, fields, change)


def drop_columns(source: VersionSource, columns: Sequence[str]) -> VersionSource:
    """Return the source without some columns.

    Raises:
        SchemaMismatch: There is no such column, or RLHive needs it.
    """
    for column in columns:
        _require_free(source.schema, column)

    def change(record: EpisodeRecord) -> EpisodeRecord:
        return _with(record, *({name: part[name] for name in part if name not in columns} for part in _both(record)))

    return _changed(source, [item for item in source.schema.fields if item.column not in columns], change)


def add_column(
    source: VersionSource, column: str, compute: ColumnFunction, *, unit: str | None = None
) -> VersionSource:
    """Return the source with a column more.

    Args:
        source: The episodes.
        column: Its name, dotted below ``next`` or in a group.
        compute: Gives the column of an episode: ``[T, …]``, or ``[T + 1, …]`` of a quantity that is observed, its
            value after the last action last. The first episode decides dtype and shape.
        unit: Physical unit.

    Raises:
        SchemaMismatch: The name is taken, or what was computed cannot be a column.
    """
    _require_new(source.schema, column, observed=False)

    def change(record: EpisodeRecord) -> EpisodeRecord:
        columns, final = _both(record)
        values = np.asarray(compute(dict(columns), dict(final)))
        if values.ndim < 1 or len(values) not in (record.length, record.length + 1):
            msg = (
                f"Episode {record.episode}: expected {record.length} or {record.length + 1} rows of {column}, got "
                f"shape {values.shape}. Return one row per transition."
            )
            raise SchemaMismatch(msg)
        more = {} if len(values) == record.length else {column: values[-1]}
        return _with(record, columns | {column: values[: record.length]}, final | more)

    sample = next(source.records(), None)
    if sample is None:
        msg = f"Column {column}: expected an episode to compute it from, got none. Add columns to the recordings."
        raise SchemaMismatch(msg)
    made = change(sample)
    array = made.columns[column]
    if array.dtype.name not in DTYPES:
        msg = f"Column {column}: expected one of {', '.join(DTYPES)}, got {array.dtype.name}. Convert it."
        raise SchemaMismatch(msg)
    _require_new(source.schema, column, observed=column in made.final)
    item = Field(column, array.dtype.name, array.shape[1:], column in made.final, unit)
    return _changed(source, [*source.schema.fields, item], change)


def relabel(source: VersionSource, compute: Callable[[EpisodeRecord], np.ndarray]) -> VersionSource:
    """Return the source with other rewards.

    Args:
        source: The episodes.
        compute: Gives the rewards of an episode, T numbers, each of the state after the action.

    Raises:
        SchemaMismatch: There is no reward, or another number of values was computed.
    """
    item = next((field for field in source.schema.fields if field.column == REWARD), None)
    if item is None:
        msg = f"Relabelling: expected a column {REWARD}, got {', '.join(source.schema.columns)}. Add one instead."
        raise SchemaMismatch(msg)

    def change(record: EpisodeRecord) -> EpisodeRecord:
        values = np.asarray(compute(record))
        if values.size != record.length * item.width:
            msg = f"Episode {record.episode}: expected {record.length} rewards, got shape {values.shape}."
            raise SchemaMismatch(msg)
        rewards = values.astype(item.dtype).reshape(record.length, *item.shape)
        return _with(record, record.columns | {REWARD: rewards}, record.final)

    return _changed(source, source.schema.fields, change)


def compute_statistics(source: VersionSource) -> dict[str, ColumnStatistics]:
    """Return the statistics of every column but text, in one pass over the episodes."""
    summaries: dict[str, ColumnStatistics] = {}
    block: list[Columns] = []
    rows = 0
    for record in source.records():
        block.append(record.columns)
        rows += record.length
        if rows >= _parquet.ROW_GROUP_ROWS:
            _summarise(block, summaries)
            block, rows = [], 0
    if block:
        _summarise(block, summaries)
    return summaries


def _summarise(block: Sequence[Columns], summaries: dict[str, ColumnStatistics]) -> None:
    for name in block[0]:
        rows = np.concatenate([columns[name] for columns in block])
        if rows.dtype == object:  # text
            continue
        if name in summaries:
            summaries[name].add(rows)
        else:
            summaries[name] = ColumnStatistics.from_rows(rows)


def _changed(
    source: VersionSource, fields: Sequence[Field], change: Callable[[EpisodeRecord], EpisodeRecord]
) -> VersionSource:
    schema = Schema(tuple(sorted(fields, key=lambda item: item.column)))
    return replace(source, schema=schema, records=lambda: map(change, source.records()))


def _both(record: EpisodeRecord) -> tuple[Columns, Columns]:
    return record.columns, record.final


def _with(record: EpisodeRecord, columns: Columns, final: Columns) -> EpisodeRecord:
    return replace(record, columns=columns, final=final)


def _require_free(schema: Schema, column: str) -> Field:
    """Return the field of a column that may be changed."""
    if column in (TERMINATED, TRUNCATED):
        msg = f"Column {column} says where episodes end: expected another one. Keep it."
        raise SchemaMismatch(msg)
    for item in schema.fields:
        if item.column == column:
            return item
    msg = f"There is no column {column}: expected one of {', '.join(schema.columns)}. Name one of them."
    raise SchemaMismatch(msg)


def _require_new(schema: Schema, column: str, *, observed: bool) -> None:
    taken = {*schema.columns, *INDEX_COLUMNS, *keys.END_FLAGS, keys.key_to_column(keys.NEXT_DONE)}
    taken |= {f"{keys.NEXT}.{item.column}" for item in schema.observed}
    try:
        keys.key_to_column(keys.column_to_key(column))
    except ValueError as error:
        raise SchemaMismatch(str(error)) from error
    if column in taken or (observed and column.startswith(f"{keys.NEXT}.")):
        msg = f"Column {column} is there already or derived: expected a new name. Choose another one."
        raise SchemaMismatch(msg)


def _stream_split(
    folder: Path, manifest: Manifest, episodes: pa.Table, split: str, wanted: Mapping[int, str]
) -> Iterator[EpisodeRecord]:
    own = episodes.filter(pc.equal(episodes["split"], split))
    start = 0
    for entry in manifest.shards(split):
        table = own.slice(start, entry.num_episodes)
        start += entry.num_episodes
        if not any(episode in wanted for episode in table[keys.EPISODE].to_pylist()):
            continue
        verify_files(folder, [entry])
        for record in _cut(_parquet.read_batches([Path(folder) / entry.path]), table, manifest.schema):
            if record.episode in wanted:
                yield record


def _cut(batches: Iterator[pa.RecordBatch], episodes: pa.Table, schema: Schema) -> Iterator[EpisodeRecord]:
    """Yield the episodes of a shard as soon as their rows have been read."""
    stops = list(itertools.accumulate(episodes["length"].to_pylist()))
    rows = _arrow.row_schema(schema).empty_table()
    done = taken = 0  # episodes yielded, and their rows
    for batch in batches:
        rows = pa.concat_tables([rows, pa.Table.from_batches([batch])])
        complete = next((index for index, stop in enumerate(stops[done:]) if stop > taken + len(rows)), None)
        count = len(stops) - done if complete is None else complete
        if count:
            size = stops[done + count - 1] - taken
            yield from _arrow.table_to_records(rows.slice(0, size), episodes.slice(done, count), schema)
            rows, done, taken = _copy(rows.slice(size)), done + count, taken + size
    if done < len(stops):  # too few rows: let the episode say so
        yield from _arrow.table_to_records(rows, episodes.slice(done), schema)


def _copy(rows: pa.Table) -> pa.Table:
    """Return the rows in memory of their own: a slice, even of no rows, keeps alive what it was cut from."""
    return rows.take(np.arange(len(rows)))
