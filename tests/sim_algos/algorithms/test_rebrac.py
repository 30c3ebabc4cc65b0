"""ReBRAC: losses against numbers."""

import numpy as np
import pytest

from tests.sim_algos.algorithms.reference import (
    ENDINGS,
    draw_ahead,
    evaluate_mlp,
    make_algorithm,
    make_batch,
    make_constant,
    to_numpy,
)


@pytest.mark.parametrize(("ending", "bootstraps"), ENDINGS)
def test_rebrac_bootstraps_through_truncation_and_not_through_termination(ending, bootstraps) -> None:
    algorithm = make_algorithm("rebrac", "loss.gamma=0.5", "loss.critic_penalty=0")
    make_constant(algorithm.critic, [3.0, 4.0])
    make_constant(algorithm.target_critic, [7.0, 5.5])
    batch = make_batch()
    batch["next", "reward"][:] = 2.0
    batch["next", "terminated"][:] = "terminated" in ending
    target = 2 + 0.5 * 5.5 if bootstraps else 2.0
    expected = (target - 3) ** 2 + (target - 4) ** 2
    assert algorithm.losses(batch)["loss_qvalue"].item() == pytest.approx(expected, rel=1e-5)


def test_rebrac_losses_are_those_of_a_numpy_reference() -> None:
    options = ["loss.policy_delay=1", "loss.actor_penalty=0.3", "loss.critic_penalty=0.7", "loss.policy_noise=0.4"]
    algorithm = make_algorithm("rebrac", *options)
    batch = make_batch()
    rows = to_numpy(batch)
    [noise] = draw_ahead(algorithm, ("normal", (12, 3)))
    noise = np.clip(0.4 * noise, -0.5, 0.5)
    next_action = np.clip(np.tanh(evaluate_mlp(algorithm.target_actor, rows["s2"])) + noise, -1, 1)

    def lower(network, observation, action):
        return np.minimum(*[evaluate_mlp(network, observation, action, member=member) for member in range(2)])

    penalty = 0.7 * ((next_action - rows["a2"]) ** 2).sum(1, keepdims=True) * rows["has_a2"]
    next_value = lower(algorithm.target_critic, rows["s2"], next_action) - penalty
    target = rows["r"] + 0.99 * rows["continues"] * next_value
    q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member) for member in range(2)]
    own_action = np.tanh(evaluate_mlp(algorithm.actor, rows["s"]))
    own_q = lower(algorithm.critic, rows["s"], own_action)
    losses = algorithm.losses(batch)
    assert 0 < rows["has_a2"].sum() < 12
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-4)
    expected = 0.3 * ((own_action - rows["a"]) ** 2).sum(1).mean() - own_q.mean() / np.abs(own_q).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-4)
