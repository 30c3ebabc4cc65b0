"""The way into a recording: one writer, one stream, one flush for all that comes together."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tensordict import TensorDictBase

from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data.recording._recording import Recording, word
from rlhive.data.recording._stream import SUFFIX, Stream
from rlhive.errors import DatasetExists

#: Ids of a numbered writer's episodes: its number times this, and counting. Writers need not ask each other.
EPISODES_PER_WRITER = 1_000_000
#: So many bytes of episodes are put aside at most before they are written.
FLUSH_BYTES = 64 * 2**20


class Writer:
    """One writer of a recording; a context manager. Not for several threads.

    Args:
        recording: The recording to add to; its schema is known.
        name: Name of the stream, new in the recording; letters, digits, ``_`` and ``-``.
        run: Id of the run that records; the recording's first by default.

    Raises:
        DatasetExists: The recording has a stream of that name.
        InvalidName: The name is not a word.
        RecordingInUse: Somebody is committing or discarding it.
    """

    def __init__(self, recording: Recording, name: str, *, run: str | None = None):
        self.recording, self._name, self._failures = recording, word(name, "writer"), 0
        self._run = recording.run if run is None else run
        self._held: contextlib.ExitStack | None = contextlib.ExitStack()
        self._held.enter_context(recording.shared())
        self._stream: Stream | None = self._open()

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
            run=self._run,
            metadata=dict(metadata or {}),
        )
        self.write(record)
        return record

    def write(self, *records: EpisodeRecord) -> None:
        """Write records; when this returns they are on the disk, flushed once for all of them.

        Raises:
            SchemaMismatch: The start state has other parts than the recording's; nothing of that record was written.
            DiskFull: No space left; what was written before is intact, and the next call begins a new stream.
            ValueError: The writer is closed.
        """
        for record in records:
            self.recording.require_start_state(record.start_state, where=f"episode {record.episode}")
        if self._held is None:
            msg = f"The writer {self._name} of {self.recording.path} is closed: expected an open one. Open another."
            raise ValueError(msg)
        try:
            if self._stream is None:
                self._stream = self._open()
            self._stream.append(*records)
            self._stream.flush()
        except BaseException:  # an interrupt too may have cut an episode in two
            self._abandon()
            raise

    def close(self) -> None:
        """Close the stream. What was written is durable already."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> Stream:
        name = self._name if not self._failures else f"{self._name}-{self._failures}"
        path = self.recording.path / f"{name}{SUFFIX}"
        return Stream(path, self.recording.schema, self.recording.start_state_sizes)

    def _abandon(self) -> None:
        """Give up a stream that may end with half an episode: whatever came after it could not be found again."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._failures += 1


class NumberedWriter:
    """A writer that gives ids to its episodes, none of which another writer of the recording gives or gave.

    Episodes are put aside first and written together by :meth:`flush`; what cannot be written stays put aside.

    Args:
        recording: Its schema need not be known yet.
        run: Id of the run that records.

    Attributes:
        num_episodes: Written so far.
        num_transitions: Of those.
    """

    def __init__(self, recording: Recording, *, run: str):
        self.recording, self._run = recording, run
        self._writer: Writer | None = None
        self._pending: list[EpisodeRecord] = []
        self._first = self._count = self._bytes = 0
        self.num_episodes = self.num_transitions = 0

    @property
    def next_id(self) -> int:
        """Id of the next episode; before the first one, as far as it is known."""
        return self._first + self._count

    def put(self, record: EpisodeRecord) -> EpisodeRecord:
        """Give an episode its id and put it aside; many bytes are written at once."""
        self._open()
        record = replace(record, episode=self.next_id, run=self._run)
        self._count += 1
        self._pending.append(record)
        self._bytes += sum(array.nbytes for array in record.columns.values())
        if self._bytes >= FLUSH_BYTES:
            self.flush()
        return record

    def flush(self) -> None:
        """Write what was put aside, flushed to the disk together.

        Raises:
            DiskFull: No space left; the next call tries again.
        """
        if self._pending:
            self._writer.write(*self._pending)
            self.num_episodes += len(self._pending)
            self.num_transitions += sum(record.length for record in self._pending)
            self._pending, self._bytes = [], 0

    def close(self) -> None:
        """Close the stream; what was put aside and not written is lost."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> None:
        """Open a stream whose number no other writer of the recording has or had: its file is the claim."""
        while self._writer is None or self._count >= EPISODES_PER_WRITER:
            taken = [int(path.stem) for path in self.recording.path.glob(f"*{SUFFIX}") if path.stem.isdecimal()]
            number = max(taken, default=-1) + 1
            with contextlib.suppress(DatasetExists):  # another writer was faster
                writer = Writer(self.recording, f"{number:06d}", run=self._run)
                self.flush()
                self.close()
                self._writer, self._first, self._count = writer, number * EPISODES_PER_WRITER, 0
