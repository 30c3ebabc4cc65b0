"""From a task to an environment and to its behaviour policies, whichever backend simulates it."""

import importlib.util
import re
from collections.abc import Callable
from typing import Any

from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from rlhive.envs._tasks import ASSETS, Task, get_task
from rlhive.errors import EnvNotFound, RoboHiveMissing

_ENVIRONMENT_ID = re.compile(r"[\w:./-]+-v\d+")


def make_env(task: Task | str, **kwargs: Any) -> EnvBase:
    """Build the environment of a task.

    Args:
        task: A row of the catalogue, its name or its environment id. Another environment id ("FrankaReachFixed-v0")
            is looked up in RoboHive.
        **kwargs: Further arguments of the environment (``dtype``, ``seed``, ``device``, …); they win over the task's.

    Returns:
        A TorchRL environment with ``env_name``, ``horizon``, ``get_state``, ``set_state`` and ``provenance``. Close
        it after use.

    Raises:
        EnvNotFound: No task or environment of that name; the message names the nearest ones.
        RoboHiveMissing: It needs RoboHive, which is not set up.

    Example:
        >>> make_env("toy_point").horizon
        20
    """
    if isinstance(task, str):
        try:
            task = get_task(task)
        except EnvNotFound:
            if not _ENVIRONMENT_ID.fullmatch(task):
                raise
            return _robohive_env(task, kwargs)
    if task.backend == "toy":
        from rlhive.envs._toy import ToyEnv

        return ToyEnv(task.env_name, **{**task.env_kwargs, **kwargs})
    if task.backend == "robohive":
        return _robohive_env(task.env_name, {**task.env_kwargs, **kwargs})
    from rlhive.envs._custom import make_task_env

    return make_task_env(task, **kwargs)


def missing(task: Task) -> str:
    """Say what a task's environment lacks on this machine, in one sentence; empty where nothing is known to be missing.

    Costs a few file look-ups; builds nothing.
    """
    if task.backend == "robohive":
        from rlhive.envs._install import require_robohive

        try:
            require_robohive(ASSETS)
        except RoboHiveMissing as error:
            return str(error)
    if task.backend == "gymnasium" and importlib.util.find_spec("gymnasium") is None:
        return "gymnasium is not installed. Type: pip install 'rlhive[robohive]'"
    return ""


def make_policy(env: EnvBase, level: str, *, task: Task | None = None) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a behaviour policy of the environment.

    Args:
        env: What :func:`make_env` returned. The policy may read the simulator's state through it.
        level: "expert", "noisy", "medium" or "random"; a task lists those that it has.
        task: The environment's, where it has policies of its own.

    Returns:
        A callable that writes ``action``, with ``begin_episode(seed)``, ``parameters()`` and ``name``.

    Raises:
        ValueError: The environment has no policy of that level.
    """
    from rlhive.envs._custom import TaskEnv, TaskPolicy, random_actions
    from rlhive.envs._toy import ToyEnv, make_policy

    if task is not None and level in task.policies:
        return TaskPolicy(level, task.policies[level], env)
    if isinstance(env, TaskEnv):
        if level == "random":
            return TaskPolicy(level, random_actions, env)
        msg = f"No policy {level!r} for {env.env_name}: expected one of its task's policies, or random."
        raise ValueError(msg)
    if not isinstance(env, ToyEnv):
        from rlhive.envs.experts import make_policy
    return make_policy(env, level)


def _robohive_env(env_name: str, kwargs: dict[str, Any]) -> EnvBase:
    # Here and not above: RoboHive takes seconds to import and need not be installed for the toy.
    from rlhive.envs._robohive import RoboHiveEnv

    return RoboHiveEnv(env_name, **kwargs)
