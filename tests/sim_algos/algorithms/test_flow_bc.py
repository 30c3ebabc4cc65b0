"""Flow-matching behaviour cloning: loss against numbers, and the chunks that the policy executes."""

import numpy as np
import pytest
import torch

from rlhive.errors import InvalidOptionError
from rlhive.policies import make_network
from tests.sim_algos.algorithms.reference import draw_ahead, evaluate_mlp, make_algorithm, make_batch, to_numpy

CHUNK = ["network.chunk=2", "network.execute=2", "network.num_flow_steps=3"]


def test_flow_bc_loss_is_that_of_a_numpy_reference() -> None:
    algorithm = make_algorithm("flow_bc", *CHUNK)
    batch = make_batch()
    rows = to_numpy(batch)
    noise, time = draw_ahead(algorithm, ("normal", (12, 6)), ("uniform", (12, 1)))
    chunk = np.concatenate([rows["a"], rows["a2"]], axis=1)
    position = (1 - time) * noise + time * chunk
    error = (evaluate_mlp(algorithm.velocity, rows["s"], position, time) - (chunk - noise)) ** 2
    valid = np.concatenate([np.ones((12, 1)), rows["has_a2"]], axis=1)
    expected = (error.reshape(12, 2, 3).mean(2) * valid).sum() / valid.sum()
    assert algorithm.losses(batch)["loss_flow"].item() == pytest.approx(expected, rel=1e-5)


def test_the_policy_executes_a_part_of_each_plan_and_drops_it_with_the_episode() -> None:
    algorithm = make_algorithm("flow_bc", "network.chunk=5", "network.execute=3", "network.num_flow_steps=4")
    network = make_network(2, 3, algorithm.network).requires_grad_(False)
    algorithm.copy_network(network, 0)
    observations = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))

    def plan(observation, seed):
        torch.manual_seed(seed)
        position = torch.randn(15)
        for step in range(4):
            inputs = observation.double().numpy()[None], position.double().numpy()[None], np.full((1, 1), step / 4)
            position = position + torch.from_numpy(evaluate_mlp(algorithm.velocity, *inputs)[0]).float() / 4
        return position.clamp(-1, 1).view(5, 3)

    network.begin_episode(0)
    actions = []
    for step, observation in enumerate(observations[:5]):
        if step in (0, 3):
            torch.manual_seed(step)
        actions.append(network(observation))
    expected = [*plan(observations[0], 0)[:3], *plan(observations[3], 3)[:2]]
    torch.testing.assert_close(torch.stack(actions), torch.stack(expected), rtol=1e-4, atol=1e-5)
    network.begin_episode(1)
    torch.manual_seed(9)
    torch.testing.assert_close(network(observations[6]), plan(observations[6], 9)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["execute", "chunk", "num_flow_steps"])
def test_numbers_out_of_range_are_refused(option) -> None:
    section = {**make_algorithm("flow_bc", *CHUNK).network, option: 0}
    with pytest.raises(InvalidOptionError, match=rf"network.{option}: expected an integer from 1"):
        make_network(2, 3, section)
    with pytest.raises(InvalidOptionError, match=r"network.execute: expected 1 to network.chunk=2 actions, got 3"):
        make_algorithm("flow_bc", *CHUNK, "network.execute=3")
