"""Behaviour cloning: loss and update against numbers."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.sim_algos._bc import BehaviorCloning
from tests.sim_algos.toy import make_statistics, quick_config


def test_bc_loss_is_that_of_a_numpy_reference_and_one_step_follows_it() -> None:
    torch.manual_seed(0)
    algorithm = BehaviorCloning(
        quick_config("bc", "network.hidden_sizes=[4]", "loss.loss_function=l2"),
        make_statistics(action_dim=3),
    )
    batch = TensorDict({"observation": torch.randn(5, 2), "action": torch.rand(5, 3) * 2 - 1}, batch_size=[5])
    weights = {name: value.detach().double().numpy() for name, value in algorithm.actor[0].named_parameters()}
    hidden = np.maximum(batch["observation"].double().numpy() @ weights["0.weight"].T + weights["0.bias"], 0)
    predicted = np.tanh(hidden @ weights["2.weight"].T + weights["2.bias"])
    expected = ((predicted - batch["action"].double().numpy()) ** 2).mean()
    assert algorithm.update(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert algorithm.update(batch)["loss"].item() < expected
