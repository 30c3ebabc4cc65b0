import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from rlhive.data._schema import Schema
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import StreamWriter
from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDatasetError, RecordingInUseError, SchemaMismatchError, UnsupportedFormatError
from tests.data.recording.samples import create_recording, tiny_episode
from tests.data.strategies import records, same

FILES = Path(__file__).parent / "files"


def test_a_recording_in_use_is_neither_committed_nor_discarded(tmp_path):
    schema, made = records([3])
    recording = create_recording(tmp_path / "r", schema, made[0])
    assert not recording.in_use()
    with StreamWriter(recording, "one") as writer:
        writer.write([made[0]])
        assert Recording(tmp_path / "r").in_use()
        with pytest.raises(RecordingInUseError, match="no live process holds"), recording.exclusive(timeout_s=0.02):
            pass
        with recording.shared():
            pass

    with recording.exclusive():
        assert recording.in_use()
        with pytest.raises(RecordingInUseError), recording.shared(timeout_s=0.02):
            pass
    assert not recording.in_use()


def test_the_summary_counts_readable_episodes_and_unreadable_bytes(tmp_path):
    schema, made = records([3, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
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


def test_a_recording_of_another_schema_is_refused(tmp_path):
    schema, made = records([3])
    create_recording(tmp_path / "r", schema, made[0])
    other = type(schema)(schema.fields[1:])

    with pytest.raises(SchemaMismatchError, match="key action is missing"):
        Recording.create(tmp_path / "r", other, start_state={}, provenance={})


def test_a_folder_that_is_not_a_recording_is_refused(tmp_path):
    with pytest.raises(CorruptDatasetError, match=r"recording\.json"):
        Recording(tmp_path)


def test_text_is_in_the_tables_of_a_version_and_not_in_the_buffer(tmp_path):
    made = tiny_episode(3, 0)
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


def read_expected(name):
    return json.loads((FILES / name).read_text(encoding="utf-8"))


def test_a_recording_of_the_first_release_is_read(tmp_path):
    shutil.copytree(FILES / "recording_v2", tmp_path / "r")
    recording = Recording(tmp_path / "r")

    back = [
        {
            "episode": record.episode,
            "split": record.split,
            "length": record.length,
            "ended": record.ended,
            "success": record.success,
            "seed": record.seed,
            "policy": record.policy,
            "run": record.run,
            "metadata": record.metadata,
            "return": record.episode_return,
            "content_hash": replace(record).content_hash(),
            "identity": replace(record).identity(),
            "qpos": record.start_state["qpos"].tolist(),
            "action": record.columns["action"].tolist(),
            "final_observation": record.final["observation"].tolist(),
        }
        for record in recording.sorted_records()
    ]

    assert back == read_expected("expected.json")
    assert [run["run"] for run in recording.runs] == ["first", "second"]
    assert recording.summarize().unreadable_bytes == len(b"half an episode")


def test_streams_are_written_as_in_the_first_release(tmp_path):
    old = Recording(FILES / "recording_v2")
    new = Recording.create(tmp_path / "r", old.schema, start_state=next(old.records()).start_state)
    with StreamWriter(new, "000000") as writer:
        writer.write([record for record in old.sorted_records() if record.episode < 1_000_000])

    streams = [pa.ipc.open_stream((path / "000000.arrows").read_bytes()) for path in (old.path, new.path)]

    assert streams[0].schema.equals(streams[1].schema, check_metadata=True)
    batches = [list(stream) for stream in streams]
    assert len(batches[0]) == 3
    assert all(left.equals(right) for left, right in zip(*batches, strict=True))
    for name in ("recording.json", "schema.json"):
        assert (new.path / name).read_bytes() == (old.path / name).read_bytes()


def test_the_first_episode_fixes_schema_and_start_state(tmp_path):
    schema, (record,) = records([3])
    recording = Recording.create(tmp_path / "r")
    with pytest.raises(SchemaMismatchError, match="expected a schema, got none"):
        recording.require_schema()

    recording.accept(record, schema, "episode 0")

    assert Recording(tmp_path / "r").schema == schema
    assert recording.start_state_sizes == {"qpos": 3, "time": 1}
    with pytest.raises(SchemaMismatchError, match="episode 1: key action is missing"):
        recording.accept(record, type(schema)(schema.fields[1:]), "episode 1")
    with pytest.raises(
        SchemaMismatchError, match="episode 2: start state 'qpos': expected 3 numbers, got no such part"
    ):
        recording.accept(replace(record, start_state={"time": record.start_state["time"]}), schema, "episode 2")


def test_a_recording_of_another_format_version_is_refused(tmp_path):
    Recording.create(tmp_path / "r")
    (tmp_path / "r/recording.json").write_text('{"format_version": 1, "name": ""}')

    with pytest.raises(UnsupportedFormatError, match="expected a recording of format_version 2, got 1"):
        Recording(tmp_path / "r")
