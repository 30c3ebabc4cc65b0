"""The small networks of the algorithms; the actor's trunk is in :mod:`rlhive.checkpoint`, which saves it."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Independent, Laplace
from torchrl.modules import ProbabilisticActor, ValueOperator

from rlhive import keys
from rlhive.checkpoint import make_mlp

_LOG_SCALE_RANGE = (-5.0, 2.0)


class ActionDistribution(Independent):
    """Laplace distribution of an action, its dimensions independent.

    Its negative log-likelihood is an absolute error. IQL's own Gaussian gives a squared one, with which the kitchen's
    knob is missed by a few millimetres; and a minority of bad actions, as in mixed data, pulls a mean but no median.
    A tanh-normal gives an action on the bound an unbounded log-density, and clipped actions lie on the bound.

    Args:
        loc: Median, shape ``[..., action]``.
        scale: Mean absolute deviation, same shape.
    """

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(Laplace(loc, scale, validate_args=False), 1, validate_args=False)

    @property
    def deterministic_sample(self) -> torch.Tensor:
        """The median, which is what is deployed."""
        return self.base_dist.loc


class DistributionHead(nn.Module):
    """Give an actor's action a scale that is learned but does not depend on the state.

    Args:
        actor: From observations to actions.
        action_dim: Size of an action.
    """

    def __init__(self, actor: nn.Module, action_dim: int) -> None:
        super().__init__()
        self.actor = actor
        self.log_scale = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return location and scale, each of the actions' shape."""
        loc = self.actor(observation)
        return loc, self.log_scale.clamp(*_LOG_SCALE_RANGE).exp().expand_as(loc)


def make_stochastic_actor(actor: nn.Module, action_dim: int) -> ProbabilisticActor:
    """Wrap an actor, whose output went through a tanh, in an :class:`ActionDistribution` around it."""
    head = TensorDictModule(DistributionHead(actor, action_dim), in_keys=[keys.OBSERVATION], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        head, in_keys=["loc", "scale"], out_keys=[keys.ACTION], distribution_class=ActionDistribution
    )


def make_critics(
    observation_dim: int, action_dim: int, network: Mapping[str, Any]
) -> tuple[ValueOperator, ValueOperator]:
    """Build Q(observation, action) and V(observation); they have no dropout, whose noise would be bootstrapped."""
    plain = {**network, "hidden_sizes": network["critic_hidden_sizes"], "dropout": 0.0}
    qvalue = ValueOperator(
        make_mlp(observation_dim + action_dim, 1, plain),
        in_keys=[keys.OBSERVATION, keys.ACTION],
        out_keys=["state_action_value"],
    )
    value = ValueOperator(make_mlp(observation_dim, 1, plain), in_keys=[keys.OBSERVATION])
    return qvalue, value
