"""Stacked networks and generators: one seed of a stack is what a training of that seed alone would be."""

import copy

import pytest
import torch

from rlhive._threads import torch_threads
from rlhive.errors import InvalidOptionError
from rlhive.policies import make_mlp, make_network
from rlhive.sim_algos import SeedGenerators, StackedMLP, algorithm_names, update_target
from tests.sim_algos.algorithms.reference import make_algorithm, make_batch, make_constant

NETWORK = {"hidden_sizes": [8, 6], "activation": "gelu", "dropout": 0.0, "layer_norm": True}


def test_a_seeds_numbers_do_not_depend_on_the_other_seeds() -> None:
    several, alone = SeedGenerators([3, 4, 5]), SeedGenerators([4])
    for draw in ("uniform", "normal"):
        assert getattr(several, draw)(7, 5)[1].equal(getattr(alone, draw)(7, 5)[0])
    state = several.state_dict()
    expected = several.normal(3)
    several.uniform(9)
    several.load_state_dict(state)
    assert several.normal(3).equal(expected)
    assert copy.deepcopy(several) is several


@pytest.mark.parametrize("num_members", [None, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_stack_computes_what_plain_networks_compute(num_members, layer_norm) -> None:
    network = {**NETWORK, "layer_norm": layer_norm}
    stack = StackedMLP(SeedGenerators([0, 1, 2]), 5, 4, network, num_members=num_members)
    with torch.no_grad():
        for norm in stack.norms:
            norm.add_(torch.randn(norm.shape))
    inputs = torch.randn(3, 9, 3), torch.randn(3, 9, 2)
    outputs = stack(*inputs)
    assert outputs.shape == ((3, 9, 4) if num_members is None else (3, num_members, 9, 4))
    plain = make_mlp(5, 4, network)
    for seed_index in range(3):
        stack.copy_to(plain, seed_index)
        expected = plain(torch.cat(inputs, -1)[seed_index])
        torch.testing.assert_close(outputs[seed_index] if num_members is None else outputs[seed_index, 0], expected)


def test_a_frozen_network_gives_its_inputs_a_gradient_and_its_parameters_none() -> None:
    stack = StackedMLP(SeedGenerators([0]), 5, 1, NETWORK, num_members=2)
    inputs = torch.randn(1, 4, 5, requires_grad=True)
    assert stack(inputs).equal(stack(inputs, frozen=True))
    stack(inputs, frozen=True).sum().backward()
    assert inputs.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stack.parameters())


def test_dropout_is_drawn_from_each_seeds_generator_and_off_in_evaluation() -> None:
    network = {**NETWORK, "layer_norm": False, "dropout": 0.5}
    several, alone = (StackedMLP(SeedGenerators(seeds), 5, 1, network) for seeds in ([0, 1], [1]))
    inputs = torch.ones(1, 64, 5)
    torch.testing.assert_close(several(inputs.expand(2, -1, -1))[1], alone(inputs)[0])
    assert not alone(inputs).equal(alone(inputs))
    alone.eval()
    assert alone(inputs).equal(alone(inputs))


def test_the_initial_parameters_are_those_of_torchs_linear_layers() -> None:
    stack = StackedMLP(SeedGenerators([0]), 100, 100, {**NETWORK, "hidden_sizes": []})
    assert stack.weights[0].abs().max().item() == pytest.approx(0.1, rel=1e-3)
    assert stack.weights[0].std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert stack.biases[0].abs().max().item() == pytest.approx(0.1, rel=0.1)


def test_a_target_moves_by_its_share() -> None:
    source = StackedMLP(SeedGenerators([0]), 2, 1, NETWORK)
    target = copy.deepcopy(source).requires_grad_(False)
    with torch.no_grad():
        source.biases[-1].add_(4.0)
    update_target(target, source, 0.25)
    torch.testing.assert_close(target.biases[-1], source.biases[-1].detach() - 3.0)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="expected one of relu, gelu, tanh, elu, got 'swish'"):
        StackedMLP(SeedGenerators([0]), 2, 1, {**NETWORK, "activation": "swish"})


SMALL_TRANSFORMER = ["network.context=4", "network.width=8", "network.num_heads=2", "optim.warmup_steps=0"]
OPTIONS = {
    "dt": [*SMALL_TRANSFORMER, "network.dropout=0.3", "train.batch_size=12"],
    "flow_bc": ["network.chunk=2", "network.execute=1"],
}


@pytest.mark.parametrize("name", algorithm_names())
@torch_threads(1)  # as in a training
def test_stacked_seeds_take_the_steps_of_separate_trainings(name) -> None:
    batches = [make_batch(num_seeds=3, seed=step) for step in range(6)]
    options = OPTIONS.get(name, [])
    stack = make_algorithm(name, "seed=5", *options, num_seeds=3)
    stacked_losses = [stack.update(batch.clone())["loss"] for batch in batches]
    for index in range(3):
        alone = make_algorithm(name, f"seed={5 + index}", *options)
        losses = [alone.update(batch[index : index + 1].clone())["loss"][0] for batch in batches]
        torch.testing.assert_close(torch.stack([loss[index] for loss in stacked_losses]), torch.stack(losses))
        for ours, theirs in zip(stack.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours[index], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(algorithm_names()) - {"dt", "flow_bc"}))
def test_the_deployed_network_acts_as_the_algorithm_does(name) -> None:
    algorithm = make_algorithm(name, num_seeds=2).eval()
    if hasattr(algorithm, "scale") and name != "iql":
        make_constant(algorithm.scale, [-20.0])  # SAC deploys the mode of what it samples
    observation = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for seed_index in range(2):
        network = make_network(2, 3, algorithm.network)
        algorithm.copy_network(network, seed_index)
        torch.manual_seed(3)
        deployed = network(observation)
        torch.manual_seed(3)
        acting = algorithm.act(observation.unsqueeze(0).expand(2, -1, -1))
        if name == "fql":  # the stack draws noise for both seeds
            torch.manual_seed(3)
            noise = torch.randn(5, 3).expand(2, 5, 3)
            acting = algorithm.actor(observation.expand(2, -1, -1), noise).clamp(-1, 1)
        torch.testing.assert_close(deployed, acting[seed_index], atol=0.05 if name in ("sac", "cql") else 1e-5, rtol=0)
