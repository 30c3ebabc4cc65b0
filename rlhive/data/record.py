"""Record episodes so that they survive the process: append-only Arrow IPC streams, one per writer.

A recording is a folder::

    recording.json      schema, sizes of the simulator state, provenance of the run; written first
    <writer>.arrows     one record batch per episode, flushed to the disk before `write` returns

    batch of an episode of T transitions
    row         0        1     …   T-1      T
    fields      s_0 a_0  s_1 a_1   …        s_T and zeros      (only observed fields mean anything in row T)
    header      JSON     null  …   null     null               (split, seed, policy, metadata, identity)
    start.*     state    null  …   null     null

A batch that a kill or a power loss cut short is not readable or has another identity hash: it is the episode
in flight, and the only one lost.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tensordict import TensorDictBase

from rlhive.data import arrow, cache
from rlhive.data.episodes import EpisodeRecord, pack
from rlhive.data.schema import Schema
from rlhive.errors import CorruptDataset, DatasetExists

FORMAT_VERSION = 1
_HEAD = "recording.json"
_SUFFIX = ".arrows"


class Recording:
    """A folder of recorded episodes: opened to add writers, or to read what is there.

    Args:
        path: Folder of an existing recording; :meth:`create` makes one.

    Raises:
        CorruptDataset: The folder has no readable ``recording.json``.

    Attributes:
        path: The folder.
        schema: Of the transitions.
        start_state_sizes: Number of elements of each named part of the simulator's start state.
        provenance: Of the run, as given at creation.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            head = json.loads((self.path / _HEAD).read_text(encoding="utf-8"))
            self.schema = Schema.from_json(head["schema"])
            self.start_state_sizes = {str(name): int(size) for name, size in head["start_state"].items()}
            self.provenance: dict[str, Any] = head["provenance"]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            msg = f"{self.path} is not a recording: expected a readable {_HEAD}, got {error!r}. Remove the folder."
            raise CorruptDataset(msg) from error

    @classmethod
    def create(
        cls,
        path: Path,
        schema: Schema,
        *,
        start_state: Mapping[str, np.ndarray],
        provenance: Mapping[str, Any],
    ) -> "Recording":
        """Make a recording, or open the one that is there.

        Args:
            path: Its folder.
            schema: Of the transitions.
            start_state: Any simulator state, for the names and sizes of its parts.
            provenance: How the episodes come about; JSON-able.

        Raises:
            StoreNotWritable: The folder cannot be made.
            SchemaMismatch: A recording with another schema is there.
        """
        path = Path(path)
        with cache.naming_disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / _HEAD).exists():
                sizes = {name: int(np.size(value)) for name, value in start_state.items()}
                head = {
                    "format_version": FORMAT_VERSION,
                    "schema": schema.to_json(),
                    "start_state": sizes,
                    "provenance": dict(provenance),
                }
                cache.write_aside(path / _HEAD, json.dumps(head, indent=1).encode())
        recording = cls(path)
        recording.schema.require(schema, where=str(path))
        return recording

    @property
    def run(self) -> str:
        """Id of the run; empty where its provenance names none."""
        return str(self.provenance.get("run", ""))

    def recorder(self, writer: str) -> "Recorder":
        """Open a writer; its name must be new in this recording."""
        return Recorder(self, writer)

    def records(self) -> Iterator[EpisodeRecord]:
        """Yield every whole episode, stream by stream; a repeated id only once."""
        seen: set[int] = set()
        schema = _stream_schema(self)
        for stream in self._streams():
            for batch in _whole_batches(stream, schema):
                record = _from_batch(batch, self.schema, self.run)
                if record is not None and record.episode not in seen:
                    seen.add(record.episode)
                    yield record

    def sorted_records(self) -> Iterator[EpisodeRecord]:
        """Yield every whole episode in the order of their ids, whoever recorded them and when.

        Memory: one episode at a time; the streams are mapped, not read into memory.
        """
        places: dict[int, tuple[Path, int]] = {}
        batches: dict[Path, list[pa.RecordBatch]] = {}
        schema = _stream_schema(self)
        for stream in self._streams():
            batches[stream] = list(_whole_batches(stream, schema))
            for index, batch in enumerate(batches[stream]):
                record = _from_batch(batch, self.schema, self.run)
                if record is not None:
                    places.setdefault(record.episode, (stream, index))
        for episode in sorted(places):
            stream, index = places[episode]
            yield _from_batch(batches[stream][index], self.schema, self.run)

    def summaries(self) -> dict[int, tuple[int, bool]]:
        """Return length and success of every whole episode, by id."""
        return {record.episode: (record.length, record.success) for record in self.records()}

    def discard(self) -> None:
        """Remove the recording and what it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _streams(self) -> list[Path]:
        return sorted(self.path.glob(f"*{_SUFFIX}"))


class Recorder:
    """One writer of a recording; a context manager. Not for several threads.

    Args:
        recording: The recording to add to.
        writer: Name of the stream, new in the recording; letters, digits, ``_`` and ``-``.

    Raises:
        DatasetExists: The recording has a stream of that name.
    """

    def __init__(self, recording: Recording, writer: str):
        self.recording = recording
        self._path = recording.path / f"{writer}{_SUFFIX}"
        self._schema = _stream_schema(recording)
        try:
            with cache.naming_disk_errors(self._path):
                self._file = self._path.open("xb")
                self._stream = pa.ipc.new_stream(self._file, self._schema)
                cache.flush_folder(recording.path)
        except FileExistsError as error:
            msg = f"{self._path}: expected no such stream, streams are never rewritten. Choose another writer name."
            raise DatasetExists(msg) from error

    def add(
        self,
        transitions: TensorDictBase,
        *,
        episode: int,
        split: str,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
        policy: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> EpisodeRecord:
        """Check one whole episode and write it durably.

        Args:
            transitions: TED, batch size ``[T]``, T at least 1.
            episode: Its id, new in the dataset.
            split: Split that it belongs to.
            seed: Seed that reproduces it.
            start_state: Simulator state before the first action.
            policy: Name of the behaviour policy.
            metadata: The user's own, JSON-able.

        Returns:
            The record as written; it owns its memory.

        Raises:
            SchemaMismatch: Names the key and row at fault; nothing was written.
            DiskFull: No space left; earlier episodes are intact.
        """
        columns, final = pack(transitions, self.recording.schema, where=f"episode {episode}")
        record = EpisodeRecord(
            episode=episode,
            split=split,
            columns=columns,
            final=final,
            seed=seed,
            start_state=dict(start_state or {}),
            policy=policy,
            run=self.recording.run,
            metadata=dict(metadata or {}),
        )
        self.write(record)
        return record

    def write(self, record: EpisodeRecord) -> None:
        """Write one record; when this returns it is on the disk."""
        batch = _to_batch(record, self.recording.schema, self._schema)
        with cache.naming_disk_errors(self._path):
            self._stream.write_batch(batch)
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the stream. What was written is durable already."""
        # Nothing is pending unless a write failed, and that one has been reported.
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _stream_schema(recording: Recording) -> pa.Schema:
    fields = list(arrow.row_schema(recording.schema))
    starts = [pa.field(arrow.START + name, pa.list_(pa.float64())) for name in sorted(recording.start_state_sizes)]
    return pa.schema([*fields, pa.field("header", pa.string()), *starts])


def _to_batch(record: EpisodeRecord, schema: Schema, stream_schema: pa.Schema) -> pa.RecordBatch:
    columns = {}
    for item in schema.fields:
        zeros = np.zeros(item.shape, item.dtype)
        last = record.final[item.column] if item.observed else zeros
        columns[item.column] = np.concatenate([record.columns[item.column], last[None]])
    padded = EpisodeRecord(episode=record.episode, split=record.split, columns=columns, final={})
    header = {
        "split": record.split,
        "seed": record.seed,
        "policy": record.policy,
        "metadata": dict(record.metadata),
        "identity": record.identity(),
    }
    nulls = [None] * record.length
    arrays = [*arrow.rows_of(padded, schema).columns, pa.array([json.dumps(header), *nulls], pa.string())]
    for name in sorted(record.start_state):
        state = np.asarray(record.start_state[name], dtype=np.float64).ravel()
        arrays.append(pa.array([state, *nulls], pa.list_(pa.float64())))
    return pa.RecordBatch.from_arrays(arrays, schema=stream_schema)


def _from_batch(batch: pa.RecordBatch, schema: Schema, run: str) -> EpisodeRecord | None:
    """Return the record of a batch, or None where it is not what was written."""
    try:
        header = json.loads(batch.column("header")[0].as_py())
        columns = arrow.columns_of(batch, schema)
        record = EpisodeRecord(
            episode=batch.column(0)[0].as_py(),
            split=header["split"],
            columns={name: array[:-1] for name, array in columns.items()},
            final={item.column: columns[item.column][-1] for item in schema.observed},
            seed=header["seed"],
            start_state=_start_state(batch),
            policy=header["policy"],
            run=run,
            metadata=header["metadata"],
        )
        return record if record.identity() == header["identity"] else None
    except (ValueError, TypeError, KeyError, IndexError, pa.ArrowException):
        return None


def _start_state(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    names = [name for name in batch.schema.names if name.startswith(arrow.START)]
    return {name.removeprefix(arrow.START): batch.column(name)[0].values.to_numpy() for name in names}


def _whole_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the readable batches of a stream; a damaged or cut tail ends it.

    Arrow trusts a stream that it did not check: reading a value through a damaged offset ends the process. So the
    schema must be the expected one and every batch is validated before anything looks into it.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            if stream.schema != schema:
                return
            for batch in stream:
                batch.validate(full=True)
                yield batch
    except (pa.ArrowException, OSError):
        return
