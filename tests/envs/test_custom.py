"""A user's own tasks: gymnasium environments, callables and entry points of installed packages."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.envs import GymEnv, SerialEnv, check_env_specs

from rlhive.data.versions._manifest import Manifest
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs import _tasks
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._tasks import Recipe, Task, get_task, register_task
from rlhive.envs._toy import ToyEnv
from rlhive.errors import CheckpointMismatchError, EnvNotFoundError, InvalidOptionError, ReplayRefusedError
from rlhive.rollouts._collect import collect
from rlhive.rollouts._evaluate import evaluate
from rlhive.rollouts._rebuild import tasks_by_run
from rlhive.rollouts._rollout import rollout_episode

PENDULUM = Task("pendulum", "Pendulum-v1", 30, "A pendulum swings up.", backend="gymnasium")


def push_left(env):
    """Policies are made of the environment that they act in."""
    return lambda tensordict: tensordict.set("action", env.action_spec.zero())


def make_toy(**kwargs):
    return ToyEnv(**kwargs)


def make_two(**kwargs):
    return SerialEnv(2, ToyEnv)


@pytest.fixture(autouse=True)
def _own_catalogue():
    with mock.patch.dict(_tasks.TASKS):
        yield


def test_a_gymnasium_environment_keeps_the_torchrl_contract():
    env = make_env(PENDULUM)

    check_env_specs(env)
    assert (env.env_name, env.horizon, env.get_state()) == ("Pendulum-v1", 30, {})
    with pytest.raises(CheckpointMismatchError, match="Pendulum-v1 has no checkpoints"):
        env.set_state({})
    env.close()


def test_episodes_equal_gymnasiums_and_depend_only_on_the_seed():
    env = make_env(PENDULUM)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (rollout_episode(env, make_policy(env, "random"), seed=seed) for seed in (7, 7, 8))
    raw = gymnasium.make("Pendulum-v1")
    observation, _ = raw.reset(seed=7)

    assert (one.transitions == two.transitions).all()
    assert not torch.equal(one.transitions["action"], other.transitions["action"])
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator is left alone"
    assert len(one.transitions) == 30
    for row in one.transitions:
        np.testing.assert_array_equal(row["observation"].numpy(), observation)
        observation, reward, *_ = raw.step(row["action"].numpy())
        np.testing.assert_array_equal(row["next", "observation"].numpy(), observation)
        assert row["next", "reward"].item() == np.float32(reward)
    assert one.transitions["next", "truncated"].flatten().tolist() == [False] * 29 + [True]
    assert not one.transitions["next", "terminated"].any()
    assert one.success is None


def test_a_custom_environment_keeps_its_checkpoints_and_success(tmp_path):
    task = Task(
        name="own_point",
        env_name="MyPoint-v0",
        horizon=12,
        description="A point stands still.",
        recipe=Recipe("1.0.0", {"lazy": 3, "random": 3}, "mit"),
        make_env=make_toy,
        policies={"lazy": push_left},
    )
    assert (task.backend, task.levels) == ("custom", ("random", "lazy"))
    one, two = (collect(task, num_workers=n, store=tmp_path / str(n), progress=False) for n in (1, 2))
    dataset = RoboHiveDataset(one)

    assert dataset.fingerprint == RoboHiveDataset(two).fingerprint
    assert list(dataset.splits) == ["lazy", "random"]
    assert dataset.episodes["length"].to_pylist()[:3] == [12, 12, 12]
    assert dataset.episodes["ended"].to_pylist()[:3] == ["truncated"] * 3
    lazy = dataset.as_tensordict()[:36]
    assert not lazy["action"].any()
    assert torch.equal(lazy["observation"], lazy["next", "observation"])
    assert "start.position" in dataset.episodes.column_names
    (run,) = dataset.manifest.runs
    assert run["task"]["make_env"].endswith("test_custom:make_toy")
    assert run["policies"]["lazy"] == {"level": "lazy", "policy": f"{__name__}:push_left"}
    assert run["env"]["step"] == 0.125


def test_an_environment_without_success_has_no_success_rate():
    evaluation = evaluate("random", PENDULUM, num_episodes=3, num_workers=1, progress=False)

    assert evaluation.successes is evaluation.success_rate is evaluation.success_interval is evaluation.score is None
    assert len(set(evaluation.returns)) == 3
    assert max(evaluation.returns) < 0
    assert json.loads(json.dumps(evaluation.to_dict()))["success_rate"] is None
    with pytest.raises(CheckpointMismatchError, match="expected one of random or a folder"):
        evaluate("expert", PENDULUM, num_workers=1, progress=False)


@pytest.mark.slow
def test_a_manifest_cannot_name_a_gymnasium_environment_that_is_not_registered_here(tmp_path):
    task = replace(PENDULUM, recipe=Recipe("1.0.0", {"random": 1}, "mit"))
    manifest = Manifest.read(collect(task, num_workers=1, store=tmp_path, progress=False))

    with pytest.raises(ReplayRefusedError, match="comes from Pendulum-v1, which is not a RoboHive environment"):
        tasks_by_run(manifest)
    register_task(task)
    assert list(tasks_by_run(manifest).values()) == [task]


def test_discrete_actions_are_supported():
    cart = Task("cart", "CartPole-v1", 20, "A pole stands.", backend="gymnasium", policies={"expert": push_left})
    register_task(cart)
    evaluation = evaluate("random", "cart", num_episodes=4, num_workers=1, progress=False)

    assert all(3 <= value <= 20 for value in evaluation.returns)
    assert get_task("CartPole-v1").levels == ("expert", "random")


def test_an_invalid_task_is_refused():
    with pytest.raises(InvalidOptionError, match=r"backend out of .*, got 'gym'"):
        replace(PENDULUM, backend="gym")
    with pytest.raises(InvalidOptionError, match="backend out of"):
        replace(PENDULUM, backend="custom")
    with pytest.raises(EnvNotFoundError, match="gymnasium has no environment 'Pendulun-v1'"):
        make_env(replace(PENDULUM, env_name="Pendulun-v1"))
    with pytest.raises(InvalidOptionError, match=r"got batch size \[2\]"):
        make_env(Task("two", "Two-v0", 3, "Two points.", make_env=make_two))
    with pytest.raises(InvalidOptionError, match="got dict"):
        make_env(Task("none", "None-v0", 3, "Nothing.", make_env=dict))
    with pytest.raises(InvalidOptionError, match="Expected a Task for the catalogue, got str"):
        register_task("pendulum")
    register_task(PENDULUM)
    register_task(PENDULUM)
    with pytest.raises(InvalidOptionError, match="with another definition"):
        register_task(replace(PENDULUM, horizon=31))
    env = make_env("pendulum", seed=3)
    assert torch.equal(env.reset()["observation"], GymEnv("Pendulum-v1").reset(seed=3)["observation"])
    with pytest.raises(ValueError, match="No policy 'expert' for Pendulum-v1"):
        make_policy(env, "expert")


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "swinging"
version = "0.1"
[project.entry-points."rlhive.tasks"]
swinging = "swinging:TASKS"
broken = "swinging:MISSING"
""",
    "swinging.py": """
import torch
from rlhive import Recipe, Task

class Damped:
    '''Brakes: a torque against the angular velocity, with some noise from torch's generator.'''

    def __init__(self, env):
        self.noise = 0.1

    def __call__(self, tensordict):
        speed = tensordict["observation"][2:]
        return tensordict.set("action", (0.1 * torch.randn(1) - speed).clamp(-2.0, 2.0))

TASKS = [
    Task(
        name="pendulum_rest",
        env_name="Pendulum-v1",
        horizon=25,
        description="A pendulum comes to rest.",
        recipe=Recipe(version="0.1.0", episodes={"expert": 6, "random": 4}, license="mit"),
        env_kwargs={"g": 9.81},
        backend="gymnasium",
        policies={"expert": Damped},
    )
]
""",
}


@pytest.mark.slow
def test_the_tasks_of_an_installed_package_are_collected_and_loaded(tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name, text in PACKAGE.items():
        (source / name).write_text(text)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--disable-pip-version-check", "--target", target, source], check=True)
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "RLHIVE_DATASETS_PATH": str(tmp_path / "data")}
    command = [sys.executable, "-m", "rlhive.cli", "collect", "pendulum_rest", "--workers", "2"]

    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert "robohive/pendulum_rest 0.1.0" in ran.stdout
    assert "'swinging:MISSING' (swinging) are left out: AttributeError" in ran.stderr
    dataset = RoboHiveDataset("pendulum_rest", store=tmp_path / "data", generate=False)
    assert dataset.schema["observation"].shape == (3,)
    assert len(dataset) == 250
    rows, raw = dataset.as_tensordict(), gymnasium.make("Pendulum-v1", g=9.81)
    for episode in (0, 9):
        transitions = rows[rows["episode"] == episode]
        np.testing.assert_array_equal(transitions["observation"][0].numpy(), raw.reset(seed=episode)[0])
        for row in transitions:
            observation, reward, *_ = raw.step(row["action"].numpy())
            np.testing.assert_array_equal(row["next", "observation"].numpy(), observation)
            assert row["next", "reward"].item() == np.float32(reward)
    braked = rows[rows["episode"] < 6]
    assert torch.corrcoef(torch.stack([braked["action"][:, 0], braked["observation"][:, 2]]))[0, 1] < -0.5
    assert dataset.as_replay_buffer(8).sample()["action"].shape == (8, 1)
