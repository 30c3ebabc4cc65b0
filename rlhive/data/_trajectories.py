"""Which chunk of transitions continues which trajectory: matched by id, verified by observations.

Chunks are matched by trajectory id, or by environment index where there is none. A chunk continues an open trajectory
if its first observation equals the last ``next`` observation of that trajectory bit for bit. Two collectors may use the
same trajectory ids, and a collector that starts again may use them again.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np

from rlhive import keys
from rlhive.data._transition_batch import Leaves, TransitionBatch

logger = logging.getLogger(__name__)

#: Whether the number is a trajectory id or the index of an environment, and the number.
ChunkKey = tuple[str, int]

T = TypeVar("T")


class OpenTrajectories(Generic[T]):
    """The trajectories that have not ended, each with an object of the caller's."""

    def __init__(self) -> None:
        self._open: dict[ChunkKey, list[tuple[bytes, T]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def keep(self, key: ChunkKey, item: T, chunk: Leaves, observed: list[str]) -> None:
        """Keep a trajectory open that goes on after a chunk."""
        next_observation = _to_bytes(chunk, [f"{keys.NEXT}.{name}" for name in observed], -1)
        self._open.setdefault(key, []).append((next_observation, item))

    def pop_continued(self, key: ChunkKey, chunk: Leaves, observed: list[str]) -> T | None:
        """Remove the trajectory that a chunk continues, and return its object; None where there is none."""
        candidates = self._open.get(key)
        if not candidates:
            return None
        observation = _to_bytes(chunk, observed, 0)
        for index, (next_observation, item) in enumerate(candidates):
            if next_observation == observation:
                del candidates[index]
                if not candidates:
                    del self._open[key]
                return item
        if key[0] == "trajectory":
            logger.warning("Trajectory %d: observations are not continuous; treated as a new episode", key[1])
        return None

    def pop(self, key: ChunkKey) -> list[T]:
        """Remove the trajectories of a key and return their objects."""
        return [item for _, item in self._open.pop(key, [])]

    def pop_all(self) -> list[T]:
        """Remove all trajectories and return their objects."""
        items = [item for group in self._open.values() for _, item in group]
        self._open = {}
        return items


def chunk_key(batch: TransitionBatch, env: int, start: int, *, env_index: int) -> ChunkKey:
    """Return the key of a chunk: its trajectory id, or ``env_index`` where the batch has no ids."""
    if batch.trajectory_ids is not None:
        return "trajectory", int(batch.trajectory_ids[env, start])
    return "env", env_index


def chunk_bounds(
    batch: TransitionBatch, env: int, ends: np.ndarray, has_discontinuities: bool
) -> Iterator[tuple[int, int]]:
    """Yield start and stop of every run of rows that belong to one trajectory; padding is left out.

    Args:
        batch: The batch.
        env: The environment.
        ends: Whether a row of it is the last of its episode, bool ``[time]``.
        has_discontinuities: Whether a trajectory may end without an end flag or another id.
    """
    boundaries = ends[:-1].copy()
    if batch.trajectory_ids is not None:
        boundaries |= batch.trajectory_ids[env, 1:] != batch.trajectory_ids[env, :-1]
    if batch.valid is not None:
        boundaries |= batch.valid[env, 1:] != batch.valid[env, :-1]
    if has_discontinuities:
        boundaries |= ~batch.is_continuous(env)
    bounds = [0, *(np.flatnonzero(boundaries) + 1).tolist(), len(ends)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start and (batch.valid is None or batch.valid[env, start]):
            yield start, stop


def _to_bytes(rows: Leaves, names: list[str], index: int) -> bytes:
    """Return the values of some columns in one row as bytes, for comparison."""
    values = [rows[name][index] for name in names]
    return b"\0".join(value.encode() if isinstance(value, str) else value.tobytes() for value in values)
