"""CQL: the conservative loss against numbers."""

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.sim_algos.algorithms.reference import draw_ahead, evaluate_mlp, make_algorithm, make_batch, to_numpy


@pytest.mark.parametrize("entropy_in_target", [False, True])
def test_cql_losses_are_those_of_a_numpy_reference(entropy_in_target) -> None:
    options = [f"loss.entropy_in_target={entropy_in_target}", "loss.num_actions=2", "loss.conservative_weight=0.5"]
    algorithm = make_algorithm("cql", *options)
    batch = make_batch()
    rows = to_numpy(batch)
    draws = [("normal", (12, 3)), ("normal", (12, 3)), ("uniform", (24, 3)), ("normal", (24, 3)), ("normal", (24, 3))]
    _, next_noise, uniform, noise_at_s, noise_at_s2 = draw_ahead(algorithm, *draws)

    def sample(observation, noise):
        log_scale = np.clip(evaluate_mlp(algorithm.scale, observation), -5, 2)
        action = np.tanh(evaluate_mlp(algorithm.actor, observation) + np.exp(log_scale) * noise)
        log_prob = -(noise**2) / 2 - log_scale - np.log(2 * np.pi) / 2 - np.log(1 - action**2)
        return action, log_prob.sum(1, keepdims=True)

    s, s2 = (np.concatenate([rows[name]] * 2) for name in ("s", "s2"))
    candidates = [(2 * uniform - 1, np.full((24, 1), 3 * np.log(0.5))), sample(s, noise_at_s), sample(s2, noise_at_s2)]
    gap = 0.0
    for member in range(2):
        values = [evaluate_mlp(algorithm.critic, s, action, member=member) - log for action, log in candidates]
        stacked = np.concatenate([value.reshape(2, 12) for value in values])
        gap += (
            logsumexp(stacked, axis=0).mean()
            - evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member).mean()
        )
    next_action, log_prob = sample(rows["s2"], next_noise)
    next_q = np.minimum(*[evaluate_mlp(algorithm.target_critic, rows["s2"], next_action, member=m) for m in range(2)])
    target = rows["r"] + 0.99 * rows["continues"] * (next_q - entropy_in_target * log_prob)
    q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member) for member in range(2)]
    losses = algorithm.losses(batch)
    assert losses["loss_conservative"].item() == pytest.approx(0.5 * gap, rel=1e-4)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-4)


def test_the_conservative_loss_trains_the_critic_alone() -> None:
    algorithm = make_algorithm("cql")
    algorithm.losses(make_batch())["loss_conservative"].sum().backward()
    assert {key.partition(".")[0] for key, p in algorithm.named_parameters() if p.grad is not None} == {"critic"}
