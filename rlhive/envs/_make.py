"""Build the environment of a task and its behaviour policies, for every simulation backend."""

import re
from collections.abc import Callable
from typing import Any

from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from rlhive.envs._tasks import Task, get_task
from rlhive.errors import EnvNotFoundError, InvalidOptionError

_ENVIRONMENT_ID = re.compile(r"[\w:./-]+-v\d+")


def make_env(task: Task | str, *, num_envs: int | None = None, **kwargs: Any) -> EnvBase:
    """Build the environment of a task.

    Args:
        task: A row of the catalogue, its name or its environment id. Any other environment id
            ("FrankaReachFixed-v0") is looked up in RoboHive.
        num_envs: Number of RoboHive environments that step together in threads, as one of batch size ``[num_envs]``;
            None for a single one of batch size ``[]``.
        **kwargs: Further arguments of the environment (``dtype``, ``seed``, ``device``, …); they override the task's.

    Returns:
        A TorchRL environment with ``env_name``, ``horizon``, ``get_state``, ``set_state`` and ``provenance``. The
        caller closes it.

    Raises:
        EnvNotFoundError: No task or environment has that name. The message lists similar names.
        RoboHiveMissingError: The environment needs RoboHive, which is not set up.
        InvalidOptionError: ``num_envs`` was given for another simulation backend than RoboHive, or is not positive.

    Example:
        >>> make_env("toy_point").horizon
        20
    """
    if isinstance(task, str):
        name = task
        try:
            task = get_task(name)
        except EnvNotFoundError:
            if not _ENVIRONMENT_ID.fullmatch(name):
                raise
            return _make_robohive_env(name, kwargs, num_envs)
    if task.backend != "robohive" and num_envs is not None:
        msg = f"num_envs of {task.name}: expected a task of RoboHive. Use SerialEnv or ParallelEnv."
        raise InvalidOptionError(msg)
    if task.backend == "toy":
        from rlhive.envs._toy import ToyEnv

        return ToyEnv(task.env_name, **{**task.env_kwargs, **kwargs})
    if task.backend == "robohive":
        return _make_robohive_env(task.env_name, {**task.env_kwargs, **kwargs}, num_envs)
    from rlhive.envs._custom import make_task_env

    return make_task_env(task, **kwargs)


def make_policy(env: EnvBase, level: str, *, task: Task | None = None) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a behaviour policy of the environment.

    Args:
        env: An environment that :func:`make_env` returned, or a ``SerialEnv`` or ``ParallelEnv`` of such. The policy
            may read the simulator's state through it.
        level: "expert", "noisy", "medium", "random" or another level in ``task.levels``.
        task: The environment's task. Its own policies take precedence.

    Returns:
        A callable that writes ``action`` into a TensorDict and has ``begin_episode(seed)``, ``parameters()`` and
        ``name``.

    Raises:
        ValueError: The environment has no policy of that level.
    """
    from rlhive.envs._batched import BatchedPolicy, find_batched
    from rlhive.envs._custom import TaskEnv, TaskPolicy, random_actions
    from rlhive.envs._toy import ToyEnv, make_toy_policy

    batched = find_batched(env)
    if batched is not None:
        return BatchedPolicy(batched, level, lambda one: make_policy(one, level, task=task))
    if task is not None and level in task.policies:
        return TaskPolicy(level, task.policies[level], env)
    if isinstance(env, TaskEnv):
        if level == "random":
            return TaskPolicy(level, random_actions, env)
        msg = f"No policy {level!r} for {env.env_name}: expected a policy of its task, or random."
        raise ValueError(msg)
    if isinstance(env, ToyEnv):
        return make_toy_policy(env, level)
    from rlhive.envs.experts import make_scripted_policy

    return make_scripted_policy(env, level)


def _make_robohive_env(env_name: str, kwargs: dict[str, Any], num_envs: int | None) -> EnvBase:
    # Imported here: RoboHive takes seconds to import, and the toy environment does not need it.
    from rlhive.envs._robohive import RoboHiveEnv
    from rlhive.envs._vector import RoboHiveVectorEnv

    return RoboHiveEnv(env_name, **kwargs) if num_envs is None else RoboHiveVectorEnv(env_name, num_envs, **kwargs)
