"""Sketches: the statistics of a version are read back, merged exactly over splits, and compared with the manifest."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rlhive.data import _parquet
from rlhive.data._statistics import QUANTILES, ColumnStatistics, merge_statistics
from rlhive.data.versions import _sketches
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import SKETCHES_PATH, FileEntry, Manifest, compute_sha256
from rlhive.errors import CorruptDatasetError
from tests.data.strategies import records
from tests.data.test_statistics import make_values


@pytest.fixture
def statistics():
    """Statistics of two splits, by split and column."""
    return {
        "a": {
            "x": ColumnStatistics.from_rows(make_values(0, 50)),
            "y": ColumnStatistics.from_rows(make_values(1, 50)[:, :1]),
        },
        "b": {
            "x": ColumnStatistics.from_rows(make_values(2, 30)),
            "y": ColumnStatistics.from_rows(make_values(3, 30)[:, :1]),
        },
    }


@pytest.fixture
def version(statistics, tmp_path):
    """A folder with sketches and a manifest that describes them."""
    schema, episodes = records([1])
    manifest = Manifest.read(export(episodes, "my/knob", license="mit", schema=schema, store=tmp_path / "store"))
    (tmp_path / "meta").mkdir()
    _sketches.write_sketches(tmp_path / SKETCHES_PATH, statistics)
    as_json = {split: {name: item.to_json() for name, item in row.items()} for split, row in statistics.items()}
    return tmp_path, replace(manifest, files=(make_entry(tmp_path),), statistics=as_json)


def make_entry(folder):
    path = folder / SKETCHES_PATH
    return FileEntry(SKETCHES_PATH, compute_sha256(path), path.stat().st_size)


def test_every_bucket_is_read_back(version, statistics):
    folder, manifest = version

    read = _sketches.read_statistics(folder, manifest, ["b", "a"])

    for columns, split in zip(read, "ba", strict=True):
        assert columns.keys() == {"x", "y"}
        for name, item in columns.items():
            expected = statistics[split][name]
            assert (item.buckets == expected.buckets).all()
            filled = expected.buckets.any(axis=1)
            assert item.anchor[filled].tolist() == expected.anchor[filled].tolist()
            assert [item.quantile(q).tolist() for q in (0, 0.3, 1)] == [
                expected.quantile(q).tolist() for q in (0, 0.3, 1)
            ]


def test_statistics_without_a_histogram_cannot_be_written(tmp_path, statistics):
    moments = {"a": {"x": replace(statistics["a"]["x"], buckets=None)}}

    with pytest.raises(ValueError, match="Split a, column x: expected statistics of rows, got moments alone"):
        _sketches.write_sketches(tmp_path / "sketches", moments)


def test_damaged_sketches_are_refused(version):
    folder, manifest = version
    content = bytearray((folder / SKETCHES_PATH).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / SKETCHES_PATH).write_bytes(content)

    with pytest.raises(CorruptDatasetError, match="expected SHA-256"):
        _sketches.read_statistics(folder, manifest, ["a"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("bucket", -1, "values per element"),
        ("bucket", 32_000, "values per element"),
        ("element", 99, "values per element"),
        ("element", -1, "values per element"),
        ("count", 10**6, "values per element"),
        ("count", -1, "values per element"),
        (None, None, "expected the columns split, column, element, anchor, bucket, count, got others"),
    ],
)
def test_sketches_with_the_right_hash_that_do_not_fit_are_refused(column, value, message, version):
    folder, manifest = version
    table = _parquet.read_table(folder / SKETCHES_PATH)
    if column is None:
        table = table.drop_columns(["count"])
    else:
        index = table.column_names.index(column)
        cells = [value, *table[column].to_pylist()[1:]]
        table = table.set_column(index, table.schema.field(column), pa.array(cells, table.schema.field(column).type))
    _parquet.write_table(table, folder / SKETCHES_PATH)

    with pytest.raises(CorruptDatasetError, match=message):
        _sketches.read_statistics(folder, replace(manifest, files=(make_entry(folder),)), ["a"])


def test_a_version_keeps_the_sketches_and_merges_its_splits_exactly(tmp_path):
    _, made = records([40, 30, 50, 20])
    for record in made:
        record.columns["observation"][:] = make_values(record.episode, record.length)[:, :3]
    folder = export(made, "my/knob", license="mit", store=tmp_path, shard_bytes=1000)
    manifest = Manifest.read(folder)

    merged = merge_statistics(_sketches.read_statistics(folder, manifest, ["a", "b"]))["observation"]

    rows = np.concatenate([record.columns["observation"] for record in made])
    whole = ColumnStatistics.from_rows(rows, anchor=merged.anchor)
    assert (merged.buckets == whole.buckets).all()
    assert (merged.quantile(0.9) == whole.quantile(0.9)).all()
    split_rows = np.concatenate([record.columns["observation"] for record in made if record.split == "b"])
    statistics = manifest.statistics["b"]["observation"]
    assert statistics["q50"] == ColumnStatistics.from_rows(split_rows, anchor=merged.anchor).quantile(0.5).tolist()


def test_a_version_without_sketches_gives_moments_alone(tmp_path):
    _, made = records([4, 3])
    folder = export(made, "my/knob", license="mit", store=tmp_path)
    content = json.loads((folder / "rlhive.json").read_text())
    content["files"] = [entry for entry in content["files"] if entry["path"] != SKETCHES_PATH]
    for columns in content["statistics"].values():
        for row in columns.values():
            for name in QUANTILES:
                del row[name]
    (folder / "rlhive.json").write_text(json.dumps(content))

    merged = merge_statistics(_sketches.read_statistics(folder, Manifest.read(folder), ["a", "b"]))["action"].to_json()

    assert merged["count"] == 7
    assert set(merged) == {"count", "mean", "std", "min", "max"}


def test_sketches_that_do_not_fit_the_manifest_are_refused(tmp_path):
    _, made = records([4, 3])
    folder = export(made, "my/knob", license="mit", store=tmp_path)
    content = json.loads((folder / "rlhive.json").read_text())
    content["statistics"]["a"]["action"]["count"] += 1
    (folder / "rlhive.json").write_text(json.dumps(content))

    with pytest.raises(CorruptDatasetError, match="expected 5 values per element"):
        _sketches.read_statistics(folder, Manifest.read(folder), ["a"])
