"""The normalisation rule of RLHive: subtract the mean, divide by the standard deviation, clip to ±10.

::

    normalised = clip((value - mean) / scale, -10, 10)
    scale      = std, or 1 for an element that does not vary: std <= 1e-8 · max(|mean|, 1)

Replay buffers (``as_replay_buffer(normalize=…)``), transforms (``dataset.normalization(…)``), training and the policies
in checkpoints all use :func:`normalize` with the same mean and scale. docs/decisions/019-one-normalizer.md explains the
threshold and the clip.
"""

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import Composite, TensorSpec
from torchrl.envs.transforms import ObservationNorm

#: Largest absolute value of a normalised element, in standard deviations.
CLIP = 10.0

#: An element whose standard deviation is at most this share of max(|mean|, 1) varies by rounding errors alone.
CONSTANT = 1e-8


def compute_scale(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return the divisor of the normalisation: ``std``, and 1 for elements that do not vary.

    Args:
        mean: Mean of each element.
        std: Standard deviation of each element, same shape.

    Returns:
        A new tensor of the shape and dtype of ``std``.
    """
    is_constant = std <= CONSTANT * mean.abs().clamp_min(1.0)
    return torch.where(is_constant, torch.ones_like(std), std)


def normalize(value: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return ``clip((value - mean) / scale, -10, 10)`` as a new tensor.

    Args:
        value: Shape ``[..., *shape]``.
        mean: Shape ``[*shape]``. Float64 subtracts before it rounds, which matters far from zero.
        scale: Shape ``[*shape]``, see :func:`compute_scale`.

    Returns:
        The shape of ``value`` in the dtype that ``value`` and ``mean`` promote to. A NaN stays a NaN.
    """
    return value.sub(mean).div_(scale).clamp_(-CLIP, CLIP)


class Normalizer(nn.Module):
    """First layer of a deployed policy: normalises observations of any real dtype to float32.

    Args:
        mean: Mean of each element, shape ``[dim]``.
        std: Standard deviation of each element, or the scale that :func:`compute_scale` made of it, shape ``[dim]``.

    Attributes:
        mean: The mean, float64.
        std: The scale, float64. The attribute's name is the key in ``policy.pt``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        mean, std = mean.to(torch.float64), std.to(torch.float64)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", compute_scale(mean, std))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the normalised observation as a new float32 tensor, computed in float64."""
        return normalize(observation, self.mean, self.std).to(torch.float32)


class CastObservationNorm(ObservationNorm):
    """TorchRL's ``ObservationNorm`` with ``standard_normal=True``, whose result has a given dtype.

    It serves in a replay buffer, in an environment, and as the first module of a policy in a ``TensorDictSequential``:
    the first of ``in_keys`` must be there, and the others, such as ``("next", "observation")``, are normalised where
    they are.

    Args:
        dtype: Dtype of the result; None for that of the input, even where ``loc`` and ``scale`` have a wider one.
        kwargs: ``loc``, ``scale``, ``in_keys`` and ``out_keys`` of ``ObservationNorm``.
    """

    def __init__(self, *, dtype: torch.dtype | None = None, **kwargs: Any) -> None:
        super().__init__(standard_normal=True, **kwargs)
        self.result_dtype = dtype

    @property
    def missing_tolerance(self) -> bool:
        """Whether keys may be missing; :meth:`_require_first_key` insists on the first one."""
        return True

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Normalise a batch, or what a policy gets, in place."""
        self._require_first_key(tensordict)
        return super().forward(tensordict)

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        self._require_first_key(next_tensordict)
        return super()._call(next_tensordict)

    def _require_first_key(self, tensordict: TensorDictBase) -> None:
        if not self._missing_tolerance and tensordict.get(self.in_keys[0], None) is None:
            got = sorted(map(str, tensordict.keys()))
            msg = f"{type(self).__name__}: expected {self.in_keys[0]!r}, got the keys {got}"
            raise KeyError(msg)

    def _apply_transform(self, obs: torch.Tensor) -> torch.Tensor:
        return self._normalize(obs).to(obs.dtype if self.result_dtype is None else self.result_dtype)

    def _normalize(self, obs: torch.Tensor) -> torch.Tensor:
        return (obs - self.loc) / self.scale

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        """Return the spec with the bounds and the dtype of the result."""
        spec = super().transform_observation_spec(observation_spec)
        if self.result_dtype is None:
            return spec
        if not isinstance(spec, Composite):
            return spec.to(self.result_dtype)
        for key in self.out_keys:
            if key in spec.keys(True, True):
                spec[key] = spec[key].to(self.result_dtype)
        return spec


class ClippedObservationNorm(CastObservationNorm):
    """The rule of :func:`normalize` as a transform: clipped to ±10."""

    def _normalize(self, obs: torch.Tensor) -> torch.Tensor:
        return normalize(obs, self.loc, self.scale)
