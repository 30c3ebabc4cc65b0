"""RLHive's entry in TorchRL's registry of datasets: ``load_dataset("rlhive:kitchen_knob1")``.

The entry is made when :mod:`rlhive.dataset` is imported, so after ``from rlhive import RoboHiveDataset``.
"""

import inspect
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import ImmutableDatasetWriter, ReplayBuffer
from torchrl.envs.transforms import Compose, ExcludeTransform

from rlhive import keys
from rlhive.dataset._dataset import RoboHiveDataset

_OPENING = frozenset(inspect.signature(RoboHiveDataset).parameters) - {"name"}
_PLAIN = {"batch_size", "transform", "prefetch", "pin_memory", "seed"}


def open_replay_buffer(name: str, **kwargs: Any) -> ReplayBuffer:
    """Return the replay buffer of a dataset, as TorchRL's ``load_dataset`` and ``OfflineToOnlineReplayBuffer`` ask.

    Its batches have the keys of the environment's own transitions and no others (no ``episode``, no ``index``), so that
    TorchRL can put them together with what is collected online. Whoever passes more than ``batch_size``, ``transform``,
    ``prefetch``, ``pin_memory`` and ``seed``, a sampler for example, gets ``as_replay_buffer``'s buffer as it is.

    Args:
        name: Dataset name, ``"kitchen_knob1"`` or ``"org/name"``.
        **kwargs: What :class:`~rlhive.RoboHiveDataset` and its ``as_replay_buffer`` take.

    Example:
        >>> from torchrl.data.datasets import load_dataset
        >>> load_dataset("rlhive:kitchen_knob1", split="expert", batch_size=32)  # doctest: +SKIP
    """
    opening = {key: kwargs.pop(key) for key in _OPENING & kwargs.keys()}
    dataset = RoboHiveDataset(name, **opening)
    if kwargs.keys() - _PLAIN:
        return dataset.as_replay_buffer(**kwargs)
    generator, seed = torch.Generator(), kwargs.pop("seed", None)
    generator.seed() if seed is None else generator.manual_seed(seed)
    own = kwargs.pop("transform", None)
    transform = Compose(ExcludeTransform(keys.EPISODE), *([] if own is None else [own]))
    return ReplayBuffer(
        storage=dataset.as_storage(),
        writer=ImmutableDatasetWriter(),
        collate_fn=_as_is,
        transform=transform,
        generator=generator,
        **{"batch_size": 256} | kwargs,
    )


def _as_is(batch: TensorDict) -> TensorDict:
    return batch
