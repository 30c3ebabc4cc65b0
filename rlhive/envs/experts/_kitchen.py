"""Experts of the kitchen and the Franka appliances: they move a joint of the furniture, or carry a kettle."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._carrying import Carrier, CarryParameters, CarryPlan
from rlhive.envs.experts._kinematics import ARM, FINGERS, Arm, Job, Parameters, Path, ahead_on, project
from rlhive.envs.experts._rehearsal import Rehearsal
from rlhive.envs.experts._scripted import ByPlace, ExpertPolicy

#: Steps that a rehearsed plan must have to spare: an episode begins with the arm elsewhere, and ends a little later.
_SPARE = 3


class KitchenPolicy(ExpertPolicy):
    """Pushes or pulls one joint of the kitchen (a knob, a door) from where it starts to its goal."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._p = Parameters(**expert)
        self.job = self._find_job(env.unwrapped)
        self._arm = Arm(env.unwrapped, self.job)
        self._servos = _Servos(env.unwrapped)
        self._path = ByPlace(env, self._plan)  # a tenth of a second

    def undisturbed(self, data: mujoco.MjData) -> np.ndarray:
        """Return the action [9] in [-1, 1] without noise for any state of the simulator's model."""
        return np.clip(self._wanted(data, still=False), -1.0, 1.0)

    def _find_job(self, kitchen: Any) -> Job:
        return Job.of(kitchen)

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        posture = data.qpos[ARM]
        value, width = float(data.qpos[self.job.address]), float(data.qpos[FINGERS].mean())
        change, grip = self._towards_goal(posture, value, width)
        target = np.append(posture, [grip, grip])
        if not still:
            target[ARM] += change
        return self._servos.action(data, target)

    def _towards_goal(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        """Return by how much the arm's joints are to change next, in rad, and the finger joints' target in m.

        The servos saturate at 0.1 rad.
        """
        path, p = self._path(), self._p
        if self._is_engaged(path, posture, value, width):
            closing = p.hold is not None and width > p.shut and not self._has_moved(value)
            goal = path.contact if closing else path.pushing(value + self.job.sign * p.lead)
            return np.clip(goal - posture, -1.5 * p.leash, 1.5 * p.leash), p.grip if p.hold is None else p.hold
        change = ahead_on(path.approach, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip

    def _has_moved(self, value: float) -> bool:
        return self.job.sign * (value - self.job.start) > 0.03

    def _is_engaged(self, path: Path, posture: np.ndarray, value: float, width: float) -> bool:
        """Whether to push: the object has moved, or the arm is at the contact or between there and the goal."""
        if self._has_moved(value):
            return True
        off = np.abs(posture - path.contact).max()
        if off < self._p.arrival:
            return True
        if self._p.hold is not None:
            # Fingers that have begun to close go on, unless the arm has lost its place.
            return width < self._p.grip - 0.003 and off < self._p.leash
        along, off = project(posture, path.contact, path.postures[-1])
        return along > 0.02 and off < self._p.leash

    def _plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> Any:
        return self._arm.path(body_pos, body_quat, self._p)


class RehearsedPolicy(ExpertPolicy):
    """Has several plans for a task, and takes the first that solves it in a simulation of its own.

    What fails differs from plan to plan: beside a neighbour, at the end of the arm's reach, at the end of the knob.
    The rehearsal depends on nothing but where the robot and the furniture stand, and so does the choice.

    Args:
        env: The environment that it acts in.
        name: "expert", "medium" or "noisy".
        expert: The first plan's parameters; under "otherwise" what is different in each of the others.
        degraded: See :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        first = {key: value for key, value in expert.items() if key != "otherwise"}
        self._plans = [KitchenPolicy(env, name, first | other) for other in ({}, *expert["otherwise"])]
        self.job = self._plans[0].job
        self._rehearsal = Rehearsal(env)
        self._chosen = ByPlace(env, self._choose)  # some tenths of a second

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        return self._chosen()._wanted(data, still=still)

    def _choose(self, body_pos: np.ndarray, body_quat: np.ndarray) -> KitchenPolicy:
        plans = [(plan, plan.undisturbed) for plan in self._plans]
        return self._rehearsal.first_to_solve(plans, self.job, self._env.horizon - _SPARE)


class CarryPolicy(ExpertPolicy):
    """Takes an object by its handle and carries it to its goal, in the quickest way that a rehearsal finds to succeed.

    The ways and the choice depend on nothing but where the robot and the furniture stand.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        kitchen = env.unwrapped
        self._p = CarryParameters(**expert)
        self.job = Job.of(kitchen)
        self._carrier, self._servos = Carrier(kitchen, self.job), _Servos(kitchen)
        self._rehearsal = Rehearsal(env)
        self._chosen = ByPlace(env, self._choose)  # a second

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        plan = self._chosen()
        if still or plan is None:
            return self._servos.action(data, data.qpos[:9])
        return self._along(plan, data)

    def _along(self, plan: CarryPlan, data: mujoco.MjData) -> np.ndarray:
        """Return the unclipped action [9] that follows a plan from wherever the arm and its fingers are."""
        p, posture, width = self._p, data.qpos[ARM], float(data.qpos[FINGERS].mean())
        grasp = plan.approach[-1]
        if np.abs(posture - grasp).max() < p.arrival or width < p.grip - 0.003:
            closing = width > p.shut
            goal = grasp if closing else ahead_on(plan.carry, posture, p.carry_leash, p.carry_strict)
            grip = p.hold
        else:
            goal, grip = ahead_on(plan.approach, posture, p.leash, p.strict), p.grip
        change = goal - posture
        change *= min(1.0, p.leash / max(np.abs(change).max(), 1e-9))
        return self._servos.action(data, np.append(posture + change, [grip, grip]))

    def _choose(self, body_pos: np.ndarray, body_quat: np.ndarray) -> CarryPlan | None:
        return self._best(self._carrier.plans(body_pos, body_quat, self._p))

    def _best(self, plans: list[CarryPlan]) -> CarryPlan | None:
        def act(plan: CarryPlan, data: mujoco.MjData) -> np.ndarray:
            return np.clip(self._along(plan, data), -1.0, 1.0)

        tried = [(plan, partial(act, plan)) for plan in plans[: self._p.rehearsals]]
        return self._rehearsal.first_to_solve(tried, self.job, self._env.horizon - 2 * _SPARE)


class RailPolicy(KitchenPolicy):
    """Moves a joint that starts anywhere to a goal anywhere: takes its handle where it stands."""

    def _find_job(self, kitchen: Any) -> Job:
        return Job.anywhere(kitchen)

    def _plan(self, body_pos: np.ndarray, body_quat: np.ndarray) -> Any:
        return self._arm.rail(body_pos, body_quat, self._p)

    def _towards_goal(self, posture: np.ndarray, value: float, width: float) -> tuple[np.ndarray, float]:
        rail, p = self._path(), self._p
        way = rail.at(value)
        off = np.abs(posture - way[1]).max()
        if off < p.arrival or (width < p.grip - 0.003 and off < p.leash):
            grip = p.grip if p.hold is None else p.hold
            closing = p.hold is not None and width > p.shut
            left = float(self._env.unwrapped.obj_goal[0]) - value
            aim = value if closing else value + float(np.clip(2.0 * left, -p.lead, p.lead))
            return np.clip(rail.at(aim)[1] - posture, -1.5 * p.leash, 1.5 * p.leash), grip
        change = ahead_on(way, posture, p.leash, p.strict) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9)), p.grip


class _Servos:
    """RoboHive's velocity mode, solved for the action: command = position + action × speed × dt."""

    def __init__(self, kitchen: Any) -> None:
        actuators = kitchen.robot.robot_config["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * kitchen.dt
        self._stiffness = kitchen.sim.model.ptr.actuator_gainprm[:7, 0]

    def action(self, data: mujoco.MjData, target: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] that commands the target [9], with gravity made up for."""
        driven = len(self._reach)
        change = target - data.qpos[:9]
        change[ARM] += data.qfrc_bias[ARM] / self._stiffness
        # The appliances' configuration leaves out the fingers: their action is the command in m.
        return np.append(change[:driven] / self._reach, target[driven:])
