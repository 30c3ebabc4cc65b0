"""Flow Q-learning: a flow that clones the data, and a one-step policy that imitates it and maximises Q.

Park, Li and Levine, "Flow Q-Learning", ICML 2025.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._flow import flow_matching_error, integrate_flow
from rlhive.sim_algos._networks import critic_network
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP, update_target


class FlowQLearning(Algorithm):
    """Velocity field, one-step policy, two Q functions with their targets, and the losses of FQL."""

    name = "fql"
    encoder_losses = ("loss_qvalue", "loss_flow")

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        observation_dim, action_dim = statistics.observation_dim, statistics.action_dim
        network, optim = config["network"], config["optim"]
        self.velocity = StackedMLP(generators, observation_dim + action_dim + 1, action_dim, network)
        self.actor = StackedMLP(generators, observation_dim + action_dim, action_dim, network)
        self.critic = StackedMLP(generators, observation_dim + action_dim, 1, critic_network(network), num_members=2)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.set_optimizer(
            {"params": [*self.velocity.parameters(), *self.actor.parameters()], "lr": optim["actor_lr"]},
            {"params": self.critic.parameters(), "lr": optim["critic_lr"]},
        )

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the losses of FQL (algorithm 1).

        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · mean target Q of s' and
          the one-step policy's action.
        - ``loss_flow``: flow matching of the velocity field on the data's actions.
        - ``loss_actor``: alpha · distance of the one-step policy to the flow from the same noise - Q of its action.
        """
        observation, action = batch[keys.OBSERVATION], batch[keys.ACTION]
        flow_error = flow_matching_error(self.velocity, observation, action, self.generators)
        return {
            "loss_qvalue": self._critic_loss(batch),
            "loss_flow": mean_per_seed(flow_error),
            "loss_actor": self._actor_loss(observation, self.generators.normal(*action.shape[1:])),
        }

    def _critic_loss(self, batch: TensorDictBase) -> torch.Tensor:
        action, next_observation = batch[keys.ACTION], batch[keys.NEXT, keys.OBSERVATION]
        with torch.no_grad():
            next_action = self.actor(next_observation, self.generators.normal(*action.shape[1:])).clamp(-1, 1)
            next_q = self.target_critic(next_observation, next_action).mean(1)
            continues = 1.0 - batch[keys.NEXT_TERMINATED].float()
            return_ = batch[keys.NEXT_REWARD] + self.config["loss"]["gamma"] * continues * next_q
        error = self.critic(batch[keys.OBSERVATION], action) - return_.unsqueeze(1)
        return mean_per_seed(error.square().sum(1))

    def _actor_loss(self, observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        loss = self.config["loss"]
        with torch.no_grad():
            flow_action = integrate_flow(self.velocity, observation, noise, loss["num_flow_steps"])
        action = self.actor(observation, noise)
        q = self.critic(observation, action.clamp(-1, 1), frozen=True).mean(1)
        scale = 1.0 / mean_per_seed(q.detach().abs()) if loss["normalize_q"] else 1.0
        distance = mean_per_seed((action - flow_action).square())
        return loss["alpha"] * distance - scale * mean_per_seed(q)

    def act(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the one-step policy's action for noise of torch's default generator."""
        noise = torch.randn(*observation.shape[:-1], self.statistics.action_dim).to(observation.device)
        return self.actor(observation, noise).clamp(-1, 1)

    @property
    def network(self) -> dict[str, Any]:
        """Section ``network`` of ``checkpoint.json``: a perceptron of observation and noise."""
        return {**super().network, "kind": "noise_mlp"}

    def update_targets(self) -> None:
        """Move the target Q functions by ``loss.tau``."""
        update_target(self.target_critic, self.critic, self.config["loss"]["tau"])
