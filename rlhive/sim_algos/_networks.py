"""Networks that several algorithms share: sizes of critics and scales, and the tanh-normal policy."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

_LOG_SCALE_RANGE = (-5.0, 2.0)


def critic_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``network`` of the critics: own sizes, and no dropout, whose noise targets would bootstrap."""
    return {
        **network,
        "hidden_sizes": network["critic_hidden_sizes"],
        "layer_norm": network.get("critic_layer_norm", False),
        "dropout": 0.0,
    }


def scale_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``network`` of the network that gives the logarithm of an action's scale."""
    return {**network, "hidden_sizes": network["scale_hidden_sizes"], "layer_norm": False, "dropout": 0.0}


def sample_tanh_normal(
    location: torch.Tensor, log_scale: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return reparametrised actions of a tanh-normal distribution and their log-probabilities.

    Args:
        location: Mean before the tanh, ``[..., action_dim]``.
        log_scale: Logarithm of the standard deviation before the tanh, same shape; clamped to [-5, 2].
        noise: Standard normal numbers, same shape or one that broadcasts.

    Returns:
        Actions in (-1, 1), and log-probabilities ``[..., 1]``, computed as log(1 - tanh(u)²) = 2 · (log 2 - u -
        softplus(-2u)), which is exact for large u.
    """
    log_scale = log_scale.clamp(*_LOG_SCALE_RANGE)
    before_tanh = location + log_scale.exp() * noise
    log_normal = -0.5 * noise.square() - log_scale - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - before_tanh - F.softplus(-2 * before_tanh))
    return torch.tanh(before_tanh), (log_normal - log_slope).sum(-1, keepdim=True)
