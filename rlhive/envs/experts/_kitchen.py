"""Experts of the kitchen and of the Franka appliances, which move a joint of the furniture or carry a kettle."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._carrying import CarryParameters, CarryPlan, CarryPlanner
from rlhive.envs.experts._kinematics import ARM, FINGERS, distance_to_polyline, lookahead_posture, project_on_segment
from rlhive.envs.experts._paths import PathParameters, PathPlanner, PosturePath, TargetJoint
from rlhive.envs.experts._rehearsal import Rehearsal
from rlhive.envs.experts._scripted import ExpertPolicy, LayoutCache

#: Steps to spare in a rehearsal: the arm of a real episode starts at another posture and needs a little longer.
_SPARE_STEPS = 3

#: Distance in rad from the last posture of a path at which the path counts as followed.
_END_DISTANCE = 0.1

#: Distance in m from their open position at which fingers count as open.
_OPEN_TOLERANCE = 0.01


class JointPolicy(ExpertPolicy):
    """Base class of the experts that move one joint of the furniture.

    Attributes:
        joint: The joint to move.
    """

    joint: TargetJoint


class KitchenPolicy(JointPolicy):
    """Pushes or pulls one joint of the kitchen (a knob, a door) from its start to its goal."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        self._p = PathParameters(**expert)
        self.joint = self._find_joint(env.unwrapped)
        self._planner = PathPlanner(env.unwrapped, self.joint)
        self._servos = ServoController(env.unwrapped)
        self._path = LayoutCache(env, self._plan)  # takes 0.1 s

    def undisturbed(self, data: mujoco.MjData) -> np.ndarray:
        """Return the action [9] in [-1, 1], without degradation, for a state of the simulator's model."""
        return np.clip(self._compute_action(data, still=False), -1.0, 1.0)

    def contact_way(self, data: mujoco.MjData) -> np.ndarray:
        """Return the postures [2, 7] before and at the contact with the object where it stands now."""
        path = self._path()
        contact = path.posture_at(float(data.qpos[self.joint.address]))
        return np.array([contact + path.approach[-2] - path.contact, contact])

    def is_at_object(self, data: mujoco.MjData) -> bool:
        """Whether the arm is at the object or on its way from the contact to the goal."""
        posture, value = data.qpos[ARM], float(data.qpos[self.joint.address])
        path = self._path()
        if self._has_moved(value):
            return distance_to_polyline(posture, path.postures) < 2.0 * self._p.leash
        return self._is_engaged(path, posture, value, float(data.qpos[FINGERS].mean()))

    def act_at_object(self, data: mujoco.MjData) -> np.ndarray:
        """Return the unclipped action [9] of an arm for which :meth:`is_at_object` holds.

        An arm that reached the end of its path before the object reached the goal goes on beyond the end.
        """
        postures, posture = self._path().postures, data.qpos[ARM]
        if np.abs(posture - postures[-1]).max() > _END_DISTANCE:
            return self._compute_action(data, still=False)
        grip = self._p.grip if self._p.hold is None else self._p.hold
        beyond = postures[-1] + 2.0 * (postures[-1] - postures[-2])
        return self._servos.action(data, np.append(beyond, [grip, grip]))

    def follow(self, data: mujoco.MjData, way: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] that opens the fingers and then follows a polyline of postures [n, 7]."""
        p, posture, width = self._p, data.qpos[ARM], float(data.qpos[FINGERS].mean())
        is_holding = p.hold is not None and width < p.grip - _OPEN_TOLERANCE
        change = np.zeros(7) if is_holding else lookahead_posture(way, posture, p.leash, p.strict) - posture
        change *= min(1.0, p.leash / max(np.abs(change).max(), 1e-9))
        return self._servos.action(data, np.append(posture + change, [p.grip, p.grip]))

    def _find_joint(self, kitchen: Any) -> TargetJoint:
        return TargetJoint.find(kitchen)

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        posture = data.qpos[ARM]
        value, width = float(data.qpos[self.joint.address]), float(data.qpos[FINGERS].mean())
        change, grip = self._compute_change(posture, value, width)
        target = np.append(posture, [grip, grip])
        if not still:
            target[ARM] += change
        return self._servos.action(data, target)

    def _compute_change(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        """Return the next change of the arm's joints [7] in rad, and the target of the finger joints in m.

        The servos saturate at 0.1 rad.

        Args:
            posture: Angles of the arm's joints [7] in rad.
            value: Value of the object's joint.
            width: Position of the finger joints in m.
        """
        path, p = self._path(), self._p
        if self._is_engaged(path, posture, value, width):
            is_closing = p.hold is not None and width > p.shut and not self._has_moved(value)
            goal = path.contact if is_closing else path.posture_at(value + self.joint.sign * p.lead)
            return np.clip(goal - posture, -1.5 * p.leash, 1.5 * p.leash), p.grip if p.hold is None else p.hold
        change = lookahead_posture(path.approach, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip

    def _has_moved(self, value: float) -> bool:
        return self.joint.sign * (value - self.joint.start) > 0.03

    def _is_engaged(self, path: PosturePath, posture: np.ndarray, value: float, width: float) -> bool:
        """Whether to push: the object has moved, or the arm is at the contact or between the contact and the goal."""
        if self._has_moved(value):
            return True
        distance = np.abs(posture - path.contact).max()
        if distance < self._p.arrival:
            return True
        if self._p.hold is not None:
            # Fingers that have begun to close continue, unless the arm has been pushed away.
            return bool(width < self._p.grip - 0.003 and distance < self._p.leash)
        along, distance = project_on_segment(posture, path.contact, path.postures[-1])
        return along > 0.02 and distance < self._p.leash

    def _plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> Any:
        return self._planner.plan_path(body_pos, body_quat, self._p)


class RehearsedPolicy(JointPolicy):
    """Follows the first of several plans that solves the task in a rehearsal, which runs in a simulation of its own.

    The plans fail in different layouts: next to another object, at the end of the arm's reach, at the end of the knob.
    The rehearsal, and with it the choice, depends only on where the robot and the furniture stand.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: Parameters of the first plan; "otherwise" lists the parameters in which each further plan differs.
        **degradation: ``noise`` and ``give_up`` of :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        first = {key: value for key, value in expert.items() if key != "otherwise"}
        self._plans = [KitchenPolicy(env, name, first | other) for other in ({}, *expert["otherwise"])]
        self.joint = self._plans[0].joint
        self._rehearsal = Rehearsal(env)
        self._plan_of_layout = LayoutCache(env, self._choose_plan)  # takes some 0.1 s

    @property
    def plan(self) -> KitchenPolicy:
        """The plan for the current layout."""
        return self._plan_of_layout()

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        return self._plan_of_layout()._compute_action(data, still=still)

    def _choose_plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> KitchenPolicy:
        plans = [(plan, plan.undisturbed) for plan in self._plans]
        return self._rehearsal.choose_plan(plans, self.joint, self._env.horizon - _SPARE_STEPS) or self._plans[0]


class CarryPolicy(JointPolicy):
    """Grasps an object by its handle and carries it to its goal, by the quickest plan that succeeds in a rehearsal.

    The plans and the choice depend only on where the robot and the furniture stand.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        kitchen = env.unwrapped
        self._p = CarryParameters(**expert)
        self.joint = TargetJoint.find(kitchen)
        self._planner = CarryPlanner(kitchen, self.joint)
        self._servos = ServoController(kitchen)
        self._rehearsal = Rehearsal(env)
        self._plan_of_layout = LayoutCache(env, self._choose_plan)  # takes 1 s

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        plan = self._plan_of_layout()
        if still or plan is None:
            return self._servos.action(data, data.qpos[:9])
        return self._follow_plan(plan, data)

    def _follow_plan(self, plan: CarryPlan, data: mujoco.MjData) -> np.ndarray:
        """Return the unclipped action [9] that follows a plan from any posture of the arm and its fingers."""
        p, posture, width = self._p, data.qpos[ARM], float(data.qpos[FINGERS].mean())
        grasp = plan.approach[-1]
        if np.abs(posture - grasp).max() < p.arrival or width < p.grip - 0.003:
            is_closing = width > p.shut
            goal = grasp if is_closing else lookahead_posture(plan.carry, posture, p.carry_leash, p.carry_strict)
            grip = p.hold
        else:
            goal, grip = lookahead_posture(plan.approach, posture, p.leash, p.strict), p.grip
        change = goal - posture
        change *= min(1.0, p.leash / max(np.abs(change).max(), 1e-9))
        return self._servos.action(data, np.append(posture + change, [grip, grip]))

    def _choose_plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> CarryPlan | None:
        return self._choose_by_rehearsal(self._planner.plans(body_pos, body_quat, self._p))

    def _choose_by_rehearsal(self, plans: list[CarryPlan]) -> CarryPlan | None:
        def act(plan: CarryPlan, data: mujoco.MjData) -> np.ndarray:
            return np.clip(self._follow_plan(plan, data), -1.0, 1.0)

        rehearsed = [(plan, partial(act, plan)) for plan in plans[: self._p.rehearsals]]
        return self._rehearsal.choose_plan(rehearsed, self.joint, self._env.horizon - 2 * _SPARE_STEPS)


class RailPolicy(KitchenPolicy):
    """Moves a joint from any start to any goal: grasps its handle at the current value of the joint."""

    def _find_joint(self, kitchen: Any) -> TargetJoint:
        return TargetJoint.full_range(kitchen)

    def _plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> Any:
        return self._planner.plan_rail(body_pos, body_quat, self._p)

    def _compute_change(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        rail, p = self._path(), self._p
        way = rail.postures_at(value)
        distance = np.abs(posture - way[1]).max()
        if distance < p.arrival or (width < p.grip - 0.003 and distance < p.leash):
            grip = p.grip if p.hold is None else p.hold
            is_closing = p.hold is not None and width > p.shut
            remaining = float(self._env.unwrapped.obj_goal[0]) - value
            aim = value if is_closing else value + float(np.clip(2.0 * remaining, -p.lead, p.lead))
            return np.clip(rail.postures_at(aim)[1] - posture, -1.5 * p.leash, 1.5 * p.leash), grip
        change = lookahead_posture(way, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip


class ServoController:
    """Inverse of RoboHive's velocity mode: command = position + action × speed × dt, solved for the action.

    Args:
        kitchen: RoboHive's environment.
    """

    def __init__(self, kitchen: Any) -> None:
        actuators = kitchen.robot.robot_config["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * kitchen.dt
        self._stiffness = kitchen.sim.model.ptr.actuator_gainprm[:7, 0]

    def action(self, data: mujoco.MjData, target: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] that commands a target [9], with gravity compensation."""
        driven = len(self._reach)
        change = target - data.qpos[:9]
        change[ARM] += data.qfrc_bias[ARM] / self._stiffness
        # The appliances' configuration does not contain the fingers: their action is the command in m.
        return np.append(change[:driven] / self._reach, target[driven:])
