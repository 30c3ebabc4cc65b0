"""Networks that a checkpoint saves: the actor, and the deployed policy around it."""

from collections.abc import Mapping
from typing import Any

from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP

from rlhive import keys
from rlhive.normalization import Normalizer

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "elu": nn.ELU}


def make_mlp(num_inputs: int, num_outputs: int, network: Mapping[str, Any]) -> MLP:
    """Build the perceptron of a configuration's section ``network``.

    Args:
        num_inputs: Size of the last input dimension.
        num_outputs: Size of the last output dimension.
        network: ``hidden_sizes``, ``activation`` ("relu", "gelu", "tanh" or "elu") and ``dropout`` (probability
            before each activation, 0 for none).

    Raises:
        ValueError: Unknown activation.
    """
    if network["activation"] not in ACTIVATIONS:
        msg = f"network.activation: expected one of {', '.join(ACTIVATIONS)}, got {network['activation']!r}."
        raise ValueError(msg)
    return MLP(
        in_features=num_inputs,
        out_features=num_outputs,
        num_cells=list(network["hidden_sizes"]),
        activation_class=ACTIVATIONS[network["activation"]],
        dropout=float(network["dropout"]) or None,
    )


def make_actor(observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> nn.Sequential:
    """Build the network from a normalised observation to the mean action in [-1, 1]."""
    return nn.Sequential(make_mlp(observation_dim, action_dim, network), nn.Tanh())


def make_deployed_policy(normalizer: Normalizer, actor: nn.Module, *, env_name: str) -> TensorDictModule:
    """Join a normaliser and an actor into the policy that is saved, loaded and rolled out.

    Args:
        normalizer: Normaliser of the environment's observations.
        actor: Network from normalised observations to actions; the policy shares its memory.
        env_name: Environment that the policy was trained for.

    Returns:
        A TorchRL module from ``observation`` (any real dtype) to ``action`` (float32 in [-1, 1]), deterministic, in
        evaluation mode, with an attribute ``env_name``.
    """
    policy = TensorDictModule(
        nn.Sequential(normalizer, actor), in_keys=[keys.OBSERVATION], out_keys=[keys.ACTION]
    ).eval()
    policy.env_name = env_name
    return policy
