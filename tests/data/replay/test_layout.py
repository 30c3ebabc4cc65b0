import numpy as np
import pytest
import torch

from rlhive.data.replay import _layout as packed
from rlhive.data.replay._layout import PackedCache, PackedCacheWriter
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import CorruptDataset, SchemaMismatch
from tests.data.strategies import records

LENGTHS = [7, 1, 12, 5, 9]


def write(folder, *, lengths=LENGTHS, claimed=None, ended="truncated", image_cache="raw"):
    """Write a cache of some episodes, each as one piece; the table may claim other lengths."""
    folder.mkdir()
    schema, made = records(lengths, ended=ended)
    lengths = claimed or lengths
    table = [(record.episode, index % 2, lengths[index]) for index, record in enumerate(made)]
    finals = {item.column: np.stack([record.final[item.column] for record in made]) for item in schema.observed}
    writer = PackedCacheWriter(folder, schema, ["a", "b"], np.array(table), finals, image_cache=image_cache)
    for record in made:
        writer.write(record.columns)
    writer.finish()
    return PackedCache(folder), made


def assert_holds(cache, made):
    got = PackedStorage(cache).get(slice(None))
    start = 0
    for record in made:
        rows = got[start : start + record.length]
        start += record.length
        assert (rows["episode"] == record.episode).all()
        for column, values in record.columns.items():
            key = tuple(column.split("."))
            assert rows[key].contiguous().numpy().tobytes() == values.tobytes(), column
        for column, value in record.final.items():
            last = rows[("next", *column.split("."))][-1]
            assert last.contiguous().numpy().tobytes() == value.tobytes(), column
    assert start == len(cache) == len(got)


def test_what_was_written_is_read_bit_for_bit(tmp_path):
    assert_holds(*write(tmp_path / "cache"))


def test_pieces_and_blocks_of_their_own_change_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "WIDE", 16)
    monkeypatch.setattr(packed, "CHUNK_BYTES", 100)
    cache, made = write(tmp_path / "cache")

    assert [block.fields[0].field.column for block in cache.blocks[1:]] == ["observation", "parts.camera"]
    assert_holds(cache, made)


@pytest.mark.parametrize("claimed", [[7, 1, 12, 5, 10], [7, 1, 12, 5, 8]])
def test_another_number_of_transitions_than_the_table_says_is_an_error(tmp_path, claimed):
    with pytest.raises(CorruptDataset, match=r"Expected 3[35] transitions"):
        write(tmp_path / "cache", claimed=claimed)
    with pytest.raises(CorruptDataset, match="layout"):
        PackedCache(tmp_path / "cache")


def test_a_file_of_another_size_is_an_error(tmp_path):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "records.bin"
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(CorruptDataset, match=r"records\.bin: expected"):
        PackedCache(tmp_path / "cache")


def test_a_choice_of_keys_leaves_the_others_out(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "WIDE", 16)
    cache, _ = write(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    some = PackedStorage(cache, keys=[("parts", "half"), "action", ("next", "reward")])

    got = some.get(torch.arange(34))

    flags = {"done", "terminated", "truncated"}
    assert set(got.keys(True, True)) == {
        *("action", "episode", ("next", "reward"), ("parts", "half"), ("next", "parts", "half")),
        *(flags | {("next", flag) for flag in flags}),
    }
    for key in got.keys(True, True):
        assert got[key].contiguous().numpy().tobytes() == everything[key].contiguous().numpy().tobytes(), key
    with pytest.raises(SchemaMismatch, match="No field acton"):
        PackedStorage(cache, keys=["acton"])
