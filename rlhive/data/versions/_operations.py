"""Operations on the episodes of versions. Each takes sources and returns a lazy source; export writes the result.

    version ─► stream ─┬─► merged ─────────────► export ─► new version
    version ─► stream ─┘   with other columns
                           with other rewards

Memory: a row group and an episode per source, for any size of the version. Merging also keeps 32 bytes per episode.
"""

import bisect
import heapq
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive._provenance import scrub_run, shorten_paths
from rlhive._secrets import mask_secrets
from rlhive.data import _arrow, _parquet
from rlhive.data._arrow_pictures import count_decoded_bytes
from rlhive.data._dtypes import DTYPES, adopt_array, cast_array, dtype_name, suggest_conversion, to_numpy_dtype
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data._schema import INDEX_COLUMNS, Field, Schema
from rlhive.data._statistics import ColumnStatistics
from rlhive.data._timing import find_fps
from rlhive.data._video_files import VideoFolder
from rlhive.data.versions import _reader
from rlhive.data.versions._manifest import FileEntry, Manifest, verify_files
from rlhive.data.versions._source import VersionSource
from rlhive.errors import SchemaMismatchError

logger = logging.getLogger(__name__)

#: Computes an array ``[T, …]`` from an episode's columns ``[T, *shape]`` and its final values ``[*shape]``, by name.
ColumnFunction = Callable[[Columns, Columns], np.ndarray]

EpisodeFunction = Callable[[EpisodeRecord], EpisodeRecord]


def stream_selected(folder: Path, manifest: Manifest, selection: Mapping[str, np.ndarray]) -> Iterator[EpisodeRecord]:
    """Yield the selected episodes of a version in rising order of ids, in the splits of the selection.

    Only shards with a selected episode are read. Each is verified first, and each episode by its content hash.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        selection: Episode ids of each split.

    Raises:
        CorruptDatasetError: A file or an episode is not what the manifest recorded.
    """
    split_of = {int(episode): split for split, episode_ids in selection.items() for episode in episode_ids}
    shards: dict[str, list[tuple[FileEntry, pa.Table]]] = {split: [] for split in manifest.splits}
    for entry, episodes in _reader.iterate_shards(folder, manifest, manifest.splits):
        shards[entry.split].append((entry, episodes))
    videos = _reader.open_videos(folder, manifest)
    streams = [_stream_split(folder, manifest, split_shards, split_of, videos) for split_shards in shards.values()]
    for record in heapq.merge(*streams, key=lambda record: record.episode):
        split = split_of[record.episode]
        yield record if record.split == split else replace(record, split=split)


def merge(sources: Sequence[VersionSource], *, keep_ids_of_first: bool = False) -> VersionSource:
    """Return the episodes of several sources, one source after the other, without duplicates of the same content.

    Args:
        sources: At least one source. Episodes get new ids from 0; split, seed, start state, policy, metadata and run
            stay.
        keep_ids_of_first: Whether the first source's episodes keep their ids, and the others' get the ids that follow.
            The first source then keeps all of its episodes, equal ones too.

    Raises:
        SchemaMismatchError: The sources have different schemas; names every difference.
    """
    first = sources[0]
    for number, source in enumerate(sources[1:], start=2):
        _require_same_columns(first.schema, source.schema, number)

    def records() -> Iterator[EpisodeRecord]:
        seen: set[bytes] = set()
        episode = -1
        num_duplicates = 0
        for source in sources:
            keep_ids = keep_ids_of_first and source is first
            for record in source.records():
                content = bytes.fromhex(record.content_hash())
                if content in seen and not keep_ids:
                    num_duplicates += 1
                    continue
                seen.add(content)
                episode = record.episode if keep_ids else episode + 1
                yield record if keep_ids else replace(record, episode=episode)
        if num_duplicates:
            logger.warning("Merging: dropped %d episodes that duplicate another episode", num_duplicates)

    runs = {repr(run): run for source in sources for run in source.runs}
    rates = list(dict.fromkeys(find_fps(source.runs) for source in sources))
    if len(rates) > 1:
        names = " and ".join("none" if rate is None else f"{rate:g}" for rate in rates)
        logger.warning("Merging: rates of %s frames per second: the result has none, and each run keeps its own", names)
    return VersionSource(
        first.schema,
        records,
        splits=tuple(dict.fromkeys(split for source in sources for split in source.splits)),
        runs=tuple(runs.values()),
        parents=tuple(parent for source in sources for parent in source.parents),
        license=_common_value([source.license for source in sources]),
        description=first.description,
        env_name=_common_value([source.env_name for source in sources]),
        task=_common_value([source.task for source in sources]),
    )


def rename_column(source: VersionSource, old: str, new: str) -> VersionSource:
    """Return the source with a column under another name.

    Raises:
        SchemaMismatchError: The column does not exist, the new name is taken, or RLHive needs the old column.
    """
    item = _require_changeable(source.schema, old)
    _require_new(source.schema, new, observed=item.observed)
    fields = [replace(item, column=new), *(field for field in source.schema.fields if field.column != old)]

    def rename(columns: Columns) -> Columns:
        return {new if name == old else name: array for name, array in columns.items()}

    def change(record: EpisodeRecord) -> EpisodeRecord:
        encoded = {new if name == old else name: pictures for name, pictures in record.encoded.items()}
        return replace(record, columns=rename(record.columns), final=rename(record.final), encoded=encoded)

    return _map_episodes(source, fields, change)


def drop_columns(source: VersionSource, columns: Sequence[str]) -> VersionSource:
    """Return the source without some columns.

    Raises:
        SchemaMismatchError: A column does not exist, or RLHive needs it.
    """
    for column in columns:
        _require_changeable(source.schema, column)

    def drop(arrays: Columns) -> Columns:
        return {name: array for name, array in arrays.items() if name not in columns}

    def change(record: EpisodeRecord) -> EpisodeRecord:
        return replace(record, columns=drop(record.columns), final=drop(record.final))

    return _map_episodes(source, [item for item in source.schema.fields if item.column not in columns], change)


def add_column(
    source: VersionSource, column: str, compute: ColumnFunction, *, unit: str | None = None
) -> VersionSource:
    """Return the source with an additional column.

    Args:
        source: The episodes.
        column: Name of the column, dotted below ``next`` or in a group.
        compute: Computes the column of an episode: ``[T, …]``, or ``[T + 1, …]`` for an observed quantity, whose last
            row is the value after the last action. The first episode decides dtype and shape.
        unit: Physical unit.

    Raises:
        SchemaMismatchError: The name is taken, or the computed array cannot be a column.
    """
    _require_new(source.schema, column, observed=False)

    def change(record: EpisodeRecord) -> EpisodeRecord:
        values = adopt_array(compute(dict(record.columns), dict(record.final)))
        if values.ndim < 1 or len(values) not in (record.length, record.length + 1):
            msg = (
                f"Episode {record.episode}: expected {record.length} or {record.length + 1} rows of {column}, got "
                f"shape {values.shape}. Return one row per transition."
            )
            raise SchemaMismatchError(msg)
        columns = record.columns | {column: values[: record.length]}
        final = record.final if len(values) == record.length else record.final | {column: values[-1]}
        return replace(record, columns=columns, final=final)

    first = next(source.records(), None)
    if first is None:
        msg = f"Column {column}: expected an episode to compute it from, got none. Add columns to the recordings."
        raise SchemaMismatchError(msg)
    changed = change(first)
    array = changed.columns[column]
    observed = column in changed.final
    dtype = dtype_name(array.dtype)
    if dtype not in DTYPES:
        msg = f"Column {column}: expected one of {', '.join(DTYPES)}, got {dtype}.{suggest_conversion(dtype)}"
        raise SchemaMismatchError(msg)
    _require_new(source.schema, column, observed=observed)
    item = Field(column, dtype, array.shape[1:], observed, unit)
    return _map_episodes(source, [*source.schema.fields, item], change)


def add_stored_columns(
    source: VersionSource, fields: Sequence[Field], read: Callable[[EpisodeRecord], Mapping[str, np.ndarray]]
) -> VersionSource:
    """Return the source with additional columns of values that were computed before.

    Args:
        source: The episodes.
        fields: The columns.
        read: Returns the values of an episode by column: ``[T + 1, *shape]`` for an observed one, else ``[T, *shape]``.

    Raises:
        SchemaMismatchError: A name is taken.
    """
    for item in fields:
        _require_new(source.schema, item.column, observed=item.observed)

    def change(record: EpisodeRecord) -> EpisodeRecord:
        values = read(record)
        columns = {item.column: values[item.column][: record.length] for item in fields}
        final = {item.column: values[item.column][-1] for item in fields if item.observed}
        return replace(record, columns=record.columns | columns, final=record.final | final)

    return _map_episodes(source, [*source.schema.fields, *fields], change)


def relabel(source: VersionSource, compute: Callable[[EpisodeRecord], np.ndarray]) -> VersionSource:
    """Return the source with other rewards.

    Args:
        source: The episodes.
        compute: Computes the T rewards of an episode. A reward belongs to the state after the action.

    Raises:
        SchemaMismatchError: There is no reward column, or another number of rewards was computed.
    """
    item = next((field for field in source.schema.fields if field.column == REWARD), None)
    if item is None:
        columns = ", ".join(source.schema.columns)
        msg = (
            f"Relabelling: expected a column {REWARD}, got {columns}: no reward was recorded. "
            f"add_column({REWARD!r}, …) adds one: its function returns [T, 1] numbers of an episode."
        )
        raise SchemaMismatchError(msg)
    dtype, shape, width = to_numpy_dtype(item.dtype), item.shape, item.width

    def change(record: EpisodeRecord) -> EpisodeRecord:
        values = adopt_array(compute(record))
        if values.size != record.length * width:
            msg = f"Episode {record.episode}: expected {record.length} rewards, got shape {values.shape}."
            raise SchemaMismatchError(msg)
        rewards = cast_array(values, dtype).reshape(record.length, *shape)
        return replace(record, columns=record.columns | {REWARD: rewards})

    return _map_episodes(source, source.schema.fields, change)


def scrub(source: VersionSource) -> VersionSource:
    """Return the episodes without what identifies a machine, and without secrets of the known forms.

    Runs lose the command line and the host; in runs, metadata, policies and the description absolute paths are
    shortened and secrets masked. Transitions stay as they are.
    """

    def scrub_record(record: EpisodeRecord) -> EpisodeRecord:
        return replace(
            record, metadata=shorten_paths(mask_secrets(record.metadata)), policy=mask_secrets(record.policy)
        )

    scrubbed = _map_episodes(source, source.schema.fields, scrub_record)
    return replace(
        scrubbed,
        runs=tuple(scrub_run(run) for run in source.runs),
        description=shorten_paths(mask_secrets(source.description)),
    )


def compute_statistics(source: VersionSource) -> dict[str, ColumnStatistics]:
    """Return the statistics of every column except text, in one pass over the episodes."""
    statistics: dict[str, ColumnStatistics] = {}
    block: list[Columns] = []
    num_rows = 0
    for record in source.records():
        block.append(record.columns)
        num_rows += record.length
        if num_rows >= _parquet.ROW_GROUP_ROWS:
            _update_statistics(statistics, block)
            block, num_rows = [], 0
    if block:
        _update_statistics(statistics, block)
    return statistics


def _update_statistics(statistics: dict[str, ColumnStatistics], block: Sequence[Columns]) -> None:
    for name in block[0]:
        rows = np.concatenate([columns[name] for columns in block])
        if rows.dtype == object:  # text has no statistics
            continue
        if name in statistics:
            statistics[name].add(rows)
        else:
            statistics[name] = ColumnStatistics.from_rows(rows)


def _map_episodes(source: VersionSource, fields: Sequence[Field], change: EpisodeFunction) -> VersionSource:
    """Return the source with a function applied to each episode, and with the fields that result."""
    schema = Schema(tuple(sorted(fields, key=lambda item: item.column)))
    return replace(source, schema=schema, records=lambda: map(change, source.records()))


def _require_same_columns(first: Schema, other: Schema, number: int) -> None:
    """Raise unless the sources of a merge have the same columns.

    Raises:
        SchemaMismatchError: Names the columns that differ, and what makes the sources alike.
    """
    missing, extra = (sorted({*left.columns} - {*right.columns}) for left, right in ((first, other), (other, first)))
    problems = [
        *(f"it lacks {name}" for name in missing),
        *(f"the first lacks {name}" for name in extra),
        *first.find_changes(other),
        *_find_other_units(first, other),
    ]
    if problems:
        msg = (
            f"Merging: source {number} is not like the first: {', '.join(problems)}. drop_column() leaves out what one "
            "of them lacks or has otherwise; rename_column() and add_column() make a column that it should have."
        )
        raise SchemaMismatchError(msg)


def _find_other_units(first: Schema, other: Schema) -> Iterator[str]:
    """Yield how the units of common columns differ; a unit that only one of them names is taken for both."""
    units = {item.column: item.unit for item in first.fields}
    for item in other.fields:
        expected = units.get(item.column)
        if expected and item.unit and item.unit != expected:
            yield f"{item.column} is in {item.unit!r}, expected {expected!r}"


def _common_value(values: Sequence[str]) -> str:
    """Return the value that all sources have; empty where they differ."""
    return values[0] if len(set(values)) == 1 else ""


def _require_changeable(schema: Schema, column: str) -> Field:
    """Return the field of a column that may be changed.

    Raises:
        SchemaMismatchError: The column does not exist or is an end flag.
    """
    if column in (TERMINATED, TRUNCATED):
        msg = f"Column {column} says where episodes end: it cannot be renamed or dropped."
        raise SchemaMismatchError(msg)
    for item in schema.fields:
        if item.column == column:
            return item
    msg = f"There is no column {column}: expected one of {', '.join(schema.columns)}."
    raise SchemaMismatchError(msg)


def _require_new(schema: Schema, column: str, *, observed: bool) -> None:
    """Raise unless a name can be given to a new column.

    Raises:
        SchemaMismatchError: The name is taken or not a column name.
    """
    taken = {*schema.columns, *INDEX_COLUMNS, *keys.END_FLAGS, keys.key_to_column(keys.NEXT_DONE)}
    taken |= {f"{keys.NEXT}.{item.column}" for item in schema.observed}
    try:
        keys.key_to_column(keys.column_to_key(column))
    except ValueError as error:
        raise SchemaMismatchError(str(error)) from error
    if column in taken or (observed and column.startswith(f"{keys.NEXT}.")):
        msg = f"Column {column} exists already or is derived: expected a new name."
        raise SchemaMismatchError(msg)


def _stream_split(
    folder: Path,
    manifest: Manifest,
    shards: Sequence[tuple[FileEntry, pa.Table]],
    selected: Mapping[int, str],
    videos: VideoFolder,
) -> Iterator[EpisodeRecord]:
    """Yield the selected episodes of one split of a version.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        shards: Shards of the split, each with its rows of the episode table.
        selected: The selected episodes; the keys count.
        videos: Videos of the version.
    """
    for entry, episodes in shards:
        if not any(episode in selected for episode in episodes[keys.EPISODE].to_pylist()):
            continue
        verify_files(folder, [entry])
        decoded_bytes = count_decoded_bytes(manifest.schema)
        batches = _parquet.read_batches([Path(folder) / entry.path], decoded_bytes=decoded_bytes)
        for record in _split_into_records(batches, episodes, manifest.schema, videos):
            if record.episode in selected:
                yield record


def _split_into_records(
    batches: Iterator[pa.RecordBatch], episodes: pa.Table, schema: Schema, videos: VideoFolder
) -> Iterator[EpisodeRecord]:
    """Yield the episodes of a shard as soon as their rows have been read."""
    stops = list(itertools.accumulate(episodes["length"].to_pylist()))
    rows = _arrow.row_schema(schema).empty_table()
    num_yielded = 0  # episodes
    first_row = 0  # position in the shard of the first row in `rows`
    for batch in batches:
        rows = pa.concat_tables([rows, pa.Table.from_batches([batch])])
        num_complete = bisect.bisect_right(stops, first_row + len(rows)) - num_yielded
        if num_complete:
            num_rows = stops[num_yielded + num_complete - 1] - first_row
            complete_episodes = episodes.slice(num_yielded, num_complete)
            yield from _arrow.table_to_records(rows.slice(0, num_rows), complete_episodes, schema, videos)
            rows = _copy_table(rows.slice(num_rows))
            num_yielded += num_complete
            first_row += num_rows
    if num_yielded < len(stops):  # too few rows: table_to_records raises for the first incomplete episode
        yield from _arrow.table_to_records(rows, episodes.slice(num_yielded), schema, videos)


def _copy_table(rows: pa.Table) -> pa.Table:
    """Return a copy of the rows. A slice, even of no rows, keeps the memory of the whole table alive."""
    return rows.take(np.arange(len(rows)))
