"""Experts of the tabletop tasks: reach, push, pick and place."""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._kinematics import ARM, FINGERS, ReachPlanner
from rlhive.envs.experts._rehearsal import PickRehearsal
from rlhive.envs.experts._scripted import ExpertPolicy
from rlhive.envs.experts._tabletop import (
    PickController,
    PickParameters,
    ToppleController,
    ToppleParameters,
)


class TabletopPolicy(ExpertPolicy):
    """Base class of the tabletop experts, whose actions are the joints' target positions scaled to [-1, 1]."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        table = env.unwrapped
        ranges = np.array([part["pos_range"] for part in table.robot.robot_config["franka"]["actuator"]])
        self._middle = ranges.mean(axis=1)
        self._half = np.ptp(ranges, axis=1) / 2
        self._stiffness = table.sim.model.ptr.actuator_gainprm[ARM, 0]

    def _command(self, data: mujoco.MjData, posture: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] for a posture [7] in rad and fingers [2] in m; gravity is compensated."""
        target = np.append(posture + data.qfrc_bias[ARM] / self._stiffness, fingers)
        # Some configurations do not contain the fingers: their action is the command in m.
        scaled = len(self._middle)
        return np.append((target[:scaled] - self._middle) / self._half, target[scaled:])


class ReachPolicy(TabletopPolicy):
    """Commands the posture that brings the gripper to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        self._reach = ReachPlanner(env.unwrapped)
        self._postures: dict[bytes, np.ndarray] = {}

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        target = self._env.unwrapped.sim.model.ptr.site_pos[self._reach.target]
        key = target.tobytes()
        if key not in self._postures:
            self._postures = {key: self._reach.posture(target)}
        posture = data.qpos[ARM] if still else self._postures[key]
        return self._command(data, posture, data.qpos[FINGERS])


class TopplePolicy(TabletopPolicy):
    """Pulls a standing box over and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        self._topple = ToppleController(env.unwrapped, ToppleParameters(**expert))

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._command(data, data.qpos[ARM], data.qpos[FINGERS])
        change, grip = self._topple.compute_change(data)
        return self._command(data, data.qpos[ARM] + change, np.array([grip, grip]))


class PickPolicy(TabletopPolicy):
    """Grasps an object in its bin, in a way that succeeded in a rehearsal, and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        table = env.unwrapped
        self._pick = PickController(table, PickParameters(**expert))
        substeps = round(env.dt / table.sim.model.ptr.opt.timestep)
        self._rehearsal = PickRehearsal(table, substeps=substeps, horizon=env.horizon)

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._command(data, data.qpos[ARM], data.qpos[FINGERS])
        self._pick.plan(self._rehearsal, self._pick_action)
        return self._pick_action(data)

    def _pick_action(self, data: mujoco.MjData) -> np.ndarray:
        """Return the unclipped action [9] for a state of MuJoCo's data."""
        change, grip = self._pick.compute_change(data)
        return self._command(data, data.qpos[ARM] + change, np.array([grip, grip]))
