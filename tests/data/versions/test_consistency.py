"""Consistency: every way in which files contradict the manifest is described, and nothing else."""

from dataclasses import replace

import pyarrow as pa
import pytest

from rlhive.data import _arrow
from rlhive.data.checks._check import run_checks
from rlhive.data.versions._consistency import (
    COUNT_COLUMNS,
    find_count_mismatches,
    find_schema_mismatches,
    find_table_mismatches,
    require_consistent,
)
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.data.versions._reader import read_episodes
from rlhive.dataset._dataset import RoboHiveDataset
from rlhive.errors import CorruptDatasetError
from tests.data.checks.walks import rewrite_table, set_cell, write_older_table
from tests.data.strategies import records, teleoperated_records

EXPECTED = pa.schema([("episode", pa.int64()), ("action", pa.list_(pa.float32(), 2)), ("count", pa.int32())])


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    schema, episodes = records([4, 1, 7, 3])
    folder = export(
        episodes, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path_factory.mktemp("store")
    )
    manifest = Manifest.read(folder)
    return manifest, read_episodes(folder, manifest)


def test_equal_columns_have_no_mismatch():
    assert list(find_schema_mismatches("f", EXPECTED, EXPECTED)) == []
    assert list(find_schema_mismatches("f", EXPECTED.with_metadata({"a": "b"}), EXPECTED)) == []


@pytest.mark.parametrize(
    ("actual", "mismatches"),
    [
        (EXPECTED.remove(2), ["f: column count: expected pyarrow.Field<count: int32>, got none."]),
        (
            EXPECTED.append(pa.field("x", pa.bool_())),
            ["f: column x: expected none, got pyarrow.Field<x: bool>."],
        ),
        (
            EXPECTED.set(2, pa.field("count", pa.int64())),
            ["f: column count: expected pyarrow.Field<count: int32>, got pyarrow.Field<count: int64>."],
        ),
        (
            EXPECTED.append(pa.field("count", pa.int32())),
            [
                "f: column count: expected pyarrow.Field<count: int32>, got several.",
                f"f: expected the columns in the order {EXPECTED.names}, got {[*EXPECTED.names, 'count']}.",
            ],
        ),
        (
            pa.schema([EXPECTED.field(1), EXPECTED.field(0), EXPECTED.field(2)]),
            [f"f: expected the columns in the order {EXPECTED.names}, got ['action', 'episode', 'count']."],
        ),
    ],
)
def test_every_difference_of_columns_is_described(actual, mismatches):
    assert list(find_schema_mismatches("f", actual, EXPECTED)) == mismatches


def test_start_states_of_any_size_are_consistent(version):
    manifest, table = version
    index = table.column_names.index("start.qpos")
    element = pa.field("element", pa.float64(), nullable=False)
    wide = table.schema.set(index, pa.field("start.qpos", pa.list_(element, 9), nullable=False))

    assert list(find_table_mismatches("f", table.schema, manifest)) == []
    assert list(find_table_mismatches("f", wide, manifest)) == []
    fields = [field for field in table.schema if field.name != f"{_arrow.FINAL_PREFIX}count"]
    (mismatch,) = find_table_mismatches("f", pa.schema(fields, table.schema.metadata), manifest)
    assert "column final.count: expected" in mismatch


def test_equal_counts_have_no_mismatch(version):
    manifest, table = version

    assert list(find_count_mismatches(manifest, table.select(COUNT_COLUMNS))) == []


@pytest.mark.parametrize(
    ("column", "row", "value", "messages"),
    [
        ("episode", 1, 3, ["expected rising ids, got 3 after 3"]),
        ("episode", 0, 7, ["expected rising ids, got 6 after 7"]),
        ("length", 0, 0, ["episode 3: expected a length, got 0", "split a: .*'num_transitions': 7"]),
        ("length", 1, 99, ["episode 6: expected a length, got 99", "split b: .*'num_transitions': 102"]),
        ("length", 1, 2, ["split b: the manifest says .*'num_transitions': 4.*table .*'num_transitions': 5"]),
        ("split", 0, "b", ["split a: .*table .*'num_episodes': 1", "split b: .*table .*'num_episodes': 3"]),
        ("split", 0, "c", ["split a: ", "split c: the manifest says {'num_episodes': 0"]),
    ],
)
def test_counts_of_the_table_that_differ_are_described(column, row, value, messages, version):
    manifest, table = version

    mismatches = list(find_count_mismatches(manifest, set_cell(column, row, value)(table)))

    assert len(mismatches) == len(messages)
    for mismatch, message in zip(mismatches, messages, strict=True):
        with pytest.raises(CorruptDatasetError, match=message):
            require_consistent([mismatch])


def test_counts_of_the_manifest_that_differ_are_described(version):
    manifest, table = version
    more = {**manifest.splits, "a": {"num_episodes": 2, "num_transitions": 99}}
    shards = tuple(replace(entry, num_episodes=7) if entry.split == "b" else entry for entry in manifest.files)

    (in_manifest,) = find_count_mismatches(replace(manifest, splits=more), table)
    (in_shards,) = find_count_mismatches(replace(manifest, files=shards), table)

    assert in_manifest.startswith("split a: the manifest says {'num_episodes': 2, 'num_transitions': 99}, its shards")
    assert "split b: " in in_shards
    assert "its shards {'num_episodes': 7, 'num_transitions': 4}" in in_shards


def test_the_first_mismatch_is_raised():
    require_consistent([])
    with pytest.raises(CorruptDatasetError, match=r"^first\. Fetch or make the version again\.$"):
        require_consistent(iter(["first.", "second."]))


def test_a_table_that_was_written_before_it_had_nulls_stays_valid(tmp_path):
    folder = export(teleoperated_records([3, 2]), "lab/teleop", license="mit", store=tmp_path)
    fingerprint = Manifest.read(folder).fingerprint
    rewrite_table(folder, "meta/episodes.parquet", write_older_table)

    dataset = RoboHiveDataset(folder)

    assert dataset.fingerprint == fingerprint
    assert dataset.episodes.select(["return", "success"]).to_pylist() == [{"return": 0.0, "success": False}] * 2
    assert dataset.where("not success and return == 0").counts == dataset.counts
    assert {name for name, result in run_checks(folder).results.items() if result.count} == set()
    again = RoboHiveDataset(export(dataset, "lab/again", license="mit", store=tmp_path))
    assert again.fingerprint == fingerprint
    assert again.episodes["success"].to_pylist() == [None, None]


def test_a_null_where_the_schema_has_a_reward_is_a_mismatch(version):
    manifest, table = version
    index = table.column_names.index("return")
    nullable = table.schema.set(index, table.schema.field("return").with_nullable(nullable=True))

    assert "column return: expected pyarrow.Field<return: double not null>" in next(
        find_table_mismatches("f", nullable, manifest)
    )
