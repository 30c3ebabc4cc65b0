"""Soft actor-critic: losses and the deployed action against numbers, and against TorchRL's distribution."""

import numpy as np
import pytest
import torch
from torchrl.modules import TanhNormal

from rlhive.policies import make_network
from rlhive.sim_algos._networks import sample_tanh_normal
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
def test_sac_bootstraps_through_truncation_and_not_through_termination(ending, bootstraps) -> None:
    algorithm = make_algorithm("sac", "loss.gamma=0.5", "loss.alpha_init=1e-9", action_dim=1)
    make_constant(algorithm.critic, [3.0, 4.0])
    make_constant(algorithm.target_critic, [5.5, 7.0])

    losses = algorithm.update(make_row(reward=2.0, action=0.5, **ending).unsqueeze(0))

    target = 2 + 0.5 * 5.5 if bootstraps else 2.0
    assert losses["loss_qvalue"].item() == pytest.approx((target - 3) ** 2 + (target - 4) ** 2, rel=1e-5)
    assert losses["loss_actor"].item() == pytest.approx(-3.0, rel=1e-5)  # the lower of the two
    parts = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def test_sac_losses_are_those_of_a_numpy_reference() -> None:
    algorithm = make_algorithm("sac", "loss.gamma=0.9", "loss.alpha_init=0.3", "loss.target_entropy=-2")
    batch = make_batch()
    rows = to_numpy(batch)
    state = algorithm.generators.state_dict()
    noises = [algorithm.generators.normal(12, 3)[0].double().numpy() for _ in range(2)]
    algorithm.generators.load_state_dict(state)

    def sample(observation, noise):
        log_scale = np.clip(evaluate_mlp(algorithm.scale, observation), -5, 2)
        action = np.tanh(evaluate_mlp(algorithm.actor, observation) + np.exp(log_scale) * noise)
        log_prob = -(noise**2) / 2 - log_scale - np.log(2 * np.pi) / 2 - np.log(1 - action**2)
        return action, log_prob.sum(1, keepdims=True)

    def lower(network, observation, action):
        return np.minimum(*[evaluate_mlp(network, observation, action, member=member) for member in range(2)])

    action, log_prob = sample(rows["s"], noises[0])
    next_action, next_log_prob = sample(rows["s2"], noises[1])
    next_value = lower(algorithm.target_critic, rows["s2"], next_action) - 0.3 * next_log_prob
    target = rows["r"] + 0.9 * rows["continues"] * next_value
    q = [evaluate_mlp(algorithm.critic, rows["s"], rows["a"], member=member) for member in range(2)]
    losses = algorithm.losses(batch)
    assert losses["loss_qvalue"].item() == pytest.approx(sum((target - x) ** 2 for x in q).mean(), rel=1e-4)
    expected = (0.3 * log_prob - lower(algorithm.critic, rows["s"], action)).mean()
    assert losses["loss_actor"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss_alpha"].item() == pytest.approx(-np.log(0.3) * (log_prob.mean() - 2), rel=1e-4)
    assert losses["entropy"].item() == pytest.approx(-log_prob.mean(), rel=1e-4)


def test_samples_have_the_log_probability_of_torchrls_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    location, log_scale, noise = torch.randn(3, 50, 4, generator=generator)
    log_scale = log_scale.clamp(-5, 2)
    action, log_prob = sample_tanh_normal(location, log_scale, noise)
    theirs = TanhNormal(location, log_scale.exp(), upscale=1.0, safe_tanh=False)
    near = action.abs().amax(1) < 0.999  # TorchRL inverts the tanh, which is inexact close to the bound
    assert near.sum() > 20
    torch.testing.assert_close(log_prob[near, 0], theirs.log_prob(action)[near], rtol=1e-3, atol=1e-3)


def test_sac_deploys_the_mode_of_the_collecting_policy() -> None:
    algorithm = make_algorithm("sac")
    network = make_network(2, 3, algorithm.network)
    algorithm.copy_network(network, 0)
    make_constant(algorithm.scale, [-9.0])
    observation = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))

    sampled = algorithm.act(observation.unsqueeze(0))[0]

    assert (sampled - network(observation)).abs().max() < 0.05
    assert sampled.shape == (7, 3)


def test_sac_moves_the_targets_by_tau_and_the_critics_at_their_own_rate() -> None:
    algorithm = make_algorithm("sac", "loss.tau=0.25", "optim.critic_lr=0.125", action_dim=1)
    before = algorithm.critic.biases[-1].detach().clone()
    target_before = algorithm.target_critic.biases[-1].clone()

    algorithm.update(make_row(reward=3.0, action=0.5).unsqueeze(0))

    after = algorithm.critic.biases[-1].detach()
    # Adam's first step has the length of the rate, whatever the gradient
    assert (after - before).abs().flatten().tolist() == pytest.approx([0.125] * 2, rel=1e-4)
    assert torch.allclose(algorithm.target_critic.biases[-1], 0.75 * target_before + 0.25 * after)


def test_each_loss_trains_its_own_networks() -> None:
    algorithm = make_algorithm("sac")
    losses = algorithm.losses(make_batch())
    trained = {"loss_actor": ("actor", "scale"), "loss_qvalue": ("critic",), "loss_alpha": ("log_alpha",)}
    for name, networks in trained.items():
        algorithm.zero_grad()
        losses[name].sum().backward(retain_graph=True)
        with_gradient = {key.partition(".")[0] for key, p in algorithm.named_parameters() if p.grad is not None}
        assert with_gradient == set(networks), name
