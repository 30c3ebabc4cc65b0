"""Reading a version: the rows that were written, in order, and only from files with the recorded hashes."""

import numpy as np
import pytest

from rlhive.data.versions import _reader
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest
from rlhive.errors import CorruptDatasetError
from tests.data.checks.walks import rewrite_table, set_cell, update_hashes
from tests.data.strategies import records, same

LENGTHS = [4, 1, 7, 3, 5]


@pytest.fixture
def version(tmp_path):
    """Folder, manifest and episodes of a version: one shard per episode, splits a (ids 3, 9, 15) and b (6, 12)."""
    schema, episodes = records(LENGTHS)
    folder = export(
        episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path / "store", shard_bytes=1
    )
    return folder, Manifest.read(folder), episodes


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_records_are_those_that_were_written_split_by_split(version):
    folder, manifest, episodes = version

    read = list(_reader.read_records(folder, manifest, ["b", "a"]))

    assert [record.episode for record in read] == [6, 12, 3, 9, 15]
    by_id = {record.episode: record for record in episodes}
    assert all(same(record, by_id[record.episode]) for record in read)


def test_rows_are_the_transitions_of_the_splits_in_order(version):
    folder, manifest, episodes = version

    rows = _reader.read_rows(folder, manifest, ["b", "a"])

    order = [episodes[index] for index in (1, 3, 0, 2, 4)]
    assert rows["episode"].to_pylist() == [record.episode for record in order for _ in range(record.length)]
    assert rows["step_count"].to_pylist() == [step for record in order for step in range(record.length)]
    actions = np.concatenate([record.columns["action"] for record in order])
    assert np.array(rows["action"].to_pylist(), np.float32).tobytes() == actions.tobytes()
    assert _reader.read_rows(folder, manifest, []).num_rows == 0


def test_the_episode_table_has_a_row_per_episode_in_the_order_of_ids(version):
    folder, manifest, episodes = version

    table = _reader.read_episodes(folder, manifest)
    some = _reader.read_episodes(folder, manifest, ["return", "episode"])

    assert table["episode"].to_pylist() == [3, 6, 9, 12, 15]
    assert table["length"].to_pylist() == LENGTHS
    assert table["content_hash"].to_pylist() == [record.content_hash() for record in episodes]
    assert some.column_names == ["return", "episode"]
    np.testing.assert_array_equal(some["return"].to_pylist(), [record.episode_return for record in episodes])


def test_shards_come_with_the_rows_of_their_episodes(version):
    folder, manifest, _ = version

    shards = list(_reader.iterate_shards(folder, manifest, ["b", "a"], ["episode", "split", "length"]))

    assert [entry.path for entry, _ in shards] == [
        *(entry.path for entry in manifest.shards("b")),
        *(entry.path for entry in manifest.shards("a")),
    ]
    assert [episodes["episode"].to_pylist() for _, episodes in shards] == [[6], [12], [3], [9], [15]]
    assert all(entry.num_transitions == sum(episodes["length"].to_pylist()) for entry, episodes in shards)


def test_the_shards_of_episodes_are_found_and_the_episodes_of_shards_too(version):
    folder, manifest, _ = version

    shards = _reader.find_shards(folder, manifest, np.array([12, 3]))

    assert [(entry.split, entry.num_transitions) for entry in shards] == [("a", 4), ("b", 3)]
    assert _reader.find_shards(folder, manifest, np.array([99])) == []
    episodes = _reader.read_shard_episodes(folder, manifest, shards)
    assert episodes["episode"].to_pylist() == [3, 12]
    assert _reader.read_shard_episodes(folder, manifest, []).num_rows == 0


def test_a_shard_with_another_bit_is_refused_before_a_row_is_read(version):
    folder, manifest, _ = version
    shard = manifest.shards("a")[1]
    flip_a_bit(folder / shard.path)

    for read in (_reader.read_rows, _reader.verify_shards):
        with pytest.raises(CorruptDatasetError, match=f"{shard.path}: expected SHA-256"):
            read(folder, manifest, ["a"])
    records_of_a = _reader.read_records(folder, manifest, ["a"])
    assert next(records_of_a).episode == 3
    with pytest.raises(CorruptDatasetError, match=f"{shard.path}: expected SHA-256"):
        next(records_of_a)
    assert len(_reader.verify_shards(folder, manifest, ["b"])) == 2


def test_an_episode_table_with_another_bit_is_refused(version):
    folder, manifest, _ = version
    flip_a_bit(folder / EPISODES_PATH)

    with pytest.raises(CorruptDatasetError, match=f"{EPISODES_PATH}: expected SHA-256"):
        _reader.read_episodes(folder, manifest)


def test_an_episode_table_that_the_manifest_does_not_list_is_refused(version):
    folder, manifest, _ = version
    manifest = Manifest.read(folder)
    object.__setattr__(manifest, "files", manifest.shards())

    with pytest.raises(CorruptDatasetError, match=f"expected {EPISODES_PATH} in the manifest, got no such file"):
        _reader.read_episodes(folder, manifest)


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("data/a-00001*", lambda table: table.slice(1), "expected 7 rows, got 6"),
        ("data/a-00001*", lambda table: table.drop_columns(["count"]), "column count: expected .*int32.*, got none"),
        (EPISODES_PATH, lambda table: table.slice(1), "split a: the manifest says .*'num_episodes': 3"),
        (EPISODES_PATH, lambda table: table.take([1, 0, 2, 3, 4]), "expected rising ids, got 3 after 6"),
    ],
)
def test_a_file_with_the_right_hash_that_contradicts_the_manifest_is_refused(path, change, message, version):
    folder, _, _ = version
    rewrite_table(folder, path, change)
    update_hashes(folder)
    manifest = Manifest.read(folder)

    with pytest.raises(CorruptDatasetError, match=message):
        list(_reader.read_records(folder, manifest, ["a", "b"]))


def test_an_episode_whose_values_changed_is_refused_even_with_the_right_hash(version):
    folder, _, _ = version

    rewrite_table(folder, "data/a-00001*", set_cell("count", 3, -1))
    update_hashes(folder)

    with pytest.raises(CorruptDatasetError, match="pisode 9"):
        list(_reader.read_records(folder, Manifest.read(folder), ["a"]))
