"""RoboHiveEnv compared with RoboHive by values."""

import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import check_env_specs

from rlhive import keys
from rlhive.errors import InvalidActionError, SimulationDivergedError

KNOB = "FK1_Knob1OnRandom-v4"


@pytest.fixture(scope="module")
def env(make):
    return make(seed=0, obs_keys=["robot_jnt", "knob1_site_err"])


@pytest.fixture(scope="module")
def other(make):
    """Another instance of the same environment, built with another seed."""
    return make(seed=77)


@pytest.fixture(scope="module")
def actions():
    return torch.as_tensor(np.random.default_rng(5).uniform(-1, 1, (60, 9)), dtype=torch.float32)


def run(env, actions):
    """Step from where the environment is; returns the stacked TensorDicts under ``next``."""
    return torch.stack([step(env, action) for action in actions])


def step(env, action):
    return env.step(TensorDict({keys.ACTION: action}, [], device=env.device))[keys.NEXT]


def digest(stacked):
    return hashlib.sha256(
        stacked[keys.OBSERVATION].numpy().tobytes() + stacked[keys.REWARD].numpy().tobytes()
    ).hexdigest()


def assert_same(left, right, names=(keys.OBSERVATION, keys.REWARD, keys.SUCCESS, keys.DONE)):
    for name in names:
        assert torch.equal(left[name], right[name]), name


def test_keeps_the_torchrl_contract(env):
    check_env_specs(env)


def test_observations_and_rewards_are_robohives(env, actions):
    import gymnasium

    raw = gymnasium.make(KNOB)
    raw.unwrapped.seed(3)
    expected, _ = raw.reset()
    env.set_seed(3)
    start = env.reset()
    np.testing.assert_array_equal(start[keys.OBSERVATION].numpy(), expected)
    for index in range(50):
        observation, reward, terminated, truncated, info = raw.step(actions[index].numpy())
        got = step(env, actions[index])
        np.testing.assert_array_equal(got[keys.OBSERVATION].numpy(), observation)
        np.testing.assert_array_equal(got["robot_jnt"].numpy(), info["obs_dict"]["robot_jnt"])
        np.testing.assert_array_equal(got["knob1_site_err"].numpy(), info["obs_dict"]["knob1_site_err"])
        assert got[keys.REWARD].dtype == torch.float64
        assert got[keys.REWARD].item() == reward
        assert got[keys.SUCCESS].item() == info["solved"]
        flags = [got[key].item() for key in (keys.TERMINATED, keys.TRUNCATED, keys.DONE)]
        assert flags == [terminated, truncated, terminated or truncated]
    assert flags == [False, True, True]
    assert start[keys.OBSERVATION].shape == (75,)


def test_a_seed_gives_the_same_episode_again(env, other, actions):
    env.set_seed(11)
    first = env.reset()
    episode = run(env, actions[:20])
    assert_same(env.reset(seed=11), first, [keys.OBSERVATION])
    assert_same(run(env, actions[:20]), episode)
    other.set_seed(11)
    assert_same(other.reset(), first, [keys.OBSERVATION])
    assert_same(run(other, actions[:20]), episode)
    assert not torch.equal(env.reset(seed=12)[keys.OBSERVATION], first[keys.OBSERVATION])
    assert not torch.equal(env.reset()[keys.OBSERVATION], env.reset()[keys.OBSERVATION])


def test_a_new_process_gives_the_same_episode_and_prints_nothing(env, actions):
    code = f"""
import hashlib, numpy as np, torch
from tensordict import TensorDict
from rlhive.rl_envs import RoboHiveEnv
env = RoboHiveEnv({KNOB!r})
env.set_seed(21)
env.reset()
actions = torch.as_tensor(np.random.default_rng(5).uniform(-1, 1, (60, 9)), dtype=torch.float32)
steps = torch.stack([env.step(TensorDict({{"action": a}}, []))["next"] for a in actions[:20]])
digest = hashlib.sha256(steps["observation"].numpy().tobytes() + steps["reward"].numpy().tobytes()).hexdigest()
env.close()
import sys
sys.stderr.write(digest)
"""
    env.set_seed(21)
    env.reset()
    expected = digest(run(env, actions[:20]))
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert answer.stdout == ""
    assert answer.stderr == expected  # and so no banner, no complaint about a display


def test_frame_skip_changes_the_simulated_time(make, env, actions):
    env.reset()
    step(env, actions[0])
    assert env.unwrapped.sim.data.time == pytest.approx(40 * 0.002, abs=1e-12)
    assert env.dt == 0.08
    quick = make(frame_skip=10)
    quick.reset()
    step(quick, actions[0])
    assert quick.unwrapped.sim.data.time == pytest.approx(10 * 0.002, abs=1e-12)
    assert quick.provenance()["frame_skip"] == 10
    assert quick.provenance()["dt"] == pytest.approx(0.02)


def test_a_frame_skip_that_robohive_does_not_keep_is_an_error():
    from rlhive.envs._robohive import _require_substeps

    # 0.57 / 0.01 is a little less than 57 in floating point, and RoboHive truncates.
    rounded = SimpleNamespace(dt=0.57, sim=SimpleNamespace(step_duration=0.01))
    assert _require_substeps(rounded, None) == 56
    with pytest.raises(ValueError, match="frame_skip is 57, but RoboHive simulates 56 steps"):
        _require_substeps(rounded, 57)


def test_float32_is_the_rounded_float64(make, env, actions):
    single = make(dtype=torch.float32, max_episode_steps=4)
    start, exact = single.reset(seed=4), env.reset(seed=4)
    assert torch.equal(start[keys.OBSERVATION], exact[keys.OBSERVATION].float())
    got, expected = run(single, actions[:4]), run(env, actions[:4])
    assert torch.equal(got[keys.OBSERVATION], expected[keys.OBSERVATION].float())
    assert torch.equal(got[keys.REWARD], expected[keys.REWARD].float())
    assert single.horizon == 4
    assert got[keys.TRUNCATED].flatten().tolist() == [False, False, False, True]


def test_unknown_observation_names_are_refused(make):
    with pytest.raises(ValueError, match=r"no observation 'robot_joints'.*robot_jnt"):
        make(obs_keys=["robot_joints"])


def test_info_and_state_are_returned_on_request_and_correct_at_reset(make, actions):
    env = make(info_keys=["dense", "approach", "solved"], state=True, seed=4)
    check_env_specs(env)
    env.set_seed(4)
    start = env.reset()
    rewards = env.unwrapped.rwd_dict
    assert start["info", "approach"].item() == rewards["approach"] < 0
    checkpoint = start["state"].clone()
    stepped = run(env, actions[:3])
    np.testing.assert_array_equal(stepped["info", "dense"].numpy(), stepped[keys.REWARD].numpy())
    assert not torch.equal(stepped["state", "integration"][0], stepped["state", "integration"][1])
    # The state of a TensorDict is a checkpoint: from it the same actions give the same episode.
    again = env.set_state(checkpoint)
    assert_same(again, start, (keys.OBSERVATION,))
    assert_same(run(env, actions[:3]), stepped)
    assert torch.equal(checkpoint["integration"], start["state", "integration"])


def test_unknown_info_is_refused_with_the_valid_names(make):
    with pytest.raises(ValueError, match="no info 'rwd': expected names out of approach, bonus, dense"):
        make(info_keys=["rwd"])


def test_a_reset_may_return_the_observation_only(env, monkeypatch):
    """As with the four Adroit tasks."""
    expected = env.reset(seed=9)
    reset = env.unwrapped.reset
    monkeypatch.setattr(env.unwrapped, "reset", lambda: reset()[0])
    assert_same(env.reset(seed=9), expected, [keys.OBSERVATION, keys.SUCCESS])


def test_success_is_true_at_a_reset_into_a_solved_state(env, monkeypatch):
    assert not env.reset(seed=0)[keys.SUCCESS]
    kitchen = env.unwrapped
    monkeypatch.setattr(kitchen, "obj_goal", kitchen.init_qpos[kitchen.obj["dof_adrs"]].copy())
    assert env.reset(seed=0)[keys.SUCCESS]


def test_an_end_of_the_task_is_terminated_not_truncated(make):
    reach = make("FrankaReachRandom-v0", seed=0)
    reach.reset()
    go_on = step(reach, torch.zeros(9))
    assert [go_on[key].item() for key in keys.END_FLAGS] == [False, False, False]
    # It gives up where the target is more than a metre away.
    reach.unwrapped.sim.model.site_pos[reach.unwrapped.target_sid] += 2
    end = step(reach, torch.zeros(9))
    assert [end[key].item() for key in (keys.TERMINATED, keys.TRUNCATED, keys.DONE)] == [True, False, True]


def test_returned_tensors_share_no_memory(env, actions):
    env.reset(seed=1)
    first = step(env, actions[0])
    copy = first.clone()
    step(env, actions[1])
    assert_same(first, copy)
    reference = run_after(env, 1, actions, spoil=False)
    assert_same(run_after(env, 1, actions, spoil=True), reference)
    part = step(env, actions[2])["robot_jnt"]
    part.zero_()
    assert np.abs(env.unwrapped.obs_dict["robot_jnt"]).max() > 0


def run_after(env, seed, actions, *, spoil):
    """Two steps; where spoilt, everything that was returned is overwritten in between."""
    returned = [env.reset(seed=seed), step(env, actions[0])]
    if spoil:
        for tensordict in returned:
            tensordict.apply_(torch.zero_)
    return step(env, actions[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0001, -1.5])
def test_a_wrong_action_is_refused_and_named(env, value):
    env.reset()
    action = torch.zeros(9)
    action[6] = value
    before = env.get_state()["integration"]
    with pytest.raises(InvalidActionError, match=r"action\[6\] is"):
        step(env, action)
    np.testing.assert_array_equal(env.get_state()["integration"], before)


def test_an_action_of_another_shape_is_refused(env):
    env.reset()
    with pytest.raises(InvalidActionError, match=r"shape \(9,\), got \(7,\)"):
        step(env, torch.zeros(7))


@pytest.mark.parametrize(("value", "normalized"), [(-0.01, False), (1.01, False), (-1.01, True)])
def test_an_action_outside_the_muscles_ranges_is_refused(build, value, normalized):
    """Activations are 0.001 to 1 as they are, and -1 to 1 normalized; the simulator would clip them in silence."""
    muscles = build("myoElbowPose1D6MRandom-v0", normalize_act=normalized)
    muscles.reset(seed=0)
    action = torch.full((6,), 0.5)
    step(muscles, action)
    action[4] = value
    expected = rf"in step 2, expected a number in \[{-1 if normalized else 0.001}, 1\]"
    with pytest.raises(InvalidActionError, match=rf"action\[4\] is .* {expected}"):
        step(muscles, action)


def test_a_blown_up_simulation_is_an_error(env):
    from rlhive.envs._robohive import RoboHiveWarning

    env.reset()
    env.unwrapped.sim.data.qvel[:] = 1e12
    with pytest.warns(RoboHiveWarning), pytest.raises(SimulationDivergedError, match="diverged in step 1"):
        step(env, torch.zeros(9))
    env.reset(seed=0)
    step(env, torch.zeros(9))


def test_an_episode_continues_bit_for_bit_from_a_state_in_another_instance(env, other, actions):
    from rlhive.envs.experts._experts import make_scripted_policy

    env.set_seed(8)
    env.rollout(25, make_scripted_policy(env, "expert"))
    assert env.unwrapped.sim.data.ptr.ncon > 0
    observation, state = env.unwrapped.get_obs(), env.get_state()
    assert all(value.dtype == np.float64 and value.ndim == 1 for value in state.values())
    expected = run(env, actions[:30])
    other.reset()
    step(other, actions[0])
    resumed = other.set_state(state)
    np.testing.assert_array_equal(resumed[keys.OBSERVATION].numpy(), observation)
    assert_same(run(other, actions[:30]), expected)
    # 25 + 25 steps are the horizon, whichever instance made them.
    assert expected[keys.TRUNCATED].flatten().tolist().index(True) == 24
    env.set_state(state)
    assert_same(run(env, actions[:30]), expected)


def test_a_state_of_another_environment_is_refused(make, env):
    reach = make("FrankaReachRandom-v0")
    with pytest.raises(ValueError, match="expected a state with"):
        env.set_state(reach.get_state())


def test_the_provenance_identifies_the_environment(make, env, other):
    provenance = json.loads(json.dumps(other.provenance()))
    assert provenance["env_name"] == KNOB
    assert provenance["horizon"] == 50
    assert provenance["versions"]["robohive"] == "0.7.0"
    assert provenance["versions"]["mujoco"] == "3.1.3"
    # The robot stands elsewhere after a reset; the model's hash is of the model as it was compiled.
    env.reset(seed=6)
    assert provenance["model_hash"] == env.provenance()["model_hash"]
    reach = make("FrankaReachRandom-v0", seed=0)
    assert provenance["model_hash"] != reach.provenance()["model_hash"]


def test_a_closed_environment_still_has_its_repr(make):
    env = make("FrankaReachRandom-v0")
    env.close()

    assert repr(env) == "RoboHiveEnv('FrankaReachRandom-v0', horizon=50, device=cpu)"
