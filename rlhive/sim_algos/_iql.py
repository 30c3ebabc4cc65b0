"""Implicit Q-learning: improve on the data without ever asking for the value of an action that is not in them.

Kostrikov, Nair and Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.objectives import IQLLoss, SoftUpdate

from rlhive import keys
from rlhive.policies import make_actor
from rlhive.sim_algos._networks import make_critics, make_stochastic_actor
from rlhive.sim_algos._preprocessing import TRANSITION, Statistics, reward_scale_of


class ImplicitQLearning:
    """The learner: an actor, two Q functions with their targets, a value function, losses and optimizer.

    The targets bootstrap through a truncation and stop at a termination: TorchRL's loss reads
    ``("next", "terminated")``, not ``("next", "done")``.

    Args:
        config: Sections ``train``, ``optim``, ``network`` and ``loss`` of conf/model/iql.yaml.
        statistics: Of the data; its ``reward_std`` divides rewards unless ``loss.reward_scale`` is set.
        device: Where it learns.

    Attributes:
        actor: From normalised observations to mean actions; what is deployed.
    """

    #: What a batch must hold.
    in_keys = TRANSITION

    def __init__(self, config: Mapping[str, Any], statistics: Statistics, device: torch.device | str = "cpu") -> None:
        sizes = statistics.observation_dim, statistics.action_dim
        settings = config["loss"]
        self.reward_scale = reward_scale_of(settings["reward_scale"], statistics.reward_std)
        self.actor = make_actor(*sizes, config["network"]).to(device)
        qvalue, value = make_critics(*sizes, config["network"])
        self.loss = IQLLoss(
            make_stochastic_actor(self.actor, *sizes, config["network"]).to(device),
            qvalue.to(device),
            value.to(device),
            loss_function=settings["loss_function"],
            expectile=settings["expectile"],
            temperature=settings["temperature"],
        )
        self.loss.make_value_estimator(gamma=settings["gamma"])
        self.targets = SoftUpdate(self.loss, tau=settings["tau"])
        self.optimizer, self.schedule = self._make_optimizer(config["optim"], config["train"]["num_steps"])

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step on all networks, then move the targets.

        Args:
            batch: ``observation`` and ``("next", "observation")`` normalised, ``action``, ``("next", "reward")``,
                all float32; ``("next", "terminated" | "done")`` bool; batch size ``[N]``.

        Returns:
            ``loss`` (the sum), ``loss_actor``, ``loss_qvalue`` and ``loss_value``, detached.
        """
        batch[keys.NEXT_REWARD] = batch[keys.NEXT_REWARD] * self.reward_scale
        losses = self.loss(batch).select("loss_actor", "loss_qvalue", "loss_value")
        total = sum(losses.values())  # no network is in two of them, so one step serves all three
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.schedule.step()
        self.targets.step()
        return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}

    def _make_optimizer(
        self, optim: Mapping[str, Any], num_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.CosineAnnealingLR]:
        actor = list(self.loss.actor_network_params.values(True, True))
        critics = [
            parameter
            for parameters in (self.loss.qvalue_network_params, self.loss.value_network_params)
            for parameter in parameters.values(True, True)
        ]
        groups = [{"params": actor, "lr": optim["actor_lr"]}, {"params": critics, "lr": optim["critic_lr"]}]
        optimizer = torch.optim.AdamW(groups, weight_decay=optim["weight_decay"], fused=True)

        # The critics slow down as well: the actor's last steps are then weighted by advantages that hold still.
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
