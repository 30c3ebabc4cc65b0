import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhive.data.record import Recording
from rlhive.errors import CorruptDataset, DatasetExists, SchemaMismatch
from tests.data.strategies import lengths, records, same, transitions


def new_recording(path, schema, record):
    return Recording.create(path, schema, start_state=record.start_state, provenance={"run": "run"})


@settings(max_examples=20, deadline=None)
@given(lengths=lengths)
def test_records_come_back_bit_for_bit(lengths, tmp_path_factory):
    schema, made = records(lengths)
    recording = new_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
    with recording.recorder("one") as one, recording.recorder("two") as two:
        for index, record in enumerate(reversed(made)):
            (one if index % 2 else two).write(record)

    back = list(Recording(recording.path).sorted_records())

    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert recording.summaries() == {record.episode: (record.length, record.success) for record in made}


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flip=st.none() | st.floats(0, 1))
def test_a_stream_cut_or_flipped_anywhere_loses_no_earlier_episode(cut, flip, tmp_path_factory):
    schema, made = records([5, 1, 9, 4])
    recording = new_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
    sizes = []
    stream = recording.path / "one.arrows"
    with recording.recorder("one") as recorder:
        for record in made:
            recorder.write(record)
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


def test_a_killed_writer_loses_at_most_the_episode_in_flight(tmp_path):
    script = """
import sys
from rlhive.data.record import Recording
from tests.data.strategies import records
schema, made = records([40] * 2000)
recording = Recording.create(sys.argv[1], schema, start_state=made[0].start_state, provenance={})
with recording.recorder("one") as recorder:
    for record in made:
        recorder.write(record)
        print(record.episode, flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "r")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        reported = [int(writer.stdout.readline()) for _ in range(30)]
        time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
        reported += [int(line) for line in writer.stdout.read().split()]
    assert writer.returncode == -signal.SIGKILL

    back = [record.episode for record in Recording(tmp_path / "r").sorted_records()]

    assert back[: len(reported)] == reported
    assert len(back) <= len(reported) + 1


def test_add_checks_before_it_writes(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with recording.recorder("one") as recorder:
        recorder.add(transitions(4, 1), episode=1, split="a", start_state=made[0].start_state)
        with pytest.raises(SchemaMismatch, match="episode 2: key action is missing"):
            recorder.add(transitions(4, 2).exclude("action"), episode=2, split="a")
        recorder.add(transitions(2, 3), episode=3, split="a", start_state=made[0].start_state)

    assert recording.summaries().keys() == {1, 3}


def test_a_stream_is_never_rewritten(tmp_path):
    schema, made = records([3])
    recording = new_recording(tmp_path / "r", schema, made[0])
    with recording.recorder("one") as recorder:
        recorder.write(made[0])

    with pytest.raises(DatasetExists, match="streams are never rewritten"):
        recording.recorder("one")

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
