"""Taking an object off a table: where the gripper goes next, read off where the object and the hand are.

    (standing ──► pulled over) ──► above ──► down ──► fingers closed ──► carried to the target
                                  └───────────── take ─────────────┘    └─ while both fingers touch it

The start of an episode is not remembered: each state says for itself which part of the way comes next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.experts._kinematics import ARM, Solver, ahead_on

_OPEN, _CLOSED = 0.04, 0.0

#: Of rotation errors about the gripper's three axes, in m per rad; a carried object may be turned about the vertical.
_TAKING = np.array([0.05, 0.05, 0.05])
_CARRYING = np.array([0.02, 0.02, 0.002])

#: How far from its place the gripper may be when the fingers close, in m.
_ARRIVED = 0.012

#: Half the width of a finger in m, a tolerance included: what the fingers close around lies within.
_FINGER = 0.012

#: Directions in which the fingers may lie, in rad; an object is wide from 6.6 cm on, of the 8 cm between the fingers.
_DIRECTIONS = np.linspace(-np.pi / 2, np.pi / 2, 24, endpoint=False)
_WIDE = 0.066


@dataclass(frozen=True)
class ToppleParameters:
    """What is tuned for a box that stands; lengths in m.

    Attributes:
        way: Where the closed fingers go to pull the box over, the gripper pointing down.
        retreat: Where they wait while it falls.
        grasp: How far above the middle of the lying box the gripper takes it.
        clear: How far above that it comes from the side.
        carry: Height of the box's middle on its way.
        place: Height of the box's middle at the target.
        leash: How far ahead of the arm its reference may be, in rad.
    """

    way: tuple[tuple[float, float, float], ...]
    retreat: tuple[float, float, float]
    grasp: float
    clear: float
    carry: float
    place: float
    leash: float


@dataclass(frozen=True)
class PickParameters:
    """What is tuned for an object of a random shape in a bin; lengths in m, heights above the floor of the room.

    Attributes:
        ways: Ways of taking it, in the order in which they are rehearsed: the direction in rad in which the fingers
            would rather lie, and how far from the object's middle, across that direction, they close.
        lowest: Height of the gripper at which the fingers are just above the bin's floor.
        depth: How far the object's top is above the gripper at most; the palm is 9 mm farther up.
        over: Height at which the object is carried over the bins' walls.
        clear: Height of the gripper above which the fingers pass them.
        wall: How far from the middle between the bins the object stays until then.
        place: Height of the object's middle at the target.
        leash: How far ahead of the arm its reference may be, in rad.
    """

    ways: tuple[tuple[float, float], ...]
    lowest: float
    depth: float
    over: float
    clear: float
    wall: float
    place: float
    leash: float


class _Table(Solver):
    """An object, a target and a gripper that points down."""

    def __init__(self, env: Any, leash: float) -> None:
        super().__init__(env)
        self._table, self._leash = env.sim.model.ptr, leash
        self._target, self._object = int(env.target_sid), int(env.object_sid)
        self._body = int(self._table.site_bodyid[self._object])
        self._fingers = [self._table.body(f"panda0_{side}finger").id for side in ("left", "right")]
        self._data.qpos[:] = env.init_qpos

    def _touching(self, data: mujoco.MjData) -> int:
        """Return how many fingers touch the object."""
        touching, bodies = set(), self._table.geom_bodyid
        for contact in data.contact:
            pair = {bodies[contact.geom1], bodies[contact.geom2]}
            touching |= pair if self._body in pair else set()
        return sum(finger in touching for finger in self._fingers)

    def _within_grip(self, data: mujoco.MjData, most: list[float]) -> bool:
        """Whether the object's middle is at most so far from the gripper, along the gripper's axes in m."""
        away = data.site_xpos[self._object] - data.site_xpos[self._gripper]
        return bool(np.all(np.abs(data.site_xmat[self._gripper].reshape(3, 3).T @ away) < most))

    def _change(self, goal: np.ndarray, rotation: np.ndarray, weights: np.ndarray, posture: np.ndarray) -> np.ndarray:
        return np.clip(self._solve(goal, rotation, weights, posture)[0] - posture, -self._leash, self._leash)


class Topple(_Table):
    """Pulls a standing box over, so that the gripper fits around its narrow side, and carries it to the target.

    RoboHive's target lies 7 cm below the middle of the standing box, and solved is what is within 5 cm of it: only a
    lying box is. The box is too heavy to be lifted far, and slides along where it touches the table.
    """

    def __init__(self, env: Any, p: ToppleParameters) -> None:
        super().__init__(env, p.leash)
        self._p = p
        way = [env.init_qpos[ARM]]
        for point in p.way:
            way.append(self._solve(np.array(point), _downward(np.array([1.0, 0.0])), _TAKING, way[-1])[0])
        self._way = np.array(way)

    def towards(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Return by how much the arm's joints [7] are to change next, in rad, and the finger joints' target in m."""
        posture, turned = data.qpos[ARM], data.xmat[self._body].reshape(3, 3)
        p, here, box = self._p, data.site_xpos[self._gripper], data.site_xpos[self._object]
        upright = turned[2, 2]
        if upright > 0.93:
            return _within(ahead_on(self._way, posture, p.leash, 1.0) - posture, p.leash), _CLOSED
        thin = turned[:2, 0] * (1.0 if turned[0, 0] > 0 else -1.0)
        rotation = _downward(thin)
        if upright > 0.3:
            return self._change(np.array(p.retreat), rotation, _TAKING, posture), _OPEN
        if self._within_grip(data, [0.04, 0.012, 0.07]) and self._touching(data) == 2:
            return self._change(here + self._way_on(box), rotation, _CARRYING, posture), _CLOSED
        goal = box + np.array([0.0, 0.0, p.grasp])
        aside, above = np.linalg.norm((goal - here)[:2]), abs(goal[2] - here[2])
        closing = aside < _ARRIVED and above < _ARRIVED
        goal[2] += p.clear if aside > 0.03 else 0.0
        return self._change(goal, rotation, _TAKING, posture), _CLOSED if closing else _OPEN

    def _way_on(self, box: np.ndarray) -> np.ndarray:
        """Return where the held box goes from here: up a little, to the target, down."""
        p, (x, y, _) = self._p, self._table.site_pos[self._target]
        left = np.array([x, y, p.place]) - box
        distance = np.linalg.norm(left[:2])
        if distance < 0.035:
            return left
        lifted = np.clip((box[2] - p.place) / 0.006, 0.3, 1.0)
        left[:2] *= lifted * min(1.0, 0.3 / distance)
        left[2] = p.carry - box[2]
        return left


class Pick(_Table):
    """Takes an object of a random shape out of its bin and carries it over the walls to the target in the other.

    How three shapes that grow into each other slip out of two fingers is not to be foreseen, so each way of taking
    them is rehearsed on the simulator before the episode begins, and the first that succeeds is taken. The choice
    follows from the shapes and the target alone.
    """

    def __init__(self, env: Any, p: PickParameters) -> None:
        super().__init__(env, p.leash)
        self._p, self._start = p, env.init_qpos.copy()
        first, number = self._table.body_geomadr[self._body], self._table.body_geomnum[self._body]
        self._shapes = range(first, first + number)
        self._points, self._way, self._known = np.zeros((0, 3)), p.ways[0], b""

    def towards(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Return by how much the arm's joints [7] are to change next, in rad, and the finger joints' target in m."""
        posture, here, thing = data.qpos[ARM], data.site_xpos[self._gripper], data.site_xpos[self._object]
        across = data.site_xmat[self._gripper].reshape(3, 3)[:2, 1]
        touching = self._touching(data)
        if (touching == 2 and self._within_grip(data, [0.06, 0.06, 0.07])) or (touching and thing[2] > 0.95):
            goal = here + self._way_on(here, thing)
            return self._change(goal, _downward(across), _CARRYING, posture), _CLOSED
        place, turn = self._grasp(data, float(np.arctan2(across[1], across[0])))
        rotation = _downward(_turned(across, turn))
        aside, above = np.linalg.norm((place - here)[:2]), abs(place[2] - here[2])
        there = aside < _ARRIVED and above < _ARRIVED and abs(turn) < 0.15
        if there or (touching and aside < 0.03 and above < 0.02):
            return self._change(place, rotation, _TAKING, posture), _CLOSED
        if aside > 0.02 or abs(turn) > 0.3:
            place[2] += min(0.09, 2.0 * max(0.0, aside - 0.01) + max(0.0, abs(turn) - 0.2))
        return self._change(place, rotation, _TAKING, posture), _OPEN

    def _way_on(self, here: np.ndarray, thing: np.ndarray) -> np.ndarray:
        """Return where the held object goes from here: up, over the walls, down to the target."""
        p, (x, y, _) = self._p, self._table.site_pos[self._target]
        left = np.array([x, y, p.place]) - thing
        if np.linalg.norm(left[:2]) < 0.06:
            return left
        left[2] = p.over - thing[2]
        if here[2] < p.clear and thing[0] > p.wall:
            left[0] = max(left[0], p.wall - thing[0])
        return left

    def _grasp(self, data: mujoco.MjData, yaw: float) -> tuple[np.ndarray, float]:
        """Return where the gripper takes the object, and by how much the fingers are to be turned, in rad."""
        wanted, aside = self._way
        middle, points = data.xpos[self._body], self._points @ data.xmat[self._body].reshape(3, 3).T
        best, place, turn = np.inf, np.zeros(2), 0.0
        for direction in _DIRECTIONS:
            along = np.array([np.cos(direction), np.sin(direction)])
            across = np.array([-along[1], along[0]])
            between = points[np.abs(points[:, :2] @ across - aside) < _FINGER, :2] @ along
            if len(between) < 3:
                continue
            width, centre = float(np.ptp(between)), float(between.max() + between.min()) / 2
            turning, rather = _half_turn(direction - yaw), _half_turn(direction - wanted)
            cost = 20 * max(0.0, width - _WIDE) + 2 * width + 3 * abs(centre) + 0.15 * abs(turning) + 0.3 * abs(rather)
            if cost < best:
                best, place, turn = cost, centre * along + aside * across, turning
        height = max(self._p.lowest, middle[2] + points[:, 2].max() - self._p.depth)
        return np.array([*(middle[:2] + place), height]), turn

    def plan(self, trial: "Trial", act: Callable[[mujoco.MjData], np.ndarray]) -> None:
        """Choose the way of taking the object that is there; a rehearsal costs some 0.1 s, so the choice is kept."""
        model, target = self._table, self._table.site_pos[self._target]
        fields = (model.geom_type, model.geom_size, model.geom_pos, model.geom_quat)
        known = target.tobytes() + b"".join(field.tobytes() for field in fields)
        if known == self._known:
            return
        self._known = known
        self._points = np.concatenate([_surface(model, shape) for shape in self._shapes])
        for way in self._p.ways:
            self._way = way
            if trial.reaches(act, self._start, self._object, target):
                return
        self._way = self._p.ways[0]


class Trial:
    """An episode on the simulator's model with other data: RoboHive's position mode, and nothing else of it."""

    def __init__(self, env: Any, *, substeps: int, horizon: int) -> None:
        self._model, self._substeps, self._horizon = env.sim.model.ptr, substeps, horizon
        actuators = env.robot.robot_config["franka"]["actuator"]
        self._low, self._high = np.array([actuator["pos_range"] for actuator in actuators]).T
        self._slow, self._fast = np.array([actuator["vel_range"] for actuator in actuators]).T * env.dt
        sensors = [part for device in env.robot.robot_config.values() for part in device["sensor"]]
        self._sensors = [(part["data_type"], int(part["data_id"]), part["range"]) for part in sensors]

    def reaches(
        self, act: Callable[[mujoco.MjData], np.ndarray], start: np.ndarray, site: int, target: np.ndarray
    ) -> bool:
        """Whether a policy's actions [n] bring a site within 5 cm of a target, which RoboHive calls solved."""
        model, data = self._model, mujoco.MjData(self._model)
        data.qpos[:] = start
        mujoco.mj_forward(model, data)
        for _ in range(self._horizon):
            self._step(data, np.clip(act(data), -1.0, 1.0).astype(np.float32).astype(np.float64))
            if np.linalg.norm(data.site_xpos[site] - target) < 0.05:
                return True
        return False

    def _step(self, data: mujoco.MjData, action: np.ndarray) -> None:
        model, driven = self._model, len(self._low)
        here, half = data.qpos[:driven], (self._high - self._low) / 2
        command = self._low + half + action[:driven] * half
        command = here + np.clip(command - here, self._slow, self._fast)
        data.ctrl[:driven] = np.clip(command, self._low, self._high)
        data.ctrl[driven:] = action[driven:]
        mujoco.mj_step2(model, data)
        mujoco.mj_step(model, data, self._substeps - 1)
        mujoco.mj_step1(model, data)
        for kind, index, (low, high) in self._sensors:
            values = getattr(data, kind)
            values[index] = min(max(values[index], low), high)
        mujoco.mj_forward(model, data)


def _surface(model: mujoco.MjModel, shape: int) -> np.ndarray:
    """Return points [n, 3] on a shape, in m in its body's frame."""
    size, number = model.geom_size[shape], np.arange(60) + 0.5
    polar, round_ = np.arccos(1 - number / 30), np.pi * (1 + 5**0.5) * number
    ball = np.stack([np.cos(round_) * np.sin(polar), np.sin(round_) * np.sin(polar), np.cos(polar)], axis=1)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3), axis=-1).reshape(-1, 3)
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rings = [[np.cos(turn), np.sin(turn), height] for height in np.linspace(-1, 1, 5) for turn in turns]
    points = {
        mujoco.mjtGeom.mjGEOM_SPHERE: ball * size[0],
        mujoco.mjtGeom.mjGEOM_CAPSULE: ball * size[0] + np.sign(ball) * [0, 0, size[1]],
        mujoco.mjtGeom.mjGEOM_ELLIPSOID: ball * size,
        mujoco.mjtGeom.mjGEOM_CYLINDER: np.array(rings) * [size[0], size[0], size[1]],
        mujoco.mjtGeom.mjGEOM_BOX: grid[np.abs(grid).max(axis=1) == 1] * size,
    }[mujoco.mjtGeom(int(model.geom_type[shape]))]
    rotation, quaternion = np.zeros(9), model.geom_quat[shape] / np.linalg.norm(model.geom_quat[shape])
    mujoco.mju_quat2Mat(rotation, quaternion)
    return points @ rotation.reshape(3, 3).T + model.geom_pos[shape]


def _within(change: np.ndarray, leash: float) -> np.ndarray:
    return change * min(1.0, leash / max(np.abs(change).max(), 1e-9))


def _half_turn(angle: float) -> float:
    """Return the same direction of the two fingers, which are alike, within a quarter turn of 0."""
    return (angle + np.pi / 2) % np.pi - np.pi / 2


def _turned(across: np.ndarray, angle: float) -> np.ndarray:
    (x, y), cosine, sine = across, np.cos(angle), np.sin(angle)
    return np.array([cosine * x - sine * y, sine * x + cosine * y])


def _downward(across: np.ndarray) -> np.ndarray:
    """Return the axes of a gripper that points down, its fingers side by side along a horizontal direction [2]."""
    fingers = np.append(across / np.linalg.norm(across), 0.0)
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(fingers, down), fingers, down], axis=1)
