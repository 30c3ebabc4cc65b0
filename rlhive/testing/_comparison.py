"""Bit-for-bit comparison of episodes, with messages that name the episode and the column."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data import EpisodeRecord

#: The fields of a record besides its arrays.
RECORD_FIELDS = ("split", "seed", "policy", "start_state", "metadata")


@dataclass(frozen=True)
class ExpectedEpisode:
    """One episode that a format must read from a source.

    Attributes:
        columns: Arrays ``[T, *shape]`` by column name, without the end columns.
        final: The value after the last action, ``[*shape]``, of every observed column.
        ended: "terminated", "truncated" or "unfinished".
        split: Name of the split.
        seed: Seed of the episode.
        metadata: Entries that the episode's metadata must have.
    """

    columns: Mapping[str, np.ndarray]
    final: Mapping[str, np.ndarray]
    ended: str
    split: str = "train"
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of transitions."""
        return len(next(iter(self.columns.values())))

    def with_ends(self) -> dict[str, np.ndarray]:
        """Return the columns with the end columns, which are set in the last row only."""
        flags = (keys.NEXT_TERMINATED, keys.NEXT_TRUNCATED)
        ends = {keys.key_to_column(flag): np.zeros((self.length, 1), bool) for flag in flags}
        if self.ended != "unfinished":
            ends[keys.key_to_column((keys.NEXT, self.ended))][-1] = True
        return {**self.columns, **ends}

    def check(self, record: EpisodeRecord, context: str) -> None:
        """Compare with an episode that was read: columns, dtypes, bits, final values, end, split, seed, metadata."""
        check_arrays(record.columns, self.with_ends(), f"{context}, columns")
        check_arrays(record.final, self.final, f"{context}, final values")
        assert record.ended == self.ended, context
        assert (record.split, record.seed) == (self.split, self.seed), context
        metadata = {key: record.metadata.get(key) for key in self.metadata}
        assert metadata == dict(self.metadata), f"{context}, metadata"


def check_records(actual: EpisodeRecord, expected: EpisodeRecord, not_kept: Collection[str], context: str) -> None:
    """Compare two episodes except for the columns and fields that a format does not keep."""
    for kind in ("columns", "final"):
        arrays = {name: rows for name, rows in getattr(expected, kind).items() if name not in not_kept}
        check_arrays(getattr(actual, kind), arrays, f"{context}, {kind}")
    for name in RECORD_FIELDS:
        if name == "start_state" and name not in not_kept:
            check_arrays(actual.start_state, expected.start_state, f"{context}, start state")
        elif name not in not_kept:
            assert getattr(actual, name) == getattr(expected, name), f"{context}, {name}"


def check_arrays(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], context: str) -> None:
    """Compare arrays by name: the same names, dtypes, shapes and bits."""
    assert sorted(actual) == sorted(expected), context
    for name, values in expected.items():
        actual_values, expected_values = _as_array(actual[name]), _as_array(values)
        assert actual_values.dtype == expected_values.dtype, f"{context}, {name}: dtype"
        assert actual_values.shape == expected_values.shape, f"{context}, {name}: shape"
        np.testing.assert_array_equal(
            _to_unsigned(actual_values), _to_unsigned(expected_values), err_msg=f"{context}, {name}"
        )


def _as_array(values: np.ndarray | str) -> np.ndarray:
    """Return an array; texts have the dtype object, as in a record."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind == "U" else array


def _to_unsigned(values: np.ndarray) -> np.ndarray:
    """Return floats as unsigned integers, so that NaN equals NaN and 0.0 differs from -0.0."""
    if values.dtype.kind != "f":
        return values
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def list_files(folder: Path) -> list[Path]:
    """Return the files below a folder, without locks; the file itself for a file; none for a missing path."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def read_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in list_files(folder)}
