import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from rlhive.data.versions._manifest import Manifest
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._tasks import Recipe, get_task
from rlhive.errors import DatasetNotFoundError, DiskFullError, EnvNotFoundError, StoreNotWritableError
from rlhive.rollouts._collect import collect
from rlhive.rollouts._rollout import rollout_episode
from tests.rollouts.interrupts import check_that_ctrl_c_can_be_resumed

TOY = get_task("toy_point")


def run(task, store, **kwargs):
    return RoboHiveDataset(collect(task, store=store, progress=False, **kwargs), store=store)


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path):
    one, two = (run(TOY, tmp_path / str(workers), num_workers=workers) for workers in (1, 2))

    assert one.fingerprint == two.fingerprint
    assert one.episodes.drop_columns(["run"]) == two.episodes.drop_columns(["run"])


def test_the_recorded_episodes_equal_rollouts_of_the_environment(tmp_path):
    dataset = run(TOY, tmp_path)
    transitions, episodes = dataset.as_tensordict(), dataset.episodes.to_pylist()
    env = make_env(TOY)

    assert [row["episode"] for row in episodes] == [row["seed"] for row in episodes] == list(range(24))
    for row in episodes:
        rollout = rollout_episode(env, make_policy(env, row["split"]), seed=row["seed"])
        recorded = transitions[transitions["episode"] == row["episode"]]
        for key in rollout.transitions.keys(True, True):
            assert (recorded[key] == rollout.transitions[key]).all(), key
        assert row["return"] == rollout.episode_return
        assert row["success"] == rollout.success
        assert row["policy"] == row["split"]
        for name, value in rollout.start_state.items():
            assert row[f"start.{name}"] == value.ravel().tolist()


def test_provenance_holds_everything_that_determines_the_content(tmp_path):
    (provenance,) = run(TOY, tmp_path).manifest.runs

    assert provenance["task"]["env_name"] == "ToyPoint-v0"
    assert provenance["policies"].keys() == {"expert", "medium", "random"}
    assert {"rlhive", "torch", "torchrl", "python"} <= provenance["versions"].keys()
    assert not {"host", "command"} & provenance.keys()


def test_full_provenance_adds_the_machine_and_the_command(tmp_path):
    folder = collect(TOY, num_workers=1, provenance="full", store=tmp_path, progress=False)
    (provenance,) = Manifest.read(folder).runs

    assert provenance["host"]["cores"] == os.cpu_count()
    assert provenance["command"] == sys.argv


@pytest.mark.slow
def test_a_killed_collection_resumes(tmp_path):
    task = replace(TOY, recipe=Recipe("1.0.0", {"expert": 400, "medium": 400}, "mit"))
    script = """
import sys
from dataclasses import replace
from pathlib import Path
from rlhive.rollouts._collect import collect
from rlhive.envs._tasks import Recipe, get_task
task = replace(get_task("toy_point"), recipe=Recipe("1.0.0", {"expert": 400, "medium": 400}, "mit"))
collect(task, num_workers=2, store=Path(sys.argv[1]), progress=False)
"""
    store = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", script, str(store)], start_new_session=True) as process:
        deadline = time.monotonic() + 240  # on a busy machine the workers take long to import torch
        while len(list(store.glob(".recordings/*/*/*/*.arrows"))) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in store.glob(".recordings/*/*/*/*.arrows")}
    assert len(before) >= 10

    dataset = run(task, store)

    assert dataset.fingerprint == run(task, tmp_path / "whole").fingerprint
    assert not list(store.glob(".recordings/*/*/*/*.arrows")), "a committed recording is removed"


def test_recorded_episodes_are_not_run_again(tmp_path, caplog, monkeypatch):
    from rlhive.rollouts import _collect

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_collect, "export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(TOY, store=tmp_path, progress=False)
    recorded = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".recordings/*/*/*/*.arrows")}
    assert recorded
    with monkeypatch.context() as patch:
        patch.setattr(_collect, "export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(TOY, store=tmp_path, progress=False)

    assert recorded == {path: path.stat().st_mtime_ns for path in tmp_path.glob(".recordings/*/*/*/*.arrows")}
    assert "resuming after 24 of 24 recorded episodes" in caplog.text
    assert len(run(TOY, tmp_path)) == 480


def test_an_existing_version_is_returned_at_once(tmp_path):
    folder = run(TOY, tmp_path).path
    before = (folder / "rlhive.json").stat().st_mtime_ns

    assert collect("toy_point", store=tmp_path) == folder
    assert (folder / "rlhive.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom rlhive import RoboHiveDataset\n"
        "print(len(RoboHiveDataset('toy_point', store=Path(__file__).parent)))\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)

    assert ran.stdout == "480\n"
    assert "running its recipe, 24 episodes in ToyPoint-v0" in ran.stderr


def test_unknown_tasks_and_tasks_without_recipe_are_refused(tmp_path):
    with pytest.raises(EnvNotFoundError, match=r"nearest .*kitchen_knob1\b"):
        collect("kitchen_knob", store=tmp_path)
    with pytest.raises(DatasetNotFoundError, match="has no recipe"):
        collect(replace(TOY, name="mine", recipe=None), store=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreNotWritableError, match="set RLHIVE_DATASETS_PATH"):
        collect(TOY, store=tmp_path / "file")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 300 kB, or skip."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    mounted = mount and not subprocess.run([mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", path]).returncode
    if not mounted:
        pytest.skip(
            "needs the right to mount a tmpfs: run the tests as root, or in `unshare --user --mount --map-root`"
        )
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_loses_nothing(small_disk):
    task = replace(TOY, recipe=Recipe("1.0.0", {"expert": 100, "medium": 100}, "mit"))

    with pytest.raises(DiskFullError, match="What was committed before is intact"):
        collect(task, store=small_disk, progress=False)

    assert not list(small_disk.glob("robohive/*/*/*"))
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert run(task, small_disk).fingerprint == run(task, small_disk.parent / "large").fingerprint
    assert not list(small_disk.rglob("*partial*"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_recording_that_can_be_resumed(tmp_path, caplog):
    check_that_ctrl_c_can_be_resumed(tmp_path, caplog, "--workers", "1")
