"""Conservative Q-learning: SAC on a dataset, with Q pushed down on actions that the data do not hold.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020; the variant CQL(H) with
actions sampled uniformly and from the policy at s and s', weighted by their densities (appendix F).
"""

import math
from typing import ClassVar

import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.sim_algos._algorithm import mean_per_seed
from rlhive.sim_algos.algorithms._sac import SoftActorCritic


class ConservativeQLearning(SoftActorCritic):
    """Networks and losses of SAC, and the conservative loss of CQL."""

    name = "cql"
    encoder_losses: ClassVar[tuple[str, ...]] = ("loss_qvalue", "loss_conservative")
    is_online = False

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return the losses of SAC and ``loss_conservative``, log-sum-exp of Q over actions minus Q of the data's."""
        metrics = super().losses(batch)
        metrics["loss_conservative"] = self.config["loss"]["conservative_weight"] * self._conservative_loss(batch)
        return metrics

    def _conservative_loss(self, batch: TensorDictBase) -> torch.Tensor:
        observation, action = batch[keys.OBSERVATION], batch[keys.ACTION]
        num_seeds, size, action_dim = action.shape
        num_actions = self.config["loss"]["num_actions"]
        with torch.no_grad():
            uniform = 2 * self.generators.uniform(num_actions * size, action_dim) - 1
            log_uniform = uniform.new_full((num_seeds, num_actions * size, 1), -action_dim * math.log(2))
            candidates = [(uniform, log_uniform)]
            for start in (observation, batch[keys.NEXT, keys.OBSERVATION]):
                candidates.append(self.sample(start.repeat(1, num_actions, 1)))
        actions, log_probs = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))
        q = self.critic(observation.repeat(1, 3 * num_actions, 1), actions) - log_probs.unsqueeze(1)
        over_actions = q.unflatten(2, (3 * num_actions, size)).logsumexp(2)
        gap = over_actions - self.critic(observation, action)
        return mean_per_seed(gap.sum(1))

    def critic_loss(self, batch: TensorDictBase, alpha: torch.Tensor) -> torch.Tensor:
        """Return SAC's loss, by default without the entropy in the target, as the authors' code has it."""
        return super().critic_loss(
            batch, alpha if self.config["loss"]["entropy_in_target"] else torch.zeros_like(alpha)
        )
