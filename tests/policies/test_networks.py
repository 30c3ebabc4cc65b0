"""Networks of policies: built from a configuration, and the policy around them."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.modules import MLP

from rlhive.errors import CheckpointMismatchError
from rlhive.normalization import Normalizer
from rlhive.policies import _networks
from rlhive.policies._networks import make_actor, make_deployed_policy, make_mlp, make_network, register_network

NETWORK = {"hidden_sizes": [8, 4], "activation": "elu", "dropout": 0.5}


def test_a_perceptron_has_the_configured_layers() -> None:
    layers = list(make_mlp(3, 2, NETWORK))
    hidden = [nn.Linear, nn.Dropout, nn.ELU]
    assert [type(layer) for layer in layers] == [*hidden, *hidden, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == [(8, 3), (4, 8), (2, 4)]
    assert layers[1].p == 0.5
    assert not [layer for layer in make_mlp(3, 2, {**NETWORK, "dropout": 0}) if isinstance(layer, nn.Dropout)]


def test_a_perceptron_with_layer_norm_has_one_per_hidden_layer() -> None:
    layers = [type(layer) for layer in make_mlp(3, 2, {**NETWORK, "dropout": 0, "layer_norm": True})]
    assert layers == [*2 * [nn.Linear, nn.LayerNorm, nn.ELU], nn.Linear]


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
    policy.begin_episode(0)  # the network keeps no state
    policy.observe_reward(1.0)


class CountingNetwork(nn.Module):
    """A network with a state: its action is the number of steps since the episode's start."""

    def begin_episode(self, seed: int) -> None:
        self.count = seed

    def observe_reward(self, reward: float) -> None:
        self.count += 10 * reward

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return torch.full((*observation.shape[:-1], 1), float(self.count))


def test_a_network_with_a_state_is_reset_with_the_episode() -> None:
    normalizer = Normalizer(torch.zeros(2), torch.ones(2))
    policy = make_deployed_policy(normalizer, CountingNetwork(), env_name="ToyPoint-v0")
    row = TensorDict({"observation": torch.zeros(2)})
    for seed in (3, 8):
        policy.begin_episode(seed)
        assert [policy(row)["action"].item() for _ in range(2)] == [seed + 1, seed + 2]
        policy.observe_reward(0.5)
        assert policy(row)["action"].item() == seed + 8


def test_a_kind_of_network_is_found_by_its_name(monkeypatch) -> None:
    assert isinstance(make_network(2, 1, NETWORK)[0], MLP)
    assert isinstance(make_network(2, 1, {**NETWORK, "kind": "mlp"})[0], MLP)
    with pytest.raises(
        CheckpointMismatchError,
        match=r"network.kind: expected one of flow_chunk, mlp, noise_mlp, transformer, got 'counting'\. Install",
    ):
        make_network(2, 1, {"kind": "counting"})
    monkeypatch.setattr(_networks, "_registered", {})
    register_network("counting", lambda observation_dim, action_dim, network: CountingNetwork())
    assert isinstance(make_network(2, 1, {"kind": "counting"}), CountingNetwork)
