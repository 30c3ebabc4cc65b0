"""Policies that turn noise into actions: a one-step policy, and a flow over chunks of actions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rlhive.errors import InvalidOptionError
from rlhive.policies._mlp import make_mlp

_MAX_CHUNK = 10_000


class NoisePolicy(nn.Module):
    """Perceptron from observation and standard normal noise to an action, clipped to [-1, 1].

    The noise is drawn from torch's default generator, which a rollout seeds.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        network: Options of :func:`rlhive.policies.make_mlp`.
    """

    def __init__(self, observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> None:
        super().__init__()
        self._action_dim = action_dim
        self.mlp = make_mlp(observation_dim + action_dim, action_dim, network)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return actions ``[..., action_dim]`` of normalised observations ``[..., observation_dim]``."""
        noise = torch.randn(*observation.shape[:-1], self._action_dim)
        return self.mlp(torch.cat([observation, noise], -1)).clamp(-1, 1)


class FlowChunkPolicy(nn.Module):
    """Velocity field that carries noise to the next actions, some of which are executed before the next plan.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        network: Options of :func:`rlhive.policies.make_mlp`; ``chunk`` (number of planned actions), ``execute``
            (number of executed actions) and ``num_flow_steps`` (steps of Euler's method).

    Raises:
        InvalidOptionError: One of the numbers is out of range.
    """

    def __init__(self, observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> None:
        super().__init__()
        limits = {"chunk": _MAX_CHUNK, "execute": network["chunk"], "num_flow_steps": _MAX_CHUNK}
        for name, limit in limits.items():
            if type(network[name]) is not int or not 1 <= network[name] <= limit:
                msg = f"network.{name}: expected an integer from 1 to {limit}, got {network[name]!r}"
                raise InvalidOptionError(msg)
        self._shape = (network["chunk"], action_dim)
        self._execute, self._num_steps = network["execute"], network["num_flow_steps"]
        size = network["chunk"] * action_dim
        self.mlp = make_mlp(observation_dim + size + 1, size, network)
        self._planned: list[torch.Tensor] = []

    def begin_episode(self, seed: int) -> None:
        """Drop what was planned."""
        del seed
        self._planned = []

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the next planned action ``[..., action_dim]``, of a new plan if the last one was executed."""
        if not self._planned or self._planned[0].shape[:-1] != observation.shape[:-1]:
            self._planned = list(self._plan(observation).unbind(-2))[: self._execute]
        return self._planned.pop(0)

    def _plan(self, observation: torch.Tensor) -> torch.Tensor:
        """Return actions ``[..., chunk, action_dim]``, by noise of torch's default generator."""
        chunk, action_dim = self._shape
        position = torch.randn(*observation.shape[:-1], chunk * action_dim)
        for step in range(self._num_steps):
            time = torch.full_like(position[..., :1], step / self._num_steps)
            position = position + self.mlp(torch.cat([observation, position, time], -1)) / self._num_steps
        return position.clamp(-1, 1).reshape(*observation.shape[:-1], chunk, action_dim)
