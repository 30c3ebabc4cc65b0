"""Soft actor-critic: losses and the deployed action against numbers."""

import pytest
import torch
from tensordict import TensorDict

from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._sac import SoftActorCritic
from tests.sim_algos.toy import make_constant, make_row, sac_config


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ({}, 2 + 0.5 * 5.5),
        ({"truncated": True}, 2 + 0.5 * 5.5),  # cut off: bootstraps
        ({"terminated": True}, 2.0),  # ended: does not bootstrap
        ({"terminated": True, "truncated": True}, 2.0),
    ],
)
def test_sac_bootstraps_through_truncation_and_not_through_termination(ending, target) -> None:
    torch.manual_seed(0)
    config = sac_config("loss.gamma=0.5", "loss.reward_scale=2.0", "loss.alpha_init=1e-9")
    algorithm = SoftActorCritic(config, TrainingStatistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=1))
    make_constant(algorithm.loss.qvalue_network_params, [3.0, 4.0])
    make_constant(algorithm.loss.target_qvalue_network_params, [5.5, 7.0])

    losses = algorithm.update(make_row(reward=1.0, action=0.5, **ending))

    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2, rel=1e-5)
    assert losses["loss_actor"].item() == pytest.approx(-3.0, rel=1e-5)  # the lower of the two
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def test_sac_deploys_the_mode_of_the_collecting_policy() -> None:
    torch.manual_seed(0)
    algorithm = SoftActorCritic(sac_config(), TrainingStatistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=3))
    observation = torch.randn(7, 2)

    distribution = algorithm.policy.get_dist(TensorDict({"observation": observation}, batch_size=[7]))

    assert torch.allclose(distribution.deterministic_sample, algorithm.actor(observation), atol=1e-6)


def test_sac_moves_the_targets_by_tau_and_the_critics_at_their_own_rate() -> None:
    torch.manual_seed(0)
    config = sac_config("loss.tau=0.25", "optim.critic_lr=0.125")
    algorithm = SoftActorCritic(config, TrainingStatistics(torch.zeros(2), torch.ones(2), 1.0, action_dim=1))
    key = ("module", "2", "bias")
    before = algorithm.loss.qvalue_network_params[key].detach().clone()
    target_before = algorithm.loss.target_qvalue_network_params[key].clone()

    algorithm.update(make_row(reward=3.0, action=0.5))

    after = algorithm.loss.qvalue_network_params[key].detach()
    # Adam's first step has the length of the rate, whatever the gradient
    assert (after - before).abs().flatten().tolist() == pytest.approx([0.125] * 2, rel=1e-4)
    expected = 0.75 * target_before + 0.25 * after
    assert torch.allclose(algorithm.loss.target_qvalue_network_params[key], expected)
