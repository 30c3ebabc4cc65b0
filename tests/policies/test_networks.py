"""Networks of policies: built from a configuration, and the policy around them."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from rlhive.normalization import Normalizer
from rlhive.policies._networks import make_actor, make_deployed_policy, make_mlp

NETWORK = {"hidden_sizes": [8, 4], "activation": "elu", "dropout": 0.5}


def test_a_perceptron_has_the_configured_layers() -> None:
    layers = list(make_mlp(3, 2, NETWORK))
    hidden = [nn.Linear, nn.Dropout, nn.ELU]
    assert [type(layer) for layer in layers] == [*hidden, *hidden, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == [(8, 3), (4, 8), (2, 4)]
    assert layers[1].p == 0.5
    assert not [layer for layer in make_mlp(3, 2, {**NETWORK, "dropout": 0}) if isinstance(layer, nn.Dropout)]


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="expected one of relu, gelu, tanh, elu, got 'swish'"):
        make_mlp(2, 1, {**NETWORK, "activation": "swish"})


def test_the_deployed_policy_is_normaliser_then_actor_without_dropout() -> None:
    normalizer = Normalizer(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    actor = make_actor(2, 1, NETWORK)
    policy = make_deployed_policy(normalizer, actor, env_name="ToyPoint-v0")
    observation = torch.tensor([[1.5, -2.0], [900.0, 1.0]], dtype=torch.float64)

    action = policy(TensorDict({"observation": observation}, batch_size=[2]))["action"]

    expected = actor.eval()(torch.tensor([[1.0, 0.0], [10.0, 1.0]]))
    assert action.equal(expected)
    assert action.dtype == torch.float32
    assert policy.env_name == "ToyPoint-v0"
