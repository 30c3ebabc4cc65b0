"""The writing side of a recording.

When a call returns, its episodes are on the disk, power loss included; or they are with the operating system, where
another durability was asked for, so that the death of the process loses nothing.
"""

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from tensordict import TensorDictBase

from rlhive.data import _store
from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data.recording._recording import Recording, require_word
from rlhive.data.recording._stream import SUFFIX, encode_records, encode_schema
from rlhive.errors import DatasetExistsError, DiskFullError, InvalidOptionError, StoreNotWritableError

#: Number of episode ids that belong to a numbered stream: stream 2 holds the ids from 2,000,000 on.
EPISODES_PER_STREAM = 1_000_000
#: Maximum number of bytes of episodes that are appended before they are written.
MAX_PENDING_BYTES = 64 * 2**20
#: When written episodes are flushed to the disk: before the call returns; by the first call after FLUSH_SECONDS and at
#: the end; or when the operating system does it.
DURABILITIES = ("episode", "batch", "none")
FLUSH_SECONDS = 1.0


def require_durability(durability: str) -> str:
    """Return a durability.

    Raises:
        InvalidOptionError: It is none of DURABILITIES.
    """
    if durability not in DURABILITIES:
        msg = f"durability: expected one of {', '.join(DURABILITIES)}, got {durability!r}."
        raise InvalidOptionError(msg)
    return durability


class StreamWriter:
    """Writes episodes to a stream of a recording that no other writer uses; a context manager. Not thread-safe.

    There are two ways to write. :meth:`write` and :meth:`add_episode` take episode ids from the caller. :meth:`append`
    and :meth:`flush` assign the ids: the writer claims a range of them by the name of its stream, a number that no
    other writer of the recording has or had.

    After a failed write the stream may end with half an episode, behind which readers would find nothing. The next
    write therefore begins a new stream.

    Args:
        recording: The recording to add to. Its schema must be known when the first episode is written.
        name: Name of the stream, new in the recording; letters, digits, ``_`` and ``-``. By default the number of the
            claimed range, and the stream is created with the first episode.
        run: Id of the run that records; by default the recording's first run.
        durability: When written episodes are flushed to the disk, one of DURABILITIES.

    Raises:
        DatasetExistsError: The recording has a stream of that name.
        InvalidNameError: The name holds other characters.
        InvalidOptionError: The durability is unknown.
        RecordingInUseError: Another process commits or discards the recording.

    Attributes:
        recording: The recording.
        num_episodes: Number of episodes written so far.
        num_transitions: Number of transitions in them.
    """

    def __init__(
        self, recording: Recording, name: str | None = None, *, run: str | None = None, durability: str = "episode"
    ):
        self.recording = recording
        self.num_episodes = 0
        self.num_transitions = 0
        self._run = recording.run if run is None else run
        self._stem = None if name is None else require_word(name, "writer")
        self._assigns_ids = name is None
        self._next_id = 0
        self._end_id = 0
        self._pending: list[EpisodeRecord] = []
        self._pending_journals: list[str] = []
        self._pending_bytes = 0
        self._file: int | None = None
        self._durability = require_durability(durability)
        self._flushed_at = time.monotonic()
        self._is_flushed = True
        self._start_state_sizes: dict[str, int] = {}  # of the open stream
        self._path = recording.path
        self._num_failures = 0
        self._lock: contextlib.ExitStack | None = contextlib.ExitStack()
        self._lock.enter_context(recording.shared())
        if self._stem is not None:
            try:
                self._open_stream(self._stem)
            except BaseException:
                self.close()
                raise

    @property
    def closed(self) -> bool:
        """Whether the writer is closed."""
        return self._lock is None

    @property
    def keeps_promise(self) -> bool:
        """Whether all written episodes are as durable as they are to become."""
        return self._is_flushed or self._durability == "none"

    @property
    def next_id(self) -> int:
        """Id of the next episode that is appended; 0 before the first one, whatever its range will be."""
        return self._next_id

    def append(self, record: EpisodeRecord, *, journal: str = "") -> int:
        """Assign the next id to an episode and queue it for :meth:`flush`; return the id.

        Records of more than MAX_PENDING_BYTES are written at once.

        Args:
            record: The episode.
            journal: Token of the journal that held it while it was open, which the stream notes: once the episode is
                in the recording, its journal counts no more.

        Raises:
            DiskFullError: No space left; the record stays queued if its id was assigned.
            ValueError: The writer is closed or was opened with the name of a stream.
        """
        if not self._assigns_ids:
            msg = f"Writer {self._stem} of {self.recording.path}: expected episodes with ids, for write()."
            raise ValueError(msg)
        self._require_open()
        if self._next_id == self._end_id:
            self._claim_ids()
        record = replace(record, episode=self._next_id, run=self._run)
        self._next_id += 1
        self._pending.append(record)
        self._pending_journals.append(journal)
        self._pending_bytes += record.num_bytes
        if self._pending_bytes >= MAX_PENDING_BYTES:
            self.flush()
        return record.episode

    def flush(self) -> None:
        """Write the appended episodes, with at most one flush to the disk.

        Raises:
            DiskFullError: No space left; the episodes stay queued, and the next call tries again.
        """
        if self._pending:
            self.write(self._pending, journals=self._pending_journals)
            self._pending = []
            self._pending_journals = []
            self._pending_bytes = 0

    def write(self, records: Sequence[EpisodeRecord], *, journals: Sequence[str] = ()) -> None:
        """Write episodes that have ids, with at most one flush to the disk for all of them.

        Args:
            records: The episodes.
            journals: Token of the journal of each of them, or none at all.

        Raises:
            SchemaMismatchError: A start state has other parts than the recording's; nothing was written.
            DiskFullError: No space left; earlier episodes are intact, and the next call begins a new stream.
            ValueError: The writer is closed.
        """
        for record in records:
            self.recording.accept_start_state(record.start_state, context=f"episode {record.episode}")
        self._require_open()
        if not self._start_state_sizes and any(record.start_state for record in records):
            self._abandon_stream()  # it has no columns for the recording's first start state
        file = self._reopen_stream() if self._file is None else self._file
        schema = self.recording.require_schema()
        try:
            for message in encode_records(records, schema, self._start_state_sizes, journals=journals):
                self._write_message(file, message)
            self._is_flushed = False
            if self._is_flush_due():
                self._flush_stream()
        except BaseException:  # an interrupt too may have cut an episode in two
            self._abandon_stream()
            raise
        self.num_episodes += len(records)
        self.num_transitions += sum(record.length for record in records)

    def add_episode(
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
        """Check all transitions of one episode and write them.

        Args:
            transitions: TED, batch size ``[T]``, T at least 1.
            episode: Episode id, new in the dataset.
            split: Name of the split that the episode belongs to.
            seed: Seed that reproduces the episode.
            start_state: Simulator state before the first action.
            policy: Name of the behaviour policy.
            metadata: User metadata, JSON-able.

        Returns:
            The record as written; it owns its memory.

        Raises:
            SchemaMismatchError: Names the key and row that do not fit; nothing was written.
            DiskFullError: No space left; earlier episodes are intact.
        """
        columns, final = pack(transitions, self.recording.require_schema(), context=f"episode {episode}")
        record = EpisodeRecord(
            episode=episode,
            split=split,
            columns=columns,
            final=final,
            seed=seed,
            start_state=dict(start_state or {}),
            policy=policy,
            run=self._run,
            metadata=dict(metadata or {}),
        )
        self.write([record])
        return record

    def close(self) -> None:
        """Close the stream; again is allowed. Episodes that were appended and not flushed are lost."""
        try:
            if self._durability == "batch":
                self._flush_stream()
        finally:
            self._close_file()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> "StreamWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._lock is None:
            msg = f"The writer {self._stem} of {self.recording.path} is closed. Open another one."
            raise ValueError(msg)

    def _claim_ids(self) -> None:
        """Create the numbered stream that follows those of all writers; its name claims a range of episode ids."""
        self.flush()
        if self._durability == "batch":
            self._flush_stream()
        self._close_file()
        self._num_failures = 0
        while self._next_id == self._end_id:
            stems = [path.stem for path in self.recording.path.glob(f"*{SUFFIX}")]
            number = max((int(stem) for stem in stems if stem.isdecimal()), default=-1) + 1
            with contextlib.suppress(DatasetExistsError):  # another writer created the stream first
                self._stem = f"{number:06d}"
                self._open_stream(self._stem)
                self._next_id = number * EPISODES_PER_STREAM
                self._end_id = self._next_id + EPISODES_PER_STREAM

    def _reopen_stream(self) -> int:
        """Create the stream that follows one that failed and return its file descriptor."""
        if self._stem is None:
            msg = f"{self.recording.path}: a writer that assigns ids takes episodes by append(), not by write()."
            raise ValueError(msg)
        return self._open_stream(f"{self._stem}-{self._num_failures}")

    def _open_stream(self, name: str) -> int:
        """Create a stream and return its file descriptor."""
        path = self.recording.path / f"{name}{SUFFIX}"
        self._start_state_sizes = self.recording.start_state_sizes
        header = encode_schema(self.recording.require_schema(), self._start_state_sizes)
        self._path = path
        with _store.translate_disk_errors(path):
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError as error:
                msg = f"{path}: expected a new stream, got an existing one; streams are never rewritten."
                raise DatasetExistsError(msg) from error
        try:
            self._write_message(self._file, header)
            with _store.translate_disk_errors(path):
                _store.fsync_path(path.parent)
        except BaseException:
            self._abandon_stream()
            raise
        return self._file

    def _write_message(self, file: int, message: pa.Buffer | bytes) -> None:
        rest = memoryview(message)
        with _store.translate_disk_errors(self._path):
            while rest:
                count = os.write(file, rest)
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = rest[count:]

    def _is_flush_due(self) -> bool:
        if self._durability == "batch":
            return time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        return self._durability == "episode"

    def _flush_stream(self) -> None:
        """Flush the open stream to the disk."""
        if self._file is None or self._is_flushed:
            return
        with _store.translate_disk_errors(self._path):
            # fdatasync leaves out the time stamps, which reading does not need; macOS has only fsync.
            getattr(os, "fdatasync", os.fsync)(self._file)
        self._is_flushed = True
        self._flushed_at = time.monotonic()

    def _abandon_stream(self) -> None:
        """Close a stream that may end with half an episode, or whose columns do not fit."""
        if self._durability == "batch":  # earlier calls left whole episodes to this flush
            with contextlib.suppress(DiskFullError, StoreNotWritableError):
                self._flush_stream()
        self._close_file()
        self._num_failures += 1

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
