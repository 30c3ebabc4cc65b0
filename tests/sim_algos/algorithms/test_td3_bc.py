"""TD3+BC: losses and updates against numbers, and against TorchRL's loss."""

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded
from torchrl.modules import ValueOperator
from torchrl.objectives import TD3BCLoss

from rlhive.policies import make_actor, make_mlp
from tests.sim_algos.algorithms.reference import (
    ENDINGS,
    evaluate_mlp,
    make_algorithm,
    make_batch,
    make_constant,
    to_numpy,
)
from tests.sim_algos.toy import make_row

PAPER = ["loss.loss_function=l2", "network.critic_layer_norm=false"]


@pytest.mark.parametrize(("ending", "bootstraps"), ENDINGS)
def test_td3_bc_bootstraps_through_truncation_and_not_through_termination(ending, bootstraps) -> None:
    algorithm = make_algorithm("td3_bc", *PAPER, "loss.gamma=0.5", action_dim=1)
    make_constant(algorithm.critic, [3.0, 4.0])
    make_constant(algorithm.target_critic, [7.0, 5.5])
    losses = algorithm.update(make_row(reward=2.0, action=0.5, **ending).unsqueeze(0))
    target = 2 + 0.5 * 5.5 if bootstraps else 2.0
    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2)
    assert "loss_actor" not in losses


def test_td3_bc_losses_are_those_of_a_numpy_reference() -> None:
    algorithm = make_algorithm("td3_bc", *PAPER, "loss.policy_delay=1", "loss.alpha=2.0", "loss.policy_noise=0.4")
    batch = make_batch()
    rows = to_numpy(batch)
    state = algorithm.generators.state_dict()
    noise = np.clip(0.4 * algorithm.generators.normal(12, 3)[0].double().numpy(), -0.5, 0.5)
    algorithm.generators.load_state_dict(state)
    next_action = np.clip(np.tanh(evaluate_mlp(algorithm.target_actor, rows["s2"])) + noise, -1, 1)
    next_q = np.minimum(*[evaluate_mlp(algorithm.target_critic, rows["s2"], next_action, member=k) for k in range(2)])
    target = rows["r"] + 0.99 * rows["continues"] * next_q
    q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=k) for k in range(2)]
    own_action = np.tanh(evaluate_mlp(algorithm.actor, rows["s"]))
    own_q = evaluate_mlp(algorithm.critic, rows["s"], own_action)
    losses = algorithm.losses(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-5)
    expected = -2.0 * own_q.mean() / np.abs(own_q).mean() + ((own_action - rows["a"]) ** 2).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-5)


def test_the_losses_are_those_of_torchrl() -> None:
    algorithm = make_algorithm("td3_bc", *PAPER, "loss.policy_delay=1", "loss.policy_noise=0.0")
    batch = make_batch()
    actor = make_actor(2, 3, algorithm.config["network"])
    algorithm.actor.copy_to(actor, 0)
    theirs = TD3BCLoss(
        TensorDictModule(actor, in_keys=["observation"], out_keys=["action"]),
        ValueOperator(
            make_mlp(5, 1, algorithm.config["network"]),
            in_keys=["observation", "action"],
            out_keys=["state_action_value"],
        ),
        action_spec=Bounded(-1, 1, (3,)),
        policy_noise=1e-9,
        loss_function="l2",
        alpha=algorithm.config["loss"]["alpha"],
    )
    theirs.make_value_estimator(gamma=algorithm.config["loss"]["gamma"])
    with torch.no_grad():
        for layer, position in enumerate(("0", "2")):
            for parameters in (theirs.qvalue_network_params, theirs.target_qvalue_network_params):
                parameters["module", position, "weight"].copy_(algorithm.critic.weights[layer][0].transpose(1, 2))
                parameters["module", position, "bias"].copy_(algorithm.critic.biases[layer][0, :, 0])
    losses = algorithm.losses(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(theirs.qvalue_loss(batch[0])[0].item(), rel=1e-5)
    assert losses["loss_actor"].item() == pytest.approx(theirs.actor_loss(batch[0])[0].item(), rel=1e-5)


def test_the_actor_and_all_targets_move_in_every_second_step() -> None:
    algorithm = make_algorithm("td3_bc", *PAPER, "loss.tau=0.25")
    batch = make_batch()
    names = ("actor", "critic", "target_actor", "target_critic")

    def biases() -> dict[str, torch.Tensor]:
        return {name: getattr(algorithm, name).biases[-1].detach().clone() for name in names}

    first = biases()
    algorithm.update(batch)
    second = biases()
    assert [name for name in names if not first[name].equal(second[name])] == ["critic"]
    algorithm.update(batch)
    third = biases()
    for name in ("actor", "critic"):
        assert torch.allclose(third[f"target_{name}"], 0.75 * second[f"target_{name}"] + 0.25 * third[name])


def test_the_actors_loss_trains_no_critic() -> None:
    algorithm = make_algorithm("td3_bc", *PAPER, "loss.policy_delay=1")
    algorithm.losses(make_batch())["loss_actor"].sum().backward()
    assert {key.partition(".")[0] for key, p in algorithm.named_parameters() if p.grad is not None} == {"actor"}
