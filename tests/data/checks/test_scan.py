"""Scans of rows: extremes with their counts, and the first bad row of each episode."""

import numpy as np
import pytest

from rlhive.data.checks._scan import Extremes, _first_row_by_episode


def count_extremes(rows):
    """Return what Extremes holds, computed by sorting."""
    values = np.sort(rows.reshape(len(rows), -1), axis=0)
    low, high = values[0], values[-1]
    return (
        len(rows),
        low.tolist(),
        high.tolist(),
        (values == low).sum(axis=0).tolist(),
        (values == high).sum(0).tolist(),
    )


def as_tuple(extremes):
    lists = (extremes.low, extremes.high, extremes.num_low, extremes.num_high)
    return (extremes.count, *(array.tolist() for array in lists))


@pytest.mark.parametrize("count", [1, 2, 254, 255, 256, 1000])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_extremes_and_their_counts(count, shape):
    rows = np.random.default_rng(count).integers(-2, 3, (count, *shape)).astype(np.float32)

    assert as_tuple(Extremes.from_rows(rows)) == count_extremes(rows)


@pytest.mark.parametrize("cut", [1, 30, 99])
def test_merged_extremes_are_those_of_all_rows(cut):
    rows = np.random.default_rng(cut).integers(-2, 3, (100, 3))

    merged = Extremes.from_rows(rows[:cut]).merge(Extremes.from_rows(rows[cut:]))

    assert as_tuple(merged) == count_extremes(rows)


def test_bytes_have_extremes_without_counts():
    rows = np.array([[3, 0], [3, 255], [1, 0]], np.uint8)

    assert as_tuple(Extremes.from_rows(rows)) == (3, [1, 0], [3, 255], [0, 0], [0, 0])


def test_a_nan_makes_both_extremes_nan():
    extremes = Extremes.from_rows(np.array([[1.0, 2.0], [np.nan, 3.0]]))

    assert np.isnan([extremes.low[0], extremes.high[0]]).all()
    assert (extremes.low[1], extremes.high[1]) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("bad_rows", "expected"),
    [([], {}), ([0], {0: 0}), ([4, 2], {0: 2, 1: 4}), ([3, 4, 8, 9], {1: 3, 2: 8})],
)
def test_the_first_bad_row_of_each_episode(bad_rows, expected):
    mask = np.zeros(10, bool)
    mask[bad_rows] = True

    assert _first_row_by_episode(mask, np.array([0, 3, 8])) == expected
