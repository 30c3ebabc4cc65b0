"""The identity of outcomes: last bits leave it as it is, wherever the returns lie; another course changes it."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rlhive import RoboHiveDataset
from rlhive.data.versions import RETURN_TOLERANCE, compare_outcomes, diff, export
from tests.cli.conftest import invoke
from tests.data.strategies import records, teleoperated_records


def perturbed(episodes, ulps):
    """Return the episodes with every observation and reward moved by some units in the last place."""
    made = []
    for record in episodes:
        columns = dict(record.columns)
        for name in ("observation", "next.reward"):
            values = np.where(np.isfinite(columns[name]), columns[name], 0.0)
            columns[name] = values + ulps * np.spacing(values)
        made.append(replace(record, columns=columns))
    return made


def open_version(episodes, schema, store):
    return RoboHiveDataset(export(episodes, "org/knob", schema=schema, license="mit", store=store))


def test_last_bits_change_the_fingerprint_and_not_the_outcomes(tmp_path):
    schema, episodes = records([3, 2, 4])
    one, other = (open_version(perturbed(episodes, ulps), schema, tmp_path / str(ulps)) for ulps in (0, 3))

    assert one.fingerprint != other.fingerprint
    assert one.outcome_fingerprint == other.outcome_fingerprint
    difference = diff(one.path, other.path)
    assert not difference.related  # no run in common: another machine may have other packages
    assert difference.outcomes["fingerprint"] == [one.outcome_fingerprint] * 2
    assert (difference.outcomes["different"], difference.outcomes["unequal_returns"]) == ([], [])
    returns = [dataset.episodes["return"].to_numpy() for dataset in (one, other)]
    assert difference.outcomes["return_error"] == np.abs(returns[0] - returns[1]).max() > 0
    assert diff(one.path, one.path).outcomes == {}
    shown = invoke("diff", one.path, other.path).stdout
    assert one.outcome_fingerprint[:16] in shown
    assert "equal within 1e-06" in " ".join(shown.split())


@pytest.mark.parametrize(
    "change",
    [{"seed": 77}, {"split": "other"}, {"episode": 100}, "length", "success", "ended"],
    ids=str,
)
def test_another_course_of_an_episode_changes_the_outcomes(change, tmp_path):
    schema, episodes = records([3, 2, 4])
    before = open_version(episodes, schema, tmp_path / "before")
    changed = copy.deepcopy(episodes)
    last = changed[-1]
    if isinstance(change, dict):
        changed[-1] = replace(last, **change)
    elif change == "length":
        changed[-1] = replace(last, columns={name: rows[:-1] for name, rows in last.columns.items()})
    elif change == "success":
        last.columns["success"][:], last.final["success"][:] = (not last.success,) * 2
    else:
        last.columns["next.terminated"][-1], last.columns["next.truncated"][-1] = True, False
    after = open_version(changed, schema, tmp_path / "after")

    assert after.outcome_fingerprint != before.outcome_fingerprint
    if change != {"episode": 100}:
        assert diff(before.path, after.path).outcomes.get("different") in ([last.episode], None)


def row(value):
    return {"split": "a", "seed": 1, "length": 3, "ended": "truncated", "success": True, "return": value}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8),
    st.integers(0, 12),
    st.integers(-4, 4),
)
def test_returns_at_the_border_between_two_rounded_numbers_are_equal_too(values, digits, ulps):
    """Every return lies half a unit of the last kept digit off, where rounding takes either side."""
    borders = [(np.floor(value * 10.0**digits) + 0.5) / 10.0**digits for value in values]
    before = dict(enumerate(map(row, borders)))
    after = dict(enumerate(row(float(value + ulps * np.spacing(value))) for value in borders))
    outcomes = compare_outcomes(before, after)

    assert outcomes["unequal_returns"] == []
    assert outcomes["fingerprint"][0] == outcomes["fingerprint"][1]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (1.0, 1.0 + 2 * RETURN_TOLERANCE, False),
        (1e4, 1e4 + 5e-3, True),
        (0.0, 9e-7, True),
        (None, None, True),
        (None, 0.0, False),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (float("inf"), float("-inf"), False),
        (float("nan"), 0.0, False),
    ],
)
def test_returns_are_compared_within_the_tolerance(old, new, expected):
    outcomes = compare_outcomes({0: row(old)}, {0: row(new)})

    assert outcomes["unequal_returns"] == ([] if expected else [0])
    json.dumps(outcomes, allow_nan=False)


def test_what_was_not_recorded_is_unknown_in_versions_of_every_age(tmp_path):
    from tests.data.checks.walks import rewrite_table, write_older_table

    folder = export(teleoperated_records([5, 6]), "lab/teleop", license="mit", store=tmp_path)
    outcome = RoboHiveDataset(folder).outcome_fingerprint
    rewrite_table(folder, "meta/episodes.parquet", write_older_table)

    assert RoboHiveDataset(folder).outcome_fingerprint == outcome


def test_a_view_has_the_outcomes_of_its_episodes_and_show_prints_those_of_the_version(filled):
    dataset = RoboHiveDataset("toy_point")

    assert RoboHiveDataset("toy_point", split="expert").outcome_fingerprint != dataset.outcome_fingerprint
    assert f"outcomes     {dataset.outcome_fingerprint[:16]}" in invoke("show", "toy_point").stdout
    described = json.loads(invoke("show", "toy_point", "--json").stdout)
    assert described["outcome_fingerprint"] == dataset.outcome_fingerprint
    assert dataset.outcome_fingerprint.startswith("db41a957ba313a9d"), "published outcomes would not be found again"
