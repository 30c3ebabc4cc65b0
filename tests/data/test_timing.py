"""Rates and timestamps from the recorder to the manifest, the card, `rlhive show`, merges and LeRobot."""

import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from rlhive import Recorder, RoboHiveDataset, export_to, import_dataset
from rlhive.cli import app
from rlhive.data._timing import StepTimes, count_dropped, find_fps, find_recorded_fps, find_timestamps, find_unordered
from rlhive.data.checks import run_checks
from rlhive.data.recording import recordings
from rlhive.errors import InvalidOptionError, SchemaMismatchError, UnsupportedFormatError

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "25"))


def record(store, *, fps=30, rate=30.0, length=20, jitter_s=0.0, name="lab/clock", commit=True, seed=0, **options):
    """Record two episodes whose steps come at a rate, from a loop of plain dicts."""
    generator = np.random.default_rng(seed)
    with Recorder(name, policy="operator", store=store, **({} if fps is None else {"fps": fps})) as recorder:
        for episode in range(2):
            times = 1.7e9 + 100 * episode + np.arange(length) / rate + generator.uniform(-jitter_s, jitter_s, length)
            states = generator.normal(size=(length + 1, 3))
            for row in range(length):
                after = {"observation": states[row + 1], "truncated": row == length - 1}
                recorder.step(
                    {"observation": states[row], "action": states[row, :1], "timestamp": times[row], "next": after}
                )
    return RoboHiveDataset(recorder.commit(license="mit", **options), store=store) if commit else recorder


def test_the_rate_is_kept_from_the_recorder_to_the_card(tmp_path, monkeypatch):
    dataset = record(tmp_path, jitter_s=1e-3)
    assert dataset.fps == 30.0
    assert dataset.manifest.runs[0]["fps"] == 30.0
    assert "- Rate: 30 frames per second\n" in (dataset.path / "README.md").read_text()
    assert "rate         30 frames per second" in repr(dataset)
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["show", str(dataset.path)]).output
    assert "rate         30 frames per second" in shown
    assert json.loads(CliRunner().invoke(app, ["show", str(dataset.path), "--json"]).output)["fps"] == 30.0
    assert run_checks(dataset.path).results["jitter"].note.startswith("95 % of the steps are within 1.")
    assert dataset.select([0]).save("lab/half").fps == 30.0
    assert dataset.schema["timestamp"].dtype == "float64"


def test_without_a_rate_nothing_is_said_of_it(tmp_path):
    dataset = record(tmp_path, fps=None)
    assert dataset.fps is None
    assert "Rate" not in (dataset.path / "README.md").read_text()
    assert "rate  " not in repr(dataset)


@pytest.mark.parametrize(("fps", "rate"), [(30, 20.0), (10, 30.0), (30, 24.5), (1e6, 30.0)])
def test_a_rate_that_contradicts_the_timestamps_is_refused_and_the_recording_kept(fps, rate, tmp_path):
    recorder = record(tmp_path, fps=fps, rate=rate, commit=False)
    problem = f"fps={fps:g} contradicts the timestamps: expected a median step of "
    message = rf"{re.escape(problem)}.*, within 20%, got .* s, {rate:.3g} fra"
    with pytest.raises(SchemaMismatchError, match=message) as raised:
        recorder.commit(license="mit")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "lab").glob("clock/[0-9]*"))
    assert [recording.path for recording in recordings(store=tmp_path)] == [recorder.path]
    assert "commit(fps=…) or `rlhive recover --commit --fps …` sets another rate" in str(raised.value)
    dataset = RoboHiveDataset(recorder.commit(license="mit", fps=rate), store=tmp_path)
    assert dataset.fps == rate
    assert run_checks(dataset.path).ok


def test_the_shell_corrects_a_rate(tmp_path):
    recorder = record(tmp_path, fps=60, commit=False)
    arguments = ["recover", str(recorder.path), "--commit", "--name", "lab/clock", "--license", "mit"]
    result = CliRunner().invoke(app, arguments, env={"RLHIVE_DATASETS_PATH": str(tmp_path)})
    assert result.exit_code != 0
    result = CliRunner().invoke(app, [*arguments, "--fps", "30"], env={"RLHIVE_DATASETS_PATH": str(tmp_path)})
    assert result.exit_code == 0, result.output
    assert RoboHiveDataset("lab/clock", store=tmp_path).fps == 30.0


@pytest.mark.parametrize(("fps", "rate"), [(30, 29.97), (30, 26.0), (30, 35.0), (25, 25.0)])
def test_a_rate_within_a_fifth_of_the_timestamps_is_accepted(fps, rate, tmp_path):
    assert record(tmp_path, fps=fps, rate=rate).fps == fps


def test_dropped_frames_do_not_contradict_a_rate(tmp_path):
    recorder = record(tmp_path, commit=False)
    with Recorder.resume(recorder.path, store=tmp_path) as resumed:
        times = np.cumsum(np.where(np.arange(30) % 3 == 0, 3, 1) / 30)
        resumed.add_episode(
            {
                "observation": np.zeros((30, 3)),
                "action": np.zeros((30, 1)),
                "timestamp": times,
                "next": {"observation": np.zeros((30, 3))},
            }
        )
    dataset = RoboHiveDataset(resumed.commit(license="mit"), store=tmp_path)
    result = run_checks(dataset.path).results["dropped_frames"]
    assert re.search(r": 18 dropped, the first after row 2: 0\.1 s to the next", result.findings[0])


def test_a_recording_has_one_rate(tmp_path):
    recorder = record(tmp_path, commit=False)
    for fps in (15, 30.5):
        with pytest.raises(InvalidOptionError, match=rf"fps={fps}: expected the recording's rate, got 30 there"):
            Recorder.resume(recorder.path, fps=fps, store=tmp_path)
    with Recorder.resume(recorder.path, store=tmp_path) as resumed, Recorder.resume(recorder.path, fps=30) as again:
        assert [run["fps"] for run in resumed.recording.runs] == [30.0] * 3
        assert again.recording.path == resumed.path
    unrated = record(tmp_path, fps=None, name="lab/unrated", commit=False)
    with pytest.raises(InvalidOptionError, match="got no rate there"):
        Recorder.resume(unrated.path, fps=30, store=tmp_path)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "30", True, [30]])
def test_a_rate_that_is_none_is_refused_and_nothing_is_made(fps, tmp_path):
    with pytest.raises(InvalidOptionError, match="expected a positive number of frames per second"):
        Recorder("lab/clock", fps=fps, store=tmp_path)
    assert not list(tmp_path.rglob("recording.json"))


def test_two_rates_merge_to_none_and_each_run_keeps_its_own(tmp_path, caplog):
    fast, slow = record(tmp_path), record(tmp_path, fps=10, rate=10.0, name="lab/slow", seed=1)
    both = fast.merge(slow, name="lab/both")
    assert (
        "Merging: rates of 30 and 10 frames per second: the result has none, and each run keeps its own" in caplog.text
    )
    assert both.fps is None
    assert sorted(run["fps"] for run in both.manifest.runs) == [10.0, 30.0]
    results = run_checks(both.path).results  # each episode is compared with the rate of its run
    assert results["timestamps"].status == results["jitter"].status == results["dropped_frames"].status == "passed"
    with pytest.raises(UnsupportedFormatError, match="expected fps=: the runs record no frames per second, or not all"):
        export_to("lerobot", both.path, tmp_path / "lerobot", progress=False)
    same = fast.merge(record(tmp_path, name="lab/again", seed=2), name="lab/same")
    assert same.fps == 30.0
    caplog.clear()
    appended = RoboHiveDataset(
        record(tmp_path, fps=10, rate=10.0, seed=3, commit=False).commit(license="mit", append=True), store=tmp_path
    )
    assert "rates of 30 and 10" in caplog.text
    assert appended.fps is None


@pytest.mark.parametrize(("rate", "jitter_s", "is_kept"), [(30.0, 2e-5, True), (30.0, 2e-3, False), (29.97, 0.0, True)])
def test_lerobot_gets_the_recorded_rate_and_the_timestamps_that_it_accepts(rate, jitter_s, is_kept, tmp_path, caplog):
    dataset = record(tmp_path, fps=rate, rate=rate, jitter_s=jitter_s)
    export_to("lerobot", dataset.path, tmp_path / "lerobot", progress=False)
    assert json.loads((tmp_path / "lerobot/meta/info.json").read_text())["fps"] == 30
    frames = pq.read_table(tmp_path / "lerobot/data").to_pandas()
    recorded = dataset.as_tensordict(dtype=None)["timestamp"].numpy().reshape(2, 20)
    np.testing.assert_array_equal(frames["recorded_timestamp"].to_numpy().reshape(2, 20), recorded)
    written = frames["timestamp"].to_numpy().reshape(2, 20)
    expected = recorded - recorded[:, :1] if is_kept else np.tile(np.arange(20) / 30, (2, 1))
    np.testing.assert_allclose(written, expected, atol=1e-6)
    assert (np.abs(np.diff(written.astype(float)) - 1 / 30) <= 1e-4).all()  # what LeRobot asks for
    assert ("the timestamps of 2 episodes vary by more than LeRobot's 0.0001 s" in caplog.text) is not is_kept
    folder = import_dataset("lerobot", tmp_path / "lerobot", "lab/again", license="mit", store=tmp_path, progress=False)
    again = RoboHiveDataset(folder, store=tmp_path)
    assert again.fps == 30.0
    np.testing.assert_array_equal(again.as_tensordict(dtype=None)["timestamp"].numpy().reshape(2, 20), recorded)


@pytest.mark.parametrize(
    ("runs", "recorded", "found"),
    [
        ([], None, None),
        ([{"fps": 30}], 30.0, 30.0),
        ([{"fps": 30}, {"fps": 30.0}], 30.0, 30.0),
        ([{"fps": 30}, {"fps": 15}], None, None),
        ([{"fps": 30}, {}], None, None),
        ([{"env": {"dt": 0.04}}], None, 25.0),
        ([{"fps": 50, "env": {"dt": 0.04}}], 50.0, 50.0),
        ([{"fps": "30"}], None, None),
        ([{"fps": True}], None, None),
        ([{"fps": -3}], None, None),
        ([{"fps": 10**400}], None, None),
        ([{"env": {"dt": 5e-324}}], None, None),
        ([{"env": "x"}], None, None),
    ],
)
def test_the_rate_of_runs(runs, recorded, found):
    assert find_recorded_fps(runs) == recorded
    assert find_fps(runs) == found


def test_a_column_of_timestamps_is_one_floating_point_number():
    assert find_timestamps({}) is None
    assert find_timestamps({"timestamp": np.arange(3)}) is None
    assert find_timestamps({"timestamp": np.array(["a"], object)}) is None
    assert find_timestamps({"timestamp": np.zeros((3, 2))}) is None
    np.testing.assert_array_equal(
        find_timestamps({"timestamp": np.arange(3, dtype=np.float32)[:, None]}), [0.0, 1.0, 2.0]
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    steps=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=60),
    fps=st.floats(1, 1000),
    origin=st.sampled_from([0.0, 1.7e9]),
)
def test_the_summary_of_steps_is_that_of_numpy(steps, fps, origin):
    timestamps = origin + np.cumsum([0.0, *steps])
    steps = np.diff(timestamps)
    times = StepTimes(fps)
    times.add(timestamps)
    median, deviation = np.quantile(steps, 0.5, method="lower"), np.abs(steps - 1 / fps)
    assert abs(times.median_s - median) <= 0.01 * abs(median - 1 / fps) + 1e-6
    jitter = np.quantile(deviation, 0.95, method="lower")
    assert abs(times.jitter_s - jitter) <= 0.01 * jitter + 1e-6
    num_dropped, row = count_dropped(timestamps, fps)
    gaps = [index for index, step in enumerate(steps) if step * fps >= 1.5]
    assert row == (gaps[0] if gaps else -1)
    assert num_dropped >= len(gaps)
    assert find_unordered(timestamps) == -1
    shuffled = timestamps[::-1].copy()
    assert find_unordered(shuffled) == 1
