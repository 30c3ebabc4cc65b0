"""Perceptrons, built from a section ``network``."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchrl.modules import MLP

from rlhive.errors import InvalidOptionError

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "elu": nn.ELU}


def require_activation(activation: str) -> None:
    """Raise InvalidOptionError unless ``activation`` names one of :data:`ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        msg = f"network.activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}."
        raise InvalidOptionError(msg)


def make_mlp(num_inputs: int, num_outputs: int, network: Mapping[str, Any]) -> MLP:
    """Build the perceptron of a configuration's section ``network``.

    Args:
        num_inputs: Size of the last input dimension.
        num_outputs: Size of the last output dimension.
        network: ``hidden_sizes``, ``activation`` ("relu", "gelu", "tanh" or "elu") and ``dropout`` (probability
            before each activation, 0 for none); optional ``layer_norm``, whether hidden layers are normalised.

    Raises:
        InvalidOptionError: Unknown activation.
    """
    require_activation(network["activation"])
    sizes = list(network["hidden_sizes"])
    norm: dict[str, Any] = {}
    if network.get("layer_norm") and sizes:
        norm = {"norm_class": nn.LayerNorm, "norm_kwargs": [{"normalized_shape": size} for size in sizes]}
    return MLP(
        in_features=num_inputs,
        out_features=num_outputs,
        num_cells=sizes,
        activation_class=ACTIVATIONS[network["activation"]],
        dropout=float(network["dropout"]) or None,
        **norm,
    )
