"""Consistency of the files of a version with its manifest. Each mismatch is described by one sentence.

A reader raises the first mismatch; ``rlhive check`` lists all of them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow
from rlhive.data._schema import find_unrecorded
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest
from rlhive.errors import CorruptDatasetError

#: Columns of the episode table that :func:`find_count_mismatches` needs.
COUNT_COLUMNS = (keys.EPISODE, "length", "split")


def find_schema_mismatches(path: Path, actual: pa.Schema, expected: pa.Schema) -> Iterator[str]:
    """Yield how the columns of a file differ from the manifest's."""
    if actual.equals(expected):
        return
    for name in dict.fromkeys([*expected.names, *actual.names]):
        expected_column = _describe_column(expected, name)
        actual_column = _describe_column(actual, name)
        if expected_column != actual_column:
            yield f"{path}: column {name}: expected {expected_column}, got {actual_column}."
    if set(actual.names) == set(expected.names) and actual.names != expected.names:
        yield f"{path}: expected the columns in the order {expected.names}, got {actual.names}."


def find_table_mismatches(path: Path, actual: pa.Schema, manifest: Manifest) -> Iterator[str]:
    """Yield how the columns of an episode table differ from the manifest's; start states may have any size, or nulls.

    A version that was written before the table had nulls holds return 0.0 and success False where nothing was recorded.
    """
    expected = _arrow.episode_schema(manifest.schema, _arrow.read_start_state_sizes(actual))
    for name in find_unrecorded(manifest.schema):
        index = expected.get_field_index(name)
        if len(actual.get_all_field_indices(name)) == 1 and not actual.field(name).nullable:
            expected = expected.set(index, expected.field(index).with_nullable(nullable=False))
    yield from find_schema_mismatches(path, actual, expected)


def find_count_mismatches(manifest: Manifest, episodes: pa.Table) -> Iterator[str]:
    """Yield where the manifest, its shards and the episode table count differently.

    Args:
        manifest: Manifest of the version.
        episodes: The columns :data:`COUNT_COLUMNS` of the episode table.
    """
    ids, lengths = (_to_int64(episodes[name]) for name in (keys.EPISODE, "length"))
    for row in np.flatnonzero(np.diff(ids) <= 0):
        yield f"{EPISODES_PATH}: expected rising ids, got {ids[row + 1]} after {ids[row]}."
    for row in np.flatnonzero((lengths < 1) | (lengths > manifest.num_transitions)):
        yield f"{EPISODES_PATH}: episode {ids[row]}: expected a length, got {lengths[row]}."
    splits = episodes["split"].to_pylist()
    codes = {split: code for code, split in enumerate(dict.fromkeys(splits))}
    split_codes = np.fromiter(map(codes.__getitem__, splits), np.int64, len(splits))
    for split in dict.fromkeys([*manifest.splits, *codes, *(entry.split for entry in manifest.shards())]):
        in_manifest = dict(manifest.splits.get(split, {"num_episodes": 0, "num_transitions": 0}))
        in_shards = {
            "num_episodes": sum(entry.num_episodes for entry in manifest.shards(split)),
            "num_transitions": sum(entry.num_transitions for entry in manifest.shards(split)),
        }
        split_lengths = lengths[split_codes == codes.get(split, -1)]
        in_table = {"num_episodes": len(split_lengths), "num_transitions": int(split_lengths.sum())}
        if in_manifest != in_shards or in_manifest != in_table:
            counts = f"the manifest says {in_manifest}, its shards {in_shards}, the episode table {in_table}"
            yield f"split {split}: {counts}."


def require_consistent(mismatches: Iterable[str]) -> None:
    """Raise the first mismatch.

    Raises:
        CorruptDatasetError: There is a mismatch.
    """
    for mismatch in mismatches:
        msg = f"{mismatch} Fetch or make the version again."
        raise CorruptDatasetError(msg)


def _to_int64(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of integers without pyarrow's to_numpy, which imports pandas: `rlhive show` would take longer."""
    if column.null_count or not pa.types.is_int64(column.type):
        return np.array(column.to_pylist(), np.int64)
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.int64, len(chunk), 8 * chunk.offset)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, np.int64), *chunks])


def _describe_column(schema: pa.Schema, name: str) -> str:
    count = schema.names.count(name)
    if count != 1:
        return "several" if count else "none"
    return str(schema.field(name).remove_metadata())
