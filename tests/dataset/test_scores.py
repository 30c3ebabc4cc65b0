"""The distance to the goal, and scores of versions that are not whole on this machine."""

import subprocess
import sys

import numpy as np
import pytest

from rlhive import RoboHiveDataset, export
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.dataset._scores import measure_goal_distances
from rlhive.envs import DENSE, SPARSE, reward_terms
from rlhive.errors import StreamingOnlyError


def make_goal_record(episode, achieved, desired, **others):
    steps = np.arange(3)[:, None]
    columns = {
        "action": np.zeros((3, 1), np.float32),
        "next.terminated": np.zeros((3, 1), bool),
        "next.truncated": steps == 2,
        "observation.achieved_goal": np.zeros((3, 2)),
        "observation.desired_goal": np.zeros((3, 2)),
    } | {name: np.zeros((3, *value.shape)) for name, value in others.items()}
    final = {"observation.achieved_goal": np.array(achieved), "observation.desired_goal": np.array(desired)}
    return EpisodeRecord(episode, "train", columns, final | others)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_observed_numbers_may_have_any_shape(tmp_path, shape):
    records = [make_goal_record(episode, [0.0, 0.0], [3.0, 4.0], force=np.full(shape, 2.0)) for episode in range(2)]
    folder = export(records, "my/forces", license="mit", store=tmp_path)

    assert RoboHiveDataset(folder, store=tmp_path).score()["distance_to_goal"].to_pylist() == [5.0, 5.0]


def test_the_distance_is_that_of_the_last_achieved_goal(tmp_path):
    schema = Schema(
        (
            Field("action", "float32", (1,), observed=False),
            Field("next.terminated", "bool", (1,), observed=False),
            Field("next.truncated", "bool", (1,), observed=False),
            Field("observation.achieved_goal", "float64", (2,), observed=True),
            Field("observation.desired_goal", "float64", (2,), observed=True),
        )
    )
    records = [make_goal_record(0, [0.0, 0.0], [3.0, 4.0]), make_goal_record(1, [1.0, 1.0], [1.0, 1.0])]
    folder = export(records, "my/goals", schema=schema, license="mit", store=tmp_path)

    assert RoboHiveDataset(folder, store=tmp_path).score()["distance_to_goal"].to_pylist() == [5.0, 0.0]


@pytest.mark.usefixtures("filled")
def test_without_these_columns_it_is_minus_the_sparse_reward_after_each_last_action(monkeypatch):
    def negate_distances(env, columns, last):
        return {SPARSE: reward_terms(env, columns, last)[DENSE] - 1.0}

    monkeypatch.setattr("rlhive.envs.reward_terms", negate_distances)
    dataset = RoboHiveDataset("toy_point")
    finals = np.array(dataset.episodes["final.observation"].to_pylist())
    expected = np.abs(finals[:, 0] - finals[:, 1])

    assert len(set(expected)) > 12
    assert measure_goal_distances(dataset.path, dataset.manifest) == pytest.approx(expected)


@pytest.mark.usefixtures("filled")
def test_a_sparse_reward_that_is_positive_is_no_distance():
    dataset = RoboHiveDataset("toy_point")

    assert dataset.env_name == "ToyPoint-v0"
    assert measure_goal_distances(dataset.path, dataset.manifest) is None
    assert dataset.score()["distance_to_goal"].null_count == 24


@pytest.mark.usefixtures("filled")
def test_a_condition_on_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="distance_to_goal was not recorded for any of the 24 episodes"):
        RoboHiveDataset("toy_point").where("distance_to_goal < 1")


@pytest.mark.usefixtures("filled")
def test_scores_of_a_streamed_dataset_are_read_but_not_computed():
    streamed = RoboHiveDataset("toy_point", streaming=True)
    with pytest.raises(StreamingOnlyError, match="Compute them once: rlhive score robohive/toy_point"):
        streamed.where("idle < 0.5")

    scores = RoboHiveDataset("toy_point").score()

    assert streamed.score().equals(scores)


@pytest.mark.usefixtures("filled")
def test_a_condition_on_stored_scores_imports_no_torch():
    dataset = RoboHiveDataset("toy_point")
    dataset.score()
    code = (
        "import sys; from pathlib import Path; from rlhive.dataset import open_view; "
        f"view = open_view(Path({str(dataset.path)!r})).where('not duplicate'); "
        "print(len(view.episode_ids()), 'torch' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["24", "False"]
