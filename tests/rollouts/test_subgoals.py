"""The single goals of an episode in the episode table of a dataset."""

from dataclasses import replace

import pytest

from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._tasks import Recipe, get_task
from rlhive.rollouts import _backends, _replay, _rollout
from rlhive.rollouts._collect import collect
from rlhive.rollouts._replay import check, replay


def make_task(num_steps, episodes):
    task = get_task("kitchen_sequence2")
    env_kwargs = {**task.env_kwargs, "max_episode_steps": num_steps}
    return replace(task, horizon=num_steps, env_kwargs=env_kwargs, recipe=Recipe("1.0.0", episodes, "apache-2.0"))


@pytest.fixture
def in_process(monkeypatch):
    """Run the jobs in this process, which has imported RoboHive already."""

    def run_here(function, jobs, *, num_workers):
        return (function(*job) for job in jobs)

    for module in (_backends, _replay):
        monkeypatch.setattr(module, "map_unordered", run_here)
    yield
    _rollout._CACHED_ENV.pop()[1].close()


@pytest.mark.usefixtures("in_process")
def test_the_episode_table_says_which_goals_were_reached_and_when(tmp_path):
    task = make_task(35, {"expert": 2, "random": 1})
    folder = collect(task, store=tmp_path, num_workers=1, progress=False)
    dataset = RoboHiveDataset(folder)
    halfway = dataset.where("metadata.subgoal_light and not metadata.subgoal_sdoor").episodes.to_pylist()

    assert [row["split"] for row in halfway] == ["expert", "expert"]
    assert len(dataset.where("metadata.subgoal_light_step < 35")) == len(dataset.where("split == 'expert'"))
    assert not any(row["success"] for row in dataset.episodes.to_pylist())
    assert dataset.where("metadata.num_subgoals_reached == 0").episodes["split"].to_pylist() == ["random"]
    # The goals are arguments of the environment: the manifest names them, so that both verbs can build it again.
    assert check(folder).ok
    assert replay(folder, num_workers=1, store=tmp_path, progress=False).verdict == "bit-exact"


@pytest.mark.slow
def test_a_sequence_is_the_same_for_any_number_of_workers(tmp_path):
    task = make_task(80, {"expert": 6, "medium": 6})
    stores = [tmp_path / str(workers) for workers in (1, 2)]
    one, two = (
        RoboHiveDataset(collect(task, store=store, num_workers=workers, progress=False))
        for workers, store in enumerate(stores, start=1)
    )

    assert one.fingerprint == two.fingerprint
    assert one.episodes["metadata"] == two.episodes["metadata"]
