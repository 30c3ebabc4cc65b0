"""Flow Q-learning: losses against numbers."""

import numpy as np
import pytest

from tests.sim_algos.algorithms.reference import draw_ahead, evaluate_mlp, make_algorithm, make_batch, to_numpy


@pytest.mark.parametrize("normalize_q", [False, True])
def test_fql_losses_are_those_of_a_numpy_reference(normalize_q) -> None:
    options = [f"loss.normalize_q={normalize_q}", "loss.alpha=3.0", "loss.num_flow_steps=4"]
    algorithm = make_algorithm("fql", *options)
    batch = make_batch()
    rows = to_numpy(batch)
    draws = [("normal", (12, 3)), ("uniform", (12, 1)), ("normal", (12, 3)), ("normal", (12, 3))]
    x0, time, next_noise, actor_noise = draw_ahead(algorithm, *draws)
    position = (1 - time) * x0 + time * rows["a"]
    velocity = evaluate_mlp(algorithm.velocity, rows["s"], position, time)
    flow_loss = ((velocity - (rows["a"] - x0)) ** 2).mean()
    flow_action = actor_noise
    for step in range(4):
        now = np.full((12, 1), step / 4)
        flow_action = flow_action + evaluate_mlp(algorithm.velocity, rows["s"], flow_action, now) / 4
    flow_action = np.clip(flow_action, -1, 1)

    def mean_q(network, observation, action):
        return np.mean([evaluate_mlp(network, observation, action, member=member) for member in range(2)], axis=0)

    action = evaluate_mlp(algorithm.actor, rows["s"], actor_noise)
    q = mean_q(algorithm.critic, rows["s"], np.clip(action, -1, 1))
    scale = 1 / np.abs(q).mean() if normalize_q else 1.0
    next_action = np.clip(evaluate_mlp(algorithm.actor, rows["s2"], next_noise), -1, 1)
    target = rows["r"] + 0.99 * rows["continues"] * mean_q(algorithm.target_critic, rows["s2"], next_action)
    data_q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member) for member in range(2)]
    losses = algorithm.losses(batch)
    assert losses["loss_flow"].item() == pytest.approx(flow_loss, rel=1e-4)
    expected = 3.0 * ((action - flow_action) ** 2).mean() - scale * q.mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in data_q).mean(), rel=1e-4)


def test_each_loss_trains_its_own_networks() -> None:
    algorithm = make_algorithm("fql")
    losses = algorithm.losses(make_batch())
    trained = {"loss_flow": "velocity", "loss_actor": "actor", "loss_qvalue": "critic"}
    for name, network in trained.items():
        algorithm.zero_grad()
        losses[name].sum().backward(retain_graph=True)
        with_gradient = {key.partition(".")[0] for key, p in algorithm.named_parameters() if p.grad is not None}
        assert with_gradient == {network}, name
