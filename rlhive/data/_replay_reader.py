"""A TorchRL replay buffer read as what it is: a ring that remembers the newest transitions and overwrites the oldest.

::

    index    0   1   2   3   4   5   6   7
    holds    b6  b7  b8 |a9 a10  b3  b4  b5        cursor = 3: oldest transition at 3, newest at 2
                         └── what began before it, a0 … a8 and perhaps more, is overwritten

An episode that has lost its beginning cannot be told from a whole one by its rows alone. Whether it was lost is known
exactly where the data hold a ``step_count`` or ``is_init``; otherwise what cannot be shown to be whole counts as lost.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase, lazy_stack

from rlhive.data._episode_builder import Batch
from rlhive.errors import SchemaMismatch

CHUNK_ROWS = 10_000


class Ring:
    """The stored transitions of a replay buffer, oldest first; transforms of the buffer are not applied.

    Args:
        buffer: A TorchRL replay buffer of transitions or of trajectories, as ``extend`` filled it.
        where: Address for messages.

    Raises:
        SchemaMismatch: Its writer does not keep the order of time.

    Attributes:
        overwritten: Number of rows that were written and are gone.
        lines: Whether rows of one environment lie in a dimension of their own.
    """

    def __init__(self, buffer: Any, *, where: str):
        storage, writer = buffer.storage, buffer.writer
        if "MaxValue" in type(writer).__name__:
            msg = (
                f"{where}: expected a buffer that keeps the order of time, got {type(writer).__name__}. Extend another."
            )
            raise SchemaMismatch(msg)
        self._storage, self.where = storage, where
        self.lines = getattr(storage, "ndim", 1) > 1
        self._length = storage.shape[0] if self.lines else len(storage)
        written = getattr(writer, "_write_count", self._length)
        self.overwritten = max(0, written - self._length)
        self._cursor = getattr(writer, "_cursor", 0) if self.overwritten else 0

    def chunks(self) -> Iterator[TensorDictBase]:
        """Yield the transitions oldest first, ``[*lines, time]``, at most CHUNK_ROWS rows of the ring at a time."""
        bounds = [(self._cursor, self._length), (0, self._cursor)]
        for begin, end in bounds:
            for start in range(begin, end, CHUNK_ROWS):
                yield from self._get(start, min(start + CHUNK_ROWS, end))

    def marked(self, batches: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
        """Yield the batches with the rows marked that do not follow a reset, as far as the ring was written over.

        Args:
            batches: Gives the batches of all :meth:`chunks`; called twice where ids alone tell.

        Raises:
            SchemaMismatch: Rows of several environments lie among each other, without ids and without any trace of
                where episodes begin.
        """
        lost: set[int] | None = None
        for index, batch in enumerate(batches()):
            if not self.overwritten:
                batch.starts = None
            elif batch.starts is None and batch.ids is not None:
                lost = self._headless(batches()) if lost is None else lost
                batch.starts = ~np.isin(batch.ids, list(lost))
            elif batch.starts is None:
                self._require_one_environment(batch)
                batch.starts = np.ones(batch.ends.shape, dtype=bool)
                batch.starts[:, 0] = index > 0
            yield batch

    def _headless(self, batches: Iterable[Batch]) -> set[int]:
        """Return the trajectories that may have lost their beginning."""
        ids = np.concatenate([batch.ids for batch in batches], axis=1)
        return set(ids[:, 0].tolist()) if self.lines else _first_round(ids[0])

    def _require_one_environment(self, batch: Batch) -> None:
        if self.lines or all((batch.continues(line) | ends[:-1]).all() for line, ends in enumerate(batch.ends)):
            return
        msg = (
            f"{self.where}: {self.overwritten} rows are overwritten, and the rest mixes environments: expected "
            "('collector', 'traj_ids'), 'step_count' or 'is_init', got none. Keep one of them when you extend it."
        )
        raise SchemaMismatch(msg)

    def _get(self, start: int, stop: int) -> Iterator[TensorDictBase]:
        found = self._storage.get(slice(start, stop))
        if isinstance(found, list):  # of a ListStorage: transitions, or trajectories of any length
            if not found[0].ndim:
                found = lazy_stack(found)
            else:
                yield from found
                return
        yield found.permute(*range(1, found.ndim), 0) if self.lines else found


def _first_round(ids: np.ndarray) -> set[int]:
    """Return the trajectories that appear before one comes again; only the oldest, where none ever does.

    With several environments, each batch of the collector brought a piece of each: until the first piece that goes on
    a trajectory, every trajectory may have begun in a batch that is gone.
    """
    begins = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    seen: list[int] = []
    for trajectory in ids[begins].tolist():
        if trajectory in seen:
            return set(seen)
        seen.append(trajectory)
    return set(seen[:1])


def is_replay_buffer(data: Any) -> bool:
    """Whether something is a replay buffer, said without importing TorchRL."""
    return not isinstance(data, (TensorDictBase, torch.Tensor)) and hasattr(data, "storage") and hasattr(data, "writer")
