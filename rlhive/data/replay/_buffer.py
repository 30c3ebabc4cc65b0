"""`as_replay_buffer()`: TorchRL's own replay buffer over the packed storage, with less on the way to a batch."""

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn.utils import _set_dispatch_td_nn_modules
from tensordict.utils import expand_as_right
from torchrl.data import ImmutableDatasetWriter, RandomSampler, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.data.replay_buffers.utils import pin_memory_output
from torchrl.envs.transforms import Compose, MultiStepTransform, Reward2GoTransform

from rlhive.data.replay import _prefetch
from rlhive.data.replay._online import OnlineReplayBuffer, extend
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler, give_boundaries
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import SchemaMismatch

__all__ = ["DatasetReplayBuffer", "OnlineReplayBuffer", "extend", "make_replay_buffer"]

_INDEX = "index"

#: Batches on their way to a GPU while one is used.
_STREAMED_AHEAD = 2


class DatasetReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer over a :class:`PackedStorage`; every batch has the values that TorchRL's would have.

    Two things differ. There is less between ``sample()`` and the gather. And indices are drawn by the caller, in the
    order in which batches are handed out; threads only gather and transform: any ``prefetch`` gives the batches of
    none, and a priority that was updated before ``sample()`` counts in the batch that it draws.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._ahead: deque[tuple[TensorDict | None, dict[str, Any]]] = deque()
        self._coming: tuple[Future, list[dict[str, Any]]] | None = None

    def sample(
        self, batch_size: int | None = None, return_info: bool = False, include_info: bool | None = None
    ) -> TensorDict | tuple[TensorDict, dict[str, Any]]:
        """Sample a batch; see ``TensorDictReplayBuffer.sample``."""
        size = self._batch_size
        if size is None or batch_size not in (None, size) or include_info is not None or self._service_shutdown:
            return super().sample(batch_size, return_info, include_info)
        if self._ahead or self._coming:
            batch, info = self._next_ahead()
            batch, info = self._finish(self._storage.get(info[_INDEX]) if batch is None else batch, info)
        elif self._prefetch:
            batch, info = self._next_prefetched(size)
        else:
            batch, info = self._sample(size)
        _include(batch, info)
        return (batch, info) if return_info else batch

    def __iter__(self) -> Iterator[TensorDict]:
        """Iterate as TorchRL's buffer does: an epoch without replacement, and endlessly with it.

        Uniform samplers draw several batches at once, which a thread gathers at once while others are used. A loop
        that is left early loses none of them: ``sample()`` and the next loop begin with those.
        """
        uniform = type(self._sampler) in (RandomSampler, SamplerWithoutReplacement)
        if self._prefetch or self._batch_size is None or not uniform:
            yield from super().__iter__()
            return
        if self._sampler.ran_out and not (self._ahead or self._coming):
            self._sampler.ran_out = False
        while self._ahead or self._coming or not self._sampler.ran_out:
            if not self._coming and not self._sampler.ran_out:
                self._draw_ahead()
            yield self.sample()

    def _next_ahead(self) -> tuple[TensorDict, dict[str, Any]]:
        """Return the oldest batch that was drawn ahead."""
        if not self._ahead:
            future, infos = self._coming
            self._coming = None
            self._ahead.extend(zip(future.result(), infos, strict=True))
        batch, info = self._ahead.popleft()
        return self._storage.get(info[_INDEX]) if batch is None else batch, info

    def _draw_ahead(self) -> None:
        """Draw some batches, in the order in which they will be handed out, and have a thread gather them."""
        size, infos = self._batch_size, []
        for _ in range(_prefetch.num_ahead(self._storage, size)):
            infos.append(self._draw(size)[1])
            if self._sampler.ran_out:
                break
        self._coming = _prefetch.start(self._storage, [info[_INDEX] for info in infos]), infos

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

    def _gather(self, index: Any, info: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
        """Return the batch of some indices, transformed."""
        return self._finish(self._storage.get(index), info)

    @pin_memory_output
    def _finish(self, batch: TensorDict, info: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
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

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_ahead": deque((None, info) for info in self._infos_ahead()), "_coming": None}

    def _infos_ahead(self) -> list[dict[str, Any]]:
        return [info for _, info in self._ahead] + (self._coming[1] if self._coming else [])

    @contextlib.contextmanager
    def _capture_prefetch_state(self, *, clone_queue: bool = True) -> Iterator[dict[str, Any]]:
        """Batches that were drawn ahead are part of a checkpoint: as indices, since their content is in the cache."""
        with super()._capture_prefetch_state(clone_queue=clone_queue) as state:
            yield state | {"ahead": self._infos_ahead()}

    def _restore_prefetch_queue_locked(self, prefetch_state: dict[str, Any] | None, **kwargs: Any) -> None:
        super()._restore_prefetch_queue_locked(prefetch_state, **kwargs)
        self._ahead, self._coming = deque((None, info) for info in (prefetch_state or {}).get("ahead", ())), None


def make_replay_buffer(storage: PackedStorage, options: SamplingOptions) -> DatasetReplayBuffer:
    """Return a replay buffer over a packed storage.

    Args:
        storage: Transitions to sample from. TorchRL sets the storage's generator to the buffer's, so that two buffers
            must not share a storage.
        options: How to sample.

    Raises:
        SchemaMismatch: The storage holds no transitions.
        EpisodesTooShort: No episode is as long as a slice.
    """
    if not len(storage):
        msg = "The dataset has no transitions here: expected one at least. Choose another split= or where=."
        raise SchemaMismatch(msg)
    storage, transform = _take_over(storage, options.transform)
    sampler = options.sampler
    if options.slice_len is not None:
        sampler = EpisodeSliceSampler(storage, slice_len=options.slice_len, short=options.short_episodes)
    elif sampler is None:
        sampler = RandomSampler()
    give_boundaries(sampler, storage)
    generator = torch.Generator(storage.device)
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    prefetch = options.prefetch
    if prefetch is None and storage.streams:
        prefetch = _STREAMED_AHEAD
    return DatasetReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        collate_fn=_as_is,
        batch_size=options.batch_size,
        transform=transform,
        prefetch=prefetch,
        pin_memory=options.pin_memory,
        generator=generator,
    )


def _take_over(storage: PackedStorage, transform: Any) -> tuple[PackedStorage, Any]:
    """Let the storage do what TorchRL's transforms do on writing: nobody writes here, and they would do nothing."""
    steps = list(transform) if isinstance(transform, Compose) else [transform]
    kept = []
    for step in steps:
        if isinstance(step, MultiStepTransform):
            window = replace(storage.window, n_step=step.n_steps, gamma=float(step.gamma))
            storage = storage.variant(window=window)
        elif isinstance(step, Reward2GoTransform):
            storage = storage.variant(return_to_go=float(step.gamma), return_to_go_key=step.out_keys_inv[0])
        else:
            kept.append(step)
    if len(kept) == len(steps):
        return storage, transform
    return storage, Compose(*kept) if kept else None


def _include(batch: TensorDict, info: dict[str, Any]) -> None:
    """Put what the sampler says of a batch into it, ``index`` included, as TorchRL's buffer does."""
    if batch.is_locked:
        with batch.unlock_():
            return _include(batch, info)
    ndim = batch.ndim
    for key, value in info.items():
        if key == _INDEX and isinstance(value, tuple):
            value = torch.stack(value, -1) if len(value) > 1 else value[0].unsqueeze(-1)
        elif not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, device=batch.device)
        if value.ndim < ndim:
            value = expand_as_right(value, batch)
        if isinstance(key, str):
            _set(batch, key, value)
        else:  # one step at a time: TensorDict's own way down a nested key costs three times as much
            _set(_below(batch, key), key[-1], value)
    return None


def _set(batch: TensorDict, name: str, value: torch.Tensor) -> None:
    """Set an entry, without the checks where they would find nothing."""
    size = batch._batch_size if type(batch) is TensorDict else None
    if size is not None and value.shape[: len(size)] == size and value.device == batch._device:
        batch._tensordict[name] = value
    else:
        batch.set(name, value)


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
