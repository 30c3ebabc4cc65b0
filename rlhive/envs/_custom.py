"""Environments that are not RoboHive's: a user's task becomes what collect and evaluate know how to run.

    gymnasium id ─► TorchRL's GymEnv ─┐
    make_env(**env_kwargs) ───────────┴─► TaskEnv: time limit, name, horizon, checkpoint, provenance

The pieces may come from anywhere; a TorchRL environment keeps its own keys and dtypes.
"""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, GymEnv, StepCounter, TransformedEnv

from rlhive.envs._tasks import Task, name_of
from rlhive.errors import CheckpointMismatch, EnvNotFound, InvalidSetting, MissingExtra

_PACKAGES = ("gymnasium", "torchrl", "torch", "numpy")


class TaskEnv(TransformedEnv):
    """A TorchRL environment with what RLHive asks of one.

    It is truncated at the task's horizon at the latest. A checkpoint of the simulator is optional: an environment
    without ``get_state`` has an empty one. So is ``success``.

    Args:
        task: The row of the catalogue.
        env: The environment itself; it is closed with this one.

    Attributes:
        env_name: The task's.
        horizon: Maximum episode length in transitions.
    """

    def __init__(self, task: Task, env: EnvBase) -> None:
        super().__init__(env, StepCounter(max_steps=task.horizon))
        self.env_name, self.horizon = task.env_name, task.horizon
        self._task, self._pending = task, {}

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment; with gymnasium the next reset is ``reset(seed=seed)``, and not the one after it."""
        self._pending = {"seed": seed} if seed is not None and isinstance(self.base_env, GymEnv) else {}
        return super().set_seed(seed, static_seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        kwargs, self._pending = {**self._pending, **kwargs}, {}
        return super()._reset(tensordict, **kwargs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return a checkpoint of the simulator: named float64 arrays, none where the environment gives none."""
        return self.base_env.get_state() if hasattr(type(self.base_env), "get_state") else {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> Any:
        """Put the simulator into a state that :meth:`get_state` returned.

        Raises:
            CheckpointMismatch: The environment gives none, so that no checkpoint fits it.
        """
        if not hasattr(type(self.base_env), "get_state"):  # EnvBase has a set_state that seeds
            msg = f"{self.env_name} gives no checkpoints: expected an environment with get_state and set_state."
            raise CheckpointMismatch(msg)
        return self.base_env.set_state(state)

    def provenance(self) -> dict[str, Any]:
        """Return what identifies this environment, JSON-able, with what the environment itself says of it."""
        own = self.base_env.provenance() if hasattr(type(self.base_env), "provenance") else {}
        return {
            "env_name": self.env_name,
            "backend": self._task.backend,
            "env_kwargs": json.loads(json.dumps(dict(self._task.env_kwargs), default=repr)),
            "horizon": self.horizon,
            "versions": {name: version for name in _PACKAGES if (version := _version(name))},
            **own,
        }


class TaskPolicy:
    """A user's callable as a behaviour policy of one level.

    Args:
        level: Its name.
        make: Given the environment, returns the callable that writes ``action`` into a TensorDict.
        env: The environment that it acts in.
    """

    def __init__(self, level: str, make: Callable[[EnvBase], Callable], env: EnvBase) -> None:
        self.name, self._made_by = level, name_of(make)
        self._act = make(env)

    def begin_episode(self, seed: int) -> None:
        """Pass the seed on to a policy that asks for it."""
        if hasattr(self._act, "begin_episode"):
            self._act.begin_episode(seed)

    def parameters(self) -> dict[str, Any]:
        """Return what is known of the policy, JSON-able."""
        return {"level": self.name, "policy": self._made_by}

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``."""
        return self._act(tensordict)


def random_actions(env: EnvBase) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a policy that draws from the action space with torch's generator, which a rollout seeds."""
    spec = env.full_action_spec
    return lambda tensordict: tensordict.update(spec.rand())


def make_task_env(task: Task, **kwargs: Any) -> TaskEnv:
    """Build the environment of a user's task.

    Args:
        task: Its ``backend`` is "gymnasium" or "custom".
        **kwargs: Further arguments of the environment; they win over the task's. ``seed`` seeds the first reset.

    Raises:
        EnvNotFound: Gymnasium has no such environment.
        MissingExtra: Gymnasium is not installed.
        InvalidSetting: ``make_env`` returned something else than a TorchRL environment of batch size [].
    """
    seed = kwargs.pop("seed", None)
    kwargs = {**task.env_kwargs, **kwargs}
    env = task.make_env(**kwargs) if task.make_env is not None else _gymnasium_env(task, kwargs)
    if not isinstance(env, EnvBase) or env.batch_size:
        got = f"batch size {list(env.batch_size)}" if isinstance(env, EnvBase) else type(env).__name__
        msg = f"Task {task.name!r}: expected make_env to return one TorchRL environment, batch size [], got {got}."
        raise InvalidSetting(msg)
    env = TaskEnv(task, env)
    if seed is not None:
        env.set_seed(seed)
    return env


def _gymnasium_env(task: Task, kwargs: Mapping[str, Any]) -> EnvBase:
    try:
        import gymnasium
    except ImportError as error:
        msg = f"Task {task.name!r} needs gymnasium, not installed here. Type: pip install 'rlhive[robohive]'"
        raise MissingExtra(msg) from error
    try:
        # Its own time limit must not come before the task's.
        return GymEnv(task.env_name, **{"max_episode_steps": task.horizon, **kwargs})
    except gymnasium.error.UnregisteredEnv as error:
        msg = f"Task {task.name!r}: gymnasium has no environment {task.env_name!r}: {error}"
        raise EnvNotFound(msg) from error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
