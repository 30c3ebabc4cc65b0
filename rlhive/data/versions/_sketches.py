"""Sketches: the histograms behind a version's quantiles, in ``meta/statistics.parquet``, one row per filled bucket.

They allow the quantiles of several splits to be merged exactly. The manifest keeps each split's quantiles and moments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhive.data import _parquet
from rlhive.data._statistics import NUM_BUCKETS, ColumnStatistics
from rlhive.data.versions._manifest import SKETCHES_PATH, Manifest, verify_files
from rlhive.errors import CorruptDataset

_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("element", pa.int32(), nullable=False),
        pa.field("anchor", pa.float64(), nullable=False),
        pa.field("bucket", pa.int16(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


def write_sketches(path: Path, splits: Mapping[str, Mapping[str, ColumnStatistics]]) -> None:
    """Write the sketches of all splits and columns.

    Args:
        path: Path of the file.
        splits: Statistics by split and column.
    """
    batches = [
        _to_batch(split, column, statistics)
        for split, columns in splits.items()
        for column, statistics in columns.items()
    ]
    with _parquet.open_writer(path, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_batches(batches, _SCHEMA))


def read_statistics(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[dict[str, ColumnStatistics]]:
    """Return the statistics of some splits, one dict by column name for each.

    Without sketches, as in versions that were written before there were quantiles, the statistics are moments only.

    Raises:
        CorruptDataset: The sketches are not what the manifest recorded, or do not fit the statistics.
    """
    moments = [
        {column: ColumnStatistics.from_json(row) for column, row in manifest.statistics.get(split, {}).items()}
        for split in splits
    ]
    entries = [entry for entry in manifest.files if entry.path == SKETCHES_PATH]
    if not entries:
        return moments
    verify_files(folder, entries)
    path = Path(folder) / SKETCHES_PATH
    table = _parquet.read_table(path)
    if table.schema != _SCHEMA:
        msg = f"{path}: expected the columns {', '.join(_SCHEMA.names)}, got others. Fetch the version again."
        raise CorruptDataset(msg)
    return [
        {
            column: _add_buckets(statistics, _select_rows(table, split, column), path)
            for column, statistics in columns.items()
        }
        for split, columns in zip(splits, moments, strict=True)
    ]


def _to_batch(split: str, column: str, statistics: ColumnStatistics) -> pa.RecordBatch:
    """Return the filled buckets of one column, in the order of elements and buckets."""
    if statistics.buckets is None:
        msg = f"Split {split}, column {column}: expected statistics of rows, got moments alone."
        raise ValueError(msg)
    element, bucket = statistics.buckets.nonzero()
    arrays = [
        pa.repeat(split, len(element)),
        pa.repeat(column, len(element)),
        pa.array(element.astype(np.int32)),
        pa.array(statistics.anchor[element]),
        pa.array(bucket.astype(np.int16)),
        pa.array(statistics.buckets[element, bucket]),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _select_rows(table: pa.Table, split: str, column: str) -> pa.Table:
    return table.filter((pc.field("split") == split) & (pc.field("column") == column))


def _add_buckets(statistics: ColumnStatistics, rows: pa.Table, path: Path) -> ColumnStatistics:
    """Return statistics with the histogram of some rows of the file; the counts must agree."""
    num_elements = len(statistics.mean)
    element, bucket, count = (rows[name].to_numpy() for name in ("element", "bucket", "count"))
    is_valid = (element >= 0) & (element < num_elements) & (bucket >= 0) & (bucket < NUM_BUCKETS) & (count > 0)
    buckets = np.zeros((num_elements, NUM_BUCKETS), np.int64)
    anchor = np.zeros(num_elements)
    if is_valid.all():
        buckets[element, bucket] = count
        anchor[element] = rows["anchor"].to_numpy()
    if not (buckets.sum(axis=1) == statistics.count).all():
        msg = f"{path}: expected {statistics.count} values per element as the manifest says. Fetch the version again."
        raise CorruptDataset(msg)
    return replace(statistics, buckets=buckets, anchor=anchor)
