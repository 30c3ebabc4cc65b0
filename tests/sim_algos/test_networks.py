"""Sections of critics and scales."""

from rlhive.sim_algos._networks import critic_network, scale_network

NETWORK = {
    "hidden_sizes": [8],
    "critic_hidden_sizes": [6, 4],
    "scale_hidden_sizes": [5],
    "activation": "relu",
    "dropout": 0.5,
    "layer_norm": True,
    "critic_layer_norm": False,
}


def test_critics_and_scales_have_their_own_sizes_and_no_dropout() -> None:
    critic, scale = critic_network(NETWORK), scale_network(NETWORK)
    assert (critic["hidden_sizes"], critic["dropout"], critic["layer_norm"]) == ([6, 4], 0.0, False)
    assert (scale["hidden_sizes"], scale["dropout"], scale["layer_norm"]) == ([5], 0.0, False)
    assert critic_network({**NETWORK, "critic_layer_norm": True})["layer_norm"]
