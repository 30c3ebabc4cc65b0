"""The experts of MyoSuite's models: activations by least squares, inverse kinematics, and solved episodes."""

import mujoco
import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._make import make_policy
from rlhive.envs._tasks import TUNING_SEED
from rlhive.envs.experts._muscles import MuscleController, MuscleParameters, TipKinematics, _solve_activations
from rlhive.rollouts._rollout import rollout_episode

ELBOW = "myoElbowPose1D6MRandom-v0"
FINGER = "myoFingerPoseRandom-v0"

#: A forearm that a flexor and an extensor turn about a horizontal axis.
FOREARM = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.002"/>
  <worldbody>
    <site name="front" pos="0.03 0 0.2"/>
    <site name="back" pos="-0.03 0 0.2"/>
    <site name="target" pos="0.2 0 0.2"/>
    <body>
      <joint name="elbow" axis="0 1 0" range="-1.5 1.5" limited="true" damping="0.5" armature="0.01"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.02" mass="1"/>
      <site name="flexor" pos="0.03 0 -0.05"/>
      <site name="extensor" pos="-0.03 0 -0.05"/>
      <site name="hand" pos="0 0 -0.3"/>
    </body>
  </worldbody>
  <tendon>
    <spatial name="flexor"><site site="front"/><site site="flexor"/></spatial>
    <spatial name="extensor"><site site="back"/><site site="extensor"/></spatial>
  </tendon>
  <actuator>
    <muscle tendon="flexor" force="300" lengthrange="0.15 0.3"/>
    <muscle tendon="extensor" force="300" lengthrange="0.15 0.3"/>
  </actuator>
</mujoco>
"""


@pytest.fixture(scope="module")
def forearm():
    return mujoco.MjModel.from_xml_string(FOREARM)


def test_activations_are_the_best_ones_between_0_and_1():
    from scipy.optimize import lsq_linear

    draw = np.random.default_rng(0)
    for _ in range(20):
        slope, target = draw.normal(size=(4, 7)), draw.normal(size=4)
        stacked, values = np.vstack([slope, 0.1 * np.eye(7)]), np.append(target, np.zeros(7))
        best = lsq_linear(stacked, values, (0.0, 1.0), method="bvls").x
        np.testing.assert_allclose(_solve_activations(slope, target, 0.1), best, atol=1e-6)


@pytest.mark.parametrize("goal", [-0.7, 0.0, 0.7])
def test_muscles_hold_a_joint_at_its_goal_against_gravity(forearm, goal):
    data, substeps = mujoco.MjData(forearm), 10
    controller = MuscleController(forearm, substeps * forearm.opt.timestep, MuscleParameters(rate=5.0, effort=0.01))
    mujoco.mj_forward(forearm, data)
    for _ in range(150):
        data.ctrl[:] = controller.compute_activations(data, np.array([goal]))
        mujoco.mj_step(forearm, data, substeps)
        mujoco.mj_forward(forearm, data)
    assert ((data.ctrl >= 0) & (data.ctrl <= 1)).all()
    assert abs(data.qpos[0] - goal) < 0.02
    assert abs(data.qvel[0]) < 0.05


def test_the_kinematics_brings_a_site_as_near_as_the_joint_allows(forearm):
    kinematics = TipKinematics(forearm, [forearm.site("hand").id])

    np.testing.assert_allclose(kinematics.solve(np.zeros(1), np.array([[-0.3, 0.0, 0.0]])), [1.48], atol=1e-6)
    angle = kinematics.solve(np.zeros(1), np.array([[0.3 * np.sin(-0.5), 0.0, -0.3 * np.cos(0.5)]]))
    np.testing.assert_allclose(angle, [0.5], atol=1e-3)


@pytest.mark.parametrize("env_name", [ELBOW, FINGER])
def test_the_expert_solves_unseen_seeds_and_stays_at_the_pose(build, env_name):
    env = build(env_name)
    expert = make_policy(env, "expert")
    for seed in range(TUNING_SEED + 100, TUNING_SEED + 103):
        success = rollout_episode(env, expert, seed=seed).transitions[keys.NEXT, keys.SUCCESS]
        assert success[-20:].all(), seed


@pytest.mark.slow
def test_the_expert_reaches_with_five_fingertips(build):
    env = build("myoHandReachRandom-v0")
    expert = make_policy(env, "expert")
    episodes = [rollout_episode(env, expert, seed=TUNING_SEED + index) for index in range(8)]
    assert sum(episode.success for episode in episodes) >= 6


def test_an_action_is_a_function_of_the_state(build):
    env, other = build(FINGER), build(FINGER, seed=5)
    policy, fresh = make_policy(env, "medium"), make_policy(other, "medium")
    env.set_seed(3)
    state = env.reset()
    policy.begin_episode(3)
    for _ in range(5):
        state = env.step(policy(state))[keys.NEXT]
    fresh.begin_episode(3)
    assert torch.equal(policy(state)[keys.ACTION], fresh(other.set_state(env.get_state()))[keys.ACTION])


def test_a_policy_that_gives_up_relaxes_its_muscles(build):
    env = build(ELBOW)
    env.reset()
    assert not make_policy(env, "expert").hold_still().any()
