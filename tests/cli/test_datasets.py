"""The verbs show, check and list."""

import json
import shutil

import numpy as np
import pytest

from rlhive import RoboHiveDataset, export
from rlhive.envs._tasks import TASKS
from tests.cli.conftest import invoke
from tests.data.checks.walks import rewrite_table, write_older_table
from tests.data.strategies import teleoperated_records


@pytest.mark.usefixtures("filled")
def test_show_prints_splits_and_version():
    assert "expert: 8 episodes, 160 transitions" in invoke("show", "toy_point").stdout
    described = json.loads(invoke("show", "toy_point", "--json").stdout)
    assert described["splits"]["random"] == {"num_episodes": 8, "num_transitions": 160}
    assert described["version"] == "1.0.0"


def test_show_prints_success_returns_and_lengths_of_each_split(filled):
    episodes = RoboHiveDataset("toy_point").episodes.to_pylist()
    lines = invoke("show", "toy_point").stdout.splitlines()
    summary = {row["split"]: row for row in json.loads(invoke("show", "toy_point", "--json").stdout)["summary"]}

    for split in ("expert", "medium", "random"):
        rows = [row for row in episodes if row["split"] == split]
        returns = [row["return"] for row in rows]
        success = sum(row["success"] for row in rows) / len(rows)
        (line,) = [line.split() for line in lines if line.split()[:1] == [split]]
        mean = f"{sum(returns) / len(returns):.4g}"
        shown = [split, "8", f"{success:.0%}", mean, f"{min(returns):.4g}", "to", f"{max(returns):.4g}", "20"]
        assert line == [*shown, "20", "to", "20"]
        assert summary[split]["success_rate"] == success
        assert summary[split]["returns"][1:] == [min(returns), max(returns)]


def test_show_prints_the_extremes_of_every_column_on_request(filled):
    observation = RoboHiveDataset("toy_point").as_tensordict()["observation"]
    output = invoke("show", "toy_point", "--statistics").stdout
    (line,) = [line.split() for line in output.splitlines() if line.split()[:2] == ["observation", "2"]]
    spread = observation.std(0, correction=0)

    assert line[2:5] == ["0", f"{observation.min():.3g}", f"{observation.max():.3g}"]
    assert line[5] == f"{spread.min():.3g}..{spread.max():.3g}"
    assert "statistics" not in json.loads(invoke("show", "toy_point", "--json").stdout)
    assert json.loads(invoke("show", "toy_point", "--statistics", "--json").stdout)["statistics"]["observation"]


def test_show_says_how_to_make_a_dataset(store):
    shown = invoke("show", "kitchen_knob2")

    assert shown.exit_code == 1
    assert (
        shown.stderr.split()
        == (
            f"error: kitchen_knob2: expected a version in the store {store} or on the Hub, got none. "
            "Make it: rlhive collect kitchen_knob2"
        ).split()
    )


def test_check_exits_with_1_for_damage_and_for_an_unreadable_manifest(filled):
    folder = filled / "robohive/toy_point/1.0.0"

    clean = invoke("check", "toy_point", "--json")
    shard = folder / "data/random-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    damaged = invoke("check", "toy_point")
    (folder / "rlhive.json").write_text("[]")
    unreadable = invoke("check", folder)

    assert clean.exit_code == 0
    assert {row["status"] for row in json.loads(clean.stdout)["checks"]} == {"passed"}
    assert damaged.exit_code == unreadable.exit_code == 1
    assert "files" in damaged.stdout
    assert "failed" in unreadable.stdout
    assert "Traceback" not in damaged.stderr + unreadable.stderr


def test_list_names_stored_datasets_and_those_that_a_recipe_makes(collected, store):
    before = json.loads(invoke("list", "--json").stdout)
    assert invoke("list").stdout.startswith(f"{store} holds no dataset yet.")
    shutil.copytree(collected, store)

    assert before == {f"robohive/{name}": [] for name in TASKS}
    assert json.loads(invoke("list", "--json").stdout)["robohive/toy_point"] == ["1.0.0"]
    shown = " ".join(invoke("list").stdout.split())
    assert " toy_point 1.0.0 " in shown
    assert "rlhive collect NAME makes one of: franka_micro_close, " in shown
    assert "toy_point" not in shown.partition("makes one of")[2]


def test_list_shows_how_the_episodes_of_the_newest_version_came_out(collected, store):
    shutil.copytree(collected, store)
    dataset = RoboHiveDataset("toy_point")
    rates = {
        split: np.mean([row["success"] for row in dataset.episodes.to_pylist() if row["split"] == split])
        for split in dataset.splits
    }
    export(teleoperated_records([5, 6]), "lab/teleop", license="mit")
    export(teleoperated_records([5, 7]), "lab/teleop", license="mit")
    (export(teleoperated_records([5]), "lab/broken", license="mit") / "meta/episodes.parquet").write_bytes(b"")

    shown = " ".join(invoke("list").stdout.split())

    size = f"{dataset.manifest.num_bytes / 1e6:.1f} MB"
    outcomes = ", ".join(f"{split} {rate:.0%}" for split, rate in rates.items())
    assert f" toy_point 1.0.0 {dataset.manifest.num_episodes} {size} {outcomes} rlhive collect" in shown
    assert "lab/teleop 2.0.0 and 1 earlier 2 0.0 MB not recorded" in shown
    assert "lab/broken 1.0.0 cannot be read; see rlhive check" in shown


def test_show_says_what_was_not_recorded(store):
    folder = export(teleoperated_records([5, 6]), "lab/teleop", license="mit")

    shown = invoke("show", "lab/teleop").stdout

    assert "unknown      return, success: not recorded" in shown
    assert "certificate  none: no environment was recorded" in shown
    (line,) = [line.split() for line in shown.splitlines() if line.split()[:2] == ["train", "2"]]
    assert line == ["train", "2", "-", "-", "-", "6", "5", "to", "6"]
    assert json.loads(invoke("show", folder, "--json").stdout)["not_recorded"] == ["return", "success"]


def test_an_older_version_has_no_summary_of_what_was_not_recorded(store):
    folder = export(teleoperated_records([5, 6]), "lab/teleop", license="mit")
    rewrite_table(folder, "meta/episodes.parquet", write_older_table)

    (summary,) = json.loads(invoke("show", folder, "--json").stdout)["summary"]

    assert (summary["success_rate"], summary["returns"], summary["lengths"]) == (None, None, [5.5, 5, 6])
