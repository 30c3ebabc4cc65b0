"""Batches of the transitions of a streamed version, shuffled in a pool of bounded size, shared by ranks and workers.

::

    chunks ─► read ahead in threads ─► pool [P] ─► batch
                                          ▲ │
              the next rows replace the rows of a batch in place

Memory: the pool of P transitions, and ``prefetch`` + 1 chunks.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rlhive import keys
from rlhive.data._cast import ColumnCast
from rlhive.data._episodes import Rows, expand_rows, rows_to_tensordict
from rlhive.data._ragged import copy_rows
from rlhive.data._schema import Schema
from rlhive.data._store import stream_dir
from rlhive.data.hub._stream_cache import RangeCache
from rlhive.data.hub._stream_chunks import Piece, StreamedVersion
from rlhive.data.hub._stream_order import BatchReader, EpochOrder, Runs, StreamStage, Stretch, begin_stage
from rlhive.data.replay import derive_seed, find_rank, identity_collate, require_integer
from rlhive.data.versions import Manifest
from rlhive.errors import CheckpointMismatchError, InvalidOptionError

#: Number of the form of states; another order of epochs is another form.
_STATE_FORMAT = 1
#: Limits on what a state may hold: how often the readers changed in an epoch, and workers of a rank.
_MAX_STAGES = 1000
_MAX_WORKERS = 1024

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How batches are made of a stream.

    Attributes:
        batch_size: Number of transitions per batch, over all ranks.
        shuffle: Number of transitions in the pool from which this process draws batches at random; 0 keeps the order.
        seed: Seed of the shuffle; random by default.
        drop_last: Whether to leave out an epoch's last batch if it is smaller.
        rank: Which part of every batch to return; None for that of ``torch.distributed`` if it is initialised, else 0.
        world_size: Number of parts; None as for ``rank``.
        prefetch: Number of chunks that are read ahead, by as many threads.
        cache_gb: Size of the cache of remote versions on this machine, in gigabytes (10^9 bytes).

    Raises:
        ValueError: A number is out of range.
    """

    batch_size: int = 256
    shuffle: int = 0
    seed: int | None = None
    drop_last: bool = False
    rank: int | None = None
    world_size: int | None = None
    prefetch: int = 4
    cache_gb: float = 10.0

    def __post_init__(self) -> None:
        require_integer(self.batch_size, 1, "batch_size")
        require_integer(self.shuffle, 0, "shuffle")
        require_integer(self.prefetch, 0, "prefetch")
        if not self.cache_gb >= 0:
            msg = f"cache_gb={self.cache_gb!r}: expected a number of gigabytes, or 0 for no cache"
            raise InvalidOptionError(msg)


class BatchStream(IterableDataset):
    """The batches of a streamed version, as TED TensorDicts; an epoch holds each transition once.

    ``for batch in stream`` goes through an epoch, and through the next one when it is repeated; after a ``break`` it
    goes on in the middle. ``next(stream)`` gives one batch. The order is a function of the seed, the epoch's number and
    the number of readers: ranks, and the workers of :meth:`to_dataloader` or any other DataLoader. Each reader has its
    own transitions.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        splits: Names of the splits.
        episode_ids: Ids of the episodes; all by default.
        schema: Schema of the batches: the version's, perhaps without some columns and with other dtypes of floats.
        options: How batches are made.
        store: Folder of all datasets, which holds the cache.

    Raises:
        InvalidOptionError: Rank, number of ranks, batch size and pool do not fit together, or several ranks have no
            seed.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        splits: Sequence[str],
        episode_ids: Sequence[int] | None,
        schema: Schema,
        options: StreamOptions,
        *,
        store: Path | None = None,
    ):
        self._selection = (folder, manifest, tuple(splits), episode_ids)
        self._cache_dir = stream_dir(manifest.fingerprint, store=store)
        self._schema = schema
        self._options = options
        self._rank, self._world_size = find_rank(options.rank, options.world_size)
        _require_fitting(options, self._world_size)
        self._seed = _find_seed() if options.seed is None else options.seed
        self._epoch = 0
        self._stages: list[StreamStage] = []
        self._opened: StreamedVersion | None = None
        self._batches: Iterator[TensorDict] | None = None  # of the epoch that was begun

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next batch belongs to, or of the one that has just ended; from 0."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch with the next iteration.

        Raises:
            ValueError: The number is negative or no integer.
        """
        require_integer(epoch, 0, "epoch")
        self._epoch, self._stages, self._batches = epoch, [], None

    def to_dataloader(self, num_workers: int) -> "StreamLoader":
        """Return a torch DataLoader whose workers make the batches; epochs and position are those of this stream.

        Each worker has a pool, threads and chunks of its own. Processes start anew in each epoch.

        Args:
            num_workers: Number of processes, at least 1.
        """
        require_integer(num_workers, 1, "num_workers")
        return StreamLoader(self, num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, JSON-able; all ranks have the same one after equally many batches."""
        stages = [[stage.world_size, stage.num_workers, stage.num_batches] for stage in self._stages]
        return {**self._settings(), "seed": self._seed, "epoch": self._epoch, "stages": stages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batches that were handed out when the state was taken; the state's seed is used.

        With as many ranks and workers as before, the batches are those that were due. With others, the transitions
        that are left are shuffled anew and divided among them: none is lost, and none comes twice.

        Raises:
            CheckpointMismatchError: The state is of another version or selection, or of batches of another kind.
        """
        settings = self._settings()
        if differing := [name for name in settings if state.get(name) != settings[name]]:
            expected = ", ".join(f"{name}={settings[name]!r}" for name in differing)
            got = ", ".join(f"{name}={state.get(name)!r}" for name in differing)
            msg = f"State of a stream: expected {expected}; got {got}"
            raise CheckpointMismatchError(msg)
        seed, epoch, stages = state.get("seed"), state.get("epoch"), _parse_stages(state.get("stages"), self._options)
        num_done = -1 if stages is None else sum(stage.num_batches for stage in stages)
        if type(seed) is not int or type(epoch) is not int or epoch < 0 or stages is None or num_done > len(self):
            msg = (
                f"State of a stream: expected seed, epoch and the stages of at most {len(self)} batches, got "
                f"seed={seed!r}, epoch={epoch!r}, stages={str(state.get('stages'))[:200]}"
            )
            raise CheckpointMismatchError(msg)
        self._seed = seed
        self.set_epoch(epoch if num_done < len(self) else epoch + 1)
        self._stages = stages if num_done < len(self) else []

    def _settings(self) -> dict[str, Any]:
        """Return what a state and this stream must have in common."""
        names = ("batch_size", "shuffle", "drop_last")
        return {
            "format": _STATE_FORMAT,
            **self._version.identity,
            **{name: getattr(self._options, name) for name in names},
        }

    def begin_epoch(self) -> None:
        """Begin the next epoch if the last one is over."""
        if self._num_done >= len(self) > 0:
            self.set_epoch(self._epoch + 1)

    def count_batch(self, num_workers: int) -> None:
        """Note that a DataLoader with some workers has given the next batch."""
        self._stages = begin_stage(self._stages, StreamStage(self._world_size, num_workers))
        self._stages[-1] = replace(self._stages[-1], num_batches=self._stages[-1].num_batches + 1)

    def __len__(self) -> int:
        """Number of batches of each rank in a whole epoch."""
        return self._order().num_batches

    def __iter__(self) -> Self:
        self.begin_epoch()
        return self

    def __next__(self) -> TensorDict:
        if self._batches is None:
            self._batches = self._iter_batches()
        return next(self._batches)

    def __getstate__(self) -> dict[str, Any]:
        # Threads, files and batches in progress stay here; a worker of a DataLoader begins at the same position.
        return {**self.__dict__, "_opened": None, "_batches": None}

    @property
    def _num_done(self) -> int:
        return sum(stage.num_batches for stage in self._stages)

    @property
    def _version(self) -> StreamedVersion:
        if self._opened is None:
            num_bytes = self._options.cache_gb * 1e9
            cache = RangeCache(self._cache_dir, num_bytes) if num_bytes else None
            self._opened = StreamedVersion(*self._selection, cache)
        return self._opened

    def _order(self) -> EpochOrder:
        options, num_rows = self._options, sum(shard.num_rows for shard in self._version.shards)
        seed = derive_seed(self._seed, self._epoch)
        return EpochOrder(num_rows, options.batch_size, options.shuffle, options.drop_last, seed)

    def _iter_batches(self) -> Iterator[TensorDict]:
        """Yield the batches of this process from the position on, and count them."""
        worker, num_workers = _find_worker()
        self._stages = stages = begin_stage(self._stages, StreamStage(self._world_size, num_workers))
        order, stage = self._order(), stages[-1]
        # A DataLoader asks its first worker for the batch that is due.
        worker = (worker + stage.num_batches) % num_workers
        stretch = order.stretch(stages, BatchReader(self._rank, worker))
        num_done = stage.count_done(worker)
        for number, batch in enumerate(self._iter_stretch(stretch, order.seed, num_done), start=num_done):
            stages[-1] = replace(stage, num_batches=number * num_workers + worker + 1)
            yield batch
        stages[-1] = replace(stage, num_batches=order.num_batches - sum(past.num_batches for past in stages[:-1]))

    def _iter_stretch(self, stretch: Stretch, seed: int, num_done: int) -> Iterator[TensorDict]:
        """Yield the batches of a stretch, except for the first ones."""
        sizes = stretch.sizes[num_done:].tolist()
        if not self._options.shuffle:
            feed = self._read(stretch.remaining(num_done), None)
            for size in sizes:
                batch = RowPool(self._schema, size)
                batch.put(np.arange(size), feed)
                yield batch.to_tensordict()
            return
        order = stretch.order_after(num_done)
        slots = np.argsort(order.rows)
        feed = self._read(stretch.remaining_of(order), seed)
        pool = RowPool(self._schema, len(slots))
        pool.put(slots, feed)
        for size in sizes:
            draw = order.draw(size)
            yield pool.take(draw.slots)
            pool.put(draw.slots[: draw.num_new], feed)
            pool.move(draw.moved_from, draw.moved_to)

    def _read(self, runs: Runs, seed: int | None) -> "RowFeed":
        """Return the rows at some positions; None for the order of the version."""
        pieces = self._version.order(seed).iter_pieces(runs)
        return RowFeed(read_ahead(self._read_piece, pieces, self._options.prefetch))

    def _read_piece(self, piece: Piece) -> Rows:
        cast = ColumnCast(self._schema, self._version.address)
        episodes = [
            expand_rows(cast(record.columns), cast(record.final), self._schema, episode=record.episode)
            for record in self._version.read_records(piece.source)
        ]
        rows = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
        if len(piece.rows) == piece.source.num_rows:
            return rows
        return {key: values[piece.rows] for key, values in rows.items()}


class StreamLoader(DataLoader):
    """A DataLoader over a stream, which counts the batches that it gives.

    Args:
        stream: The stream.
        num_workers: Number of processes.
    """

    def __init__(self, stream: BatchStream, num_workers: int):
        super().__init__(
            stream,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=identity_collate,
            # A forked child would inherit Arrow's and torch's threads.
            multiprocessing_context="spawn",
        )
        self._stream = stream

    def __iter__(self) -> Iterator[TensorDict]:  # type: ignore[override]  # torch names its own iterator class
        self._stream.begin_epoch()
        for batch in super().__iter__():
            self._stream.count_batch(self.num_workers)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches given so far; see :meth:`BatchStream.state_dict`."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; see :meth:`BatchStream.load_state_dict`."""
        self._stream.load_state_dict(state)


class RowFeed:
    """Rows that are read one after the other.

    Args:
        parts: The rows in their order, in parts.
    """

    def __init__(self, parts: Iterator[Rows]):
        self._parts = parts
        self._part: Rows = {}
        self._first, self._stop = 0, 0

    def take(self, count: int) -> Iterator[Rows]:
        """Yield the next rows, ``count`` in all, in parts that share the memory of what was read."""
        while count:
            if self._first == self._stop:
                self._part = {}  # before the next one is awaited
                self._part = next(self._parts)
                self._first, self._stop = 0, len(self._part[keys.EPISODE,])
            first, stop = self._first, min(self._stop, self._first + count)
            yield {key: values[first:stop] for key, values in self._part.items()}
            self._first = stop
            count -= stop - first


class RowPool:
    """Memory for some transitions, whose rows are replaced in place.

    Args:
        schema: Schema of the transitions.
        size: Number of rows.
    """

    def __init__(self, schema: Schema, size: int):
        self._rows: Rows = {(keys.EPISODE,): np.empty(size, np.int64)}
        self._ragged = set()
        for field in schema.fields:
            key, (dtype, shape) = (field.key,) if isinstance(field.key, str) else field.key, field.kind
            for name in [key, (keys.NEXT, *key)] if field.observed else [key]:
                self._rows[name] = np.empty((size, *shape), dtype)
                if field.is_ragged:
                    self._ragged.add(name)

    def put(self, slots: np.ndarray, feed: RowFeed) -> None:
        """Write the next rows of a feed into some slots."""
        first = 0
        for part in feed.take(len(slots)):
            stop = first + len(part[keys.EPISODE,])
            for key, values in part.items():
                # A ragged row would keep the memory of its whole chunk.
                self._rows[key][slots[first:stop]] = copy_rows(values) if key in self._ragged else values
            first = stop

    def move(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy the rows of some slots into others."""
        if len(sources):
            for values in self._rows.values():
                values[targets] = values[sources]

    def take(self, slots: np.ndarray) -> TensorDict:
        """Return the transitions in some slots, which own their memory."""
        return _make_batch({key: np.take(values, slots, axis=0) for key, values in self._rows.items()})

    def to_tensordict(self) -> TensorDict:
        """Return all transitions, which share the memory of the pool."""
        return _make_batch(self._rows)


def read_ahead(read: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int) -> Iterator[_Result]:
    """Yield what a function returns for each item, in order, while threads read as many of the next ones."""
    if not num_threads:
        yield from map(read, items)
        return
    pending: deque[Future[_Result]] = deque()
    executor = ThreadPoolExecutor(num_threads, "rlhive-stream")
    try:
        for item in items:
            pending.append(executor.submit(read, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _make_batch(rows: Rows) -> TensorDict:
    if not len(
        rows[keys.EPISODE,]
    ):  # of a rank without a transition in the last batch; there is no empty ragged tensor
        rows = {key: values for key, values in rows.items() if values.dtype != object}
    return rows_to_tensordict(rows)


def _parse_stages(value: object, options: StreamOptions) -> list[StreamStage] | None:
    """Return the stages in a state; None if it does not hold stages of these options."""
    if not isinstance(value, list) or len(value) > _MAX_STAGES:
        return None
    stages = []
    for row in value:
        if not isinstance(row, list) or len(row) != 3 or not all(type(number) is int for number in row):
            return None
        stage = StreamStage(*row)
        largest_batch = -(-options.batch_size // max(stage.world_size, 1))
        is_possible = 1 <= stage.world_size <= options.batch_size and 1 <= stage.num_workers <= _MAX_WORKERS
        if not is_possible or stage.num_batches < 0 or 0 < options.shuffle < largest_batch:
            return None
        stages.append(stage)
    return stages


def _require_fitting(options: StreamOptions, world_size: int) -> None:
    """Raise unless batch size, pool and seed fit the number of ranks."""
    if world_size > options.batch_size:
        msg = f"world_size={world_size}: expected at most batch_size={options.batch_size} ranks"
        raise InvalidOptionError(msg)
    if world_size > 1 and options.shuffle and options.seed is None:
        msg = f"seed=None: expected a seed for {world_size} ranks, each of which would shuffle differently"
        raise InvalidOptionError(msg)
    batch_size = -(-options.batch_size // world_size)
    if 0 < options.shuffle < batch_size:
        msg = (
            f"shuffle={options.shuffle}: expected a pool of at least the {batch_size} transitions of a batch, or 0 for "
            "the order of the version"
        )
        raise InvalidOptionError(msg)


def _find_worker() -> tuple[int, int]:
    """Return the number of this DataLoader's worker and how many there are: 0 of 1 outside of a worker."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _find_seed() -> int:
    """Return a random seed; workers of one DataLoader get the same one."""
    info = get_worker_info()
    return torch.Generator("cpu").seed() if info is None else info.seed - info.id
