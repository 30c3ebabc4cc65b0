"""A point on a line: a toy environment for tests and documentation, with returns that can be computed by hand.

    track       -1 ......... 0 ......... +1        position and goal are drawn from the seed
    action      in [-1, 1]; moves the point by STEP * action
    reward      1 - |position - goal|, after the move
    success     |position - goal| <= TOLERANCE, after the move; does not end the episode, as in RoboHive
    terminated  the point left the track
    truncated   after 20 transitions

STEP and TOLERANCE are powers of two, so that whole steps from a multiple of STEP have no rounding error.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.envs._tasks import LEVELS
from rlhive.errors import EnvNotFoundError, InvalidActionError

STEP = 0.125
TOLERANCE = 0.03125
HORIZON = 20
START_RANGE = 0.9
GOAL_RANGE = 0.5

_NAME = "ToyPoint-v0"
# Added to a policy's seed: with the environment's seed alone the policy would draw the numbers that placed the point.
_POLICY_STREAM = 0x5EED_0000_0000


class ToyEnv(EnvBase):
    """A point that moves to a goal on a line; deterministic under :meth:`set_seed`, without a simulator.

    The interface is that of :class:`rlhive.envs.RoboHiveEnv`: code that runs on one runs on the other.

    Args:
        env_name: ``"ToyPoint-v0"``, the only valid id.
        dtype: Dtype of ``observation`` (position, goal) and ``("next", "reward")``.
        seed: Seed of the first reset; None takes a random seed.
        device: Device of the TensorDicts.
        from_pixels: Return ``pixels`` as well, uint8 [1, H, W, 3]: the point is red, the goal green.
        image_size: Height and width of the picture.
        obs_keys: Further names of the observation: "position" [1] and "goal" [1].
        cameras: Not read, like ``render_quality``: the picture has one camera.
        render_quality: Not read.

    Raises:
        EnvNotFoundError: ``env_name`` is not ``"ToyPoint-v0"``.

    Example:
        >>> env = ToyEnv(seed=0)
        >>> env.rollout(20, make_toy_policy(env, "expert"))["next", "success"].any().item()
        True
    """

    def __init__(
        self,
        env_name: str = _NAME,
        *,
        dtype: torch.dtype = torch.float64,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        from_pixels: bool = False,
        image_size: Sequence[int] = (16, 32),
        obs_keys: Sequence[str] = (),
        cameras: Sequence[str] | None = None,
        render_quality: str | None = None,
    ) -> None:
        if env_name != _NAME:
            msg = f"No toy environment named {env_name!r}: expected {_NAME!r}."
            raise EnvNotFoundError(msg)
        del cameras, render_quality
        super().__init__(device=torch.device(device), batch_size=())
        self.env_name = env_name
        self.horizon = HORIZON
        self._dtype = dtype
        self._generator = torch.Generator()
        self._position = self._goal = 0.0
        self._step_count = 0
        self._image_size = tuple(image_size) if from_pixels else None
        self._obs_keys = tuple(obs_keys)
        observations = {
            keys.OBSERVATION: Unbounded(shape=(2,), dtype=dtype, device=self.device),
            keys.SUCCESS: Categorical(2, shape=(1,), dtype=torch.bool, device=self.device),
            **{key: Unbounded(shape=(1,), dtype=dtype, device=self.device) for key in obs_keys},
        }
        if self._image_size is not None:
            shape = (1, *self._image_size, 3)
            observations[keys.PIXELS] = Bounded(0, 255, shape=shape, dtype=torch.uint8, device=self.device)
        self.observation_spec = Composite(observations)
        self.action_spec = Bounded(-1.0, 1.0, shape=(1,), dtype=torch.float32, device=self.device)
        self.reward_spec = Unbounded(shape=(1,), dtype=dtype, device=self.device)
        flag = Categorical(2, shape=(1,), dtype=torch.bool, device=self.device)
        self.full_done_spec = Composite({key: flag.clone() for key in keys.END_FLAGS})
        self.set_seed(seed)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return a checkpoint for :meth:`set_state`: float64 arrays of shape ``[1]`` by name."""
        values = {"position": self._position, "goal": self._goal, "step_count": self._step_count}
        return {name: np.array([value], dtype=np.float64) for name, value in values.items()}

    def set_state(self, state: dict[str, np.ndarray]) -> TensorDict:
        """Restore point, goal and step counter from a checkpoint; return the TensorDict of a reset into this state."""
        self._position = float(state["position"][0])
        self._goal = float(state["goal"][0])
        self._step_count = int(state["step_count"][0])
        return TensorDict(self._observe() | self._flags(terminated=False, truncated=False), device=self.device)

    def provenance(self) -> dict[str, Any]:
        """Return the JSON-able values that identify this environment."""
        return {
            "env_name": self.env_name,
            "backend": "toy",
            "horizon": self.horizon,
            "dtype": str(self._dtype).removeprefix("torch."),
            "step": STEP,
            "tolerance": TOLERANCE,
            "torch": str(torch.__version__),
        }

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        draw = torch.rand(2, generator=self._generator, dtype=torch.float64).mul_(2).sub_(1).tolist()
        self._position, self._goal = draw[0] * START_RANGE, draw[1] * GOAL_RANGE
        self._step_count = 0
        return TensorDict(self._observe() | self._flags(terminated=False, truncated=False), device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = float(tensordict[keys.ACTION])
        if not -1.0 <= action <= 1.0:
            msg = f"{self.env_name}, step {self._step_count}: expected an action in [-1, 1], got {action}."
            raise InvalidActionError(msg)
        self._position += STEP * action
        self._step_count += 1
        flags = self._flags(terminated=abs(self._position) > 1.0, truncated=self._step_count >= self.horizon)
        reward = self._full(1.0 - abs(self._position - self._goal), self._dtype)
        return TensorDict(self._observe() | flags | {keys.REWARD: reward}, device=self.device)

    def _observe(self) -> dict[str, torch.Tensor]:
        solved = abs(self._position - self._goal) <= TOLERANCE
        observation = torch.tensor([self._position, self._goal], dtype=self._dtype, device=self.device)
        parts = {"position": self._position, "goal": self._goal}
        return {
            keys.OBSERVATION: observation,
            keys.SUCCESS: self._full(solved, torch.bool),
            **{key: self._full(parts[key], self._dtype) for key in self._obs_keys},
            **({} if self._image_size is None else {keys.PIXELS: self._draw(self._image_size)}),
        }

    def _draw(self, image_size: tuple[int, ...]) -> torch.Tensor:
        """Return the picture: point and goal as blurred lines across the track."""
        columns = torch.linspace(-1.0, 1.0, image_size[1], dtype=torch.float64)
        lines = [torch.exp(-(((columns - x) / 0.1) ** 2)) for x in (self._position, self._goal)]
        row = torch.stack([*lines, torch.zeros_like(columns)], -1).mul_(255).to(torch.uint8)
        return row.expand(1, *image_size, 3).clone().to(self.device)

    def _flags(self, *, terminated: bool, truncated: bool) -> dict[str, torch.Tensor]:
        values = {keys.TERMINATED: terminated, keys.TRUNCATED: truncated, keys.DONE: terminated or truncated}
        return {key: self._full(value, torch.bool) for key, value in values.items()}

    def _full(self, value: float | bool, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([value], dtype=dtype, device=self.device)


class ToyPolicy:
    """A behaviour policy of :class:`ToyEnv` that moves to the goal; noise and giving up degrade it.

    Args:
        name: Level of the policy: "expert", "noisy", "medium" or "random".
        noise: Standard deviation of the Gaussian noise added to the action before it is clipped to [-1, 1].
        give_up: Probability that the policy gives an episode up: it stops at a random step of the first half.
        uniform: Draw uniform actions instead.
    """

    def __init__(self, name: str, *, noise: float = 0.0, give_up: float = 0.0, uniform: bool = False) -> None:
        self.name = name
        self._parameters = {"noise": noise, "give_up": give_up, "uniform": uniform}
        self._generator = torch.Generator()
        self._steps_left = math.inf
        self.begin_episode(0)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that, with the name and the seed, determine the actions; JSON-able."""
        return dict(self._parameters)

    def begin_episode(self, seed: int) -> None:
        """Start an episode whose actions depend on the seed and the observations only."""
        self._generator.manual_seed(_POLICY_STREAM + seed)
        chance, time = torch.rand(2, generator=self._generator).tolist()
        self._steps_left = int(time * HORIZON / 2) if chance < self._parameters["give_up"] else math.inf

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``, float32 ``[*batch, 1]`` in [-1, 1], computed from ``observation``."""
        observation = tensordict[keys.OBSERVATION]
        actions = [self._compute_action(*row) for row in observation.reshape(-1, 2).tolist()]
        self._steps_left -= 1
        action = torch.tensor(actions, dtype=torch.float32, device=tensordict.device)
        return tensordict.set(keys.ACTION, action.reshape(*observation.shape[:-1], 1))

    def _compute_action(self, position: float, goal: float) -> float:
        uniform, normal = torch.rand((), generator=self._generator), torch.randn((), generator=self._generator)
        if self._parameters["uniform"]:
            action = 2 * float(uniform) - 1
        elif self._steps_left <= 0:
            action = 0.0
        else:
            action = (goal - position) / STEP + self._parameters["noise"] * float(normal)
        return min(max(action, -1.0), 1.0)


_POLICIES: dict[str, dict[str, Any]] = {
    "expert": {},
    "noisy": {"noise": 0.5},
    "medium": {"noise": 0.5, "give_up": 0.7},
    "random": {"uniform": True},
}


def make_toy_policy(env: EnvBase, level: str) -> ToyPolicy:
    """Return the behaviour policy of a level: "expert", "noisy", "medium" or "random".

    Raises:
        ValueError: The level is unknown.
    """
    if level not in _POLICIES:
        msg = f"No policy {level!r} for {env.env_name}: expected one of {', '.join(LEVELS)}."
        raise ValueError(msg)
    return ToyPolicy(level, **_POLICIES[level])
