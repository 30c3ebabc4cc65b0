"""``as_replay_buffer()``: TorchRL's own replay buffer over the packed storage, with a shorter way to a batch."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn.utils import _set_dispatch_td_nn_modules
from torchrl.data import (
    ImmutableDatasetWriter,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.utils import pin_memory_output

from rlhive.data.replay import _prefetch
from rlhive.data.replay._ahead import BatchesAhead, DrawnBatch, SamplerState, can_take_back
from rlhive.data.replay._boundaries import find_boundaries
from rlhive.data.replay._epochs import derive_seed, find_rank
from rlhive.data.replay._fused import fuse, fuse_transforms, is_fused
from rlhive.data.replay._info import INDEX, SampleInfo, add_info
from rlhive.data.replay._mixing import is_mixed_by_torchrl, to_mixed
from rlhive.data.replay._mixture_samplers import MixtureSampler
from rlhive.data.replay._options import BatchTransform, SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage, identity_collate
from rlhive.data.replay._validation import require_priorities
from rlhive.errors import SchemaMismatchError

#: Samplers of single transitions, of which a loop draws several batches at once.
_DRAWN_AHEAD = (RandomSampler, SamplerWithoutReplacement, MixtureSampler)

#: Default of ``prefetch`` if every batch is copied to a GPU.
_GPU_PREFETCH = 2


class DatasetReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer over a :class:`PackedStorage`; every batch has the values of TorchRL's own.

    There are two differences. Less code runs between ``sample()`` and the gather. And the caller's thread draws the
    indices, in the order in which batches are returned, while threads only gather and transform: any ``prefetch``
    gives the same batches, and so does a loop, whatever else is called meanwhile.
    """

    _storage: PackedStorage
    _prefetch: bool

    def __init__(self, **kwargs: Any):
        self._batches_ahead = BatchesAhead()
        self._num_epochs = 0  # that were handed out completely
        self._threads_pid: int | None = os.getpid()
        super().__init__(**kwargs)
        self._boundaries = find_boundaries(self._sampler, self._storage)

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> TensorDict | tuple[TensorDict, SampleInfo]:
        """Sample a batch; see ``TensorDictReplayBuffer.sample``."""
        size = self._batch_size
        if batch_size is not None and is_mixed_by_torchrl(batch_size):
            return to_mixed(self._sample_directly(batch_size, False, None))
        if size is None or batch_size not in (None, size) or include_info is not None or self._service_shutdown:
            return self._sample_directly(batch_size, return_info, include_info)
        if self._prefetch:
            batch, info = self._pop_prefetched(size)
        elif self._batches_ahead.batches:
            batch, info = self._pop_ahead()
        else:
            batch, info = self._sample(size)
        add_info(batch, info)
        return (batch, info) if return_info else batch

    def __iter__(self) -> Iterator[TensorDict]:
        """Iterate as TorchRL's buffer does: over an epoch without replacement, endlessly with replacement.

        With uniform samplers several batches are drawn at once and gathered in a thread while earlier ones are used.
        The loop ends with the epoch, also if other calls took some of its batches. A loop that is left early loses
        none: ``sample()`` and the next loop start with them.
        """
        if self._batch_size is None:
            yield from super().__iter__()
            return
        if self._sampler.ran_out and not self._batches_ahead:
            self._sampler.ran_out = False
        num_epochs, num_ahead = self._num_epochs, _prefetch.num_batches_ahead(self._storage, self._batch_size)
        while self._num_epochs == num_epochs:
            if len(self._batches_ahead.batches) < num_ahead and not self._prefetch:
                self._draw_ahead(num_ahead)
            yield self.sample()

    def set_sampler(self, sampler: Sampler) -> Sampler:
        """Set a sampler, which draws every batch from now on, and return the one before.

        A prioritized sampler without priorities gets the default ones, as in the constructor.

        Raises:
            SchemaMismatchError: The sampler names a key that the dataset does not have.
        """
        boundaries = find_boundaries(sampler, self._storage)
        self._take_back()
        self._batches_ahead.clear()
        if sampler._rng is None:
            sampler._rng = self._rng
        self._boundaries = boundaries
        self._num_epochs += bool(sampler.ran_out)
        previous = super().set_sampler(sampler)
        if isinstance(sampler, PrioritizedSampler) and sampler._max_priority[0] is None:
            self._initialize_prioritized_sampler()
        return previous

    def set_rng(self, generator: torch.Generator | None) -> None:
        """Set the generator of the sampler."""
        self._take_back()
        super().set_rng(generator)

    def append_transform(self, transform: BatchTransform, *, invert: bool = False) -> "DatasetReplayBuffer":
        """Append a transform, which acts on every batch from now on.

        ``MultiStepTransform`` and ``Reward2GoTransform`` are computed by the storage, as in ``as_replay_buffer``.
        """
        self._take_back()
        if not invert and is_fused(transform):
            self._fuse(transform)
            return self
        return super().append_transform(transform, invert=invert)

    def insert_transform(self, index: int, transform: BatchTransform, *, invert: bool = False) -> "DatasetReplayBuffer":
        """Insert a transform; see :meth:`append_transform`."""
        self._take_back()
        if not invert and is_fused(transform):
            self._fuse(transform)
            return self
        return super().insert_transform(index, transform, invert=invert)

    def update_priority(self, index: Any, priority: Any) -> None:
        """Set the priorities of some transitions; see ``TensorDictReplayBuffer.update_priority``.

        Raises:
            InvalidArgumentError: A priority is negative, infinite or NaN; no priority is set.
        """
        require_priorities(priority)
        super().update_priority(index, priority)

    @property
    def sampler(self) -> Sampler:
        """The sampler, as if nothing was drawn ahead."""
        self._take_back()
        return self._sampler

    def can_sample(self, batch_size: int | None = None) -> bool:
        """Return whether the sampler can draw a batch."""
        if self._boundaries is None:
            return super().can_sample(batch_size)
        with self._boundaries.lent_to(self._sampler, batch_size or self._batch_size or 0):
            return super().can_sample(batch_size)

    def _sample_directly(
        self, batch_size: int | None, return_info: bool, include_info: bool | None
    ) -> TensorDict | tuple[TensorDict, SampleInfo]:
        self._take_back()
        prefetch, self._prefetch = self._prefetch, False  # TorchRL would prefetch other batches of this size
        try:
            return super().sample(batch_size, return_info, include_info)
        finally:
            self._prefetch = prefetch

    def _fuse(self, transform: Any) -> None:
        storage = fuse(self._storage, [transform])
        storage._rng = self._rng
        storage.attach(self)
        self._storage = storage
        self._writer.register_storage(storage)

    def _pop_ahead(self) -> tuple[TensorDict, SampleInfo]:
        """Return the oldest batch that was drawn ahead."""
        drawn = self._batches_ahead.popleft()
        self._num_epochs += drawn.ends_epoch
        if drawn.future is None:
            return self._gather(drawn.info[INDEX], drawn.info)
        result = drawn.future.result()
        return result if drawn.position is None else self._finish_batch(result[drawn.position], drawn.info)

    def _draw_ahead(self, num_batches: int, *, gather: bool = True) -> None:
        """Draw several batches, in the order in which they will be returned.

        Args:
            num_batches: Number of batches; fewer at the end of an epoch.
            gather: Whether to gather them in a thread.
        """
        sampler = self._sampler
        if (sampler.ran_out and self._batches_ahead) or type(sampler) not in _DRAWN_AHEAD:
            return
        if not can_take_back(sampler, self._rng):
            return
        before, batches = SamplerState.of(sampler, self._rng), self._draw_several(num_batches)
        batches[0].before = before
        if gather:
            future = _prefetch.submit_gather(self._storage, [batch.info[INDEX] for batch in batches])
            for position, batch in enumerate(batches):
                batch.future, batch.position = future, position
        self._batches_ahead.append(batches, SamplerState.of(sampler, self._rng))

    def _draw_several(self, num_batches: int) -> list[DrawnBatch]:
        """Draw batches, no more than the epoch has."""
        batches = []
        for _ in range(num_batches):
            batches.append(DrawnBatch(self._draw(self._batch_size)[1], self._sampler.ran_out))
            if self._sampler.ran_out:
                break
        return batches

    def _pop_prefetched(self, batch_size: int) -> tuple[TensorDict, SampleInfo]:
        """Return the oldest prefetched batch, and prefetch others as TorchRL's buffer does."""
        with self._futures_lock:
            sampler = self._sampler
            result = self._pop_ahead() if self._batches_ahead else self._sample(batch_size)
            while (
                len(self._batches_ahead) < min(sampler._remaining_batches, self._prefetch_cap) and not sampler.ran_out
            ):
                self._prefetch_one(batch_size)
        return result

    def _prefetch_one(self, batch_size: int) -> None:
        sampler, rng = self._sampler, self._rng
        is_reversible = can_take_back(sampler, rng)
        before = SamplerState.of(sampler, rng) if is_reversible else None
        index, info = self._draw(batch_size)
        future = self._threads().submit(self._gather, index, info)
        batch = DrawnBatch(info, sampler.ran_out, future, before=before)
        self._batches_ahead.append([batch], SamplerState.of(sampler, rng) if is_reversible else None)

    def _threads(self) -> ThreadPoolExecutor:
        """Return the threads that prefetch; a forked process has none of its parent's."""
        if self._threads_pid != os.getpid():
            self._prefetch_executor = ThreadPoolExecutor(max_workers=self._prefetch_cap)
            self._threads_pid = os.getpid()
        return self._prefetch_executor

    def _take_back(self) -> None:
        """Return the sampler and its generator to where they would be without drawing ahead, if that is possible."""
        if self._batches_ahead:
            with self._futures_lock:
                self._batches_ahead.take_back(self._sampler, self._rng, lambda: self._draw(self._batch_size))

    def _sample(self, batch_size: int) -> tuple[TensorDict, SampleInfo]:
        index, info = self._draw(batch_size)
        if self._sampler.ran_out:
            self._num_epochs += 1
        return self._finish_batch(self._storage.get(index), info)

    def _draw(self, batch_size: int) -> tuple[Any, SampleInfo]:
        """Return the indices of the next batch, and the entries that the sampler adds to it."""
        with self._replay_lock:
            if self._boundaries is None:
                index, info = self._sampler.sample(self._storage, batch_size)
            else:
                with self._boundaries.lent_to(self._sampler, batch_size):
                    index, info = self._sampler.sample(self._storage, batch_size)
            if self._sample_unit is not None:
                index, info = self._sample_unit.expand(index, info, self._storage)
        info[INDEX] = index
        return index, info

    def _gather(self, index: Any, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        """Return the transformed batch of some indices."""
        return self._finish_batch(self._storage.get(index), info)

    def _finish_batch(self, batch: TensorDict, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        """Collate and transform a gathered batch."""
        if self._collate_fn is not identity_collate:
            batch = self._collate_fn(batch)
        if self._transform._modules["transforms"]:  # as len(self._transform), at a tenth of the cost
            with batch.unlock_(), _set_dispatch_td_nn_modules(True):
                batch = self._transform(batch)
        return self._pin(batch, info) if self._pin_memory else (batch, info)

    @pin_memory_output  # type: ignore[untyped-decorator]  # TorchRL has no types
    def _pin(self, batch: TensorDict, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        return batch, info

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"_batches_ahead": None, "_boundaries": None, "_threads_pid": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_batches_ahead": BatchesAhead(), "_threads_pid": os.getpid()})
        self._boundaries = find_boundaries(self._sampler, self._storage)

    @contextlib.contextmanager
    def _capture_prefetch_state(self, *, clone_queue: bool = True) -> Iterator[dict[str, Any]]:
        """Take back what was drawn ahead; add what cannot be taken back as indices, whose content the cache holds."""
        self._take_back()
        with super()._capture_prefetch_state(clone_queue=clone_queue) as state:
            yield state | {"ahead": self._batches_ahead.infos()}

    def _restore_prefetch_queue_locked(self, prefetch_state: dict[str, Any] | None, **kwargs: Any) -> None:
        super()._restore_prefetch_queue_locked(prefetch_state, **kwargs)
        self._batches_ahead.restore((prefetch_state or {}).get("ahead", []))


def make_replay_buffer(storage: PackedStorage, options: SamplingOptions) -> DatasetReplayBuffer:
    """Return a replay buffer over a packed storage; see :func:`replay_buffer_arguments`."""
    return DatasetReplayBuffer(**replay_buffer_arguments(storage, options))


def replay_buffer_arguments(storage: PackedStorage, options: SamplingOptions) -> dict[str, Any]:
    """Return the arguments of a :class:`DatasetReplayBuffer` over a packed storage.

    Args:
        storage: Transitions to sample from. TorchRL sets the storage's generator to the buffer's, so that two buffers
            must not share a storage.
        options: How to sample.

    Raises:
        SchemaMismatchError: The storage holds no transitions.
        EpisodesTooShortError: No episode is as long as a slice.
    """
    if not len(storage):
        msg = "The selected episodes have no transitions: expected at least one. Select others with split= or where=."
        raise SchemaMismatchError(msg)
    storage, transform = fuse_transforms(storage, options.transform)
    sampler = options.sampler
    if options.slice_len is not None:
        sampler = EpisodeSliceSampler(storage, slice_len=options.slice_len, short=options.short_episodes)
    elif sampler is None:
        sampler = RandomSampler()
    prefetch = options.prefetch
    if prefetch is None and storage.copies_to_gpu:
        prefetch = _GPU_PREFETCH
    return {
        "storage": storage,
        "sampler": sampler,
        "writer": ImmutableDatasetWriter(),
        "collate_fn": identity_collate,
        "batch_size": options.batch_size,
        "transform": transform,
        "prefetch": prefetch,
        "pin_memory": options.pin_memory,
        "generator": make_generator(options.seed, storage.device),
    }


def make_generator(seed: int | None, device: torch.device) -> torch.Generator:
    """Return a generator with a seed, which every rank of ``torch.distributed`` but the first derives its own from.

    Args:
        seed: The seed; None for a random one.
        device: Device of the generator.
    """
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
        return generator
    rank, _ = find_rank(None, None)
    return generator.manual_seed(derive_seed(seed, rank) if rank else seed)
