import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data._statistics import (
    QUANTILES,
    RELATIVE_ERROR,
    SMALLEST,
    ColumnStatistics,
    find_extremes,
    merge_statistics,
)


def make_values(seed, count):
    """Return elements of all kinds: around zero, a small motion far from it, heavy tails, constant, few values."""
    generator = np.random.default_rng(seed)
    columns = [
        generator.normal(size=count),
        1.6 + 1e-3 * generator.normal(size=count),
        generator.standard_cauchy(size=count),
        np.full(count, -3.5),
        generator.integers(-2, 3, count),
        np.exp(generator.normal(size=count) * 8),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 400), q=st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error(seed, count, q):
    rows = make_values(seed, count)
    summary = ColumnStatistics.from_rows(rows)

    true = np.quantile(rows, q, axis=0, method="lower")

    bound = RELATIVE_ERROR * np.abs(true - summary.anchor) + SMALLEST
    assert (np.abs(summary.quantile(q) - true) <= bound * (1 + 1e-9) + 1e-15 * np.abs(true)).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 299), min_size=1, max_size=4, unique=True))
def test_merged_statistics_of_any_parts_are_those_of_one_pass(seed, cuts):
    rows = make_values(seed, 300)
    whole = ColumnStatistics.from_rows(rows)
    parts = [ColumnStatistics.from_rows(part, anchor=whole.anchor) for part in np.split(rows, sorted(cuts))]

    merged = merge_statistics({"x": part} for part in parts[::-1])["x"]

    assert (merged.buckets == whole.buckets).all()
    assert all((merged.quantile(q) == whole.quantile(q)).all() for q in QUANTILES.values())
    assert (merged.count, merged.min.tolist(), merged.max.tolist()) == (300, whole.min.tolist(), whole.max.tolist())
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(merged.std, rows.std(axis=0), rtol=1e-7, atol=1e-12)


def test_rows_added_in_pieces_are_those_added_at_once():
    rows = make_values(0, 500)
    summary = ColumnStatistics.from_rows(rows[:1])
    for start in range(1, 500, 7):
        summary.add(rows[start : start + 7])

    assert (summary.buckets == ColumnStatistics.from_rows(rows).buckets).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int32", "float16", "float32"])
def test_every_dtype_has_the_moments_and_quantiles_of_its_values(dtype):
    rows = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 50, (200, 3)).astype(dtype)
    summary, exact = ColumnStatistics.from_rows(rows), rows.astype(np.float64)

    np.testing.assert_allclose(summary.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(summary.std, exact.std(axis=0), rtol=1e-12)
    assert summary.min.tolist() == exact.min(axis=0).tolist()
    for q in (0.0, 0.25, 0.5, 1.0):
        true = np.quantile(exact, q, axis=0, method="lower")
        if dtype.startswith("float"):
            assert (np.abs(summary.quantile(q) - true) <= RELATIVE_ERROR * np.abs(true - summary.anchor)).all()
        else:
            assert summary.quantile(q).tolist() == true.tolist()


def test_pictures_are_summarised_per_channel():
    rows = np.random.default_rng(2).integers(0, 256, (5, 20, 20, 3)).astype(np.uint8)
    summary = ColumnStatistics.from_rows(rows)

    assert summary.count == 5 * 20 * 20
    np.testing.assert_allclose(summary.mean, rows.reshape(-1, 3).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(summary.std, rows.reshape(-1, 3).std(axis=0), rtol=1e-12)


def test_infinities_are_null_in_json_and_do_not_affect_other_elements():
    rows = np.array([[0.0, 1.0], [np.inf, 2.0], [-np.inf, 3.0]])

    content = ColumnStatistics.from_rows(rows).to_json()

    assert content["mean"][0] is None
    assert content["q50"][0] == 0.0
    assert content["mean"][1] == 2.0
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_extremes_of_any_number_of_rows_and_elements():
    for shape in ((1, 1), (5, 3), (1000, 2), (1025, 1), (3000, 700)):
        rows = np.random.default_rng(shape[0]).normal(size=shape)
        low, high = find_extremes(rows)
        assert (low == rows.min(axis=0)).all()
        assert (high == rows.max(axis=0)).all()


def test_merged_parts_have_the_extremes_of_either():
    parts = [ColumnStatistics.from_rows(np.array([[value, -value]])) for value in (2.0, 5.0, 1.0)]

    merged = merge_statistics({"x": part} for part in parts)["x"]

    assert (merged.count, merged.min.tolist(), merged.max.tolist()) == (3, [1.0, -5.0], [5.0, -1.0])
    assert merged.mean.tolist() == pytest.approx([8 / 3, -8 / 3])


def test_statistics_with_other_anchors_have_no_quantiles_when_they_are_merged():
    rows = make_values(0, 10)
    merged = ColumnStatistics.from_rows(rows[:5]).merge(ColumnStatistics.from_rows(rows[5:]))

    assert set(merged.to_json()) == {"count", "mean", "std", "min", "max"}
    with pytest.raises(ValueError, match="Quantiles need a sketch: expected buckets, got moments only"):
        merged.quantile(0.5)


def test_moments_come_back_from_json():
    statistics = ColumnStatistics.from_rows(make_values(3, 50))
    read = ColumnStatistics.from_json(statistics.to_json())

    assert (read.count, read.buckets) == (50, None)
    for name in ("mean", "min", "max"):
        assert (getattr(read, name) == getattr(statistics, name)).all()
    np.testing.assert_allclose(read.std, statistics.std, rtol=1e-12)
