"""Soft actor-critic: act, remember, and maximise reward and entropy together.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905, 2018; with a learned temperature.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import nn

from rlhive import keys
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._networks import critic_network, sample_tanh_normal, scale_network
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP, update_target


class SoftActorCritic(Algorithm):
    """Tanh-normal actor, two Q functions with their targets, temperature and losses of SAC."""

    name = "sac"
    encoder_losses: ClassVar[tuple[str, ...]] = ("loss_qvalue",)
    is_online = True

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        sizes = statistics.observation_dim, statistics.action_dim
        network, loss, optim = config["network"], config["loss"], config["optim"]
        self.actor = StackedMLP(generators, *sizes, network)
        self.scale = StackedMLP(generators, *sizes, scale_network(network))
        self.critic = StackedMLP(generators, sum(sizes), 1, critic_network(network), num_members=2)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        log_alpha = torch.full((len(generators),), float(loss["alpha_init"]), device=generators.device).log()
        self.log_alpha = nn.Parameter(log_alpha)
        entropy = loss["target_entropy"]
        self.target_entropy = -float(statistics.action_dim) if entropy == "auto" else float(entropy)
        self.set_optimizer(
            {"params": [*self.actor.parameters(), *self.scale.parameters()], "lr": optim["actor_lr"]},
            {"params": self.critic.parameters(), "lr": optim["critic_lr"]},
            {"params": [self.log_alpha], "lr": optim["alpha_lr"], "weight_decay": 0.0},
        )

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the three losses of SAC, and ``alpha`` and ``entropy`` of the policy.

        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · soft value of s'
          (equation 5).
        - ``loss_actor``: alpha · log-probability - lower Q of the policy's own action (equation 9).
        - ``loss_alpha``: moves the temperature alpha until the entropy is the target entropy (equation 18).
        """
        observation = batch[keys.OBSERVATION]
        alpha = self.log_alpha.detach().exp().view(-1, 1, 1)
        own_action, log_prob = self.sample(observation)
        own_q = self.critic(observation, own_action, frozen=True).amin(1)
        surprise = mean_per_seed(log_prob.detach())
        return {
            "loss_actor": mean_per_seed(alpha * log_prob - own_q),
            "loss_qvalue": self.critic_loss(batch, alpha),
            "loss_alpha": -self.log_alpha * (surprise + self.target_entropy),
            "alpha": alpha.flatten(),
            "entropy": -surprise,
        }

    def critic_loss(self, batch: TensorDictBase, alpha: torch.Tensor) -> torch.Tensor:
        """Return the squared error of both Q functions to the soft Bellman target."""
        next_observation, gamma = batch[keys.NEXT, keys.OBSERVATION], self.config["loss"]["gamma"]
        with torch.no_grad():
            next_action, log_prob = self.sample(next_observation)
            next_value = self.target_critic(next_observation, next_action).amin(1) - alpha * log_prob
            continues = 1.0 - batch[keys.NEXT_TERMINATED].float()
            return_ = batch[keys.NEXT_REWARD] + gamma * continues * next_value
        error = self.critic(batch[keys.OBSERVATION], batch[keys.ACTION]) - return_.unsqueeze(1)
        return mean_per_seed(error.square().sum(1))

    def sample(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions of the policy and their log-probabilities, with noise of the seeds' generators."""
        location = self.actor(observation)
        return sample_tanh_normal(location, self.scale(observation), self.generators.normal(*location.shape[1:]))

    def act(self, observation: torch.Tensor) -> torch.Tensor:
        """Return a sampled action, with noise of torch's default generator."""
        location = self.actor(observation)
        return sample_tanh_normal(location, self.scale(observation), torch.randn(location.shape).to(location.device))[0]

    def update_targets(self) -> None:
        """Move the target Q functions by ``loss.tau``."""
        update_target(self.target_critic, self.critic, self.config["loss"]["tau"])
