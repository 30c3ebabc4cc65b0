"""Episodes straight in MuJoCo: RoboHive's action law and nothing else of it.

The tuner runs its episodes here, in a fifth less time than in the environment (a joint differs by some 0.005 rad).
An expert that has several plans for a task tries them here, on a simulation of its own, before the arm takes one.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._kinematics import Job

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How one episode went.

    Attributes:
        solved_at: The first step after which the task was solved, or None.
        progress: Largest part of the way that the object went, 0 to 1; less where others were moved from their place.
    """

    solved_at: int | None
    progress: float


class Course:
    """Where the objects are on the way to their goal, read from the simulator's joints ``qpos``."""

    def __init__(self, kitchen: Any, job: Job, qpos: np.ndarray) -> None:
        self._qpos, self._job = qpos, job
        self._address, self._goal = kitchen.obj["dof_adrs"], kitchen.obj_goal
        self._tolerance = kitchen.obj["dof_proximity"]
        self.progress = 0.0

    @property
    def solved(self) -> bool:
        """What RoboHive calls solved: every object within its tolerance."""
        return bool((self._errors() < 1.0).all())

    def update(self) -> None:
        """Take note of where the objects are now."""
        part = (self._qpos[self._job.address] - self._job.start) / (self._job.goal - self._job.start)
        others = self._errors()[self._address != self._job.address]
        off = np.clip(others.max() - 0.7, 0.0, 2.0) if others.size else 0.0
        self.progress = max(self.progress, float(min(part, 1.0) - 0.25 * off))

    def _errors(self) -> np.ndarray:
        return np.abs(self._goal - self._qpos[self._address]) / self._tolerance


class Physics:
    """Steps of an environment on a model and its data, by RoboHive's action law."""

    def __init__(self, env: RoboHiveEnv, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data, self._horizon = model, data, env.horizon
        robot = env.unwrapped.robot.robot_config
        actuators = robot["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * env.dt
        self._low, self._high = np.array([actuator["pos_range"] for actuator in actuators]).T
        self._substeps = round(env.dt / model.opt.timestep)
        self._sensors = [part for device in robot.values() for part in device["sensor"]]

    def run(self, act: Callable[[], np.ndarray], course: Course) -> Outcome:
        """Run an episode, from where the data are, until it is solved or over."""
        for step in range(self._horizon):
            self._step(act().astype(np.float32))
            course.update()
            if course.solved:
                return Outcome(step + 1, 1.0)
        return Outcome(None, course.progress)

    def _step(self, action: np.ndarray) -> None:
        data, driven = self._data, len(self._reach)
        command = data.qpos[:driven] + action[:driven] * self._reach
        data.ctrl[:driven] = np.clip(command, self._low, self._high)
        data.ctrl[driven:] = action[driven:]
        mujoco.mj_step(self._model, data, self._substeps)
        # Write back what the sensors give, as RoboHive does after every step: held to their ranges. In the appliances
        # the fingers' velocities are held to 0 to 0.04, so that closing fingers stop every step.
        for sensor in self._sensors:
            state, index = getattr(data, sensor["data_type"]), sensor["data_id"]
            state[index] = np.clip(state[index], *sensor["range"])


class Rehearsal:
    """A simulation of an expert's own, which begins as an episode does, without the noise on the robot's joints."""

    def __init__(self, env: RoboHiveEnv) -> None:
        self._kitchen = env.unwrapped
        self._model = copy.copy(self._kitchen.sim.model.ptr)
        self._data = mujoco.MjData(self._model)
        self._physics = Physics(env, self._model, self._data)

    def run(self, act: Callable[[mujoco.MjData], np.ndarray], job: Job) -> Outcome:
        """Return how an episode goes in which everything stands where it does now in the environment.

        Args:
            act: Returns the action [9] for the state of the data that it is given.
            job: What is to be moved.
        """
        now, model, data = self._kitchen.sim.model.ptr, self._model, self._data
        model.body_pos[:], model.body_quat[:] = now.body_pos, now.body_quat
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = self._kitchen.init_qpos, self._kitchen.init_qvel
        mujoco.mj_forward(model, data)
        return self._physics.run(lambda: act(data), Course(self._kitchen, job, data.qpos))

    def first_to_solve(
        self, plans: Iterable[tuple[T, Callable[[mujoco.MjData], np.ndarray]]], job: Job, latest: int
    ) -> T | None:
        """Return the first plan that solves the task, else the one that moves the object farthest; None without any.

        Args:
            plans: Each with what acts by it, see :meth:`run`.
            job: What is to be moved.
            latest: The step by which it must be solved.
        """
        farthest: tuple[float, T | None] = (-np.inf, None)
        for plan, act in plans:
            outcome = self.run(act, job)
            if outcome.solved_at is not None and outcome.solved_at <= latest:
                return plan
            if outcome.progress > farthest[0]:
                farthest = (outcome.progress, plan)
        return farthest[1]
