"""Several environments that step in threads: every row is that of an environment alone, bit for bit."""

import threading

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv, StepCounter, TransformedEnv, check_env_specs

from rlhive import Recorder, keys
from rlhive.envs import RoboHiveEnv, RoboHiveVectorEnv, make_env, make_policy
from rlhive.envs._batched import BatchedPolicy
from rlhive.errors import (
    EnvClosedError,
    InvalidActionError,
    InvalidOptionError,
    RoboHiveMissingError,
    SimulationDivergedError,
)
from rlhive.rollouts import replay_episode
from tests.envs import families

REACH = "FrankaReachRandom-v0"
SHORT = {"max_episode_steps": 8}


@pytest.fixture
def make_vector():
    """Build vector environments, and close them after the test; skip where assets are missing."""
    built = []

    def make_vector(env_name=REACH, num_envs=2, **kwargs):
        try:
            built.append(RoboHiveVectorEnv(env_name, num_envs, **{**SHORT, **kwargs}))
        except RoboHiveMissingError as missing:
            pytest.skip(f"{missing}")
        return built[-1]

    yield make_vector
    for env in built:
        env.close(raise_if_closed=False)


@pytest.fixture(scope="module")
def vector():
    """Two environments in two threads, which tests share."""
    env = RoboHiveVectorEnv(REACH, 2, num_threads=2, **SHORT)
    yield env
    env.close()


def random_actions(env, num_steps):
    low, high = env.action_spec.space.low.numpy(), env.action_spec.space.high.numpy()
    actions = np.random.default_rng(3).uniform(low, high, (num_steps, *low.shape))
    return torch.as_tensor(actions, dtype=torch.float32).clamp(torch.as_tensor(low), torch.as_tensor(high))


def run(env, actions):
    """Step through episode ends, as collectors do; return root and next of every step, [num_envs, time]."""
    tensordict, steps = env.reset(), []
    for action in actions:
        stepped, tensordict = env.step_and_maybe_reset(tensordict.set(keys.ACTION, action))
        steps.append(stepped.clone())
    return torch.stack(steps, 1)


def require_equal(left, right):
    names = set(left.keys(True, True))
    assert names == set(right.keys(True, True))
    for name in names:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    "env_name", [REACH, *(pytest.param(name, marks=pytest.mark.slow) for name in families.ONE_EACH if name != REACH)]
)
def test_rows_equal_those_of_environments_alone_through_episode_ends(make_vector, env_name):
    env = make_vector(env_name, num_threads=2)
    serial = SerialEnv(2, [lambda: RoboHiveEnv(env_name, **SHORT)] * 2)
    assert env.set_seed(5) == serial.set_seed(5)
    actions = random_actions(env, 20)

    require_equal(run(env, actions), run(serial, actions))
    serial.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs",
    [
        {"obs_keys": ["reach_err"], "info_keys": ["dense"], "state": True},
        {"dtype": torch.float32},
        {"num_threads": 1},
    ],
    ids=["keys", "dtype", "one thread"],
)
def test_arguments_are_those_of_one_environment(make_vector, kwargs):
    env = make_vector(**kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "num_threads"}
    serial = SerialEnv(2, [lambda: RoboHiveEnv(REACH, **SHORT, **rest)] * 2)
    env.set_seed(5)
    serial.set_seed(5)
    actions = random_actions(env, 10)

    require_equal(run(env, actions), run(serial, actions))
    serial.close()


@pytest.mark.slow
def test_pictures_are_drawn_in_this_thread(make_vector, opengl):
    pixels = {"from_pixels": True, "cameras": ["left_cam"], "image_size": (12, 16), "render_quality": "fast"}
    env = make_vector(num_envs=2, num_threads=2, **pixels)
    env.set_seed(5)
    rollout = env.rollout(3)
    alone = RoboHiveEnv(REACH, **SHORT, **pixels)
    alone.set_seed(5)

    assert rollout[keys.PIXELS].shape == (2, 3, 1, 12, 16, 3)
    tensordict = alone.reset()
    for step in range(3):
        tensordict = alone.step(tensordict.set(keys.ACTION, rollout[keys.ACTION][0, step]))[keys.NEXT]
        assert torch.equal(tensordict[keys.PIXELS], rollout[keys.NEXT, keys.PIXELS][0, step])
    alone.close()


def test_specs_hold(vector):
    check_env_specs(vector)


def test_environments_are_stepped_in_several_threads(vector, monkeypatch):
    """One thread waits until another has taken an environment."""
    barrier = threading.Barrier(2, timeout=60)
    original = RoboHiveEnv.step_arrays

    def step_arrays(self, action):
        barrier.wait()
        return original(self, action)

    monkeypatch.setattr(RoboHiveEnv, "step_arrays", step_arrays)
    assert vector.rollout(2).batch_size == (2, 2)


def test_a_wrong_action_is_refused_before_any_environment_steps(vector):
    env = vector
    start = env.reset()
    action = torch.zeros(env.action_spec.shape)
    action[1, 4] = torch.nan
    before = env.get_state()

    with pytest.raises(InvalidActionError, match=r"^Environment 1: FrankaReachRandom-v0: action\[4\] is nan in step 1"):
        env.step(start.set(keys.ACTION, action))
    for state, other in zip(before, env.get_state(), strict=True):
        np.testing.assert_array_equal(state["integration"], other["integration"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("index", [0, 1])
def test_a_diverged_simulation_is_named_from_any_thread(vector, index):
    env = vector
    start = env.reset()
    env.envs[index].unwrapped.sim.data.qvel[:] = 1e12

    with pytest.raises(SimulationDivergedError, match=f"^Environment {index}: .* diverged in step 1") as raised:
        env.step(start.set(keys.ACTION, torch.zeros(env.action_spec.shape)))
    assert raised.value.step == 1


@pytest.mark.slow
def test_checkpoints_go_on(make_vector):
    env = make_vector(seed=1)
    actions = random_actions(env, 6)
    tensordict = env.reset()
    for action in actions[:3]:
        tensordict = env.step(tensordict.set(keys.ACTION, action))[keys.NEXT]
    states = env.get_state()
    other = make_vector(seed=9)
    other.reset()
    restored = other.set_state(states)
    for action in actions[3:]:
        tensordict = env.step(TensorDict({keys.ACTION: action}, [2]))[keys.NEXT]
        restored = other.step(TensorDict({keys.ACTION: action}, [2]))[keys.NEXT]
        require_equal(tensordict, restored)


@pytest.mark.parametrize(("name", "value"), [("num_envs", 0), ("num_envs", 2.5), ("num_threads", 0)])
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(InvalidOptionError, match=f"{name} is {value}, expected an integer, 1 or more"):
        RoboHiveVectorEnv(REACH, **{"num_envs": 2, name: value})


@pytest.mark.slow
def test_make_env_builds_them_and_policies_act_on_each():
    env = make_env("reach", num_envs=2, **SHORT)
    policy = make_policy(TransformedEnv(env, StepCounter()), "expert")
    policy.begin_episode(4)
    env.set_seed(2, static_seed=True)
    rollout = env.rollout(6, policy, break_when_any_done=False)
    alone = make_env("reach", **SHORT)
    one = make_policy(alone, "expert")
    one.begin_episode(4)
    alone.set_seed(2)

    assert isinstance(policy, BatchedPolicy)
    assert torch.equal(rollout[keys.ACTION][0], alone.rollout(6, one)[keys.ACTION])
    env.close()
    alone.close()


def test_num_envs_is_for_tasks_of_robohive():
    with pytest.raises(InvalidOptionError, match="num_envs of toy_point: expected a task of RoboHive"):
        make_env("toy_point", num_envs=2)


@pytest.mark.slow
def test_recorders_find_start_state_and_seed_of_every_episode(make_vector, tmp_path):
    env = make_vector()
    env.set_seed(3)
    with Recorder(tmp_path / "recording", env=env) as recorder:  # before the collector resets the environments
        collector = Collector(env, frames_per_batch=32, total_frames=32)
        for batch in collector:
            recorder.extend(batch)
    records = list(recorder.recording.sorted_records())

    assert [record.length for record in records] == [8] * 4
    assert all(record.start_state for record in records)
    assert [record.seed is None for record in records].count(False) == 2
    alone = RoboHiveEnv(REACH, **SHORT)
    assert [replay_episode(alone, record).verdict for record in records] == ["bit-exact"] * 4
    alone.close()


@pytest.mark.slow
def test_closing_ends_the_threads_and_frees_the_simulators(make_vector):
    env = make_vector(num_threads=2)
    env.rollout(2)
    env.close()

    assert env.is_closed
    assert all(each.is_closed for each in env.envs)
    with pytest.raises(EnvClosedError):
        env.reset()
