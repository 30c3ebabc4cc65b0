"""Implicit Q-learning: improve on the data without evaluating an action that the data do not hold.

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
from rlhive.sim_algos._preprocessing import TRANSITION_KEYS, TrainingStatistics, compute_reward_scale


class ImplicitQLearning:
    """Actor, two Q functions with their targets, value function, losses and optimizer of IQL.

    The targets bootstrap through a truncation and stop at a termination: TorchRL's loss reads
    ``("next", "terminated")``, not ``("next", "done")``.

    Args:
        config: Sections ``train``, ``optim``, ``network`` and ``loss`` of conf/model/iql.yaml.
        statistics: Statistics of the data; ``reward_std`` divides the rewards unless ``loss.reward_scale`` is set.
        device: Device of the networks.

    Attributes:
        actor: Deployed network, from normalised observations to mean actions.
    """

    #: Keys of a batch that :meth:`update` reads.
    in_keys = TRANSITION_KEYS

    def __init__(
        self, config: Mapping[str, Any], statistics: TrainingStatistics, device: torch.device | str = "cpu"
    ) -> None:
        sizes = statistics.observation_dim, statistics.action_dim
        settings = config["loss"]
        self.reward_scale = compute_reward_scale(settings["reward_scale"], statistics.reward_std)
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
        self.optimizer = self._make_optimizer(config["optim"])
        # The critics slow down as well, so that the advantages that weight the actor's last steps hold still.
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config["train"]["num_steps"])

    def losses(self, batch: TensorDictBase) -> TensorDictBase:
        """Return the three losses of IQL, scalars.

        - ``loss_value``: expectile regression of V(s) on the lower of the two target Q functions.
        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · V(s').
        - ``loss_actor``: negative log-likelihood of the action, weighted by exp(temperature · advantage), at most 100.
        """
        batch[keys.NEXT_REWARD] = batch[keys.NEXT_REWARD] * self.reward_scale
        return self.loss(batch).select("loss_actor", "loss_qvalue", "loss_value")

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step on all networks, then move the targets.

        Args:
            batch: ``observation`` and ``("next", "observation")`` (normalised), ``action`` and ``("next", "reward")``,
                float32; ``("next", "terminated" | "done")``, bool; batch size ``[N]``.

        Returns:
            ``loss`` (the sum), ``loss_actor``, ``loss_qvalue`` and ``loss_value``, detached.
        """
        losses = self.losses(batch)
        # Each network is in one of the losses, so one step serves all three.
        total = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.schedule.step()
        self.targets.step()
        return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}

    def _make_optimizer(self, optim: Mapping[str, Any]) -> torch.optim.Optimizer:
        actor = list(self.loss.actor_network_params.values(True, True))
        critics = [
            parameter
            for parameters in (self.loss.qvalue_network_params, self.loss.value_network_params)
            for parameter in parameters.values(True, True)
        ]
        groups = [{"params": actor, "lr": optim["actor_lr"]}, {"params": critics, "lr": optim["critic_lr"]}]
        return torch.optim.AdamW(groups, weight_decay=optim["weight_decay"], fused=True)
