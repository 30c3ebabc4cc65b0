"""Controllers that grasp an object on a table and carry it to a target.

    (standing ──► pulled over) ──► above ──► down ──► fingers closed ──► carried to the target
                                  └──────────── grasp ─────────────┘    └─ while both fingers touch it

The controllers have no memory of the episode: the current positions of object and gripper select the phase.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.experts._kinematics import ARM, InverseKinematics, lookahead_posture
from rlhive.envs.experts._rehearsal import PickRehearsal

#: Positions of the finger joints in m.
_OPEN = 0.04
_CLOSED = 0.0

#: Weights of rotation errors about the gripper's axes in m per rad; a carried object may turn about the vertical.
_GRASP_WEIGHTS = np.array([0.05, 0.05, 0.05])
_CARRY_WEIGHTS = np.array([0.02, 0.02, 0.002])

#: Distance in m from the grasp below which the fingers close.
_ARRIVAL = 0.012

#: Half the width of a finger in m, with a tolerance: points within it lie between the fingers.
_FINGER_HALF_WIDTH = 0.012

#: Directions of the fingers that are tried, in rad.
_DIRECTIONS = np.linspace(-np.pi / 2, np.pi / 2, 24, endpoint=False)

#: Width in m from which an object is hard to grasp: the open fingers are 8 cm apart.
_MAX_WIDTH = 0.066


@dataclass(frozen=True)
class ToppleParameters:
    """Tuned parameters for a standing box; lengths in m.

    Attributes:
        way: Way-points of the closed fingers that pull the box over, with the gripper pointing down.
        retreat: Point at which the fingers wait while the box falls.
        grasp: Height of the gripper above the middle of the lying box when it grasps.
        clear: Additional height while the gripper approaches from the side.
        carry: Height of the box's middle while it is carried.
        place: Height of the box's middle at the target.
        leash: Distance between the arm and its reference posture, in rad.
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
    """Tuned parameters for an object of a random shape in a bin; lengths in m, heights above the floor of the room.

    Attributes:
        ways: Ways to grasp the object, in the order of their rehearsal: the preferred direction of the fingers in rad,
            and the distance across that direction from the object's middle to where they close.
        lowest: Height of the gripper at which the fingers are just above the bin's floor.
        depth: Largest height of the object's top above the gripper; the palm is 9 mm higher.
        over: Height at which the object is carried over the bins' walls.
        clear: Height of the gripper above which the fingers clear the walls.
        wall: Distance that the object keeps from the middle between the bins below that height.
        place: Height of the object's middle at the target.
        leash: Distance between the arm and its reference posture, in rad.
    """

    ways: tuple[tuple[float, float], ...]
    lowest: float
    depth: float
    over: float
    clear: float
    wall: float
    place: float
    leash: float


class _TabletopController(InverseKinematics):
    """Base class of the controllers: an object, a target, and a gripper that points down.

    Args:
        env: RoboHive's environment.
        leash: Largest change of a joint per step in rad.
    """

    def __init__(self, env: Any, leash: float) -> None:
        super().__init__(env)
        self._table = env.sim.model.ptr
        self._leash = leash
        self._target = int(env.target_sid)
        self._object = int(env.object_sid)
        self._body = int(self._table.site_bodyid[self._object])
        self._fingers = [self._table.body(f"panda0_{side}finger").id for side in ("left", "right")]
        self._data.qpos[:] = env.init_qpos

    def _count_touching_fingers(self, data: mujoco.MjData) -> int:
        """Return the number of fingers that touch the object."""
        touching: set[int] = set()
        bodies = self._table.geom_bodyid
        for contact in data.contact:
            pair = {bodies[contact.geom1], bodies[contact.geom2]}
            touching |= pair if self._body in pair else set()
        return sum(finger in touching for finger in self._fingers)

    def _within_grip(self, data: mujoco.MjData, most: list[float]) -> bool:
        """Whether the object's middle is closer to the gripper than a limit along each of the gripper's axes, in m."""
        away = data.site_xpos[self._object] - data.site_xpos[self._gripper]
        return bool(np.all(np.abs(data.site_xmat[self._gripper].reshape(3, 3).T @ away) < most))

    def _change_towards(
        self, goal: np.ndarray, rotation: np.ndarray, weights: np.ndarray, posture: np.ndarray
    ) -> np.ndarray:
        """Return the change of the arm's joints [7] in rad towards a pose of the gripper, limited by the leash."""
        return np.clip(self._solve(goal, rotation, weights, posture)[0] - posture, -self._leash, self._leash)


class ToppleController(_TabletopController):
    """Pulls a standing box over, so that the gripper fits around its narrow side, and carries it to the target.

    RoboHive's target is 7 cm below the middle of the standing box, and the task is solved within 5 cm of it, so only a
    lying box can solve it. The box is too heavy to be lifted far and slides where it touches the table.

    Args:
        env: RoboHive's environment.
        p: The task's parameters.
    """

    def __init__(self, env: Any, p: ToppleParameters) -> None:
        super().__init__(env, p.leash)
        self._p = p
        way = [env.init_qpos[ARM]]
        for point in p.way:
            way.append(self._solve(np.array(point), _downward(np.array([1.0, 0.0])), _GRASP_WEIGHTS, way[-1])[0])
        self._way = np.array(way)

    def compute_change(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Return the next change of the arm's joints [7] in rad, and the target of the finger joints in m."""
        p = self._p
        posture, axes = data.qpos[ARM], data.xmat[self._body].reshape(3, 3)
        gripper, box = data.site_xpos[self._gripper], data.site_xpos[self._object]
        upright = axes[2, 2]
        if upright > 0.93:
            return _limit_change(lookahead_posture(self._way, posture, p.leash, 1.0) - posture, p.leash), _CLOSED
        narrow_side = axes[:2, 0] * (1.0 if axes[0, 0] > 0 else -1.0)
        rotation = _downward(narrow_side)
        if upright > 0.3:
            return self._change_towards(np.array(p.retreat), rotation, _GRASP_WEIGHTS, posture), _OPEN
        if self._within_grip(data, [0.04, 0.012, 0.07]) and self._count_touching_fingers(data) == 2:
            goal = gripper + self._carry_displacement(box)
            return self._change_towards(goal, rotation, _CARRY_WEIGHTS, posture), _CLOSED
        goal = box + np.array([0.0, 0.0, p.grasp])
        aside, above = np.linalg.norm((goal - gripper)[:2]), abs(goal[2] - gripper[2])
        is_closing = aside < _ARRIVAL and above < _ARRIVAL
        goal[2] += p.clear if aside > 0.03 else 0.0
        return self._change_towards(goal, rotation, _GRASP_WEIGHTS, posture), _CLOSED if is_closing else _OPEN

    def _carry_displacement(self, box: np.ndarray) -> np.ndarray:
        """Return the next displacement [3] of the held box in m: up a little, to the target, down."""
        p = self._p
        x, y, _ = self._table.site_pos[self._target]
        displacement = np.array([x, y, p.place]) - box
        distance = float(np.linalg.norm(displacement[:2]))
        if distance < 0.035:
            return displacement
        lifted = np.clip((box[2] - p.place) / 0.006, 0.3, 1.0)
        displacement[:2] *= lifted * min(1.0, 0.3 / distance)
        displacement[2] = p.carry - box[2]
        return displacement


class PickController(_TabletopController):
    """Grasps an object of a random shape in its bin and carries it over the walls to the target in the other bin.

    Whether three intersecting shapes slip out of two fingers cannot be predicted, so each way to grasp them is
    rehearsed in a simulation before the episode starts, and the first that succeeds is used. The choice depends only
    on the shapes and the target.

    Args:
        env: RoboHive's environment.
        p: The task's parameters.
    """

    def __init__(self, env: Any, p: PickParameters) -> None:
        super().__init__(env, p.leash)
        self._p = p
        self._start = env.init_qpos.copy()
        first, number = self._table.body_geomadr[self._body], self._table.body_geomnum[self._body]
        self._shapes = range(first, first + number)
        self._points = np.zeros((0, 3))
        self._way = p.ways[0]
        self._rehearsed_layout = b""

    def compute_change(self, data: mujoco.MjData) -> tuple[np.ndarray, float]:
        """Return the next change of the arm's joints [7] in rad, and the target of the finger joints in m."""
        posture = data.qpos[ARM]
        gripper, object_position = data.site_xpos[self._gripper], data.site_xpos[self._object]
        across = data.site_xmat[self._gripper].reshape(3, 3)[:2, 1]
        touching = self._count_touching_fingers(data)
        if (touching == 2 and self._within_grip(data, [0.06, 0.06, 0.07])) or (touching and object_position[2] > 0.95):
            goal = gripper + self._carry_displacement(gripper, object_position)
            return self._change_towards(goal, _downward(across), _CARRY_WEIGHTS, posture), _CLOSED
        grasp, turn = self._find_grasp(data, float(np.arctan2(across[1], across[0])))
        rotation = _downward(_rotate(across, turn))
        aside, above = float(np.linalg.norm((grasp - gripper)[:2])), abs(grasp[2] - gripper[2])
        has_arrived = aside < _ARRIVAL and above < _ARRIVAL and abs(turn) < 0.15
        if has_arrived or (touching and aside < 0.03 and above < 0.02):
            return self._change_towards(grasp, rotation, _GRASP_WEIGHTS, posture), _CLOSED
        if aside > 0.02 or abs(turn) > 0.3:
            grasp[2] += min(0.09, 2.0 * max(0.0, aside - 0.01) + max(0.0, abs(turn) - 0.2))
        return self._change_towards(grasp, rotation, _GRASP_WEIGHTS, posture), _OPEN

    def _carry_displacement(self, gripper: np.ndarray, object_position: np.ndarray) -> np.ndarray:
        """Return the next displacement [3] of the held object in m: up, over the walls, down to the target."""
        p = self._p
        x, y, _ = self._table.site_pos[self._target]
        displacement = np.array([x, y, p.place]) - object_position
        if np.linalg.norm(displacement[:2]) < 0.06:
            return displacement
        displacement[2] = p.over - object_position[2]
        if gripper[2] < p.clear and object_position[0] > p.wall:
            displacement[0] = max(displacement[0], p.wall - object_position[0])
        return displacement

    def _find_grasp(self, data: mujoco.MjData, yaw: float) -> tuple[np.ndarray, float]:
        """Return the position [3] of the gripper's grasp in m, and the turn of the fingers to it in rad."""
        preferred, aside = self._way
        middle, points = data.xpos[self._body], self._points @ data.xmat[self._body].reshape(3, 3).T
        lowest_cost, offset, turn = np.inf, np.zeros(2), 0.0
        for direction in _DIRECTIONS:
            along = np.array([np.cos(direction), np.sin(direction)])
            across = np.array([-along[1], along[0]])
            between = points[np.abs(points[:, :2] @ across - aside) < _FINGER_HALF_WIDTH, :2] @ along
            if len(between) < 3:
                continue
            width = float(np.ptp(between))
            centre = float(between.max() + between.min()) / 2
            turning, deviation = _half_turn(direction - yaw), _half_turn(direction - preferred)
            cost = 20 * max(0.0, width - _MAX_WIDTH) + 2 * width + 3 * abs(centre)
            cost += 0.15 * abs(turning)
            cost += 0.3 * abs(deviation)
            if cost < lowest_cost:
                lowest_cost, offset, turn = cost, centre * along + aside * across, turning
        height = max(self._p.lowest, middle[2] + points[:, 2].max() - self._p.depth)
        return np.array([*(middle[:2] + offset), height]), turn

    def plan(self, rehearsal: PickRehearsal, act: Callable[[mujoco.MjData], np.ndarray]) -> None:
        """Choose the way to grasp the object; keep the choice for the same shapes and target: a rehearsal takes 0.1 s.

        Args:
            rehearsal: Simulation in which the ways are tried.
            act: Function that returns the action [9] for the state of MuJoCo's data.
        """
        model, target = self._table, self._table.site_pos[self._target]
        fields = (model.geom_type, model.geom_size, model.geom_pos, model.geom_quat)
        layout = target.tobytes() + b"".join(field.tobytes() for field in fields)
        if layout == self._rehearsed_layout:
            return
        self._rehearsed_layout = layout
        self._points = np.concatenate([_surface_points(model, shape) for shape in self._shapes])
        for way in self._p.ways:
            self._way = way
            if rehearsal.reaches(act, self._start, self._object, target):
                return
        self._way = self._p.ways[0]


def _surface_points(model: mujoco.MjModel, shape: int) -> np.ndarray:
    """Return points [n, 3] on the surface of a geom, in m in the frame of its body."""
    size, number = model.geom_size[shape], np.arange(60) + 0.5
    polar, azimuth = np.arccos(1 - number / 30), np.pi * (1 + 5**0.5) * number
    ball = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)
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


def _limit_change(change: np.ndarray, leash: float) -> np.ndarray:
    """Scale a change of the joints so that no joint moves by more than the leash, in rad."""
    return change * min(1.0, leash / max(np.abs(change).max(), 1e-9))


def _half_turn(angle: float) -> float:
    """Return the equivalent direction of the two fingers, which are interchangeable, in [-π/2, π/2)."""
    return (angle + np.pi / 2) % np.pi - np.pi / 2


def _rotate(across: np.ndarray, angle: float) -> np.ndarray:
    """Rotate a horizontal direction [2] by an angle in rad."""
    x, y = across
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([cosine * x - sine * y, sine * x + cosine * y])


def _downward(across: np.ndarray) -> np.ndarray:
    """Return the axes [3, 3] of a gripper that points down, with its fingers side by side along a direction [2]."""
    fingers = np.append(across / np.linalg.norm(across), 0.0)
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(fingers, down), fingers, down], axis=1)
