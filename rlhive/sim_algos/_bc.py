"""Behaviour cloning: regress the demonstrated action on the observation.

Pomerleau, "ALVINN: An Autonomous Land Vehicle in a Neural Network", NeurIPS 1988.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.objectives import BCLoss

from rlhive import keys
from rlhive.policies import make_actor
from rlhive.sim_algos._preprocessing import TrainingStatistics


class BehaviorCloning:
    """Actor, loss and optimizer of behaviour cloning.

    Args:
        config: Sections ``train``, ``optim``, ``network`` and ``loss`` of conf/model/bc.yaml.
        statistics: Statistics of the data; the sizes of observations and actions are read.
        device: Device of the networks.

    Attributes:
        actor: Deployed network, from normalised observations to actions.
    """

    #: Keys of a batch that :meth:`update` reads.
    in_keys = (keys.OBSERVATION, keys.ACTION)

    def __init__(
        self, config: Mapping[str, Any], statistics: TrainingStatistics, device: torch.device | str = "cpu"
    ) -> None:
        optim = config["optim"]
        self.actor = make_actor(statistics.observation_dim, statistics.action_dim, config["network"]).to(device)
        policy = TensorDictModule(self.actor, in_keys=[keys.OBSERVATION], out_keys=[keys.ACTION])
        with warnings.catch_warnings():  # BCLoss of torchrl 0.14.1 does not declare one of its parameters
            warnings.filterwarnings("ignore", message="The name target_actor_network_params")
            self.loss = BCLoss(policy, loss_function=config["loss"]["loss_function"])
        self.optimizer = torch.optim.AdamW(
            self.loss.parameters(), lr=optim["lr"], weight_decay=optim["weight_decay"], fused=True
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config["train"]["num_steps"])

    def losses(self, batch: TensorDictBase) -> TensorDictBase:
        """Return ``loss_bc``, the mean distance between the actor's and the demonstrated actions, a scalar."""
        return self.loss(batch).select("loss_bc")

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step.

        Args:
            batch: ``observation`` (normalised) and ``action``, float32, batch size ``[N]``.

        Returns:
            ``loss``, detached.
        """
        loss = self.losses(batch)["loss_bc"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss.detach()}
