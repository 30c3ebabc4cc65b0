"""Copies of a RoboHive environment, by ``copy`` and ``pickle``: a simulator of their own in the same state.

MuJoCo's model and data lie in C memory, and RoboHive's objects point to each other. A copy of all of them would read
one simulator and step another. The environment is therefore built again, and its state is restored.
"""

import copy
from typing import TYPE_CHECKING, Any

from rlhive.errors import EnvClosedError

if TYPE_CHECKING:
    from rlhive.envs._robohive import RoboHiveEnv


def reduce_env(env: "RoboHiveEnv", arguments: dict[str, Any]) -> tuple[Any, ...]:
    """Return what ``__reduce__`` returns: how to build the environment again, and its state.

    Args:
        env: The environment.
        arguments: Keyword arguments that it was built with.

    Raises:
        EnvClosedError: The environment is closed.
    """
    if env.is_closed:
        msg = f"{env.env_name} is closed: expected an open environment to copy."
        raise EnvClosedError(msg)
    state = {
        "simulator": env.get_state(),
        "elapsed": env._elapsed,
        "generator": copy.deepcopy(env.unwrapped.np_random.bit_generator.state),
        "attributes": {name: value for name, value in vars(env).items() if name not in env._built_attributes},
    }
    return build_env, (type(env), env.env_name, {**arguments, "device": env.device}), state


def build_env(kind: type["RoboHiveEnv"], env_name: str, arguments: dict[str, Any]) -> "RoboHiveEnv":
    """Build an environment again."""
    return kind(env_name, **arguments)


def restore_env(env: "RoboHiveEnv", state: dict[str, Any]) -> None:
    """Bring an environment to a state of :func:`reduce_env`: simulator, step count and random generator."""
    env.__dict__.update(state["attributes"])
    env.set_state(state["simulator"])
    env._elapsed = state["elapsed"]
    env.unwrapped.np_random.bit_generator.state = state["generator"]
