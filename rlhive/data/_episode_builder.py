"""Episodes built from the batches of collectors, replay buffers and loops of steps.

A batch holds chunks of the episodes of several environments, ``[*envs, time]``::

    batch 1   env 0   s_0 s_1 s_2 s_3
              env 1   s_7 s_8|s_0 s_1
    batch 2   env 0   s_4 s_5|s_0 s_1
              env 1   s_2 s_3 s_4 s_5

Chunks are matched by trajectory id, or by environment index where there is none, and verified by observation
continuity. Every complete episode is checked against the schema. Nothing here reads or writes files.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tensordict import TensorDictBase

from rlhive.data._episodes import TERMINATED, TRUNCATED, EpisodeInfo, EpisodeRecord, EpisodeStart, pack_chunks
from rlhive.data._ragged import count_bytes
from rlhive.data._schema import Schema
from rlhive.data._trajectories import ChunkKey, OpenTrajectories, chunk_bounds, chunk_key
from rlhive.data._transition_batch import BOOKKEEPING, Leaves, TransitionBatch, describe_difference
from rlhive.errors import SchemaMismatchError

logger = logging.getLogger(__name__)

#: What becomes of an episode that neither terminated nor was truncated.
ON_INCOMPLETE = ("unfinished", "truncated")

#: Maximum number of chunks of an open episode. More are concatenated, so that an episode of single steps stays small.
_MAX_CHUNKS = 256


#: Returns the metadata of an episode that begins in an environment, by the index of that environment.
InfoByEnv = Callable[[int], EpisodeInfo]


class ChunkList:
    """The transitions of an open episode in order, chunk by chunk, in memory.

    Attributes:
        chunks: The chunks, arrays ``[t, *shape]`` by column name.
        num_bytes: Size of the chunks.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the chunks."""
        self.chunks: list[Leaves] = []
        self.num_bytes = 0

    def append(self, chunk: Leaves) -> None:
        """Add transitions, whose arrays nobody changes."""
        self.chunks.append(chunk)
        self.num_bytes += sum(map(count_bytes, chunk.values()))

    def keep(self) -> None:
        """Prepare for a long time until the next chunk: many small chunks become one."""
        if len(self.chunks) > _MAX_CHUNKS:
            ChunkList.concatenate(self)

    def concatenate(self) -> Leaves:
        """Join the chunks and return all transitions as arrays ``[T, *shape]``."""
        if len(self.chunks) > 1:
            names = self.chunks[0]
            self.chunks = [{name: np.concatenate([chunk[name] for chunk in self.chunks]) for name in names}]
        return self.chunks[0]

    @contextlib.contextmanager
    def opened(self) -> Iterator[Sequence[Leaves]]:
        """Give all chunks in order, to be read inside the block."""
        yield self.chunks

    def remove(self) -> None:
        """Remove what is kept outside of memory, which here is nothing."""


@dataclass
class _OpenEpisode:
    """An episode whose chunks are being collected.

    Attributes:
        info: Metadata of the episode.
        chunks: The transitions.
        length: Number of transitions.
        ended: Whether the last transition terminated or truncated the episode.
        truncated_start: Whether the transitions before the first one are lost.
        mismatch: How a chunk differs from the first one in keys, dtypes or shapes; empty where none does.
    """

    info: EpisodeInfo
    chunks: ChunkList
    length: int = 0
    ended: bool = False
    truncated_start: bool = False
    mismatch: str = ""
    _first_row: Leaves = field(default_factory=dict)

    def append(self, chunk: Leaves) -> None:
        """Add transitions; a difference from the first chunk is reported by :meth:`require_equal_kinds`."""
        if self._first_row and not self.mismatch:
            self.mismatch = describe_difference(self._first_row, chunk)
        if not self.mismatch:
            self.chunks.append(chunk)
            self.length += len(chunk[TERMINATED])
            self._first_row = self._first_row or {name: array[:1].copy() for name, array in chunk.items()}

    def require_equal_kinds(self, *, context: str) -> None:
        """Raise unless all chunks have the same columns.

        Raises:
            SchemaMismatchError: The keys, a dtype or a shape changed inside the episode.
        """
        if self.mismatch:
            msg = (
                f"{context}: {self.mismatch}. Every step of an episode must have the same keys, dtypes and shapes; "
                "Recorder(ragged=[…]) names keys whose rows have different lengths."
            )
            raise SchemaMismatchError(msg)


class EpisodeBuilder:
    """Builds checked :class:`EpisodeRecord` objects from batches, steps or whole episodes of TED transitions.

    A chunk continues an open episode of the same trajectory id, or of the same environment where there are no
    trajectory ids, if its first observation equals the episode's last ``next`` observation bit for bit. If it does
    not, the open episode of an environment ends; that of a trajectory id stays open, since two collectors may use the
    same id.

    Every method that yields records must be consumed completely. An episode that does not fit is skipped; the first
    such error is raised after all other records.

    Args:
        schema: Schema that every episode must have; by default that of the first episode.
        on_incomplete: ``"unfinished"`` keeps an episode without an end flag as it is, ``"truncated"`` sets
            ``("next", "truncated")`` in its last transition.
        drop: Names of keys that are left out, at the root and below ``"next"``.
        ragged: Names of columns whose rows have different lengths.
        context: Returns the prefix of error messages for an episode, given the number of records built so far.
        accept: Called with each record, its schema and the prefix of error messages; raises SchemaMismatchError to
            refuse the record.
        make_chunks: Returns the list that keeps the chunks of an open episode, given the episode's metadata.
        find_start: Returns the start of an episode that the environment noted, given the first transitions; None where
            it noted none.

    Attributes:
        schema: Schema that every episode must have; None before the first one, unless it was given.
        last_chunks: The list that kept the chunks of the record that was yielded last.
    """

    def __init__(
        self,
        *,
        schema: Schema | None = None,
        on_incomplete: str = "unfinished",
        drop: tuple[str, ...] = BOOKKEEPING,
        ragged: tuple[str, ...] = (),
        context: Callable[[int], str] = "episode {}".format,
        accept: Callable[[EpisodeRecord, Schema, str], None] | None = None,
        make_chunks: Callable[[EpisodeInfo], ChunkList] = lambda _: ChunkList(),
        find_start: Callable[[Leaves], EpisodeStart | None] = lambda _: None,
    ):
        self.schema = schema
        self.last_chunks = ChunkList()
        self._make_chunks = make_chunks
        self._find_start = find_start
        self._marks_truncated = on_incomplete == "truncated"
        self._drop = drop
        self._ragged = ragged
        self._context = context
        self._accept = accept
        self._open: OpenTrajectories[_OpenEpisode] = OpenTrajectories()
        self._num_built = 0
        self._checked_kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]] | None = None

    @property
    def num_open(self) -> int:
        """Number of episodes that have not ended yet."""
        return len(self._open)

    @property
    def next_context(self) -> str:
        """Prefix of error messages for the next episode."""
        return self._context(self._num_built)

    def to_batch(self, transitions: TensorDictBase, *, context: str = "") -> TransitionBatch:
        """Convert TED transitions ``[*envs, time]`` to arrays, without the keys that are left out.

        Raises:
            SchemaMismatchError: The time dimension or an end flag is missing, or a key cannot be recorded.
        """
        return TransitionBatch.from_tensordict(
            transitions, drop=self._drop, ragged=self._ragged, context=context or self.next_context
        )

    def add_batch(self, transitions: TensorDictBase, info_by_env: InfoByEnv) -> Iterator[EpisodeRecord]:
        """Add transitions ``[*envs, time]`` and yield the episodes that end in them."""
        # The caller decided to begin here: markers of a missing start apply to replay buffers only.
        batch = replace(self.to_batch(transitions), starts=None)
        return self.add_batches([batch], info_by_env)

    def add_step(
        self, transition: TensorDictBase, info_by_env: InfoByEnv, *, first_env: int
    ) -> Iterator[EpisodeRecord]:
        """Add one transition each of some environments, batch size ``[]`` or ``[n]``, and yield the ended episodes."""
        steps = transition.reshape(-1) if transition.ndim else transition.unsqueeze(0)
        batch = replace(self.to_batch(steps.unsqueeze(-1)), trajectory_ids=None, starts=None)
        return self.add_batches([batch], info_by_env, first_env=first_env)

    def add_batches(
        self,
        batches: Iterable[TransitionBatch],
        info_by_env: InfoByEnv,
        *,
        first_env: int = 0,
        match_env_index: bool = True,
        has_discontinuities: bool = False,
        end_all: bool = False,
    ) -> Iterator[EpisodeRecord]:
        """Add batches of arrays and yield the episodes that end in them.

        Args:
            batches: Batches in order of time; their arrays may be overwritten once the next batch is requested.
            info_by_env: Returns the metadata of an episode that begins in an environment.
            first_env: Index of the first environment of the batches.
            match_env_index: Whether environment ``i`` of a batch continues environment ``i`` of the batch before. If
                not, and without trajectory ids, a chunk continues any open episode that ended with its observation.
            has_discontinuities: Whether an environment's rows may hold parts of several episodes without an end flag
                between them.
            end_all: Whether to end the open episodes after the last batch.
        """

        def ended_episodes() -> Iterator[_OpenEpisode]:
            for batch in batches:
                yield from self._add_chunks(batch, info_by_env, first_env, match_env_index, has_discontinuities)
            if end_all:
                yield from self._open.pop_all()

        return self._build_records(ended_episodes())

    def add_episode(self, transitions: TensorDictBase, info: EpisodeInfo) -> Iterator[EpisodeRecord]:
        """Add all transitions of one episode, ``[T]``, and yield its record.

        Raises:
            SchemaMismatchError: The batch size is not ``[T]``, or as for :meth:`to_batch`.
        """
        batch = self.to_batch(transitions)
        if batch.num_envs != 1 or not batch.num_steps:
            msg = f"{self.next_context}: expected one episode, batch size [T] with T >= 1, got {transitions.shape}."
            raise SchemaMismatchError(msg)
        chunk = batch.chunk(0, 0, batch.num_steps)
        info = self._complete_start(info, batch.start_state(0, 0), chunk)
        return self.add_arrays(chunk, info, ended=bool(batch.ends[0, -1]))

    def add_arrays(self, leaves: Leaves, info: EpisodeInfo, *, ended: bool = False) -> Iterator[EpisodeRecord]:
        """Add all transitions of one episode as arrays ``[T, *shape]``, ``next`` twins included; yield its record."""
        episode = _OpenEpisode(info, ChunkList(), ended=ended)
        episode.append(leaves)
        return self._build_records([episode])

    def end_episodes(self, env_index: int | None = None) -> Iterator[EpisodeRecord]:
        """End the open episodes, or that of one environment, and yield their records."""
        episodes = self._open.pop_all() if env_index is None else self._open.pop(("env", env_index))
        return self._build_records(episodes)

    def _add_chunks(
        self,
        batch: TransitionBatch,
        info_by_env: InfoByEnv,
        first_env: int,
        match_env_index: bool,
        has_discontinuities: bool,
    ) -> Iterator[_OpenEpisode]:
        """Add the chunks of a batch and yield the episodes that end in it."""
        observed, ends, trajectory_ids = batch.observed, batch.ends, batch.trajectory_ids
        for env in range(batch.num_envs):
            for start, stop in chunk_bounds(batch, env, ends[env], has_discontinuities and trajectory_ids is None):
                chunk = batch.chunk(env, start, stop)
                key = chunk_key(batch, env, start, env_index=first_env + env if match_env_index else -1)
                episode = self._open.pop_continued(key, chunk, observed)
                if episode is None and match_env_index and trajectory_ids is None:
                    yield from self._open.pop(key)
                if episode is None:
                    info = self._complete_start(info_by_env(first_env + env), batch.start_state(env, start), chunk)
                    truncated_start = batch.starts is not None and not batch.starts[env, start]
                    episode = _OpenEpisode(info, self._make_chunks(info), truncated_start=truncated_start)
                if ends[env, stop - 1]:
                    episode.append(chunk)
                    episode.ended = True
                    yield episode
                else:
                    self._keep_open(key, episode, chunk, observed)

    def _complete_start(self, info: EpisodeInfo, state: Leaves, chunk: Leaves) -> EpisodeInfo:
        """Add the seed and the start state that the data or the environment know, where the caller gave none."""
        start = self._find_start(chunk)
        start_state = info.start_state or state or (start.state if start else {})
        seed = start.seed if start and info.seed is None and not info.start_state else info.seed
        return replace(info, seed=seed, start_state=start_state)

    def _keep_open(self, key: ChunkKey, episode: _OpenEpisode, chunk: Leaves, observed: list[str]) -> None:
        # A copy: collectors write their next batch into the same memory.
        episode.append({name: array.copy() for name, array in chunk.items()})
        self._open.keep(key, episode, chunk, observed)
        episode.chunks.keep()

    def _build_records(self, episodes: Iterable[_OpenEpisode]) -> Iterator[EpisodeRecord]:
        """Yield the records of ended episodes; raise the first SchemaMismatchError at the end."""
        first_error: SchemaMismatchError | None = None
        dropped_lengths = []
        for episode in episodes:
            if episode.truncated_start:
                dropped_lengths.append(episode.length)
                episode.chunks.remove()
                continue
            try:
                record = self._build_record(episode)
            except SchemaMismatchError as error:
                first_error = first_error or error
                episode.chunks.remove()
                continue
            self._num_built += 1
            self.last_chunks = episode.chunks
            yield record
        if dropped_lengths:
            logger.warning(
                "Replay buffer: dropped %d episodes (%d transitions) whose beginning was overwritten",
                len(dropped_lengths),
                sum(dropped_lengths),
            )
        if first_error is not None:
            raise first_error

    def _build_record(self, episode: _OpenEpisode) -> EpisodeRecord:
        context, info = self.next_context, episode.info
        episode.require_equal_kinds(context=context)
        with episode.chunks.opened() as chunks:
            if self._marks_truncated and not episode.ended:
                chunks = [*chunks[:-1], _mark_truncated(chunks[-1])]
            schema = self._require_schema(chunks[0], context)
            columns, final = pack_chunks(chunks, schema, context=context)
        del chunks
        episode.chunks.clear()  # the record holds a copy, and a long episode should not lie in memory twice
        for array in (*columns.values(), *final.values()):
            array.flags.writeable = False  # the record then caches its hash
        record = EpisodeRecord(
            episode=self._num_built,
            split=info.split,
            columns=columns,
            final=final,
            seed=info.seed,
            start_state=info.start_state,
            policy=info.policy,
            metadata=info.metadata,
        )
        if self._accept is not None:
            self._accept(record, schema, context)
        self.schema = schema
        return record

    def _require_schema(self, leaves: Leaves, context: str) -> Schema:
        """Return the schema of an episode after comparing it with the expected one, if there is one."""
        kinds = {name: (array.dtype, array.shape[1:]) for name, array in leaves.items()}
        if self.schema is not None and kinds == self._checked_kinds:
            return self.schema
        episode_schema = Schema.from_arrays(leaves)
        if self.schema is None:
            return episode_schema
        self.schema.require(episode_schema, context=context)
        self._checked_kinds = kinds
        return self.schema


def _mark_truncated(leaves: Leaves) -> Leaves:
    """Return the transitions with ``("next", "truncated")`` set in the last one; the caller's array is not changed."""
    truncated = leaves[TRUNCATED].copy()
    truncated[-1] = True
    return {**leaves, TRUNCATED: truncated}
