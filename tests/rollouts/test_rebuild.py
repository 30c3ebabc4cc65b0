"""The environment that a manifest names: what it may name, and how it differs from the recorded one."""

from dataclasses import replace

import pytest

from rlhive.data.versions._manifest import Manifest
from rlhive.envs._make import make_env
from rlhive.errors import EnvNotFoundError, ReplayRefusedError
from rlhive.rollouts._rebuild import environment_differences, is_other_model, task_from_run, tasks_by_run
from rlhive.rollouts._replay import make_reward_checker


def test_another_model_or_package_version_is_reported(version):
    (run,) = Manifest.read(version).runs
    other = {**run, "env": {"model_hash": "a", "versions": {"mujoco": "3.1.3", "robohive": "0.7.0"}}}

    assert environment_differences(run, make_env("toy_point").provenance()) == []
    assert environment_differences(
        other, {"model_hash": "b", "versions": {"mujoco": "3.2.0", "robohive": "0.7.0"}}
    ) == [
        "the compiled model differs",
        "mujoco 3.2.0 instead of 3.1.3",
    ]
    assert is_other_model(other, {"model_hash": "b"})
    assert not is_other_model(other, {"model_hash": "a"})
    assert not is_other_model({"run": "x"}, {"model_hash": "b"})


def test_a_manifest_may_not_name_files_robots_or_weights(version):
    manifest = Manifest.read(version)
    (run,) = manifest.runs
    for name in ("config_path", "model_path", "obsd_model_path", "is_hardware", "visual_keys", "robot_name"):
        task = {**run["task"], "backend": "robohive", "env_kwargs": {name: "./data/evil.config"}}
        with pytest.raises(ReplayRefusedError, match=name):
            task_from_run({**run, "task": task}, manifest)
        assert make_reward_checker(replace(manifest, runs=({**run, "task": task},)))[0] is None
    for env_kwargs in ({"frame_skip": 2}, {"obj_goal": {"knob1_joint": -1.57}, "interact_site": "light_site"}):
        allowed = {**run["task"], "env_kwargs": env_kwargs}
        assert task_from_run({**run, "task": allowed}, manifest).env_kwargs == env_kwargs
    with pytest.raises(EnvNotFoundError, match="got no run"):
        tasks_by_run(replace(manifest, runs=()))
    with pytest.raises(EnvNotFoundError, match="expected an environment in its provenance"):
        task_from_run({"run": "x"}, replace(manifest, env_name=""))
