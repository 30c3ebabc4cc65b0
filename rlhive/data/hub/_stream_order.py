"""The order of a streamed epoch, as positions: who hands out which transition, and when. No data are read here.

::

    all transitions of the epoch, in its order of chunks      positions 0 … T-1
    reader i of N (a worker of a rank)                        the next positions, as many as its batches hold
    its pool of P slots                                       a batch takes random slots; the next positions refill them

An epoch that goes on with other ranks or workers begins with what the old readers left: the contents of their pools,
and the positions that they did not reach, are divided among the new ones. So an epoch is a sequence of stages.

The random numbers are raw output of PCG64, which no version of NumPy changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rlhive.data.replay import derive_seed


@dataclass(frozen=True)
class Runs:
    """A sequence of positions, as half-open ranges of consecutive ones.

    Attributes:
        starts: First position of each range, int64.
        stops: The position after the last one of each range, int64.
    """

    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def of_range(cls, length: int) -> "Runs":
        """Return the positions from 0 to ``length`` - 1."""
        return cls(np.array([0]), np.array([length]))

    @classmethod
    def of_positions(cls, positions: np.ndarray) -> "Runs":
        """Return some positions in their order."""
        if not len(positions):
            return cls(positions, positions)
        breaks = np.flatnonzero(np.diff(positions) != 1)
        return cls(positions[np.append(0, breaks + 1)], positions[np.append(breaks, len(positions) - 1)] + 1)

    @classmethod
    def join(cls, parts: Sequence["Runs"]) -> "Runs":
        """Return the positions of several sequences, one after the other."""
        return cls(np.concatenate([part.starts for part in parts]), np.concatenate([part.stops for part in parts]))

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def slice(self, first: int, stop: int) -> "Runs":
        """Return the positions with the indices ``first`` … ``stop`` - 1."""
        lengths = self.stops - self.starts
        begins = np.cumsum(lengths) - lengths
        low, high = np.maximum(first - begins, 0), np.minimum(stop - begins, lengths)
        is_inside = low < high
        return Runs((self.starts + low)[is_inside], (self.starts + high)[is_inside])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the positions with some indices, int64."""
        lengths = self.stops - self.starts
        ends = np.cumsum(lengths)
        run = np.searchsorted(ends, indices, side="right")
        return self.starts[run] + indices - (ends - lengths)[run]


_NONE = np.empty(0, np.int64)


class Draw(NamedTuple):
    """What happens to a pool when a batch is drawn.

    Attributes:
        slots: Slots of the batch's rows, int64.
        num_new: Number of rows that come in; they take the first ``num_new`` of these slots.
        moved_from: Slots at the end of the pool, whose rows fill the gaps where no rows come in any more.
        moved_to: The gaps, as many.
        size: Number of slots afterwards.
    """

    slots: np.ndarray
    num_new: int
    moved_from: np.ndarray
    moved_to: np.ndarray
    size: int


class PoolOrder:
    """The order in which a pool hands out a sequence of rows.

    Args:
        num_rows: Length of the sequence.
        pool_size: Number of slots.
        seed: Seed of the draws.

    Attributes:
        rows: Index of the row in each slot, int64 ``[size]``.
        num_entered: Number of rows that have come into the pool.
    """

    def __init__(self, num_rows: int, pool_size: int, seed: int):
        self._num_rows = num_rows
        self._bits = np.random.PCG64(seed)
        self.rows = np.arange(min(pool_size, num_rows))
        self.num_entered = len(self.rows)

    def draw(self, num_drawn: int) -> Draw:
        """Choose the slots of a batch, and refill them."""
        slots = draw_distinct(self._bits, len(self.rows), num_drawn)
        num_new = min(num_drawn, self._num_rows - self.num_entered)
        moved_from, moved_to = _find_moves(slots[num_new:], len(self.rows)) if num_new < num_drawn else (_NONE, _NONE)
        draw = Draw(slots, num_new, moved_from, moved_to, len(self.rows) - num_drawn + num_new)
        self.rows[slots[:num_new]] = np.arange(self.num_entered, self.num_entered + num_new)
        if len(moved_to):
            self.rows[moved_to] = self.rows[moved_from]
        self.rows = self.rows[: draw.size]
        self.num_entered += num_new
        return draw


def draw_distinct(bits: np.random.PCG64, size: int, count: int) -> np.ndarray:
    """Return ``count`` different numbers below ``size`` in random order, int64."""
    if 4 * count >= size:
        return np.argsort(bits.random_raw(size), kind="stable")[:count]
    numbers = _draw(bits, size, count)
    while True:
        first = np.sort(np.unique(numbers, return_index=True)[1])
        if len(first) == count:
            return numbers
        numbers = np.concatenate([numbers[first], _draw(bits, size, count - len(first))])


def _draw(bits: np.random.PCG64, size: int, count: int) -> np.ndarray:
    """Return numbers below ``size``, which may be equal."""
    return (bits.random_raw(count) % np.uint64(size)).astype(np.int64)


def permute(count: int, seed: int) -> np.ndarray:
    """Return the numbers below ``count`` in random order, int64."""
    return draw_distinct(np.random.PCG64(seed), count, count)


def _find_moves(gaps: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return from where to where rows move so that the gaps of a pool are at its end."""
    new_size = size - len(gaps)
    tail = np.arange(new_size, size)
    return tail[~np.isin(tail, gaps)], gaps[gaps < new_size]


class BatchReader(NamedTuple):
    """One of the processes that share a stream.

    Attributes:
        rank: Number of the rank, from 0.
        worker: Number of the DataLoader's worker in this rank, from 0.
    """

    rank: int = 0
    worker: int = 0


@dataclass(frozen=True)
class StreamStage:
    """A part of an epoch in which the number of readers stayed the same.

    Attributes:
        world_size: Number of ranks.
        num_workers: Number of workers in each rank, at least 1.
        num_batches: Number of batches that each rank has handed out in this stage. Worker w has handed out those of
            them whose number, counted in this stage, is w modulo ``num_workers``.
    """

    world_size: int = 1
    num_workers: int = 1
    num_batches: int = 0

    def has_readers_of(self, other: "StreamStage") -> bool:
        """Whether both have as many ranks and workers."""
        return (self.world_size, self.num_workers) == (other.world_size, other.num_workers)

    def readers(self) -> Iterator[BatchReader]:
        """Yield all readers, in the order of their positions."""
        for rank in range(self.world_size):
            for worker in range(self.num_workers):
                yield BatchReader(rank, worker)

    def count_done(self, worker: int) -> int:
        """Return how many of the batches a worker has handed out."""
        return len(range(worker, self.num_batches, self.num_workers))


@dataclass(frozen=True)
class Stretch:
    """What one reader hands out in a stage.

    Attributes:
        runs: Positions of its transitions, in the order in which they are read.
        sizes: Number of transitions of each of its batches, int64.
        pool_size: Number of slots of its pool; 0 keeps the order.
        seed: Seed of the pool's draws.
    """

    runs: Runs
    sizes: np.ndarray
    pool_size: int
    seed: int

    def order_after(self, num_batches: int) -> PoolOrder:
        """Return the order of the pool after some batches."""
        order = PoolOrder(len(self.runs), self.pool_size, self.seed)
        for size in self.sizes[:num_batches].tolist():
            order.draw(size)
        return order

    def remaining(self, num_batches: int) -> Runs:
        """Return the positions that are left after some batches: those in the pool, then those not reached."""
        if not self.pool_size:
            return self.runs.slice(int(self.sizes[:num_batches].sum()), len(self.runs))
        return self.remaining_of(self.order_after(num_batches))

    def remaining_of(self, order: PoolOrder) -> Runs:
        """Return the positions that a pool's order has not handed out: those in the pool, then those not reached."""
        pooled = Runs.of_positions(self.runs.take(np.sort(order.rows)))
        return Runs.join([pooled, self.runs.slice(order.num_entered, len(self.runs))])


@dataclass(frozen=True)
class EpochOrder:
    """How the transitions of an epoch are divided among readers, and the order in which each hands them out.

    Attributes:
        num_rows: Number of transitions.
        batch_size: Transitions per batch, over all ranks.
        pool_size: Slots of each reader's pool; 0 keeps the order.
        drop_last: Whether the last batch is left out if it is smaller.
        seed: Seed of the epoch.
    """

    num_rows: int
    batch_size: int
    pool_size: int
    drop_last: bool
    seed: int

    @property
    def num_batches(self) -> int:
        """Number of batches of each rank."""
        return count_batches(self.num_rows, self.batch_size, drop_last=self.drop_last)

    def stretch(self, stages: Sequence[StreamStage], reader: BatchReader) -> Stretch:
        """Return what a reader of the last stage hands out; the stages before it are over."""
        num_rows = self.num_rows - (self.num_rows % self.batch_size if self.drop_last else 0)
        runs = Runs.of_range(num_rows)
        for number, stage in enumerate(stages[:-1]):
            parts = self._divide(runs, stage, number, list(stage.readers()))
            runs = Runs.join(
                [
                    part.remaining(stage.count_done(member.worker))
                    for part, member in zip(parts, stage.readers(), strict=True)
                ]
            )
        return next(self._divide(runs, stages[-1], len(stages) - 1, [reader]))

    def _divide(self, runs: Runs, stage: StreamStage, number: int, readers: Sequence[BatchReader]) -> Iterator[Stretch]:
        """Yield what some readers of a stage hand out of the positions that are left when it begins."""
        num_rows, stage_seed = len(runs), derive_seed(self.seed, number)
        first = 0
        for index, member in enumerate(stage.readers()):
            sizes = find_batch_sizes(num_rows, self.batch_size, stage, member)
            stop = first + int(sizes.sum())
            if member in readers:
                yield Stretch(runs.slice(first, stop), sizes, self.pool_size, derive_seed(stage_seed, index))
            first = stop


def count_batches(num_rows: int, batch_size: int, *, drop_last: bool) -> int:
    """Return the number of batches of some transitions."""
    return num_rows // batch_size if drop_last else -(-num_rows // batch_size)


def find_batch_sizes(num_rows: int, batch_size: int, stage: StreamStage, reader: BatchReader) -> np.ndarray:
    """Return the number of transitions of each batch of a reader, int64.

    A rank gets a part of every batch, as equal as possible; its workers take turns.
    """
    num_full, num_left = divmod(num_rows, batch_size)
    sizes = np.full(num_full, _count_part(batch_size, stage.world_size, reader.rank))
    if num_left:
        sizes = np.append(sizes, _count_part(num_left, stage.world_size, reader.rank))
    return sizes[reader.worker :: stage.num_workers]


def _count_part(size: int, num_parts: int, part: int) -> int:
    """Return the size of one of several parts, as ``torch.tensor_split`` makes them."""
    return size // num_parts + (part < size % num_parts)


def begin_stage(stages: Sequence[StreamStage], current: StreamStage) -> list[StreamStage]:
    """Return the stages of an epoch that goes on with some readers: a new one unless the last one had as many."""
    if stages and stages[-1].has_readers_of(current):
        return list(stages)
    return [*(stage for stage in stages if stage.num_batches), replace(current, num_batches=0)]
