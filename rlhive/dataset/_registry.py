"""RLHive in TorchRL's dataset registry: ``load_dataset("rlhive:kitchen_knob1")``.

The entry is registered when :mod:`rlhive.dataset` is imported, for example by ``from rlhive import RoboHiveDataset``.
"""

import inspect
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import ImmutableDatasetWriter, ReplayBuffer
from torchrl.envs.transforms import Compose, ExcludeTransform

from rlhive import keys
from rlhive.dataset._dataset import RoboHiveDataset

_CONSTRUCTOR_KEYWORDS = frozenset(inspect.signature(RoboHiveDataset).parameters) - {"name"}
_SIMPLE_BUFFER_KEYWORDS = frozenset({"batch_size", "transform", "prefetch", "pin_memory", "seed"})


def open_replay_buffer(name: str, **kwargs: Any) -> ReplayBuffer:
    """Return the replay buffer of a dataset, for TorchRL's ``load_dataset`` and ``OfflineToOnlineReplayBuffer``.

    Batches have the keys of the environment's own transitions only (no ``episode``, no ``index``), so that TorchRL can
    concatenate them with transitions that are collected online. With any keyword besides ``batch_size``, ``transform``,
    ``prefetch``, ``pin_memory`` and ``seed``, for example a sampler, the buffer is that of ``as_replay_buffer``.

    Args:
        name: Dataset name, ``"kitchen_knob1"`` or ``"org/name"``.
        **kwargs: Keywords of :class:`~rlhive.RoboHiveDataset` and of its ``as_replay_buffer``.

    Example:
        >>> from torchrl.data.datasets import load_dataset
        >>> load_dataset("rlhive:kitchen_knob1", split="expert", batch_size=32)  # doctest: +SKIP
    """
    dataset = RoboHiveDataset(name, **{key: kwargs.pop(key) for key in _CONSTRUCTOR_KEYWORDS & kwargs.keys()})
    if kwargs.keys() - _SIMPLE_BUFFER_KEYWORDS:
        return dataset.as_replay_buffer(**kwargs)
    seed, transform = kwargs.pop("seed", None), kwargs.pop("transform", None)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    exclude = ExcludeTransform(keys.EPISODE)
    return ReplayBuffer(
        storage=dataset.as_storage(),
        writer=ImmutableDatasetWriter(),
        collate_fn=_return_unchanged,
        transform=Compose(exclude) if transform is None else Compose(exclude, transform),
        generator=generator,
        **{"batch_size": 256} | kwargs,
    )


def _return_unchanged(batch: TensorDict) -> TensorDict:
    """Collate nothing: the storage returns whole batches."""
    return batch
