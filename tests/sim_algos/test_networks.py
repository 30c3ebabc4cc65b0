"""Critics and stochastic actors: distributions by hand, and no dropout in critics."""

import numpy as np
import torch
from tensordict import TensorDict
from torch import nn

from rlhive.policies import make_actor
from rlhive.sim_algos._networks import ActionDistribution, make_critics, make_stochastic_actor, make_tanh_normal_actor

NETWORK = {
    "hidden_sizes": [8],
    "critic_hidden_sizes": [6, 4],
    "scale_hidden_sizes": [5],
    "activation": "relu",
    "dropout": 0.5,
}


def test_the_action_distribution_is_a_laplace_with_independent_dimensions() -> None:
    loc, scale = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.25]])
    distribution = ActionDistribution(loc, scale)
    log_prob = distribution.log_prob(torch.tensor([[1.5, -0.5]]))
    expected = -1.0 / 2 - np.log(2 * 2) - 0.5 / 0.25 - np.log(2 * 0.25)
    np.testing.assert_allclose(log_prob.numpy(), [expected], rtol=1e-6)
    assert distribution.deterministic_sample.equal(loc)


def test_stochastic_actors_are_centred_on_the_deployed_action() -> None:
    torch.manual_seed(0)
    actor = make_actor(3, 2, NETWORK).eval()
    observation = torch.randn(7, 3)
    for make in (make_stochastic_actor, make_tanh_normal_actor):
        distribution = make(actor, 3, 2, NETWORK).eval().get_dist(TensorDict({"observation": observation}, [7]))
        torch.testing.assert_close(distribution.deterministic_sample, actor(observation))


def test_critics_have_their_own_sizes_and_no_dropout() -> None:
    qvalue, value = make_critics(3, 2, NETWORK)
    for critic, num_inputs in ((qvalue, 5), (value, 3)):
        shapes = [tuple(layer.weight.shape) for layer in critic.modules() if isinstance(layer, nn.Linear)]
        assert shapes == [(6, num_inputs), (4, 6), (1, 4)]
        assert not [layer for layer in critic.modules() if isinstance(layer, nn.Dropout)]
