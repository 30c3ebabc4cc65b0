import pytest

from rlhive.data.replay import _layout, _packed_writer
from rlhive.data.replay._layout import PackedCache
from rlhive.errors import CorruptDatasetError
from tests.data.replay.caches import assert_holds, write_cache


def test_written_rows_are_read_bit_for_bit(tmp_path):
    assert_holds(*write_cache(tmp_path / "cache"))


def test_chunks_and_blocks_of_their_own_change_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(_layout, "WIDE", 16)
    monkeypatch.setattr(_packed_writer, "CHUNK_BYTES", 100)
    cache, made = write_cache(tmp_path / "cache")

    assert [block.fields[0].field.column for block in cache.blocks[1:]] == ["observation", "parts.camera"]
    assert_holds(cache, made)


@pytest.mark.parametrize("claimed", [[7, 1, 12, 5, 10], [7, 1, 12, 5, 8]])
def test_a_number_of_transitions_that_differs_from_the_episode_table_is_an_error(tmp_path, claimed):
    with pytest.raises(CorruptDatasetError, match=r"Expected 3[35] transitions"):
        write_cache(tmp_path / "cache", claimed=claimed)
    with pytest.raises(CorruptDatasetError, match="layout"):
        PackedCache(tmp_path / "cache")


def test_a_file_of_another_size_is_an_error(tmp_path):
    write_cache(tmp_path / "cache")
    path = tmp_path / "cache" / "records.bin"
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(CorruptDatasetError, match=r"records\.bin: expected"):
        PackedCache(tmp_path / "cache")
