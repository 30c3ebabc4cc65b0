"""``as_replay_buffer()``: TorchRL's own replay buffer over the packed storage, with a shorter way to a batch."""

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn.utils import _set_dispatch_td_nn_modules
from tensordict.utils import expand_as_right
from torchrl.data import ImmutableDatasetWriter, RandomSampler, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.data.replay_buffers.utils import pin_memory_output
from torchrl.envs.transforms import Compose, MultiStepTransform, Reward2GoTransform

from rlhive.data.replay import _prefetch
from rlhive.data.replay._options import BatchTransform, SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler, set_boundaries
from rlhive.data.replay._storage import PackedStorage, identity_collate
from rlhive.errors import SchemaMismatchError
from rlhive.keys import NestedKey

_INDEX = "index"

#: What a sampler adds to a batch, by key.
SampleInfo = dict[NestedKey, Any]

#: Default of ``prefetch`` if every batch is copied to a GPU.
_GPU_PREFETCH = 2


@dataclass
class _PendingGather:
    """Batches that a thread gathers, and the sampler's information on each of them."""

    batches: "Future[list[TensorDict]]"
    infos: list[SampleInfo]


class DatasetReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer over a :class:`PackedStorage`; every batch has the values of TorchRL's own.

    There are two differences. Less code runs between ``sample()`` and the gather. And the caller's thread draws the
    indices, in the order in which batches are returned, while prefetch threads only gather and transform: any
    ``prefetch`` gives the same batches, and a priority that was updated before ``sample()`` counts in the batch that
    it draws.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # Batches that were drawn ahead in a loop; None for one that is still to be gathered (after a checkpoint).
        self._batches_ahead: deque[tuple[TensorDict | None, SampleInfo]] = deque()
        self._pending_gather: _PendingGather | None = None

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> TensorDict | tuple[TensorDict, SampleInfo]:
        """Sample a batch; see ``TensorDictReplayBuffer.sample``."""
        size = self._batch_size
        if size is None or batch_size not in (None, size) or include_info is not None or self._service_shutdown:
            return super().sample(batch_size, return_info, include_info)
        if self._batches_ahead or self._pending_gather:
            batch, info = self._finish_batch(*self._pop_ahead())
        elif self._prefetch:
            batch, info = self._pop_prefetched(size)
        else:
            batch, info = self._sample(size)
        _add_info(batch, info)
        return (batch, info) if return_info else batch

    def __iter__(self) -> Iterator[TensorDict]:
        """Iterate as TorchRL's buffer does: over an epoch without replacement, endlessly with replacement.

        With uniform samplers several batches are drawn at once and gathered in a thread while earlier ones are used.
        A loop that is left early loses none of them: ``sample()`` and the next loop start with them.
        """
        is_uniform = type(self._sampler) in (RandomSampler, SamplerWithoutReplacement)
        if self._prefetch or self._batch_size is None or not is_uniform:
            yield from super().__iter__()
            return
        if self._sampler.ran_out and not (self._batches_ahead or self._pending_gather):
            self._sampler.ran_out = False
        while self._batches_ahead or self._pending_gather or not self._sampler.ran_out:
            if not self._pending_gather and not self._sampler.ran_out:
                self._draw_ahead()
            yield self.sample()

    def _pop_ahead(self) -> tuple[TensorDict, SampleInfo]:
        """Return the oldest batch that was drawn ahead."""
        if not self._batches_ahead and self._pending_gather is not None:
            pending = self._pending_gather
            self._pending_gather = None
            self._batches_ahead.extend(zip(pending.batches.result(), pending.infos, strict=True))
        batch, info = self._batches_ahead.popleft()
        return self._storage.get(info[_INDEX]) if batch is None else batch, info

    def _draw_ahead(self) -> None:
        """Draw several batches, in the order in which they will be returned, and gather them in a thread."""
        infos = []
        for _ in range(_prefetch.num_batches_ahead(self._storage, self._batch_size)):
            infos.append(self._draw(self._batch_size)[1])
            if self._sampler.ran_out:
                break
        batches = _prefetch.submit_gather(self._storage, [info[_INDEX] for info in infos])
        self._pending_gather = _PendingGather(batches, infos)

    def _sample(self, batch_size: int) -> tuple[TensorDict, SampleInfo]:
        return self._gather(*self._draw(batch_size))

    def _draw(self, batch_size: int) -> tuple[Any, SampleInfo]:
        """Return the indices of the next batch, and the entries that the sampler adds to it."""
        with self._replay_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            if self._sample_unit is not None:
                index, info = self._sample_unit.expand(index, info, self._storage)
        info[_INDEX] = index
        return index, info

    def _gather(self, index: Any, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        """Return the transformed batch of some indices."""
        return self._finish_batch(self._storage.get(index), info)

    @pin_memory_output  # type: ignore[untyped-decorator]  # TorchRL has no types
    def _finish_batch(self, batch: TensorDict, info: SampleInfo) -> tuple[TensorDict, SampleInfo]:
        """Collate and transform a gathered batch."""
        if self._collate_fn is not identity_collate:
            batch = self._collate_fn(batch)
        if len(self._transform):
            with batch.unlock_(), _set_dispatch_td_nn_modules(True):
                batch = self._transform(batch)
        return batch, info

    def _pop_prefetched(self, batch_size: int) -> tuple[TensorDict, SampleInfo]:
        """Return the oldest prefetched batch, and prefetch others as TorchRL's buffer does."""
        with self._futures_lock:
            queue, sampler = self._prefetch_queue, self._sampler
            result = queue.popleft().result() if queue else self._sample(batch_size)
            while len(queue) < min(sampler._remaining_batches, self._prefetch_cap) and not sampler.ran_out:
                queue.append(self._prefetch_executor.submit(self._gather, *self._draw(batch_size)))
        return result

    def __getstate__(self) -> dict[str, Any]:
        ahead = {"_batches_ahead": deque((None, info) for info in self._infos_ahead()), "_pending_gather": None}
        return super().__getstate__() | ahead

    def _infos_ahead(self) -> list[SampleInfo]:
        """Return the sampler's information on every batch that was drawn ahead, in order."""
        infos = [info for _, info in self._batches_ahead]
        return infos if self._pending_gather is None else infos + self._pending_gather.infos

    @contextlib.contextmanager
    def _capture_prefetch_state(self, *, clone_queue: bool = True) -> Iterator[dict[str, Any]]:
        """Add the batches that were drawn ahead to a checkpoint: as indices, since the cache holds their content."""
        with super()._capture_prefetch_state(clone_queue=clone_queue) as state:
            yield state | {"ahead": self._infos_ahead()}

    def _restore_prefetch_queue_locked(self, prefetch_state: dict[str, Any] | None, **kwargs: Any) -> None:
        super()._restore_prefetch_queue_locked(prefetch_state, **kwargs)
        self._batches_ahead = deque((None, info) for info in (prefetch_state or {}).get("ahead", ()))
        self._pending_gather = None


def make_replay_buffer(storage: PackedStorage, options: SamplingOptions) -> DatasetReplayBuffer:
    """Return a replay buffer over a packed storage.

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
    storage, transform = _move_into_storage(storage, options.transform)
    sampler = options.sampler
    if options.slice_len is not None:
        sampler = EpisodeSliceSampler(storage, slice_len=options.slice_len, short=options.short_episodes)
    elif sampler is None:
        sampler = RandomSampler()
    set_boundaries(sampler, storage)
    generator = torch.Generator(storage.device)
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    prefetch = options.prefetch
    if prefetch is None and storage.copies_to_gpu:
        prefetch = _GPU_PREFETCH
    return DatasetReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        collate_fn=identity_collate,
        batch_size=options.batch_size,
        transform=transform,
        prefetch=prefetch,
        pin_memory=options.pin_memory,
        generator=generator,
    )


def _move_into_storage(
    storage: PackedStorage, transform: BatchTransform | None
) -> tuple[PackedStorage, BatchTransform | None]:
    """Let the storage compute the transforms that TorchRL applies on writing, which would do nothing here.

    Returns:
        The storage, and the transforms that are left for the buffer.
    """
    steps = list(transform) if isinstance(transform, Compose) else [transform]
    left = []
    for step in steps:
        if isinstance(step, MultiStepTransform):
            window = replace(storage.window, n_step=step.n_steps, gamma=float(step.gamma))
            storage = storage.variant(window=window)
        elif isinstance(step, Reward2GoTransform):
            storage = storage.variant(return_to_go=float(step.gamma), return_to_go_key=step.out_keys_inv[0])
        else:
            left.append(step)
    if len(left) == len(steps):
        return storage, transform
    return storage, Compose(*left) if left else None


def _add_info(batch: TensorDict, info: SampleInfo) -> None:
    """Set the sampler's entries in a batch, ``index`` included, as TorchRL's buffer does."""
    if batch.is_locked:
        with batch.unlock_():
            _add_info(batch, info)
        return
    ndim = batch.ndim
    for key, value in info.items():
        if key == _INDEX and isinstance(value, tuple):
            value = torch.stack(value, -1) if len(value) > 1 else value[0].unsqueeze(-1)
        elif not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, device=batch.device)
        if value.ndim < ndim:
            value = expand_as_right(value, batch)
        if isinstance(key, tuple):  # level by level: TensorDict.set of a nested key costs three times as much
            _set_entry(_get_or_add_nested(batch, key[:-1]), key[-1], value)
        else:
            _set_entry(batch, key, value)


def _set_entry(batch: TensorDict, name: str, value: torch.Tensor) -> None:
    """Set an entry, without TensorDict's checks if shape and device are right."""
    size = batch._batch_size if type(batch) is TensorDict else None
    if size is not None and value.shape[: len(size)] == size and value.device == batch._device:
        batch._tensordict[name] = value
    else:
        batch.set(name, value)


def _get_or_add_nested(batch: TensorDict, names: tuple[str, ...]) -> TensorDict:
    """Return the TensorDict at a nested key; an empty one is added if there is none."""
    for name in names:
        nested = batch._get_str(name, None)
        if nested is None:
            nested = batch.empty()
            batch.set(name, nested)
        batch = nested
    return batch
