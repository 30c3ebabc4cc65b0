"""Columns of episodes become Arrow tables that other libraries read, and come back bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data import _arrow
from rlhive.data._schema import Field, Schema
from rlhive.errors import CorruptDatasetError
from tests.data.strategies import lengths, records, same, teleoperated_records

KINDS = (("float64", (7,)), ("bool", (1,)), ("bool", (1,)), ("float64", (7,)))


def concatenate(made):
    return {name: np.concatenate([record.columns[name] for record in made]) for name in made[0].columns}


def to_tables(schema, made):
    """Return the transitions and the episode table of records."""
    ids, sizes = [record.episode for record in made], [record.length for record in made]
    rows = _arrow.columns_to_batch(concatenate(made), ids, sizes, schema)
    episodes = _arrow.build_episode_table([_arrow.EpisodeRow.from_record(record) for record in made], schema)
    return pa.Table.from_batches([rows]), episodes


@settings(max_examples=25, deadline=None)
@given(sizes=lengths)
def test_records_come_back_bit_for_bit(sizes):
    schema, made = records(sizes)

    rows, episodes = to_tables(schema, made)

    read = list(_arrow.table_to_records(rows, episodes, schema))
    assert len(read) == len(made)
    assert all(same(left, right) for left, right in zip(read, made, strict=True))
    for name in ("seed", "policy", "run", "metadata"):
        assert [getattr(record, name) for record in read] == [getattr(record, name) for record in made]


def test_rows_have_their_episode_and_their_step():
    schema, made = records([3, 1, 2])

    rows, _ = to_tables(schema, made)

    assert rows["episode"].to_pylist() == [3, 3, 3, 6, 9, 9]
    assert rows["step_count"].to_pylist() == [0, 1, 2, 0, 0, 1]


def test_types_are_plain_or_fixed_size_lists_without_nulls():
    schema, _ = records([1])
    arrow_schema = _arrow.row_schema(schema)

    assert not any(field.nullable for field in arrow_schema)
    assert arrow_schema.field("action").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 2)
    assert arrow_schema.field("parts.camera").type.list_size == 18
    assert arrow_schema.field("next.reward").type == pa.float64()
    assert arrow_schema.field("success").type == pa.bool_()
    assert arrow_schema.field("count").type == pa.int32()
    assert json.loads(arrow_schema.metadata[b"rlhive"]) == {"fields": schema.to_json()}


def test_the_episode_table_summarises_each_episode():
    schema, made = records([3, 2])

    _, episodes = to_tables(schema, made)

    assert episodes["episode"].to_pylist() == [3, 6]
    assert episodes["length"].to_pylist() == [3, 2]
    assert episodes["return"].to_pylist() == [record.episode_return for record in made]
    assert episodes["ended"].to_pylist() == ["truncated", "truncated"]
    assert episodes["seed"].to_pylist() == [None, 1]
    assert episodes["content_hash"].to_pylist() == [record.content_hash() for record in made]
    assert [json.loads(text) for text in episodes["metadata"].to_pylist()] == [{"note": "№ 0"}, {"note": "№ 1"}]
    assert episodes["start.qpos"].to_pylist() == [[0, -0.0, np.pi], [1, -0.0, np.pi]]
    final = _arrow.read_final_values(episodes, schema)["observation"]
    assert final.tobytes() == np.stack([record.final["observation"] for record in made]).tobytes()


def test_an_episode_row_owns_its_memory():
    _, made = records([3])
    row = _arrow.EpisodeRow.from_record(made[0])
    before = row.final["observation"].tobytes()

    made[0].final["observation"][:] = 7

    assert row.final["observation"].tobytes() == before


def test_a_table_without_episodes_has_all_columns():
    schema, _ = records([1])

    table = _arrow.build_episode_table([], schema)

    assert len(table) == 0
    assert {"episode", "final.observation", "final.parts.camera"} <= set(table.column_names)
    assert _arrow.read_final_values(table, schema)["parts.camera"].shape == (0, 2, 3, 3)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_slices_and_chunks_keep_their_offset(start):
    schema, made = records([3, 4])
    rows, _ = to_tables(schema, made)
    chunked = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    expected = concatenate(made)

    for table in (rows.slice(start), chunked.slice(start)):
        columns = _arrow.table_to_columns(table, schema)
        assert all(columns[name].tobytes() == expected[name][start:].tobytes() for name in expected)


def test_columns_share_memory_with_the_arrow_table():
    schema = Schema((Field("observation", "float64", (3,), observed=False),))
    columns = {"observation": np.arange(12.0).reshape(4, 3)}

    batch = _arrow.columns_to_batch(columns, [0], [4], schema)
    columns["observation"][2, 1] = 99

    assert batch["observation"].to_pylist()[2] == [6.0, 99.0, 8.0]
    assert np.shares_memory(_arrow.table_to_columns(batch, schema)["observation"], columns["observation"])


def test_a_row_has_the_shape_of_its_field():
    assert _arrow.take_row(np.arange(5), 3, Field("count", "int64", (), observed=False)).shape == ()
    assert _arrow.take_row(np.arange(5), 3, Field("count", "int64", (), observed=False)) == 3
    flat = np.arange(24).reshape(4, 6)
    assert _arrow.take_row(flat, 1, Field("grid", "int64", (2, 3), observed=False)).tolist() == [[6, 7, 8], [9, 10, 11]]


def change_ids(rows, episodes):
    return rows.set_column(0, rows.schema.field(0), pa.array([6] * 3 + [3] * 2)), episodes


def drop_a_row(rows, episodes):
    return rows.slice(0, 4), episodes


def change_a_hash(rows, episodes):
    index = episodes.column_names.index("content_hash")
    return rows, episodes.set_column(index, episodes.schema.field(index), pa.array(["0" * 64] * 2))


def change_a_final_value(rows, episodes):
    index = episodes.column_names.index("final.success")
    values = [not value for value in episodes["final.success"].to_pylist()]
    return rows, episodes.set_column(index, episodes.schema.field(index), pa.array(values))


@pytest.mark.parametrize("change", [change_ids, drop_a_row, change_a_hash, change_a_final_value])
def test_rows_of_other_episodes_are_refused(change):
    schema, made = records([3, 2])
    rows, episodes = change(*to_tables(schema, made))

    with pytest.raises(CorruptDatasetError, match=r"Episode \d: expected \d transitions with content hash"):
        list(_arrow.table_to_records(rows, episodes, schema))


def test_what_nobody_recorded_is_null_in_the_episode_table():
    rows = [_arrow.EpisodeRow.from_record(record) for record in teleoperated_records([3, 2])]
    names = ("action", "next.terminated", "next.truncated", "observation")
    fields = [Field(name, *kind, name == "observation") for name, kind in zip(names, KINDS, strict=True)]

    table = _arrow.build_episode_table(rows, Schema(tuple(fields)))

    assert (
        table.select(["return", "success", "seed"]).to_pylist() == [{"return": None, "success": None, "seed": None}] * 2
    )
    assert [name for name in table.column_names if name.startswith("start.")] == []
    schema, _ = records([1])
    recorded = _arrow.episode_schema(schema, {})
    assert not recorded.field("return").nullable  # as in every version that holds them
    assert not recorded.field("success").nullable


@settings(max_examples=15, deadline=None)
@given(known=st.lists(st.booleans(), min_size=1, max_size=5))
def test_start_states_of_some_episodes_come_back_from_parquet(known, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "episodes.parquet"
    schema, made = records([2] * len(known))
    made = [
        record if is_known else replace(record, start_state={}) for record, is_known in zip(made, known, strict=True)
    ]
    rows, episodes = to_tables(schema, made)

    pq.write_table(episodes, path)
    read = list(_arrow.table_to_records(rows, pq.read_table(path), schema))

    assert all(same(left, right) for left, right in zip(read, made, strict=True))
    assert [record.start_state.keys() for record in read] == [record.start_state.keys() for record in made]
    if any(known):  # the columns of tables without nulls have no nulls, as ever
        assert pa.types.is_fixed_size_list(episodes.schema.field("start.qpos").type) == all(known)
        assert episodes["start.qpos"].null_count == known.count(False)
