"""What a learner is given: the statistics of a replay buffer, and batches that are normalised by them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torchrl.data import ReplayBuffer

from rlhive import keys
from rlhive.errors import SchemaMismatch
from rlhive.policies import Normalizer

#: What a batch must hold for an algorithm that learns values.
TRANSITION = (
    keys.OBSERVATION,
    keys.ACTION,
    (keys.NEXT, keys.OBSERVATION),
    keys.NEXT_REWARD,
    keys.NEXT_TERMINATED,
    keys.NEXT_DONE,
)

_CHUNK = 65_536  # rows read at once for the statistics: 40 MB of kitchen observations


@dataclass(frozen=True)
class Statistics:
    """What a learner needs to know beforehand, over all transitions of a buffer.

    Attributes:
        mean: Of the observations, float64 ``[observation_dim]``.
        std: Of the observations, float64 ``[observation_dim]``; 0 where they do not vary.
        reward_std: Of the rewards; 0 without any.
        action_dim: Size of an action.
    """

    mean: torch.Tensor
    std: torch.Tensor
    reward_std: float
    action_dim: int

    @property
    def observation_dim(self) -> int:
        """Size of an observation."""
        return len(self.mean)


def measure(buffer: ReplayBuffer, in_keys: Sequence[keys.NestedKey]) -> Statistics:
    """Read the whole buffer once, check that it can be learned from, and return its statistics.

    Raises:
        SchemaMismatch: It is empty, lacks one of ``in_keys``, or holds NaN or infinite values.
    """
    if len(buffer) == 0:
        msg = "The replay buffer is empty: expected at least one transition. Choose another split."
        raise SchemaMismatch(msg)
    chunks = [buffer[start : start + _CHUNK] for start in range(0, len(buffer), _CHUNK)]
    missing = [key for key in in_keys if key not in chunks[0].keys(True)]
    if missing:
        msg = f"The replay buffer's transitions lack {missing}: expected {list(in_keys)}. Choose another dataset."
        raise SchemaMismatch(msg)
    for key in in_keys:
        if not all(bool(torch.isfinite(chunk[key]).all()) for chunk in chunks):
            msg = f"The replay buffer's {key!r}: expected finite values, got NaN or infinity. Check the dataset."
            raise SchemaMismatch(msg)
    mean, std = _mean_and_std([chunk[keys.OBSERVATION] for chunk in chunks])
    rewards = [chunk[keys.NEXT_REWARD] for chunk in chunks] if keys.NEXT_REWARD in in_keys else []
    reward_std = float(_mean_and_std(rewards)[1]) if rewards else 0.0
    return Statistics(mean, std, reward_std, action_dim=chunks[0][keys.ACTION].shape[-1])


def _mean_and_std(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two passes in float64: the one-pass formula loses the variance of a dimension far from zero."""
    count = sum(len(chunk) for chunk in chunks)
    mean = sum(chunk.to(torch.float64).sum(0) for chunk in chunks) / count
    variance = sum((chunk.to(torch.float64) - mean).square().sum(0) for chunk in chunks) / count
    return mean, variance.sqrt()


class Preparation:
    """Turn a batch of the buffer into one of the learner: only its keys, normalised, in float32, on its device."""

    def __init__(self, normalizer: Normalizer, in_keys: Sequence[keys.NestedKey], device: torch.device) -> None:
        self._normalizer, self._in_keys, self._device = normalizer, in_keys, device

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Return a new TensorDict; the batch, which may be a view of the dataset, is left as it was."""
        batch = batch.select(*self._in_keys).to(self._device)
        for key in self._in_keys:
            value = batch[key]
            if key in (keys.OBSERVATION, (keys.NEXT, keys.OBSERVATION)):
                batch[key] = self._normalizer(value)
            elif value.is_floating_point():
                batch[key] = value.to(torch.float32)
        return batch


def reward_scale_of(configured: float | None, reward_std: float) -> float:
    """Return what rewards are multiplied by: as configured, else so that they have unit variance."""
    if configured is not None:
        return float(configured)
    return 1.0 / reward_std if reward_std > 0 else 1.0
