"""Encoders that are trained with a policy: the stack of seeds, random shifts, and whose loss trains them."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive import RoboHiveDataset, evaluate, make_config, train
from rlhive.errors import InvalidOptionError
from rlhive.policies import PictureCNN
from rlhive.sim_algos._encoder import StackedEncoder, shift_randomly
from rlhive.sim_algos._preprocessing import TrainingStatistics
from rlhive.sim_algos._registry import find_algorithm
from rlhive.sim_algos._seed_stack import SeedGenerators
from tests.sim_algos.toy import PIXEL_OPTIONS, collect_pixels

SHAPE = (2, 12, 10, 3)
ENCODER = {
    "channels": [4, 8],
    "kernel_sizes": [3, 3],
    "strides": [2, 1],
    "feature_dim": 5,
    "random_shift": 0,
    "lr": 1e-3,
}


def draw_pictures(*batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (*batch, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_each_seed_of_a_stack_is_a_plain_network() -> None:
    encoder, alone = (
        StackedEncoder(SeedGenerators([3, 4]), SHAPE, ENCODER),
        StackedEncoder(SeedGenerators([4]), SHAPE, ENCODER),
    )
    pictures = draw_pictures(2, 6)
    features = encoder(pictures)
    assert features.shape == (2, 6, 5)
    for index in range(2):
        plain = PictureCNN(SHAPE, ENCODER)
        encoder.copy_to(plain, index)
        assert torch.equal(plain(pictures[index]), features[index])
    assert torch.equal(alone(pictures[1:])[0], features[1])
    assert not torch.equal(encoder(pictures[:1].expand(2, -1, -1, -1, -1, -1))[0], features[1])


def test_initial_parameters_are_those_of_torchs_layers() -> None:
    encoder = StackedEncoder(SeedGenerators([0]), SHAPE, ENCODER)
    plain = PictureCNN(SHAPE, ENCODER)
    encoder.copy_to(plain, 0)
    for name, value in plain.named_parameters():
        layer = plain.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, torch.nn.LayerNorm):
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight"))))
        else:
            bound = layer.weight[0].numel() ** -0.5
            assert value.abs().max() <= bound
            assert value.numel() < 50 or float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.2)


def test_the_network_by_hand() -> None:
    cnn = PictureCNN((4, 4, 3), {"channels": [1], "kernel_sizes": [4], "strides": [1], "feature_dim": 2})
    pictures = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    pictures[1, :, :, 0] = 255
    with torch.no_grad():
        cnn.convolutions[0].weight.zero_()
        cnn.convolutions[0].weight[:, 0] = 1.0  # sums the red channel, which is -0.5 to 0.5
        cnn.convolutions[0].bias.zero_()
        cnn.linear.weight.copy_(torch.tensor([[1.0], [0.0]]))
        cnn.linear.bias.zero_()
        features = cnn(pictures)
    expected = np.tanh([1.0, -1.0])  # 8 and 0, normalised; the ReLU makes 0 of the -8 of the black picture
    assert features[1].numpy() == pytest.approx(expected, abs=1e-4)
    assert features[0].tolist() == [0.0, 0.0]


def test_shifts_are_those_of_numpy_with_a_repeated_border() -> None:
    pictures = draw_pictures(1, 40)
    shifted = shift_randomly(pictures, 2, SeedGenerators([7]))
    found = set()
    for before, after in zip(pictures[0].numpy(), shifted[0].numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        matches = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if np.array_equal(padded[:, down : down + 12, right : right + 10], after)
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 15
    assert torch.equal(shift_randomly(pictures, 0, SeedGenerators([7])), pictures)


@pytest.mark.parametrize("model", ["bc", "td3_bc", "sac", "fql", "iql"])
def test_an_encoder_gets_the_gradient_of_the_losses_that_an_algorithm_names(model) -> None:
    small = ["network=small", *([] if model == "bc" else ["network.critic_hidden_sizes=[64]", "loss.gamma=0.9"])]
    config = make_config(model, overrides=["encoder=cnn", *small])
    config["encoder"] |= ENCODER
    mean = torch.zeros(1, dtype=torch.float64)
    statistics = TrainingStatistics(mean, mean + 1, 1.0, 2, pictures={"pixels": SHAPE}, feature_dim=5)
    algorithm = find_algorithm(model)(config, statistics, SeedGenerators([0]))
    algorithm.num_updates = 1  # the next step of TD3+BC trains the actor
    batch = make_batch()
    copy = batch.clone()
    states = algorithm.generators.state_dict()
    algorithm.update(batch)
    gradients = [parameter.grad.clone() for parameter in algorithm.encoders.parameters()]

    algorithm = find_algorithm(model)(config, statistics, SeedGenerators([0]))
    algorithm.num_updates = 1
    algorithm.generators.load_state_dict(states)
    copy["observation"], following = (algorithm.read_observation(part, frozen=False) for part in (copy, copy["next"]))
    copy["next", "observation"] = following.detach()
    losses = {name: value for name, value in algorithm.losses(copy).items() if name.startswith("loss")}
    expected = {"td3_bc": ["loss_qvalue"], "sac": ["loss_qvalue"], "fql": ["loss_qvalue", "loss_flow"]}.get(
        model, losses
    )
    total = sum(losses[name].sum() for name in expected)
    for gradient, by_hand in zip(gradients, torch.autograd.grad(total, algorithm.encoders.parameters()), strict=True):
        assert torch.allclose(gradient, by_hand, rtol=1e-4, atol=1e-7)
        assert by_hand.abs().max() > 0


def make_batch() -> TensorDict:
    generator = torch.Generator().manual_seed(1)
    following = {
        "observation": torch.randn(1, 6, 1, generator=generator),
        "pixels": draw_pictures(1, 6, seed=2),
        "reward": torch.randn(1, 6, 1, generator=generator),
        "terminated": torch.zeros(1, 6, 1, dtype=torch.bool),
        "done": torch.zeros(1, 6, 1, dtype=torch.bool),
    }
    action = torch.rand(1, 6, 2, generator=generator) * 2 - 1
    rows = {"observation": torch.randn(1, 6, 1, generator=generator), "pixels": draw_pictures(1, 6), "action": action}
    return TensorDict({**rows, "next": following}, batch_size=[1, 6])


@pytest.mark.parametrize("option", ["random_shift=-1", "channels=[0]", "strides=[1]", "kernel_sizes=[99,99,99]"])
def test_options_out_of_range_are_refused(tmp_path, option) -> None:
    folder = collect_pixels(tmp_path, expert=1)
    overrides = ["encoder=cnn", f"encoder.{option}", "train.num_steps=1", "logger=null"]
    with pytest.raises(InvalidOptionError, match="encoder"):
        train("bc", folder, overrides=overrides, output_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pictures_alone_solve_the_toy(tmp_path) -> None:
    folder = collect_pixels(tmp_path, expert=40)
    overrides = ["encoder=cnn", *PIXEL_OPTIONS, "encoder.random_shift=0", "network=small", "train.batch_size=64"]
    overrides += ["train.num_steps=600", "logger=null"]
    result = train("bc", folder, overrides=overrides, num_seeds=2, output_dir=tmp_path / "run", progress=False)
    for checkpoint in result.checkpoints:
        evaluation = evaluate(checkpoint, "toy_point", num_episodes=30, num_workers=1, progress=False)
        assert evaluation.return_mean > 17  # random 10.6, expert 19.1
    assert "pixels" in RoboHiveDataset(folder).schema.columns
