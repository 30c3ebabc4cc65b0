"""ReBRAC: TD3+BC with a penalty in the critic as well, layer normalisation and deeper networks.

Tarasov et al., "Revisiting the Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2023.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.sim_algos._algorithm import mean_per_seed
from rlhive.sim_algos._preprocessing import TRANSITION_KEYS
from rlhive.sim_algos.algorithms._td3_bc import TD3BC


class ReBRAC(TD3BC):
    """Networks of TD3+BC, and the losses of ReBRAC."""

    name = "rebrac"
    in_keys = (*TRANSITION_KEYS, keys.ACTION_CHUNK, keys.ACTION_CHUNK_MASK)

    @classmethod
    def buffer_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options for batches with the action of the next step, which the critic's penalty compares with."""
        del config
        return {"action_chunk": 2}

    def critic_loss(self, batch: TensorDictBase) -> torch.Tensor:
        """Return the squared error of both Q functions to the target, penalised for actions unlike the data's.

        The target is r + gamma · (1 - terminated) · (lower target Q(s', a') - critic_penalty · |a' - next action|²),
        without the penalty where the data end before the next action.
        """
        next_observation, loss = batch[keys.NEXT, keys.OBSERVATION], self.config["loss"]
        with torch.no_grad():
            next_action = self.sample_target_action(next_observation)
            next_q = self.target_critic(next_observation, next_action).amin(1)
            distance = (next_action - batch[keys.ACTION_CHUNK][:, :, 1]).square().sum(-1, keepdim=True)
            penalty = loss["critic_penalty"] * distance * batch[keys.ACTION_CHUNK_MASK][:, :, 1:]
            continues = 1.0 - batch[keys.NEXT_TERMINATED].float()
            return_ = batch[keys.NEXT_REWARD] + loss["gamma"] * continues * (next_q - penalty)
        error = self.critic(batch[keys.OBSERVATION], batch[keys.ACTION]) - return_.unsqueeze(1)
        return mean_per_seed(error.square().sum(1))

    def actor_loss(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return actor_penalty · |pi(s) - a|² - Q(s, pi(s)) / mean |Q|."""
        predicted = torch.tanh(self.actor(observation))
        q = self.critic(observation, predicted, frozen=True).amin(1)
        distance = (predicted - action).square().sum(-1, keepdim=True)
        scale = 1.0 / mean_per_seed(q.detach().abs())
        return self.config["loss"]["actor_penalty"] * mean_per_seed(distance) - scale * mean_per_seed(q)
