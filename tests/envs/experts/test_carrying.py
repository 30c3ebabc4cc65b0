"""The kettle expert: the planned postures, the choice of a plan, and the motion of the fingers."""

import mujoco
import numpy as np
import pytest
import torch

from rlhive import keys
from rlhive.envs._tasks import TUNING_SEED

KETTLE, SEED = "FK1_Stove1KettleRandom-v4", TUNING_SEED + 610_003
HANDLE_RADIUS, LAG = 0.032, 0.045


@pytest.fixture(scope="module")
def env(make):
    return make(KETTLE, seed=0)


@pytest.fixture(scope="module")
def row():
    from rlhive.envs._references import read_expert_rows

    return read_expert_rows()[KETTLE]["expert"]


@pytest.fixture(scope="module")
def planned(env, row):
    """The kitchen where the seed puts it, and the plans for it."""
    from rlhive.envs.experts._carrying import CarryParameters, CarryPlanner
    from rlhive.envs.experts._paths import TargetJoint

    env.reset(seed=SEED)
    kitchen = env.unwrapped
    model = kitchen.sim.model.ptr
    carrier = CarryPlanner(kitchen, TargetJoint.find(kitchen))
    first, again = (carrier.plans(model.body_pos, model.body_quat, CarryParameters(**row)) for _ in range(2))
    return kitchen, first, again


def gripper(kitchen, posture):
    """Where the gripper is relative to the handle's middle, and its axes in columns, along the kitchen's axes."""
    model = kitchen.sim.model.ptr
    data = mujoco.MjData(model)
    data.qpos[:] = kitchen.init_qpos
    data.qpos[:7] = posture
    mujoco.mj_kinematics(model, data)
    position = data.site_xpos[kitchen.grasp_sid] - data.site_xpos[kitchen.interact_sid]
    return position, data.site_xmat[kitchen.grasp_sid].reshape(3, 3)


def test_the_postures_take_the_handle_across_and_end_at_the_goal(planned, row):
    kitchen, plans, _ = planned
    assert len(plans) > 5
    way = kitchen.obj_goal[9] - kitchen.init_qpos[kitchen.obj["dof_adrs"][9]]
    for plan in plans:
        np.testing.assert_array_equal(plan.approach[0], kitchen.init_qpos[:7])
        np.testing.assert_array_equal(plan.approach[-1], plan.carry[0])
        contact, axes = gripper(kitchen, plan.carry[0])
        assert np.abs(contact[1:]).max() < 0.01
        assert abs(contact[0]) < row["along"] + 0.01
        # The handle lies along x between the fingers, which are side by side along the gripper's second axis.
        assert abs(axes[0, 1]) < np.sin(row["yaw"]) + 0.1
        before, _ = gripper(kitchen, plan.approach[1])
        # The approach ends along the gripper's own axis, from outside of the handle.
        assert np.linalg.norm(before - contact) == pytest.approx(row["back"], abs=0.02)
        assert np.linalg.norm(before[1:]) > HANDLE_RADIUS
        end, _ = gripper(kitchen, plan.carry[-1])
        assert way - 0.03 < end[0] - contact[0] < way + LAG + 0.03


def test_the_quickest_plan_comes_first_and_planning_is_repeatable(planned):
    from rlhive.envs.experts._kinematics import SPEED

    _, plans, again = planned
    costs = [plan.cost for plan in plans]
    assert costs == sorted(costs)
    for plan, other in zip(plans, again, strict=True):
        assert plan.cost == other.cost
        np.testing.assert_array_equal(plan.carry, other.carry)
        steps = sum(np.abs(np.diff(way, axis=0) / SPEED).max(axis=1).sum() for way in (plan.approach, plan.carry))
        # What is missed, or in the way, costs more than the steps.
        assert plan.cost >= steps - 1e-9


def test_the_first_plan_that_solves_the_rehearsal_with_steps_to_spare_is_taken(env, row):
    from rlhive.envs.experts._carrying import CarryPlan
    from rlhive.envs.experts._kitchen import CarryPolicy

    env.reset(seed=SEED)
    policy = CarryPolicy(env, "expert", row)
    good = policy._plan_of_layout()
    idle = CarryPlan(0.0, good.approach, np.repeat(good.carry[:1], 3, axis=0) + np.linspace(0, 1e-3, 3)[:, None])
    assert policy._choose_by_rehearsal([idle, good, idle]) is good
    # Where none succeeds, the one that carries it farthest.
    half = CarryPlan(0.0, good.approach, good.carry[:4])
    assert policy._choose_by_rehearsal([idle, half]) is half
    assert policy._choose_by_rehearsal([]) is None


def test_where_the_handle_is_out_of_reach_the_arm_stands_still(env, row):
    from rlhive.envs.experts._kitchen import CarryPolicy

    policy = CarryPolicy(env, "expert", {**row, "grasps": 0})
    state = env.reset(seed=SEED)
    start = env.unwrapped.sim.data.ptr.qpos[:7].copy()
    for _ in range(10):
        state = env.step(policy(state))[keys.NEXT]
    assert not state[keys.SUCCESS]
    np.testing.assert_allclose(env.unwrapped.sim.data.ptr.qpos[:7], start, atol=0.05)


def test_the_fingers_close_at_the_handle_and_not_before(env, row):
    from rlhive.envs.experts._kitchen import CarryPolicy

    policy = CarryPolicy(env, "expert", row)
    state, data = env.reset(seed=SEED), env.unwrapped.sim.data.ptr
    contact = policy._plan_of_layout().approach[-1]
    opened, closed = 0, 0
    for _ in range(25):
        near = np.abs(data.qpos[:7] - contact).max() < row["arrival"]
        begun = data.qpos[7:9].mean() < row["grip"] - 0.003
        state = policy(state)
        grip = state[keys.ACTION][7:9]
        if near or begun:
            assert torch.all(grip < 0)
            closed += 1
        else:
            assert torch.all(grip > -0.1)
            opened += 1
        state = env.step(state)[keys.NEXT]
    assert opened > 5
    assert closed > 5
