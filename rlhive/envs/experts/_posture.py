"""Expert of poses of a robot whose actuators are position servos."""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._scripted import ExpertPolicy


class PosturePolicy(ExpertPolicy):
    """Commands RoboHive's target pose; what gravity would bend the servos is added.

    Args:
        env: The environment in which the policy acts, for example ``rpFrankaRobotiqPoseRandom-v0``.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: "gravity" lists the joints whose servos carry the robot's weight, as ``[first, last + 1]``.
        **degradation: ``noise`` and ``give_up`` of :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        robot, model = env.unwrapped.robot, env.unwrapped.sim.model.ptr
        actuators = [part for device in robot.robot_config.values() for part in device["actuator"]]
        ranges = np.array([actuator["pos_range"] for actuator in actuators])
        self._joints = np.array([int(actuator["data_id"]) for actuator in actuators])
        self._middle = ranges.mean(axis=1)
        self._half = np.ptp(ranges, axis=1) / 2
        self._carrying = slice(*expert["gravity"])
        self._stiffness = model.actuator_gainprm[self._carrying, 0]

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        posture = data.qpos[self._joints] if still else self._env.unwrapped.target_pose.copy()
        posture[self._carrying] += data.qfrc_bias[self._carrying] / self._stiffness
        return (posture - self._middle) / self._half
