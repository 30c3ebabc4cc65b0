"""Reading run folders: what is in them, and what hostile ones do."""

import copy
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rlhive.policies import _checkpoint
from rlhive.sim_algos import _evaluation, _run_folders, _training_state, gather_results
from rlhive.sim_algos._run_folders import SkippedFolder, TrainingRun, find_runs
from tests.sim_algos.sweeps import evaluation, write_run

#: Unusual JSON values.
UNUSUAL = st.one_of(
    st.sampled_from([None, True, 0, -1, 2**53, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(["", "..", "\x00", "\x1b[2J", "$x^{", "é", "\ud800", "x" * 5000]),
    st.sampled_from([[], {}, [[]], [None], {"": None}, [[[[[]]]]], {"a": {"b": {"c": 1}}}]),
)


def read_one(folder):
    (found,) = find_runs(folder)
    return found


def test_a_run_is_read(tmp_path) -> None:
    curve = [
        {"step": 5, "seconds": 1.0, "loss": 0.5, "eval/return": -3.0, "eval/success_rate": 0.5},
        {"step": 10, "seconds": 2.0, "loss": float("nan"), "eval/return": None, "note": "text"},
    ]
    rows = [evaluation(10, [1, 2.5], [True, False]), evaluation(5, [0.0])]
    config = {"optim": {"lr": 1e-3, "betas": [0.9, 0.99]}, "split": None, "name": "a b", "empty": {}, "version": "1"}
    run = read_one(write_run(tmp_path / "a", seed=3, algorithm="iql", config=config, curve=curve, evaluations=rows))

    assert isinstance(run, TrainingRun)
    assert (run.algorithm, run.seed, run.steps, run.seconds) == ("iql", 3, 10, 12.5)
    assert run.dataset == "knob@1.0.0 01234567"
    assert dict(run.config) == {
        "optim.lr": "0.001",
        "optim.betas": "[0.9,0.99]",
        "split": "null",
        "name": "a b",
        "empty": "{}",
    }
    assert run.curve == {"eval/return": {5: -3.0}, "eval/success_rate": {5: 0.5}}
    assert [(row.step, row.returns, row.successes) for row in run.evaluations] == [
        (5, (0.0,), None),
        (10, (1.0, 2.5), (True, False)),
    ]


def test_files_have_the_names_that_checkpoints_have() -> None:
    assert _run_folders.CHECKPOINT_FILE == _checkpoint.CHECKPOINT_FILE
    assert _run_folders.CURVE_FILE == _checkpoint.CURVE_FILE
    assert _run_folders.POLICY_FILE == _checkpoint.POLICY_FILE
    assert _run_folders.EVALUATIONS_FILE == _evaluation.EVALUATIONS_FILE
    assert _run_folders.STATE_FOLDER == _training_state.STATE_FOLDER


def test_runs_are_found_below_and_copies_inside_a_run_are_not(tmp_path) -> None:
    write_run(tmp_path / "b" / "1", seed=1)
    write_run(tmp_path / "a" / "0", seed=0)
    write_run(tmp_path / "a" / "0" / "best", seed=0)
    write_run(tmp_path / ".trash" / "2", seed=2)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "killed").mkdir()
    (tmp_path / "b" / "killed" / "policy.pt").write_bytes(b"")
    (tmp_path / "b" / "started" / ".hydra").mkdir(parents=True)
    (tmp_path / "notes").mkdir()

    found = list(find_runs(tmp_path))

    assert [run.folder.relative_to(tmp_path).as_posix() for run in found] == ["a/0", "b/1", "b/killed", "b/started"]
    assert [type(run) for run in found] == [TrainingRun, TrainingRun, SkippedFolder, SkippedFolder]
    assert all("incomplete: no checkpoint.json" in run.reason for run in found[2:])


def test_several_seeds_are_runs_of_their_own_and_an_unfinished_training_is_none(tmp_path) -> None:
    for job in ("ended", "killed"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        for seed in (0, 1):
            write_run(tmp_path / job / f"seed_{seed}", seed=seed)
    (tmp_path / "killed" / "training_state").mkdir()
    write_run(tmp_path / "paused")
    (tmp_path / "paused" / "training_state").mkdir()

    found = {row.folder.relative_to(tmp_path).as_posix(): row for row in find_runs(tmp_path)}

    assert list(found) == ["ended/seed_0", "ended/seed_1", "killed", "paused"]
    assert [getattr(row, "reason", "")[:11] for row in found.values()] == ["", "", "unfinished:", "unfinished:"]


def test_diverged_episodes_count_as_not_solved(tmp_path) -> None:
    row = {**evaluation(10, [1.0, 2.0], [True, True]), "invalid": [{"seed": 3, "step": 1, "reason": "diverged"}]}
    run = read_one(write_run(tmp_path / "a", evaluations=[row]))
    assert (run.evaluations[0].returns, run.evaluations[0].successes) == ((1.0, 2.0), (True, True, False))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("checkpoint.json", b"[" * 100_000, "checkpoint.json: nested too deeply"),
        ("checkpoint.json", b'{"config": ' + b'{"a": ' * 900 + b"1" + b"}" * 901, "expected the name of an algorithm"),
        ("checkpoint.json", b"\xff", "checkpoint.json: expected JSON"),
        ("checkpoint.json", b"1" * 10_000, "checkpoint.json: expected JSON"),
        ("checkpoint.json", b'{"x": 1}', "expected the record of a training with its config"),
        ("curve.json", b"[]", "curve.json: expected a list of rows"),
        ("curve.json", b'[{"step": "\\u001b[2J"}]', r"got '\x1b[2J'"),
        ("curve.json", b'[{"step": 1, "return": NaN}]', "curve.json: return: expected a finite number, got nan"),
        ("curve.json", b'[{"step": 1, "return": 1' + b"0" * 400 + b"}]", "got a huge number"),
        ("evaluations.json", b'[{"step": 1, "returns": []}]', "expected a step and the returns"),
        ("evaluations.json", b'[{"step": 1, "returns": [1], "successes": [1]}]', "expected true or false"),
        ("curve.json", None, "incomplete: no curve.json"),
    ],
)
def test_what_is_no_run_is_left_out_with_a_reason(name, content, reason, tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    found = read_one(tmp_path)

    assert isinstance(found, SkippedFolder)
    assert reason in found.reason
    assert found.reason.isprintable()
    assert len(found.reason) <= 200


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_run_folders, "_MAX_BYTES", 5000)
    folder = write_run(tmp_path / "a")
    (folder / "curve.json").write_text(" " * 5001)
    assert "curve.json: expected at most 5000 bytes" in read_one(tmp_path).reason


def test_a_deep_configuration_is_left_out(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    deep = '{"a": ' * 960 + "1" + "}" * 960
    text = (folder / "checkpoint.json").read_text().replace('"optim": {', f'"deep": {deep}, "optim": {{')
    (folder / "checkpoint.json").write_text(text)
    assert read_one(tmp_path).reason == "checkpoint.json: nested too deeply"


@settings(
    max_examples=int(os.environ.get("RLHIVE_FUZZ", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_read_or_left_out(data, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("run") / "a"
    write_run(folder, evaluations=[evaluation(100, [1.0], [True])], curve=[{"step": 100, "seconds": 1, "return": 1.0}])
    name = data.draw(st.sampled_from(["checkpoint.json", "curve.json", "evaluations.json"]))
    content = json.loads((folder / name).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        content = damage(data, copy.deepcopy(content))
    (folder / name).write_text(json.dumps(content))

    found = read_one(folder)

    if isinstance(found, SkippedFolder):
        assert found.reason.isprintable()
    else:
        assert all(text.isprintable() for item in found.config.items() for text in item)
        assert (found.algorithm + found.dataset).isprintable()
    write_run(folder.parent / "healthy", seed=5, evaluations=[evaluation(100, [2.0])])
    results = gather_results([folder.parent])
    assert len(results.skipped) == isinstance(found, SkippedFolder)
    assert all(group.name.isprintable() for group in results.groups)
    json.dumps(results.to_dict(), allow_nan=False)


def damage(data, content):
    """Replace one value somewhere in a JSON document."""
    if not isinstance(content, dict | list) or not content or data.draw(st.integers(0, 4)) == 0:
        return data.draw(UNUSUAL)
    key = data.draw(st.sampled_from(sorted(content) if isinstance(content, dict) else range(len(content))))
    content[key] = damage(data, content[key])
    return content
