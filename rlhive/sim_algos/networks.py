"""The small networks of the algorithms; the actor's trunk is in :mod:`rlhive.checkpoint`, which saves it."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator

from rlhive import keys
from rlhive.checkpoint import make_mlp

_LOG_STD_RANGE = (-5.0, 2.0)


class GaussianHead(nn.Module):
    """Give an actor's mean a standard deviation that is learned but does not depend on the state.

    Args:
        actor: From observations to mean actions.
        action_dim: Size of an action.
    """

    def __init__(self, actor: nn.Module, action_dim: int) -> None:
        super().__init__()
        self.actor = actor
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation, each of the actions' shape."""
        mean = self.actor(observation)
        return mean, self.log_std.clamp(*_LOG_STD_RANGE).exp().expand_as(mean)


def make_stochastic_actor(actor: nn.Module, action_dim: int) -> ProbabilisticActor:
    """Wrap an actor in a Gaussian around its mean.

    The mean went through a tanh, the samples do not, as in the code of the IQL authors. A tanh-normal gives an action
    on the bound an unbounded log-density, and clipped expert actions lie on the bound all the time.
    """
    head = TensorDictModule(GaussianHead(actor, action_dim), in_keys=[keys.OBSERVATION], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        head, in_keys=["loc", "scale"], out_keys=[keys.ACTION], distribution_class=IndependentNormal
    )


def make_critics(
    observation_dim: int, action_dim: int, network: Mapping[str, Any]
) -> tuple[ValueOperator, ValueOperator]:
    """Build Q(observation, action) and V(observation); they have no dropout, whose noise would be bootstrapped."""
    plain = {**network, "dropout": 0.0}
    qvalue = ValueOperator(
        make_mlp(observation_dim + action_dim, 1, plain),
        in_keys=[keys.OBSERVATION, keys.ACTION],
        out_keys=["state_action_value"],
    )
    value = ValueOperator(make_mlp(observation_dim, 1, plain), in_keys=[keys.OBSERVATION])
    return qvalue, value
