import contextlib
import errno
import json
import os
import random
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict

from rlhive.data import _episodes
from rlhive.data._episodes import unpack
from rlhive.data._schema import Schema
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import StreamWriter
from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDataset, DatasetExists, DiskFull, RecordingInUse, SchemaMismatch
from tests.data.strategies import lengths, records, same, transitions


def new_recording(path, schema, record):
    return Recording.create(path, schema, start_state=record.start_state, provenance={"run": "run"})


@settings(max_examples=20, deadline=None)
@given(lengths=lengths)
def test_records_come_back_bit_for_bit(lengths, tmp_path_factory):
    schema, made = records(lengths)
    recording = new_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
    with StreamWriter(recording, "one") as one, StreamWriter(recording, "two") as two:
        for index, record in enumerate(reversed(made)):
            (one if index % 2 else two).write([record])

    back = list(Recording(recording.path).sorted_records())

    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert recording.episode_outcomes() == {record.episode: (record.length, record.success) for record in made}


@pytest.mark.parametrize("kept", [0, 2**20])
@pytest.mark.parametrize("block", [1, 2_000, 2**20])
def test_blocks_and_what_is_kept_change_nothing(block, kept, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.data.recording._stream.BLOCK_BYTES", block)
    monkeypatch.setattr("rlhive.data.recording._stream.BLOCK_BYTES", block)
    monkeypatch.setattr("rlhive.data.recording._stream.KEPT_BYTES", kept)
    schema, made = records([5, 1, 9, 4, 2, 7, 3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as one, StreamWriter(recording, "two") as two:
        one.write(made[::2])
        two.write(made[1::2])
        two.write([made[0]])  # again: a repeated id counts once

    back = list(recording.sorted_records())

    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert all(replace(record).identity() == record.identity() for record in back), "the remembered hashes are theirs"


@pytest.mark.parametrize("where", ["values", "header"])
def test_a_damaged_episode_does_not_take_its_neighbours_with_it(where, tmp_path):
    schema, made = records([5, 6, 9, 4])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer:
        writer.write(made)
    content = bytearray((tmp_path / "r/one.arrows").read_bytes())
    said = b'{"split": "b", "seed": 1' if where == "header" else made[1].columns["observation"].tobytes()
    assert content.count(said) == 1
    content[content.index(said)] ^= 1
    (tmp_path / "r/one.arrows").write_bytes(content)

    back = list(recording.records())

    assert [record.episode for record in back] == [made[index].episode for index in (0, 2, 3)]


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flip=st.none() | st.floats(0, 1))
def test_a_stream_cut_or_flipped_anywhere_loses_no_earlier_episode(cut, flip, tmp_path_factory):
    schema, made = records([5, 1, 9, 4])
    recording = new_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
    sizes = []
    stream = recording.path / "one.arrows"
    with StreamWriter(recording, "one") as recorder:
        for record in made:
            recorder.write([record])
            sizes.append(stream.stat().st_size)
    content = bytearray(stream.read_bytes()[: round(cut * sizes[-1])])
    damaged_from = len(content)
    if flip is not None and content:
        damaged_from = min(round(flip * len(content)), len(content) - 1)
        content[damaged_from] ^= 0x10
    stream.write_bytes(content)

    back = {record.episode: record for record in recording.sorted_records()}

    whole = [record for record, size in zip(made, sizes, strict=True) if size <= damaged_from]
    assert all(same(record, back[record.episode]) for record in whole)
    originals = {record.episode: record for record in made}
    assert all(same(record, originals[episode]) for episode, record in back.items()), "a damaged episode was served"


def test_writers_that_are_killed_30_times_lose_at_most_the_episode_in_flight(tmp_path):
    command = [sys.executable, "-m", "tests.data.recording.torture", str(tmp_path), "30", str(random.randrange(10**6))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    result = json.loads(ran.stdout)
    assert result["kills"] == 30
    assert result["episodes"] > 30
    assert result["commits_killed"] >= 1


def tiny(length, seed):
    """An episode of few bytes: every one of them is a place to be cut at."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(length + 1, 2, generator=generator)
    flags = torch.zeros(length, 1, dtype=torch.bool)
    return TensorDict(
        {
            "observation": states[:-1],
            "action": torch.rand(length, 1, generator=generator),
            "next": {"observation": states[1:], "terminated": flags, "truncated": flags.clone()},
        },
        [length],
    )


def test_a_stream_cut_at_any_byte_gives_the_whole_episodes_before_it(tmp_path):
    recording = Recording.create(tmp_path / "r", Schema.from_tensordict(tiny(1, 0)))
    stream = tmp_path / "r/one.arrows"
    ends = []
    with StreamWriter(recording, "one") as writer:
        made = [
            writer.add_episode(tiny(length, length), episode=episode, split="a", metadata={"n": episode})
            for episode, length in enumerate((2, 1, 3))
            if not ends.append(stream.stat().st_size)
        ]
    whole = stream.stat().st_size
    ends = [*ends[1:], whole]
    assert [record.episode for record in recording.records()] == [0, 1, 2]

    for cut in range(whole - 1, -1, -1):
        os.truncate(stream, cut)
        back = list(recording.records())
        assert [record.episode for record in back] == [n for n, end in enumerate(ends) if end <= cut], cut
        assert all(same(record, made[record.episode]) for record in back), cut


def test_a_flip_of_any_byte_serves_no_changed_episode(tmp_path):
    recording = Recording.create(tmp_path / "r", Schema.from_tensordict(tiny(1, 0)))
    with StreamWriter(recording, "one") as writer:
        made = [writer.add_episode(tiny(2, n), episode=n, split="a", metadata={"n": n}) for n in range(2)]
    stream = tmp_path / "r/one.arrows"
    content = stream.read_bytes()
    served = set()
    with stream.open("r+b", buffering=0) as file:
        for place in range(0, len(content), 7):
            os.pwrite(file.fileno(), bytes([content[place] ^ 0x41]), place)
            back = list(recording.records())
            assert all(same(record, made[record.episode]) and record.run == "" for record in back), place
            served.add(len(back))
            os.pwrite(file.fileno(), content[place : place + 1], place)

    assert served == {0, 1, 2}, "some bytes are padding, others end the stream"


def test_text_comes_back_as_it_was(tmp_path):
    texts = ["öffne die Tür", "", "close\0it", "開ける"]
    made = tiny(3, 0)
    made["instruction"], made["next", "instruction"] = texts[:-1], texts[1:]
    made["place"] = "kitchen"
    schema = Schema.from_tensordict(made)
    recording = Recording.create(tmp_path / "r", schema)
    with StreamWriter(recording, "one") as writer:
        written = writer.add_episode(made, episode=0, split="a")

    (record,) = recording.sorted_records()

    assert schema["instruction"].dtype == "string"
    assert schema["instruction"].observed
    assert same(record, written)
    back = unpack(record.columns, record.final, schema, episode=0)
    assert list(back["instruction"]) == texts[:-1]
    assert list(back["next", "instruction"]) == texts[1:]
    assert list(back["place"]) == ["kitchen"] * 3
    with StreamWriter(recording, "two") as writer:
        made["instruction"], made["next", "instruction"] = [*texts[:2], "close\0It"], [texts[1], "close\0It", texts[3]]
        assert writer.add_episode(made, episode=1, split="a").content_hash() != record.content_hash()
        made["place"] = ["a", 3, "c"]
        with pytest.raises(SchemaMismatch, match="episode 2: key place: expected a tensor or a string per row, got 3"):
            writer.add_episode(made, episode=2, split="a")
        made["place"] = ["a", "\ud800", "c"]
        with pytest.raises(SchemaMismatch, match="episode 3, row 1: key place: expected Unicode text"):
            writer.add_episode(made, episode=3, split="a")


@pytest.mark.parametrize("broken", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["disk full", "ctrl-c"])
def test_after_a_write_that_failed_the_next_episode_is_safe(broken, tmp_path, monkeypatch):
    schema, made = records([3, 4, 5])
    recording = new_recording(tmp_path / "r", schema, made[0])
    really = os.write

    def half(file, content):
        really(file, bytes(content)[: len(content) // 2])
        raise broken

    with StreamWriter(recording, "one") as writer:
        writer.write([made[0]])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(DiskFull if isinstance(broken, OSError) else KeyboardInterrupt):
                writer.write([made[1]])
        writer.write(made[1:3])

    back = list(recording.sorted_records())
    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert recording.summarize().unreadable_bytes > 500


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path):
    schema, made = records([40] * 20)
    recording = new_recording(tmp_path / "r", schema, made[0])
    reported, (_, hard) = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with StreamWriter(recording, "one") as writer, contextlib.suppress(DiskFull):
            for record in made:
                writer.write([record])
                reported.append(record.episode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    assert 3 <= len(reported) < len(made)
    assert [record.episode for record in recording.sorted_records()] == reported


def test_a_recording_in_use_is_neither_committed_nor_discarded(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    assert not recording.in_use()
    with StreamWriter(recording, "one") as writer:
        writer.write([made[0]])
        assert Recording(tmp_path / "r").in_use()
        with pytest.raises(RecordingInUse, match="no live process holds"), recording.exclusive(timeout_s=0.02):
            pass
        with recording.shared():
            pass

    with recording.exclusive():
        assert recording.in_use()
        with pytest.raises(RecordingInUse), recording.shared(timeout_s=0.02):
            pass
    assert not recording.in_use()


def test_survey_counts_what_can_be_read(tmp_path):
    schema, made = records([3, 4])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as one, StreamWriter(recording, "two") as two:
        one.write(made)
        two.write([made[0]])
    stream = tmp_path / "r/one.arrows"
    size = stream.stat().st_size

    survey = recording.summarize()
    os.truncate(stream, size - 100)
    after = recording.summarize()

    assert (survey.num_episodes, survey.num_transitions, survey.unreadable_bytes) == (2, 7, 0)
    assert survey.num_bytes == size + (tmp_path / "r/two.arrows").stat().st_size
    assert 0 <= survey.age_s < 60
    assert (after.num_episodes, after.num_transitions) == (1, 3)
    assert 100 < after.unreadable_bytes < size


def test_a_start_state_of_other_parts_is_refused(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer:
        for state in ({}, {"qpos": np.zeros(3)}, {"qpos": np.zeros(2), "time": np.zeros(1)}):
            with pytest.raises(SchemaMismatch, match=r"episode 3: start state '(qpos|time)'"):
                writer.write([replace(made[0], start_state=state)])

    assert recording.episode_outcomes() == {}


def test_the_hash_is_computed_once_for_what_cannot_change(tmp_path, monkeypatch):
    schema, made = records([3, 5])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer:
        writer.write(made)
    records_read = list(recording.sorted_records())
    expected = [record.content_hash() for record in made]
    monkeypatch.setattr(_episodes, "_hash_column", None)

    assert [record.content_hash() for record in records_read] == expected
    assert not any(array.flags.writeable for record in records_read for array in record.columns.values())
    with pytest.raises(TypeError):
        replace(records_read[0], final={}).content_hash()
    with pytest.raises(TypeError):
        made[0].content_hash()


def test_add_checks_before_it_writes(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as recorder:
        recorder.add_episode(transitions(4, 1), episode=1, split="a", start_state=made[0].start_state)
        with pytest.raises(SchemaMismatch, match="episode 2: key action is missing"):
            recorder.add_episode(transitions(4, 2).exclude("action"), episode=2, split="a")
        recorder.add_episode(transitions(2, 3), episode=3, split="a", start_state=made[0].start_state)

    assert recording.episode_outcomes().keys() == {1, 3}


def test_a_stream_is_never_rewritten(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as recorder:
        recorder.write([made[0]])

    with pytest.raises(DatasetExists, match="streams are never rewritten"):
        StreamWriter(recording, "one")

    with pytest.raises(ValueError, match="is closed"):
        recorder.write([made[0]])
    recorder.close()
    assert len(list(recording.records())) == 1


def test_a_recording_of_another_schema_is_refused(tmp_path):
    schema, made = records([3])
    new_recording(tmp_path / "r", schema, made[0])
    other = type(schema)(schema.fields[1:])

    with pytest.raises(SchemaMismatch, match="key action is missing"):
        Recording.create(tmp_path / "r", other, start_state={}, provenance={})


def test_a_folder_that_is_no_recording_is_refused(tmp_path):
    with pytest.raises(CorruptDataset, match=r"recording\.json"):
        Recording(tmp_path)


def test_text_is_in_the_versions_tables_and_not_in_the_buffer(tmp_path):
    made = tiny(3, 0)
    made["instruction"], made["next", "instruction"] = ["a", "", "c"], ["", "c", "d"]
    recording = Recording.create(tmp_path / "r", Schema.from_tensordict(made), provenance={"run": "run"})
    with StreamWriter(recording, "one") as writer:
        written = writer.add_episode(made, episode=0, split="a")
    folder = export(recording.sorted_records(), "my/texts", version="1.0.0", schema=recording.schema, license="mit")

    dataset = RoboHiveDataset(folder)

    (record,) = _reader.read_records(folder, dataset.manifest, ["a"])
    assert same(record, written)
    assert dataset.to_hf()["instruction"][:] == ["a", "", "c"]
    assert dataset.episodes["final.instruction"].to_pylist() == ["d"]
    transitions = dataset.as_tensordict()
    assert "instruction" not in transitions
    assert transitions["next", "observation"].equal(made["next", "observation"])


@contextlib.contextmanager
def few_files(count):
    """Let this process open so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        while stack.enter_context(Path(os.devnull).open()).fileno() < highest:
            pass  # the gaps below could be used as well
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2 + count, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_streams_than_files_may_be_open(tmp_path, monkeypatch):
    schema, made = records([2] * 80)
    recording = new_recording(tmp_path / "r", schema, made[0])
    for number in range(40):
        with StreamWriter(recording, f"{number:06d}") as writer:
            writer.write([made[number], made[79 - number]])

    with few_files(20):
        assert all(map(same, made, recording.sorted_records()))
        monkeypatch.setattr("rlhive.data.recording._stream.KEPT_BYTES", 0)
        monkeypatch.setattr("rlhive.data.recording._stream.MAX_OPEN", 10)
        back = list(recording.sorted_records())
        monkeypatch.setattr("rlhive.data.recording._stream.MAX_OPEN", 100)
        with pytest.raises(OSError, match="Too many open files"):
            list(recording.sorted_records())

    assert all(same(left, right) for left, right in zip(made, back, strict=True))
