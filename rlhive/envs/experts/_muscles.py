"""Experts of MyoSuite's poses and reaches: computed muscle control (Thelen et al., 2003) on the simulator's muscles.

::

    (fingertips' targets ─► posture, by inverse kinematics)
    posture error ─► joint velocity ─► torques [nv] ─► activations [nu] in [0, 1], by least squares
                                       (mass, damping, gravity, moment arms, force-length-velocity curves)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from rlhive.envs._robohive import RoboHiveEnv
from rlhive.envs.experts._scripted import ExpertPolicy

#: Distance in rad from the joints' limits that the inverse kinematics keeps.
_LIMIT_MARGIN = 0.02

#: Largest change in rad of a joint in an iteration of the inverse kinematics, and the number of iterations.
_LARGEST_CHANGE = 0.3
_NUM_ITERATIONS = 60

#: Distance in m per fingertip within which RoboHive counts targets as reached.
_TIP_TOLERANCE = 0.0125

#: Steps in which RoboHive does not end an episode however far the tips are.
_FREE_STEPS = 1

#: Weight in m² per rad² of a posture's distance from the first guess.
_START_WEIGHT = 1e-6


@dataclass(frozen=True)
class MuscleParameters:
    """Parameters of the expert.

    Attributes:
        rate: Desired velocity of a joint per radian of its error, in 1/s.
        effort: Weight of an activation of 1.
        joints: Weight of an error of 1 rad/s of a joint's velocity.
        tips: Weight of an error of 1 m/s of a fingertip's velocity.
    """

    rate: float
    effort: float
    joints: float = 1.0
    tips: float = 0.0


class MuscleController:
    """Muscle activations that move the joints towards a posture.

    Args:
        model: The model; its actuators are MuJoCo's muscles.
        dt: Time for which an activation is held, in s.
        parameters: The parameters.
        tips: Ids of the sites of the fingertips, whose velocities are weighted as well.
    """

    def __init__(
        self, model: mujoco.MjModel, dt: float, parameters: MuscleParameters, tips: Sequence[int] = ()
    ) -> None:
        self._model = model
        self._dt = dt
        self._parameters = parameters
        self._tips = tips
        self._mass = np.zeros((model.nv, model.nv))

    def compute_activations(self, data: mujoco.MjData, posture: np.ndarray) -> np.ndarray:
        """Return the activations [nu] in [0, 1] that bring the joints nearest to the desired velocities.

        Args:
            data: The simulator's state, after a forward pass.
            posture: Desired joint positions [nv] in rad.
        """
        model, moments = self._model, data.actuator_moment.reshape(self._model.nu, self._model.nv)
        mujoco.mj_fullM(model, self._mass, data.qM)
        gains, biases = self._compute_forces(data)
        velocity = self._parameters.rate * (posture - data.qpos)
        change = velocity - data.qvel
        # Damping opposes the desired velocity; the passive forces contain that of the current one.
        torques = self._mass @ change / self._dt + model.dof_damping * change
        torques += data.qfrc_bias - data.qfrc_passive - moments.T @ biases
        per_velocity = model.dof_damping + np.diag(self._mass) / self._dt
        slope = (moments * gains[:, None]).T / per_velocity[:, None]
        weights = self._compute_weights(data)
        return _solve_activations(weights @ slope, weights @ (torques / per_velocity), self._parameters.effort)

    def _compute_weights(self, data: mujoco.MjData) -> np.ndarray:
        """Return the matrix [m, nv] that weights errors of the joints' velocities."""
        joints = self._parameters.joints * np.eye(self._model.nv)
        return np.vstack([self._parameters.tips * _site_jacobian(self._model, data, self._tips), joints])

    def _compute_forces(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Return the force in N of each muscle per activation, and its passive force."""
        model, muscles = self._model, range(self._model.nu)
        gains = [
            mujoco.mju_muscleGain(
                data.actuator_length[muscle],
                data.actuator_velocity[muscle],
                model.actuator_lengthrange[muscle],
                model.actuator_acc0[muscle],
                model.actuator_gainprm[muscle, :9, None],
            )
            for muscle in muscles
        ]
        biases = [
            mujoco.mju_muscleBias(
                data.actuator_length[muscle],
                model.actuator_lengthrange[muscle],
                model.actuator_acc0[muscle],
                model.actuator_biasprm[muscle, :9, None],
            )
            for muscle in muscles
        ]
        return np.array(gains), np.array(biases)


def _solve_activations(slope: np.ndarray, target: np.ndarray, effort: float) -> np.ndarray:
    """Return the activations in [0, 1] that minimise ``|slope @ a - target|² + effort² |a|²``.

    Args:
        slope: Change of the target per activation [m, n].
        target: Desired values [m].
        effort: Weight of the activations, above 0.
    """
    size = slope.shape[1]
    curvature = slope.T @ slope + effort**2 * np.eye(size)
    activations, factor = np.zeros((size, 1)), np.zeros((size, size + 7))
    free, lower, upper = np.zeros((size, 1), np.int32), np.zeros((size, 1)), np.ones((size, 1))
    mujoco.mju_boxQP(activations, factor, free, curvature, -(slope.T @ target)[:, None], lower, upper)
    return np.clip(activations[:, 0], 0.0, 1.0)


class TipKinematics:
    """Inverse kinematics of several points of a model at once, computed with data of its own.

    Args:
        model: The model.
        sites: Ids of the sites [n] to be brought to their targets.
    """

    def __init__(self, model: mujoco.MjModel, sites: Sequence[int]) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._sites = list(sites)
        self._lowest, self._highest = (model.jnt_range + np.array([_LIMIT_MARGIN, -_LIMIT_MARGIN])).T

    def solve(self, start: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the posture [nq] in rad, within the joints' limits, that brings the sites nearest to their targets.

        Args:
            start: First guess of the posture [nq] in rad; of equally good postures, one near it is returned.
            targets: Positions [n, 3] in m.
        """
        posture, damping = np.clip(start, self._lowest, self._highest), 1e-4
        error, cost = self._error(posture, start, targets)
        for _ in range(_NUM_ITERATIONS):
            slope = _site_jacobian(self._model, self._data, self._sites)
            uphill = slope.T @ error
            slope[:, ((posture <= self._lowest) & (uphill < 0)) | ((posture >= self._highest) & (uphill > 0))] = 0.0
            curvature = slope.T @ slope + (damping + _START_WEIGHT) * np.eye(len(posture))
            change = np.linalg.solve(curvature, slope.T @ error - _START_WEIGHT * (posture - start))
            trial = np.clip(posture + np.clip(change, -_LARGEST_CHANGE, _LARGEST_CHANGE), self._lowest, self._highest)
            trial_error, trial_cost = self._error(trial, start, targets)
            if trial_cost < cost:
                gain, posture, error, cost = cost - trial_cost, trial, trial_error, trial_cost
                damping = max(damping / 3, 1e-8)
                if gain < 1e-9:
                    break
            else:
                self._error(posture, start, targets)
                damping *= 5
                if damping > 10:
                    break
        return posture

    def _error(self, posture: np.ndarray, start: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the sites' distances from their targets [3 n] in m at a posture, and its cost."""
        self._data.qpos[:] = posture
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        error = (targets - self._data.site_xpos[self._sites]).ravel()
        return error, float(error @ error + _START_WEIGHT * np.sum((posture - start) ** 2))


def _site_jacobian(model: mujoco.MjModel, data: mujoco.MjData, sites: Sequence[int]) -> np.ndarray:
    """Return the velocities [3 n, nv] of sites per velocity of the joints."""
    slopes = np.zeros((len(sites), 3, model.nv))
    for slope, site in zip(slopes, sites, strict=True):
        mujoco.mj_jacSite(model, data, slope, None, site)
    return slopes.reshape(-1, model.nv)


class PosePolicy(ExpertPolicy):
    """Brings the joints to RoboHive's target pose, for example in ``myoElbowPose1D6MRandom-v0``.

    RoboHive passes an action to the muscles as it is, and MuJoCo clips it to [0, 1]. A policy that gives up relaxes all
    muscles.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: The fields of :class:`MuscleParameters`.
        **degradation: ``noise`` and ``give_up`` of :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        self._model = env.unwrapped.sim.model.ptr
        self._muscles = MuscleController(self._model, env.dt, MuscleParameters(**expert))

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return np.zeros(self._model.nu)
        return self._muscles.compute_activations(data, self._env.unwrapped.target_jnt_value)


@dataclass(frozen=True)
class _TipPlan:
    """A posture [nq] in rad that brings the fingertips to their targets, and the controller that leads to it."""

    posture: np.ndarray
    controller: MuscleController


class TipPolicy(ExpertPolicy):
    """Brings the fingertips to RoboHive's targets, for example in ``myoHandReachRandom-v0``.

    Muscles cannot hold every posture. Several ways to weight what they miss are rehearsed in turn, and the first one
    that brings the tips to their targets is used, or else the last one. An episode starts from the same posture
    whatever its seed, so that the way depends on the targets only.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: "ways" lists the fields of :class:`MuscleParameters` of each way.
        **degradation: ``noise`` and ``give_up`` of :class:`ExpertPolicy`.
    """

    def __init__(self, env: RoboHiveEnv, name: str, expert: Mapping[str, Any], **degradation: float) -> None:
        super().__init__(env, name, expert, **degradation)
        task = env.unwrapped
        self._model = task.sim.model.ptr
        self._kinematics = TipKinematics(self._model, task.tip_sids)
        self._controllers = [
            MuscleController(self._model, env.dt, MuscleParameters(**way), task.tip_sids) for way in expert["ways"]
        ]
        self._rehearsal = TipRehearsal(env)
        self._plans: dict[bytes, _TipPlan] = {}

    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        if still:
            return np.zeros(self._model.nu)
        plan = self._plan()
        return plan.controller.compute_activations(data, plan.posture)

    def _plan(self) -> _TipPlan:
        """Return the plan for the current targets."""
        task = self._env.unwrapped
        # The targets are sites of the world, whose positions the reset writes into the model.
        targets = self._model.site_pos[task.target_sids]
        key = targets.tobytes()
        if key not in self._plans:
            posture = self._kinematics.solve(task.init_qpos, targets)
            plans = [_TipPlan(posture, controller) for controller in self._controllers]
            self._plans = {key: next((plan for plan in plans if self._rehearsal.reaches(plan, targets)), plans[-1])}
        return self._plans[key]


class TipRehearsal:
    """Simulated episodes on the environment's model with data of their own.

    Args:
        env: The environment.
    """

    def __init__(self, env: RoboHiveEnv) -> None:
        self._task = env.unwrapped
        self._model = self._task.sim.model.ptr
        self._substeps = round(env.dt / self._model.opt.timestep)
        self._horizon = env.horizon

    def reaches(self, plan: _TipPlan, targets: np.ndarray) -> bool:
        """Whether a plan brings the tips to their targets [n, 3] in m before the episode ends, as RoboHive ends it."""
        data = mujoco.MjData(self._model)
        data.qpos[:] = self._task.init_qpos
        mujoco.mj_forward(self._model, data)
        near, far = _TIP_TOLERANCE * len(targets), self._task.far_th * len(targets)
        for step in range(1, self._horizon + 1):
            self._step(data, plan.controller.compute_activations(data, plan.posture))
            distance = np.linalg.norm(targets - data.site_xpos[self._task.tip_sids])
            if distance < near:
                return True
            if distance > far and step > _FREE_STEPS:
                return False
        return False

    def _step(self, data: mujoco.MjData, activations: np.ndarray) -> None:
        data.ctrl[:] = activations.astype(np.float32)
        # As dm_control steps: the forces of the state are known.
        mujoco.mj_step2(self._model, data)
        mujoco.mj_step(self._model, data, self._substeps - 1)
        mujoco.mj_forward(self._model, data)
