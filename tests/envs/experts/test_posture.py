"""The expert of the Franka arm with a Robotiq gripper, which takes RoboHive's target pose."""

import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._make import make_policy
from rlhive.envs._tasks import TUNING_SEED
from rlhive.rollouts._rollout import rollout_episode


@pytest.fixture(scope="module")
def env(make):
    return make("rpFrankaRobotiqPoseRandom-v0")


def test_the_expert_takes_the_pose_and_stays(env):
    episode = rollout_episode(env, make_policy(env, "expert"), seed=TUNING_SEED + 14)

    assert episode.transitions[keys.NEXT, keys.SUCCESS][-20:].all()
    # Without the weight of the arm in the command, its joints stay 0.1 rad off.
    error = env.unwrapped.sim.data.qpos[:7] - env.unwrapped.target_pose[:7]
    assert np.abs(error).max() < 0.05


def test_a_policy_that_gives_up_holds_the_arm_where_it_is(env):
    policy = make_policy(env, "expert")
    env.set_seed(TUNING_SEED)
    state = env.step(policy(env.reset()))[keys.NEXT]
    before = env.unwrapped.sim.data.qpos[:7].copy()
    for _ in range(15):
        env.step(state.set(keys.ACTION, torch.tensor(policy.hold_still(), dtype=torch.float32)))
    assert np.abs(env.unwrapped.sim.data.qpos[:7] - before).max() < 0.1
