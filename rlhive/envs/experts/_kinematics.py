"""Where the arm of RoboHive's kitchen has to go: inverse kinematics, and the path of postures of a task.

A path depends on the task's parameters and on where the robot and the object stand, and on nothing else:

    (start ──► via ──► …) before ──► contact ──► carried along with the object ──► goal + overshoot
    └──────────────── approach ────────────┘    └──────────────────── carry ───────────────────┘
"""

import copy
import itertools
import operator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

ARM = slice(0, 7)
FINGERS = slice(7, 9)

#: The gripper points at the kitchen (+y) with its fingers side by side (x): the axes of its frame in columns.
_FACING_KITCHEN = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

#: Joint limits in rad that the postures keep: RoboHive clips commands to about these.
_LOWEST = np.array([-2.957, -1.823, -2.957, -3.132, -2.957, -1.65, -2.957])
_HIGHEST = np.array([2.957, 1.823, 2.957, -0.01, 2.957, 2.172, 2.957])

#: How far from a joint's own limit a posture stays that keeps within it, in rad.
_PLAY = 0.01

_RESTARTS = 8
RESTART_SPREAD = np.array([0.5, 0.5, 0.7, 0.5, 1.0, 0.7, 1.0])
_CLEARANCE = 0.02
_PATH_POINTS = 12
_RAIL_POINTS = 9

#: How far each joint gets in a step of 0.08 s at full force, in rad: the second one lifts the arm.
SPEED = np.array([0.069, 0.053, 0.055, 0.064, 0.093, 0.093, 0.096])
_HASTY_RESTARTS = 24
_STAY = 4e-3

#: Steps after which the first posture, and each further one, is too late whatever speaks for it: an episode has 50.
_LATE = (28.0, 14.0)

#: Steps that a whole path may take.
_TIME = 40.0


@dataclass(frozen=True)
class Parameters:
    """What is tuned for a task. Lengths in m along the furniture's axes, relative to the object's interaction site.

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
        grip: Finger joints in m on the approach; 0 is closed.
        via: Way-points that lead from the arm's start around the object to ``before``.
        hold: Finger joints in m from the contact on; None leaves them as they were.
        shut: Finger joints in m below which a grasp is made and the object is carried off.
        lift: How far the object is lifted on its way.
        strict: How much of the leash it costs to be off the approach; above 1, the arm keeps closer to it.
        haste: Prefer postures that the arm reaches soon to an exact rotation; 0 does not.
        hurry: The same on the way of the object.
        plans: How many paths, from different first postures, are compared as a whole; 1 takes the best first posture.
        within: Keep the postures within the limits of the joints; otherwise within what may be commanded, which at some
            joints is up to 0.4 rad more than the arm can do.
        keep: Whether a lifted object stays lifted at its goal; without, it is set down there.
        level: What it costs a path to turn the object, per rad at each of its postures; 0 compares without.
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
    via: tuple[tuple[float, float, float], ...] = ()
    hold: float | None = None
    shut: float = 0.03
    lift: float = 0.0
    strict: float = 1.0
    haste: float = 0.0
    hurry: float = 0.0
    plans: int = 1
    within: bool = False
    keep: bool = False
    level: float = 0.0


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

    def lifted(self, value: float, *, keep: bool = False) -> float:
        """Return how far up a lifted object is at a value: 1 except near the two ends of its way, or its start."""
        part = (value - self.start) / (self.goal - self.start)
        return float(np.clip(min(6 * part, 1.0 if keep else 3 * (1 - part)), 0.0, 1.0))

    @classmethod
    def of(cls, kitchen: Any) -> "Job":
        """Find the joint that is farthest from its goal, measured in the tolerance of success."""
        model = kitchen.sim.model.ptr
        start = kitchen.init_qpos[kitchen.obj["dof_adrs"]]
        index = int(np.argmax(np.abs(kitchen.obj_goal - start) / kitchen.obj["dof_proximity"]))
        address = int(kitchen.obj["dof_adrs"][index])
        joint = model.dof_jntid[address]
        return cls(address, int(model.jnt_bodyid[joint]), float(start[index]), float(kitchen.obj_goal[index]))

    @classmethod
    def anywhere(cls, appliance: Any) -> "Job":
        """Return the whole way of the one joint of an appliance."""
        model, address = appliance.sim.model.ptr, int(appliance.obj["dof_adrs"][0])
        joint = model.dof_jntid[address]
        ends = [
            np.atleast_1d(next(iter(each.values()))) for each in (appliance.input_obj_init, appliance.input_obj_goal)
        ]
        return cls(address, int(model.jnt_bodyid[joint]), float(np.min(ends)), float(np.max(ends)))


@dataclass(frozen=True)
class Path:
    """Postures [7] in rad: those that lead to the contact, and those that carry it to ``values`` of the joint."""

    approach: np.ndarray
    values: np.ndarray
    postures: np.ndarray

    @property
    def contact(self) -> np.ndarray:
        """The posture at the contact, where the approach ends."""
        return self.approach[-1]

    def pushing(self, value: float) -> np.ndarray:
        """Return the posture that holds the object at a value, held to the ends of the path."""
        forward = self.values[-1] > self.values[0]
        order = slice(None) if forward else slice(None, None, -1)
        return np.array([np.interp(value, self.values[order], joint[order]) for joint in self.postures.T])


@dataclass(frozen=True)
class Rail:
    """Postures [values, 2, 7] in rad, before and at the contact with an object wherever its joint stands."""

    values: np.ndarray
    postures: np.ndarray

    def at(self, value: float) -> np.ndarray:
        """Return the two postures [2, 7] at a value, held to the ends of the rail."""
        index = np.interp(value, self.values, np.arange(len(self.values)))
        low = min(int(index), len(self.values) - 2)
        return self.postures[low] + (index - low) * (self.postures[low + 1] - self.postures[low])


class Solver:
    """Inverse kinematics of the gripper, on a model of its own."""

    def __init__(self, env: Any) -> None:
        self._model = copy.copy(env.sim.model.ptr)
        self._data = mujoco.MjData(self._model)
        self._gripper = int(env.grasp_sid)
        self._lowest, self._highest = _LOWEST, _HIGHEST

    def _keep_within(self, limits: bool) -> None:
        self._lowest, self._highest = _LOWEST, _HIGHEST
        if limits:
            lowest, highest = self._model.jnt_range[ARM].T
            self._lowest, self._highest = np.maximum(_LOWEST, lowest + _PLAY), np.minimum(_HIGHEST, highest - _PLAY)

    def _solve(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        weights: np.ndarray,
        start: np.ndarray,
        haste: float = 0.0,
        home: np.ndarray | None = None,
    ) -> tuple[np.ndarray, float, float]:
        """Levenberg-Marquardt from a start; returns the posture, and its errors in m and rad."""
        start = np.clip(start, self._lowest, self._highest)
        posture, damping = start, 1e-3
        stay, home = (_STAY * haste * (0.07 / SPEED) ** 2, home) if haste else (3e-5 * np.ones(7), start)
        error, cost = self._error(position, rotation, weights, posture)
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(40):
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._gripper)
            slope = jacobian[:, ARM].copy()
            slope[3:] = weights[:, None] * (rotation.T @ slope[3:])
            curvature = slope.T @ slope + (damping + stay) * np.eye(7)
            change = np.linalg.solve(curvature, slope.T @ error - stay * (posture - home))
            trial = np.clip(posture + np.clip(change, -0.4, 0.4), self._lowest, self._highest)
            trial_error, trial_cost = self._error(position, rotation, weights, trial)
            trial_cost += stay[0] * np.sum(stay / stay[0] * (trial - home) ** 2)
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


class Arm(Solver):
    """The ways of a task, on a model of its own, in which every object is where it is at reset."""

    def __init__(self, kitchen: Any, job: Job) -> None:
        super().__init__(kitchen)
        self._job = job
        self._start = kitchen.init_qpos.copy()
        self._site = int(kitchen.interact_sid)
        self._is_robot = _geoms_below(self._model, "panda0_link0")
        self._model.geom_margin[~self._is_robot] = _CLEARANCE
        self._may_touch = int(self._model.site_bodyid[self._site])
        self._root = int(self._model.body_rootid[self._may_touch])

    def path(self, body_pos: np.ndarray, body_quat: np.ndarray, p: Parameters) -> Path:
        """Return the path of a task for where the robot and the furniture stand."""
        self._keep_within(p.within)
        model, data = self._model, self._data
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        front = matrix_of(model.body_quat[self._root])
        site, rotation = data.site_xpos[self._site].copy(), front @ facing(*p.rpy)
        points = [site + front @ point for point in (*p.via, p.before, p.contact)]
        late = _LATE[0] if p.plans > 1 else np.inf
        found = self._candidates(points[0], rotation, np.array(p.weights), self._start[ARM], p.haste, late)
        if p.plans == 1:
            return self._continued(found[0][1], points, rotation, p)[0]
        # Some quick postures lead into a corner, which only the whole path shows.
        paths = [self._continued(posture, points, rotation, p) for _, posture in _distinct(found, p.plans)]
        return min(paths, key=operator.itemgetter(1))[0]

    def _continued(
        self, first: np.ndarray, points: list[np.ndarray], rotation: np.ndarray, p: Parameters
    ) -> tuple[Path, float]:
        """Return the path that goes on from its first posture, and what it costs."""
        model, data, job, weights = self._model, self._data, self._job, np.array(p.weights)
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        turned = data.xmat[job.body].reshape(3, 3).copy()
        held = turned.T @ (points[-1] - data.xpos[job.body])
        approach = [self._start[ARM], first]
        for point in points[1:]:
            late = _LATE[1] if p.plans > 1 else np.inf
            approach.append(self._candidates(point, rotation, weights, approach[-1], 0.0, late)[0][1])
        values = np.linspace(job.start, job.goal + job.sign * p.over, _PATH_POINTS)
        postures, missed, blocked, turned_off = [approach[-1]], 0.0, self._blocked(approach[1]), 0.0
        for value in values[1:]:
            data.qpos[job.address] = value
            mujoco.mj_kinematics(model, data)
            axes = data.xmat[job.body].reshape(3, 3)
            target = data.xpos[job.body] + axes @ held
            target[2] += p.lift * job.lifted(value, keep=p.keep)
            turn = _rotation_of(p.follow * _vector_of(axes @ turned.T))
            posture, off, _ = self._solve(target, turn @ rotation, weights, postures[-1], p.hurry, postures[-1])
            postures.append(posture)
            if p.plans > 1 and job.sign * (value - job.goal) <= 0.0:
                missed, blocked = missed + off, blocked + self._blocked(posture)
                if p.level:
                    error, _ = self._error(target, turn @ rotation, weights, posture)
                    turned_off += float(np.linalg.norm(error[3:]) / weights.max())
        whole = np.array([*approach, *postures[1:]])
        steps = np.abs(np.diff(whole, axis=0) / SPEED).max(axis=1).sum()
        # Without way-points to keep to, any way to the first posture will do.
        path = Path(np.array(approach if p.via else approach[1:]), values, np.array(postures))
        return path, 0.03 * steps + 0.3 * max(0.0, steps - _TIME) + 5.0 * missed + 3.0 * blocked + p.level * turned_off

    def rail(self, body_pos: np.ndarray, body_quat: np.ndarray, p: Parameters) -> Rail:
        """Return how to take hold of an object whose joint may stand anywhere between the job's start and goal."""
        self._keep_within(p.within)
        model, data, job = self._model, self._data, self._job
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        front = matrix_of(model.body_quat[self._root])
        rotation, weights = front @ facing(*p.rpy), np.array(p.weights)
        values = np.linspace(job.start, job.goal, _RAIL_POINTS)
        postures = np.zeros((_RAIL_POINTS, 2, 7))
        middle = _RAIL_POINTS // 2
        for index in (*range(middle, _RAIL_POINTS), *range(middle - 1, -1, -1)):
            data.qpos[:] = self._start
            data.qpos[job.address] = values[index]
            mujoco.mj_kinematics(model, data)
            before, contact = (data.site_xpos[self._site] + front @ point for point in (p.before, p.contact))
            if index == middle:
                postures[index, 0] = self._candidates(before, rotation, weights, self._start[ARM], p.haste)[0][1]
                postures[index, 1] = self._candidates(contact, rotation, weights, postures[index, 0], 0.0)[0][1]
                continue
            near = postures[index - 1 if index > middle else index + 1]
            postures[index, 0] = self._solve(before, rotation, weights, near[0])[0]
            postures[index, 1] = self._solve(contact, rotation, weights, near[1])[0]
        return Rail(values, postures)

    def _candidates(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        weights: np.ndarray,
        start: np.ndarray,
        haste: float,
        late: float = np.inf,
    ) -> list[tuple[float, np.ndarray]]:
        """Return postures that reach a pose, with their costs: near to the start, without touching the kitchen."""
        random, found = np.random.default_rng(0), []
        parts = np.linspace(0.0, 1.0, 10 if haste else 5)[1:]
        for attempt in range((_HASTY_RESTARTS if haste else _RESTARTS) + 1):
            guess = start + random.normal(size=7) * RESTART_SPREAD if attempt else start
            posture, off, turned = self._solve(position, rotation, weights, guess, haste, start)
            blocked = sum(self._blocked(start + part * (posture - start)) for part in parts)
            cost = 20 * off + 5 * weights.max() * turned + 0.3 * np.abs(posture - start).max() + 8 * blocked
            steps = np.abs((posture - start) / SPEED).max()
            cost += max(0.0, steps - late)
            if haste:
                # The quickest way must not be one through the furniture.
                cost += haste * steps + 80 * blocked
            found.append((cost, posture))
            if attempt == 0 and not haste and off < 0.004 and turned < 0.15 and blocked == 0:
                break
        return sorted(found, key=operator.itemgetter(0))

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


class Reach(Solver):
    """The posture that brings the gripper to a point."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._start = env.init_qpos.copy()
        self.target = int(env.target_sid)

    def posture(self, point: np.ndarray) -> np.ndarray:
        """Return the nearest posture [7] at a point, whichever way the gripper is turned."""
        self._data.qpos[:] = self._start
        return self._solve(point, np.eye(3), np.full(3, 1e-3), self._start[ARM])[0]


def _distinct(found: list[tuple[float, np.ndarray]], most: int) -> list[tuple[float, np.ndarray]]:
    """Return the best of the postures, and the next ones that are really others."""
    chosen = found[:1]
    for cost, posture in found[1:]:
        if len(chosen) < most and all(np.abs(posture - other).max() > 0.2 for _, other in chosen):
            chosen.append((cost, posture))
    return chosen


def ahead_on(way: np.ndarray, posture: np.ndarray, leash: float, strict: float) -> np.ndarray:
    """Return the posture on a way [n, 7] that is a leash ahead of the arm; less if the arm is off the way."""
    parts = [project(posture, *part) for part in itertools.pairwise(way)]
    # At a corner the later part counts.
    index = len(parts) - 1 - int(np.argmin([off for _, off in parts[::-1]]))
    along, off = parts[index]
    ahead = leash - strict * off
    while True:
        start, end = way[index : index + 2]
        length = np.abs(end - start).max()
        part = along + ahead / length
        if part <= 1.0 or index == len(parts) - 1:
            return start + np.clip(part, 0.0, 1.0) * (end - start)
        ahead, along, index = (part - 1.0) * length, 0.0, index + 1


def project(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Return how far along a segment (0 to 1) a posture is, and how far off it in its worst joint, in rad."""
    way = end - start
    along = float(np.clip((point - start) @ way / max(way @ way, 1e-12), 0.0, 1.0))
    return along, float(np.abs(point - start - along * way).max())


def facing(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return the gripper's axes [3, 3]: yaw about the world's z, pitch about its x, roll about its own axis, in rad."""
    z, x = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    return _rotation_of(yaw * z) @ _rotation_of(pitch * x) @ _FACING_KITCHEN @ _rotation_of(roll * z)


def _rotation_of(vector: np.ndarray) -> np.ndarray:
    angle, quaternion = float(np.linalg.norm(vector)), np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, vector / angle if angle > 1e-12 else np.array([1.0, 0.0, 0.0]), angle)
    return matrix_of(quaternion)


def matrix_of(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a quaternion [4], w first."""
    matrix = np.zeros(9)
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
