"""Implicit Q-learning: losses and updates against numbers, and against TorchRL's loss."""

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule
from torch.distributions import Independent, Normal
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import IQLLoss

from rlhive.errors import InvalidOptionError
from rlhive.policies import make_actor, make_mlp
from rlhive.sim_algos import make_config
from rlhive.sim_algos._registry import CONF_DIR
from tests.sim_algos.algorithms.reference import (
    ENDINGS,
    evaluate_mlp,
    make_algorithm,
    make_batch,
    make_constant,
    to_numpy,
)
from tests.sim_algos.toy import make_row


@pytest.mark.parametrize(("ending", "bootstraps"), ENDINGS)
def test_iql_bootstraps_through_truncation_and_not_through_termination(ending, bootstraps) -> None:
    algorithm = make_algorithm("iql", "loss.gamma=0.5", "loss.expectile=0.7", "loss.temperature=2.0", action_dim=1)
    make_constant(algorithm.value, [5.0])
    make_constant(algorithm.critic, [3.0, 4.0])
    make_constant(algorithm.target_critic, [5.5, 7.0])
    make_constant(algorithm.actor, [0.0])
    make_constant(algorithm.scale, [np.log(2.0)])
    losses = algorithm.update(make_row(reward=2.0, action=0.5, **ending).unsqueeze(0))
    target = 2 + 0.5 * 5 if bootstraps else 2.0
    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2)
    assert losses["loss_value"].item() == pytest.approx(0.7 * (5.5 - 5) ** 2)  # Q above V weighs the expectile
    log_prob = -0.5 / 2 - np.log(2 * 2)  # of a Laplace distribution of scale 2 around 0, at 0.5
    assert losses["loss_actor"].item() == pytest.approx(-np.exp(2.0 * (5.5 - 5)) * log_prob)
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]
    assert losses["loss"].item() == pytest.approx(parts.item())


@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
@pytest.mark.parametrize("scale", ["state", "free"])
def test_iql_losses_are_those_of_a_numpy_reference(distribution, scale) -> None:
    options = [f"loss.distribution={distribution}", f"loss.scale={scale}", "loss.gamma=0.9", "loss.temperature=3.0"]
    options.append("loss.expectile=0.9")
    algorithm = make_algorithm("iql", *options)
    batch = make_batch()
    rows = to_numpy(batch)
    if scale == "free":
        torch.nn.init.uniform_(algorithm.scale.log_scale, -1, 1, generator=torch.Generator().manual_seed(0))
        log_scale = algorithm.scale.log_scale[0].detach().double().numpy()
    else:
        log_scale = evaluate_mlp(algorithm.scale, rows["s"])
    q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member) for member in range(2)]
    q_min = np.minimum(
        *[evaluate_mlp(algorithm.target_critic, rows["s"], rows["a"], member=member) for member in range(2)]
    )
    v, v_next = (evaluate_mlp(algorithm.value, rows[name]) for name in ("s", "s2"))
    target = rows["r"] + 0.9 * rows["continues"] * v_next
    error = (rows["a"] - np.tanh(evaluate_mlp(algorithm.actor, rows["s"]))) / np.exp(log_scale)
    normal = -(error**2) / 2 - np.log(2 * np.pi) / 2
    standard = normal if distribution == "gaussian" else -np.abs(error) - np.log(2)
    log_prob = (standard - log_scale).sum(1, keepdims=True)
    losses = algorithm.update(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-5)
    expectile = np.where(q_min > v, 0.9, 0.1)
    assert losses["loss_value"].item() == pytest.approx((expectile * (q_min - v) ** 2).mean(), rel=1e-5)
    expected = -(np.minimum(np.exp(3.0 * (q_min - v)), 100) * log_prob).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-5)


def test_the_papers_form_has_the_losses_of_torchrl() -> None:
    algorithm = make_algorithm("iql", "loss.distribution=gaussian", "loss.scale=free", "loss.temperature=3.0")
    batch = make_batch()
    actor = make_actor(2, 3, algorithm.config["network"])
    algorithm.actor.copy_to(actor, 0)

    class Head(torch.nn.Module):
        def forward(self, observation):
            action = actor(observation)
            return action, torch.ones_like(action)  # the free scale begins at 1

    head = TensorDictModule(Head(), in_keys=["observation"], out_keys=["loc", "scale"])
    network = {**algorithm.config["network"], "dropout": 0.0}
    qvalue = ValueOperator(make_mlp(5, 1, network), in_keys=["observation", "action"], out_keys=["state_action_value"])
    value_mlp = make_mlp(2, 1, network)
    algorithm.value.copy_to(value_mlp, 0)
    theirs = IQLLoss(
        ProbabilisticActor(
            head,
            in_keys=["loc", "scale"],
            distribution_class=lambda loc, scale: Independent(Normal(loc, scale), 1),
        ),
        qvalue,
        ValueOperator(value_mlp, in_keys=["observation"]),
        num_qvalue_nets=2,
        loss_function="l2",
        expectile=algorithm.config["loss"]["expectile"],
        temperature=3.0,
    )
    theirs.make_value_estimator(gamma=algorithm.config["loss"]["gamma"])
    with torch.no_grad():
        for layer, position in enumerate(("0", "2")):
            for parameters, ours in (
                (theirs.qvalue_network_params, algorithm.critic),
                (theirs.target_qvalue_network_params, algorithm.target_critic),
            ):
                parameters["module", position, "weight"].copy_(ours.weights[layer][0].transpose(1, 2))
                parameters["module", position, "bias"].copy_(ours.biases[layer][0, :, 0])
    expected = theirs(batch[0])
    losses = algorithm.losses(batch)
    for name in ("loss_qvalue", "loss_value", "loss_actor"):
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name


def test_the_papers_form_stands_in_the_configuration() -> None:
    lines = (CONF_DIR / "model" / "iql.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#") for line in lines if line.startswith("#"))
    config = make_config("iql", overrides=comment.partition("The paper's form:")[2].split("Defaults")[0].split())
    assert config["loss"] == {
        "distribution": "gaussian",
        "scale": "free",
        "expectile": 0.7,
        "temperature": 3,
        "gamma": 0.99,
        "tau": 0.005,
        "reward_scale": "auto",
    }
    assert (config["optim"]["actor_lr"], config["optim"]["critic_lr"]) == (3e-4, 3e-4)
    assert config["network"]["critic_hidden_sizes"] == [256, 256]


def test_iql_moves_the_targets_by_tau_and_the_actor_at_its_own_rate() -> None:
    algorithm = make_algorithm("iql", "loss.tau=0.25", "optim.actor_lr=0.5", "optim.critic_lr=0.125", action_dim=1)
    before = algorithm.critic.biases[-1].detach().clone()
    target_before = algorithm.target_critic.biases[-1].clone()
    actor_before = algorithm.actor.biases[-1].detach().clone()
    algorithm.update(make_row(reward=3.0, action=0.5).unsqueeze(0))
    after = algorithm.critic.biases[-1].detach()
    # Adam's first step has the length of the rate, whatever the gradient
    assert (after - before).abs().flatten().tolist() == pytest.approx([0.125] * 2, rel=1e-4)
    assert (algorithm.actor.biases[-1] - actor_before).abs().item() == pytest.approx(0.5, rel=1e-4)
    assert torch.allclose(algorithm.target_critic.biases[-1], 0.75 * target_before + 0.25 * after)


def test_each_loss_trains_its_own_networks() -> None:
    algorithm = make_algorithm("iql")
    losses = algorithm.losses(make_batch())
    trained = {"loss_actor": ("actor", "scale"), "loss_qvalue": ("critic",), "loss_value": ("value",)}
    for name, networks in trained.items():
        algorithm.zero_grad()
        losses[name].sum().backward(retain_graph=True)
        with_gradient = {key.partition(".")[0] for key, p in algorithm.named_parameters() if p.grad is not None}
        assert with_gradient == set(networks), name


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="expected one of laplace, gaussian, got 'cauchy'"):
        make_algorithm("iql", "loss.distribution=cauchy")
    with pytest.raises(InvalidOptionError, match="expected one of state, free, got 'none'"):
        make_algorithm("iql", "loss.scale=none")
