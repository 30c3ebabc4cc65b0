"""Conversion between columns of episodes and Arrow tables, in memory only.

A field of shape ``()`` or ``(1,)`` is a plain column. A field of any other shape is a ``fixed_size_list`` of its
elements in row-major order, or a ``list`` where its rows have different lengths; its shape is in the schema's metadata,
because ``datasets`` refuses Arrow's tensor types. A string is a UTF-8 column. A bfloat16 is its 16 bits, as uint16.
Encoded pictures are in :mod:`rlhive.data._arrow_pictures`. No column of transitions has nulls. In the episode table,
null is what nobody recorded.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field as dataclass_field
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._arrow_pictures import (
    arrow_to_pictures,
    cells_to_arrow,
    cells_to_pictures,
    count_pictures,
    frames_to_numpy,
    picture_metadata,
    picture_type,
    pictures_to_arrow,
    read_cells,
)
from rlhive.data._dtypes import BFLOAT16, to_numpy_dtype
from rlhive.data._encoded_pictures import Cell, EncodedPictures
from rlhive.data._episodes import Columns, EpisodeRecord
from rlhive.data._ragged import join_rows, split_rows
from rlhive.data._schema import SUMMARIZED, Field, Schema, find_unrecorded
from rlhive.data._video_files import VideoFolder
from rlhive.errors import CorruptDatasetError, SchemaMismatchError

#: Prefix of the columns of the episode table that hold the simulator start state.
START_PREFIX = "start."
#: Prefix of the columns of the episode table that hold the final values of observed fields.
FINAL_PREFIX = "final."

#: Number of elements of each part of the start state; None if some episodes have a start state and others none.
StartStateSizes = Mapping[str, int | None]

#: First columns of the episode table; the ``final.*`` and ``start.*`` columns follow.
EPISODE_FIELDS = (
    pa.field(keys.EPISODE, pa.int64(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("length", pa.int64(), nullable=False),
    pa.field("return", pa.float64()),
    pa.field("success", pa.bool_()),
    pa.field("ended", pa.string(), nullable=False),
    pa.field("seed", pa.int64()),
    pa.field("policy", pa.string(), nullable=False),
    pa.field("run", pa.string(), nullable=False),
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("metadata", pa.string(), nullable=False),
)


@functools.lru_cache(maxsize=64)
def row_schema(schema: Schema) -> pa.Schema:
    """Return the Arrow schema of the transition rows: the two index columns, then the fields."""
    index = [pa.field(name, pa.int64(), nullable=False) for name in (keys.EPISODE, keys.STEP_COUNT)]
    return pa.schema(
        [*index, *(_arrow_field(field) for field in schema.fields)],
        metadata={
            "rlhive": json.dumps({"fields": schema.to_json()}, sort_keys=True),
            **picture_metadata({field.column: field for field in schema.encoded if not field.is_video}),
        },
    )


def episode_schema(schema: Schema, start_state_sizes: StartStateSizes) -> pa.Schema:
    """Return the Arrow schema of the episode table.

    Args:
        schema: The dataset's schema. Its observed fields become the ``final.*`` columns.
        start_state_sizes: Sizes of the start state's parts, which become the ``start.*`` columns. A column with nulls
            is a list of any length, because Arrow cannot read a null of fixed length from Parquet.
    """
    element = pa.field("element", pa.float64(), nullable=False)
    unrecorded = find_unrecorded(schema)
    columns = [
        column.with_nullable(column.name in unrecorded) if column.name in SUMMARIZED else column
        for column in EPISODE_FIELDS
    ]
    finals = [_arrow_field(field, prefix=FINAL_PREFIX) for field in schema.observed]
    starts = [
        pa.field(START_PREFIX + name, pa.list_(element, -1 if size is None else size), nullable=size is None)
        for name, size in sorted(start_state_sizes.items())
    ]
    pictures = [field for field in schema.observed if field.is_encoded and not field.is_video]
    encoded = {FINAL_PREFIX + field.column: field for field in pictures}
    return pa.schema([*columns, *finals, *starts], metadata=picture_metadata(encoded) or None)


def columns_to_batch(
    columns: Columns,
    episode_ids: Sequence[int],
    lengths: Sequence[int],
    schema: Schema,
    cells: Mapping[str, Sequence[Cell]] | None = None,
) -> pa.RecordBatch:
    """Return the transitions of consecutive episodes as one record batch.

    Args:
        columns: Arrays ``[sum(lengths), *field.shape]`` by column name.
        episode_ids: Id of each episode.
        lengths: Number of transitions of each episode.
        schema: The transitions' schema.
        cells: Encoded pictures of the rows by column, for columns whose values are not encoded here.
    """
    row_ids = np.repeat(np.asarray(episode_ids, np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    step_counts = np.arange(len(row_ids), dtype=np.int64) - np.repeat(starts, lengths)
    arrays = [pa.array(row_ids), pa.array(step_counts), *columns_to_arrays(columns, schema, cells)]
    return pa.RecordBatch.from_arrays(arrays, schema=row_schema(schema))


def columns_to_arrays(
    columns: Columns, schema: Schema, cells: Mapping[str, Sequence[Cell]] | None = None
) -> list[pa.Array]:
    """Return all fields as Arrow arrays, in the schema's order; numbers share memory with ``columns``."""
    encoded = cells or {}
    return [
        cells_to_arrow(encoded[field.column], field)
        if field.column in encoded
        else _to_arrow(columns[field.column], field)
        for field in schema.fields
    ]


def table_to_columns(table: pa.Table | pa.RecordBatch, schema: Schema, videos: VideoFolder | None = None) -> Columns:
    """Return the columns of all fields as arrays ``[num_rows, *shape]``.

    They share memory with the table, except where Arrow has to copy: several chunks, booleans and strings.

    Args:
        table: Transitions.
        schema: Their schema.
        videos: Videos of the version, for a schema with videos.
    """
    return {field.column: _read_column(table, field.column, field, videos) for field in schema.fields}


@dataclass(frozen=True)
class EpisodeRow:
    """One row of the episode table. It owns its memory, so the transitions can be freed.

    Attributes:
        values: Values of EPISODE_FIELDS by column name.
        final: Final values of the observed fields by column name.
        start_state: Flat float64 arrays of the simulator start state by name.
        final_cells: Encoded pictures of the final values by column, for columns whose pictures the record carries.
    """

    values: Mapping[str, Any]
    final: Columns
    start_state: Columns
    final_cells: Mapping[str, Sequence[Cell]] = dataclass_field(default_factory=dict)

    @classmethod
    def from_record(cls, record: EpisodeRecord) -> "EpisodeRow":
        """Return the row of an episode."""
        values = {
            keys.EPISODE: record.episode,
            "split": record.split,
            "length": record.length,
            "return": record.episode_return,
            "success": record.success,
            "ended": record.ended,
            "seed": record.seed,
            "policy": record.policy,
            "run": record.run,
            "content_hash": record.content_hash(),
            "metadata": json.dumps(record.metadata, sort_keys=True),
        }
        start_state = {name: np.array(value, np.float64).ravel() for name, value in record.start_state.items()}
        final_cells = {
            name: pictures.final_cells() for name, pictures in record.encoded.items() if name in record.final
        }
        return cls(values, {name: np.array(value) for name, value in record.final.items()}, start_state, final_cells)


def find_start_state_sizes(rows: Sequence[EpisodeRow]) -> dict[str, int | None]:
    """Return the sizes of the start state's parts, which are the same in all rows that have a start state."""
    recorded = next((row.start_state for row in rows if row.start_state), {})
    is_partial = not all(row.start_state for row in rows)
    return {name: None if is_partial else values.size for name, values in recorded.items()}


def read_start_state_sizes(schema: pa.Schema) -> dict[str, int | None]:
    """Return the sizes of the start state's parts in an episode table, None for those of any length."""
    columns = [column for column in schema if column.name.startswith(START_PREFIX)]
    return {column.name.removeprefix(START_PREFIX): getattr(column.type, "list_size", None) for column in columns}


def merge_start_state_sizes(left: StartStateSizes, right: StartStateSizes) -> StartStateSizes:
    """Return the sizes for the rows of two tables together."""
    return left if left == right else dict.fromkeys([*left, *right])


def build_episode_table(
    rows: Sequence[EpisodeRow], schema: Schema, start_state_sizes: StartStateSizes | None = None
) -> pa.Table:
    """Return the episode table with the rows in the given order.

    Args:
        rows: The rows.
        schema: The dataset's schema.
        start_state_sizes: As in :func:`episode_schema`; by default those of the rows.
    """
    sizes = find_start_state_sizes(rows) if start_state_sizes is None else start_state_sizes
    arrow_schema = episode_schema(schema, sizes)
    arrays = [pa.array([row.values[column.name] for row in rows], column.type) for column in EPISODE_FIELDS]
    for field in schema.observed:
        if field.is_video or field.is_lossy:
            arrays.append(cells_to_arrow([cell for row in rows for cell in row.final_cells[field.column]], field))
            continue
        finals = [row.final[field.column] for row in rows]
        dtype, shape = field.kind
        arrays.append(_to_arrow(np.stack(finals) if finals else np.empty((0, *shape), dtype), field))
    for name, size in sorted(sizes.items()):
        arrow_type = arrow_schema.field(START_PREFIX + name).type
        if size is None:
            arrays.append(pa.array([row.start_state.get(name) for row in rows], arrow_type))
        else:
            arrays.append(_to_fixed_size_list(np.concatenate([row.start_state[name] for row in rows]), arrow_type))
    return pa.Table.from_arrays(arrays, schema=arrow_schema)


def widen_episode_table(table: pa.Table, arrow_schema: pa.Schema) -> pa.Table:
    """Return an episode table in the schema of one in which some episodes have a start state and others none."""
    columns = [
        table[column.name].cast(column.type) if column.name in table.column_names else pa.nulls(len(table), column.type)
        for column in arrow_schema
    ]
    return pa.Table.from_arrays(columns, schema=arrow_schema)


def take_row(values: np.ndarray, index: int, field: Field) -> np.ndarray:
    """Return one row of a column as an array of the field's shape; a 0-d array for text, ragged rows and ``()``."""
    return values[index : index + 1].reshape(field.kind[1])


def read_final_values(table: pa.Table, schema: Schema, videos: VideoFolder | None = None) -> Columns:
    """Return the ``final.*`` columns of an episode table, ``[num_episodes, *shape]`` by column name."""
    return {field.column: _read_column(table, FINAL_PREFIX + field.column, field, videos) for field in schema.observed}


def read_encoded(
    rows: pa.Table, episodes: pa.Table, schema: Schema, videos: VideoFolder | None = None
) -> list[dict[str, EncodedPictures]]:
    """Return the encoded pictures of episodes, by column, for the columns whose pictures a record carries.

    Args:
        rows: Transitions of the episodes, in the order of ``episodes``.
        episodes: Rows of the episode table, ``length`` and the final values among them.
        schema: The dataset's schema.
        videos: Videos of the version, for a schema with videos.

    Raises:
        CorruptDatasetError: A picture is missing, or the frames of an episode are not consecutive.
    """
    encoded: list[dict[str, EncodedPictures]] = [{} for _ in range(len(episodes))]
    if not schema.carried:
        return encoded
    lengths = episodes["length"].to_pylist()
    for field in schema.carried:
        num_pictures = count_pictures(field)
        row_cells = read_cells(rows.column(field.column), field)
        final_cells = read_cells(episodes.column(FINAL_PREFIX + field.column), field) if field.observed else []
        start = 0
        for index, length in enumerate(lengths):
            cells = row_cells[start * num_pictures : (start + length) * num_pictures]
            cells += final_cells[index * num_pictures : (index + 1) * num_pictures]
            encoded[index][field.column] = cells_to_pictures(cells, field, length, videos)
            start += length
    return encoded


def read_start_states(table: pa.Table) -> Iterator[dict[str, np.ndarray]]:
    """Yield the simulator start state of every row of an episode table; an empty one where none was recorded."""
    columns = [name for name in table.column_names if name.startswith(START_PREFIX)]
    parts = {name.removeprefix(START_PREFIX): _read_start_column(table.column(name)) for name in columns}
    for row in range(len(table)):
        yield {name: state for name, values in parts.items() if (state := values[row]) is not None}


def _read_start_column(column: pa.ChunkedArray) -> Sequence[np.ndarray | None] | np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return _column_to_array(column)
    array = _combine(column)
    offsets, values = array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)
    is_recorded = array.is_valid().to_numpy(zero_copy_only=False)
    return [values[offsets[row] : offsets[row + 1]] if is_recorded[row] else None for row in range(len(array))]


def table_to_records(
    rows: pa.Table, episodes: pa.Table, schema: Schema, videos: VideoFolder | None = None
) -> Iterator[EpisodeRecord]:
    """Yield the records of episodes whose transitions are known.

    Args:
        rows: Transitions of the episodes, in the order of ``episodes``.
        episodes: Rows of the episode table.
        schema: The dataset's schema.
        videos: Videos of the version, for a schema with videos.

    Raises:
        CorruptDatasetError: Id, length or content hash of an episode is not that of its transitions.
    """
    columns, finals = table_to_columns(rows, schema, videos), read_final_values(episodes, schema, videos)
    encoded = read_encoded(rows, episodes, schema, videos)
    row_ids = rows.column(keys.EPISODE).to_numpy()
    names = (keys.EPISODE, "split", "length", "seed", "policy", "run", "content_hash", "metadata")
    episode_rows = episodes.select(names).to_pylist()
    start = 0
    for index, (row, state) in enumerate(zip(episode_rows, read_start_states(episodes), strict=True)):
        stop = start + row["length"]
        record = EpisodeRecord(
            episode=row[keys.EPISODE],
            split=row["split"],
            columns={name: array[start:stop] for name, array in columns.items()},
            final={field.column: take_row(finals[field.column], index, field) for field in schema.observed},
            seed=row["seed"],
            start_state=state,
            policy=row["policy"],
            run=row["run"],
            metadata=json.loads(row["metadata"]),
            encoded=encoded[index],
        )
        _require_match(record, row_ids[start:stop], row)
        yield record
        start = stop


def _require_match(record: EpisodeRecord, row_ids: np.ndarray, row: Mapping[str, object]) -> None:
    """Raise unless a record has the length, ids and content hash that its row of the episode table gives."""
    is_complete = len(row_ids) == row["length"] and (row_ids == record.episode).all()
    if is_complete and record.content_hash() == row["content_hash"]:
        return
    msg = (
        f"Episode {record.episode}: expected {row['length']} transitions with content hash {row['content_hash']}, "
        f"got {len(row_ids)} with {record.content_hash() if len(row_ids) else 'none'}. Fetch or make the version again."
    )
    raise CorruptDatasetError(msg)


@functools.lru_cache(maxsize=1024)
def _arrow_field(field: Field, *, prefix: str = "") -> pa.Field:
    if field.is_encoded:
        return pa.field(prefix + field.column, picture_type(field))
    dtype = to_numpy_dtype(field.dtype)
    value_type = pa.string() if field.is_string else pa.from_numpy_dtype(_stored_dtype(dtype))
    if field.shape not in ((), (1,)):
        size = -1 if field.is_ragged else field.width
        value_type = pa.list_(pa.field("element", value_type, nullable=False), size)
    return pa.field(prefix + field.column, value_type, nullable=False)


def _to_arrow(values: np.ndarray, field: Field) -> pa.Array:
    if field.is_string:
        return pa.array(values.tolist(), pa.string())
    if field.is_encoded:
        return pictures_to_arrow(values, field)
    arrow_type = _arrow_field(field).type
    if field.is_ragged:
        return _ragged_to_arrow(values, field, arrow_type)
    values = values.view(_stored_dtype(values.dtype))
    if pa.types.is_fixed_size_list(arrow_type):
        return _to_fixed_size_list(values, arrow_type)
    return pa.array(np.ascontiguousarray(values).reshape(len(values)), arrow_type)


def _to_fixed_size_list(values: np.ndarray, arrow_type: pa.DataType) -> pa.Array:
    elements = pa.array(np.ascontiguousarray(values).ravel(), arrow_type.value_type)
    return pa.FixedSizeListArray.from_arrays(elements, type=arrow_type)


def _ragged_to_arrow(values: np.ndarray, field: Field, arrow_type: pa.DataType) -> pa.Array:
    joined, lengths = join_rows(values) if len(values) else (np.empty((0, *field.shape[1:])), np.empty(0, np.int64))
    if len(values) and joined.dtype != to_numpy_dtype(field.dtype):
        msg = f"Column {field.column}: expected rows of {field.dtype}, got {joined.dtype}."
        raise SchemaMismatchError(msg)
    elements = pa.array(joined.view(_stored_dtype(joined.dtype)).ravel(), arrow_type.value_type)
    offsets = np.concatenate([[0], (lengths * math.prod(field.shape[1:])).cumsum()])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements, type=arrow_type)


def _ragged_to_numpy(column: pa.Array | pa.ChunkedArray, field: Field) -> np.ndarray:
    column = _combine(column)
    elements = column.flatten().to_numpy(zero_copy_only=False)
    values = elements.view(BFLOAT16) if to_numpy_dtype(field.dtype) == BFLOAT16 else elements
    inner_size = max(math.prod(field.shape[1:]), 1)
    lengths, rest = np.divmod(np.diff(column.offsets.to_numpy()), inner_size)
    if rest.any():
        msg = f"Column {field.column}: expected rows of a multiple of {inner_size} elements, got others."
        raise CorruptDatasetError(msg)
    return split_rows(values.reshape(-1, *field.shape[1:]), lengths)


def _read_column(table: pa.Table | pa.RecordBatch, name: str, field: Field, videos: VideoFolder | None) -> np.ndarray:
    if field.is_video:
        return frames_to_numpy(table.column(name), table.column(keys.EPISODE).to_numpy(), field, videos)
    return _to_numpy(table.column(name), field)


def _to_numpy(column: pa.Array | pa.ChunkedArray, field: Field) -> np.ndarray:
    if field.is_encoded:
        return arrow_to_pictures(column, field)
    if field.is_ragged:
        return _ragged_to_numpy(column, field)
    values = _column_to_array(column).reshape(len(column), *field.shape)
    return values.view(BFLOAT16) if to_numpy_dtype(field.dtype) == BFLOAT16 else values


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that Arrow stores values of a dtype in: uint16 for the bits of bfloat16."""
    return np.dtype(np.uint16) if dtype == BFLOAT16 else dtype


def _column_to_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column's elements as ``[num_rows, width]`` (lists) or ``[num_rows]`` (plain columns)."""
    column = _combine(column)
    if pa.types.is_fixed_size_list(column.type):
        # flatten() and not .values, which ignores the offset of a slice.
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _combine(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the chunks of a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # what combine_chunks returns for a column without chunks
            column = pa.array([], column.type)
    return column
