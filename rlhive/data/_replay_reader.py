"""Episodes of a TorchRL replay buffer, which is a ring: the newest transitions overwrite the oldest.

::

    index    0   1   2   3   4   5   6   7
    holds    b6  b7  b8 |a9 a10  b3  b4  b5        cursor = 3: oldest transition at 3, newest at 2
                         └── the transitions before a9, a0 … a8 and perhaps more, are overwritten

The rows of an episode do not show whether its beginning was overwritten. A ``step_count`` or ``is_init`` key does.
Without one, an episode that cannot be shown to be complete is dropped.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase, lazy_stack

from rlhive import keys
from rlhive.data._episode_builder import EpisodeBuilder, InfoByEnv
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._transition_batch import TransitionBatch
from rlhive.errors import SchemaMismatchError

#: Number of rows that are read from the buffer at once.
CHUNK_ROWS = 10_000


def read_replay_buffer(
    buffer: Any, builder: EpisodeBuilder, info_by_env: InfoByEnv, *, context: str = "The replay buffer"
) -> Iterator[EpisodeRecord]:
    """Yield the episodes of a TorchRL replay buffer in the order of their ends, without its transforms.

    Episodes that are open at the end of the buffer come last. An episode whose beginning was overwritten is dropped,
    with a warning. Memory: CHUNK_ROWS transitions and the open episodes.

    Args:
        buffer: A TorchRL replay buffer of transitions or of trajectories, filled by ``extend``.
        builder: Checks the episodes; it holds no open ones.
        info_by_env: Returns the metadata of an episode that begins in an environment.
        context: Prefix of error messages about the buffer as a whole.

    Raises:
        SchemaMismatchError: The writer of the buffer does not keep the order of time; or the buffer has been
            overwritten, mixes the rows of several environments and holds no key that separates them; or an episode does
            not fit, which is raised after the other episodes.
    """
    reader = _RingReader(buffer, builder, context)
    return builder.add_batches(
        reader.batches(),
        info_by_env,
        match_env_index=reader.has_env_dimension,
        has_discontinuities=True,
        end_all=True,
    )


def is_replay_buffer(data: Any) -> bool:
    """Return whether an object is a TorchRL replay buffer, without importing TorchRL."""
    return not isinstance(data, (TensorDictBase, torch.Tensor)) and hasattr(data, "storage") and hasattr(data, "writer")


class _RingReader:
    """Reads the stored transitions of a replay buffer, oldest first.

    Args:
        buffer: A TorchRL replay buffer.
        builder: Converts the transitions.
        context: Prefix of error messages.

    Attributes:
        has_env_dimension: Whether the storage has a dimension for the environments.
        num_overwritten: Number of rows that were written and are lost.
    """

    def __init__(self, buffer: Any, builder: EpisodeBuilder, context: str):
        storage, writer = buffer.storage, buffer.writer
        if "MaxValue" in type(writer).__name__:
            msg = f"{context}: expected a writer that keeps the order of time, got {type(writer).__name__}."
            raise SchemaMismatchError(msg)
        self._storage = storage
        self._builder = builder
        self._context = context
        self.has_env_dimension = getattr(storage, "ndim", 1) > 1
        self._length = storage.shape[0] if self.has_env_dimension else len(storage)
        num_written = getattr(writer, "_write_count", self._length)
        self.num_overwritten = max(0, num_written - self._length)
        self._cursor = getattr(writer, "_cursor", 0) if self.num_overwritten else 0
        # The buffers of rlhive.extend know which episodes are complete.
        complete = getattr(buffer, "complete_episodes", None)
        self._complete_ids = None if complete is None else list(complete())

    def batches(self) -> Iterator[TransitionBatch]:
        """Yield the transitions oldest first; ``starts`` marks rows of episodes whose beginning is still stored."""
        incomplete_ids: set[int] | None = None
        for index, batch in enumerate(self._read_batches()):
            if not self.num_overwritten:
                yield replace(batch, starts=None)
            elif batch.starts is not None:
                yield batch
            elif batch.trajectory_ids is not None and self._complete_ids is not None:
                yield replace(batch, starts=np.isin(batch.trajectory_ids, self._complete_ids))
            elif batch.trajectory_ids is not None:
                if incomplete_ids is None:
                    incomplete_ids = self._find_incomplete_ids()
                yield replace(batch, starts=~np.isin(batch.trajectory_ids, list(incomplete_ids)))
            else:
                self._require_one_environment(batch)
                starts = np.ones(batch.ends.shape, dtype=bool)
                starts[:, 0] = index > 0
                yield replace(batch, starts=starts)

    def _read_batches(self) -> Iterator[TransitionBatch]:
        for transitions in self._read_chunks():
            batch = self._builder.to_batch(transitions, context=self._context)
            if batch.trajectory_ids is None:
                batch = replace(batch, trajectory_ids=_read_episode_ids(transitions, batch))
            yield batch

    def _read_chunks(self) -> Iterator[TensorDictBase]:
        """Yield the transitions oldest first, ``[*envs, time]``, at most CHUNK_ROWS rows of the storage at a time."""
        for begin, end in ((self._cursor, self._length), (0, self._cursor)):
            for start in range(begin, end, CHUNK_ROWS):
                yield from self._read_slice(start, min(start + CHUNK_ROWS, end))

    def _read_slice(self, start: int, stop: int) -> Iterator[TensorDictBase]:
        rows = self._storage.get(slice(start, stop))
        if isinstance(rows, list) and rows[0].ndim:  # a ListStorage of trajectories of any length
            yield from rows
            return
        if isinstance(rows, list):  # a ListStorage of transitions
            rows = lazy_stack(rows)
        yield rows.permute(*range(1, rows.ndim), 0) if self.has_env_dimension else rows

    def _find_incomplete_ids(self) -> set[int]:
        """Return the ids of the trajectories that may have lost their beginning."""
        id_batches = [batch.trajectory_ids for batch in self._read_batches() if batch.trajectory_ids is not None]
        ids = np.concatenate(id_batches, axis=1)
        return set(ids[:, 0].tolist()) if self.has_env_dimension else _first_round_ids(ids[0])

    def _require_one_environment(self, batch: TransitionBatch) -> None:
        if self.has_env_dimension:
            return
        ends = batch.ends
        if all((batch.is_continuous(env) | ends[env, :-1]).all() for env in range(batch.num_envs)):
            return
        msg = (
            f"{self._context}: {self.num_overwritten} rows are overwritten, and the rest mixes environments: expected "
            "('collector', 'traj_ids'), 'step_count' or 'is_init', got none. Keep one of these keys in the buffer."
        )
        raise SchemaMismatchError(msg)


def _read_episode_ids(transitions: TensorDictBase, batch: TransitionBatch) -> np.ndarray | None:
    """Return the episode id of each row, ``[envs, time]``, as the buffers of ``rlhive.extend`` have them; or None."""
    ids = transitions.get(keys.EPISODE, None)
    shape = (batch.num_envs, batch.num_steps)
    if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.numel() != shape[0] * shape[1]:
        return None
    return ids.reshape(shape).numpy(force=True)


def _first_round_ids(ids: np.ndarray) -> set[int]:
    """Return the trajectory ids that appear before one appears again; only the oldest id if none does.

    Each batch of a collector of several environments holds a chunk of each environment. Every trajectory up to the
    first chunk that continues another one may therefore have begun in a batch that is overwritten.
    """
    chunk_starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    seen: list[int] = []
    for trajectory_id in ids[chunk_starts].tolist():
        if trajectory_id in seen:
            return set(seen)
        seen.append(trajectory_id)
    return set(seen[:1])
