"""Inverse kinematics, polylines of postures, and rotations."""

import numpy as np


def test_the_lookahead_turns_corners_and_shrinks_off_the_polyline():
    from rlhive.envs.experts._kinematics import lookahead_posture

    way = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(lookahead_posture(way, np.array([0.5, 0.0]), 0.2, 1.0), [0.7, 0.0])
    np.testing.assert_allclose(lookahead_posture(way, np.array([0.9, 0.0]), 0.3, 1.0), [1.0, 0.2])
    np.testing.assert_allclose(lookahead_posture(way, np.array([0.5, 0.05]), 0.2, 1.0), [0.65, 0.0])
    np.testing.assert_allclose(lookahead_posture(way, np.array([0.5, 0.05]), 0.2, 3.0), [0.55, 0.0])
    np.testing.assert_allclose(lookahead_posture(way, np.array([1.0, 0.95]), 0.3, 1.0), [1.0, 1.0])


def test_a_rotation_vector_and_its_matrix_are_inverse():
    from rlhive.envs.experts._kinematics import matrix_to_rotvec, rotvec_to_matrix

    quarter = rotvec_to_matrix(np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(quarter, [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], atol=1e-12)
    for vector in ([0.0, 0.0, 0.0], [0.3, -0.2, 0.9]):
        np.testing.assert_allclose(matrix_to_rotvec(rotvec_to_matrix(np.array(vector))), vector, atol=1e-12)


def test_the_gripper_faces_the_kitchen_without_rotation_and_yaws_about_the_vertical():
    from rlhive.envs.experts._kinematics import gripper_rotation

    np.testing.assert_allclose(gripper_rotation(0.0, 0.0, 0.0)[:, 2], [0.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(gripper_rotation(0.0, 0.0, np.pi / 2)[:, 2], [-1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(gripper_rotation(np.pi / 2, 0.0, 0.0)[:, 2], [0.0, 1.0, 0.0], atol=1e-12)


def test_a_posture_is_projected_on_a_segment_and_on_its_ends():
    from rlhive.envs.experts._kinematics import project_on_segment

    start, end = np.array([0.0, 0.0]), np.array([2.0, 0.0])
    assert project_on_segment(np.array([0.5, 0.1]), start, end) == (0.25, 0.1)
    assert project_on_segment(np.array([3.0, 0.0]), start, end) == (1.0, 1.0)


def test_the_reach_planner_brings_the_gripper_to_a_point(make):
    import mujoco

    from rlhive.envs.experts._kinematics import ARM, ReachPlanner

    robohive = make("FrankaReachRandom-v0", seed=0).unwrapped
    point = np.array([0.1, 0.3, 1.1])
    posture = ReachPlanner(robohive).posture(point)
    model = robohive.sim.model.ptr
    data = mujoco.MjData(model)
    data.qpos[:] = robohive.init_qpos
    data.qpos[ARM] = posture
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.site_xpos[robohive.grasp_sid], point, atol=0.003)
