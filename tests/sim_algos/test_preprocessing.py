"""Preprocessing: statistics of a buffer, and the batches that an algorithm gets."""

import numpy as np
import pytest
import torch

from rlhive import RoboHiveDataset
from rlhive.data.versions._export import export
from rlhive.envs import get_task
from rlhive.errors import SchemaMismatchError
from rlhive.policies import Normalizer
from rlhive.sim_algos import _preprocessing, make_config
from rlhive.sim_algos._preprocessing import (
    Preprocessor,
    compute_training_statistics,
    resolve_discount,
    resolve_reward_scale,
)
from rlhive.sim_algos._setup import build_algorithm
from rlhive.sim_algos.algorithms._bc import BehaviorCloning
from rlhive.sim_algos.algorithms._iql import ImplicitQLearning
from tests.sim_algos.toy import as_buffer, collect_buffer, make_row, make_statistics


def test_statistics_and_preprocessing_by_hand() -> None:
    rows = torch.cat([make_row(reward=r) for r in (0.0, 4.0)])
    rows["observation"] = torch.tensor([[1.0, 7.0], [5.0, 7.0]], dtype=torch.float64)
    rows["next", "observation"] = torch.tensor([[3.0, 8.0], [7.0, 7.0]], dtype=torch.float64)
    rows["next", "reward"] = rows["next", "reward"].double()
    buffer = as_buffer(rows)
    statistics = compute_training_statistics(buffer, ImplicitQLearning.in_keys)
    assert statistics.mean.tolist() == [3.0, 7.0]
    assert statistics.std.tolist() == [2.0, 0.0]
    assert (statistics.reward_std, statistics.action_dim) == (2.0, 1)
    preprocess = Preprocessor(
        ImplicitQLearning.in_keys,
        Normalizer(statistics.mean, statistics.std),
        reward_scale=0.5,
        device=torch.device("cpu"),
    )
    doubled = buffer[:].clone()
    for key in ("observation", ("next", "reward")):
        doubled[key] *= 2
    stacked = preprocess([buffer[:], doubled])
    assert stacked.batch_size == (2, 2)
    assert stacked["next", "reward"].tolist() == [[[0.0], [2.0]], [[0.0], [4.0]]]
    assert stacked["observation"][1].tolist() == [[-0.5, 7.0], [3.5, 7.0]]
    batch = stacked[0]
    assert batch["observation"].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert batch["next", "observation"].tolist() == [[0.0, 1.0], [2.0, 0.0]]
    assert batch["next", "reward"].dtype == batch["observation"].dtype == torch.float32
    assert batch["next", "terminated"].dtype == torch.bool
    assert set(batch.keys(True, True)) == set(ImplicitQLearning.in_keys)
    assert buffer[:]["observation"].tolist() == [[1.0, 7.0], [5.0, 7.0]]  # the buffer's data are unchanged


@pytest.mark.parametrize("width", [3, 700])
def test_statistics_are_those_of_each_element_over_all_chunks(monkeypatch, width) -> None:
    monkeypatch.setattr(_preprocessing, "_CHUNK_ROWS", 4)
    rows = torch.cat([make_row(reward=float(index**2)) for index in range(11)])
    generator = torch.Generator().manual_seed(0)
    rows["observation"] = 1e6 + torch.arange(1, width + 1) * torch.rand(11, width, generator=generator).double()
    statistics = compute_training_statistics(as_buffer(rows), ImplicitQLearning.in_keys)
    observations, rewards = rows["observation"].numpy(), rows["next", "reward"].numpy().astype(np.float64)
    np.testing.assert_allclose(statistics.mean.numpy(), observations.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(statistics.std.numpy(), observations.std(axis=0), rtol=1e-9)
    assert statistics.reward_std == pytest.approx(rewards.std(), rel=1e-12)
    assert (statistics.observation_dim, statistics.is_normalized) == (width, False)


def test_a_buffer_that_normalises_keeps_its_numbers(filled) -> None:
    dataset = RoboHiveDataset("toy_point", split="expert", store=filled)
    moments = dataset.statistics["observation"]
    statistics = compute_training_statistics(dataset.as_replay_buffer(normalize=True), BehaviorCloning.in_keys)
    assert statistics.is_normalized
    assert statistics.mean.tolist() == moments["mean"]
    assert statistics.std.tolist() == moments["std"]
    stacked = compute_training_statistics(
        dataset.as_replay_buffer(normalize=True, frame_stack=3), BehaviorCloning.in_keys
    )
    assert stacked.mean.tolist() == 3 * moments["mean"]
    assert stacked.std.tolist() == 3 * moments["std"]
    plain = compute_training_statistics(dataset.as_replay_buffer(normalize=["action"]), BehaviorCloning.in_keys)
    assert not plain.is_normalized
    np.testing.assert_allclose(plain.std.numpy(), moments["std"], rtol=1e-6)  # of float32 values


def test_an_infinite_observation_is_found_before_it_is_clipped(tmp_path) -> None:
    rows = collect_buffer("expert", num_episodes=1)[:]
    rows["next", "observation"][-1, 0] = torch.inf  # final observations are not in the statistics
    dataset = RoboHiveDataset(export(as_buffer(rows), "my/inf", license="mit", store=tmp_path))
    buffer = dataset.as_replay_buffer(normalize=True)
    assert buffer[:]["next", "observation"].isfinite().all()
    with pytest.raises(SchemaMismatchError, match=r"\('next', 'observation'\): expected finite values"):
        compute_training_statistics(buffer, ImplicitQLearning.in_keys)
    assert compute_training_statistics(buffer, BehaviorCloning.in_keys).is_normalized  # does not read it


def test_a_normalised_batch_is_not_normalised_again() -> None:
    preprocess = Preprocessor(BehaviorCloning.in_keys, None, device=torch.device("cpu"))
    batch = preprocess([make_row(reward=1.0).double()])
    assert batch["observation"].tolist() == [[[0.25, 2.0]]]
    assert batch["observation"].dtype == torch.float32


def test_the_discount_follows_from_the_horizon(caplog) -> None:
    assert resolve_discount("auto", "kitchen_knob1") == pytest.approx(0.9)
    assert resolve_discount("auto", "franka_micro_open-v3") == pytest.approx(1 - 5 / 150)
    assert resolve_discount(0.5, "kitchen_knob1") == 0.5
    assert not caplog.records
    assert resolve_discount("auto", "MyRobot-v0") == 0.99
    assert "The horizon of MyRobot-v0 is not known: gamma is 0.99. Set loss.gamma." in caplog.text


def test_a_training_discounts_by_its_tasks_horizon() -> None:
    statistics = make_statistics()
    algorithm = build_algorithm(make_config("iql"), statistics, "toy_point")
    assert algorithm.config["loss"]["gamma"] == pytest.approx(1 - 5 / 20)


def test_the_reward_scale_is_the_tasks_and_that_of_the_data_without_references(caplog) -> None:
    reference = get_task("kitchen_knob1").reference
    gap = reference.expert.return_mean - reference.random.return_mean
    assert resolve_reward_scale("auto", "kitchen_knob1", 4.0) == pytest.approx(50 / gap)
    assert resolve_reward_scale("auto", "FK1_Knob1OnRandom-v4", 0.1) == pytest.approx(50 / gap)
    assert resolve_reward_scale(2, "kitchen_knob1", 4.0) == 2.0
    assert not caplog.records
    assert resolve_reward_scale("auto", "MyRobot-v0", 4.0) == 0.25
    assert "MyRobot-v0 has no reference returns: rewards are divided by their standard deviation" in caplog.text
    assert resolve_reward_scale("auto", "MyRobot-v0", 0.0) == 1.0
