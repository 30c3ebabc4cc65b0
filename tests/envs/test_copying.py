"""Copies of a RoboHive environment go on as the original does, in a simulator of their own."""

import copy
import pickle

import pytest
import torch

from rlhive.errors import EnvClosedError

KNOB = "FK1_Knob1OnRandom-v4"


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", [KNOB, "FrankaReachRandom-v0"])
def test_a_copy_goes_on_as_the_original_does(make, how, name):
    env = make(name, seed=3, obs_keys=["time"] if name != KNOB else ["robot_jnt"], dtype=torch.float32)
    actions = torch.rand(8, *env.action_spec.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    td = env.reset()
    for action in actions[:3]:
        td = env.step(td.set("action", action))["next"]
    copied = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda it: pickle.loads(pickle.dumps(it))}[how](
        env
    )

    assert copied.unwrapped is not env.unwrapped
    assert copied._data is copied.unwrapped.sim.data.ptr
    assert copied._elapsed == env._elapsed == 3
    for action in actions[3:]:
        got, expected = (each.step(td.clone().set("action", action))["next"] for each in (copied, env))
        for key in expected.keys(True, True):
            assert torch.equal(got[key], expected[key]), key
    for _ in range(2):  # the same random stream
        got, expected = copied.reset(), env.reset()
        for key in expected.keys(True, True):
            assert torch.equal(got[key], expected[key]), key
    state = env.get_state()
    copied.step(copied.reset().set("action", actions[0]))
    assert all((state[key] == value).all() for key, value in env.get_state().items()), "the copy moved the original"
    copied.close()
    assert torch.isfinite(env.reset()["observation"]).all()


def test_arguments_are_kept(make):
    env = make(KNOB, info_keys=["dense"], frame_skip=20, max_episode_steps=7, state=True)
    copied = copy.deepcopy(env)

    assert copied.provenance() == env.provenance()
    assert copied.horizon == 7
    assert set(copied.reset().keys(True, True)) == set(env.reset().keys(True, True))
    copied.close()


def test_a_closed_environment_is_not_copied(make):
    env = make(KNOB)
    env.close()

    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(EnvClosedError, match="is closed: expected an open environment to copy"):
            copying(env)
