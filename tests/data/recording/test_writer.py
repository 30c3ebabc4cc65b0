import contextlib
import errno
import json
import os
import random
import resource
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rlhive.data.recording import Recorder, _writer
from rlhive.data.recording._writer import StreamWriter
from rlhive.errors import DatasetExistsError, DiskFullError, InvalidNameError, InvalidOptionError, SchemaMismatchError
from tests.data.recording.samples import create_recording
from tests.data.strategies import records, same, transitions


@pytest.mark.parametrize("broken", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["disk full", "ctrl-c"])
def test_after_a_failed_write_the_next_episode_is_safe(broken, tmp_path, monkeypatch):
    schema, made = records([3, 4, 5])
    recording = create_recording(tmp_path / "r", schema, made[0])
    write = os.write

    def half(file, content):
        write(file, bytes(content)[: len(content) // 2])
        raise broken

    with StreamWriter(recording, "one") as writer:
        writer.write([made[0]])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(DiskFullError if isinstance(broken, OSError) else KeyboardInterrupt):
                writer.write([made[1]])
        writer.write(made[1:3])

    back = list(recording.sorted_records())
    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert recording.summarize().unreadable_bytes > 500


def test_a_file_size_limit_is_reported_as_a_full_disk(tmp_path):
    schema, made = records([40] * 20)
    recording = create_recording(tmp_path / "r", schema, made[0])
    reported, (_, hard) = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with StreamWriter(recording, "one") as writer, contextlib.suppress(DiskFullError):
            for record in made:
                writer.write([record])
                reported.append(record.episode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    assert 3 <= len(reported) < len(made)
    assert [record.episode for record in recording.sorted_records()] == reported


def test_a_start_state_of_other_parts_is_refused(tmp_path):
    schema, made = records([3])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer:
        for state in ({"time": np.zeros(1)}, {"qpos": np.zeros(3)}, {"qpos": np.zeros(2), "time": np.zeros(1)}):
            with pytest.raises(SchemaMismatchError, match=r"episode 3: start state '(qpos|time)'"):
                writer.write([replace(made[0], start_state=state)])

    assert recording.episode_outcomes() == {}


def test_an_episode_is_checked_before_it_is_written(tmp_path):
    schema, made = records([3])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as recorder:
        recorder.add_episode(transitions(4, 1), episode=1, split="a", start_state=made[0].start_state)
        with pytest.raises(SchemaMismatchError, match="episode 2: key action is missing"):
            recorder.add_episode(transitions(4, 2).exclude("action"), episode=2, split="a")
        recorder.add_episode(transitions(2, 3), episode=3, split="a", start_state=made[0].start_state)

    assert recording.episode_outcomes().keys() == {1, 3}


def test_a_stream_is_never_rewritten(tmp_path):
    schema, made = records([3])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as recorder:
        recorder.write([made[0]])

    with pytest.raises(DatasetExistsError, match="streams are never rewritten"):
        StreamWriter(recording, "one")

    with pytest.raises(ValueError, match="is closed"):
        recorder.write([made[0]])
    recorder.close()
    assert len(list(recording.records())) == 1


@pytest.mark.slow
def test_writers_that_are_killed_30_times_lose_at_most_the_episode_in_flight(tmp_path):
    command = [sys.executable, "-m", "tests.data.recording.torture", str(tmp_path), "30", str(random.randrange(10**6))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    result = json.loads(ran.stdout)
    assert result["kills"] == 30
    assert result["episodes"] > 30
    assert result["commits_killed"] >= 1


@contextlib.contextmanager
def disk_calls(monkeypatch):
    """Yield a list of the disk calls of this process: "write" and "sync".

    Writes to pipes are left out: a semaphore that is collected meanwhile tells multiprocessing's resource tracker.
    """
    calls = []
    write, sync = os.write, os.fdatasync

    def counted_write(file, content):
        if stat.S_ISREG(os.fstat(file).st_mode):
            calls.append("write")
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", counted_write)
        patch.setattr(os, "fdatasync", lambda file: calls.append("sync") or sync(file))
        yield calls


def test_one_call_writes_all_episodes_and_then_flushes_once(tmp_path, monkeypatch):
    schema, made = records([3, 4, 5])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer, disk_calls(monkeypatch) as calls:
        writer.write(made)

        assert calls == ["write", "write", "write", "sync"]
        assert (writer.num_episodes, writer.num_transitions) == (3, 12)


def test_with_batch_durability_a_call_flushes_if_the_last_flush_is_a_second_ago_and_so_does_the_end(
    tmp_path, monkeypatch
):
    schema, made = records([3, 4, 5, 6])
    recording = create_recording(tmp_path / "r", schema, made[0])
    monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)
    with StreamWriter(recording, "one", durability="batch") as writer, disk_calls(monkeypatch) as calls:
        writer.write(made[:1])
        writer.write(made[1:2])
        assert calls == ["write", "write"]
        assert not writer.keeps_promise
        monkeypatch.setattr(_writer, "FLUSH_SECONDS", 0.0)
        writer.write(made[2:3])
        assert calls == ["write", "write", "write", "sync"]
        assert writer.keeps_promise
        monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)
        writer.write(made[3:])
        assert calls[4:] == ["write"]
        writer.close()
        assert calls[4:] == ["write", "sync"]

    assert [record.length for record in recording.sorted_records()] == [3, 4, 5, 6]


def test_without_durability_nothing_is_flushed(tmp_path, monkeypatch):
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one", durability="none") as writer, disk_calls(monkeypatch) as calls:
        writer.write(made)
        writer.close()
        assert calls == ["write", "write"]
        assert writer.keeps_promise
    assert [record.length for record in recording.sorted_records()] == [3, 4]


def test_a_failed_write_flushes_what_earlier_calls_left_to_a_later_flush(tmp_path, monkeypatch):
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)
    with StreamWriter(recording, "one", durability="batch") as writer:
        writer.write(made[:1])
        with disk_calls(monkeypatch) as calls, monkeypatch.context() as patch:
            patch.setattr(_writer, "encode_records", lambda *args, **kwargs: iter([b"half", None]))
            with pytest.raises(TypeError):
                writer.write(made[1:])
            assert calls == ["write", "sync"]
        writer.write(made[1:])
    assert [record.length for record in recording.sorted_records()] == [3, 4]


def test_a_full_range_of_ids_is_flushed_before_the_next_one_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "EPISODES_PER_STREAM", 1)
    monkeypatch.setattr(_writer, "FLUSH_SECONDS", 60.0)
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, durability="batch") as writer, disk_calls(monkeypatch) as calls:
        writer.append(made[0])
        writer.append(made[1])
        assert calls == ["write", "write", "sync", "write"]  # header and episode, header


def test_an_unknown_durability_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="durability: expected one of episode, batch, none, got 'fast'"):
        Recorder(tmp_path / "r", durability="fast")
    assert not (tmp_path / "r").exists()


def test_appended_episodes_get_ids_and_are_written_by_one_flush(tmp_path, monkeypatch):
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, run="late") as writer:
        writer.append(made[0])
        with disk_calls(monkeypatch) as calls:
            assert writer.append(made[1]) == 1
            assert calls == []
            writer.flush()
            assert calls == ["write", "write", "sync"]
            writer.flush()
            assert calls == ["write", "write", "sync"]

    back = list(recording.sorted_records())
    assert [(record.episode, record.run) for record in back] == [(0, "late"), (1, "late")]
    expected = [replace(record, episode=index) for index, record in enumerate(made)]
    assert all(same(left, right) for left, right in zip(expected, back, strict=True))


def test_many_appended_bytes_are_written_before_the_flush(tmp_path, monkeypatch):
    schema, made = records([3, 4, 5])
    recording = create_recording(tmp_path / "r", schema, made[0])
    monkeypatch.setattr(_writer, "MAX_PENDING_BYTES", made[0].num_bytes + 1)
    with StreamWriter(recording, run="run") as writer:
        numbers = []
        for record in made:
            writer.append(record)
            numbers.append(writer.num_episodes)

    assert numbers == [0, 2, 3]


def test_writers_of_one_recording_assign_different_ids(tmp_path):
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)
    (tmp_path / "r/named.arrows").write_bytes(b"")
    with StreamWriter(recording, run="run") as one, StreamWriter(recording, run="run") as two:
        ids = [one.append(record), two.append(record), one.append(record), two.append(record)]
        assert (one.next_id, two.next_id) == (2, 1_000_002)
        one.flush()
        two.flush()

    assert ids == [0, 1_000_000, 1, 1_000_001]
    assert [record.episode for record in recording.sorted_records()] == sorted(ids)


def test_a_full_range_of_ids_is_followed_by_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "EPISODES_PER_STREAM", 2)
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)
    with StreamWriter(recording, run="run") as writer:
        ids = [writer.append(record) for _ in range(5)]
        writer.flush()

    assert ids == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "r").glob("*.arrows")) == [f"{n:06d}.arrows" for n in range(3)]
    assert [record.episode for record in recording.sorted_records()] == ids


def test_a_stream_that_another_writer_creates_first_is_not_claimed(tmp_path, monkeypatch):
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)
    open_file = os.open

    def be_second(path, flags, mode=0o777):
        if str(path).endswith("000000.arrows") and not path.exists():
            path.write_bytes(b"")
        return open_file(path, flags, mode)

    monkeypatch.setattr(os, "open", be_second)
    with StreamWriter(recording, run="run") as writer:
        assert writer.append(record) == 1_000_000


def test_appended_episodes_survive_a_full_disk_in_the_queue(tmp_path, monkeypatch):
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, run="run") as writer:
        writer.append(made[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, content: 0)
            with pytest.raises(DiskFullError):
                writer.flush()
        assert writer.num_episodes == 0
        assert writer.append(made[1]) == 1
        writer.flush()

    assert [record.length for record in recording.sorted_records()] == [3, 4]
    assert sorted(path.stem for path in (tmp_path / "r").glob("*.arrows")) == ["000000", "000000-1"]


def test_ids_come_either_from_the_caller_or_from_the_writer(tmp_path):
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)
    with StreamWriter(recording, "one") as named, pytest.raises(ValueError, match="expected episodes with ids"):
        named.append(record)
    with StreamWriter(recording, run="run") as numbered, pytest.raises(ValueError, match="takes episodes by append"):
        numbered.write([record])

    assert numbered.closed
    with pytest.raises(ValueError, match="is closed"):
        numbered.append(record)


def test_a_writer_that_cannot_open_its_stream_holds_no_lock(tmp_path):
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)
    StreamWriter(recording, "one").close()

    with pytest.raises(DatasetExistsError) as raised:
        StreamWriter(recording, "one")

    assert raised.value is not None  # its traceback still refers to the writer
    assert not recording.in_use()


@pytest.mark.parametrize("name", ["", "a/b", "ä", "x" * 97])
def test_the_name_of_a_writer_must_be_part_of_a_file_name(name, tmp_path):
    schema, (record,) = records([2])
    recording = create_recording(tmp_path / "r", schema, record)

    with pytest.raises(InvalidNameError, match="Name of a writer: expected 1 to 96 letters"):
        StreamWriter(recording, name)
