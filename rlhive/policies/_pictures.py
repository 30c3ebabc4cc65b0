"""A convolutional network from pictures to features, trained together with a policy."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rlhive.errors import InvalidOptionError

CNN = "cnn"

_MAX_LAYERS = 16
_MAX_CHANNELS = 4096
_MAX_PIXELS = 4096
_COLOURS = 3


def require_pictures(shape: Sequence[int], *, context: str) -> None:
    """Raise InvalidOptionError unless a shape is that of colour pictures, ``[*cameras, height, width, 3]``."""
    is_valid = 3 <= len(shape) <= 4 and all(type(size) is int and 1 <= size <= _MAX_PIXELS for size in shape)
    if not is_valid or shape[-1] != _COLOURS:
        msg = f"{context}: expected colour pictures [height, width, 3] of one or several cameras, got {list(shape)}"
        raise InvalidOptionError(msg)


def require_cnn(encoder: Mapping[str, Any]) -> None:
    """Raise InvalidOptionError unless a section ``encoder`` describes a convolutional network."""
    layers = [encoder.get(name) for name in ("channels", "kernel_sizes", "strides")]
    for name, sizes in zip(("channels", "kernel_sizes", "strides"), layers, strict=True):
        is_valid = isinstance(sizes, list) and 1 <= len(sizes) <= _MAX_LAYERS
        if not is_valid or not all(type(size) is int and 1 <= size <= _MAX_CHANNELS for size in sizes or ()):
            msg = f"encoder.{name}: expected 1 to {_MAX_LAYERS} positive integers, got {sizes!r:.80}"
            raise InvalidOptionError(msg)
    if len({len(sizes) for sizes in layers if sizes is not None}) != 1:
        msg = "encoder: expected one of channels, kernel_sizes and strides per layer, got lists of different lengths"
        raise InvalidOptionError(msg)
    feature_dim: Any = encoder.get("feature_dim")
    if type(feature_dim) is not int or not 1 <= feature_dim <= _MAX_CHANNELS:
        msg = f"encoder.feature_dim: expected an integer from 1 to {_MAX_CHANNELS}, got {feature_dim!r:.80}"
        raise InvalidOptionError(msg)


class PictureCNN(nn.Module):
    """Convolutions with ReLU, then a linear layer, layer normalisation and tanh.

    The convolutions are by default those of Mnih et al. (Nature, 2015); the layers after them those of Yarats et al.,
    "Improving Sample Efficiency in Model-Free Reinforcement Learning from Images", AAAI 2021. Cameras are stacked as
    channels.

    Args:
        shape: Shape of the pictures of one observation, ``[height, width, 3]`` or ``[camera, height, width, 3]``.
        encoder: ``channels``, ``kernel_sizes`` and ``strides`` of the convolutions, and ``feature_dim``.

    Attributes:
        feature_dim: Number of features.

    Raises:
        InvalidOptionError: An option is out of range, or the pictures are too small for the convolutions.
    """

    def __init__(self, shape: Sequence[int], encoder: Mapping[str, Any]) -> None:
        super().__init__()
        require_pictures(shape, context="Pictures")
        require_cnn(encoder)
        self._shape = tuple(shape)
        self.feature_dim: int = encoder["feature_dim"]
        channels = [math.prod(shape[:-3]) * _COLOURS, *encoder["channels"]]
        sizes = list(shape[-3:-1])
        self.convolutions = nn.ModuleList()
        options = zip(itertools.pairwise(channels), encoder["kernel_sizes"], encoder["strides"], strict=True)
        for (num_inputs, num_outputs), kernel_size, stride in options:
            self.convolutions.append(nn.Conv2d(num_inputs, num_outputs, kernel_size, stride))
            sizes = [(size - kernel_size) // stride + 1 for size in sizes]
            if min(sizes) < 1:
                msg = (
                    f"encoder: pictures of {shape[-3]} x {shape[-2]} pixels are too small for its convolutions. Lower "
                    "encoder.kernel_sizes or encoder.strides, or record larger pictures"
                )
                raise InvalidOptionError(msg)
        self.linear = nn.Linear(channels[-1] * math.prod(sizes), encoder["feature_dim"])
        self.norm = nn.LayerNorm(encoder["feature_dim"])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the features of pictures.

        Args:
            pictures: uint8 ``[*batch, *shape]``.

        Returns:
            float32 ``[*batch, feature_dim]``, in [-1, 1].
        """
        batch_shape = pictures.shape[: pictures.ndim - len(self._shape)]
        height, width = self._shape[-3:-1]
        flat = pictures.reshape(-1, math.prod(self._shape[:-3]), height, width, _COLOURS)
        hidden = flat.permute(0, 1, 4, 2, 3).reshape(len(flat), -1, height, width).to(torch.float32) / 255 - 0.5
        for convolution in self.convolutions:
            hidden = torch.relu(convolution(hidden))
        features = torch.tanh(self.norm(self.linear(hidden.flatten(1))))
        return features.reshape(*batch_shape, -1)
