"""One writer's recorded episodes: an Arrow IPC stream, one record batch per episode, written once and never touched.

::

    batch of an episode of T transitions
    row         0        1     …   T-1      T
    fields      s_0 a_0  s_1 a_1   …        s_T and zeros      (only observed fields mean anything in row T)
    header      JSON     null  …   null     null               (split, seed, policy, metadata, run, seal)
    start.*     state    []    …   []       []                 (the simulator's, where the header says so)

A batch that a kill or a power loss cut short is not readable, and a damaged one does not fit its seal: neither is
ever served. Streams are only appended to: a writer that failed, or another process, begins a new one.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rlhive.data import _arrow, _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.errors import DatasetExists

SUFFIX = ".arrows"
#: Episodes are turned into Arrow's arrays and back so many bytes at a time.
BLOCK_BYTES = 4 * 2**20
Sizes = Mapping[str, int]


class Place(NamedTuple):
    """Where an episode lies in a stream, in bytes."""

    offset: int
    size: int


class Stream:
    """A stream that is being written. Not for several threads.

    Args:
        path: A file that does not exist yet; its folder does.
        schema: Of the transitions.
        sizes: Number of elements of each part of the simulator's start state.

    Raises:
        DatasetExists: The file exists.
        DiskFull, StoreNotWritable: It cannot be written.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, schema: Schema, sizes: Sizes):
        self.path, self._schema, self._starts = path, schema, tuple(sorted(sizes))
        try:
            with _store.translate_disk_errors(path):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                self._write(stream_schema(schema, self._starts).serialize())
                _store.fsync_path(path.parent)
        except FileExistsError as error:
            msg = f"{path}: expected no such stream, streams are never rewritten. Choose another writer name."
            raise DatasetExists(msg) from error

    def append(self, *records: EpisodeRecord) -> None:
        """Write episodes; they survive the process from here on, and a power loss after :meth:`flush`.

        Raises:
            DiskFull: No space left. What it left half-written ends this stream; earlier episodes are intact.
        """
        for block in _blocks_of(records):
            # Arrays are built once for many episodes; each still is a message of its own.
            rows, first = _to_batch(block, self._schema, self._starts), 0
            for record in block:
                message = rows.slice(first, record.length + 1).serialize()
                first += record.length + 1
                with _store.translate_disk_errors(self.path):
                    self._write(message)

    def flush(self) -> None:
        """Make what was appended survive a power loss."""
        with _store.translate_disk_errors(self.path):
            _sync(self._file)

    def close(self) -> None:
        """Close the file; again is allowed."""
        handle, self._file = self._file, -1
        if handle >= 0:
            os.close(handle)

    def _write(self, message: pa.Buffer) -> None:
        rest = memoryview(message)
        while rest:
            count = os.write(self._file, rest)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[count:]


class StreamReader:
    """A stream that is being read: mapped, not loaded. A context manager.

    Args:
        path: The file; one that is no stream of this schema reads as an empty one.
        schema: Of the transitions.
        sizes: Number of elements of each part of the simulator's start state.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, schema: Schema, sizes: Sizes):
        self._fields, self._schema = schema, stream_schema(schema, tuple(sorted(sizes)))
        self._source, self._begin = None, 0
        if not path.stat().st_size:
            return
        self._source = pa.memory_map(str(path))  # outside of the next line: no file handle left is not an empty stream
        with contextlib.suppress(pa.ArrowException, OSError, EOFError):
            if pa.ipc.read_schema(self._source) == self._schema:
                self._begin = self._source.tell()

    def scan(self) -> Iterator[tuple[Place, EpisodeRecord]]:
        """Yield place and record of every whole and undamaged episode; a cut tail ends the stream.

        The records' arrays are read-only. Memory: a block of episodes, or one that is larger.
        """
        place = self._begin
        while place:
            places, batches, begin = [], [], place
            while place and place - begin < BLOCK_BYTES:
                batch = self._valid_batch(place)
                if batch is None:
                    place = 0
                else:
                    places.append(Place(place, self._source.tell() - place))
                    batches.append(batch)
                    place = self._source.tell()
            for found, record in zip(places, _records_of(batches, self._fields), strict=True):
                if record is not None:
                    yield found, record

    def read(self, places: Sequence[Place]) -> list[EpisodeRecord]:
        """Return the records at places that :meth:`scan` gave, all at once; nothing is checked again."""
        batches = [self._batch(place.offset) for place in places]
        return [record for record, _ in _unsealed(batches, self._fields)]

    def _batch(self, offset: int) -> pa.RecordBatch:
        self._source.seek(offset)
        return pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self._schema)

    def _valid_batch(self, offset: int) -> pa.RecordBatch | None:
        """Return the batch at an offset, or None where the stream ends."""
        with contextlib.suppress(pa.ArrowException, OSError, EOFError):
            batch = self._batch(offset)
            # Arrow trusts what it did not check: reading through a damaged offset would end the process.
            batch.validate(full=True)
            return batch
        return None

    def __enter__(self) -> "StreamReader":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._source is not None:
            self._source.close()


@functools.lru_cache(maxsize=64)
def stream_schema(schema: Schema, starts: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of a stream."""
    fields = [pa.field(_arrow.START_PREFIX + name, pa.list_(pa.float64())) for name in starts]
    return pa.schema([*_arrow.row_schema(schema), pa.field("header", pa.string()), *fields])


def head_bytes(schema: Schema, sizes: Sizes) -> int:
    """Return the size of a stream without episodes."""
    return stream_schema(schema, tuple(sorted(sizes))).serialize().size


def _sync(file: int) -> None:
    # fdatasync leaves out what reading does not need, the times; macOS has none.
    getattr(os, "fdatasync", os.fsync)(file)


def _blocks_of(records: Sequence[EpisodeRecord]) -> Iterator[Sequence[EpisodeRecord]]:
    """Cut a sequence of records where their arrays fill a block."""
    first = size = 0
    for index, record in enumerate(records):
        size += sum(array.nbytes for array in record.columns.values())
        if size >= BLOCK_BYTES:
            yield records[first : index + 1]
            first, size = index + 1, 0
    if records[first:]:
        yield records[first:]


def _to_batch(records: Sequence[EpisodeRecord], schema: Schema, starts: tuple[str, ...]) -> pa.RecordBatch:
    """Return episodes as rows, those of one below those of another."""
    columns = {}
    for item in schema.fields:
        name, blank = item.column, None if item.observed else _blank(item)
        lasts = (record.final[name][None] if item.observed else blank for record in records)
        pairs = zip((record.columns[name] for record in records), lasts, strict=True)
        columns[name] = np.concatenate([part for pair in pairs for part in pair])
    num_rows = np.array([record.length + 1 for record in records])
    first = num_rows.cumsum() - num_rows
    headers: list[str | None] = [None] * int(num_rows.sum())
    for row, record in zip(first.tolist(), records, strict=True):
        headers[row] = json.dumps(_header(record))
    ids = np.repeat(np.array([record.episode for record in records], np.int64), num_rows)
    arrays = [pa.array(ids), pa.array(np.arange(len(ids)) - np.repeat(first, num_rows))]
    arrays += _arrow.columns_to_arrays(columns, schema)
    arrays.append(pa.array(headers, pa.string()))
    for name in starts:
        states = [np.asarray(record.start_state.get(name, ()), dtype=np.float64).ravel() for record in records]
        arrays.append(_first_rows_only(states, first, len(ids)))
    return pa.RecordBatch.from_arrays(arrays, schema=stream_schema(schema, starts))


def _header(record: EpisodeRecord) -> dict[str, Any]:
    return {
        "split": record.split,
        "seed": record.seed,
        "policy": record.policy,
        "metadata": dict(record.metadata),
        "run": record.run,
        "start": bool(record.start_state),
        "seal": _seal(record.run, record.identity()),
    }


@functools.lru_cache(maxsize=256)
def _blank(item: Field) -> np.ndarray:
    return np.full((1, *item.shape), "" if item.is_string else 0, object if item.is_string else item.dtype)


def _first_rows_only(values: Sequence[np.ndarray], rows: np.ndarray, num_rows: int) -> pa.ListArray:
    """Return a list column that holds each of the values in the given rows, and nothing in the others."""
    sizes = np.zeros(num_rows + 1, dtype=np.int64)
    sizes[rows + 1] = [len(value) for value in values]
    return pa.ListArray.from_arrays(sizes.cumsum().astype(np.int32), pa.array(np.concatenate(values)))


def _seal(run: str, identity: str) -> str:
    return hashlib.sha256(f"{run}\0{identity}".encode()).hexdigest()


def _records_of(batches: Sequence[pa.RecordBatch], schema: Schema) -> list[EpisodeRecord | None]:
    """Return the record of each batch, or None where it does not fit its seal."""
    try:
        records = [_sealed(record, seal) for record, seal in _unsealed(batches, schema)]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, pa.ArrowException):
        records = [None] * len(batches)
    if len(batches) > 1:  # a damaged neighbour may have spoilt what lies in one array with it
        missing = [index for index, record in enumerate(records) if record is None]
        for index in missing:
            records[index] = _records_of(batches[index : index + 1], schema)[0]
    return records


def _unsealed(batches: Sequence[pa.RecordBatch], schema: Schema) -> Iterator[tuple[EpisodeRecord, str]]:
    """Yield the record of each batch and what its header says that its seal is.

    Columns are put together first: taking arrays out of Arrow costs as much for a hundred episodes as for one.
    """
    if not batches:
        return
    rows = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks()
    columns = _arrow.table_to_columns(rows, schema)
    for array in columns.values():
        array.flags.writeable = False
    states = {name: _lists_of(rows.column(name)) for name in rows.schema.names if name.startswith(_arrow.START_PREFIX)}
    first = 0
    for batch in batches:
        last = first + batch.num_rows - 1
        header = json.loads(batch.column("header")[0].as_py())
        record = EpisodeRecord(
            episode=batch.column(0)[0].as_py(),
            split=header["split"],
            columns={name: array[first:last] for name, array in columns.items()},
            final={item.column: _arrow.take_row(columns[item.column], last, item) for item in schema.observed},
            seed=header["seed"],
            start_state={name.removeprefix(_arrow.START_PREFIX): part(first) for name, part in states.items()}
            if header["start"]
            else {},
            policy=header["policy"],
            run=header["run"],
            metadata=header["metadata"],
        )
        yield record, header["seal"]
        first = last + 1


def _sealed(record: EpisodeRecord, seal: str) -> EpisodeRecord | None:
    """Return the record, remembering its hashes, if it fits its seal."""
    identity = record.identity()
    return record.with_known_hashes(record.content_hash(), identity) if _seal(record.run, identity) == seal else None


def _lists_of(column: pa.ListArray | pa.ChunkedArray) -> Callable[[int], np.ndarray]:
    """Return a function that gives the numbers of one row of a list column."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    offsets, values = array.offsets.to_numpy(), array.values.to_numpy()
    return lambda row: values[offsets[row] : offsets[row + 1]]
