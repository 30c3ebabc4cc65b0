"""Inverse kinematics of the Franka arm in RoboHive's scenes, polylines of postures, and rotations."""

import copy
import itertools
from typing import Any

import mujoco
import numpy as np

ARM = slice(0, 7)
FINGERS = slice(7, 9)

#: Axes of the gripper's frame, in columns, when it points at the kitchen (+y) with its fingers side by side (x).
_FACING_KITCHEN = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

#: Joint limits of the postures in rad, close to the limits to which RoboHive clips commands.
_LOWEST = np.array([-2.957, -1.823, -2.957, -3.132, -2.957, -1.65, -2.957])
_HIGHEST = np.array([2.957, 1.823, 2.957, -0.01, 2.957, 2.172, 2.957])

#: Distance in rad to a joint's own limits, for postures that must respect them.
_LIMIT_MARGIN = 0.01

#: Distance in rad that each joint moves in a step of 0.08 s at full force. The second joint lifts the arm.
SPEED = np.array([0.069, 0.053, 0.055, 0.064, 0.093, 0.093, 0.096])

#: Standard deviation in rad of the random first guesses of the inverse kinematics.
RESTART_SPREAD = np.array([0.5, 0.5, 0.7, 0.5, 1.0, 0.7, 1.0])

#: Weight of the distance to the home posture per unit of haste.
_HOME_WEIGHT = 4e-3


class InverseKinematics:
    """Inverse kinematics of the gripper, computed on a copy of the simulator's model.

    Args:
        env: RoboHive's environment.
    """

    def __init__(self, env: Any) -> None:
        self._model = copy.copy(env.sim.model.ptr)
        self._data = mujoco.MjData(self._model)
        self._gripper = int(env.grasp_sid)
        self._lowest = _LOWEST
        self._highest = _HIGHEST

    def _set_joint_limits(self, within: bool) -> None:
        """Keep postures within the joints' own limits, or only within those of the commands."""
        self._lowest = _LOWEST
        self._highest = _HIGHEST
        if within:
            lowest, highest = self._model.jnt_range[ARM].T
            self._lowest = np.maximum(_LOWEST, lowest + _LIMIT_MARGIN)
            self._highest = np.minimum(_HIGHEST, highest - _LIMIT_MARGIN)

    def _solve(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        weights: np.ndarray,
        start: np.ndarray,
        haste: float = 0.0,
        home: np.ndarray | None = None,
    ) -> tuple[np.ndarray, float, float]:
        """Solve for a pose of the gripper by Levenberg-Marquardt.

        Args:
            position: Position of the gripper [3] in m.
            rotation: Axes of the gripper [3, 3] in columns.
            weights: Weights of rotation errors about the gripper's axes against position errors, in m per rad.
            start: First guess of the posture [7] in rad.
            haste: Preference for postures near ``home`` over an exact rotation.
            home: Posture that is preferred with ``haste``.

        Returns:
            The posture [7], and its errors of position in m and of rotation in rad.
        """
        start = np.clip(start, self._lowest, self._highest)
        posture, damping = start, 1e-3
        home_weight = _HOME_WEIGHT * haste * (0.07 / SPEED) ** 2 if haste else 3e-5 * np.ones(7)
        preferred = start if home is None or not haste else home
        error, cost = self._error(position, rotation, weights, posture)
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(40):
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._gripper)
            slope = jacobian[:, ARM].copy()
            slope[3:] = weights[:, None] * (rotation.T @ slope[3:])
            curvature = slope.T @ slope + (damping + home_weight) * np.eye(7)
            change = np.linalg.solve(curvature, slope.T @ error - home_weight * (posture - preferred))
            trial = np.clip(posture + np.clip(change, -0.4, 0.4), self._lowest, self._highest)
            trial_error, trial_cost = self._error(position, rotation, weights, trial)
            trial_cost += home_weight[0] * np.sum(home_weight / home_weight[0] * (trial - preferred) ** 2)
            if trial_cost < cost:
                gain = cost - trial_cost
                posture, error, cost = trial, trial_error, trial_cost
                damping /= 3
                if gain < 1e-10:
                    break
            else:
                damping *= 5
                self._error(position, rotation, weights, posture)
                if damping > 100:
                    break
        return posture, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:] / weights))

    def _error(
        self, position: np.ndarray, rotation: np.ndarray, weights: np.ndarray, posture: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Return the weighted error [6] of a posture, and the sum of its squares."""
        self._data.qpos[ARM] = posture
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        axes = self._data.site_xmat[self._gripper].reshape(3, 3)
        off = position - self._data.site_xpos[self._gripper]
        error = np.concatenate([off, weights * (rotation.T @ matrix_to_rotvec(rotation @ axes.T))])
        return error, float(error @ error)


class ReachPlanner(InverseKinematics):
    """Planner of the posture that brings the gripper to a point.

    Args:
        env: RoboHive's environment.

    Attributes:
        target: Id of the target's site.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._start = env.init_qpos.copy()
        self.target = int(env.target_sid)

    def posture(self, point: np.ndarray) -> np.ndarray:
        """Return the posture [7] nearest to the start with the gripper at a point [3], in any orientation."""
        self._data.qpos[:] = self._start
        return self._solve(point, np.eye(3), np.full(3, 1e-3), self._start[ARM])[0]


def lookahead_posture(way: np.ndarray, posture: np.ndarray, leash: float, strict: float) -> np.ndarray:
    """Return the posture on a polyline that is a leash ahead of the arm.

    Args:
        way: Postures [n, 7] in rad, the corners of the polyline.
        posture: Current posture of the arm [7] in rad.
        leash: Distance ahead of the arm, in the joint that moves most, in rad.
        strict: Part of the leash that is lost per rad of distance from the polyline.
    """
    parts = [project_on_segment(posture, *part) for part in itertools.pairwise(way)]
    # At a corner the later segment counts.
    index = len(parts) - 1 - int(np.argmin([off for _, off in parts[::-1]]))
    along, off = parts[index]
    ahead = leash - strict * off
    while True:
        start, end = way[index : index + 2]
        length = np.abs(end - start).max()
        part = along + ahead / length
        if part <= 1.0 or index == len(parts) - 1:
            return start + np.clip(part, 0.0, 1.0) * (end - start)
        ahead, along, index = (part - 1.0) * length, 0.0, index + 1


def distance_to_polyline(posture: np.ndarray, way: np.ndarray) -> float:
    """Return the distance in rad of a posture [7] from a polyline [n, 7], in the joint that is farthest off."""
    return min(project_on_segment(posture, *part)[1] for part in itertools.pairwise(way))


def project_on_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Project a posture on a segment.

    Returns:
        The position along the segment, 0 to 1, and the distance from it in the joint that is farthest off, in rad.
    """
    way = end - start
    along = float(np.clip((point - start) @ way / max(way @ way, 1e-12), 0.0, 1.0))
    return along, float(np.abs(point - start - along * way).max())


def gripper_rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return the gripper's axes [3, 3]: yaw about the world's z, pitch about its x, roll about the gripper's axis."""
    z, x = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    return rotvec_to_matrix(yaw * z) @ rotvec_to_matrix(pitch * x) @ _FACING_KITCHEN @ rotvec_to_matrix(roll * z)


def rotvec_to_matrix(vector: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a rotation vector [3] in rad."""
    angle, quaternion = float(np.linalg.norm(vector)), np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, vector / angle if angle > 1e-12 else np.array([1.0, 0.0, 0.0]), angle)
    return quaternion_to_matrix(quaternion)


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a quaternion [4], w first."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def matrix_to_rotvec(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation vector [3] in rad of a rotation matrix [3, 3]."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
