"""Replays against what was recorded: clean episodes are bit-exact, and every planted change is named with its step."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.data._episodes import EpisodeRecord, pack
from rlhive.data._schema import Schema
from rlhive.data.versions._certificate import read_certificate
from rlhive.data.versions._manifest import Manifest
from rlhive.envs._make import make_env, make_policy
from rlhive.envs._tasks import Recipe, get_task
from rlhive.errors import EnvNotFound, ReplayRefused
from rlhive.rollouts import _replay as room
from rlhive.rollouts._collect import collect
from rlhive.rollouts._rebuild import differences, task_of, tasks_of
from rlhive.rollouts._replay import check, judge_of, replay, replay_episode
from rlhive.rollouts._rollout import rollout_episode

FEW = replace(get_task("toy_point"), recipe=Recipe("1.0.0", {"expert": 3, "random": 3}, "mit"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return collect(FEW, store=tmp_path_factory.mktemp("made"), progress=False, num_workers=1)


def record_of(env, level, seed) -> EpisodeRecord:
    ran = rollout_episode(env, make_policy(env, level), seed=seed)
    columns, final = pack(ran.transitions, Schema.from_tensordict(ran.transitions), context="test")
    return EpisodeRecord(7, level, columns, final, seed, ran.start_state)


@pytest.fixture
def toy():
    return make_env("toy_point")


@pytest.fixture
def record(toy):
    return record_of(toy, "random", 3)


@pytest.mark.parametrize(
    ("env_name", "level"),
    [("FK1_Knob1OnRandom-v4", "expert"), ("franka_slide_random-v3", "random"), ("FrankaReachRandom-v0", "random")],
)
def test_episodes_of_robohive_are_bit_exact_in_another_instance(env_name, level):
    record = record_of(make_env(env_name, seed=11), level, 4)
    other = make_env(env_name, seed=99)
    for state in record.start_state.values():
        state.flags.writeable = False  # as those are that a version's table holds

    assert replay_episode(other, replace(record, seed=None)).verdict == "bit-exact"
    record.columns["action"][20] *= -1
    changed = replay_episode(other, record)
    assert (changed.verdict, changed.step) == ("diverges", 20)
    assert changed.observation_error > 1e-3


def test_an_untouched_episode_is_bit_exact(toy, record):
    found = replay_episode(toy, record)

    assert (found.verdict, found.step, found.observation_error, found.reward_error) == ("bit-exact", -1, 0.0, 0.0)


def test_without_a_start_state_the_seed_serves_and_without_both_nothing(toy, record):
    assert replay_episode(toy, replace(record, start_state={})).verdict == "bit-exact"
    assert replay_episode(toy, replace(record, start_state={}, seed=4)).verdict == "diverges"
    assert replay_episode(toy, replace(record, start_state={}, seed=None)).verdict == "not replayable"


def test_small_differences_are_within_tolerance_and_measured(toy, record):
    record.columns["observation"][5, 0] += 3e-9
    record.columns["next.reward"][8] -= 2e-7

    found = replay_episode(toy, record)

    assert (found.verdict, found.step) == ("within tolerance", -1)
    assert found.observation_error == pytest.approx(3e-9, rel=1e-5)
    assert found.reward_error == pytest.approx(2e-7, rel=1e-5)
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
def test_a_change_diverges_at_its_step(toy, record, column, row, value, step, says):
    record.columns[column][row] = value

    found = replay_episode(toy, record)

    assert (found.verdict, found.step) == ("diverges", step)
    assert says in found.reason
    assert f"episode 7 diverges at step {step}: " in str(found)


def test_a_state_of_another_environment_is_named():
    env = make_env("FrankaReachRandom-v0", seed=0)
    record = record_of(env, "random", 0)

    found = replay_episode(env, replace(record, start_state={"integration": np.zeros(3)}))

    assert (found.verdict, found.step) == ("diverges", 0)
    assert "expected a state with" in found.reason


def test_a_collected_version_is_bit_exact_and_certified(made, tmp_path):
    certificate = replay(made, store=tmp_path, num_workers=1, progress=False)

    assert certificate.verdict == "bit-exact"
    assert certificate.verdicts == {"bit-exact": 6, "within tolerance": 0, "diverges": 0, "not replayable": 0}
    assert (certificate.num_episodes, certificate.of_episodes, certificate.differences) == (6, 6, ())
    assert read_certificate(Manifest.read(made).fingerprint, store=tmp_path) == certificate


def test_a_sample_is_spread_and_does_not_replace_a_certificate_of_more(made, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        room, "map_unordered", lambda function, jobs, **_: seen.extend(jobs) or [function(*job) for job in jobs]
    )
    sample = replay(made, episodes=3, store=tmp_path, progress=False)
    assert [record.episode for _, _, records, _ in seen for record in records] == [0, 2, 5]
    assert read_certificate(sample.fingerprint, store=tmp_path).num_episodes == 3

    replay(made, store=tmp_path, progress=False)
    replay(made, episodes=1, store=tmp_path, progress=False)

    assert read_certificate(sample.fingerprint, store=tmp_path).num_episodes == 6


def test_another_model_or_version_is_said(made):
    (run,) = Manifest.read(made).runs
    told = {**run, "env": {"model_hash": "a", "versions": {"mujoco": "3.1.3", "robohive": "0.7.0"}}}

    assert differences(run, make_env("toy_point").provenance()) == []
    assert differences(told, {"model_hash": "b", "versions": {"mujoco": "3.2.0", "robohive": "0.7.0"}}) == [
        "the compiled model is another one",
        "mujoco 3.2.0 instead of 3.1.3",
    ]


def test_a_manifest_names_no_file_no_robot_and_no_weights(made):
    manifest = Manifest.read(made)
    (run,) = manifest.runs
    for name in ("config_path", "model_path", "obsd_model_path", "is_hardware", "visual_keys", "robot_name"):
        task = {**run["task"], "backend": "robohive", "env_kwargs": {name: "./data/evil.config"}}
        with pytest.raises(ReplayRefused, match=name):
            task_of({**run, "task": task}, manifest)
        assert judge_of(replace(manifest, runs=({**run, "task": task},)))[0] is None
    allowed = {**run["task"], "env_kwargs": {"frame_skip": 2}}
    assert task_of({**run, "task": allowed}, manifest).env_kwargs == {"frame_skip": 2}
    with pytest.raises(EnvNotFound, match="got no run"):
        tasks_of(replace(manifest, runs=()))
    with pytest.raises(EnvNotFound, match="expected an environment in its provenance"):
        task_of({"run": "x"}, replace(manifest, env_name=""))


@pytest.mark.parametrize(
    "lie",
    [{"env_kwargs": 5}, {"env_kwargs": {"frame_skip": "x"}}, {"horizon": []}, {"env_name": []}, {"backend": {}}, {}],
)
def test_a_provenance_of_any_json_is_no_other_error(made, lie):
    manifest = Manifest.read(made)
    (run,) = manifest.runs
    for changed in ({**run, "task": {**run["task"], **lie}}, {**run, "env": 5, "task": lie or 7}):
        judge, why = judge_of(replace(manifest, runs=(changed,)))
        assert judge is not None or why


def test_the_card_says_what_a_sample_replayed_before_the_commit(made):
    assert "- Replay: 6 episodes, evenly spread, were stepped again before the version was written: 6 bit-exact." in (
        made / "README.md"
    ).read_text(encoding="utf-8")


def test_check_computes_rewards_with_the_versions_own_environment(made):
    report = check(made)

    assert {outcome.status for outcome in report.results.values()} == {"passed"}
    judge, _ = judge_of(Manifest.read(made))
    env = make_env("toy_point")
    record = record_of(env, "expert", 1)
    assert judge(record) == {}
    record.columns["next.reward"][2] += 1e-12
    record.final["success"][:] ^= True
    assert "row 2: expected" in judge(record)["reward"]
    assert f"row {record.length - 1}: expected" in judge(record)["success"]


def test_the_command_prints_keeps_and_shows_the_certificate(made, store):
    shown = [CliRunner().invoke(app, ["show", str(made)]).stdout]
    ran = CliRunner().invoke(app, ["replay", str(made), "--verify", "--episodes", "2", "--workers", "1", "--json"])
    shown.append(CliRunner().invoke(app, ["show", str(made)]).stdout)

    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["verdict"] == "bit-exact"
    assert "certificate  none; make it: rlhive replay" in shown[0]
    assert "2 of 6 episodes replayed in ToyPoint-v0: 2 bit-exact" in shown[1].replace("\n", " ")
    assert [path.name for path in store.glob(".certificates/*")] == [f"{Manifest.read(made).fingerprint}.json"]
