"""Interrupted trainings go on and end with the numbers of an uninterrupted one, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhive import export, train
from rlhive.errors import CheckpointMismatchError, DatasetNotFoundError
from rlhive.policies import load_policy, read_checkpoint
from rlhive.sim_algos._training_state import STATE_FOLDER, compare_configs, load_training_state, save_training_state
from tests.sim_algos.toy import QUICK_SAC, collect_buffer, quick_config, train_quickly

STEPS = ["train.num_steps=60", "train.log_every=7", "train.eval_every=25", "train.batch_size=16"]


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Return a learning curve without the wall time."""
    return [{**row, "seconds": 0} for row in json.loads((folder / "curve.json").read_text())]


def require_equal(first: Path, second: Path) -> None:
    ours, theirs = (load_policy(folder).state_dict() for folder in (first, second))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert read_curve(first) == read_curve(second)


def interrupt_at(step: int, number: int = signal.SIGINT):
    """Return a callback that sends this process a signal after a gradient step."""

    calls = []

    def callback(current: int, policy) -> None:
        calls.append(current)
        if current == step and calls.count(step) == 1:  # with several seeds there are several calls
            os.kill(os.getpid(), number)

    return callback


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize("model", ["bc", "iql", pytest.param("td3_bc", marks=pytest.mark.slow)])
def test_an_offline_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path, model, num_seeds) -> None:
    overrides = [*STEPS, "network.dropout=0.1", f"num_seeds={num_seeds}", "resume=auto"]
    config = quick_config(model, *overrides)
    buffers = [collect_buffer("expert", "random", num_episodes=3) for _ in range(num_seeds)]
    whole = train_quickly(buffers, config, tmp_path / "whole", callback=lambda step, policy: None)
    for step in (25, 50):
        with pytest.raises(KeyboardInterrupt):
            train_quickly(buffers, config, tmp_path / "parts", callback=interrupt_at(step))
        folder = tmp_path / "parts" if num_seeds == 1 else tmp_path / "parts" / "seed_1"
        assert read_checkpoint(folder)["step"] == step  # the policy so far can be used
    parts = train_quickly(buffers, config, tmp_path / "parts", callback=lambda step, policy: None)
    for first, second in zip(whole.checkpoints, parts.checkpoints, strict=True):
        require_equal(first, second)
    assert not (tmp_path / "parts" / STATE_FOLDER).exists()


def test_an_online_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path) -> None:
    overrides = [*QUICK_SAC, *STEPS, "exploration=ou", "network.dropout=0.1"]
    options = {"env": "toy_point", "overrides": overrides, "progress": False, "resume": "auto"}
    train("sac", output_dir=tmp_path / "whole", callback=lambda step, policy: None, **options)
    with pytest.raises(SystemExit) as stop:
        train("sac", output_dir=tmp_path / "parts", callback=interrupt_at(25, signal.SIGTERM), **options)
    assert stop.value.code == 143
    train("sac", output_dir=tmp_path / "parts", callback=lambda step, policy: None, **options)
    require_equal(tmp_path / "whole", tmp_path / "parts")
    first, second = (read_checkpoint(tmp_path / name)["num_transitions"] for name in ("whole", "parts"))
    assert first == second


def test_a_second_interrupt_stops_at_once(tmp_path) -> None:
    def interrupt_twice(step: int, policy) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # torch installs its own when it is imported
    try:
        with pytest.raises(KeyboardInterrupt):
            train_quickly(
                collect_buffer("expert"), quick_config("bc", *STEPS), tmp_path / "a", callback=interrupt_twice
            )
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "a").exists()


SCRIPT = """
import sys
from pathlib import Path
from rlhive import export, train
train("iql", "toy_point", seed=1, overrides=sys.argv[2].split(), output_dir=sys.argv[1], resume="auto", progress=False)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_numbers(tmp_path, filled) -> None:
    overrides = "train.num_steps=600 train.save_every=40 train.batch_size=64 train.log_every=50"
    environment = {**os.environ, "RLHIVE_DATASETS_PATH": str(filled)}

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name), overrides], env=environment)

    assert start("whole").wait() == 0
    choose, num_kills = random.Random(0), 0
    while num_kills < 3:
        process = start("parts")
        state = tmp_path / "parts" / STATE_FOLDER
        before = sorted(path.name for path in state.glob("*.pt"))
        while process.poll() is None and sorted(path.name for path in state.glob("*.pt")) == before:
            pass  # a first state of this process, so that every life makes some progress
        try:
            process.wait(timeout=choose.uniform(0, 0.4))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_kills += 1
    assert num_kills >= 2
    assert start("parts").wait() == 0
    require_equal(tmp_path / "whole", tmp_path / "parts")


def test_a_training_of_another_configuration_is_not_continued(tmp_path) -> None:
    buffer, config = collect_buffer("expert"), quick_config("bc", *STEPS)
    with pytest.raises(KeyboardInterrupt):
        train_quickly(buffer, config, tmp_path / "a", callback=interrupt_at(25))
    other = {**config, "resume": str(tmp_path / "a"), "seed": 3, "optim": {**config["optim"], "lr": 0.5}}
    message = r"another configuration: optim.lr: 0.001 before, 0.5 now; seed: 0 before, 3 now"
    with pytest.raises(CheckpointMismatchError, match=message):
        train_quickly(buffer, other, tmp_path / "b")
    free = {**config, "resume": str(tmp_path / "a"), "progress": False, "logger": {"name": "csv"}}
    result = train_quickly(buffer, free, tmp_path / "b")
    assert result.checkpoint == tmp_path / "a"  # it goes on in its own folder
    with pytest.raises(DatasetNotFoundError, match="expected a folder with training_state"):
        train_quickly(buffer, free, tmp_path / "b")


def test_a_state_that_changed_or_was_made_up_is_refused(tmp_path) -> None:
    config = quick_config("bc")
    save_training_state(tmp_path, {"x": torch.ones(3)}, step=7, config=config, source={})
    save_training_state(tmp_path, {"x": torch.zeros(3)}, step=9, config=config, source={})
    assert [path.name for path in sorted((tmp_path / STATE_FOLDER).iterdir())] == ["9.pt", "state.json"]
    assert load_training_state(tmp_path, config, {})["x"].tolist() == [0, 0, 0]
    (tmp_path / STATE_FOLDER / "9.pt").write_bytes(b"other")
    with pytest.raises(CheckpointMismatchError, match=r"is not the file that state\.json describes"):
        load_training_state(tmp_path, config, {})
    index = tmp_path / STATE_FOLDER / "state.json"
    good = json.loads(index.read_text())
    for bad in ({**good, "file": "../9.pt"}, {**good, "step": "9"}, [], {**good, "config": None}):
        index.write_text(json.dumps(bad))
        with pytest.raises(CheckpointMismatchError, match="expected the index of a training state"):
            load_training_state(tmp_path, config, {})
    index.write_bytes(b"\xff{")
    with pytest.raises(CheckpointMismatchError, match="expected the index of a training state"):
        load_training_state(tmp_path, config, {})


def test_a_training_on_other_data_is_not_continued(tmp_path, store) -> None:
    records = collect_buffer("expert", num_episodes=4)
    folder = export(records, "my/data", license="mit", env_name="ToyPoint-v0", store=store)
    options = {"overrides": [*STEPS, "split=null"], "output_dir": tmp_path / "a", "progress": False, "resume": "auto"}
    with pytest.raises(KeyboardInterrupt):
        train("bc", "my/data", callback=interrupt_at(25), **options)
    more = collect_buffer("expert", num_episodes=5)
    export(more, "my/data", version="2.0.0", license="mit", env_name="ToyPoint-v0", store=store)
    message = r"training on other data: dataset\.fingerprint: .*dataset\.version: \"1\.0\.0\" before, \"2\.0\.0\" now"
    with pytest.raises(CheckpointMismatchError, match=message):
        train("bc", "my/data", **options)
    result = train("bc", "my/data", version=folder.name, callback=lambda step, policy: None, **options)
    assert [row["step"] for row in result.curve][-1] == 60
    config = quick_config("bc", *STEPS, "resume=auto")
    with pytest.raises(KeyboardInterrupt):
        train_quickly(records, config, tmp_path / "b", callback=interrupt_at(25))
    with pytest.raises(CheckpointMismatchError, match=r"on other data: expected \d+ transitions, got \d+"):
        train_quickly(more, config, tmp_path / "b")


def test_an_interrupt_after_the_last_step_is_not_lost(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_quickly(collect_buffer("expert"), quick_config("bc", *STEPS), tmp_path, callback=interrupt_at(60))
    assert read_checkpoint(tmp_path)["step"] == 60
    assert not (tmp_path / STATE_FOLDER).exists()


def test_differences_of_configurations_are_named() -> None:
    assert compare_configs({"a": {"b": 1}, "progress": True}, {"a": {"b": 1}, "progress": False}) == []
    assert compare_configs({"a": {"b": 1}}, {"a": {"b": 2, "progress": 1}}) == [
        "a.b: 1 before, 2 now",
        "a.progress: null before, 1 now",
    ]
