"""The comparison of two versions: every kind of change is reported as what it is."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.data.versions._diff import diff
from rlhive.data.versions._export import export
from tests.data.strategies import records


@pytest.fixture
def episodes():
    return records([4, 2, 3, 5])[1]


def write(episodes, store, name="my/knob", **kwargs):
    return export(episodes, name, **({"license": "mit", "store": store} | kwargs))


def other_action(record):
    return replace(record, columns=record.columns | {"action": record.columns["action"] + 1})


def test_every_kind_of_change_is_distinguished(episodes, tmp_path):
    new = [
        other_action(episodes[0]),  # 3: changed
        replace(episodes[1], episode=5),  # 6 → 5: renumbered
        replace(episodes[2], split="c", seed=77),  # 9: other split and seed
        # 12: dropped
        replace(other_action(episodes[3]), episode=40),  # 40: added
    ]
    before = write(episodes, tmp_path)
    after = write(sorted(new, key=lambda r: r.episode), tmp_path, description="new", runs=[{"run": "r2"}])

    difference = diff(before, after)

    assert (difference.added, difference.dropped, difference.changed) == ([40], [12], [3])
    assert difference.renumbered == [(6, 5)]
    assert difference.moved == {9: {"split": ["a", "c"], "seed": [2, 77]}}
    assert difference.num_same == 0
    assert difference.comparable
    assert difference.splits["c"] == [None, {"num_episodes": 1, "num_transitions": 3}]
    assert difference.provenance["description"] == ["", "new"]
    assert difference.provenance["runs"] == [[], ["r2"]]
    assert "action" in difference.statistics
    assert json.loads(json.dumps(difference.to_json()))["changed"] == [3]


def test_two_equal_versions_do_not_differ(episodes, tmp_path):
    difference = diff(write(episodes, tmp_path), write(episodes, tmp_path / "b", shard_bytes=1))

    assert not difference
    assert difference.num_same == 4


def test_columns_make_hashes_incomparable(episodes, tmp_path):
    wide = [replace(r, columns=r.columns | {"extra": np.zeros(r.length)}) for r in episodes]
    without = [replace(r, columns={k: v for k, v in r.columns.items() if k != "gripper"}) for r in episodes]
    single = [replace(r, columns=r.columns | {"action": r.columns["action"].astype(np.float64)}) for r in episodes]
    base = write(episodes, tmp_path)

    added, dropped = diff(base, write(wide, tmp_path / "a")), diff(base, write(without, tmp_path / "b"))
    changed = diff(base, write(single, tmp_path / "c"))

    assert added.columns["added"] == {"extra": "float64 ()"}
    assert dropped.columns["dropped"] == {"gripper": "int64 (1,)"}
    assert changed.columns["changed"] == {"action": ["float32 (2,)", "float64 (2,)"]}
    assert not added.comparable
    assert (added.num_same, added.changed, added.added) == (4, [], [])


def test_statistics_that_changed_are_reported(episodes, tmp_path):
    for record in episodes:
        record.columns["action"][:] = np.random.default_rng(record.episode).normal(size=(record.length, 2))
    shifted = [replace(r, columns=r.columns | {"action": r.columns["action"] * 3}) for r in episodes]

    difference = diff(write(episodes, tmp_path), write(shifted, tmp_path)).statistics

    assert list(difference) == ["action"]
    assert difference["action"]["std_factor"] == pytest.approx([3, 3], rel=1e-5)
    assert difference["action"]["extremes"]


def test_the_command_prints_a_table_or_json(episodes, store):
    write(episodes, store)
    write(episodes[:3], store)
    runner = CliRunner()

    table = runner.invoke(app, ["diff", "my/knob@1.0.0", "my/knob@2.0.0"]).output
    as_json = json.loads(runner.invoke(app, ["diff", "my/knob@1.0.0", "my/knob", "--json"]).output)
    same = runner.invoke(app, ["diff", "my/knob", str(store / "my/knob/2.0.0")]).output

    assert "episodes dropped" in table
    assert "1 (12)" in table
    assert as_json["dropped"] == [12]
    assert "hold the same" in same
    assert runner.invoke(app, ["diff", "my/knob@9.9.9", "my/knob"]).exit_code == 1


def test_comparing_imports_no_torch(episodes, store):
    write(episodes, store)
    write(episodes[:3], store)
    script = """
import sys
from rlhive.cli._diff import find_address
from rlhive.data.versions._diff import diff
print(diff(find_address("my/knob@1.0.0"), find_address("my/knob")).dropped, "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["[12]", "False"]


def test_episodes_of_other_recordings_are_not_compared_by_their_ids(episodes, tmp_path):
    others = [other_action(record) for record in episodes]
    before = write(episodes, tmp_path, runs=[{"run": "r1"}])
    after = write(others, tmp_path / "b", runs=[{"run": "r2"}])

    difference = diff(before, after)
    table = CliRunner().invoke(app, ["diff", str(before), str(after)]).stdout

    assert not difference.related
    assert (difference.changed, difference.num_same) == ([], 0)
    assert difference.dropped == difference.added == [record.episode for record in episodes]
    assert "They are unrelated: no episode, recording run or parent is in both" in " ".join(table.split())
    assert difference.to_json()["related"] is False


@pytest.mark.parametrize(
    "origin",
    [
        [{"runs": [{"run": "r1"}]}, {"runs": [{"run": "r1"}, {"run": "r2"}]}],
        [{"parents": [{"fingerprint": "f"}]}, {"parents": [{"fingerprint": "f"}]}],
    ],
    ids=["a run in common", "a parent in common"],
)
def test_changed_episodes_of_one_history_are_changed(episodes, tmp_path, origin):
    others = [other_action(record) for record in episodes]

    difference = diff(write(episodes, tmp_path, **origin[0]), write(others, tmp_path / "b", **origin[1]))

    assert difference.related
    assert difference.changed == [record.episode for record in episodes]
    assert (difference.added, difference.dropped) == ([], [])
