"""What a recorder is given, on its way to the disk: pieces ─► episodes ─► checked, hashed records ─► one flush.

extend, step, begin, add, cut ─► Batch ─► Assembler ─► Episode ─► schema, start state, soundness ─► NumberedWriter
"""

import json
import logging
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensordict import TensorDictBase

from rlhive.data._episode_builder import About, Assembler, Batch, Episode
from rlhive.data._episodes import TERMINATED, EpisodeRecord, pack_leaves
from rlhive.data._replay_reader import Ring
from rlhive.data._schema import Schema
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import NumberedWriter
from rlhive.errors import SchemaMismatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """What holds for everything that is taken; see :class:`rlhive.data.recording.Recorder`.

    Attributes:
        split: Split of an episode of which nothing else was said.
        policy: Name of the policy, likewise.
        schema: What every episode must hold; None for what the first one does.
        truncates: Whether the last transition of an episode that nothing ended is marked as truncated.
        drop: Names of keys that are left out.
    """

    split: str
    policy: str
    schema: Schema | None
    truncates: bool
    drop: tuple[str, ...]


class Intake:
    """Takes transitions, in one process and one thread, and writes the episodes that they end.

    Args:
        recording: Where to.
        run: Id of the run that records.
        rules: What holds for everything.

    Attributes:
        writer: Knows what was written, and the next id.
    """

    def __init__(self, recording: Recording, *, run: str, rules: Rules):
        self._recording, self._rules = recording, rules
        self._assembler = Assembler()
        self._next: dict[int, About] = {}
        self._fits: tuple[Any, Schema] | None = None
        self.writer = NumberedWriter(recording, run=run)

    @property
    def num_open(self) -> int:
        """Number of episodes in flight."""
        return len(self._assembler.open_episodes)

    @property
    def where(self) -> str:
        """Address of the next episode, for messages."""
        return f"{self._recording.path}, episode {self.writer.next_id}"

    def about(
        self,
        split: str | None = None,
        policy: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int | None = None,
        start_state: Mapping[str, np.ndarray] | None = None,
    ) -> About:
        """Return what a caller says of episodes, with the rules where it says nothing.

        Raises:
            SchemaMismatch: The metadata is not a mapping that JSON can hold, where there is no NaN and no infinity; the
                seed is no int64, or a part of the start state is no numbers. A version could hold none of them.
        """
        try:
            metadata = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            msg = f"{self.where}, metadata: expected a mapping of JSON values, got: {error}. Convert or drop it."
            raise SchemaMismatch(msg) from error
        try:
            seed = seed if seed is None else int(np.int64(operator.index(seed)))
            state = {name: np.array(value, dtype=np.float64) for name, value in (start_state or {}).items()}
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"{self.where}: expected an int64 seed and a start state of numbers, got: {error}. Convert them."
            raise SchemaMismatch(msg) from error
        policy = self._rules.policy if policy is None else policy
        return About(split or self._rules.split, seed, state, policy, metadata)

    def announce(self, line: int, about: About) -> None:
        """Say what holds for the next episode of a line alone."""
        self._next[line] = about

    def take(self, data: TensorDictBase, about: About) -> list[int]:
        """Take a batch ``[*lines, time]``; return the ids of what it ended."""
        batch = Batch.of(data, drop=self._rules.drop, where=self.where)
        batch.starts = None  # a beginning that is missing here is the caller's choice
        return self._record(self._assembler.feed(batch, self._said(about)))

    def take_step(self, transition: TensorDictBase, first_line: int) -> list[int]:
        """Take one transition of each of some environments, ``[]`` or ``[n]``."""
        single = transition.unsqueeze(0) if not transition.ndim else transition.reshape(-1)
        batch = Batch.of(single.unsqueeze(-1), drop=self._rules.drop, where=self.where)
        batch.ids = batch.starts = None
        return self._record(self._assembler.feed(batch, self._said(self.about()), first_line=first_line))

    def take_episode(self, transitions: TensorDictBase, about: About) -> int:
        """Take one whole episode, ``[T]``; return its id."""
        batch = Batch.of(transitions, drop=self._rules.drop, where=self.where)
        ends = batch.ends
        if len(ends) != 1 or not ends.shape[1]:
            msg = f"{self.where}: expected one episode, batch size [T] with T >= 1, got {transitions.shape}."
            raise SchemaMismatch(msg)
        leaves = {name: array[0] for name, array in batch.rows.items()}
        about = batch.about_of(0, 0, about)
        (episode,) = self._record([Episode(about, [leaves], ended=bool(ends[0, -1]))])
        return episode

    def take_buffer(self, buffer: Any, about: About) -> list[int]:
        """Take what a replay buffer holds, a chunk at a time, and the episodes that are open at its end."""
        ring = Ring(buffer, where=f"Replay buffer for {self._recording.path}")

        def batches() -> Iterable[Batch]:
            return (Batch.of(chunk, drop=self._rules.drop, where=ring.where) for chunk in ring.chunks())

        assembler, ids = Assembler(), []
        for batch in ring.marked(batches):
            ids += self._record(assembler.feed(batch, self._said(about), lines=ring.lines, seams=True))
        return ids + self._record(assembler.take())

    def cut(self, line: int | None = None) -> list[int]:
        """Write the open episodes, or that of one line; return their ids."""
        return self._record(self._assembler.take(line))

    def _said(self, common: About) -> Callable[[int], About]:
        return lambda line: self._next.pop(line, common)

    def _record(self, episodes: Iterable[Episode]) -> list[int]:
        """Write episodes, flushed to the disk together; the first that is refused is reported when the others are safe.

        What could not be written, since the disk is full or the user interrupted, is kept for the next call.
        """
        ids, refused = [], None
        for episode in episodes:
            if episode.headless:
                _say_headless(episode)
                continue
            try:
                record = self._record_of(episode)
            except SchemaMismatch as error:
                refused = refused or error
                continue
            ids.append(self.writer.put(record).episode)
        self.writer.flush()
        if refused is not None:
            raise refused
        return ids

    def _record_of(self, episode: Episode) -> EpisodeRecord:
        """Check an episode against the schema, which the first one makes."""
        where, about = self.where, episode.about
        cut = not episode.ended and self._rules.truncates
        try:
            leaves = (episode.truncated() if cut else episode).leaves()
        except SchemaMismatch as error:
            msg = f"{where}: {error}"
            raise SchemaMismatch(msg) from error
        schema = self._schema_of(leaves, where)
        columns, final = pack_leaves(leaves, schema, where=where)
        for array in (*columns.values(), *final.values()):
            array.flags.writeable = False  # so that its hash is computed once
        if self._recording.schema is None:
            self._recording.set_schema(schema, about.start_state)
        self._recording.require_start_state(about.start_state, where=where)
        return EpisodeRecord(
            episode=-1,  # the writer gives the id
            split=about.split,
            columns=columns,
            final=final,
            seed=about.seed,
            start_state=about.start_state,
            policy=about.policy,
            metadata=about.metadata,
        )

    def _schema_of(self, leaves: Mapping[str, np.ndarray], where: str) -> Schema:
        """Return the recording's schema, or the first episode's, if the leaves are of it."""
        kinds = {name: (array.dtype, array.shape[1:]) for name, array in leaves.items()}
        if self._fits is None or self._fits[0] != kinds:
            found = Schema.from_arrays(leaves)
            schema = self._recording.schema or self._rules.schema or found
            schema.require(found, context=where)
            if self._recording.schema is None:
                return schema  # an episode that is refused decides nothing
            self._fits = kinds, schema
        return self._fits[1]


def _say_headless(episode: Episode) -> None:
    length = sum(len(chunk[TERMINATED]) for chunk in episode.chunks)
    named = "" if episode.trajectory is None else f" {episode.trajectory}"
    logger.warning("Trajectory%s was dropped, %d transitions: its beginning was overwritten", named, length)
