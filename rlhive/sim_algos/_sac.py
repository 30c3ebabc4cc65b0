"""Soft actor-critic: act, remember, and maximise reward and entropy together.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905, 2018; with a learned temperature.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded
from torchrl.objectives import SACLoss, SoftUpdate

from rlhive import keys
from rlhive.policies import make_actor
from rlhive.sim_algos._networks import make_critics, make_tanh_normal_actor
from rlhive.sim_algos._preprocessing import TRANSITION, Statistics, reward_scale_of


class SoftActorCritic:
    """The learner: an actor, two Q functions with their targets, a temperature, losses and optimizer.

    The targets bootstrap through a truncation and stop at a termination.

    Args:
        config: Sections ``train``, ``optim``, ``network`` and ``loss`` of conf/model/sac.yaml.
        statistics: Of the data at the start; its ``reward_std`` divides rewards unless ``loss.reward_scale`` is set.
        device: Where it learns.

    Attributes:
        actor: From normalised observations to the mode of the policy; what is deployed.
        policy: From normalised ``observation`` to a sampled ``action``; what collects.
    """

    #: What a batch must hold.
    in_keys = TRANSITION

    def __init__(self, config: Mapping[str, Any], statistics: Statistics, device: torch.device | str = "cpu") -> None:
        sizes = statistics.observation_dim, statistics.action_dim
        settings, optim = config["loss"], config["optim"]
        self.reward_scale = reward_scale_of(settings["reward_scale"], statistics.reward_std)
        self.actor = make_actor(*sizes, config["network"]).to(device)
        self.policy = make_tanh_normal_actor(self.actor, *sizes, config["network"]).to(device)
        qvalue, _ = make_critics(*sizes, config["network"])
        self.loss = SACLoss(
            self.policy,
            qvalue.to(device),
            loss_function=settings["loss_function"],
            alpha_init=settings["alpha_init"],
            target_entropy=settings["target_entropy"],
            action_spec=Bounded(-1.0, 1.0, (statistics.action_dim,)),
        ).to(device)
        self.loss.make_value_estimator(gamma=settings["gamma"])
        self.targets = SoftUpdate(self.loss, tau=settings["tau"])
        groups = [
            {"params": list(self.loss.actor_network_params.values(True, True)), "lr": optim["actor_lr"]},
            {"params": list(self.loss.qvalue_network_params.values(True, True)), "lr": optim["critic_lr"]},
            {"params": [self.loss.log_alpha], "lr": optim["alpha_lr"]},
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step on all networks and the temperature, then move the targets.

        Args:
            batch: As of :meth:`rlhive.sim_algos.ImplicitQLearning.update`.

        Returns:
            ``loss`` (the sum), ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, and ``alpha`` and ``entropy`` of the
            policy, detached.
        """
        batch[keys.NEXT_REWARD] = batch[keys.NEXT_REWARD] * self.reward_scale
        found = self.loss(batch)
        losses = found.select("loss_actor", "loss_qvalue", "loss_alpha")
        total = sum(losses.values())  # TorchRL detaches each from the networks of the others
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.targets.step()
        told = {name: found[name].detach() for name in ("alpha", "entropy")}
        return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}, **told}
