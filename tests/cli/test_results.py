"""The verb results."""

import json

from tests.cli.conftest import invoke
from tests.sim_algos.sweeps import evaluation, write_run


def write_sweep(folder):
    for lr, top in ((0.001, 0.0), (0.0003, -30.0)):
        for seed in (0, 1):
            rows = [evaluation(step, [top + seed, top + seed + 2], [True, seed == 0]) for step in (50, 100)]
            curve = [{"step": row["step"], "seconds": 1.0} for row in rows]
            write_run(folder / f"{lr}-{seed}", seed=seed, config={"optim": {"lr": lr}}, curve=curve, evaluations=rows)


def test_results_are_one_table_of_eighty_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_sweep(tmp_path)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "curve.json").write_text("[]")
    ran = invoke("results", tmp_path)
    lines = [line.split() for line in ran.stdout.splitlines()]

    assert ran.exit_code == 0
    # by hand: the seeds' means are 1 and 1.5 -> 0.75, and -29, -28 -> -28.5; 1, 2 -> 1.5
    assert ["model=bc", "2", "75%", "-28.5", "-28.5", "100", "12"] in lines
    assert ["model=bc", "2", "75%", "1.5", "1.5", "100", "12"] in lines
    assert any(line[:4] == ["optim.lr=0.0003", "25%", "to", "100%"] for line in lines)
    assert "below a mean: 95 % interval over seeds and episodes" in ran.stdout
    assert "1 folder left out:" in ran.stdout
    assert all(len(line) <= 80 for line in ran.stdout.splitlines() if str(tmp_path) not in line)


def test_results_are_json_and_files(tmp_path):
    write_sweep(tmp_path / "sweep")
    ran = invoke("results", tmp_path / "sweep", "--output", tmp_path / "out", "--json")

    printed = json.loads(ran.stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [group["final"]["return"]["mean"] for group in printed["groups"]] == [-28.5, 1.5]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.json", "curves.pdf", "curves.png", "bars.pdf", "bars.png")
    }


def test_control_characters_and_a_single_seed(tmp_path):
    write_run(tmp_path / "a", algorithm="b\x1b[2Jc", curve=[{"step": 1}], evaluations=[evaluation(1, [1.0, 2.0])])
    ran = invoke("results", tmp_path, "--output", tmp_path / "out")

    assert "\x1b[2J" not in ran.stdout
    assert "model=b\\x1b[2Jc" in ran.stdout
    text = " ".join(ran.stdout.split())
    assert "its interval covers its episodes alone" in text
    assert "No learning curves: expected at least two evaluations" in text


def test_a_sweep_without_evaluations_is_listed(tmp_path):
    write_run(tmp_path / "a")
    ran = invoke("results", tmp_path, "--output", tmp_path / "out")

    assert ["model=bc", "1", "-", "-", "-", "100", "12"] in [line.split() for line in ran.stdout.splitlines()]
    assert "No figures: no run holds an evaluation." in ran.stdout
    assert "interval" not in ran.stdout


def test_a_folder_without_runs_is_an_error(tmp_path):
    ran = invoke("results", tmp_path)
    assert ran.exit_code == 1
    assert "error: No finished run in" in ran.stderr
