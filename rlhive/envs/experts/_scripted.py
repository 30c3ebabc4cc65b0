"""Base classes of the scripted policies: pure functions of the simulator's state, the seed and the step."""

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
from rlhive.errors import InvalidOptionError

T = TypeVar("T")


class ScriptedPolicy(abc.ABC):
    """A policy that reads the simulator's state and derives all randomness from the episode's seed.

    The seed is its only state: the index of the step follows from the simulated time.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy.

    Attributes:
        name: Level of the policy: "expert", "noisy", "medium" or "random".
    """

    def __init__(self, env: RoboHiveEnv, name: str) -> None:
        self.name = name
        self._env = env
        self._seed = 0

    def begin_episode(self, seed: int) -> None:
        """Set the seed of the episode that starts."""
        self._seed = seed

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that, with the seed, determine the actions; JSON-able."""
        return {"level": self.name}

    @abc.abstractmethod
    def act(self) -> np.ndarray:
        """Return the action [n] in [-1, 1] for the simulator's current state."""

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``, float32 [n], for the simulator's current state; the TensorDict's values are not read.

        Raises:
            InvalidOptionError: The TensorDict is of several environments.
        """
        if tensordict.ndim:
            msg = (
                f"Policy {self.name!r} of {self._env.env_name}: expected the TensorDict of one environment, got batch "
                f"size {list(tensordict.batch_size)}. Make the policy for the batched environment: make_policy(env, …)."
            )
            raise InvalidOptionError(msg)
        action = torch.tensor(self.act(), dtype=torch.float32, device=tensordict.device)
        return tensordict.set(keys.ACTION, action)

    def _step(self) -> int:
        return round(self._env.unwrapped.sim.data.time / self._env.dt)

    def _generator(self, step: int) -> np.random.Generator:
        """Return the random generator of a step of this episode, or with step -1 that of the whole episode."""
        return np.random.default_rng((self._seed, step + 1))


class RandomPolicy(ScriptedPolicy):
    """A policy of uniform actions."""

    def __init__(self, env: RoboHiveEnv) -> None:
        super().__init__(env, "random")

    def act(self) -> np.ndarray:
        """Return a uniform action [n], which depends on the seed and the step only."""
        space = self._env.unwrapped.action_space
        return self._generator(self._step()).uniform(space.low, space.high)


class ExpertPolicy(ScriptedPolicy):
    """Base class of the experts; noise and giving up degrade them to weaker levels.

    Args:
        env: The environment in which the policy acts.
        name: Level of the policy: "expert", "medium" or "noisy".
        expert: Parameters of the task, for example of :class:`rlhive.envs.experts._paths.PathParameters`.
        noise: Standard deviation of the Gaussian noise added to the actions before they are clipped to [-1, 1].
        give_up: Probability that the policy gives an episode up: the arm holds still from a step drawn from the seed.
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
        self._noise = noise
        self._give_up = give_up

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that, with the seed, determine the actions; JSON-able."""
        return copy.deepcopy(self._parameters)

    def act(self) -> np.ndarray:
        """Return the action [9] in [-1, 1] for the simulator's current state."""
        data, step = self._env.unwrapped.sim.data.ptr, self._step()
        is_given_up = self._is_given_up(step)
        action = self._compute_action(data, still=is_given_up)
        if self._noise and not is_given_up:
            action += self._noise * self._generator(step).normal(size=action.shape)
        return np.clip(action, -1.0, 1.0)

    def hold_still(self) -> np.ndarray:
        """Return the action [9] in [-1, 1] with which the arm stays where it is."""
        return np.clip(self._compute_action(self._env.unwrapped.sim.data.ptr, still=True), -1.0, 1.0)

    def _is_given_up(self, step: int) -> bool:
        if not self._give_up:
            return False
        chance, time = self.draw_give_up()
        return chance < self._give_up and step >= time * self._env.horizon

    def draw_give_up(self) -> np.ndarray:
        """Draw when the episode is given up.

        Returns:
            Two numbers in [0, 1]: the episode is given up if the first is below ``give_up``, and then from the second,
            a fraction of the horizon, on.
        """
        return self._generator(-1).uniform(size=2)

    @abc.abstractmethod
    def _compute_action(self, data: mujoco.MjData, *, still: bool) -> np.ndarray:
        """Return the unclipped action [9] that moves towards the goal, or with ``still`` holds the arm still."""


class LayoutCache(Generic[T]):
    """Cache of a value that depends on where the robot and the furniture stand; keeps the last layout's value.

    Args:
        env: The environment.
        compute: Function of the positions [n, 3] in m and the rotations [n, 4] of the model's bodies.
    """

    def __init__(self, env: RoboHiveEnv, compute: Callable[[np.ndarray, np.ndarray], T]) -> None:
        self._env = env
        self._compute = compute
        self._values: dict[bytes, T] = {}

    def __call__(self) -> T:
        """Return the value for the current layout."""
        model = self._env.unwrapped.sim.model.ptr
        layout = model.body_pos.tobytes() + model.body_quat.tobytes()
        if layout not in self._values:
            self._values = {layout: self._compute(model.body_pos, model.body_quat)}
        return self._values[layout]
