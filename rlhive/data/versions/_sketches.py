"""The sketches behind a version's quantiles ⇄ ``meta/statistics.parquet``: one row per bucket that is not empty.

They let the quantiles of several splits be merged exactly; the manifest keeps each split's own quantiles and moments.
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
    """Write the sketches of all splits and columns."""
    parts = []
    for split, columns in splits.items():
        for column, summary in columns.items():
            element, bucket = summary.buckets.nonzero()
            arrays = [
                pa.repeat(split, len(element)),
                pa.repeat(column, len(element)),
                pa.array(element.astype(np.int32)),
                pa.array(summary.anchor[element]),
                pa.array(bucket.astype(np.int16)),
                pa.array(summary.buckets[element, bucket]),
            ]
            parts.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
    with _parquet.open_writer(path, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_batches(parts, _SCHEMA))


def read_statistics(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[dict[str, ColumnStatistics]]:
    """Return the statistics of some splits, one dict by column name for each.

    Versions that were written before there were quantiles, and whole-file copies without the sketches, give moments
    alone.

    Raises:
        CorruptDataset: The sketches are not what the manifest recorded, or do not fit the statistics.
    """
    found = [
        {column: ColumnStatistics.from_json(row) for column, row in manifest.statistics.get(split, {}).items()}
        for split in splits
    ]
    entries = [entry for entry in manifest.files if entry.path == SKETCHES_PATH]
    if not entries:
        return found
    verify_files(folder, entries)
    path = Path(folder) / SKETCHES_PATH
    table = _parquet.read_table(path)
    if table.schema != _SCHEMA:
        msg = f"{path}: expected the columns {', '.join(_SCHEMA.names)}, got others. Fetch the version again."
        raise CorruptDataset(msg)
    for split, columns in zip(splits, found, strict=True):
        for column, summary in columns.items():
            own = table.filter((pc.field("split") == split) & (pc.field("column") == column))
            columns[column] = _with_buckets(summary, own, path)
    return found


def _with_buckets(summary: ColumnStatistics, rows: pa.Table, path: Path) -> ColumnStatistics:
    elements = len(summary.mean)
    element, bucket, count = (rows[name].to_numpy() for name in ("element", "bucket", "count"))
    inside = (element >= 0) & (element < elements) & (bucket >= 0) & (bucket < NUM_BUCKETS) & (count > 0)
    buckets = np.zeros((elements, NUM_BUCKETS), np.int64)
    anchor = np.zeros(elements)
    if inside.all():
        buckets[element, bucket], anchor[element] = count, rows["anchor"].to_numpy()
    if not (buckets.sum(axis=1) == summary.count).all():
        msg = f"{path}: expected {summary.count} values per element as the manifest says. Fetch the version again."
        raise CorruptDataset(msg)
    return replace(summary, buckets=buckets, anchor=anchor)
