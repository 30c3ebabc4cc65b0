"""Plans to grasp an object by its handle and carry it to its goal, as few straight lines in joint space.

    start ──► before ──► contact, the fingers close ──► lifted ──► between ──► … ──► end
    └────── approach ──────┘                       └───────────── carry ─────────────┘

A joint of the kitchen's arm moves some 0.07 rad per step, and an episode has 50 steps, so the duration of a plan
depends mostly on the postures at its ends. Many grasps of the handle are drawn, and for the quickest of them several
poses of the object at its goal. The plans are sorted by duration, and a rehearsal selects one.
"""

import operator
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs.experts._kinematics import ARM, RESTART_SPREAD, SPEED, gripper_rotation, quaternion_to_matrix
from rlhive.envs.experts._paths import PathPlanner, TargetJoint

#: Weights of rotation errors against position errors, in m per rad.
_WEIGHTS = np.full(3, 0.1)
_HASTE = 0.02

#: Largest errors of a grasp's posture: position in m, rotation in rad.
_MAX_OFFSET = 0.006
_MAX_TURN = 0.1

#: Largest duration of an approach in steps.
_MAX_APPROACH_STEPS = 26.0

#: Cost of coming too close to other objects, in steps per m.
_CLEARANCE_COST = 100.0

#: Smallest distance in m between the arm with its object and everything else.
_OBJECT_CLEARANCE = 0.01

#: Fractions of the straight way at which intermediate postures are solved.
_WAYPOINTS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CarryParameters:
    """Tuned parameters for an object with a handle; lengths in m along the furniture's axes, angles in rad.

    Attributes:
        roll: Allowed rolls of the gripper at the handle.
        pitch: Smallest and largest pitch of the gripper.
        yaw: Largest yaw of the gripper at the grasp.
        along: Largest distance of the grasp from the middle of the handle.
        back: Distance before the grasp from which the gripper approaches, along its own axis.
        turn: Largest tilt and turn of the object at its goal.
        beyond: Smallest and largest distance beyond the goal to which the gripper carries: the object lags behind it.
        aside: Smallest and largest distance to the right of the way to the goal.
        lift: Height at which the object is carried.
        end: Height of the gripper above the grasp at the goal.
        leash: Distance between the arm and its reference posture on the approach.
        strict: Part of the leash that is lost per rad of distance from the approach.
        carry_leash: The leash while the object is carried.
        carry_strict: The value of ``strict`` while the object is carried.
        arrival: Distance in rad at which the grasp counts as reached.
        grip: Position of the finger joints on the approach.
        hold: Position of the finger joints from the grasp on.
        shut: Position of the finger joints below which the object is carried.
        grasps: Number of grasps that are drawn.
        goals: Number of poses at the goal that are drawn for each of the quickest grasps.
        kept: Number of the quickest grasps that are planned further.
        rehearsals: Largest number of plans that are rehearsed.
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
    """Plan to grasp an object and carry it to its goal.

    Attributes:
        cost: Duration in steps, with penalties for missed poses and small clearances.
        approach: Postures [n, 7] in rad from the start to the grasp.
        carry: Postures [n, 7] in rad from the grasp to the goal.
    """

    cost: float
    approach: np.ndarray
    carry: np.ndarray


@dataclass(frozen=True)
class _Grasp:
    """A grasp of the handle: duration of its approach, postures in rad, point [3] in m, and roll, pitch, yaw in rad."""

    steps: float
    approach: np.ndarray
    point: np.ndarray
    rpy: np.ndarray


class CarryPlanner(PathPlanner):
    """Planner of ways to grasp and carry an object with free joints, on a copy of the model.

    Args:
        kitchen: RoboHive's environment.
        joint: The object's joint to move.
    """

    def __init__(self, kitchen: Any, joint: TargetJoint) -> None:
        super().__init__(kitchen, joint)
        first = int(self._model.jnt_qposadr[self._model.body_jntadr[joint.body]])
        self._object_position = slice(first, first + 3)
        axis = np.asarray(self._model.jnt_axis[self._model.dof_jntid[joint.address]])
        self._way = axis * (joint.goal - joint.start)

    def plans(self, body_pos: np.ndarray, body_quat: np.ndarray, p: CarryParameters) -> list[CarryPlan]:
        """Return the plans for a placement of the robot and the furniture, the quickest first.

        Args:
            body_pos: Positions of the model's bodies [n, 3] in m.
            body_quat: Rotations of the model's bodies [n, 4].
            p: The task's parameters.
        """
        self._set_joint_limits(True)
        model, data = self._model, self._data
        model.body_pos[:], model.body_quat[:] = body_pos, body_quat
        data.qpos[:] = self._start
        mujoco.mj_kinematics(model, data)
        site, front = data.site_xpos[self._site].copy(), quaternion_to_matrix(model.body_quat[self._root])
        random = np.random.default_rng(0)
        drawn = [self._draw_grasp(site, front, p, random) for _ in range(p.grasps)]
        grasps = sorted((grasp for grasp in drawn if grasp is not None), key=operator.attrgetter("steps"))
        plans = [self._draw_carry(grasp, front, p, random) for grasp in grasps[: p.kept]]
        return sorted((plan for plan in plans if plan is not None), key=operator.attrgetter("cost"))

    def _draw_grasp(
        self, site: np.ndarray, front: np.ndarray, p: CarryParameters, random: np.random.Generator
    ) -> _Grasp | None:
        """Draw a grasp of the handle; return None if the arm cannot reach it in time and without contact."""
        rpy = np.array([random.choice(p.roll), random.uniform(*p.pitch), random.uniform(-p.yaw, p.yaw)])
        rotation, start = front @ gripper_rotation(*rpy), self._start[ARM]
        point = site + front[:, 0] * random.uniform(-p.along, p.along)
        guess = start + random.normal(size=7) * RESTART_SPREAD
        before, off, turned = self._solve(point - p.back * rotation[:, 2], rotation, _WEIGHTS, guess, _HASTE, start)
        if off > 2 * _MAX_OFFSET or turned > 2 * _MAX_TURN:
            return None
        if _duration_steps(np.array([start, before])) > _MAX_APPROACH_STEPS:
            return None
        contact, off, turned = self._solve(point, rotation, _WEIGHTS, before)
        approach = np.array([start, before, contact])
        steps = _duration_steps(approach)
        if off > _MAX_OFFSET or turned > _MAX_TURN or steps > _MAX_APPROACH_STEPS:
            return None
        if np.abs(contact - before).max() > 0.6:
            return None
        if self._approach_collision_cost(approach) > 0.02:
            return None
        return _Grasp(steps, approach, point, rpy)

    def _approach_collision_cost(self, approach: np.ndarray) -> float:
        """Return the cost of contacts on the free part of an approach, those with the object included."""
        self._data.qpos[:] = self._start
        touchable_body = self._may_touch
        self._may_touch = -1
        try:
            return sum(self._collision_cost(posture) for posture in np.linspace(approach[0], approach[1], 7)[1:])
        finally:
            self._may_touch = touchable_body

    def _draw_carry(
        self, grasp: _Grasp, front: np.ndarray, p: CarryParameters, random: np.random.Generator
    ) -> CarryPlan | None:
        """Return the quickest of some plans that continue from a grasp, None if the goal is out of reach."""
        contact, ends = grasp.approach[-1], []
        forward = self._way / np.linalg.norm(self._way)
        right = np.array([forward[1], -forward[0], 0.0])
        for _ in range(p.goals):
            roll, pitch, yaw = random.uniform(-p.turn, p.turn, size=3)
            # The handle turns until the fingers lie flat against it, so that its yaw becomes that of the gripper.
            rpy = np.array([grasp.rpy[0] + 0.7 * roll, grasp.rpy[1] + pitch, yaw])
            way = front @ (self._way + random.uniform(*p.beyond) * forward + random.uniform(*p.aside) * right)
            goal = grasp.point + way + [0.0, 0.0, p.end]
            end, off, turned = self._solve(goal, front @ gripper_rotation(*rpy), _WEIGHTS, contact, _HASTE, contact)
            if off < 0.03 and turned < 0.3:
                missed = 200 * max(0.0, off - 0.012) + 40 * max(0.0, turned - _MAX_TURN)
                ends.append((_duration_steps(np.array([contact, end])) + missed, missed, end, way, rpy))
        ends.sort(key=operator.itemgetter(0))
        plans = [self._straight_plan(grasp, front, p, *end[1:]) for end in ends[:2]]
        return min(plans, key=operator.attrgetter("cost"), default=None)

    def _straight_plan(
        self,
        grasp: _Grasp,
        front: np.ndarray,
        p: CarryParameters,
        missed: float,
        end: np.ndarray,
        way: np.ndarray,
        rpy: np.ndarray,
    ) -> CarryPlan:
        """Return the plan that carries the object on a straight line to an end posture; small clearances add cost."""
        up, contact = grasp.point + np.array([0.0, 0.0, p.lift]), grasp.approach[-1]
        lifted = self._solve(up, front @ gripper_rotation(*grasp.rpy), _WEIGHTS, contact)[0]
        postures = [contact, lifted]
        for part in _WAYPOINTS:
            guess = lifted + part * (end - lifted)
            rotation = front @ gripper_rotation(*(grasp.rpy + part * (rpy - grasp.rpy)))
            postures.append(self._solve(up + part * way, rotation, _WEIGHTS, guess, _HASTE, guess)[0])
        carry = np.array([*postures, end])
        violation = sum(self._clearance_violation(posture, grasp.point, front) for posture in carry[1:])
        cost = grasp.steps + _duration_steps(carry) + missed + _CLEARANCE_COST * violation
        return CarryPlan(cost, grasp.approach, carry)

    def _clearance_violation(self, posture: np.ndarray, point: np.ndarray, front: np.ndarray) -> float:
        """Return the distance in m by which the arm and its object fall below the clearance, summed over contacts."""
        model, data = self._model, self._data
        data.qpos[ARM] = posture
        mujoco.mj_kinematics(model, data)
        displacement = data.site_xpos[self._gripper] - point
        data.qpos[self._object_position] = self._start[self._object_position] + front.T @ displacement
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        data.qpos[self._object_position] = self._start[self._object_position]
        is_moving = self._is_robot | (model.geom_bodyid == self._may_touch)
        distances = (contact.dist for contact in data.contact if is_moving[contact.geom1] != is_moving[contact.geom2])
        return sum(max(0.0, _OBJECT_CLEARANCE - distance) for distance in distances)


def _duration_steps(way: np.ndarray) -> float:
    """Return the duration of a polyline of postures [n, 7] in steps."""
    return float(np.abs(np.diff(way, axis=0) / SPEED).max(axis=1).sum())
