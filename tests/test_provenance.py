"""Provenance: what a run records of itself, its environment and its policy."""

import json
import platform
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch

from rlhive._provenance import (
    describe_env,
    describe_policy,
    describe_run,
    git_state,
    installed_versions,
    scrub_run,
    shorten_paths,
)
from rlhive.errors import InvalidOptionError


def run_git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    process = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def test_a_run_records_its_inputs_first_and_then_its_surroundings():
    run = describe_run("abc", env={"env_name": "FK1"}, policy={"name": "expert"})

    assert list(run) == ["run", "env", "policy", "versions", "git", "started"]
    assert (run["run"], run["env"], run["policy"]) == ("abc", {"env_name": "FK1"}, {"name": "expert"})
    assert run["versions"]["numpy"] == np.__version__
    assert json.loads(json.dumps(run)) == run


def test_the_machine_and_the_command_are_recorded_on_request(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/alice/run.py", "--token", "abc", "--seed", "3"])
    checkpoint = {"name": "a", "checkpoint": "/home/alice/secret-project/a"}

    full = describe_run(provenance="full", policy=checkpoint)
    minimal = describe_run(policy=checkpoint, note="/home/alice/x.txt of 1/2, site /robot/hand", api_key="abc")

    assert list(full) == ["run", "policy", "versions", "git", "command", "host", "started"]
    assert full["command"] == ["/home/alice/run.py", "--token", "***", "--seed", "3"]
    assert full["host"]["name"] == platform.node()
    assert full["policy"] == checkpoint
    assert minimal["policy"] == {"name": "a", "checkpoint": "a"}
    assert (minimal["note"], minimal["api_key"]) == ("x.txt of 1/2, site /robot/hand", "***")
    with pytest.raises(InvalidOptionError, match="expected 'minimal' or 'full', got 'all'"):
        describe_run(provenance="all")


def test_an_old_run_is_scrubbed():
    run = {"run": "a", "command": ["x"], "host": {"name": "pc"}, "env": {"path": "/home/al/x", "n": 1, "api_key": "k"}}

    assert scrub_run(run) == {"run": "a", "env": {"path": "x", "n": 1, "api_key": "***"}}


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("/home/alice/my project/a.pt", "a.pt"),
        ("C:\\Users\\al\\a.pt", "a.pt"),
        ("~/x/a.pt", "a.pt"),
        ("file:///home/al/a.pt", "a.pt"),
        ("from /tmp/x/a.pt, then b", "from a.pt, then b"),
        ("https://a.b/home/x/c", "https://a.b/home/x/c"),
        ("/robot/joint/1", "/robot/joint/1"),
        ("/", "/"),
        ("m/s", "m/s"),
    ],
)
def test_of_a_path_of_a_machine_the_last_part_stays(text, shortened):
    assert shorten_paths({"a": [text]}) == {"a": [shortened]}


def test_the_ids_of_two_runs_differ():
    first, second = (describe_run()["run"] for _ in range(2))

    assert len(first) == len(second) == 12
    assert first != second


def test_versions_are_those_of_the_installed_packages():
    assert installed_versions("torch") == {"torch": metadata.version("torch"), "python": platform.python_version()}


def test_the_state_of_a_repository_is_its_commit_and_whether_files_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() is None

    run_git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    run_git(tmp_path, "add", "a")
    run_git(tmp_path, "commit", "-q", "-m", "first")
    assert git_state() == {"commit": run_git(tmp_path, "rev-parse", "HEAD"), "dirty": False}

    (tmp_path / "a").write_text("2")
    assert git_state()["dirty"]


class Env:
    env_name = "Arm-v0"

    def provenance(self):
        return {"env_name": self.env_name, "horizon": 50}


class Batch:
    def provenance(self):
        return [{"env_name": "Arm-v0"}, {"env_name": "Arm-v0"}]


def test_an_environment_describes_itself_or_is_described_by_its_class():
    mapping = {"env_name": "x", "horizon": 3}

    assert describe_env("Arm-v0") == {"env_name": "Arm-v0"}
    assert describe_env(mapping) == mapping
    assert describe_env(mapping) is not mapping
    assert describe_env(Env()) == {"env_name": "Arm-v0", "horizon": 50}
    assert describe_env(Batch()) == {"env_name": "Arm-v0"}
    assert describe_env(object()) == {"env_name": "object", "class": "builtins.object"}


class Policy:
    name = "medium"

    def parameters(self):
        return {"noise": 0.1}


def test_a_policy_has_a_name_and_what_identifies_it():
    assert describe_policy("expert") == {"name": "expert"}
    assert describe_policy({"level": 3}) == {"name": "", "level": 3}
    assert describe_policy({"name": "a", "level": 3}) == {"name": "a", "level": 3}
    assert describe_policy(Policy()) == {"name": "medium", "parameters": {"noise": 0.1}}
    assert describe_policy(run_git) == {"name": "run_git"}


def test_the_hash_of_a_network_changes_with_any_parameter_dtype_or_shape():
    def describe(weight):
        network = torch.nn.Linear(2, 2, bias=False)
        network.weight = torch.nn.Parameter(weight, requires_grad=False)
        return describe_policy(network)["sha256"]

    weight = torch.arange(4.0).reshape(2, 2)
    changed = weight.clone()
    changed[1, 1] += 1e-6

    assert describe(weight) == describe(weight.clone())
    assert len({describe(each) for each in (weight, changed, weight.double(), weight.reshape(1, 4))}) == 4


@pytest.mark.parametrize("change", ["content", "name"])
def test_the_hash_of_a_checkpoint_changes_with_its_files(change, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(b"1")
    before = describe_policy(folder)
    assert (before["name"], before["checkpoint"]) == ("checkpoint", str(folder))
    assert describe_policy(folder) == before

    if change == "content":
        (folder / "weights.pt").write_bytes(b"2")
    else:
        (folder / "weights.pt").rename(folder / "other.pt")

    assert describe_policy(folder)["sha256"] != before["sha256"]
