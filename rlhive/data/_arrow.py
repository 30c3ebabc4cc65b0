"""Columns of episodes ⇄ Arrow tables in memory. No paths, no files.

A field of shape ``()`` or ``(1,)`` is a plain column; any other shape is a ``fixed_size_list`` of its flattened
elements, row-major, with the shape in the schema's metadata (``datasets`` refuses Arrow's tensor types). A
string is a UTF-8 column. No column ever holds a null.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._episodes import Columns, EpisodeRecord
from rlhive.data._schema import STRING, Field, Schema
from rlhive.errors import CorruptDataset

START_PREFIX = "start."
FINAL_PREFIX = "final."

#: The episode table's own columns; ``final.*`` and ``start.*`` follow them.
EPISODE_FIELDS = (
    pa.field(keys.EPISODE, pa.int64(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("length", pa.int64(), nullable=False),
    pa.field("return", pa.float64(), nullable=False),
    pa.field("success", pa.bool_(), nullable=False),
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
        [*index, *(_arrow_field(item) for item in schema.fields)],
        metadata={"rlhive": json.dumps({"fields": schema.to_json()}, sort_keys=True)},
    )


def episode_schema(schema: Schema, start_state: Mapping[str, np.ndarray]) -> pa.Schema:
    """Return the Arrow schema of the episode table.

    Args:
        schema: Of the dataset; its observed fields give the ``final.*`` columns.
        start_state: Of any episode; its names and sizes give the ``start.*`` columns.
    """
    finals = [_arrow_field(item, prefix=FINAL_PREFIX) for item in schema.observed]
    starts = [
        pa.field(
            START_PREFIX + name, pa.list_(pa.field("element", pa.float64(), nullable=False), np.size(value)), False
        )
        for name, value in sorted(start_state.items())
    ]
    return pa.schema([*EPISODE_FIELDS, *finals, *starts])


def record_to_batch(record: EpisodeRecord, schema: Schema) -> pa.RecordBatch:
    """Return the transitions of one episode as one record batch of ``record.length`` rows."""
    return columns_to_batch(record.columns, [record.episode], [record.length], schema)


def columns_to_batch(
    columns: Columns, episodes: Sequence[int], lengths: Sequence[int], schema: Schema
) -> pa.RecordBatch:
    """Return the transitions of several episodes, one after the other, as one record batch.

    Args:
        columns: Arrays ``[sum(lengths), *field.shape]`` by column name.
        episodes: Their ids.
        lengths: Their numbers of transitions.
        schema: Of the transitions.
    """
    ids = np.repeat(np.asarray(episodes, np.int64), lengths)
    first = np.cumsum(lengths) - lengths
    steps = np.arange(len(ids), dtype=np.int64) - np.repeat(first, lengths)
    arrays = [pa.array(ids), pa.array(steps), *columns_to_arrays(columns, schema)]
    return pa.RecordBatch.from_arrays(arrays, schema=row_schema(schema))


def columns_to_arrays(columns: Columns, schema: Schema) -> list[pa.Array]:
    """Return the fields' columns as Arrow arrays, in the schema's order; numbers share their memory."""
    return [_to_arrow(columns[item.column], item) for item in schema.fields]


def table_to_columns(table: pa.Table | pa.RecordBatch, schema: Schema) -> Columns:
    """Return the fields' columns of a table as arrays ``[num_rows, *shape]``, copied only where Arrow must."""
    return {item.column: _to_numpy(table.column(item.column), item) for item in schema.fields}


@dataclass(frozen=True)
class EpisodeRow:
    """What the episode table keeps of one episode; owns its memory, so that the transitions can go."""

    values: Mapping[str, Any]
    final: Columns
    start_state: Columns

    @classmethod
    def from_record(cls, record: EpisodeRecord) -> "EpisodeRow":
        """Return the row of a record."""
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
        starts = {name: np.array(value, np.float64).ravel() for name, value in record.start_state.items()}
        return cls(values, {name: np.array(value) for name, value in record.final.items()}, starts)


def build_episode_table(rows: Iterable[EpisodeRow], schema: Schema) -> pa.Table:
    """Return the episode table, in the order given; the first row names the parts of the start state."""
    rows = list(rows)
    arrow_schema = episode_schema(schema, rows[0].start_state if rows else {})
    arrays = [pa.array([row.values[item.name] for row in rows], item.type) for item in EPISODE_FIELDS]
    for item in schema.observed:
        finals = [row.final[item.column] for row in rows]
        arrays.append(_to_arrow(np.stack(finals) if finals else np.empty((0, *item.shape), item.dtype), item))
    for item in arrow_schema:
        if item.name.startswith(START_PREFIX):
            states = [row.start_state[item.name.removeprefix(START_PREFIX)] for row in rows]
            arrays.append(_fixed_size_list(np.concatenate(states), item.type))
    return pa.Table.from_arrays(arrays, schema=arrow_schema)


def take_row(values: np.ndarray, index: int, item: Field) -> np.ndarray:
    """Return one row of a column as an array of the field's shape, also where that shape is ``()``."""
    return values[index : index + 1].reshape(item.shape)


def read_final_values(table: pa.Table, schema: Schema) -> Columns:
    """Return the ``final.*`` columns of an episode table, ``[num_episodes, *shape]`` by column name."""
    return {item.column: _to_numpy(table.column(FINAL_PREFIX + item.column), item) for item in schema.observed}


def read_start_states(table: pa.Table) -> Iterator[dict[str, np.ndarray]]:
    """Yield the simulator start state of every row of an episode table."""
    names = [name for name in table.column_names if name.startswith(START_PREFIX)]
    arrays = {name.removeprefix(START_PREFIX): _column_to_array(table.column(name)) for name in names}
    for row in range(len(table)):
        yield {name: array[row] for name, array in arrays.items()}


def table_to_records(rows: pa.Table, episodes: pa.Table, schema: Schema) -> Iterator[EpisodeRecord]:
    """Yield the records of an episode table whose transitions stand in ``rows``, in the same order.

    Raises:
        CorruptDataset: The rows are not those of the episodes, by id, length or content hash.
    """
    columns, finals = table_to_columns(rows, schema), read_final_values(episodes, schema)
    ids = rows.column(keys.EPISODE).to_numpy()
    names = (keys.EPISODE, "split", "length", "seed", "policy", "run", "content_hash", "metadata")
    start = 0
    for index, (row, state) in enumerate(
        zip(episodes.select(names).to_pylist(), read_start_states(episodes), strict=True)
    ):
        stop = start + row["length"]
        record = EpisodeRecord(
            episode=row[keys.EPISODE],
            split=row["split"],
            columns={name: array[start:stop] for name, array in columns.items()},
            final={item.column: take_row(finals[item.column], index, item) for item in schema.observed},
            seed=row["seed"],
            start_state=state,
            policy=row["policy"],
            run=row["run"],
            metadata=json.loads(row["metadata"]),
        )
        _require_match(record, ids[start:stop], row)
        yield record
        start = stop


def _require_match(record: EpisodeRecord, ids: np.ndarray, row: Mapping[str, object]) -> None:
    if len(ids) == row["length"] and (ids == record.episode).all() and record.content_hash() == row["content_hash"]:
        return
    msg = (
        f"Episode {record.episode}: expected {row['length']} transitions with content hash {row['content_hash']}, "
        f"got {len(ids)} with {record.content_hash() if len(ids) else 'none'}. Fetch or make the version again."
    )
    raise CorruptDataset(msg)


@functools.lru_cache(maxsize=1024)
def _arrow_field(item: Field, *, prefix: str = "") -> pa.Field:
    plain = {"bool": pa.bool_(), STRING: pa.string()}
    value = plain[item.dtype] if item.dtype in plain else pa.from_numpy_dtype(np.dtype(item.dtype))
    if item.shape not in ((), (1,)):
        value = pa.list_(pa.field("element", value, nullable=False), item.width)
    return pa.field(prefix + item.column, value, nullable=False)


def _to_arrow(values: np.ndarray, item: Field) -> pa.Array:
    if item.is_string:
        return pa.array(values.tolist(), pa.string())
    target = _arrow_field(item).type
    if pa.types.is_fixed_size_list(target):
        return _fixed_size_list(values, target)
    return pa.array(np.ascontiguousarray(values).reshape(len(values)), target)


def _fixed_size_list(values: np.ndarray, target: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).ravel(), target.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=target)


def _to_numpy(column: pa.Array | pa.ChunkedArray, item: Field) -> np.ndarray:
    return _column_to_array(column).reshape(len(column), *item.shape)


def _column_to_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column's elements as ``[num_rows, width]`` (lists) or ``[num_rows]``."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # combine_chunks of no chunk at all
            column = pa.array([], column.type)
    if pa.types.is_fixed_size_list(column.type):
        # flatten(), not values: the latter ignores a slice's offset.
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)
