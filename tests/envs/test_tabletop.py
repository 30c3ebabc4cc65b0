"""Taking objects off a table: every state says for itself which part of the way comes next."""

import mujoco
import numpy as np
import pytest

from rlhive.envs.experts import TopplePolicy, _table
from rlhive.envs.kinematics import ARM
from rlhive.envs.tabletop import Topple, ToppleParameters, _downward

PUSH = "FrankaPushRandom-v0"


@pytest.fixture(scope="module")
def push():
    from rlhive.envs.robohive import RoboHiveEnv

    env = RoboHiveEnv(PUSH, seed=0)
    yield env
    env.close()


@pytest.fixture
def topple(push):
    push.reset(seed=1)
    return Topple(push.unwrapped, ToppleParameters(**_table()[PUSH]["expert"]))


def laid_down(push):
    """Lay the box on its narrow side, as it lies after it was pulled over."""
    data = push.unwrapped.sim.data.ptr
    data.qpos[9:15] = [0.0, -0.045, 0.005, np.pi / 2, 0.0, 0.0]
    mujoco.mj_forward(push.unwrapped.sim.model.ptr, data)
    return data


def put_gripper(push, topple, position):
    data = push.unwrapped.sim.data.ptr
    posture, off, _ = topple._solve(position, _downward(np.array([1.0, 0.0])), np.full(3, 0.05), data.qpos[ARM].copy())
    assert off < 0.005
    data.qpos[ARM] = posture
    mujoco.mj_forward(push.unwrapped.sim.model.ptr, data)


def test_a_downward_gripper_has_its_fingers_along_the_given_direction():
    rotation = _downward(np.array([0.6, 0.8]) * 3)
    np.testing.assert_allclose(rotation[:, 1], [0.6, 0.8, 0.0])
    np.testing.assert_allclose(rotation[:, 2], [0.0, 0.0, -1.0])
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)


def test_a_standing_box_cannot_be_solved_where_it_stands(push):
    """RoboHive's target is 5 cm and more below the middle of the standing box, which is why it is laid down."""
    push.reset(seed=1)
    kitchen = push.unwrapped
    data = kitchen.sim.data.ptr
    mujoco.mj_step(kitchen.sim.model.ptr, data, 400)
    assert data.site_xpos[kitchen.object_sid][2] - data.site_xpos[kitchen.target_sid][2] > 0.06


def test_a_standing_box_is_pulled_over_with_closed_fingers(push, topple):
    data = push.unwrapped.sim.data.ptr
    change, grip = topple.towards(data)
    ahead = topple._way[1] - data.qpos[ARM]
    assert grip == 0.0
    np.testing.assert_allclose(change, ahead * 0.27 / np.abs(ahead).max(), atol=1e-6)


def test_a_lying_box_is_approached_from_above_with_open_fingers_that_close_around_it(push, topple):
    data = laid_down(push)
    box = data.site_xpos[push.unwrapped.object_sid].copy()
    assert topple.towards(data)[1] == 0.04
    put_gripper(push, topple, box + np.array([0.0, 0.0, 0.026]))
    data.qpos[7:9] = 0.04
    mujoco.mj_forward(push.unwrapped.sim.model.ptr, data)
    change, grip = topple.towards(data)
    assert grip == 0.0
    assert np.abs(change).max() < 0.06


def test_what_both_fingers_touch_is_carried_towards_the_target(push, topple):
    data = laid_down(push)
    kitchen = push.unwrapped
    box = data.site_xpos[kitchen.object_sid].copy()
    put_gripper(push, topple, box + np.array([0.0, 0.0, 0.026]))
    for fingers, holds in ((0.024, False), (0.0208, True)):
        data.qpos[7:9] = fingers
        mujoco.mj_forward(kitchen.sim.model.ptr, data)
        assert topple._holds(data, box - data.site_xpos[kitchen.grasp_sid]) == holds
    change, grip = topple.towards(data)
    assert grip == 0.0
    before = data.site_xpos[kitchen.grasp_sid].copy()
    data.qpos[ARM] += change * 0.1
    mujoco.mj_forward(kitchen.sim.model.ptr, data)
    moved = data.site_xpos[kitchen.grasp_sid] - before
    target = data.site_xpos[kitchen.target_sid] - box
    assert moved[:2] @ target[:2] > 0.9 * np.linalg.norm(moved[:2]) * np.linalg.norm(target[:2])


def test_actions_are_absolute_with_the_fingers_scaled_where_robohive_scales_them(push):
    policy = TopplePolicy(push, "expert", _table()[PUSH]["expert"])
    data = push.unwrapped.sim.data.ptr
    push.reset(seed=1)
    action = policy._commanding(data, data.qpos[ARM], np.array([0.04, 0.01]))
    np.testing.assert_allclose(action[7:], [1.0, -0.5])
    ranges = push.unwrapped.robot.robot_config["franka"]["actuator"][0]["pos_range"]
    assert action[0] == pytest.approx((data.qpos[0] + data.qfrc_bias[0] / 870.0) / ranges[1], abs=1e-9)
