"""TD3+BC: deterministic policy gradient with a term that keeps the policy close to the data.

Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.objectives.utils import distance_loss

from rlhive import keys
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._networks import critic_network
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP, update_target


class TD3BC(Algorithm):
    """Deterministic actor, two Q functions, targets of all three, and the losses of TD3+BC."""

    name = "td3_bc"
    encoder_losses = ("loss_qvalue",)

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        sizes = statistics.observation_dim, statistics.action_dim
        network, optim = config["network"], config["optim"]
        self.actor = StackedMLP(generators, *sizes, network)
        self.critic = StackedMLP(generators, sum(sizes), 1, critic_network(network), num_members=2)
        self.target_actor = deepcopy(self.actor).requires_grad_(False).eval()
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.set_optimizer(
            {"params": self.actor.parameters(), "lr": optim["actor_lr"]},
            {"params": self.critic.parameters(), "lr": optim["critic_lr"]},
        )

    @property
    def _is_actor_due(self) -> bool:
        """Whether the next step trains the actor and moves the targets: TD3 delays both."""
        return (self.num_updates + 1) % self.config["loss"]["policy_delay"] == 0

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the losses; that of the actor in every ``loss.policy_delay``-th step only.

        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · lower target Q of s' and
          the target actor's action with clipped noise.
        - ``loss_actor``: - alpha · Q(s, pi(s)) / mean |Q| + distance of pi(s) to the action (equation 3 and 5).
        """
        losses = {"loss_qvalue": self.critic_loss(batch)}
        if self._is_actor_due:
            losses["loss_actor"] = self.actor_loss(batch[keys.OBSERVATION], batch[keys.ACTION])
        return losses

    def critic_loss(self, batch: TensorDictBase) -> torch.Tensor:
        """Return the squared error of both Q functions to the Bellman target."""
        next_observation, loss = batch[keys.NEXT, keys.OBSERVATION], self.config["loss"]
        with torch.no_grad():
            next_action = self.sample_target_action(next_observation)
            next_q = self.target_critic(next_observation, next_action).amin(1)
            continues = 1.0 - batch[keys.NEXT_TERMINATED].float()
            return_ = batch[keys.NEXT_REWARD] + loss["gamma"] * continues * next_q
        error = self.critic(batch[keys.OBSERVATION], batch[keys.ACTION]) - return_.unsqueeze(1)
        return mean_per_seed(error.square().sum(1))

    def sample_target_action(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the target actor's action with clipped noise, which smooths the target (TD3)."""
        action = torch.tanh(self.target_actor(observation))
        limit = self.config["loss"]["noise_clip"]
        noise = self.config["loss"]["policy_noise"] * self.generators.normal(*action.shape[1:])
        return (action + noise.clamp(-limit, limit)).clamp(-1, 1)

    def actor_loss(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the distance of pi(s) to the action minus the scaled Q of pi(s)."""
        loss = self.config["loss"]
        predicted = torch.tanh(self.actor(observation))
        q = self.critic(observation, predicted, frozen=True)[:, 0]
        scale = loss["alpha"] / mean_per_seed(q.detach().abs())
        return mean_per_seed(distance_loss(predicted, action, loss["loss_function"])) - scale * mean_per_seed(q)

    def update_targets(self) -> None:
        """Move all targets by ``loss.tau`` after the steps that trained the actor."""
        if self.num_updates % self.config["loss"]["policy_delay"] == 0:
            update_target(self.target_critic, self.critic, self.config["loss"]["tau"])
            update_target(self.target_actor, self.actor, self.config["loss"]["tau"])
