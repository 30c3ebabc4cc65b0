"""Simulated episodes in MuJoCo with RoboHive's action law, but without its observations and rewards.

The tuner runs its episodes here, which takes a fifth less time than the environment (joints differ by some 0.005 rad).
An expert with several plans for a task rehearses them here, in a simulation of its own, before the arm follows one.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._paths import TargetJoint

T = TypeVar("T")


@dataclass(frozen=True)
class RehearsalOutcome:
    """Outcome of an episode of a policy or a plan.

    Attributes:
        solved_at: Number of the first step after which the task was solved; None if it was not solved.
        progress: Largest fraction of the way to its goal that the object moved, 0 to 1, reduced if other objects moved.
    """

    solved_at: int | None
    progress: float


class TaskProgress:
    """Progress of an episode: how far the objects are from their goals.

    Args:
        kitchen: RoboHive's environment.
        joint: The joint to move.
        qpos: The simulation's joint positions; the array is read at each update.

    Attributes:
        progress: Largest progress so far, see :class:`RehearsalOutcome`.
    """

    def __init__(self, kitchen: Any, joint: TargetJoint, qpos: np.ndarray) -> None:
        self._qpos = qpos
        self._joint = joint
        self._address = kitchen.obj["dof_adrs"]
        self._goal = kitchen.obj_goal
        self._tolerance = kitchen.obj["dof_proximity"]
        self.progress = 0.0

    @property
    def solved(self) -> bool:
        """Whether the task is solved by RoboHive's definition: every object is within its tolerance."""
        return bool((self._errors() < 1.0).all())

    def update(self) -> None:
        """Update the progress from the current joint positions."""
        part = (self._qpos[self._joint.address] - self._joint.start) / (self._joint.goal - self._joint.start)
        others = self._errors()[self._address != self._joint.address]
        displaced = np.clip(others.max() - 0.7, 0.0, 2.0) if others.size else 0.0
        self.progress = max(self.progress, float(min(part, 1.0) - 0.25 * displaced))

    def _errors(self) -> np.ndarray:
        """Return the distance of every object's joint from its goal, relative to its tolerance."""
        return np.abs(self._goal - self._qpos[self._address]) / self._tolerance


class EpisodeSimulation:
    """Steps of an environment on a MuJoCo model and its data, with RoboHive's action law.

    Args:
        env: The environment.
        model: The model to simulate.
        data: The model's data, in which the state changes.
    """

    def __init__(self, env: RoboHiveEnv, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model = model
        self._data = data
        self._horizon = env.horizon
        robot = env.unwrapped.robot.robot_config
        actuators = robot["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * env.dt
        self._low, self._high = np.array([actuator["pos_range"] for actuator in actuators]).T
        self._substeps = round(env.dt / model.opt.timestep)
        self._sensors = [part for device in robot.values() for part in device["sensor"]]

    def run(self, act: Callable[[], np.ndarray], task_progress: TaskProgress) -> RehearsalOutcome:
        """Run an episode from the current state of the data until the task is solved or the horizon is reached."""
        for step in range(self._horizon):
            self._step(act().astype(np.float32))
            task_progress.update()
            if task_progress.solved:
                return RehearsalOutcome(step + 1, 1.0)
        return RehearsalOutcome(None, task_progress.progress)

    def _step(self, action: np.ndarray) -> None:
        data, driven = self._data, len(self._reach)
        command = data.qpos[:driven] + action[:driven] * self._reach
        data.ctrl[:driven] = np.clip(command, self._low, self._high)
        data.ctrl[driven:] = action[driven:]
        mujoco.mj_step(self._model, data, self._substeps)
        # Write the sensors' readings back, clipped to their ranges, as RoboHive does after every step. The appliances
        # clip the fingers' velocities to [0, 0.04], so that closing fingers stop in every step.
        for sensor in self._sensors:
            state, index = getattr(data, sensor["data_type"]), sensor["data_id"]
            state[index] = np.clip(state[index], *sensor["range"])


class Rehearsal:
    """Simulation of an expert's own, which starts as an episode does but without noise on the robot's joints.

    Args:
        env: The environment whose episodes are rehearsed.
    """

    def __init__(self, env: RoboHiveEnv) -> None:
        self._kitchen = env.unwrapped
        self._model = copy.copy(self._kitchen.sim.model.ptr)
        self._data = mujoco.MjData(self._model)
        self._simulation = EpisodeSimulation(env, self._model, self._data)

    def run(self, act: Callable[[mujoco.MjData], np.ndarray], joint: TargetJoint) -> RehearsalOutcome:
        """Run an episode in the environment's current layout.

        Args:
            act: Function that returns the action [9] for the state of MuJoCo's data.
            joint: The joint to move.
        """
        current, model, data = self._kitchen.sim.model.ptr, self._model, self._data
        model.body_pos[:] = current.body_pos
        model.body_quat[:] = current.body_quat
        mujoco.mj_resetData(model, data)
        data.qpos[:] = self._kitchen.init_qpos
        data.qvel[:] = self._kitchen.init_qvel
        mujoco.mj_forward(model, data)
        return self._simulation.run(lambda: act(data), TaskProgress(self._kitchen, joint, data.qpos))

    def choose_plan(
        self, plans: Iterable[tuple[T, Callable[[mujoco.MjData], np.ndarray]]], joint: TargetJoint, latest: int
    ) -> T | None:
        """Return the first plan that solves the task, or the one that moves the object farthest; None without plans.

        Args:
            plans: Each plan with its function for :meth:`run`.
            joint: The joint to move.
            latest: Number of the last step by which the task must be solved.
        """
        best_plan: T | None = None
        best_progress = -np.inf
        for plan, act in plans:
            outcome = self.run(act, joint)
            if outcome.solved_at is not None and outcome.solved_at <= latest:
                return plan
            if outcome.progress > best_progress:
                best_progress, best_plan = outcome.progress, plan
        return best_plan


class PickRehearsal:
    """Simulated episodes on the environment's model with separate data, in RoboHive's position mode.

    Args:
        env: RoboHive's environment.
        substeps: Simulator steps per environment step.
        horizon: Length of an episode in steps.
    """

    def __init__(self, env: Any, *, substeps: int, horizon: int) -> None:
        self._model = env.sim.model.ptr
        self._substeps = substeps
        self._horizon = horizon
        actuators = env.robot.robot_config["franka"]["actuator"]
        self._low, self._high = np.array([actuator["pos_range"] for actuator in actuators]).T
        self._slow, self._fast = np.array([actuator["vel_range"] for actuator in actuators]).T * env.dt
        sensors = [part for device in env.robot.robot_config.values() for part in device["sensor"]]
        self._sensors = [(part["data_type"], int(part["data_id"]), part["range"]) for part in sensors]

    def reaches(
        self, act: Callable[[mujoco.MjData], np.ndarray], start: np.ndarray, site: int, target: np.ndarray
    ) -> bool:
        """Whether a policy brings a site within 5 cm of a target, which is RoboHive's criterion of success.

        Args:
            act: Function that returns the action [n] for the state of MuJoCo's data.
            start: Joint positions at the start.
            site: Id of the site.
            target: Position of the target [3] in m.
        """
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
        position, half = data.qpos[:driven], (self._high - self._low) / 2
        command = self._low + half + action[:driven] * half
        command = position + np.clip(command - position, self._slow, self._fast)
        data.ctrl[:driven] = np.clip(command, self._low, self._high)
        data.ctrl[driven:] = action[driven:]
        mujoco.mj_step2(model, data)
        mujoco.mj_step(model, data, self._substeps - 1)
        mujoco.mj_step1(model, data)
        for kind, index, (low, high) in self._sensors:
            values = getattr(data, kind)
            values[index] = min(max(values[index], low), high)
        mujoco.mj_forward(model, data)
