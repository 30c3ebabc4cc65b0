"""Implicit Q-learning: losses and updates against numbers."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.sim_algos._iql import ImplicitQLearning
from tests.sim_algos.toy import make_constant, make_row, make_statistics, quick_config


def make_iql(*overrides: str, reward_std: float = 1.0) -> ImplicitQLearning:
    torch.manual_seed(0)
    config = quick_config("iql", *(f"network.{name}hidden_sizes=[4]" for name in ("", "critic_", "scale_")), *overrides)
    return ImplicitQLearning(config, make_statistics(reward_std=reward_std))


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ({}, 2 + 0.5 * 5),
        ({"truncated": True}, 2 + 0.5 * 5),  # cut off: bootstraps
        ({"terminated": True}, 2.0),  # ended: does not bootstrap
        ({"terminated": True, "truncated": True}, 2.0),
    ],
)
def test_iql_bootstraps_through_truncation_and_not_through_termination(ending, target) -> None:
    algorithm = make_iql("loss.gamma=0.5", "loss.expectile=0.7", "loss.temperature=2.0", "loss.reward_scale=2.0")
    make_constant(algorithm.loss.value_network_params, [5.0])
    make_constant(algorithm.loss.qvalue_network_params, [3.0, 4.0])
    make_constant(algorithm.loss.target_qvalue_network_params, [5.5, 7.0])
    with torch.no_grad():
        algorithm.actor[0][-1].weight.zero_()
        algorithm.actor[0][-1].bias.zero_()
    make_constant(scale_parameters(algorithm), [np.log(2.0)])
    losses = algorithm.update(make_row(reward=1.0, action=0.5, **ending))
    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2)
    assert losses["loss_value"].item() == pytest.approx(0.7 * (5.5 - 5) ** 2)  # Q above V weighs the expectile
    log_prob = -0.5 / 2 - np.log(2 * 2)  # of a Laplace distribution of scale 2 around 0, at 0.5
    assert losses["loss_actor"].item() == pytest.approx(-np.exp(2.0 * (5.5 - 5)) * log_prob)
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def scale_parameters(algorithm: ImplicitQLearning) -> TensorDict:
    return TensorDict({"module": algorithm.loss.actor_network_params["module", "0", "module", "scale"]})


def evaluate_mlp(parameters, inputs: np.ndarray, index: int | None = None) -> np.ndarray:
    def get(*key: str) -> np.ndarray:
        value = parameters[("module", *key)].detach().numpy().astype(np.float64)
        return value if index is None else value[index]

    hidden = np.maximum(inputs @ get("0", "weight").T + get("0", "bias"), 0)
    return (hidden @ get("2", "weight").T + get("2", "bias"))[:, 0]


def test_iql_losses_are_those_of_a_numpy_reference() -> None:
    algorithm = make_iql("loss.gamma=0.9", "loss.expectile=0.9", "loss.temperature=3.0", reward_std=0.5)
    generator = torch.Generator().manual_seed(1)
    batch = torch.cat([make_row(reward=float(k), terminated=k % 3 == 0, truncated=k % 2 == 0) for k in range(12)])
    for key in ("observation", "action", ("next", "observation")):
        batch[key] = torch.rand(batch[key].shape, generator=generator) * 2 - 1
    observation, action, after = (batch[k].double().numpy() for k in ("observation", "action", ("next", "observation")))
    pairs = np.concatenate([observation, action], axis=1)
    parameters = algorithm.loss
    q = [evaluate_mlp(parameters.qvalue_network_params, pairs, i) for i in range(2)]
    q_min = np.minimum(*[evaluate_mlp(parameters.target_qvalue_network_params, pairs, i) for i in range(2)])
    v, v_after = (evaluate_mlp(parameters.value_network_params, x) for x in (observation, after))
    location = algorithm.actor(batch["observation"]).detach().double().numpy()
    terminated = batch["next", "terminated"].numpy()[:, 0]
    target = batch["next", "reward"].numpy()[:, 0] / 0.5 + 0.9 * (1 - terminated) * v_after
    weight = np.where(q_min > v, 0.9, 0.1)
    scale = np.exp(evaluate_mlp(scale_parameters(algorithm), observation))[:, None]
    log_prob = (-np.abs(action - location) / scale - np.log(2 * scale)).sum(1)
    losses = algorithm.update(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-5)
    assert losses["loss_value"].item() == pytest.approx((weight * (q_min - v) ** 2).mean(), rel=1e-5)
    expected = -(np.minimum(np.exp(3.0 * (q_min - v)), 100) * log_prob).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-5)


def test_iql_moves_the_targets_by_tau_and_the_actor_at_its_own_rate() -> None:
    algorithm = make_iql("loss.tau=0.25", "optim.actor_lr=0.5", "optim.critic_lr=0.125")
    key = ("module", "2", "bias")
    before = algorithm.loss.qvalue_network_params[key].detach().clone()
    target_before = algorithm.loss.target_qvalue_network_params[key].clone()
    actor_before = algorithm.actor[0][-1].bias.detach().clone()
    algorithm.update(make_row(reward=3.0, action=0.5))
    after = algorithm.loss.qvalue_network_params[key].detach()
    # Adam's first step has the length of the rate, whatever the gradient
    assert (after - before).abs().flatten().tolist() == pytest.approx([0.125] * 2, rel=1e-4)
    assert (algorithm.actor[0][-1].bias - actor_before).abs().item() == pytest.approx(0.5, rel=1e-4)
    expected = 0.75 * target_before + 0.25 * after
    assert torch.allclose(algorithm.loss.target_qvalue_network_params[key], expected)
