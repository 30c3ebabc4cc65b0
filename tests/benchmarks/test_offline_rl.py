"""The runner of the offline-RL table: cells on the toy, what is skipped, and shards."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.offline_rl import catalogue, report
from benchmarks.offline_rl.run import main
from benchmarks.peers.environments import ROOT
from rlhive import RoboHiveDataset, get_task
from rlhive.envs import Reference
from rlhive.envs._references import PolicyResult
from rlhive.envs._tasks import TASKS


@pytest.mark.slow
def test_missing_cells_are_run_and_others_left_alone(filled, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(catalogue, "NUM_STEPS", 3)
    monkeypatch.setattr(catalogue, "NUM_EPISODES", 2)
    monkeypatch.setattr(catalogue, "SEEDS", (0, 1))
    words = ["--tasks", "toy_point", "--splits", "medium", "--algorithms", "bc", "filtered_bc", "iql"]
    words += ["--workers", "1", "--output", str(tmp_path)]
    first = main([*words, "--shard", "2/2"])
    assert [path.name for path in first] == ["toy_point-medium-filtered_bc.json"]
    before = first[0].read_bytes()
    rest = main(words)
    assert "3 cells, 2 to run here" in capsys.readouterr().out
    assert [path.stem.rpartition("-")[2] for path in rest] == ["bc", "iql"]
    assert first[0].read_bytes() == before

    content = json.loads(first[0].read_text())
    dataset = RoboHiveDataset("toy_point", split="medium")
    assert content["dataset"]["fingerprint"] == dataset.fingerprint
    assert content["num_episodes"] == 1  # a tenth of eight
    assert [len(row["returns"]) for row in content["evaluations"]] == [2, 2]
    assert content["command"].endswith("--tasks toy_point --splits medium --algorithms filtered_bc")
    assert main(words) == []

    options = ["--cells", str(tmp_path), "--output", str(tmp_path / "docs")]
    options += ["--card-scores", str(tmp_path / "docs" / "scores.json")]
    text = report.main(options)
    score = dataset_score(content)
    assert "| toy_point | medium | 8 |" in text
    assert f" {score:.0f} (" in text
    assert "Over the tasks and splits that bc, filtered_bc, iql have, 1 in number" in text
    assert (tmp_path / "docs" / "profile.pdf").stat().st_size > 1000
    first[0].unlink()
    text = report.main(options)
    assert "| filtered_bc |" not in text.partition("## By split")[2]
    assert "not known: filtered_bc, rebrac not run" in text


@pytest.mark.slow
def test_one_policy_learns_several_goals_and_is_evaluated_on_each(filled, tmp_path, monkeypatch) -> None:
    reference = Reference(PolicyResult(-10.0), PolicyResult(10.0))
    monkeypatch.setitem(TASKS, "toy_again", replace(get_task("toy_point"), name="toy_again", reference=reference))
    RoboHiveDataset("toy_point").save("toy_again", license="mit")
    monkeypatch.setattr(catalogue, "GOAL_SETS", {"toys": ("toy_point", "toy_again")})
    monkeypatch.setattr(catalogue, "NUM_STEPS", 3)
    monkeypatch.setattr(catalogue, "NUM_EPISODES", 2)
    monkeypatch.setattr(catalogue, "SEEDS", (0, 1))
    words = ["--tasks", "toys", "--splits", "medium", "--algorithms", "filtered_bc", "--output", str(tmp_path)]
    (path,) = main([*words, "--workers", "1"])

    content = json.loads(path.read_text())
    assert content["tasks"] == ["toy_point", "toy_again"]
    assert content["num_episodes"] == 2  # a tenth of eight, from each dataset
    assert content["config"]["mix"] == {"toy_point": 1.0, "toy_again": 1.0}
    for row in content["evaluations"]:
        assert row["returns"][:2] == row["returns"][2:]  # the same policy on the same seeds of the same environment
        assert row["scores"][2:] == [pytest.approx(100 * (value + 10) / 20) for value in row["returns"][2:]]
        assert row["scores"][:2] != row["scores"][2:]


@pytest.mark.slow
def test_an_algorithm_is_added_as_the_page_says(filled, tmp_path, monkeypatch) -> None:
    page = (ROOT / "docs/benchmark/extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(catalogue, "ALGORITHMS", dict(catalogue.ALGORITHMS))
    monkeypatch.setattr(catalogue, "NUM_STEPS", 3)
    monkeypatch.setattr(catalogue, "NUM_EPISODES", 2)
    monkeypatch.setattr(catalogue, "SEEDS", (0, 1))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "extending.md", "exec"), {})

    content = json.loads((tmp_path / "cells/toy_point-medium-slow_bc.json").read_text())
    assert content["config"]["optim"]["lr"] == 0.0001
    assert content["config"]["split"] == "medium"
    assert "| slow_bc |" in "\n".join(report._score_table(report.read_cells(tmp_path / "cells"), ["bc", "slow_bc"]))


def dataset_score(content: dict) -> float:
    """Return the mean normalised score of a cell, computed from its returns."""
    reference = get_task("toy_point").reference
    low, high = reference.random.return_mean, reference.expert.return_mean
    returns = np.array([row["returns"] for row in content["evaluations"]])
    return float((100 * (returns - low) / (high - low)).mean())


@pytest.mark.parametrize("shard", ["0/2", "3/2", "a/b", "2"])
def test_a_shard_that_does_not_exist_is_refused(shard, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--tasks", "toy_point", "--splits", "mixed", "--algorithms", "bc", "--shard", shard])
    assert "expected I/N with I from 1 to N" in capsys.readouterr().err


def make_cell(*seed_scores: list[float], fingerprint: str = "ab") -> dict:
    """Return what the report reads of a cell."""
    evaluations = [{"scores": scores} for scores in seed_scores]
    return {"evaluations": evaluations, "dataset": {"fingerprint": fingerprint}, "num_episodes": 9, "seconds": {}}


LOW, HIGH, NOISY = make_cell([0.0, 2.0], [1.0, 1.0]), make_cell([20.0, 22.0], [21.0, 21.0]), make_cell([0.0], [60.0])


def test_a_gap_is_the_difference_of_the_means_with_its_interval() -> None:
    gap, low, high = report.measure_gap(HIGH, LOW)
    assert gap == 20.0
    assert 18.0 <= low < 20.0 < high <= 22.0
    gap, low, high = report.measure_gap(NOISY, LOW)
    assert gap == 29.0
    assert low <= -1.0  # both seeds of a resample may be the poor one


def test_a_split_tells_algorithms_apart_where_a_probe_is_far_enough_above_cloning() -> None:
    assert report.judge_gaps({"rebrac": (10.1, 0.1, 20.0)}) == "yes: rebrac"
    tie = {"rebrac": (10.1, -0.1, 20.0), "filtered_bc": (1.0, -1.0, 2.0), "iql": (1.0, -1.0, 2.0)}
    assert report.judge_gaps(tie) == "no: all tie with bc"
    assert report.judge_gaps(
        {"rebrac": (9.9, 0.1, 20.0), "filtered_bc": (-9.0, -12.0, -6.0), "iql": (1.0, -1.0, 2.0)}
    ) == ("no; rebrac, filtered_bc differ from bc")
    assert report.judge_gaps({"filtered_bc": (-18.0, -23.0, -13.0)}) == "not known: rebrac, iql not run"


def test_the_report_says_of_each_split_whether_its_algorithms_tie() -> None:
    cells = {
        ("reach", "mixed"): {"bc": LOW, "filtered_bc": HIGH, "rebrac": LOW},
        ("push", "mixed"): {"bc": LOW, "filtered_bc": LOW, "rebrac": LOW, "iql": LOW},
        ("push", "medium"): {"bc": LOW, "rebrac": NOISY},
        ("push", "play"): {"rebrac": LOW},
    }
    gaps = "\n".join(report._gap_table(cells))
    assert "| reach | mixed | +20 (+19 to +21) | +0 (-1 to +1) |  | yes: filtered_bc |" in gaps
    assert "| push | mixed | +0 (-1 to +1) | +0 (-1 to +1) | +0 (-1 to +1) | no: all tie with bc |" in gaps
    assert "| push | medium |  | +29 (" in gaps
    assert "| play |" not in gaps
    del cells["push", "mixed"]["iql"]
    splits = "\n".join(report._split_table(cells, ["bc", "filtered_bc", "rebrac", "iql"]))
    assert "| mixed | 2 | 1.0 (1.0 to 1.0) | 11.0 (11.0 to 11.0) | 1.0 (1.0 to 1.0) |  |" in splits
    assert "| medium | 1 | 1.0 (1.0 to 1.0) |  | 30.0 (0.0 to 60.0) |  |" in splits


def test_cards_show_the_scores_of_one_content_and_every_tasks_references() -> None:
    cells = {("reach", "mixed"): {"bc": LOW}, ("reach", "medium"): {"bc": make_cell([3.0], fingerprint="cd")}}
    with pytest.raises(ValueError, match="reach: expected cells of one content, got the fingerprints ab, cd"):
        report.summarize_for_cards(cells)
    del cells["reach", "medium"]
    cells["reach", "replay"] = {"bc": make_cell([3.0], fingerprint="cd")}
    rows = report.summarize_for_cards(cells)
    assert list(rows) == [*(f"bench_{task}" for task in catalogue.TASKS), "bench_reach_replay"]
    assert rows["bench_reach"]["fingerprint"] == "ab"
    assert rows["bench_reach"]["scores"]["mixed"]["bc"][0] == 1.0
    assert rows["bench_push"]["scores"] == {}
    assert rows["bench_reach_replay"]["scores"] == {"replay": {"bc": [3.0, 3.0, 3.0]}}
    reference = get_task("bench_push").reference
    assert rows["bench_push"]["policies"]["expert"]["return_mean"] == reference.expert.return_mean


def test_the_shipped_scores_are_those_of_the_committed_cells() -> None:
    shipped = json.loads(report.CARD_SCORES.read_text(encoding="utf-8"))["tasks"]
    cells = report.read_cells(report.FOLDER)
    means = {
        (task.removeprefix("bench_").removesuffix("_replay"), split, name): values[0]
        for task, row in shipped.items()
        for split, algorithms in row["scores"].items()
        for name, values in algorithms.items()
    }
    expected = {
        (*key, name): round(report.mean_score(cell), 2)
        for key, row in cells.items()
        if key[0] in catalogue.TASKS
        for name, cell in row.items()
    }
    assert means == expected, "run: python -m benchmarks.offline_rl.report"


def test_the_table_is_run_by_default_and_other_cells_by_name() -> None:
    everything = list(catalogue.list_cells())
    assert len(everything) == (12 + 1 + 6 + 2 + 2 + 1) * 6
    assert [cell.name for cell in catalogue.list_cells(["reach"], None, ["bc"])] == [
        "reach-mixed-bc",
        "reach-medium-bc",
        "reach-replay-bc",
    ]
    assert [cell.name for cell in catalogue.list_cells(None, ["play"], ["bc"])] == [
        "kitchen_sequence2-play-bc",
        "kitchen_sequence4-play-bc",
    ]
    by_name = catalogue.list_cells((*catalogue.TASKS, *catalogue.GOAL_SETS), tuple(catalogue.SPLITS))
    assert {cell.name for cell in everything} <= {cell.name for cell in by_name}


def test_a_task_that_the_table_does_not_have_is_refused(tmp_path) -> None:
    with pytest.raises(SystemExit, match="no such cell"):
        main(["--tasks", "toy_point", "--output", str(tmp_path)])


def test_every_cell_of_the_table_has_episodes_to_learn_from() -> None:
    recipes = [split for split in catalogue.SPLITS if split != "replay"]
    cells = list(catalogue.list_cells((*catalogue.TASKS, *catalogue.GOAL_SETS), recipes, ("bc",)))
    assert len(cells) == 12 * 4 + 2 * 5 + 4
    for cell in cells:
        (selected,) = [text for text in catalogue.SPLITS[cell.split] if text.startswith("split=")]
        for dataset in cell.datasets:
            levels = get_task(dataset).recipe.episodes
            assert set(selected.removeprefix("split=").split("+")) <= set(levels), cell.name
