"""Experiment loggers: what they write, once per step also after an interrupt, and refusals."""

import csv
import os
import signal

import pytest

from rlhive.errors import InvalidOptionError, MissingExtraError
from rlhive.sim_algos import _loggers
from tests.sim_algos.toy import collect_buffer, quick_config, train_quickly

STEPS = ["train.num_steps=40", "train.log_every=10", "train.eval_every=20", "logger=csv"]


def read_metric(folder, name):
    with (folder / "metrics" / "scalars" / f"{name}.csv").open() as file:
        return [(int(step), float(value)) for step, value in csv.reader(file)]


def test_the_csv_logger_has_every_row_of_the_curve_once_also_after_an_interrupt(tmp_path) -> None:
    def interrupt(step: int, policy) -> dict[str, float]:
        if step == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return {"mine": float(step)}

    buffer, config = collect_buffer("expert"), quick_config("bc", *STEPS, "resume=auto")
    with pytest.raises(KeyboardInterrupt):
        train_quickly(buffer, config, tmp_path, callback=interrupt)
    assert read_metric(tmp_path, "mine") == [(20, 20.0)]
    result = train_quickly(buffer, config, tmp_path, callback=lambda step, policy: {"mine": float(step)})
    assert read_metric(tmp_path, "loss") == [(row["step"], row["loss"]) for row in result.curve]
    assert read_metric(tmp_path, "mine") == [(20, 20.0), (40, 40.0)]


def test_the_tensorboard_logger_writes_event_files(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = [*STEPS[:-1], "logger=tensorboard"]
    result = train_quickly(collect_buffer("expert", num_episodes=2), quick_config("bc", *steps), tmp_path)
    events = EventAccumulator(str(tmp_path / "metrics"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in written] == [row["step"] for row in result.curve]
    assert [value for _, value in written] == pytest.approx([row["loss"] for row in result.curve])


def test_each_seed_has_a_logger_of_its_own(tmp_path) -> None:
    buffers = [collect_buffer("expert", num_episodes=2) for _ in range(2)]
    result = train_quickly(buffers, quick_config("bc", *STEPS, "num_seeds=2"), tmp_path)
    for folder, curve in zip(result.checkpoints, result.curves, strict=True):
        options = (folder / "metrics" / "texts" / "hparams0.txt").read_text()
        assert "train.num_steps: 40" in options
        assert "network.hidden_sizes: [64, 64]" in options
        assert read_metric(folder, "loss") == [(row["step"], row["loss"]) for row in curve]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_with_its_extra(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(_loggers.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=rf"logger={name} needs {name}, .* pip install 'rlhive\[{name}\]'"):
        train_quickly(collect_buffer("expert"), quick_config("bc", f"logger={name}"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_unknown_logger_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidOptionError, match="expected one of csv, tensorboard, wandb, mlflow, got 'print'"):
        train_quickly(collect_buffer("expert"), quick_config("bc", "logger=csv", "logger.name=print"), tmp_path)
