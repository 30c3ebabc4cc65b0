"""Every check of rows finds the defect that is planted for it, and nothing else."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from rlhive.data._schema import Field, Schema
from rlhive.data.checks import CHECKS
from rlhive.data.checks._check import run_checks
from rlhive.data.versions._export import export
from tests.data.checks.walks import (
    HORIZON,
    SCHEMA,
    check_rewards,
    make_walk,
    make_walks,
    rewrite_table,
    set_cell,
    unpassed,
    write_version,
)
from tests.data.strategies import teleoperated_records


def nan(walks):
    walks[3].columns["observation"][7, 2] = np.nan


def nan_final(walks):
    walks[3].final["observation"][1] = np.nan


def nan_elsewhere(walks):
    """Only columns that learning does not need may hold a NaN: none of the walk's own."""
    for record in walks:
        record.columns["info.force"] = np.random.default_rng(record.episode).normal(size=(record.length, 1))
    walks[3].columns["info.force"][7] = np.nan
    return Schema((*SCHEMA.fields[:1], Field("info.force", "float64", (1,), observed=False), *SCHEMA.fields[1:]))


def infinite(walks):
    walks[3].columns["observation"][7, 2] = np.inf


def early_end(walks):
    walks[3].columns["next.terminated"][4] = True


def beyond_horizon(walks):
    walks[3] = replace(make_walk(3, length=HORIZON + 5), split="train")
    walks[3].columns["next.truncated"][:] = np.arange(HORIZON + 5)[:, None] == HORIZON + 4


def no_end_at_the_horizon(walks):
    walks[3].columns["next.truncated"][-1] = False


def unfinished(walks):
    walks[3] = make_walk(3, length=HORIZON - 5)


def cut_before_the_horizon(walks):
    walks[3] = make_walk(3, length=HORIZON - 5)
    walks[3].columns["next.truncated"][-1] = True


def other_reward(walks):
    walks[3].columns["next.reward"][5] += 1e-9


def other_success(walks):
    walks[3].columns["success"][5] ^= True


def leak(walks):
    walks[4] = replace(walks[3], episode=4, split="test")


def duplicate(walks):
    walks[5] = replace(walks[3], episode=5)


def rounded_copy(walks):
    columns = {name: array.astype(np.float32).astype(array.dtype) for name, array in walks[3].columns.items()}
    walks[4] = replace(walks[3], episode=4, split="test", columns=columns)


def noisy_copy(walks):
    noise = np.random.default_rng(0).normal(size=walks[3].columns["observation"].shape) * 1e-3
    columns = walks[3].columns | {"observation": walks[3].columns["observation"] + noise}
    walks[5] = replace(walks[3], episode=5, columns=columns)


def shifted_copy(walks):
    columns = {name: array[6:].copy() for name, array in walks[3].columns.items()}
    walks[5] = replace(walks[3], episode=5, columns=columns)


def last_row_as_final(walks):
    for record in walks:
        record.final["observation"][:] = record.columns["observation"][-1]


def next_start_as_final(walks):
    for record, following in itertools.pairwise(walks):
        record.final["observation"][:] = following.columns["observation"][0]


def constant(walks):
    for record in walks:
        record.columns["observation"][:, 1] = 4


def saturated(walks):
    for record in walks:
        record.columns["action"][::3, 0] = 1
        record.columns["action"][1::3, 0] = 1


def with_clock(walks, spoil):
    """Record all episodes at 30 frames per second with a jitter of 1 ms, and change the timestamps of episode 3."""
    for index, record in enumerate(walks):
        jitter = np.random.default_rng(record.episode).uniform(-1e-3, 1e-3, record.length)
        timestamps = 1.7e9 + np.arange(record.length) / 30 + jitter
        if record.episode == 3:
            spoil(timestamps)
        record.columns["timestamp"] = timestamps[:, None]
        walks[index] = replace(record, run="clocked")
    return Schema((*SCHEMA.fields, Field("timestamp", "float64", (1,), observed=False)))


def clock_that_stands_still(walks):
    def spoil(timestamps):
        timestamps[8] = timestamps[7]

    return with_clock(walks, spoil)


def clock_that_is_unknown(walks):
    def spoil(timestamps):
        timestamps[0] = np.nan

    return with_clock(walks, spoil)


def dropped_frames(walks):
    def spoil(timestamps):
        timestamps[12:] += 2 / 30

    return with_clock(walks, spoil)


def jitter(walks):
    schema = with_clock(walks, lambda _: None)
    for record in walks:
        record.columns["timestamp"][::4] += 0.012
    return schema


def another_rate(walks):
    schema = with_clock(walks, lambda _: None)
    for record in walks:
        record.columns["timestamp"] *= 0.75
    return schema


DEFECTS = [
    (clock_that_stands_still, "timestamps", "episode 3 (train), row 8: expected a timestamp that rises, got 17"),
    (clock_that_is_unknown, "timestamps", "episode 3 (train), row 0: expected a timestamp that rises, got nan"),
    (dropped_frames, "dropped_frames", "episode 3 (train): 2 dropped, the first after row 11: 0.09"),
    (jitter, "jitter", "95 % of the steps are within 1"),
    (another_rate, "timestamps", "fps=30 contradicts the timestamps: expected a median step of 0.0333 s, within 20%, "),
    (nan, "nan", "episode 3 (train), row 7: observation is NaN"),
    (nan_final, "nan", "episode 3 (train), final value: observation is NaN"),
    (nan_elsewhere, "nan_elsewhere", "episode 3 (train), row 7: info.force is NaN"),
    (infinite, "infinite", "episode 3 (train), row 7: observation is infinite"),
    (early_end, "ends", "episode 3 (train): row 4: expected the end at the last row, 29"),
    (beyond_horizon, "ends", "episode 3 (train): expected at most the horizon's 30 rows, got 35"),
    (no_end_at_the_horizon, "ends", "episode 3 (train): expected to end at the horizon"),
    (unfinished, "horizon", "episode 3 (train): does not end"),
    (cut_before_the_horizon, "horizon", "episode 3 (train): is truncated after 25 of 30 rows"),
    (other_reward, "reward", "episode 3 (train): row 5"),
    (other_success, "success", "episode 3 (train): another"),
    (leak, "split_leak", "episode 4 (test) is episode 3 (train) again"),
    (duplicate, "duplicates", "episode 5 (train) is episode 3 (train) again"),
    (rounded_copy, "near_duplicates", "episode 3 (train) and episode 4 (test) share"),
    (noisy_copy, "near_duplicates", "episode 3 (train) and episode 5 (train) share"),
    (shifted_copy, "near_duplicates", "episode 3 (train) and episode 5 (train) share"),
    (last_row_as_final, "final", "is that of the last row in 12 of 12 episodes"),
    (next_start_as_final, "final", "the final observation is the first of episode 1 (train)"),
    (constant, "constant", "observation: 1 of 4 elements (1) never change"),
    (saturated, "saturated", "action: 1 of 2 elements (0) stand at an extreme in up to 67% of the rows"),
]


@pytest.mark.parametrize(("plant", "check", "message"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_of_episodes_is_found_by_its_check(plant, check, message, tmp_path):
    walks = make_walks()
    schema = plant(walks) or SCHEMA

    # The walk's rewards follow from its observations: they are recomputed only where they are the point.
    reward_checker = check_rewards if check in ("reward", "success") else None
    report = run_checks(write_version(tmp_path, walks, schema), reward_checker=reward_checker)

    checks_with_findings = {name for name, result in report.results.items() if result.count}
    assert message in report.results[check].findings[0]
    assert report.results[check].status == ("failed" if CHECKS[check][0] == "error" else "warned")
    assert report.ok == (CHECKS[check][0] == "warning")
    others = {no_end_at_the_horizon: {"horizon"}, shifted_copy: {"horizon"}, clock_that_is_unknown: {"nan_elsewhere"}}
    others |= {another_rate: {"jitter"}, clock_that_stands_still: {"dropped_frames"}}
    assert checks_with_findings == {check} | others.get(plant, set())


def test_a_clean_clock_passes_with_its_jitter_in_the_report(tmp_path):
    walks = make_walks()
    report = run_checks(write_version(tmp_path, walks, with_clock(walks, lambda _: None)), reward_checker=check_rewards)
    assert unpassed(report) == {}
    assert re.fullmatch(
        r"95 % of the steps are within 1\.\d+ ms of 33\.3 ms, at 30 fps\.", report.results["jitter"].note
    )


def test_without_a_rate_only_the_order_of_timestamps_is_checked(tmp_path):
    walks = make_walks(4)
    schema = with_clock(walks, lambda _: None)
    walks = [replace(record, run="run") for record in walks]
    report = run_checks(write_version(tmp_path, walks, schema), reward_checker=check_rewards)
    assert unpassed(report) == {"dropped_frames": "skipped", "jitter": "skipped"}


def test_strings_are_checked_as_content_and_not_as_numbers(tmp_path):
    fields = (*SCHEMA.fields, Field("instruction", "string", (), observed=False))
    schema = Schema(tuple(sorted(fields, key=lambda field: field.column)))
    walks = make_walks(6)
    for record in walks:
        record.columns["instruction"] = np.array([f"turn {step}" for step in range(HORIZON)], dtype=object)
    folder = write_version(tmp_path, walks, schema)
    unpassed_before = unpassed(run_checks(folder, reward_checker=check_rewards))

    rewrite_table(folder, "data/train-*", set_cell("instruction", 3, "turn 4"))

    assert unpassed_before == {}
    assert run_checks(folder).results["content"].findings[0].startswith("episode 1 (train): expected content hash")


@pytest.mark.parametrize(("value", "check", "status"), [(np.inf, "infinite", "warned"), (np.nan, "nan", "failed")])
def test_a_non_finite_action_is_found_though_actions_have_no_final_value(tmp_path, value, check, status):
    walks = make_walks(2)
    walks[1].columns["action"][7, 1] = value

    result = run_checks(write_version(tmp_path, walks)).results[check]

    assert result.status == status
    assert "episode 1" in result.findings[0]


def test_the_reason_of_a_reward_checker_that_cannot_compute_is_in_the_report(tmp_path):
    folder = write_version(tmp_path, make_walks(2))

    report = run_checks(folder, reward_checker=lambda record: {"unavailable": "rounded observations"})

    for check in ("reward", "success"):
        assert (report.results[check].status, report.results[check].note) == ("skipped", "rounded observations")
    assert report.ok


def test_without_a_reward_checker_the_reason_is_the_callers(tmp_path):
    report = run_checks(write_version(tmp_path, make_walks(2)), skip_reason="no simulator")

    assert unpassed(report) == {"reward": "skipped", "success": "skipped"}
    assert report.results["reward"].note == "no simulator"


def test_ends_that_nobody_recorded_are_no_defect(tmp_path):
    report = run_checks(export(teleoperated_records([5, 6, 4]), "lab/teleop", license="mit", store=tmp_path))

    assert unpassed(report) == {"horizon": "skipped", "reward": "skipped", "success": "skipped"}
    assert report.results["horizon"].note == "why the episodes end was not recorded: no row sets an end flag"
