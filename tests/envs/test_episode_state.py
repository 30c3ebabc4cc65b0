"""Seeds and checkpoints of every RoboHive family, bit for bit; ids whose assets are not installed are skipped."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.env_conformance import check_env, random_actions, run_episode, run_steps
from rlhive.errors import CheckpointMismatchError, InvalidOptionError, StateNotCapturedError
from tests.envs import families


@pytest.mark.parametrize("env_name", families.ALL)
def test_seeds_checkpoints_and_replays_are_exact(env_name):
    outcome = check_env(env_name)
    if outcome.seeds == "assets":
        pytest.skip(f"{env_name}: {families.NO_ASSETS}")

    assert (outcome.seeds, outcome.checkpoint, outcome.replay) == ("exact", "exact", "exact")


@pytest.mark.parametrize("env_name", ["FrankaReachRandom-v0", "myoChallengeChaseTagP2-v0", "MyoHandAppleRandom-v0"])
def test_another_process_gives_the_same_episode(build, env_name):
    env = build(env_name, max_episode_steps=20)
    expected = b"".join(td["observation"].numpy().tobytes() for td in run_episode(env, seed=7))
    code = f"""
import sys
import numpy as np
from benchmarks.env_conformance import run_episode
from rlhive.envs import RoboHiveEnv
np.random.seed(99)
env = RoboHiveEnv({env_name!r}, max_episode_steps=20)
sys.stdout.buffer.write(b"".join(td["observation"].numpy().tobytes() for td in run_episode(env, seed=7)))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert answer.stdout == expected


def test_the_first_episode_is_that_of_a_new_robohive_environment(build):
    """Every later one too: each reset starts from the state of construction."""
    import gymnasium

    env = build("baoding-v1", seed=0)
    raw = gymnasium.make("baoding-v1", seed=0).unwrapped
    raw.seed(3)
    expected = raw.reset()
    for _ in range(2):
        observation = env.reset(seed=3)["observation"].numpy()
        np.testing.assert_array_equal(observation, expected[0] if isinstance(expected, tuple) else expected)
        run_steps(env, random_actions(env)[:5])


def test_building_and_resetting_leave_numpys_global_generator_alone(build):
    np.random.seed(4)
    expected = np.random.rand(3)
    np.random.seed(4)
    env = build("FrankaReachRandom-v0")
    env.reset(seed=1)

    np.testing.assert_array_equal(np.random.rand(3), expected)


def test_checkpoints_of_an_id_have_the_same_parts_everywhere(build):
    sizes = [
        {key: len(values) for key, values in build("baoding-v1", seed=seed).get_state().items()} for seed in (1, 2)
    ]

    assert sizes[0] == sizes[1]
    assert sizes[0]["counter"] == 1
    kitchen = build("FK1_Knob1OnRandom-v4").get_state()
    assert list(kitchen) == ["integration", "body_pos", "body_quat", "site_pos", "site_quat", "obj_goal"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda task: task.sim.model.body_mass.__setitem__(3, 9.0), "body_mass"),
        (lambda task: setattr(task, "n_shifts_per_period", 4), "n_shifts_per_period"),
    ],
)
def test_what_a_checkpoint_would_lack_is_refused(build, change, named):
    env = build("baoding-v1", seed=0, state=True)
    change(env.unwrapped)

    with pytest.raises(
        StateNotCapturedError, match=f"baoding-v1: a checkpoint would lack {named}, which is not as it was"
    ):
        env.get_state()
    with pytest.raises(StateNotCapturedError):
        env.reset()
    env.close()


@pytest.mark.parametrize(
    ("value", "says"), [(0.5, "counter is 0.5, expected an integer"), (np.nan, r"counter\[0\] is nan")]
)
def test_impossible_values_of_a_task_are_refused(build, value, says):
    env = build("baoding-v1", seed=0)
    env.reset(seed=1)

    with pytest.raises(CheckpointMismatchError, match=says):
        env.set_state({**env.get_state(), "counter": np.array([value])})


def test_fatigue_starts_anew_or_is_kept_by_choice(build):
    fresh = build("myoFatiElbowPose1D6MRandom-v0", max_episode_steps=20)
    tired = build("myoFatiElbowPose1D6MRandom-v0", max_episode_steps=20, keep_fatigue=True)
    first, second = (run_episode(tired, seed=7) for _ in range(2))

    assert torch.equal(first[-1]["observation"], run_episode(fresh, seed=7)[-1]["observation"])
    assert not torch.equal(first[-1]["observation"], second[-1]["observation"])
    assert tired.provenance()["env_kwargs"]["keep_fatigue"] is True
    assert "keep_fatigue" not in fresh.provenance()["env_kwargs"]
    with pytest.raises(StateNotCapturedError, match="keeps its fatigue over resets"):
        tired.get_state()


def test_only_tasks_with_fatigue_keep_it(build):
    with pytest.raises(InvalidOptionError, match="FrankaReachRandom-v0 has no fatigue"):
        build("FrankaReachRandom-v0", keep_fatigue=True)
