"""What scripted policies are: a pure function of the simulator's state, the seed and the step, weakened or not."""

import abc
import copy
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import mujoco
import numpy as np
import torch
from tensordict import TensorDictBase

from rlhive import keys
from rlhive.envs._robohive import RoboHiveEnv

T = TypeVar("T")


class ScriptedPolicy(abc.ABC):
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

    @abc.abstractmethod
    def act(self) -> np.ndarray:
        """Return the action [n] in [-1, 1] for the simulator's current state."""

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


class ExpertPolicy(ScriptedPolicy):
    """What the experts share: a task's parameters, and how they are degraded.

    Args:
        env: The environment that it acts in.
        name: "expert", "medium" or "noisy".
        expert: See :class:`rlhive.envs.experts.Parameters`.
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

    def parameters(self) -> dict[str, Any]:
        """Return what, beside the seed, decides the actions; JSON-able."""
        return copy.deepcopy(self._parameters)

    def act(self) -> np.ndarray:
        """Return the action [9] in [-1, 1] for the simulator's current state."""
        data, step = self._env.unwrapped.sim.data.ptr, self._step()
        given_up = self._gives_up_at(step)
        action = self._wanted(data, still=given_up)
        if self._noise and not given_up:
            action += self._noise * self._generator(step).normal(size=action.shape)
        return np.clip(action, -1.0, 1.0)

    def _gives_up_at(self, step: int) -> bool:
        if not self._give_up:
            return False
        chance, when = self.resolve()
        return chance < self._give_up and step >= when * self._env.horizon

    def resolve(self) -> np.ndarray:
        """Return what the episode's seed decides, both in [0, 1]: at what chance it is given up, and at what part."""
        return self._generator(-1).uniform(size=2)

    @abc.abstractmethod
    def _wanted(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        """Return the unclipped action [9] for the goal, or to stand still."""


class ByPlace(Generic[T]):
    """What is worked out once for where the robot and the furniture stand, and anew when they stand elsewhere.

    Args:
        env: The environment.
        work: Takes the positions [n, 3] in m and the rotations [n, 4] of the model's bodies.
    """

    def __init__(self, env: RoboHiveEnv, work: Callable[[np.ndarray, np.ndarray], T]) -> None:
        self._env, self._work = env, work
        self._found: dict[bytes, T] = {}

    def __call__(self) -> T:
        """Return it for where everything stands now."""
        model = self._env.unwrapped.sim.model.ptr
        place = model.body_pos.tobytes() + model.body_quat.tobytes()
        if place not in self._found:
            self._found = {place: self._work(model.body_pos, model.body_quat)}
        return self._found[place]
