"""Paths of arm postures that move one joint of the furniture.

A path depends only on the task's parameters and on where the robot and the object stand:

    (start ──► via ──► …) before ──► contact ──► carried along with the object ──► goal + overshoot
    └──────────────── approach ────────────┘    └──────────────────── carry ───────────────────┘
"""

import operator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.experts._kinematics import (
    ARM,
    RESTART_SPREAD,
    SPEED,
    InverseKinematics,
    gripper_rotation,
    matrix_to_rotvec,
    quaternion_to_matrix,
    rotvec_to_matrix,
)

_RESTARTS = 8
_HASTY_RESTARTS = 24

#: Distance between arm and furniture below which a posture counts as blocked, in m.
_CLEARANCE = 0.02

_PATH_POINTS = 12
_RAIL_POINTS = 9

#: Steps after which reaching the first posture, and each further one, is too late: an episode has 50 steps.
_LATE = (28.0, 14.0)

#: Steps that a whole path may take.
_MAX_STEPS = 40.0


@dataclass(frozen=True)
class PathParameters:
    """Tuned parameters of a task; lengths in m along the furniture's axes, relative to the object's interaction site.

    Attributes:
        before: First point of the gripper.
        contact: Point at which the gripper touches the object.
        rpy: Roll, pitch and yaw of the gripper in rad, relative to facing the kitchen.
        weights: Weights of rotation errors about the gripper's three axes against position errors, in m per rad.
        lead: Distance between the value of the object's joint and the value that the push aims at (joint units).
        over: Distance beyond the goal that the push may aim at (joint units).
        follow: Fraction of the object's rotation that the gripper follows.
        leash: Distance between the arm and its reference posture, in rad.
        arrival: Distance in rad at which the contact posture counts as reached.
        grip: Position of the finger joints on the approach in m; 0 is closed.
        via: Way-points from the arm's start around the object to ``before``.
        hold: Position of the finger joints from the contact on in m; None leaves them at ``grip``.
        shut: Position of the finger joints in m below which the object counts as grasped and is moved.
        lift: Height to which the object is lifted on its way.
        strict: Part of the leash that is lost per rad of distance from the approach; values above 1 keep the arm closer
            to it.
        haste: Preference for postures that the arm reaches early over an exact rotation, on the approach; 0 for none.
        hurry: The same preference for the postures that move the object.
        plans: Number of paths, from different first postures, that are compared as a whole; 1 takes the best first
            posture.
        within: Keep postures within the joints' own limits. Otherwise only the limits of the commands apply, which at
            some joints exceed the arm's reach by up to 0.4 rad.
        keep: Keep a lifted object up at its goal; otherwise it is set down there.
        level: Cost of turning the object, per rad at each posture of a path; 0 ignores the turn.
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
class TargetJoint:
    """The joint of an object that a task moves.

    Attributes:
        address: Address of the joint in qpos.
        body: Id of the joint's body.
        start: Value of the joint at reset, in m or rad.
        goal: Value of the joint at the goal, in m or rad.
    """

    address: int
    body: int
    start: float
    goal: float

    @property
    def sign(self) -> float:
        """Direction from start to goal: 1 or -1."""
        return float(np.sign(self.goal - self.start))

    def lifted(self, value: float, *, keep: bool = False) -> float:
        """Return the relative height of a lifted object: 0 at the start and, unless kept, at the goal; else up to 1."""
        part = (value - self.start) / (self.goal - self.start)
        return float(np.clip(min(6 * part, 1.0 if keep else 3 * (1 - part)), 0.0, 1.0))

    @classmethod
    def find(cls, kitchen: Any) -> "TargetJoint":
        """Return the kitchen's joint that is farthest from its goal, relative to the tolerance of success."""
        model = kitchen.sim.model.ptr
        start = kitchen.init_qpos[kitchen.obj["dof_adrs"]]
        index = int(np.argmax(np.abs(kitchen.obj_goal - start) / kitchen.obj["dof_proximity"]))
        address = int(kitchen.obj["dof_adrs"][index])
        joint = model.dof_jntid[address]
        return cls(address, int(model.jnt_bodyid[joint]), float(start[index]), float(kitchen.obj_goal[index]))

    @classmethod
    def full_range(cls, appliance: Any) -> "TargetJoint":
        """Return the joint of an appliance, with the ends of the range of its starts and goals."""
        model, address = appliance.sim.model.ptr, int(appliance.obj["dof_adrs"][0])
        joint = model.dof_jntid[address]
        ends = [
            np.atleast_1d(next(iter(bounds.values())))
            for bounds in (appliance.input_obj_init, appliance.input_obj_goal)
        ]
        return cls(address, int(model.jnt_bodyid[joint]), float(np.min(ends)), float(np.max(ends)))


@dataclass(frozen=True)
class PosturePath:
    """Postures of the arm in rad that move an object's joint.

    Attributes:
        approach: Postures [n, 7] that lead to the contact.
        values: Values [m] of the object's joint.
        postures: Postures [m, 7] that hold the object at ``values``.
    """

    approach: np.ndarray
    values: np.ndarray
    postures: np.ndarray

    @property
    def contact(self) -> np.ndarray:
        """The posture [7] at the contact, which is the last of the approach."""
        return self.approach[-1]

    def posture_at(self, value: float) -> np.ndarray:
        """Return the posture [7] that holds the object at a joint value, clipped to the ends of the path."""
        forward = self.values[-1] > self.values[0]
        order = slice(None) if forward else slice(None, None, -1)
        return np.array([np.interp(value, self.values[order], angles[order]) for angles in self.postures.T])


@dataclass(frozen=True)
class ContactRail:
    """Postures of the arm in rad at the contact with an object, for any value of its joint.

    Attributes:
        values: Values [n] of the object's joint.
        postures: Postures [n, 2, 7], before and at the contact.
    """

    values: np.ndarray
    postures: np.ndarray

    def postures_at(self, value: float) -> np.ndarray:
        """Return the postures [2, 7] before and at the contact at a joint value, clipped to the ends of the range."""
        index = np.interp(value, self.values, np.arange(len(self.values)))
        low = min(int(index), len(self.values) - 2)
        return self.postures[low] + (index - low) * (self.postures[low + 1] - self.postures[low])


class PathPlanner(InverseKinematics):
    """Planner of a task's paths, on a copy of the model in which every object stands where it does at reset.

    Args:
        kitchen: RoboHive's environment, a kitchen or an appliance.
        joint: The joint to move.
    """

    def __init__(self, kitchen: Any, joint: TargetJoint) -> None:
        super().__init__(kitchen)
        self._joint = joint
        self._start = kitchen.init_qpos.copy()
        self._site = int(kitchen.interact_sid)
        self._is_robot = _subtree_geoms(self._model, "panda0_link0")
        self._model.geom_margin[~self._is_robot] = _CLEARANCE
        self._may_touch = int(self._model.site_bodyid[self._site])
        self._root = int(self._model.body_rootid[self._may_touch])

    def plan_path(self, body_pos: np.ndarray, body_quat: np.ndarray, p: PathParameters) -> PosturePath:
        """Return the path for a placement of the robot and the furniture.

        Args:
            body_pos: Positions of the model's bodies [n, 3] in m.
            body_quat: Rotations of the model's bodies [n, 4].
            p: The task's parameters.
        """
        self._set_joint_limits(p.within)
        model, data = self._model, self._data
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        front = quaternion_to_matrix(model.body_quat[self._root])
        site, rotation = data.site_xpos[self._site].copy(), front @ gripper_rotation(*p.rpy)
        points = [site + front @ point for point in (*p.via, p.before, p.contact)]
        latest = _LATE[0] if p.plans > 1 else np.inf
        candidates = self._find_postures(points[0], rotation, np.array(p.weights), self._start[ARM], p.haste, latest)
        if p.plans == 1:
            return self._continue_path(candidates[0][1], points, rotation, p)[0]
        # Some postures that are reached early lead to a dead end, which only the whole path shows.
        first_postures = [posture for _, posture in _select_distinct(candidates, p.plans)]
        paths = [self._continue_path(posture, points, rotation, p) for posture in first_postures]
        return min(paths, key=operator.itemgetter(1))[0]

    def _continue_path(
        self, first: np.ndarray, points: list[np.ndarray], rotation: np.ndarray, p: PathParameters
    ) -> tuple[PosturePath, float]:
        """Return the path that continues from its first posture, and its cost."""
        model, data, joint, weights = self._model, self._data, self._joint, np.array(p.weights)
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        turned = data.xmat[joint.body].reshape(3, 3).copy()
        held = turned.T @ (points[-1] - data.xpos[joint.body])
        approach = [self._start[ARM], first]
        for point in points[1:]:
            latest = _LATE[1] if p.plans > 1 else np.inf
            approach.append(self._find_postures(point, rotation, weights, approach[-1], 0.0, latest)[0][1])
        values = np.linspace(joint.start, joint.goal + joint.sign * p.over, _PATH_POINTS)
        postures, missed, blocked, turned_off = [approach[-1]], 0.0, self._collision_cost(approach[1]), 0.0
        for value in values[1:]:
            data.qpos[joint.address] = value
            mujoco.mj_kinematics(model, data)
            axes = data.xmat[joint.body].reshape(3, 3)
            target = data.xpos[joint.body] + axes @ held
            target[2] += p.lift * joint.lifted(value, keep=p.keep)
            turn = rotvec_to_matrix(p.follow * matrix_to_rotvec(axes @ turned.T))
            posture, off, _ = self._solve(target, turn @ rotation, weights, postures[-1], p.hurry, postures[-1])
            postures.append(posture)
            if p.plans > 1 and joint.sign * (value - joint.goal) <= 0.0:
                missed, blocked = missed + off, blocked + self._collision_cost(posture)
                if p.level:
                    error, _ = self._error(target, turn @ rotation, weights, posture)
                    turned_off += float(np.linalg.norm(error[3:]) / weights.max())
        whole = np.array([*approach, *postures[1:]])
        steps = np.abs(np.diff(whole, axis=0) / SPEED).max(axis=1).sum()
        # Without way-points, the arm may take any way to the first posture.
        path = PosturePath(np.array(approach if p.via else approach[1:]), values, np.array(postures))
        late = max(0.0, steps - _MAX_STEPS)
        return path, 0.03 * steps + 0.3 * late + 5.0 * missed + 3.0 * blocked + p.level * turned_off

    def plan_rail(self, body_pos: np.ndarray, body_quat: np.ndarray, p: PathParameters) -> ContactRail:
        """Return the postures at the contact for every value of the object's joint between start and goal.

        Args:
            body_pos: Positions of the model's bodies [n, 3] in m.
            body_quat: Rotations of the model's bodies [n, 4].
            p: The task's parameters.
        """
        self._set_joint_limits(p.within)
        model, data, joint = self._model, self._data, self._joint
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        front = quaternion_to_matrix(model.body_quat[self._root])
        rotation, weights = front @ gripper_rotation(*p.rpy), np.array(p.weights)
        values = np.linspace(joint.start, joint.goal, _RAIL_POINTS)
        postures = np.zeros((_RAIL_POINTS, 2, 7))
        middle = _RAIL_POINTS // 2
        for index in (*range(middle, _RAIL_POINTS), *range(middle - 1, -1, -1)):
            data.qpos[:] = self._start
            data.qpos[joint.address] = values[index]
            mujoco.mj_kinematics(model, data)
            before, contact = (data.site_xpos[self._site] + front @ point for point in (p.before, p.contact))
            if index == middle:
                postures[index, 0] = self._find_postures(before, rotation, weights, self._start[ARM], p.haste)[0][1]
                postures[index, 1] = self._find_postures(contact, rotation, weights, postures[index, 0], 0.0)[0][1]
                continue
            near = postures[index - 1 if index > middle else index + 1]
            postures[index, 0] = self._solve(before, rotation, weights, near[0])[0]
            postures[index, 1] = self._solve(contact, rotation, weights, near[1])[0]
        return ContactRail(values, postures)

    def _find_postures(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        weights: np.ndarray,
        start: np.ndarray,
        haste: float,
        latest: float = np.inf,
    ) -> list[tuple[float, np.ndarray]]:
        """Return postures that reach a pose with their costs, cheapest first.

        The cost grows with the distance from the start and with contacts between arm and kitchen.
        """
        random = np.random.default_rng(0)
        candidates = []
        parts = np.linspace(0.0, 1.0, 10 if haste else 5)[1:]
        for attempt in range((_HASTY_RESTARTS if haste else _RESTARTS) + 1):
            guess = start + random.normal(size=7) * RESTART_SPREAD if attempt else start
            posture, off, turned = self._solve(position, rotation, weights, guess, haste, start)
            blocked = sum(self._collision_cost(start + part * (posture - start)) for part in parts)
            cost = 20 * off + 5 * weights.max() * turned + 0.3 * np.abs(posture - start).max() + 8 * blocked
            steps = np.abs((posture - start) / SPEED).max()
            cost += max(0.0, steps - latest)
            if haste:
                # The quickest way must not lead through the furniture.
                cost += haste * steps + 80 * blocked
            candidates.append((cost, posture))
            if attempt == 0 and not haste and off < 0.004 and turned < 0.15 and blocked == 0:
                break
        return sorted(candidates, key=operator.itemgetter(0))

    def _collision_cost(self, posture: np.ndarray) -> float:
        """Return the cost of a posture that comes too close to the kitchen, 0 if it keeps its distance."""
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


def _select_distinct(candidates: list[tuple[float, np.ndarray]], most: int) -> list[tuple[float, np.ndarray]]:
    """Return the best posture and the next ones that differ from all before by more than 0.2 rad, with their costs."""
    selected = candidates[:1]
    for cost, posture in candidates[1:]:
        if len(selected) < most and all(np.abs(posture - other).max() > 0.2 for _, other in selected):
            selected.append((cost, posture))
    return selected


def _subtree_geoms(model: mujoco.MjModel, root: str) -> np.ndarray:
    """Return a mask of the geoms whose body is the root or one of its descendants."""
    is_descendant = np.zeros(model.nbody, bool)
    is_descendant[model.body(root).id] = True
    for body in range(1, model.nbody):  # a parent has a lower id than its children
        is_descendant[body] |= is_descendant[model.body_parentid[body]]
    return is_descendant[model.geom_bodyid]
