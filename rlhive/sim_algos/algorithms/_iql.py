"""Implicit Q-learning: improve on the data without evaluating an action that the data do not hold.

Kostrikov, Nair and Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022.

The losses are the paper's. Three defaults are not, and each has an option for the paper's form (``conf/model/iql.yaml``
has all of them in one line):

- The policy. The paper's is a Gaussian around ``tanh(mean)`` with one standard deviation per action dimension
  (``loss.distribution=gaussian loss.scale=free``). Here it is a Laplace distribution whose scale depends on the
  observation. Its negative log-likelihood is an absolute error, so that the bad actions of mixed data pull the mean but
  not the median, and the scale grows where the data hold random actions, which weights their errors less. One standard
  deviation for all observations is as large as the random actions', and the precise actions that turn a knob are lost.
- The time scale. The paper takes 1,000,000 steps with gamma 0.99, tau 0.005 and learning rates of 3e-4; here some
  thousand steps have to do, so that the targets follow faster, the discount is shorter, and all learning rates fall to
  zero (in the authors' code the actor's alone does).
- The scale of the rewards, which temperature and advantage multiply. The authors' code divides by the range of the
  returns in the data and multiplies by 1000; here the task's references set it, so that a temperature means the same
  for every split of a task.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from rlhive import keys
from rlhive.errors import InvalidOptionError
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._networks import critic_network, scale_network
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP, update_target

_DISTRIBUTIONS = ("laplace", "gaussian")
_SCALES = ("state", "free")
_LOG_SCALE_RANGE = (-5.0, 2.0)
_MAX_WEIGHT = 100.0


class ImplicitQLearning(Algorithm):
    """Actor, two Q functions with their targets, value function and losses of IQL."""

    name = "iql"

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        sizes = statistics.observation_dim, statistics.action_dim
        network, optim = config["network"], config["optim"]
        self.actor = StackedMLP(generators, *sizes, network)
        self.critic = StackedMLP(generators, sum(sizes), 1, critic_network(network), num_members=2)
        self.value = StackedMLP(generators, statistics.observation_dim, 1, critic_network(network))
        self.scale = self._make_scale()
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.set_optimizer(
            {"params": [*self.actor.parameters(), *self.scale.parameters()], "lr": optim["actor_lr"]},
            {"params": [*self.critic.parameters(), *self.value.parameters()], "lr": optim["critic_lr"]},
        )

    def _make_scale(self) -> nn.Module:
        """Return the module that gives the logarithm of the action's scale."""
        loss, sizes = self.config["loss"], (self.statistics.observation_dim, self.statistics.action_dim)
        for option, choices in (("distribution", _DISTRIBUTIONS), ("scale", _SCALES)):
            if loss[option] not in choices:
                msg = f"loss.{option}: expected one of {', '.join(choices)}, got {loss[option]!r}"
                raise InvalidOptionError(msg)
        if loss["scale"] == "state":
            return StackedMLP(self.generators, *sizes, scale_network(self.config["network"]))
        return FreeScale(len(self.generators), self.statistics.action_dim, self.generators.device)

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the three losses of IQL, with the paper's names.

        - ``loss_value``: expectile regression of V(s) on the lower of the two target Q functions (equation 5).
        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · V(s') (equation 6).
        - ``loss_actor``: negative log-likelihood of the action, weighted by exp(temperature · advantage), at most 100
          (equation 7).
        """
        observation, action = batch[keys.OBSERVATION], batch[keys.ACTION]
        loss = self.config["loss"]
        with torch.no_grad():
            target_q = self.target_critic(observation, action).amin(1)
            next_value = self.value(batch[keys.NEXT, keys.OBSERVATION])
            continues = 1.0 - batch[keys.NEXT_TERMINATED].float()
            return_ = batch[keys.NEXT_REWARD] + loss["gamma"] * continues * next_value

        advantage = target_q - self.value(observation)
        expectile = torch.where(advantage > 0, loss["expectile"], 1 - loss["expectile"])
        error = self.critic(observation, action) - return_.unsqueeze(1)
        weight = (loss["temperature"] * advantage.detach()).exp().clamp_max(_MAX_WEIGHT)
        return {
            "loss_actor": -mean_per_seed(weight * self._log_prob(observation, action)),
            "loss_qvalue": mean_per_seed(error.square().sum(1)),
            "loss_value": mean_per_seed(expectile * advantage.square()),
        }

    def _log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of actions under the actor's distribution, ``[num_seeds, N, 1]``."""
        error = action - torch.tanh(self.actor(observation))
        log_scale = self.scale(observation).clamp(*_LOG_SCALE_RANGE)
        if self.config["loss"]["distribution"] == "laplace":
            log_prob = -error.abs() * torch.exp(-log_scale) - log_scale - math.log(2)
        else:
            log_prob = -0.5 * (error * torch.exp(-log_scale)).square() - log_scale - 0.5 * math.log(2 * math.pi)
        return log_prob.sum(-1, keepdim=True)

    def update_targets(self) -> None:
        """Move the target Q functions by ``loss.tau``."""
        update_target(self.target_critic, self.critic, self.config["loss"]["tau"])


class FreeScale(nn.Module):
    """Logarithm of a scale per action dimension that does not depend on the observation."""

    def __init__(self, num_seeds: int, action_dim: int, device: torch.device) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(num_seeds, 1, action_dim, device=device))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the scale, ``[num_seeds, 1, action_dim]``."""
        del observation
        return self.log_scale
