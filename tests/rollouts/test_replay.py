"""Replays of recorded episodes: intact episodes are bit-exact, and every planted change is reported with its step."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data._schema import Schema
from rlhive.data.recording import Recorder
from rlhive.data.versions import read_records
from rlhive.data.versions._certificate import read_certificate
from rlhive.data.versions._manifest import Manifest
from rlhive.envs._make import make_env, make_policy
from rlhive.rollouts import _replay
from rlhive.rollouts._replay import check, make_reward_checker, replay, replay_episode
from rlhive.rollouts._rollout import rollout_episode


def record_episode(env, level, seed) -> EpisodeRecord:
    rollout = rollout_episode(env, make_policy(env, level), seed=seed)
    columns, final = pack(rollout.transitions, Schema.from_tensordict(rollout.transitions), context="test")
    return EpisodeRecord(7, level, columns, final, seed, rollout.start_state)


@pytest.fixture
def toy():
    return make_env("toy_point")


@pytest.fixture
def record(toy):
    return record_episode(toy, "random", 3)


@pytest.mark.parametrize(
    ("env_name", "level"),
    [("FK1_Knob1OnRandom-v4", "expert"), ("franka_slide_random-v3", "random"), ("FrankaReachRandom-v0", "random")],
)
def test_episodes_of_robohive_are_bit_exact_in_another_instance(env_name, level):
    record = record_episode(make_env(env_name, seed=11), level, 4)
    other = make_env(env_name, seed=99)
    for state in record.start_state.values():
        state.flags.writeable = False  # like the arrays of a version's table

    assert replay_episode(other, replace(record, seed=None)).verdict == "bit-exact"
    record.columns["action"][20] *= -1
    changed = replay_episode(other, record)
    assert (changed.verdict, changed.step) == ("diverges", 20)
    assert changed.observation_error > 1e-3


def test_an_untouched_episode_is_bit_exact(toy, record):
    result = replay_episode(toy, record)

    assert (result.verdict, result.step, result.observation_error, result.reward_error) == ("bit-exact", -1, 0.0, 0.0)


def test_without_a_start_state_the_seed_is_used_and_without_both_nothing_can_be_replayed(toy, record):
    assert replay_episode(toy, replace(record, start_state={})).verdict == "bit-exact"
    assert replay_episode(toy, replace(record, start_state={}, seed=4)).verdict == "diverges"
    assert replay_episode(toy, replace(record, start_state={}, seed=None)).verdict == "not replayable"


def test_small_differences_are_measured_and_within_the_tolerance(toy, record):
    record.columns["observation"][5, 0] += 3e-9
    record.columns["next.reward"][8] -= 2e-7

    result = replay_episode(toy, record)

    assert (result.verdict, result.step) == ("within tolerance", -1)
    assert result.observation_error == pytest.approx(3e-9, rel=1e-5)
    assert result.reward_error == pytest.approx(2e-7, rel=1e-5)
    strict = replay_episode(toy, record, tolerance=1e-8)
    assert (strict.verdict, strict.step, strict.reason) == ("diverges", 8, "next.reward differs by 2e-07")


@pytest.mark.parametrize(
    ("column", "row", "value", "step", "says"),
    [
        ("action", 6, 0.125, 6, "observation differs"),
        ("action", 6, np.nan, 6, "expected an action in"),
        ("observation", 0, 0.75, 0, "observation differs"),
        ("observation", 4, np.nan, 3, "observation differs by inf"),
        ("success", 9, True, 8, "success differs by 1"),
        ("next.terminated", 10, True, 10, "terminated is True in the dataset, False in the replay"),
    ],
)
def test_a_changed_value_diverges_at_its_step(toy, record, column, row, value, step, says):
    record.columns[column][row] = value

    result = replay_episode(toy, record)

    assert (result.verdict, result.step) == ("diverges", step)
    assert says in result.reason
    assert f"episode 7 diverges at step {step}: " in str(result)


def test_a_start_state_of_another_environment_is_reported():
    env = make_env("FrankaReachRandom-v0", seed=0)
    record = record_episode(env, "random", 0)

    result = replay_episode(env, replace(record, start_state={"integration": np.zeros(3)}))

    assert (result.verdict, result.step) == ("diverges", 0)
    assert "expected a state with" in result.reason


def test_a_collected_version_is_bit_exact_and_certified(version, tmp_path):
    certificate = replay(version, store=tmp_path, num_workers=1, progress=False)

    assert certificate.verdict == "bit-exact"
    assert certificate.verdicts == {"bit-exact": 6, "within tolerance": 0, "diverges": 0, "not replayable": 0}
    assert (certificate.num_episodes, certificate.of_episodes, certificate.differences) == (6, 6, ())
    assert read_certificate(Manifest.read(version).fingerprint, store=tmp_path) == certificate


def test_a_sample_is_evenly_spread_and_does_not_replace_a_certificate_of_more_episodes(version, tmp_path, monkeypatch):
    jobs_run = []
    monkeypatch.setattr(
        _replay, "map_unordered", lambda function, jobs, **_: jobs_run.extend(jobs) or [function(*job) for job in jobs]
    )
    sample = replay(version, episodes=3, store=tmp_path, progress=False)
    assert [record.episode for _, _, records, _ in jobs_run for record in records] == [0, 2, 5]
    assert read_certificate(sample.fingerprint, store=tmp_path).num_episodes == 3

    replay(version, store=tmp_path, progress=False)
    replay(version, episodes=1, store=tmp_path, progress=False)

    assert read_certificate(sample.fingerprint, store=tmp_path).num_episodes == 6


@pytest.mark.parametrize(
    "lie",
    [{"env_kwargs": 5}, {"env_kwargs": {"frame_skip": "x"}}, {"horizon": []}, {"env_name": []}, {"backend": {}}, {}],
)
def test_any_json_as_provenance_gives_a_checker_or_a_reason(version, lie):
    manifest = Manifest.read(version)
    (run,) = manifest.runs
    for changed in ({**run, "task": {**run["task"], **lie}}, {**run, "env": 5, "task": lie or 7}):
        checker, reason = make_reward_checker(replace(manifest, runs=(changed,)))
        assert checker is not None or reason


def test_the_dataset_card_reports_the_replay_before_the_commit(version):
    assert "- Replay: 6 episodes, evenly spread, were stepped again before the version was written: 6 bit-exact." in (
        version / "README.md"
    ).read_text(encoding="utf-8")


def test_check_computes_rewards_with_the_versions_environment(version):
    report = check(version)

    assert {outcome.status for outcome in report.results.values()} == {"passed"}
    find_errors, _ = make_reward_checker(Manifest.read(version))
    env = make_env("toy_point")
    record = record_episode(env, "expert", 1)
    assert find_errors(record) == {}
    record.columns["next.reward"][2] += 1e-12
    record.final["success"][:] ^= True
    assert "row 2: expected" in find_errors(record)["reward"]
    assert f"row {record.length - 1}: expected" in find_errors(record)["success"]


def test_the_command_prints_and_stores_the_certificate_and_show_prints_it(version, store):
    shown = [CliRunner().invoke(app, ["show", str(version)]).stdout]
    ran = CliRunner().invoke(app, ["replay", str(version), "--verify", "--episodes", "2", "--workers", "1", "--json"])
    shown.append(CliRunner().invoke(app, ["show", str(version)]).stdout)

    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["verdict"] == "bit-exact"
    assert "certificate  none; make it: rlhive replay" in shown[0]
    assert "2 of 6 episodes replayed in ToyPoint-v0: 2 bit-exact" in shown[1].replace("\n", " ")
    assert [path.name for path in store.glob(".certificates/*")] == [f"{Manifest.read(version).fingerprint}.json"]


def test_a_verdict_names_the_parts_of_the_observation_and_what_is_outside_the_simulator():
    env = make_env("baoding-v1", seed=0, max_episode_steps=12)
    record = record_episode(env, "random", 4)
    record.columns["observation"][6, 1] += 1e-3

    assert replay_episode(env, replace(record, seed=None)).reason == (
        "observation differs by 0.001 in hand_pos; outside the simulator this task keeps counter"
    )


def test_a_state_that_leads_the_environment_astray_is_a_verdict():
    env = make_env("baoding-v1", seed=0, max_episode_steps=12)
    record = record_episode(env, "random", 4)

    result = replay_episode(env, replace(record, start_state={**record.start_state, "counter": np.array([1e9])}))

    assert (result.verdict, result.step) == ("diverges", 0)
    assert "the environment failed: IndexError" in result.reason


@pytest.mark.parametrize("env_name", ["FrankaReachRandom-v0", "baoding-v1"])
def test_a_recording_of_a_robohive_environment_can_be_replayed(env_name, tmp_path):
    """As in the README: nobody passes seeds or start states."""
    from torchrl.envs import RewardSum, TransformedEnv

    env = TransformedEnv(make_env(env_name, seed=0, max_episode_steps=6), RewardSum())
    with Recorder(tmp_path / "recording", env=env, policy="random") as recorder:
        recorder.extend(env.rollout(6))
        recorder.extend(torch.cat([env.rollout(6), env.rollout(6)]))
        for seed in (5, 6):
            env.set_seed(seed)
            recorder.add_episode(env.rollout(6))
    path = recorder.commit(license="mit", version="1.0.0", name="my/recording", store=tmp_path)

    records = list(read_records(path, Manifest.read(path), ["train"]))
    assert [record.seed for record in records] == [0, None, None, 5, 6]
    certificate = replay(path, store=tmp_path, num_workers=1, progress=False)
    assert certificate.verdicts["bit-exact"] == 5, certificate.notable


def test_resets_before_the_recorder_give_no_start_state(tmp_path):
    env = make_env("FrankaReachRandom-v0", seed=0, max_episode_steps=4)
    before = env.rollout(4)
    with Recorder(tmp_path / "recording", env=env) as recorder:
        recorder.extend(before)
        recorder.extend(env.rollout(4))

    assert [bool(record.start_state) for record in recorder.recording.sorted_records()] == [False, True]
