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
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive.data import arrow, cache
from rlhive.data.episodes import EpisodeRecord
from rlhive.data.schema import Field, Schema
from rlhive.errors import DatasetExists

SUFFIX = ".arrows"
Sizes = Mapping[str, int]


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
            with cache.naming_disk_errors(path):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                self._write(stream_schema(schema, self._starts).serialize())
                cache.flush_folder(path.parent)
        except FileExistsError as error:
            msg = f"{path}: expected no such stream, streams are never rewritten. Choose another writer name."
            raise DatasetExists(msg) from error

    def append(self, record: EpisodeRecord) -> None:
        """Write one episode; it survives the process from here on, and a power loss after :meth:`flush`.

        Raises:
            DiskFull: No space left. What it left half-written ends this stream; earlier episodes are intact.
        """
        message = _to_batch(record, self._schema, self._starts).serialize()
        with cache.naming_disk_errors(self.path):
            self._write(message)

    def flush(self) -> None:
        """Make what was appended survive a power loss."""
        with cache.naming_disk_errors(self.path):
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

    def scan(self) -> Iterator[tuple[int, int, EpisodeRecord]]:
        """Yield offset, size in bytes and record of every whole and undamaged episode; a cut tail ends the stream.

        Its arrays are read-only and, but for flags and texts, lie in the mapped file.
        """
        offset = self._begin
        while offset:
            self._source.seek(offset)
            try:
                batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self._schema)
                size = self._source.tell() - offset
                # Arrow trusts what it did not check: reading through a damaged offset would end the process.
                batch.validate(full=True)
            except (pa.ArrowException, OSError, EOFError):
                return
            record = _from_batch(batch, self._fields, None)
            if record is not None:
                yield offset, size, record
            offset += size

    def read(self, offset: int, content_hash: str) -> EpisodeRecord:
        """Return the record at an offset that :meth:`scan` gave, with the content hash that it had there."""
        self._source.seek(offset)
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self._schema)
        return _from_batch(batch, self._fields, content_hash)

    def __enter__(self) -> "StreamReader":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._source is not None:
            self._source.close()


@functools.lru_cache(maxsize=64)
def stream_schema(schema: Schema, starts: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of a stream."""
    fields = [pa.field(arrow.START + name, pa.list_(pa.float64())) for name in starts]
    return pa.schema([*arrow.row_schema(schema), pa.field("header", pa.string()), *fields])


def head_bytes(schema: Schema, sizes: Sizes) -> int:
    """Return the size of a stream without episodes."""
    return stream_schema(schema, tuple(sorted(sizes))).serialize().size


def _sync(file: int) -> None:
    # fdatasync leaves out what reading does not need, the times; macOS has none.
    getattr(os, "fdatasync", os.fsync)(file)


def _to_batch(record: EpisodeRecord, schema: Schema, starts: tuple[str, ...]) -> pa.RecordBatch:
    columns = {}
    for item in schema.fields:
        last = record.final[item.column][None] if item.observed else _blank(item)
        columns[item.column] = np.concatenate([record.columns[item.column], last])
    header = {
        "split": record.split,
        "seed": record.seed,
        "policy": record.policy,
        "metadata": dict(record.metadata),
        "run": record.run,
        "start": bool(record.start_state),
        "seal": _seal(record),
    }
    num_rows = record.length + 1
    arrays = [pa.array(np.full(num_rows, record.episode, np.int64)), pa.array(np.arange(num_rows))]
    arrays += arrow.arrays_of(columns, schema)
    arrays.append(pa.array([json.dumps(header), *[None] * record.length], pa.string()))
    for name in starts:
        state = np.asarray(record.start_state.get(name, ()), dtype=np.float64).ravel()
        arrays.append(_first_row_only(state, num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=stream_schema(schema, starts))


def _blank(item: Field) -> np.ndarray:
    return np.full((1, *item.shape), "" if item.is_string else 0, object if item.is_string else item.dtype)


def _first_row_only(values: np.ndarray, num_rows: int) -> pa.ListArray:
    offsets = np.full(num_rows + 1, len(values), dtype=np.int32)
    offsets[0] = 0
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def _seal(record: EpisodeRecord) -> str:
    return hashlib.sha256(f"{record.run}\0{record.identity()}".encode()).hexdigest()


def _from_batch(batch: pa.RecordBatch, schema: Schema, content_hash: str | None) -> EpisodeRecord | None:
    """Return the record of a batch, or None where it does not fit its seal.

    Args:
        batch: One episode.
        schema: Of the transitions.
        content_hash: What it hashed to when it was read before; then nothing is hashed.
    """
    try:
        header = json.loads(batch.column("header")[0].as_py())
        columns = arrow.columns_of(batch, schema)
        for array in columns.values():
            array.flags.writeable = False
        last = batch.num_rows - 1
        record = EpisodeRecord(
            episode=batch.column(0)[0].as_py(),
            split=header["split"],
            columns={name: array[:-1] for name, array in columns.items()},
            final={item.column: arrow.row_of(columns[item.column], last, item) for item in schema.observed},
            seed=header["seed"],
            start_state=_start_state(batch) if header["start"] else {},
            policy=header["policy"],
            run=header["run"],
            metadata=header["metadata"],
        )
        if content_hash is not None:
            return record.with_known_hash(content_hash)
        return record if _seal(record) == header["seal"] else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, pa.ArrowException):
        return None


def _start_state(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    names = [name for name in batch.schema.names if name.startswith(arrow.START)]
    return {name.removeprefix(arrow.START): batch.column(name)[0].values.to_numpy() for name in names}
