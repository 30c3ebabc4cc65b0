"""Parquet files: their settings, their checksums, and shards that never cut an episode."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhive.data import _parquet
from rlhive.errors import CorruptDatasetError

SCHEMA = pa.schema(
    [
        pa.field("episode", pa.int64(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("observation", pa.list_(pa.field("element", pa.float32(), nullable=False), 3), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


def make_rows(count, episode=0):
    generator = np.random.default_rng(episode)
    observation = pa.array(generator.normal(size=3 * count).astype(np.float32))
    columns = [
        pa.array([episode] * count, pa.int64()),
        pa.array(generator.normal(size=count)),
        pa.FixedSizeListArray.from_arrays(observation, type=SCHEMA.field("observation").type),
        pa.array([f"step {step}" for step in range(count)]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def write_groups(path, sizes):
    """Write a file with row groups of the given sizes, one episode each; return its table."""
    batches = [make_rows(size, episode) for episode, size in enumerate(sizes)]
    with _parquet.open_writer(path, SCHEMA) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]))
    return pa.Table.from_batches(batches)


def flip_bit(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_floats_are_byte_stream_split_without_a_dictionary_and_everything_is_zstd(tmp_path):
    _parquet.write_table(pa.Table.from_batches([make_rows(100)]), tmp_path / "x.parquet")

    group = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    for name in ("reward", "observation.list.element"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert not columns[name].has_dictionary_page
    assert columns["text"].has_dictionary_page


def test_every_column_has_statistics_a_page_index_and_page_checksums(tmp_path):
    path = tmp_path / "x.parquet"
    _parquet.write_table(pa.Table.from_batches([make_rows(100)]), path)

    group = pq.ParquetFile(path).metadata.row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        assert column.is_stats_set
        assert column.has_column_index
        assert column.has_offset_index
    assert group.column(0).statistics.min == 0


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(column, tmp_path):
    path = tmp_path / "x.parquet"
    _parquet.write_table(pa.Table.from_batches([make_rows(1000)]), path)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(column)
    flip_bit(path, chunk.data_page_offset + chunk.total_compressed_size // 2)

    for read in (
        lambda: _parquet.read_table(path),
        lambda: list(_parquet.read_batches([path])),
        lambda: _parquet.read_groups(path, [0]),
        lambda: _parquet.GroupReader(path, str(path)).read([0]),
    ):
        with pytest.raises(
            CorruptDatasetError, match=r"x\.parquet: expected a readable Parquet file, got: .*"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a Parquet file at all", None])
def test_a_file_that_is_not_parquet_is_corrupt(content, tmp_path):
    path = tmp_path / "x.parquet"
    if content is not None:
        path.write_bytes(content)

    for read in (
        _parquet.read_table,
        _parquet.read_group_sizes,
        _parquet.read_arrow_schema,
        lambda path: list(_parquet.read_batches([path])),
        lambda path: _parquet.read_groups(path, [0]),
        lambda path: _parquet.GroupReader(path, str(path)),
    ):
        with pytest.raises(CorruptDatasetError, match=r"x\.parquet: expected a readable Parquet file"):
            read(path)


def test_group_sizes_schema_groups_and_columns_are_those_that_were_written(tmp_path):
    path = tmp_path / "x.parquet"
    table = write_groups(path, [4, 1, 7])

    assert _parquet.read_group_sizes(path) == [4, 1, 7]
    assert _parquet.read_arrow_schema(path).equals(SCHEMA)
    assert _parquet.read_table(path).equals(table)
    assert _parquet.read_table(path, ["text", "reward"]).equals(table.select(["text", "reward"]))
    assert _parquet.read_groups(path, [0, 2]).equals(pa.concat_tables([table.slice(0, 4), table.slice(5)]))
    with _parquet.GroupReader(path, "here") as reader:
        assert reader.sizes == [4, 1, 7]
        assert reader.read(range(1, 3)).equals(table.slice(4))


def test_batches_hold_the_rows_in_order_and_no_more_than_a_group(tmp_path, monkeypatch):
    first, second = write_groups(tmp_path / "a.parquet", [5, 9]), write_groups(tmp_path / "b.parquet", [3])
    monkeypatch.setattr(_parquet, "ROW_GROUP_ROWS", 4)

    batches = list(_parquet.read_batches([tmp_path / "a.parquet", tmp_path / "b.parquet"]))

    assert [batch.num_rows for batch in batches] == [4, 1, 4, 4, 1, 3]
    assert pa.Table.from_batches(batches).equals(pa.concat_tables([first, second]).combine_chunks())


def test_the_writer_of_a_table_limits_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(_parquet, "ROW_GROUP_ROWS", 40)
    _parquet.write_table(pa.Table.from_batches([make_rows(100)]), tmp_path / "x.parquet")

    assert _parquet.read_group_sizes(tmp_path / "x.parquet") == [40, 40, 20]


def test_a_shard_is_closed_when_it_is_full_and_every_group_is_whole(tmp_path):
    rows = [make_rows(10, episode) for episode in range(5)]
    writer = _parquet.ShardWriter(tmp_path, "train", SCHEMA, shard_bytes=2 * rows[0].nbytes)

    for batch in rows:
        writer.write(batch, num_episodes=2)
    shards = writer.finish()

    names = [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    assert shards == [(tmp_path / names[0], 20, 4), (tmp_path / names[1], 20, 4), (tmp_path / names[2], 10, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [_parquet.read_group_sizes(path) for path, _, _ in shards] == [[10, 10], [10, 10], [10]]
    table = pa.concat_tables([_parquet.read_table(path) for path, _, _ in shards])
    assert table.equals(pa.Table.from_batches(rows).combine_chunks())


def test_an_empty_split_is_one_empty_shard(tmp_path):
    shards = _parquet.ShardWriter(tmp_path, "test", SCHEMA).finish()

    assert shards == [(tmp_path / "test-00000-of-00001.parquet", 0, 0)]
    assert _parquet.read_table(shards[0][0]).equals(SCHEMA.empty_table())


@pytest.mark.parametrize(
    ("lengths", "group_sizes", "chunks"),
    [
        ([3, 2, 4], [9], [((0, 1), [10, 11, 12])]),
        ([3, 2, 4], [3, 2, 4], [((0, 1), [10]), ((1, 2), [11]), ((2, 3), [12])]),
        ([3, 2, 4], [5, 4], [((0, 1), [10, 11]), ((1, 2), [12])]),
        ([3, 2, 4], [2, 3, 1, 3], [((0, 2), [10, 11]), ((2, 4), [12])]),
        ([3, 2, 4], [4, 5], [((0, 2), [10, 11, 12])]),
        ([], [], []),
    ],
)
def test_a_shard_is_split_where_a_group_and_an_episode_end_together(lengths, group_sizes, chunks, tmp_path):
    positions = list(range(10, 10 + len(lengths)))

    split = _parquet.split_into_chunks(tmp_path, positions, lengths, group_sizes)

    assert [((chunk.groups.start, chunk.groups.stop), chunk.positions) for chunk in split] == chunks


def test_a_shard_with_other_rows_than_its_episodes_is_corrupt(tmp_path):
    with pytest.raises(CorruptDatasetError, match=r"x\.parquet: expected 5 rows, got 4"):
        _parquet.split_into_chunks(tmp_path / "x.parquet", [0, 1], [3, 2], [4])


def test_an_error_of_the_transport_is_not_the_files_damage(tmp_path):
    path = tmp_path / "x.parquet"
    write_groups(path, [3])

    class Source:
        closed = False

        def __init__(self):
            self._file = path.open("rb")

        def __getattr__(self, name):
            return getattr(self._file, name)

        def read(self, *_):
            msg = "no answer"
            raise TimeoutError(msg)

    with pytest.raises(TimeoutError, match="no answer"):
        _parquet.GroupReader(Source(), "datasets/org/knob")


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(_parquet, "MAX_DECODED_BYTES", 100_000)
    monkeypatch.setattr(_parquet, "MAX_EXPANSION", 20)
    monkeypatch.setattr(_parquet, "MAX_TEXT_BYTES", 1000)


def test_a_table_with_more_rows_than_expected_is_not_decoded(tmp_path):
    _parquet.write_table(pa.table({"x": [1.0, 2.0, 3.0]}), tmp_path / "x.parquet")

    assert len(_parquet.read_table(tmp_path / "x.parquet", max_rows=3)) == 3
    with pytest.raises(CorruptDatasetError, match=r"x\.parquet: expected at most 2 rows, got 3"):
        _parquet.read_table(tmp_path / "x.parquet", max_rows=2)


def test_lists_that_expand_too_much_are_refused_unless_other_columns_are_read(small_limits, tmp_path):
    states = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40_000)), 10_000)
    pq.write_table(pa.table({"episode": [0, 1, 2, 3], "start.qpos": states}), tmp_path / "x.parquet")

    assert _parquet.read_table(tmp_path / "x.parquet", ["episode"])["episode"].to_pylist() == [0, 1, 2, 3]
    with pytest.raises(
        CorruptDatasetError, match=r"x\.parquet: expected at most 100000 bytes after decoding, got 320032"
    ):
        _parquet.read_table(tmp_path / "x.parquet")


def test_a_long_text_and_a_text_that_is_repeated_too_often_are_refused(small_limits, tmp_path):
    pq.write_table(pa.table({"metadata": ["x" * 5000]}), tmp_path / "long.parquet", compression="zstd")
    pq.write_table(pa.table({"metadata": ["x" * 900] * 1000}), tmp_path / "repeated.parquet", compression="zstd")

    with pytest.raises(CorruptDatasetError, match="expected texts of at most 1000 bytes in column metadata"):
        _parquet.read_table(tmp_path / "long.parquet")
    with pytest.raises(CorruptDatasetError, match="column metadata repeats texts of 900000 bytes in 1000 rows"):
        _parquet.read_table(tmp_path / "repeated.parquet")


def test_many_short_texts_are_read_as_they_are(small_limits, tmp_path):
    texts = [f"episode {index % 7}" for index in range(3000)]
    pq.write_table(pa.table({"a": texts, "b": texts}), tmp_path / "x.parquet", compression="zstd")

    table = _parquet.read_table(tmp_path / "x.parquet")

    assert table.schema == pa.schema([("a", pa.string()), ("b", pa.string())])
    assert table.to_pydict() == {"a": texts, "b": texts}
