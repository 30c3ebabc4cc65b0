"""Taking an object by its handle and carrying it to where it belongs, in few straight lines of the arm's joints.

    start ──► before ──► contact, the fingers close ──► lifted ──► between ──► … ──► end
    └────── approach ──────┘                       └───────────── carry ─────────────┘

A joint of the kitchen's arm gets some 0.07 rad in a step, and an episode has 50: how long a way takes depends on the
postures at its ends more than on anything else. So many are drawn, grasps of the handle and for each of them ways of
holding the object at its goal; the quickest come first, and a rehearsal decides which of them is taken.
"""

import operator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.experts._kinematics import ARM, RESTART_SPREAD, SPEED, Arm, Job, facing, matrix_of

#: Of rotation errors against position errors, in m per rad.
_WEIGHTS = np.full(3, 0.1)
_HASTE = 0.02

#: Postures that miss a grasp by more than this are dropped, in m and rad.
_MISSED, _TURNED = 0.006, 0.1

#: Steps after which an approach is too late, and what it costs in steps to be in the way, per m.
_LATE, _BLOCKED = 26.0, 100.0

#: How near to the rest the arm and what it carries may come, in m.
_CLEARANCE = 0.01

_PARTS_BETWEEN = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CarryParameters:
    """What is tuned for an object with a handle; lengths in m along the furniture's axes, angles in rad.

    Attributes:
        roll: How the gripper may be turned about its own axis to take the handle.
        pitch: Least and largest pitch of the gripper.
        yaw: Largest yaw of the gripper at the grasp.
        along: How far from the middle of the handle it may be taken.
        back: How far before the grasp the gripper comes from, along its own axis.
        turn: How far from level, and from where it should point, the object may be held at its goal.
        beyond: How far beyond the goal it is carried, least and largest: it lags behind the gripper.
        aside: How far to the right of the way to its goal, least and largest.
        lift: How high it is carried.
        end: How high it is held at its goal.
        leash: How far ahead of the arm its reference may be on the approach.
        strict: How much of the leash it costs to be off the way.
        carry_leash: The leash while it is carried.
        carry_strict: The same as ``strict`` while it is carried.
        arrival: Distance in rad at which the grasp counts as reached.
        grip: Finger joints on the approach.
        hold: Finger joints from the grasp on.
        shut: Finger joints below which the object is carried off.
        grasps: How many grasps are drawn.
        goals: How many ways of holding the object at its goal are drawn for each of the quickest.
        kept: How many grasps are the quickest.
        rehearsals: How many plans are rehearsed at most.
    """

    roll: tuple[float, ...]
    pitch: tuple[float, float]
    yaw: float
    along: float
    back: float
    turn: float
    beyond: tuple[float, float]
    aside: tuple[float, float]
    lift: float
    end: float
    leash: float
    strict: float
    carry_leash: float
    carry_strict: float
    arrival: float
    grip: float
    hold: float
    shut: float
    grasps: int
    goals: int
    kept: int
    rehearsals: int


@dataclass(frozen=True)
class CarryPlan:
    """Postures [n, 7] in rad that lead to the grasp, and on to the goal, and how many steps they cost."""

    cost: float
    approach: np.ndarray
    carry: np.ndarray


@dataclass(frozen=True)
class _Grasp:
    steps: float
    approach: np.ndarray
    point: np.ndarray
    rpy: np.ndarray


class Carrier(Arm):
    """The ways of taking an object that lies free, on a model of its own."""

    def __init__(self, kitchen: Any, job: Job) -> None:
        super().__init__(kitchen, job)
        joint = self._model.body_jntadr[job.body]
        first = int(self._model.jnt_qposadr[joint])
        self._place = slice(first, first + 3)
        axis = np.asarray(self._model.jnt_axis[self._model.dof_jntid[job.address]])
        self._way = axis * (job.goal - job.start)

    def plans(self, body_pos: np.ndarray, body_quat: np.ndarray, p: CarryParameters) -> list[CarryPlan]:
        """Return the ways for where the robot and the furniture stand, the quickest first.

        Args:
            body_pos: Positions of the model's bodies [n, 3] in m.
            body_quat: Their rotations [n, 4].
            p: What is tuned.
        """
        self._keep_within(True)
        model, data = self._model, self._data
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        site, front = data.site_xpos[self._site].copy(), matrix_of(model.body_quat[self._root])
        random = np.random.default_rng(0)
        drawn = [self._grasp(site, front, p, random) for _ in range(p.grasps)]
        grasps = sorted((each for each in drawn if each is not None), key=operator.attrgetter("steps"))
        found = [self._carried_off(grasp, front, p, random) for grasp in grasps[: p.kept]]
        return sorted((plan for plan in found if plan is not None), key=operator.attrgetter("cost"))

    def _grasp(
        self, site: np.ndarray, front: np.ndarray, p: CarryParameters, random: np.random.Generator
    ) -> _Grasp | None:
        rpy = np.array([random.choice(p.roll), random.uniform(*p.pitch), random.uniform(-p.yaw, p.yaw)])
        rotation, start = front @ facing(*rpy), self._start[ARM]
        point = site + front[:, 0] * random.uniform(-p.along, p.along)
        guess = start + random.normal(size=7) * RESTART_SPREAD
        before, off, turned = self._solve(point - p.back * rotation[:, 2], rotation, _WEIGHTS, guess, _HASTE, start)
        if off > 2 * _MISSED or turned > 2 * _TURNED or _steps(np.array([start, before])) > _LATE:
            return None
        contact, off, turned = self._solve(point, rotation, _WEIGHTS, before)
        approach = np.array([start, before, contact])
        steps = _steps(approach)
        if off > _MISSED or turned > _TURNED or steps > _LATE or np.abs(contact - before).max() > 0.6:
            return None
        if self._in_the_way(approach) > 0.02:
            return None
        return _Grasp(steps, approach, point, rpy)

    def _in_the_way(self, approach: np.ndarray) -> float:
        """Return how much the free part of an approach comes too near to anything, the object included."""
        self._data.qpos[:] = self._start
        object_, self._may_touch = self._may_touch, -1
        try:
            return sum(self._blocked(posture) for posture in np.linspace(*approach[:2], 7)[1:])
        finally:
            self._may_touch = object_

    def _carried_off(
        self, grasp: _Grasp, front: np.ndarray, p: CarryParameters, random: np.random.Generator
    ) -> CarryPlan | None:
        """Return the quickest of some ways on from a grasp, None where the goal is out of reach."""
        contact, ends = grasp.approach[-1], []
        forward = self._way / np.linalg.norm(self._way)
        right = np.array([forward[1], -forward[0], 0.0])
        for _ in range(p.goals):
            roll, pitch, yaw = random.uniform(-p.turn, p.turn, size=3)
            # The handle turns to where the fingers lie flat against it, so that its yaw will be that of the gripper.
            rpy = np.array([grasp.rpy[0] + 0.7 * roll, grasp.rpy[1] + pitch, yaw])
            way = front @ (self._way + random.uniform(*p.beyond) * forward + random.uniform(*p.aside) * right)
            goal = grasp.point + way + [0.0, 0.0, p.end]
            end, off, turned = self._solve(goal, front @ facing(*rpy), _WEIGHTS, contact, _HASTE, contact)
            if off < 0.03 and turned < 0.3:
                missed = 200 * max(0.0, off - 0.012) + 40 * max(0.0, turned - _TURNED)
                ends.append((_steps(np.array([contact, end])) + missed, missed, end, way, rpy))
        ends.sort(key=operator.itemgetter(0))
        plans = [self._line(grasp, front, p, *end[1:]) for end in ends[:2]]
        return min(plans, key=operator.attrgetter("cost"), default=None)

    def _line(
        self,
        grasp: _Grasp,
        front: np.ndarray,
        p: CarryParameters,
        missed: float,
        end: np.ndarray,
        way: np.ndarray,
        rpy: np.ndarray,
    ) -> CarryPlan:
        """Return the plan that carries the object on a straight line to a posture: it must not meet what is beside."""
        up, contact = grasp.point + np.array([0.0, 0.0, p.lift]), grasp.approach[-1]
        lifted = self._solve(up, front @ facing(*grasp.rpy), _WEIGHTS, contact)[0]
        postures = [contact, lifted]
        for part in _PARTS_BETWEEN:
            near = lifted + part * (end - lifted)
            rotation = front @ facing(*(grasp.rpy + part * (rpy - grasp.rpy)))
            postures.append(self._solve(up + part * way, rotation, _WEIGHTS, near, _HASTE, near)[0])
        carry = np.array([*postures, end])
        near = sum(self._nearness(posture, grasp.point, front) for posture in carry[1:])
        return CarryPlan(grasp.steps + _steps(carry) + missed + _BLOCKED * near, grasp.approach, carry)

    def _nearness(self, posture: np.ndarray, point: np.ndarray, front: np.ndarray) -> float:
        """Return how much the arm and what it carries come too near to the rest, in m."""
        model, data = self._model, self._data
        data.qpos[ARM] = posture
        mujoco.mj_kinematics(model, data)
        data.qpos[self._place] = self._start[self._place] + front.T @ (data.site_xpos[self._gripper] - point)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        data.qpos[self._place] = self._start[self._place]
        ours = self._is_robot | (model.geom_bodyid == self._may_touch)
        met = (contact.dist for contact in data.contact if ours[contact.geom1] != ours[contact.geom2])
        return sum(max(0.0, _CLEARANCE - distance) for distance in met)


def _steps(way: np.ndarray) -> float:
    return float(np.abs(np.diff(way, axis=0) / SPEED).max(axis=1).sum())
