"""Environments of users' own tasks, wrapped so that collect and evaluate can run them.

    gymnasium id ─► TorchRL's GymEnv ─┐
    make_env(**env_kwargs) ───────────┴─► TaskEnv: time limit, name, horizon, checkpoint, provenance

A TorchRL environment keeps its own keys and dtypes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, GymEnv, StepCounter, TransformedEnv

from rlhive._extras import require_extra
from rlhive.envs._install import installed_version
from rlhive.envs._tasks import Task, qualified_name
from rlhive.errors import CheckpointMismatchError, EnvNotFoundError, InvalidOptionError

_PACKAGES = ("gymnasium", "torchrl", "torch", "numpy")


class TaskEnv(TransformedEnv):
    """A user's TorchRL environment with the interface that RLHive requires.

    Episodes are truncated at the task's horizon at the latest. Checkpoints and ``success`` are optional: the checkpoint
    of an environment without ``get_state`` is empty.

    Args:
        task: The task's row of the catalogue.
        env: The wrapped environment. Closing this object closes it.

    Attributes:
        env_name: Environment id of the task.
        horizon: Maximum episode length in transitions.
    """

    def __init__(self, task: Task, env: EnvBase) -> None:
        super().__init__(env, StepCounter(max_steps=task.horizon))
        self.env_name = task.env_name
        self.horizon = task.horizon
        self._task = task
        self._reset_kwargs: dict[str, Any] = {}

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment. A gymnasium environment gets the seed with its next reset, and only with that one."""
        self._reset_kwargs = {"seed": seed} if seed is not None and isinstance(self.base_env, GymEnv) else {}
        return super().set_seed(seed, static_seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        kwargs = {**self._reset_kwargs, **kwargs}
        self._reset_kwargs = {}
        return super()._reset(tensordict, **kwargs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return a checkpoint of the simulator: float64 arrays by name; empty if the environment has no checkpoints."""
        return self.base_env.get_state() if hasattr(type(self.base_env), "get_state") else {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> Any:
        """Restore a state of the simulator that :meth:`get_state` returned.

        Raises:
            CheckpointMismatchError: The environment has no checkpoints.
        """
        if not hasattr(type(self.base_env), "get_state"):  # set_state of EnvBase sets a seed
            msg = f"{self.env_name} has no checkpoints: expected an environment with get_state and set_state."
            raise CheckpointMismatchError(msg)
        return self.base_env.set_state(state)

    def provenance(self) -> dict[str, Any]:
        """Return the JSON-able values that identify this environment, the wrapped environment's own included."""
        env_provenance = self.base_env.provenance() if hasattr(type(self.base_env), "provenance") else {}
        return {
            "env_name": self.env_name,
            "backend": self._task.backend,
            "env_kwargs": json.loads(json.dumps(dict(self._task.env_kwargs), default=repr)),
            "horizon": self.horizon,
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
            **env_provenance,
        }


class TaskPolicy:
    """A behaviour policy of one level, built from a user's callable.

    Args:
        level: Level of the policy, which is also its name.
        make: Function that takes the environment and returns a callable that writes ``action`` into a TensorDict.
        env: The environment in which the policy acts.
    """

    def __init__(self, level: str, make: Callable[[EnvBase], Callable[..., Any]], env: EnvBase) -> None:
        self.name = level
        self._factory_name = qualified_name(make)
        self._act = make(env)
        if hasattr(self._act, "recording_phase"):
            self.recording_phase = self._act.recording_phase

    def begin_episode(self, seed: int) -> None:
        """Pass the episode's seed to the callable, if it has a ``begin_episode``."""
        if hasattr(self._act, "begin_episode"):
            self._act.begin_episode(seed)

    def observe_reward(self, reward: float) -> None:
        """Pass the reward of the last action to the callable, if it has an ``observe_reward``."""
        if hasattr(self._act, "observe_reward"):
            self._act.observe_reward(reward)

    def parameters(self) -> dict[str, Any]:
        """Return the callable's parameters, if it has any, the level and the factory's ``module:name``, JSON-able."""
        parameters = self._act.parameters() if hasattr(self._act, "parameters") else {}
        parameters = parameters if isinstance(parameters, dict) else {}  # a torch module's are tensors
        return {**parameters, "level": self.name, "policy": self._factory_name}

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` into a TensorDict and return it."""
        return self._act(tensordict)


def random_actions(env: EnvBase) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a policy that draws uniform actions with torch's global generator, which a rollout seeds."""
    spec = env.full_action_spec
    return lambda tensordict: tensordict.update(spec.rand())


def make_task_env(task: Task, **kwargs: Any) -> TaskEnv:
    """Build the environment of a user's task.

    Args:
        task: A task with the ``backend`` "gymnasium" or "custom".
        **kwargs: Further arguments of the environment; they override the task's. ``seed`` seeds the first reset.

    Raises:
        EnvNotFoundError: Gymnasium has no such environment.
        MissingExtraError: Gymnasium is not installed.
        InvalidOptionError: ``make_env`` did not return a TorchRL environment of batch size [].
    """
    seed = kwargs.pop("seed", None)
    kwargs = {**task.env_kwargs, **kwargs}
    env = task.make_env(**kwargs) if task.make_env is not None else _gymnasium_env(task, kwargs)
    if not isinstance(env, EnvBase) or env.batch_size:
        got = f"batch size {list(env.batch_size)}" if isinstance(env, EnvBase) else type(env).__name__
        msg = f"Task {task.name!r}: expected make_env to return one TorchRL environment, batch size [], got {got}."
        raise InvalidOptionError(msg)
    task_env = TaskEnv(task, env)
    if seed is not None:
        task_env.set_seed(seed)
    return task_env


def _gymnasium_env(task: Task, kwargs: Mapping[str, Any]) -> EnvBase:
    with require_extra(f"Task {task.name!r} needs gymnasium, not installed here. Type: pip install 'rlhive[robohive]'"):
        import gymnasium
    try:
        # The registered time limit must not end an episode before the task's horizon.
        return GymEnv(task.env_name, **{"max_episode_steps": task.horizon, **kwargs})
    except gymnasium.error.UnregisteredEnv as error:
        msg = f"Task {task.name!r}: gymnasium has no environment {task.env_name!r}: {error}"
        raise EnvNotFoundError(msg) from error
