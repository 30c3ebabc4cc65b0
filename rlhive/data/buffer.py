"""`as_replay_buffer()`: TorchRL's own replay buffer over the packed storage, with less on the way to a batch."""

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torchrl.data import ImmutableDatasetWriter, RandomSampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from rlhive.data.storage import PackedStorage


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
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler if sampler is not None else RandomSampler(),
        writer=ImmutableDatasetWriter(),
        collate_fn=_as_is,
        batch_size=batch_size,
        transform=transform,
        prefetch=prefetch,
        pin_memory=pin_memory,
        generator=generator,
    )


def _as_is(batch: TensorDict) -> TensorDict:
    return batch
