"""Building environments and policies for every backend, and the messages about missing requirements."""

import importlib.util
from dataclasses import replace

import pytest

from rlhive.envs import _install
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._requirements import missing_requirements
from rlhive.envs._tasks import Task, get_task
from rlhive.envs._toy import ToyEnv, ToyPolicy
from rlhive.errors import EnvNotFoundError

PENDULUM = Task("pendulum", "Pendulum-v1", 30, "A pendulum swings up.", backend="gymnasium")


def test_arguments_of_the_caller_override_those_of_the_task():
    env = make_env(replace(get_task("toy_point"), env_kwargs={"seed": 3}))
    other = make_env(replace(get_task("toy_point"), env_kwargs={"seed": 3}), seed=4)

    assert (env.reset()["observation"] == ToyEnv(seed=3).reset()["observation"]).all()
    assert (other.reset()["observation"] == ToyEnv(seed=4).reset()["observation"]).all()


def test_a_name_that_is_no_environment_id_is_not_looked_up_in_robohive():
    with pytest.raises(EnvNotFoundError, match="No task named 'toy_poin'"):
        make_env("toy_poin")


def test_a_policy_of_the_task_takes_precedence_over_the_environments():
    env = make_env("toy_point")
    task = replace(get_task("toy_point"), policies={"expert": lambda env: lambda tensordict: tensordict})

    assert isinstance(make_policy(env, "expert"), ToyPolicy)
    assert make_policy(env, "expert", task=task).name == "expert"
    assert not isinstance(make_policy(env, "expert", task=task), ToyPolicy)
    assert isinstance(make_policy(env, "medium", task=task), ToyPolicy)


def test_missing_requirements_are_named_and_a_toy_needs_none(monkeypatch, package):
    assert missing_requirements(get_task("toy_point")) == ""
    assert missing_requirements(PENDULUM) == ""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gymnasium" else find_spec(name))
    assert missing_requirements(PENDULUM).startswith("gymnasium is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(_install, "package_folder", lambda: package)
    assert missing_requirements(get_task("kitchen_knob1")).startswith("RoboHive has no simulation assets")
