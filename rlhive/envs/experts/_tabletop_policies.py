"""Experts of the tabletop: reaching, pushing, picking and placing."""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._kinematics import ARM, FINGERS, Reach
from rlhive.envs.experts._scripted import ExpertPolicy
from rlhive.envs.experts._tabletop import Pick, PickParameters, Topple, ToppleParameters, Trial


class TabletopPolicy(ExpertPolicy):
    """What the policies of the tabletop share: their actions are absolute, the joints' targets scaled to [-1, 1]."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        table = env.unwrapped
        ranges = np.array([part["pos_range"] for part in table.robot.robot_config["franka"]["actuator"]])
        self._middle, self._half = ranges.mean(axis=1), np.ptp(ranges, axis=1) / 2
        self._stiffness = table.sim.model.ptr.actuator_gainprm[ARM, 0]

    def _commanding(self, data: mujoco.MjData, posture: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] for a posture [7] in rad and finger joints [2] in m, gravity made up for."""
        target = np.append(posture + data.qfrc_bias[ARM] / self._stiffness, fingers)
        # Some configurations leave out the fingers: their action is the command in m.
        scaled = len(self._middle)
        return np.append((target[:scaled] - self._middle) / self._half, target[scaled:])


class ReachPolicy(TabletopPolicy):
    """Commands the posture that brings the gripper to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._reach = Reach(env.unwrapped)
        self._plans: dict[bytes, np.ndarray] = {}

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        target = self._env.unwrapped.sim.model.ptr.site_pos[self._reach.target]
        key = target.tobytes()
        if key not in self._plans:
            self._plans = {key: self._reach.posture(target)}
        posture = data.qpos[ARM] if still else self._plans[key]
        return self._commanding(data, posture, data.qpos[FINGERS])


class TopplePolicy(TabletopPolicy):
    """Pulls a standing box over and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        self._topple = Topple(env.unwrapped, ToppleParameters(**expert))

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._commanding(data, data.qpos[ARM], data.qpos[FINGERS])
        change, grip = self._topple.towards(data)
        return self._commanding(data, data.qpos[ARM] + change, np.array([grip, grip]))


class PickPolicy(TabletopPolicy):
    """Takes an object out of its bin, in a way that it has rehearsed, and carries it to the target."""

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degraded: float) -> None:
        super().__init__(env, name, expert, **degraded)
        table = env.unwrapped
        self._pick = Pick(table, PickParameters(**expert))
        substeps = round(env.dt / table.sim.model.ptr.opt.timestep)
        self._trial = Trial(table, substeps=substeps, horizon=env.horizon)

    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return self._commanding(data, data.qpos[ARM], data.qpos[FINGERS])
        self._pick.plan(self._trial, self._picking)
        return self._picking(data)

    def _picking(self, data: mujoco.MjData) -> np.ndarray:
        change, grip = self._pick.towards(data)
        return self._commanding(data, data.qpos[ARM] + change, np.array([grip, grip]))
