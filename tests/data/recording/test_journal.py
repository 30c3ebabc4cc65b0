import contextlib
import json
import os
import resource
import signal
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from rlhive.cli import app
from rlhive.data._episodes import pack
from rlhive.data._schema import Schema
from rlhive.data.recording import _journal, _writer
from rlhive.data.recording._recorder import Recorder
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._recover import commit_recording, recover_interrupted
from rlhive.data.recording._stream import StreamReader
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import SchemaMismatchError
from tests.data.strategies import transitions


@pytest.fixture
def save_each_step(monkeypatch):
    monkeypatch.setattr(_journal, "SAVE_SECONDS", 0.0)


def unfinished(length, seed):
    return transitions(length, seed, ended="unfinished")


def journals(folder):
    return sorted(folder.glob("*.open"))


def run_and_kill(work):
    """Fork, let the child work until it writes to a pipe, and kill it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
            os.write(writing, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        assert report.read(1) == b"x"
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def record_and_kill(folder, episode):
    """Record an episode step by step in a process, which is killed after the last step."""

    def work():
        recorder = Recorder(folder)
        for step in episode:
            recorder.step(step)

    run_and_kill(work)


def columns_of(record):
    return {**record.columns, **{f"final.{name}": value for name, value in record.final.items()}}


def assert_prefix(record, episode, length):
    """Check that a record holds the first transitions of an episode, bit for bit."""
    part = episode[:length]
    columns, final = pack(part, Schema.from_tensordict(part), context="expected")
    expected = {**columns, **{f"final.{name}": value for name, value in final.items()}}
    assert record.length == length
    assert columns_of(record).keys() == expected.keys()
    for name, values in columns_of(record).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.parametrize("on_incomplete", ["unfinished", "truncated"])
def test_the_steps_of_a_killed_process_are_recorded(store, save_each_step, on_incomplete):
    episode = unfinished(30, 0)
    start_state = {"qpos": np.array([0.1, -0.0, 3.0]), "time": np.array(7.5)}

    def work():
        recorder = Recorder("my/knob", on_incomplete=on_incomplete, policy="operator")
        recorder.start_episode(seed=5, metadata={"note": "long"}, start_state=start_state)
        for step in episode:
            recorder.step(step)

    run_and_kill(work)
    rows = json.loads(CliRunner().invoke(app, ["recover", "--json"]).stdout)
    table = CliRunner().invoke(app, ["recover"]).stdout
    folder = commit_recording(Recording(next((store / ".recordings/my/knob").iterdir())), license="mit")

    assert [(row["num_episodes"], row["num_interrupted"], row["interrupted_transitions"]) for row in rows] == [
        (0, 1, 30)
    ]
    assert "and what was saved of interrupted episodes (1 with 30 transitions), which a commit records" in table
    dataset = RoboHiveDataset(folder)
    (row,) = dataset.episodes.to_pylist()
    assert (row["length"], row["ended"], row["seed"], row["policy"]) == (30, on_incomplete, 5, "operator")
    assert json.loads(row["metadata"]) == {"note": "long"}
    assert row["start.qpos"] == [0.1, -0.0, 3.0]
    stored = dataset.as_tensordict()
    assert (stored["observation"] == episode["observation"]).all()
    assert (stored["next", "observation"] == episode["next", "observation"]).all()
    assert (stored["action"] == episode["action"]).all()


def test_interleaved_environments_keep_a_journal_each(tmp_path, save_each_step):
    episodes = [unfinished(12, seed) for seed in range(3)]

    def work():
        recorder = Recorder(tmp_path / "r")
        recorder.add_episode(transitions(4, 9))
        for steps in zip(*episodes, strict=True):
            recorder.step(torch.stack(steps))

    run_and_kill(work)
    recording = Recording(tmp_path / "r")
    assert len(recover_interrupted(recording)) == 3
    assert recover_interrupted(recording) == []

    by_length = sorted(recording.records(), key=lambda record: record.length)
    assert [record.length for record in by_length] == [4, 12, 12, 12]
    for episode in episodes:
        assert any(np.array_equal(record.columns["action"], episode["action"].numpy()) for record in by_length)
    assert journals(tmp_path / "r") == []


def test_a_stream_is_searched_for_journals_once_however_many_there_are(tmp_path, save_each_step, monkeypatch):
    episodes = [unfinished(4, seed) for seed in range(6)]

    def work():
        recorder = Recorder(tmp_path / "r")
        recorder.add_episode(transitions(4, 9))
        for steps in zip(*episodes, strict=True):
            recorder.step(torch.stack(steps))

    run_and_kill(work)
    searched, search = [], StreamReader.journal_tokens
    monkeypatch.setattr(StreamReader, "journal_tokens", lambda self: searched.append(self) or search(self))

    assert len(recover_interrupted(Recording(tmp_path / "r"))) == 6
    assert len(searched) == 1 + 6  # the stream of the killed process, and one for each recovered episode


def test_an_episode_that_ends_leaves_no_journal_and_is_recorded_once(tmp_path, save_each_step):
    episode = transitions(20, 3)
    with Recorder(tmp_path / "r") as recorder:
        for step in episode[:10]:
            recorder.step(step)
        assert len(journals(tmp_path / "r")) == 1
        recorder.extend(episode[10:])
        assert journals(tmp_path / "r") == []
    (record,) = recorder.recording.records()
    assert_prefix(record, episode, 20)


@pytest.mark.parametrize("durability", ["batch", "none"])
def test_a_killed_process_loses_nothing_under_any_durability(tmp_path, durability, monkeypatch):
    monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)

    def work():
        recorder = Recorder(tmp_path / "r", durability=durability)
        for seed in range(5):
            recorder.add_episode(transitions(4, seed))

    run_and_kill(work)
    assert [record.length for record in Recording(tmp_path / "r").sorted_records()] == [4] * 5


def test_a_journal_is_removed_when_its_episode_was_flushed(tmp_path, save_each_step, monkeypatch):
    monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)
    with Recorder(tmp_path / "r", durability="batch") as recorder:
        for step in transitions(4, 0):
            recorder.step(step)
        assert len(journals(tmp_path / "r")) == 1  # a power loss may still take the episode from the stream
        assert list(recorder.recording.interrupted_episodes()) == []
    assert journals(tmp_path / "r") == []
    assert [record.length for record in recorder.recording.records()] == [4]


def test_a_kill_between_the_write_of_an_episode_and_the_end_of_its_journal_repeats_nothing(
    tmp_path, save_each_step, monkeypatch
):
    monkeypatch.setattr(_journal.EpisodeJournal, "remove", lambda self: None)

    record_and_kill(tmp_path / "r", transitions(20, 3))
    recording = Recording(tmp_path / "r")

    assert len(journals(tmp_path / "r")) == 1
    assert list(recording.interrupted_episodes()) == []
    assert recover_interrupted(recording) == []
    assert [record.length for record in recording.records()] == [20]


def test_a_cut_journal_gives_what_was_saved_before(tmp_path, save_each_step):
    episode = unfinished(30, 0)

    record_and_kill(tmp_path / "r", episode)
    (path,) = journals(tmp_path / "r")
    content = path.read_bytes()
    recording = Recording(tmp_path / "r")
    lengths = set()
    generator = np.random.default_rng(0)
    for kind in ("cut", "flip"):
        for position in generator.integers(0, len(content), 60):
            damaged = bytearray(content)
            if kind == "cut":
                del damaged[position:]
            else:
                damaged[position] ^= 0xFF
            path.write_bytes(damaged)
            lengths.add(sum(item.length for item in recording.interrupted_episodes()))
    assert lengths <= set(range(31))
    assert len(lengths) > 10

    path.write_bytes(content[: len(content) * 2 // 3])
    recover_interrupted(recording)
    (record,) = recording.records()
    assert 10 <= record.length < 30
    assert_prefix(record, episode, record.length)


def test_the_journal_of_a_live_process_is_left_alone(tmp_path, save_each_step):
    episode = transitions(10, 0)
    recorder = Recorder(tmp_path / "r")
    recorder.add_episode(transitions(3, 1))
    for step in episode[:5]:
        recorder.step(step)

    assert recover_interrupted(Recording(tmp_path / "r")) == []
    recorder.extend(episode[5:])
    recorder.close()

    assert sorted(record.length for record in recorder.recording.records()) == [3, 10]


def test_resuming_records_what_was_interrupted(tmp_path, save_each_step, caplog):
    episode = unfinished(8, 0)

    record_and_kill(tmp_path / "r", episode)
    with Recorder.resume(tmp_path / "r") as recorder:
        recorder.add_episode(transitions(3, 1))

    assert sorted(record.length for record in recorder.recording.records()) == [3, 8]
    assert "Episode 0 was interrupted: its first 8 transitions are recorded" in caplog.text


def test_a_step_of_another_shape_is_refused_at_the_end_of_its_episode(tmp_path, save_each_step):
    episode = transitions(10, 0)
    with Recorder(tmp_path / "r") as recorder:
        for step in episode[:4]:
            recorder.step(step)
        for step in episode[4:9].set("action", torch.zeros(5, 9)):
            recorder.step(step)
        with pytest.raises(SchemaMismatchError, match="key action changes inside the episode"):
            recorder.step(episode[9])
        recorder.add_episode(transitions(3, 1))
    assert [record.length for record in recorder.recording.records()] == [3]
    assert journals(tmp_path / "r") == []


def test_a_refused_episode_is_not_recovered(tmp_path, save_each_step):
    episode = transitions(10, 0)
    episode["next", "observation"][9] = float("nan")
    with Recorder(tmp_path / "r") as recorder:
        for step in episode[:9]:
            recorder.step(step)
        assert len(journals(tmp_path / "r")) == 1
        with pytest.raises(SchemaMismatchError, match="NaN"):
            recorder.step(episode[9])
        assert journals(tmp_path / "r") == []


def test_on_a_full_disk_the_episode_stays_in_memory(tmp_path, save_each_step, caplog):
    episode = transitions(200, 0)
    with Recorder(tmp_path / "r") as recorder:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        try:
            for step in episode[:150]:
                recorder.step(step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        recorder.extend(episode[150:])

    (record,) = recorder.recording.records()
    assert_prefix(record, episode, 200)
    assert len([entry for entry in caplog.records if "stays in memory" in entry.getMessage()]) == 1


@pytest.mark.parametrize("interrupted_call", range(4))
def test_an_interrupted_save_loses_and_repeats_no_step(tmp_path, save_each_step, monkeypatch, interrupted_call):
    episode, calls, write = transitions(12, 0), [], os.pwrite

    def interrupt(file, content, offset):
        calls.append(offset)
        if len(calls) == interrupted_call + 1:
            write(file, bytes(content)[: len(content) // 2], offset)
            raise KeyboardInterrupt
        return write(file, content, offset)

    monkeypatch.setattr(os, "pwrite", interrupt)
    with Recorder(tmp_path / "r") as recorder:
        for step in episode:
            with contextlib.suppress(KeyboardInterrupt):
                recorder.step(step)
        assert len(calls) > 4

    (record,) = recorder.recording.records()
    assert_prefix(record, episode, 12)


def test_a_fork_holds_no_journal_of_its_parent(tmp_path, save_each_step):
    def work():
        recorder = Recorder(tmp_path / "r")
        for step in unfinished(5, 0):
            recorder.step(step)
        if not os.fork():  # the child records on after its parent is gone
            recorder.step(unfinished(5, 1)[0])
            time.sleep(10)
            os._exit(0)

    run_and_kill(work)
    deadline = time.monotonic() + 6
    while not (episodes := list(Recording(tmp_path / "r").interrupted_episodes())) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert [episode.length for episode in episodes] == [5]


def test_short_episodes_never_touch_a_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(_journal.EpisodeJournal, "_begin", lambda *_: pytest.fail("a journal was begun"))
    with Recorder(tmp_path / "r") as recorder:
        for step in transitions(40, 0):
            recorder.step(step)
    assert recorder.num_episodes == 1


def test_the_end_of_a_long_episode_takes_little_more_memory_than_the_episode(tmp_path):
    length, width = 150, 10_000  # 12 MB

    def step(index):
        after = {"observation": np.full(width, index + 1.0), "reward": 0.0}
        after |= {"terminated": False, "truncated": index == length - 1}
        return {"observation": np.full(width, float(index)), "action": np.zeros(1), "next": after}

    arrow_pool = pa.proxy_memory_pool(pa.default_memory_pool())
    with Recorder(tmp_path / "r") as recorder, contextlib.ExitStack() as stack:
        for index in range(length - 1):
            recorder.step(step(index))
        stack.callback(pa.set_memory_pool, pa.default_memory_pool())
        pa.set_memory_pool(arrow_pool)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        recorder.step(step(length - 1))
        peak_bytes = tracemalloc.get_traced_memory()[1] + arrow_pool.max_memory()

    assert peak_bytes < 1.5 * length * width * 8
    (recorded,) = recorder.recording.records()
    assert (recorded.columns["observation"] == np.arange(float(length))[:, None]).all()
    assert (recorded.final["observation"] == length).all()
