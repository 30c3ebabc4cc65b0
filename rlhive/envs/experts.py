"""Scripted policies of RoboHive's kitchen: an expert, a degraded one, and a random one.

The expert follows a path of arm postures that depends on nothing but where the robot stands:

    (anywhere) ──► before ──► contact ──► carried along with the object ──► goal + overshoot
                    └── approach ──┘        └──────────── push ───────────┘

Where on the path it is follows from the arm's and the object's joints alone, so that each action is a pure
function of the simulator's state (and, for the degraded policies, of the seed). Imitation of such a policy is
well-posed, and an episode can be taken up at any state.
"""

import copy
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import mujoco
import numpy as np
import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.envs.kinematics import ARM, Arm, Job, Parameters, Path, project
from rlhive.envs.robohive import RoboHiveEnv
from rlhive.envs.tasks import LEVELS


def make_policy(env: RoboHiveEnv, level: str) -> "ScriptedPolicy":
    """Return a behaviour policy of an environment.

    Args:
        env: The environment that it will act in; it reads the simulator's state there.
        level: "expert", "medium" (the expert with noise, which gives up early) or "random".

    Returns:
        A TorchRL policy: writes float32 ``action`` into the TensorDict that it is given.

    Raises:
        ValueError: No such level, or no scripted expert for this environment.
    """
    if level not in LEVELS:
        msg = f"No policy level {level!r}: expected one of {', '.join(LEVELS)}."
        raise ValueError(msg)
    if level == "random":
        return RandomPolicy(env)
    row = _table().get(env.env_name)
    if row is None:
        msg = f"No scripted {level} for {env.env_name}: expected one of {', '.join(_table())}. Use level 'random'."
        raise ValueError(msg)
    degraded = row["medium"] if level == "medium" else {}
    return KitchenPolicy(env, level, row["expert"], **degraded)


@cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files("rlhive.envs").joinpath("experts.json").read_text(encoding="utf-8"))["tasks"]


class ScriptedPolicy:
    """What the scripted policies share: they read the simulator, and the seed stands for all randomness.

    They remember nothing but the seed: the step's index comes from the simulator's clock.

    Attributes:
        name: "expert", "medium" or "random".
    """

    def __init__(self, env: RoboHiveEnv, name: str) -> None:
        self.name = name
        self._env = env
        self._seed = 0

    def begin_episode(self, seed: int) -> None:
        """Take the seed of the episode that begins."""
        self._seed = seed

    def parameters(self) -> dict[str, Any]:
        """Return what, beside the seed, decides the actions; JSON-able."""
        return {"level": self.name}

    def act(self) -> np.ndarray:
        """Return the action [n] in [-1, 1] for the simulator's current state."""
        raise NotImplementedError

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``, float32 [n], for the simulator's current state."""
        action = torch.tensor(self.act(), dtype=torch.float32, device=tensordict.device)
        return tensordict.set(keys.ACTION, action)

    def _step(self) -> int:
        return round(self._env.unwrapped.sim.data.time / self._env.dt)

    def _generator(self, step: int) -> np.random.Generator:
        """Return the generator of one step of this episode; step -1 stands for the episode as a whole."""
        return np.random.default_rng((self._seed, step + 1))


class RandomPolicy(ScriptedPolicy):
    """Uniform actions."""

    def __init__(self, env: RoboHiveEnv) -> None:
        super().__init__(env, "random")

    def act(self) -> np.ndarray:
        """Return a uniform action, a function of the seed and the step."""
        space = self._env.unwrapped.action_space
        return self._generator(self._step()).uniform(space.low, space.high)


class KitchenPolicy(ScriptedPolicy):
    """Pushes or pulls one joint of the kitchen (a knob, a door) from where it starts to its goal.

    Args:
        env: A kitchen with one object out of place.
        name: "expert" or "medium".
        expert: See :class:`rlhive.envs.kinematics.Parameters`.
        noise: Standard deviation of the Gaussian added to the actions before they are clipped to [-1, 1].
        give_up: Chance that an episode is given up: from a step drawn from its seed on, the arm only holds still.
    """

    def __init__(
        self,
        env: RoboHiveEnv,
        name: str,
        expert: Mapping[str, Any],
        *,
        noise: float = 0.0,
        give_up: float = 0.0,
    ) -> None:
        super().__init__(env, name)
        self._parameters = {"level": name, "expert": dict(expert), "noise": noise, "give_up": give_up}
        self._noise, self._give_up = noise, give_up
        self._p = Parameters(**expert)
        self.job = Job.of(env.unwrapped)
        self._paths: dict[bytes, Path] = {}
        self._arm = Arm(env.unwrapped, self.job)
        self._servos = _Servos(env.unwrapped)

    def parameters(self) -> dict[str, Any]:
        """Return what, beside the seed, decides the actions; JSON-able."""
        return copy.deepcopy(self._parameters)

    def act(self) -> np.ndarray:
        """Return the action [9] in [-1, 1] for the simulator's current state."""
        data, step = self._env.unwrapped.sim.data.ptr, self._step()
        posture = data.qpos[ARM]
        target = np.append(posture, [self._p.grip, self._p.grip])
        if self._gives_up_at(step):
            return np.clip(self._servos.action(data, target), -1.0, 1.0)
        target[ARM] += self._towards_goal(posture, float(data.qpos[self.job.address]))
        action = self._servos.action(data, target)
        if self._noise:
            action += self._noise * self._generator(step).normal(size=action.shape)
        return np.clip(action, -1.0, 1.0)

    def _gives_up_at(self, step: int) -> bool:
        if not self._give_up:
            return False
        chance, when = self._generator(-1).uniform(size=2)
        return chance < self._give_up and step >= when * self._env.horizon

    def _towards_goal(self, posture: np.ndarray, value: float) -> np.ndarray:
        """Return by how much the arm's joints are to change next, in rad; the servos saturate at 0.1 rad."""
        path, p = self._path(), self._p
        if self._is_engaged(path, posture, value):
            change = path.pushing(value + self.job.sign * p.lead) - posture
            return np.clip(change, -1.5 * p.leash, 1.5 * p.leash)
        along, off = project(posture, path.before, path.contact)
        # Far off the approach, the way leads to its beginning; on it, some way ahead.
        length = np.abs(path.contact - path.before).max()
        ahead = np.clip(along + (p.leash - off) / length, 0.0, 1.0)
        change = path.before + ahead * (path.contact - path.before) - posture
        return change * min(1.0, p.leash / max(np.abs(change).max(), 1e-9))

    def _is_engaged(self, path: Path, posture: np.ndarray, value: float) -> bool:
        """Whether to push: the object has moved, or the arm is at the contact or between there and the goal."""
        if self.job.sign * (value - self.job.start) > 0.03:
            return True
        if np.abs(posture - path.contact).max() < self._p.arrival:
            return True
        along, off = project(posture, path.contact, path.postures[-1])
        return along > 0.02 and off < self._p.leash

    def _path(self) -> Path:
        """Return the path for where the robot stands; computing it takes a tenth of a second, so it is kept."""
        standing = self._env.unwrapped.sim.model.ptr.body_pos
        key = standing.tobytes()
        if key not in self._paths:
            self._paths = {key: self._arm.path(standing, self._p)}
        return self._paths[key]


class _Servos:
    """RoboHive's velocity mode, solved for the action: command = position + action × speed × dt."""

    def __init__(self, kitchen: Any) -> None:
        actuators = kitchen.robot.robot_config["franka"]["actuator"]
        self._reach = np.array([actuator["vel_range"][1] for actuator in actuators]) * kitchen.dt
        self._stiffness = kitchen.sim.model.ptr.actuator_gainprm[:7, 0]

    def action(self, data: mujoco.MjData, target: np.ndarray) -> np.ndarray:
        """Return the unclipped action [9] that commands the target [9], with gravity made up for."""
        change = target - data.qpos[:9]
        change[ARM] += data.qfrc_bias[ARM] / self._stiffness
        return change / self._reach
