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
from rlhive.sim_algos._preprocessing import TRANSITION_KEYS, TrainingStatistics, compute_reward_scale


class SoftActorCritic:
    """Actor, two Q functions with their targets, temperature, losses and optimizer of SAC.

    The targets bootstrap through a truncation and stop at a termination.

    Args:
        config: Sections ``train``, ``optim``, ``network`` and ``loss`` of conf/model/sac.yaml.
        statistics: Statistics of the first transitions; ``reward_std`` divides the rewards unless
            ``loss.reward_scale`` is set.
        device: Device of the networks.

    Attributes:
        actor: Deployed network, from normalised observations to the mode of the policy.
        policy: Collecting policy, from a normalised ``observation`` to a sampled ``action``.
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
        self.optimizer = self._make_optimizer(config["optim"])

    def losses(self, batch: TensorDictBase) -> TensorDictBase:
        """Return the three losses of SAC, and ``alpha`` and ``entropy`` of the policy; scalars.

        - ``loss_qvalue``: squared error of both Q functions to r + gamma · (1 - terminated) · soft value of s'.
        - ``loss_actor``: alpha · log-probability - lower Q of the policy's own action.
        - ``loss_alpha``: moves the temperature alpha until the entropy is the target entropy.
        """
        batch[keys.NEXT_REWARD] = batch[keys.NEXT_REWARD] * self.reward_scale
        return self.loss(batch).select("loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy")

    def update(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Take one gradient step on all networks and the temperature, then move the targets.

        Args:
            batch: Batch as for :meth:`ImplicitQLearning.update`.

        Returns:
            ``loss`` (the sum), ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha`` and ``entropy``, detached.
        """
        losses = self.losses(batch)
        # TorchRL detaches each loss from the networks of the others, so one step serves all three.
        total = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.targets.step()
        return {"loss": total.detach(), **{name: value.detach() for name, value in losses.items()}}

    def _make_optimizer(self, optim: Mapping[str, Any]) -> torch.optim.Optimizer:
        groups = [
            {"params": list(self.loss.actor_network_params.values(True, True)), "lr": optim["actor_lr"]},
            {"params": list(self.loss.qvalue_network_params.values(True, True)), "lr": optim["critic_lr"]},
            {"params": [self.loss.log_alpha], "lr": optim["alpha_lr"]},
        ]
        return torch.optim.Adam(groups, fused=True)
