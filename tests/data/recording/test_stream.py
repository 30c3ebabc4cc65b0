import contextlib
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data import _episodes
from rlhive.data._episodes import unpack
from rlhive.data._schema import Schema
from rlhive.data.recording import _stream
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import StreamWriter
from rlhive.errors import SchemaMismatchError
from tests.data.recording.samples import create_recording, tiny_episode
from tests.data.strategies import lengths, records, same


@settings(max_examples=20, deadline=None)
@given(lengths=lengths)
def test_records_come_back_bit_for_bit(lengths, tmp_path_factory):
    schema, made = records(lengths)
    recording = create_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
    with StreamWriter(recording, "one") as one, StreamWriter(recording, "two") as two:
        for index, record in enumerate(reversed(made)):
            (one if index % 2 else two).write([record])

    back = list(Recording(recording.path).sorted_records())

    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert recording.episode_outcomes() == {record.episode: (record.length, record.success) for record in made}


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
@pytest.mark.parametrize("block_bytes", [1, 2_000, 2**20])
def test_block_size_and_memory_limit_do_not_change_the_records(block_bytes, kept_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhive.data.recording._stream.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("rlhive.data.recording._stream.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("rlhive.data.recording._stream.KEPT_BYTES", kept_bytes)
    schema, made = records([5, 1, 9, 4, 2, 7, 3])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as one, StreamWriter(recording, "two") as two:
        one.write(made[::2])
        two.write(made[1::2])
        two.write([made[0]])  # again: a repeated id counts once

    back = list(recording.sorted_records())

    assert [record.episode for record in back] == [record.episode for record in made]
    assert all(same(left, right) for left, right in zip(made, back, strict=True))
    assert all(replace(record).identity() == record.identity() for record in back), "the remembered hashes are theirs"


def test_a_large_message_has_the_same_bytes_in_pieces(monkeypatch):
    schema, made = records([3, 1, 7])
    block = _stream._encode_block(made, ["one", "two", "three"], schema, ("qpos", "time"))
    monkeypatch.setattr(_stream, "BLOCK_BYTES", 1)

    for first_row, num_rows in ((0, 4), (4, 2), (6, 8), (0, 14)):
        rows = block.slice(first_row, num_rows)
        pieces = _stream._serialize(rows)
        assert len(pieces) > 1
        assert b"".join(map(bytes, pieces)) == rows.serialize().to_pybytes()


@pytest.mark.parametrize("where", ["values", "header"])
def test_a_damaged_episode_does_not_affect_its_neighbours(where, tmp_path):
    schema, made = records([5, 6, 9, 4])
    recording = create_recording(tmp_path / "r", schema, made[0])
    with StreamWriter(recording, "one") as writer:
        writer.write(made)
    content = bytearray((tmp_path / "r/one.arrows").read_bytes())
    text = b'{"split": "b", "seed": 1' if where == "header" else made[1].columns["observation"].tobytes()
    assert content.count(text) == 1
    content[content.index(text)] ^= 1
    (tmp_path / "r/one.arrows").write_bytes(content)

    back = list(recording.records())

    assert [record.episode for record in back] == [made[index].episode for index in (0, 2, 3)]


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flip=st.none() | st.floats(0, 1))
def test_a_stream_cut_or_flipped_anywhere_keeps_the_earlier_episodes(cut, flip, tmp_path_factory):
    schema, made = records([5, 1, 9, 4])
    recording = create_recording(tmp_path_factory.mktemp("recording"), schema, made[0])
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


def test_a_stream_cut_at_any_byte_gives_the_complete_episodes_before_it(tmp_path):
    recording = Recording.create(tmp_path / "r", Schema.from_tensordict(tiny_episode(1, 0)))
    stream = tmp_path / "r/one.arrows"
    ends = []
    with StreamWriter(recording, "one") as writer:
        made = [
            writer.add_episode(tiny_episode(length, length), episode=episode, split="a", metadata={"n": episode})
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


def test_a_flip_of_any_byte_never_gives_a_changed_episode(tmp_path):
    recording = Recording.create(tmp_path / "r", Schema.from_tensordict(tiny_episode(1, 0)))
    with StreamWriter(recording, "one") as writer:
        made = [writer.add_episode(tiny_episode(2, n), episode=n, split="a", metadata={"n": n}) for n in range(2)]
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


def test_text_comes_back_unchanged(tmp_path):
    texts = ["öffne die Tür", "", "close\0it", "開ける"]
    made = tiny_episode(3, 0)
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
        with pytest.raises(
            SchemaMismatchError, match="episode 2: key place: expected a tensor or a string per row, got 3"
        ):
            writer.add_episode(made, episode=2, split="a")
        made["place"] = ["a", "\ud800", "c"]
        with pytest.raises(SchemaMismatchError, match="episode 3, row 1: key place: expected Unicode text"):
            writer.add_episode(made, episode=3, split="a")


def test_records_that_were_read_cache_their_hash(tmp_path, monkeypatch):
    schema, made = records([3, 5])
    recording = create_recording(tmp_path / "r", schema, made[0])
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


@contextlib.contextmanager
def limit_open_files(count):
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


def test_a_recording_may_have_more_streams_than_open_files(tmp_path, monkeypatch):
    schema, made = records([2] * 80)
    recording = create_recording(tmp_path / "r", schema, made[0])
    for number in range(40):
        with StreamWriter(recording, f"{number:06d}") as writer:
            writer.write([made[number], made[79 - number]])

    with limit_open_files(20):
        assert all(map(same, made, recording.sorted_records()))
        monkeypatch.setattr("rlhive.data.recording._stream.KEPT_BYTES", 0)
        monkeypatch.setattr("rlhive.data.recording._stream.MAX_OPEN", 10)
        back = list(recording.sorted_records())
        monkeypatch.setattr("rlhive.data.recording._stream.MAX_OPEN", 100)
        with pytest.raises(OSError, match="Too many open files"):
            list(recording.sorted_records())

    assert all(same(left, right) for left, right in zip(made, back, strict=True))
