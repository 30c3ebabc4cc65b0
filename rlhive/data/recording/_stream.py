"""The file format of recorded episodes: an Arrow IPC stream with one record batch per episode, append-only.

::

    batch of an episode of T transitions
    row         0        1     …   T-1      T
    fields      s_0 a_0  s_1 a_1   …        s_T and zeros      (row T holds the final values of the observed fields)
    header      JSON     null  …   null     null               (split, seed, policy, metadata, run, checksum)
    start.*     state    []    …   []       []                 (simulator state, where the header has "start")

A batch that a kill or a power loss cut short cannot be read, and a damaged one does not match its checksum: readers
skip both. Streams are only appended to: after a failed write, and in another process, a new stream begins.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rlhive.data import _arrow
from rlhive.data._dtypes import to_numpy_dtype, view_bits
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._ragged import make_rows
from rlhive.data._schema import Field, Schema

SUFFIX = ".arrows"
#: Number of bytes of episodes that are converted to Arrow arrays, or back, at a time.
BLOCK_BYTES = 4 * 2**20
#: Maximum number of streams that are open at once; a recording may have more than a process may open files.
MAX_OPEN = 64
#: Streams of at most this size together are read once and kept in memory to sort them. Larger ones are read twice.
KEPT_BYTES = 64 * 2**20

#: Number of elements of each part of the simulator's start state.
Sizes = Mapping[str, int]


class BatchLocation(NamedTuple):
    """Offset and size of an episode's record batch in a stream, in bytes."""

    offset: int
    size: int


@functools.lru_cache(maxsize=64)
def stream_schema(schema: Schema, start_names: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of a stream; ``start_names`` are the sorted names of the start state's parts."""
    fields = [pa.field(_arrow.START_PREFIX + name, pa.list_(pa.float64())) for name in start_names]
    return pa.schema([*_arrow.row_schema(schema), pa.field("header", pa.string()), *fields])


def encode_schema(schema: Schema, sizes: Sizes) -> pa.Buffer:
    """Return the message with which a stream begins."""
    return stream_schema(schema, tuple(sorted(sizes))).serialize()


def encode_records(
    records: Sequence[EpisodeRecord], schema: Schema, sizes: Sizes, *, journals: Sequence[str] = ()
) -> Iterator[pa.Buffer | bytes]:
    """Yield the messages of the episodes, one after the other; one of BLOCK_BYTES or more in pieces.

    Arrow arrays are built for a block of episodes at once; each episode still is a message of its own.

    Args:
        records: The episodes.
        schema: Schema of the transitions.
        sizes: Number of elements of each part of the simulator's start state.
        journals: Token of the journal that held each episode while it was open, empty for none; or none at all.
    """
    start_names = tuple(sorted(sizes))
    tokens = journals or [""] * len(records)
    headers = iter([_header(record, token) for record, token in zip(records, tokens, strict=True)])
    for block in _split_into_blocks(records):
        rows, first_row = _encode_block(block, list(itertools.islice(headers, len(block))), schema, start_names), 0
        for record in block:
            yield from _serialize(rows.slice(first_row, record.length + 1))
            first_row += record.length + 1


def _serialize(rows: pa.RecordBatch) -> Sequence[pa.Buffer | bytes]:
    """Return the message of a batch: the pieces of a large one share memory with it."""
    if rows.nbytes < BLOCK_BYTES:
        return [rows.serialize()]
    pieces = _Pieces()
    pa.ipc.new_stream(pa.PythonFile(pieces, mode="w"), rows.schema).write_batch(rows)
    num_bytes, header_bytes = 0, rows.schema.serialize().size
    for index, piece in enumerate(pieces.contents):
        if num_bytes == header_bytes:  # behind the schema, with which a stream begins
            return pieces.contents[index:]
        num_bytes += len(piece)
    return [rows.serialize()]


class _Pieces(io.RawIOBase):
    """A file that keeps what is written to it, without a copy."""

    def __init__(self) -> None:
        self.contents: list[pa.Buffer | bytes] = []

    def writable(self) -> bool:
        """Whether the file can be written to."""
        return True

    def write(self, content: Any, /) -> int:
        """Keep what is written."""
        self.contents.append(content)
        return len(content)


class StreamReader:
    """Reads a stream that is memory-mapped, not loaded. A context manager.

    Args:
        path: The file; a file that is not a stream of this schema reads as an empty one.
        schema: Schema of the transitions.
        sizes: Number of elements of each part of the simulator's start state.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, schema: Schema, sizes: Sizes):
        self._fields = schema
        self._schema = stream_schema(schema, tuple(sorted(sizes)))
        self._first_offset = 0
        # An empty file cannot be mapped. An error here, too many open files for example, is not an empty stream.
        self._source = pa.memory_map(str(path)) if path.stat().st_size else pa.BufferReader(b"")
        with contextlib.suppress(pa.ArrowException, OSError, EOFError):
            stored_schema = pa.ipc.read_schema(self._source)
            if stored_schema in (self._schema, stream_schema(schema, ())):  # () before the first start state
                self._schema = stored_schema
                self._first_offset = self._source.tell()

    @property
    def header_bytes(self) -> int:
        """Size of a stream of this schema without episodes."""
        return int(self._schema.serialize().size)

    def scan(self) -> Iterator[tuple[BatchLocation, EpisodeRecord]]:
        """Yield location and record of every complete and undamaged episode; a cut tail ends the stream.

        The records' arrays are read-only. Memory: BLOCK_BYTES of episodes, or one episode that is larger.
        """
        offset = self._first_offset
        while offset:
            locations, batches, block_offset = [], [], offset
            while offset and offset - block_offset < BLOCK_BYTES:
                batch = self._read_valid_batch(offset)
                if batch is None:
                    offset = 0
                else:
                    locations.append(BatchLocation(offset, self._source.tell() - offset))
                    batches.append(batch)
                    offset = self._source.tell()
            for location, record in zip(locations, _decode_verified(batches, self._fields), strict=True):
                if record is not None:
                    yield location, record

    def journal_tokens(self) -> Iterator[str]:
        """Yield the token of the journal of every episode that had one."""
        offset = self._first_offset
        while offset:
            batch = self._read_valid_batch(offset)
            offset = 0 if batch is None else self._source.tell()
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                if batch is not None:
                    yield str(json.loads(batch.column("header")[0].as_py())["journal"])

    def read(self, locations: Sequence[BatchLocation]) -> list[EpisodeRecord]:
        """Return the records at locations that :meth:`scan` gave, without checking them again."""
        batches = [self._read_batch(location.offset) for location in locations]
        return [record for record, _ in _decode(batches, self._fields)]

    def _read_batch(self, offset: int) -> pa.RecordBatch:
        self._source.seek(offset)
        return pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self._schema)

    def _read_valid_batch(self, offset: int) -> pa.RecordBatch | None:
        """Return the batch at an offset, or None where the stream ends."""
        with contextlib.suppress(pa.ArrowException, OSError, EOFError):
            batch = self._read_batch(offset)
            # Arrow does not check offsets when it reads them: a damaged one would crash the process.
            batch.validate(full=True)
            return batch
        return None

    def __enter__(self) -> "StreamReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._source.close()


class _ScannedEpisode(NamedTuple):
    """Location and verified hashes of an episode."""

    path: Path
    location: BatchLocation
    content_hash: str
    identity: str


def read_sorted_records(paths: Iterable[Path], open_reader: Callable[[Path], StreamReader]) -> Iterator[EpisodeRecord]:
    """Yield every complete and undamaged episode of some streams, sorted by id; a repeated id once.

    Each episode is hashed once, to check it, and the record caches its hashes.

    Memory: half a kilobyte for each episode and at most KEPT_BYTES of them; streams are mapped, not loaded.

    Args:
        paths: Paths of the streams.
        open_reader: Opens a stream.
    """
    scanned, records = _scan_streams(paths, open_reader)
    if records is not None:
        yield from (records[episode] for episode in sorted(scanned))
        return
    readers: dict[Path, StreamReader] = {}
    with contextlib.ExitStack() as stack:
        for block in _group_by_stream([scanned[episode] for episode in sorted(scanned)]):
            path = block[0].path
            if path not in readers and len(readers) == MAX_OPEN:
                stack.pop_all().close()  # records that were yielded keep their part of the mapping
                readers = {}
            if path not in readers:
                readers[path] = stack.enter_context(open_reader(path))
            block_records = readers[path].read([episode.location for episode in block])
            for episode, record in zip(block, block_records, strict=True):
                record.cache_hashes(episode.content_hash, episode.identity)
                yield record


def _scan_streams(
    paths: Iterable[Path], open_reader: Callable[[Path], StreamReader]
) -> tuple[dict[int, _ScannedEpisode], dict[int, EpisodeRecord] | None]:
    """Return the location of every episode by id, and the records themselves if they fit into KEPT_BYTES."""
    scanned: dict[int, _ScannedEpisode] = {}
    records: dict[int, EpisodeRecord] | None = {}
    num_bytes = 0
    for path in paths:
        with open_reader(path) as reader:
            for location, record in reader.scan():
                if record.episode in scanned:
                    continue
                scanned[record.episode] = _ScannedEpisode(path, location, record.content_hash(), record.identity())
                num_bytes += location.size
                if num_bytes > KEPT_BYTES:
                    records = None
                if records is not None:
                    records[record.episode] = record
    return scanned, records


def _group_by_stream(episodes: Iterable[_ScannedEpisode]) -> Iterator[list[_ScannedEpisode]]:
    """Yield runs of episodes of the same stream, of about BLOCK_BYTES at most."""
    for _, group in itertools.groupby(episodes, key=lambda episode: episode.path):
        block: list[_ScannedEpisode] = []
        num_bytes = 0
        for episode in group:
            if num_bytes >= BLOCK_BYTES:
                yield block
                block = []
                num_bytes = 0
            block.append(episode)
            num_bytes += episode.location.size
        yield block


def _split_into_blocks(records: Sequence[EpisodeRecord]) -> Iterator[Sequence[EpisodeRecord]]:
    """Yield runs of records whose arrays are about BLOCK_BYTES."""
    first = num_bytes = 0
    for index, record in enumerate(records):
        num_bytes += record.num_bytes
        if num_bytes >= BLOCK_BYTES:
            yield records[first : index + 1]
            first = index + 1
            num_bytes = 0
    if records[first:]:
        yield records[first:]


def _encode_block(
    records: Sequence[EpisodeRecord], texts: Sequence[str], schema: Schema, start_names: tuple[str, ...]
) -> pa.RecordBatch:
    """Return the rows of several episodes, one episode after the other; ``texts`` are their headers."""
    columns = {}
    for item in schema.fields:
        parts = [part for record in records for part in _stored_rows(record, item)]
        columns[item.column] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    num_rows = np.array([record.length + 1 for record in records])
    first_rows = num_rows.cumsum() - num_rows
    headers: list[str | None] = [None] * int(num_rows.sum())
    for row, text in zip(first_rows.tolist(), texts, strict=True):
        headers[row] = text
    episode_ids = np.repeat(np.array([record.episode for record in records], np.int64), num_rows)
    step_counts = np.arange(len(episode_ids)) - np.repeat(first_rows, num_rows)
    arrays = [pa.array(episode_ids), pa.array(step_counts), *_arrow.columns_to_arrays(columns, schema)]
    arrays.append(pa.array(headers, pa.string()))
    for name in start_names:
        states = [np.asarray(record.start_state.get(name, ()), dtype=np.float64).ravel() for record in records]
        arrays.append(_list_column(states, first_rows, len(episode_ids)))
    return pa.RecordBatch.from_arrays(arrays, schema=stream_schema(schema, start_names))


def _header(record: EpisodeRecord, journal: str) -> str:
    content = {
        "split": record.split,
        "seed": record.seed,
        "policy": record.policy,
        "metadata": dict(record.metadata),
        "run": record.run,
        "start": bool(record.start_state),
        "seal": _stream_checksum(record.run, record.identity()),
    }
    return json.dumps(content | ({"journal": journal} if journal else {}))


def _stream_checksum(run: str, identity: str) -> str:
    """Return the SHA-256 of everything that a stream holds of an episode."""
    return hashlib.sha256(f"{run}\0{identity}".encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _blank_row(item: Field) -> np.ndarray:
    if item.is_ragged:
        return make_rows([np.empty((0, *item.shape[1:]), to_numpy_dtype(item.dtype))])
    return np.full((1, *item.shape), "" if item.is_string else 0, to_numpy_dtype(item.dtype))


def _stored_rows(record: EpisodeRecord, item: Field) -> list[np.ndarray]:
    """Return the rows of a column, the last one included, without a copy where they lie behind each other in memory."""
    rows = record.columns[item.column]
    last_row = record.final[item.column][None] if item.observed else _blank_row(item)
    whole = rows.base
    if rows.dtype == object or whole is None or not rows.flags.c_contiguous:
        return [rows, last_row]
    is_followed = whole.dtype == rows.dtype and whole.shape == (len(rows) + 1, *rows.shape[1:])
    if (
        is_followed
        and whole.ctypes.data == rows.ctypes.data
        and np.array_equal(view_bits(whole[-1:]).ravel(), view_bits(last_row).ravel())
    ):
        return [whole]
    return [rows, last_row]


def _list_column(values: Sequence[np.ndarray], rows: np.ndarray, num_rows: int) -> pa.ListArray:
    """Return a list column that holds each of the values in the given rows and empty lists in the others."""
    sizes = np.zeros(num_rows + 1, dtype=np.int64)
    sizes[rows + 1] = [len(value) for value in values]
    return pa.ListArray.from_arrays(sizes.cumsum().astype(np.int32), pa.array(np.concatenate(values)))


def _decode_verified(batches: Sequence[pa.RecordBatch], schema: Schema) -> list[EpisodeRecord | None]:
    """Return the record of each batch, or None where it does not match its checksum."""
    records: list[EpisodeRecord | None] = []
    try:
        for record, checksum in _decode(batches, schema):
            identity = record.identity()
            is_valid = _stream_checksum(record.run, identity) == checksum
            if is_valid:
                record.cache_hashes(record.content_hash(), identity)
            records.append(record if is_valid else None)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, pa.ArrowException):
        records = [None] * len(batches)
    if len(batches) > 1:  # a damaged batch may spoil others whose values lie in the same arrays
        for index in [index for index, record in enumerate(records) if record is None]:
            records[index] = _decode_verified(batches[index : index + 1], schema)[0]
    return records


def _decode(batches: Sequence[pa.RecordBatch], schema: Schema) -> Iterator[tuple[EpisodeRecord, str]]:
    """Yield the record of each batch and the checksum in its header.

    Columns are concatenated first: converting Arrow arrays costs as much for a hundred episodes as for one.
    """
    if not batches:
        return
    rows = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks()
    columns = _arrow.table_to_columns(rows, schema)
    for array in columns.values():
        array.flags.writeable = False
    start_columns = [name for name in rows.schema.names if name.startswith(_arrow.START_PREFIX)]
    states = {name.removeprefix(_arrow.START_PREFIX): _list_getter(rows.column(name)) for name in start_columns}
    first_row = 0
    for batch in batches:
        last_row = first_row + batch.num_rows - 1
        header = json.loads(batch.column("header")[0].as_py())
        start_state = {name: state(first_row) for name, state in states.items()}
        record = EpisodeRecord(
            episode=batch.column(0)[0].as_py(),
            split=header["split"],
            columns={name: array[first_row:last_row] for name, array in columns.items()},
            final={item.column: _arrow.take_row(columns[item.column], last_row, item) for item in schema.observed},
            seed=header["seed"],
            start_state=start_state if header["start"] else {},
            policy=header["policy"],
            run=header["run"],
            metadata=header["metadata"],
        )
        yield record, header["seal"]
        first_row = last_row + 1


def _list_getter(column: pa.ListArray | pa.ChunkedArray) -> Callable[[int], np.ndarray]:
    """Return a function that returns the numbers in one row of a list column."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    offsets, values = array.offsets.to_numpy(), array.values.to_numpy()
    return lambda row: values[offsets[row] : offsets[row + 1]]
