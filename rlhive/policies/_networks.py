"""Networks that a checkpoint saves: the actor, by its kind, and the deployed policy around it.

A checkpoint names the kind of its network and the options of that kind. Kinds are ``mlp`` (:func:`make_actor`),
``noise_mlp``, ``flow_chunk``, ``transformer``, and those of installed algorithms: an entry point of the group
``rlhive.algorithms`` whose name is the kind, on a class with a function ``make_network(observation_dim, action_dim,
network)``.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from rlhive import keys
from rlhive.errors import CheckpointMismatchError
from rlhive.normalization import Normalizer
from rlhive.policies._flow import FlowChunkPolicy, NoisePolicy
from rlhive.policies._inputs import InputEncoder, PolicyInputs
from rlhive.policies._mlp import make_mlp
from rlhive.policies._transformer import TransformerPolicy

#: Entry point group of the algorithms of other packages.
ALGORITHM_ENTRY_POINTS = "rlhive.algorithms"

MLP_KIND = "mlp"

#: Kinds whose options begin with those of a perceptron.
MLP_OPTIONS_KINDS = (MLP_KIND, "noise_mlp", "flow_chunk")

#: Function from the sizes of an observation and an action and the section ``network`` to a network.
NetworkFactory = Callable[[int, int, Mapping[str, Any]], nn.Module]

_registered: dict[str, NetworkFactory] = {}


def make_actor(observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> nn.Sequential:
    """Build the network from a normalised observation to the mean action in [-1, 1]."""
    return nn.Sequential(make_mlp(observation_dim, action_dim, network), nn.Tanh())


_BUILT_IN: dict[str, NetworkFactory] = {
    MLP_KIND: make_actor,
    "noise_mlp": NoisePolicy,
    "flow_chunk": FlowChunkPolicy,
    "transformer": TransformerPolicy,
}


def register_network(kind: str, factory: NetworkFactory) -> None:
    """Make a kind of network known to this process; packages use an entry point instead."""
    _registered[kind] = factory


def make_network(observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> nn.Module:
    """Build the network of a checkpoint.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        network: Section ``network`` of ``checkpoint.json``: ``kind`` ("mlp" if it is missing) and the kind's options.

    Raises:
        CheckpointMismatchError: No installed package has a network of that kind.
    """
    return find_network_factory(network.get("kind", MLP_KIND))(observation_dim, action_dim, network)


def find_network_factory(kind: str) -> NetworkFactory:
    """Return the function that builds networks of a kind.

    Raises:
        CheckpointMismatchError: No installed package has a network of that kind.
    """
    factory = _BUILT_IN.get(kind) or _registered.get(kind)
    if factory is not None:
        return factory
    for entry_point in importlib.metadata.entry_points(group=ALGORITHM_ENTRY_POINTS):
        if entry_point.name == kind:
            return entry_point.load().make_network
    kinds = sorted({*_BUILT_IN, *_registered, *importlib.metadata.entry_points(group=ALGORITHM_ENTRY_POINTS).names})
    msg = f"network.kind: expected one of {', '.join(kinds)}, got {kind!r}. Install the package of that algorithm."
    raise CheckpointMismatchError(msg)


def make_deployed_policy(
    normalizer: Normalizer,
    actor: nn.Module,
    *,
    env_name: str,
    inputs: PolicyInputs | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> TensorDictModule:
    """Join a normaliser and an actor into the policy that is saved, loaded and rolled out.

    Args:
        normalizer: Normaliser of the environment's observations; of all vectors together if there are ``inputs``.
        actor: Network from normalised observations to actions; the policy shares its memory. If it keeps a state during
            an episode, its method ``begin_episode(seed)`` resets it; a method ``observe_reward(reward)`` gets the
            reward of each action before the next one is asked for.
        env_name: Environment that the policy was trained for.
        inputs: What the policy reads instead of ``observation``.
        env_kwargs: Arguments with which the environment returns it, for example ``from_pixels``.

    Returns:
        A TorchRL module from ``observation`` (any real dtype), or the keys of ``inputs``, to ``action`` (float32 in
        [-1, 1]), deterministic for a seed, in evaluation mode, with the attributes ``env_name`` and ``env_kwargs``.
    """
    if inputs is None:
        policy = DeployedPolicy(nn.Sequential(normalizer, actor), in_keys=[keys.OBSERVATION], out_keys=[keys.ACTION])
    else:
        module = _EncodedActor(InputEncoder(inputs, normalizer), actor)
        policy = DeployedPolicy(module, in_keys=inputs.in_keys, out_keys=[keys.ACTION])
    policy.env_name = env_name
    policy.env_kwargs = dict(env_kwargs or {})
    return policy.eval()


class _EncodedActor(nn.Sequential):
    """An actor after an encoder that takes several inputs."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](*values))


class DeployedPolicy(TensorDictModule):
    """A policy from observations to ``action``, with the state that its network keeps during an episode."""

    def begin_episode(self, seed: int) -> None:
        """Reset the state of the network, if it keeps one; rollouts call this after every reset.

        Args:
            seed: Seed of the episode.
        """
        begin = getattr(self.module[1], "begin_episode", None)
        if begin is not None:
            begin(seed)

    def observe_reward(self, reward: float) -> None:
        """Pass the reward of the last action to the network, if it takes one; rollouts call this after every step.

        Args:
            reward: The reward as the environment gave it.
        """
        observe = getattr(self.module[1], "observe_reward", None)
        if observe is not None:
            observe(reward)
