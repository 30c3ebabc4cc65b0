"""Behaviour cloning: regress the demonstrated action on the observation.

Pomerleau, "ALVINN: An Autonomous Land Vehicle in a Neural Network", NeurIPS 1988.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.objectives.utils import distance_loss

from rlhive import keys
from rlhive.sim_algos._algorithm import Algorithm, mean_per_seed
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._seed_stack import SeedGenerators, StackedMLP


class BehaviorCloning(Algorithm):
    """Actor and loss of behaviour cloning."""

    name = "bc"
    in_keys = (keys.OBSERVATION, keys.ACTION)

    def __init__(self, config: Mapping[str, Any], statistics: TrainingStatistics, generators: SeedGenerators) -> None:
        super().__init__(config, statistics, generators)
        self.actor = StackedMLP(generators, statistics.observation_dim, statistics.action_dim, config["network"])
        self.set_optimizer({"params": self.actor.parameters(), "lr": config["optim"]["lr"]})

    def losses(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Return ``loss_bc``, the mean distance between the actor's and the demonstrated actions."""
        action = torch.tanh(self.actor(batch[keys.OBSERVATION]))
        distance = distance_loss(action, batch[keys.ACTION], self.config["loss"]["loss_function"])
        return {"loss_bc": mean_per_seed(distance)}
