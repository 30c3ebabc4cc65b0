"""The runner of the offline-RL table: cells on the toy, what is skipped, and shards."""

import json

import numpy as np
import pytest

from benchmarks.offline_rl import catalogue, report
from benchmarks.offline_rl.run import main
from rlhive import RoboHiveDataset, get_task


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

    text = report.main(["--cells", str(tmp_path), "--output", str(tmp_path / "docs")])
    score = dataset_score(content)
    assert "| toy_point | medium | 8 |" in text
    assert f" {score:.0f} (" in text
    assert "Over the tasks and splits that all algorithms have, 1 in number" in text
    assert (tmp_path / "docs" / "profile.pdf").stat().st_size > 1000
    first[0].unlink()
    text = report.main(["--cells", str(tmp_path), "--output", str(tmp_path / "docs")])
    assert "filtered_bc" not in text


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


def test_every_cell_of_the_table_has_episodes_to_learn_from() -> None:
    cells = list(catalogue.list_cells(catalogue.TASKS, tuple(catalogue.SPLITS), ("bc",)))
    assert len(cells) == 12 * 4 + 2 * 5
    for cell in cells:
        levels = get_task(cell.dataset).recipe.episodes
        (selected,) = [text for text in catalogue.SPLITS[cell.split] if text.startswith("split=")]
        assert set(selected.removeprefix("split=").split("+")) <= set(levels), cell.name
