"""`as_replay_buffer()`: TorchRL's own replay buffer over the packed storage, with less on the way to a batch."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn.utils import _set_dispatch_td_nn_modules
from tensordict.utils import expand_as_right
from torchrl.data import ImmutableDatasetWriter, RandomSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.utils import pin_memory_output

from rlhive.data.sampling import give_boundaries
from rlhive.data.storage import PackedStorage

_INDEX = "index"


class DatasetReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer over a :class:`PackedStorage`; every batch has the values that TorchRL's would have.

    Two things differ. There is less between ``sample()`` and the gather. And indices are drawn by the caller, in the
    order in which batches are handed out; threads only gather and transform: any ``prefetch`` gives the batches of
    none, and a priority that was updated before ``sample()`` counts in the batch that it draws.
    """

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> TensorDict | tuple[TensorDict, dict[str, Any]]:
        """Sample a batch; see ``TensorDictReplayBuffer.sample``."""
        size = self._batch_size
        if size is None or batch_size not in (None, size) or include_info is not None or self._service_shutdown:
            return super().sample(batch_size, return_info, include_info)
        batch, info = self._next_prefetched(size) if self._prefetch else self._sample(size)
        _include(batch, info)
        return (batch, info) if return_info else batch

    def _sample(self, batch_size: int) -> tuple[TensorDict, dict[str, Any]]:
        return self._gather(*self._draw(batch_size))

    def _draw(self, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Return the next batch's indices, and what the sampler says of them."""
        with self._replay_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            if self._sample_unit is not None:
                index, info = self._sample_unit.expand(index, info, self._storage)
        info[_INDEX] = index
        return index, info

    @pin_memory_output
    def _gather(self, index: Any, info: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
        """Return the batch of some indices, transformed."""
        batch = self._storage.get(index)
        if self._collate_fn is not _as_is:
            batch = self._collate_fn(batch)
        if len(self._transform):
            with batch.unlock_(), _set_dispatch_td_nn_modules(True):
                batch = self._transform(batch)
        return batch, info

    def _next_prefetched(self, batch_size: int) -> tuple[TensorDict, dict[str, Any]]:
        """Return the oldest batch under way, and set others on their way as TorchRL's buffer does."""
        with self._futures_lock:
            queue, sampler = self._prefetch_queue, self._sampler
            result = queue.popleft().result() if queue else self._sample(batch_size)
            while len(queue) < min(sampler._remaining_batches, self._prefetch_cap) and not sampler.ran_out:
                queue.append(self._prefetch_executor.submit(self._gather, *self._draw(batch_size)))
        return result


def make_replay_buffer(
    storage: PackedStorage,
    *,
    batch_size: int,
    sampler: Sampler | None = None,
    transform: Callable | None = None,
    prefetch: int | None = None,
    pin_memory: bool = False,
    seed: int | None = None,
) -> TensorDictReplayBuffer:
    """Return TorchRL's own replay buffer over a packed storage.

    Args:
        storage: What to sample from.
        batch_size: Transitions per sample.
        sampler: One of TorchRL's; uniform with replacement by default.
        transform: Applied to every batch.
        prefetch: Number of batches to prepare ahead, in threads.
        pin_memory: Whether batches are page-locked for a copy to a GPU.
        seed: Of the sampler's generator; the same seed gives the same batches.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    chosen = sampler if sampler is not None else RandomSampler()
    give_boundaries(chosen, storage)
    return DatasetReplayBuffer(
        storage=storage,
        sampler=chosen,
        writer=ImmutableDatasetWriter(),
        collate_fn=_as_is,
        batch_size=batch_size,
        transform=transform,
        prefetch=prefetch,
        pin_memory=pin_memory,
        generator=generator,
    )


def _include(batch: TensorDict, info: dict[str, Any]) -> None:
    """Put what the sampler says of a batch into it, ``index`` included, as TorchRL's buffer does."""
    if batch.is_locked:
        with batch.unlock_():
            return _include(batch, info)
    for key, value in info.items():
        if key == _INDEX and isinstance(value, tuple):
            value = torch.stack(value, -1)
        elif not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, device=batch.device)
        if value.ndim < batch.ndim:
            value = expand_as_right(value, batch)
        if isinstance(key, str):
            batch.set(key, value)
        else:  # one step at a time: TensorDict's own way down a nested key costs three times as much
            _below(batch, key).set(key[-1], value)
    return None


def _below(batch: TensorDict, key: tuple[str, ...]) -> TensorDict:
    for part in key[:-1]:
        deeper = batch._get_str(part, None)
        if deeper is None:
            deeper = batch.empty()
            batch.set(part, deeper)
        batch = deeper
    return batch


def _as_is(batch: TensorDict) -> TensorDict:
    return batch
