"""The tabletop expert: the simulator's state alone determines the next phase of a pick."""

import mujoco
import numpy as np
import pytest

from rlhive import keys
from rlhive.envs._references import read_expert_rows
from rlhive.envs.experts._experts import make_scripted_policy
from rlhive.envs.experts._kinematics import ARM
from rlhive.envs.experts._rehearsal import PickRehearsal
from rlhive.envs.experts._tabletop import (
    PickController,
    PickParameters,
    ToppleController,
    ToppleParameters,
    _downward,
    _half_turn,
    _rotate,
    _surface_points,
)
from rlhive.envs.experts._tabletop_policies import TopplePolicy

PUSH, PICK = "FrankaPushRandom-v0", "FrankaPickPlaceRandom-v0"


@pytest.fixture(scope="module")
def push(make):
    return make(PUSH, seed=0)


@pytest.fixture(scope="module")
def bins(make):
    return make(PICK, seed=0)


@pytest.fixture
def topple(push):
    push.reset(seed=1)
    return ToppleController(push.unwrapped, ToppleParameters(**read_expert_rows()[PUSH]["expert"]))


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
    change, grip = topple.compute_change(data)
    ahead = topple._way[1] - data.qpos[ARM]
    assert grip == 0.0
    np.testing.assert_allclose(change, ahead * 0.27 / np.abs(ahead).max(), atol=1e-6)


def test_a_lying_box_is_approached_from_above_with_open_fingers_that_close_around_it(push, topple):
    data = laid_down(push)
    box = data.site_xpos[push.unwrapped.object_sid].copy()
    assert topple.compute_change(data)[1] == 0.04
    put_gripper(push, topple, box + np.array([0.0, 0.0, 0.026]))
    data.qpos[7:9] = 0.04
    mujoco.mj_forward(push.unwrapped.sim.model.ptr, data)
    change, grip = topple.compute_change(data)
    assert grip == 0.0
    assert np.abs(change).max() < 0.06


def test_an_object_that_both_fingers_touch_is_carried_to_the_target(push, topple):
    data = laid_down(push)
    kitchen = push.unwrapped
    box = data.site_xpos[kitchen.object_sid].copy()
    put_gripper(push, topple, box + np.array([0.0, 0.0, 0.026]))
    for fingers, holds in ((0.024, False), (0.0208, True)):
        data.qpos[7:9] = fingers
        mujoco.mj_forward(kitchen.sim.model.ptr, data)
        assert (topple._count_touching_fingers(data) == 2) == holds
    change, grip = topple.compute_change(data)
    assert grip == 0.0
    before = data.site_xpos[kitchen.grasp_sid].copy()
    data.qpos[ARM] += change * 0.1
    mujoco.mj_forward(kitchen.sim.model.ptr, data)
    moved = data.site_xpos[kitchen.grasp_sid] - before
    target = data.site_xpos[kitchen.target_sid] - box
    assert moved[:2] @ target[:2] > 0.9 * np.linalg.norm(moved[:2]) * np.linalg.norm(target[:2])


def test_actions_are_absolute_with_the_fingers_scaled_where_robohive_scales_them(push):
    policy = TopplePolicy(push, "expert", read_expert_rows()[PUSH]["expert"])
    data = push.unwrapped.sim.data.ptr
    push.reset(seed=1)
    action = policy._command(data, data.qpos[ARM], np.array([0.04, 0.01]))
    np.testing.assert_allclose(action[7:], [1.0, -0.5])
    ranges = push.unwrapped.robot.robot_config["franka"]["actuator"][0]["pos_range"]
    assert action[0] == pytest.approx((data.qpos[0] + data.qfrc_bias[0] / 870.0) / ranges[1], abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "size", "extent"),
    [
        (mujoco.mjtGeom.mjGEOM_SPHERE, [0.02, 0.9, 0.9], [0.02, 0.02, 0.02]),
        (mujoco.mjtGeom.mjGEOM_CAPSULE, [0.02, 0.03, 0.9], [0.02, 0.02, 0.05]),
        (mujoco.mjtGeom.mjGEOM_ELLIPSOID, [0.02, 0.03, 0.01], [0.02, 0.03, 0.01]),
        (mujoco.mjtGeom.mjGEOM_CYLINDER, [0.02, 0.03, 0.9], [0.02, 0.02, 0.03]),
        (mujoco.mjtGeom.mjGEOM_BOX, [0.02, 0.03, 0.01], [0.02, 0.03, 0.01]),
    ],
)
def test_the_points_of_a_shape_lie_on_its_surface(bins, kind, size, extent):
    model = bins.unwrapped.sim.model.ptr
    shape = int(model.body("obj0").geomadr[0])
    original = [np.copy(getattr(model, name)[shape]) for name in ("geom_type", "geom_size", "geom_pos", "geom_quat")]
    turned = np.array([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)])  # x lies along y
    model.geom_type[shape], model.geom_size[shape] = kind, size
    model.geom_pos[shape], model.geom_quat[shape] = [0.1, 0.2, 0.3], turned
    points = _surface_points(model, shape) - [0.1, 0.2, 0.3]
    for name, value in zip(("geom_type", "geom_size", "geom_pos", "geom_quat"), original, strict=True):
        getattr(model, name)[shape] = value
    np.testing.assert_allclose(np.abs(points).max(axis=0), np.array(extent)[[1, 0, 2]], atol=0.002)
    assert len(np.unique(points.round(6), axis=0)) >= 50


def test_fingers_are_alike_so_that_they_never_turn_by_more_than_a_quarter():
    for angle, expected in ((0.3, 0.3), (np.pi - 0.1, -0.1), (-2.0, np.pi - 2.0)):
        assert _half_turn(angle) == pytest.approx(expected)
    np.testing.assert_allclose(_rotate(np.array([0.0, 1.0]), np.pi / 2), [-1.0, 0.0], atol=1e-12)


def test_a_rehearsal_of_a_pick_predicts_the_episode(bins):
    """Over the first 8 steps, in which the object falls and the arm comes down, no joint differs."""
    policy = make_scripted_policy(bins, "expert")
    state = bins.reset(seed=5)
    kitchen = bins.unwrapped
    policy.act()  # plans
    data = mujoco.MjData(kitchen.sim.model.ptr)
    data.qpos[:] = kitchen.init_qpos
    mujoco.mj_forward(kitchen.sim.model.ptr, data)
    rehearsal = PickRehearsal(kitchen, substeps=40, horizon=50)
    for _ in range(8):
        state = policy(state)
        rehearsal._step(data, state[keys.ACTION].numpy().astype(np.float64))
        state = bins.step(state)[keys.NEXT]
        np.testing.assert_allclose(data.qpos, kitchen.sim.data.ptr.qpos, atol=1e-6)


def test_the_first_way_that_succeeds_in_rehearsal_is_taken(bins):
    class FakeRehearsal:
        def __init__(self, works):
            self.works, self.tried = works, []

        def reaches(self, act, start, site, target):
            self.tried.append(pick._way)
            return pick._way == self.works

    bins.reset(seed=6)
    ways = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.01))
    pick = PickController(bins.unwrapped, PickParameters(**{**read_expert_rows()[PICK]["expert"], "ways": ways}))
    rehearsal = FakeRehearsal(ways[1])
    pick.plan(rehearsal, None)
    assert rehearsal.tried == [*ways[:2]]
    assert pick._way == ways[1]
    pick.plan(rehearsal, None)
    assert len(rehearsal.tried) == 2  # the same object and target are not rehearsed twice
    bins.reset(seed=7)
    pick.plan(FakeRehearsal(None), None)
    assert pick._way == ways[0]


def test_the_grasp_is_centred_between_the_fingers(bins):
    bins.reset(seed=8)
    kitchen = bins.unwrapped
    pick = PickController(kitchen, PickParameters(**read_expert_rows()[PICK]["expert"]))
    # A bar along x, of 2 cm width, its middle 1 cm off the body's: fingers lie along y and close around it.
    pick._points = np.array([[x, y, 0.0] for x in np.linspace(-0.06, 0.06, 60) for y in (0.0, 0.02)])
    pick._way = (np.pi / 2, 0.0)
    data = kitchen.sim.data.ptr
    data.qpos[12:16] = [1.0, 0.0, 0.0, 0.0]
    mujoco.mj_forward(kitchen.sim.model.ptr, data)
    grasp, turn = pick._find_grasp(data, 0.0)
    np.testing.assert_allclose(grasp[:2] - data.xpos[pick._body][:2], [0.0, 0.01], atol=1e-9)
    assert abs(turn) == pytest.approx(np.pi / 2)


def test_a_held_object_is_lifted_before_it_passes_the_wall(bins):
    bins.reset(seed=9)
    kitchen = bins.unwrapped
    pick = PickController(kitchen, PickParameters(**read_expert_rows()[PICK]["expert"]))
    target = kitchen.sim.model.ptr.site_pos[kitchen.target_sid]
    low = pick._carry_displacement(np.array([0.24, 0.5, 0.95]), np.array([0.24, 0.5, 0.92]))
    assert low[0] == pytest.approx(0.13 - 0.24)
    assert low[2] == pytest.approx(1.08 - 0.92)
    high = pick._carry_displacement(np.array([0.24, 0.5, 1.05]), np.array([0.24, 0.5, 1.02]))
    assert high[0] == pytest.approx(target[0] - 0.24)
    np.testing.assert_allclose(pick._carry_displacement(target, target), [0.0, 0.0, 0.868 - target[2]])
