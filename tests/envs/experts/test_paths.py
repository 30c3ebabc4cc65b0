"""The paths of arm postures, planned and interpolated."""

import mujoco
import numpy as np
import pytest

from rlhive.envs._tasks import TUNING_SEED


@pytest.fixture(scope="module")
def env(make):
    return make("FK1_Knob1OnRandom-v4", seed=0)


def test_the_planned_postures_reach_their_points_in_the_simulator(env):
    from rlhive.envs.experts._experts import make_scripted_policy

    policy = make_scripted_policy(env, "expert")
    env.reset(seed=5)
    path, kitchen, p = policy._path(), env.unwrapped, policy._p
    model, data = kitchen.sim.model.ptr, mujoco.MjData(kitchen.sim.model.ptr)
    for posture, point in ((path.approach[-2], p.before), (path.contact, p.contact)):
        data.qpos[:] = kitchen.init_qpos
        mujoco.mj_kinematics(model, data)
        goal = data.site_xpos[kitchen.interact_sid] + point
        data.qpos[:7] = posture
        mujoco.mj_kinematics(model, data)
        assert np.linalg.norm(data.site_xpos[kitchen.grasp_sid] - goal) < 0.005
    # Another place to stand is another path.
    env.reset(seed=6)
    assert np.abs(policy._path().contact - path.contact).max() > 0.01


def test_the_push_is_interpolated_between_the_postures_of_the_path():
    from rlhive.envs.experts._paths import PosturePath

    postures = np.array([np.zeros(7), np.arange(7.0), np.arange(7.0) * 3])
    for values in (np.array([0.0, 1.0, 2.0]), np.array([0.0, -1.0, -2.0])):
        path = PosturePath(postures[:1], values, postures)
        np.testing.assert_allclose(path.posture_at(values[1] / 2), np.arange(7.0) / 2)
        np.testing.assert_allclose(path.posture_at(values[2] * 3), postures[2])
        np.testing.assert_allclose(path.posture_at(-values[2]), postures[0])


def test_a_rail_is_interpolated_and_held_to_its_ends():
    from rlhive.envs.experts._paths import ContactRail

    rail = ContactRail(np.array([0.0, 1.0, 3.0]), np.arange(3.0)[:, None, None] * np.ones((3, 2, 7)))
    assert [float(rail.postures_at(value)[1, 3]) for value in (-1.0, 0.5, 2.0, 9.0)] == [0.0, 0.5, 1.5, 2.0]


def test_paths_are_compared_from_postures_that_differ():
    from rlhive.envs.experts._paths import _select_distinct

    candidates = [(float(cost), np.full(7, turn)) for cost, turn in enumerate([0.0, 0.1, 0.5, 0.6, 0.9, 2.0])]
    assert [cost for cost, _ in _select_distinct(candidates, 3)] == [0.0, 2.0, 4.0]
    assert [cost for cost, _ in _select_distinct(candidates, 1)] == [0.0]


def test_hurry_shortens_the_way_with_the_object_only():
    """Hurry shortens the way with the object, and leaves the contact where it was."""
    from rlhive.envs._references import read_expert_rows
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs.experts._kinematics import SPEED
    from rlhive.envs.experts._kitchen import KitchenPolicy

    door = RoboHiveEnv("FK1_RdoorOpenRandom-v4", seed=0)
    row = {**read_expert_rows()["FK1_RdoorOpenRandom-v4"]["expert"], "plans": 1}
    row.pop("otherwise", None)
    door.reset(seed=TUNING_SEED)
    quick, slow = (KitchenPolicy(door, "expert", {**row, "hurry": hurry})._path() for hurry in (0.3, 0.0))
    steps = [np.abs(np.diff(path.postures, axis=0) / SPEED).max(axis=1).sum() for path in (quick, slow)]
    assert steps[0] < 0.9 * steps[1]
    np.testing.assert_array_equal(quick.contact, slow.contact)
    door.close()


def test_a_lifted_object_is_set_down_at_its_goal_or_kept_up():
    from rlhive.envs.experts._paths import TargetJoint

    joint = TargetJoint(address=0, body=0, start=0.0, goal=-0.6)
    assert [round(joint.lifted(value), 3) for value in (0.0, -0.05, -0.3, -0.5, -0.6, -0.7)] == [0, 0.5, 1, 0.5, 0, 0]
    assert [round(joint.lifted(value, keep=True), 3) for value in (0.0, -0.05, -0.3, -0.6, -0.7)] == [0, 0.5, 1, 1, 1]
