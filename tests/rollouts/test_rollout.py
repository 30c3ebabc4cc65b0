"""Episodes whose simulation diverges: a real simulator with joint velocities of 10^12 rad/s."""

import contextlib
import logging
import pickle
import warnings

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import ParallelEnv

from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs._tasks import Recipe, Task
from rlhive.errors import SimulationDivergedError
from rlhive.rollouts._collect import collect
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rollout import DivergedRollout, Rollout, try_rollout

REACH = "FrankaReachRandom-v0"

pytestmark = pytest.mark.filterwarnings("ignore::rlhive.envs._loading.RoboHiveWarning")


class Fragile(RoboHiveEnv):
    """After two steps of an episode with an odd seed, every joint turns at 10^12 rad/s."""

    def _set_seed(self, seed):
        self.odd = seed is not None and seed % 2 == 1
        super()._set_seed(seed)

    def _step(self, tensordict):
        if self.odd and self._elapsed == 2:
            self._data.qvel[:] = 1e12
        return super()._step(tensordict)


def make_fragile():
    warnings.simplefilter("ignore")
    return Fragile(REACH, max_episode_steps=5, seed=1)


def stand_still(tensordict):
    return tensordict.set("action", torch.zeros(9))


FRAGILE = Task(
    name="fragile",
    env_name=REACH,
    horizon=5,
    description="A Franka arm flies apart.",
    recipe=Recipe("1.0.0", {"random": 7}, "mit"),
    make_env=make_fragile,
)


def test_a_diverged_episode_is_returned_and_the_next_episode_is_not_affected():
    env = make_fragile()
    reference = try_rollout(env, stand_still, seed=4)
    invalid = try_rollout(env, stand_still, seed=31)
    again = try_rollout(env, stand_still, seed=4)
    env.close()

    assert isinstance(invalid, DivergedRollout)
    assert (invalid.seed, invalid.step) == (31, 3)
    assert str(invalid) == "diverged at step 3 (seed 31)"
    assert "expected the simulation to advance from 0.160 s to 0.240 s" in invalid.reason
    assert isinstance(reference, Rollout)
    assert (reference.transitions == again.transitions).all()
    assert pickle.loads(pickle.dumps(SimulationDivergedError("diverged", 3))).step == 3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_collect_leaves_diverged_episodes_out_and_logs_them(tmp_path, caplog, num_workers):
    dataset = RoboHiveDataset(collect(FRAGILE, num_workers=num_workers, store=tmp_path, progress=False))

    assert dataset.episodes["episode"].to_pylist() == dataset.episodes["seed"].to_pylist() == [0, 2, 4, 6]
    assert (dataset.episodes["ended"].to_pylist(), len(dataset)) == (["truncated"] * 4, 20)
    (run,) = dataset.manifest.runs
    invalid = [{key: row[key] for key in ("episode", "split", "seed", "step")} for row in run["invalid"]]
    assert invalid == [{"episode": odd, "split": "random", "seed": odd, "step": 3} for odd in (1, 3, 5)]
    assert all("diverged in step 3" in row["reason"] for row in run["invalid"])
    assert "fragile: 3 of 7 episodes are invalid and left out: random diverged at step 3 (seed 1)" in caplog.text


def test_a_diverged_episode_counts_as_unsolved_and_has_no_return(caplog):
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(stand_still, FRAGILE, seed=10, num_episodes=4, num_workers=1, progress=False)

    assert [episode.seed for episode in evaluation.invalid] == [11, 13]
    assert (evaluation.num_episodes, len(evaluation.returns)) == (4, 2)
    assert evaluation.success_rate == evaluation.successes / 4
    assert evaluation.return_mean == pytest.approx(np.mean(evaluation.returns))
    assert "2 of 4 episodes were invalid: diverged at step 3 (seed 11), diverged at step 3 (seed 13)" in caplog.text
    assert evaluation.to_dict()["invalid"][0]["step"] == 3
    with pytest.raises(SimulationDivergedError, match="all 1 episodes diverged"):
        evaluate(stand_still, FRAGILE, seed=11, num_episodes=1, num_workers=1, progress=False)


@pytest.mark.slow
def test_torchrls_collector_and_parallel_environments_report_the_divergence(capfd):
    collector = Collector(make_fragile, stand_still, frames_per_batch=10, total_frames=10)
    with pytest.raises(SimulationDivergedError, match="diverged in step 3"):
        next(iter(collector))
    collector.shutdown()

    parallel = ParallelEnv(1, make_fragile, mp_start_method="spawn")
    parallel.reset()
    # A worker of ParallelEnv cannot pass an exception on: it prints the error and ends, which the parent notices.
    with pytest.raises(RuntimeError, match="worker"):
        step_three_times(parallel)
    with contextlib.suppress(RuntimeError, ValueError):  # closing may raise again
        parallel.close(raise_if_closed=False)
    assert "SimulationDivergedError: FrankaReachRandom-v0 diverged in step 3" in capfd.readouterr().err


def step_three_times(parallel):
    for _ in range(3):
        parallel.step(TensorDict({"action": torch.zeros(1, 9)}, [1]))
