"""The results of sweeps: groups, their names and numbers by hand."""

import json

import pytest

from rlhive.errors import CheckpointMismatchError, StoreNotWritableError
from rlhive.sim_algos._bootstrap import bootstrap_interval
from rlhive.sim_algos._results import gather_results
from tests.sim_algos.sweeps import evaluation, write_run


def names(folder):
    return [group.name for group in gather_results([folder]).groups]


def test_runs_are_grouped_by_everything_but_the_seed(tmp_path) -> None:
    for index, (algorithm, lr) in enumerate([("bc", 1e-3), ("bc", 3e-4), ("iql", 1e-3)]):
        for seed in (2, 0, 1):
            config = {"optim": {"lr": lr}, "expectile": 0.7} if algorithm == "iql" else {"optim": {"lr": lr}}
            write_run(tmp_path / f"{index}-{seed}", seed=seed, algorithm=algorithm, config=config)
    results = gather_results([tmp_path])

    # iql's expectile goes with iql: it differs from no other run of iql
    assert [group.name for group in results.groups] == [
        "model=bc optim.lr=0.0003",
        "model=bc optim.lr=0.001",
        "model=iql",
    ]
    assert [group.seeds for group in results.groups] == [(0, 1, 2)] * 3
    assert [folder[-3:] for folder in results.groups[0].folders] == ["1-0", "1-1", "1-2"]
    assert (results.skipped, results.repeated) == ((), ())


def test_versions_of_a_dataset_are_groups_and_options_that_one_lacks_are_named(tmp_path) -> None:
    write_run(tmp_path / "a", dataset=("knob", "1.0.0", "sha256:aa"))
    write_run(tmp_path / "b", dataset=("knob", "1.1.0", "sha256:bb"))
    assert names(tmp_path) == ["model=bc dataset=knob@1.0.0", "model=bc dataset=knob@1.1.0"]
    write_run(tmp_path / "c", dataset=("knob", "1.1.0", "sha256:cccccccccc"))
    assert names(tmp_path)[1:] == ["model=bc dataset=knob@1.1.0 bb", "model=bc dataset=knob@1.1.0 cccccccc"]
    write_run(tmp_path / "d" / "x", dataset=None, config={"env": "reach"})
    write_run(tmp_path / "d" / "y", dataset=None)
    assert names(tmp_path / "d") == ["model=bc env=reach", "model=bc ~env"]


def test_the_numbers_are_those_of_the_last_evaluation_by_hand(tmp_path) -> None:
    first = [evaluation(50, [9.0, 9.0], [True, True]), evaluation(100, [1.0, 3.0], [True, False])]
    second = [evaluation(50, [0.0, 2.0], [False, False]), evaluation(100, [4.0, 8.0], [False, False])]
    curve = [{"step": 50, "seconds": 1.0}, {"step": 100, "seconds": 2.0}]
    write_run(tmp_path / "0", seed=0, curve=curve, evaluations=first, seconds=10.0)
    write_run(tmp_path / "1", seed=1, curve=curve, evaluations=second, seconds=30.0)
    (group,) = gather_results([tmp_path]).groups

    success, returned = group.final["success"], group.final["return"]
    assert (success.mean, success.seed_means, success.covers) == (0.25, (0.5, 0.0), "seeds and episodes")
    assert (returned.step, returned.mean, returned.seed_means) == (100, 4.0, (2.0, 6.0))
    assert returned.interval == bootstrap_interval([[1.0, 3.0], [4.0, 8.0]])
    assert (group.steps, group.seconds, group.iqm["return"]) == ((100, 100), 20.0, 4.0)
    assert [(point.step, point.mean) for point in group.curves["return"]] == [(50, 5.0), (100, 4.0)]
    assert [(point.step, point.mean) for point in group.curves["success"]] == [(50, 0.5), (100, 0.25)]


def test_without_episodes_the_interval_is_over_seeds_and_for_one_seed_there_is_none(tmp_path) -> None:
    for seed, value in enumerate([1.0, 2.0, 6.0]):
        write_run(tmp_path / "many" / str(seed), seed=seed, curve=[{"step": 7, "eval/return": value}])
    write_run(tmp_path / "one", curve=[{"step": 7, "return": 3.0, "success_rate": 0.5}])
    write_run(tmp_path / "episodes", curve=[{"step": 7}], evaluations=[evaluation(7, [1.0, 2.0])])
    points = [gather_results([tmp_path / name]).groups[0].final["return"] for name in ("many", "one", "episodes")]

    assert [point.covers for point in points] == ["seeds", "", "episodes"]
    assert points[0].interval == bootstrap_interval([[1.0], [2.0], [6.0]])
    assert points[1].interval is None
    assert points[2].interval == (1.0, 2.0)


def test_curves_have_the_steps_of_all_seeds(tmp_path) -> None:
    for seed, steps in enumerate([(10, 20, 30), (10, 30), (10, 30, 40)]):
        write_run(tmp_path / str(seed), seed=seed, curve=[{"step": step, "return": step + seed} for step in steps])
    (group,) = gather_results([tmp_path]).groups
    assert [(point.step, point.mean) for point in group.curves["return"]] == [(10, 11.0), (30, 31.0)]
    assert group.final["return"].seed_means == (30.0, 31.0, 42.0)
    assert group.steps == (30, 40)


def test_repeated_and_unevaluated_runs_are_counted(tmp_path) -> None:
    write_run(tmp_path / "a", seed=0, curve=[{"step": 5, "return": 1.0}])
    write_run(tmp_path / "b", seed=0, curve=[{"step": 9, "return": 2.0}])
    write_run(tmp_path / "c", seed=1, curve=[{"step": 9, "loss": 2.0}])
    results = gather_results([tmp_path, tmp_path / "a"])

    assert [group.folders for group in results.groups] == [(str(tmp_path / "b"),)]
    assert results.repeated == (tmp_path / "a",)
    assert [(row.folder, row.reason) for row in results.skipped] == [
        (tmp_path / "c", "no evaluation, which other runs of its configuration have")
    ]


def test_a_sweep_without_evaluations_is_listed(tmp_path) -> None:
    write_run(tmp_path / "a")
    (group,) = gather_results([tmp_path]).groups
    assert (group.final, group.curves, group.steps) == ({}, {}, (100, 100))


def test_what_is_missing_is_said_in_a_sentence(tmp_path) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"No folder .*nothing: expected the folder of a sweep"):
        gather_results([tmp_path / "nothing"])
    (tmp_path / "curve.json").write_text("[]")
    with pytest.raises(CheckpointMismatchError, match=r"No finished run in .*: 1 folders were left out; .*incomplete"):
        gather_results([tmp_path])


def test_results_are_written_and_survive_json(tmp_path) -> None:
    for seed in (0, 1):
        curve = [{"step": step, "return": float(step + seed)} for step in (1, 2)]
        write_run(tmp_path / "runs" / str(seed), seed=seed, curve=curve)
    results = gather_results([tmp_path / "runs"])
    files = results.save(tmp_path / "new" / "out")

    assert [file.name for file in files] == ["results.json", "curves.pdf", "curves.png", "bars.pdf", "bars.png"]
    saved = json.loads(files[0].read_text())
    assert saved == json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert saved["groups"][0]["final"]["return"]["seed_means"] == [2.0, 3.0]
    assert "Agarwal et al. 2021" in saved["method"]
    assert files[1].read_bytes().startswith(b"%PDF")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError, match="No results can be written to"):
        results.save(tmp_path / "file")
