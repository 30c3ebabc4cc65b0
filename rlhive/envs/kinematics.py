"""Where the arm of RoboHive's kitchen has to go: inverse kinematics, and the path of postures of a task.

A path depends on the task's parameters and on where the robot stands, and on nothing else:

    before ──► contact ──► carried along with the object ──► goal + overshoot
"""

import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

ARM = slice(0, 7)

#: The gripper points at the kitchen (+y) with its fingers side by side (x): the axes of its frame in columns.
_FACING_KITCHEN = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

#: Joint limits in rad that the postures keep: RoboHive clips commands to about these.
_LOWEST = np.array([-2.957, -1.823, -2.957, -3.132, -2.957, -1.65, -2.957])
_HIGHEST = np.array([2.957, 1.823, 2.957, -0.01, 2.957, 2.172, 2.957])

_RESTARTS = 8
_RESTART_SPREAD = np.array([0.5, 0.5, 0.7, 0.5, 1.0, 0.7, 1.0])
_CLEARANCE = 0.02
_PATH_POINTS = 12


@dataclass(frozen=True)
class Parameters:
    """What is tuned for a task. Lengths in m along the world's axes, relative to the object's interaction site.

    Attributes:
        before: Where the gripper goes first.
        contact: Where it touches the object.
        rpy: Roll, pitch and yaw of the gripper in rad, relative to facing the kitchen.
        weights: Of rotation errors about the gripper's three axes against position errors, in m per rad.
        lead: How far ahead of the object's joint the push aims (joint units).
        over: How far beyond the goal it may aim (joint units).
        follow: Share of the object's rotation that the gripper takes part in.
        leash: How far ahead of the arm its reference may be, in rad.
        arrival: Distance in rad at which the contact posture counts as reached.
        grip: Finger joints in m; 0 is closed.
    """

    before: tuple[float, float, float]
    contact: tuple[float, float, float]
    rpy: tuple[float, float, float]
    weights: tuple[float, float, float]
    lead: float
    over: float
    follow: float
    leash: float
    arrival: float
    grip: float


@dataclass(frozen=True)
class Job:
    """The object's joint that is out of place: its address in qpos, body, where it starts and should end."""

    address: int
    body: int
    start: float
    goal: float

    @property
    def sign(self) -> float:
        """Which way the joint has to go: 1 or -1."""
        return float(np.sign(self.goal - self.start))

    @classmethod
    def of(cls, kitchen: Any) -> "Job":
        """Find the joint that is farthest from its goal, measured in the tolerance of success."""
        model = kitchen.sim.model.ptr
        start = kitchen.init_qpos[kitchen.obj["dof_adrs"]]
        index = int(np.argmax(np.abs(kitchen.obj_goal - start) / kitchen.obj["dof_proximity"]))
        address = int(kitchen.obj["dof_adrs"][index])
        joint = model.dof_jntid[address]
        return cls(address, int(model.jnt_bodyid[joint]), float(start[index]), float(kitchen.obj_goal[index]))


@dataclass(frozen=True)
class Path:
    """Postures [7] in rad: before and at the contact, and those that carry the contact to ``values`` of the joint."""

    before: np.ndarray
    contact: np.ndarray
    values: np.ndarray
    postures: np.ndarray

    def pushing(self, value: float) -> np.ndarray:
        """Return the posture that holds the object at a value, held to the ends of the path."""
        forward = self.values[-1] > self.values[0]
        order = slice(None) if forward else slice(None, None, -1)
        return np.array([np.interp(value, self.values[order], joint[order]) for joint in self.postures.T])


class Arm:
    """Inverse kinematics on a model of its own, in which every object is where it is at reset."""

    def __init__(self, kitchen: Any, job: Job) -> None:
        self._model = copy.copy(kitchen.sim.model.ptr)
        self._data = mujoco.MjData(self._model)
        self._job = job
        self._start = kitchen.init_qpos.copy()
        self._gripper, self._site = int(kitchen.grasp_sid), int(kitchen.interact_sid)
        self._is_robot = _geoms_below(self._model, "panda0_link0")
        self._model.geom_margin[~self._is_robot] = _CLEARANCE
        self._may_touch = int(self._model.site_bodyid[self._site])

    def path(self, body_pos: np.ndarray, p: Parameters) -> Path:
        """Return the path of a task for where the robot stands."""
        model, data, job = self._model, self._data, self._job
        model.body_pos[:] = body_pos
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        site = data.site_xpos[self._site].copy()
        turned = data.xmat[job.body].reshape(3, 3).copy()
        held = turned.T @ (site + p.contact - data.xpos[job.body])
        rotation, weights = _facing(*p.rpy), np.array(p.weights)
        before = self._search(site + p.before, rotation, weights, self._start[ARM])
        contact = self._search(site + p.contact, rotation, weights, before)
        values = np.linspace(job.start, job.goal + job.sign * p.over, _PATH_POINTS)
        postures = [contact]
        for value in values[1:]:
            data.qpos[job.address] = value
            mujoco.mj_kinematics(model, data)
            axes = data.xmat[job.body].reshape(3, 3)
            target = data.xpos[job.body] + axes @ held
            turn = _rotation_of(p.follow * _vector_of(axes @ turned.T))
            postures.append(self._solve(target, turn @ rotation, weights, postures[-1])[0])
        return Path(before, contact, values, np.array(postures))

    def _search(self, position: np.ndarray, rotation: np.ndarray, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the posture nearest to the start that reaches a pose without touching the kitchen on the way."""
        random, best = np.random.default_rng(0), None
        for attempt in range(_RESTARTS + 1):
            guess = start + random.normal(size=7) * _RESTART_SPREAD if attempt else start
            posture, off, turned = self._solve(position, rotation, weights, guess)
            blocked = sum(self._blocked(start + part * (posture - start)) for part in (0.25, 0.5, 0.75, 1.0))
            cost = 20 * off + 5 * weights.max() * turned + 0.3 * np.abs(posture - start).max() + 8 * blocked
            if best is None or cost < best[0]:
                best = cost, posture
            if attempt == 0 and off < 0.004 and turned < 0.15 and blocked == 0:
                break
        return best[1]

    def _solve(
        self, position: np.ndarray, rotation: np.ndarray, weights: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """Levenberg-Marquardt from a start; returns the posture, and its errors in m and rad."""
        start = np.clip(start, _LOWEST, _HIGHEST)
        posture, damping, stay = start, 1e-3, 3e-5
        error, cost = self._error(position, rotation, weights, posture)
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(40):
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._gripper)
            slope = jacobian[:, ARM].copy()
            slope[3:] = weights[:, None] * (rotation.T @ slope[3:])
            curvature = slope.T @ slope + (damping + stay) * np.eye(7)
            change = np.linalg.solve(curvature, slope.T @ error - stay * (posture - start))
            trial = np.clip(posture + np.clip(change, -0.4, 0.4), _LOWEST, _HIGHEST)
            trial_error, trial_cost = self._error(position, rotation, weights, trial)
            trial_cost += stay * np.sum((trial - start) ** 2)
            if trial_cost < cost:
                gain, posture, error, cost, damping = cost - trial_cost, trial, trial_error, trial_cost, damping / 3
                if gain < 1e-10:
                    break
            else:
                damping *= 5
                self._error(position, rotation, weights, posture)
                if damping > 100:
                    break
        return posture, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:] / weights))

    def _error(
        self, position: np.ndarray, rotation: np.ndarray, weights: np.ndarray, posture: np.ndarray
    ) -> tuple[np.ndarray, float]:
        self._data.qpos[ARM] = posture
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        axes = self._data.site_xmat[self._gripper].reshape(3, 3)
        off = position - self._data.site_xpos[self._gripper]
        error = np.concatenate([off, weights * (rotation.T @ _vector_of(rotation @ axes.T))])
        return error, float(error @ error)

    def _blocked(self, posture: np.ndarray) -> float:
        """Return how much a posture comes too near to the kitchen, 0 where it keeps its distance."""
        self._data.qpos[ARM] = posture
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        total = 0.0
        for contact in self._data.contact:
            first, second = self._is_robot[contact.geom1], self._is_robot[contact.geom2]
            other = contact.geom2 if first else contact.geom1
            if first != second and self._model.geom_bodyid[other] != self._may_touch:
                total += 0.01 + max(0.0, _CLEARANCE - contact.dist)
        return total


def project(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Return how far along a segment (0 to 1) a posture is, and how far off it in its worst joint, in rad."""
    way = end - start
    along = float(np.clip((point - start) @ way / max(way @ way, 1e-12), 0.0, 1.0))
    return along, float(np.abs(point - start - along * way).max())


def _facing(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Yaw about the world's z, pitch about its x, roll about the gripper's own axis."""
    z, x = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    return _rotation_of(yaw * z) @ _rotation_of(pitch * x) @ _FACING_KITCHEN @ _rotation_of(roll * z)


def _rotation_of(vector: np.ndarray) -> np.ndarray:
    angle = float(np.linalg.norm(vector))
    quaternion, matrix = np.zeros(4), np.zeros(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / angle if angle > 1e-12 else np.array([1.0, 0.0, 0.0]), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _vector_of(rotation: np.ndarray) -> np.ndarray:
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def _geoms_below(model: mujoco.MjModel, root: str) -> np.ndarray:
    """Return for each geom whether its body is the root or below it."""
    below = np.zeros(model.nbody, bool)
    below[model.body(root).id] = True
    for body in range(1, model.nbody):  # parents come first
        below[body] |= below[model.body_parentid[body]]
    return below[model.geom_bodyid]
