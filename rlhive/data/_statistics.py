"""Mergeable streaming statistics of columns: count, mean, standard deviation, minimum, maximum and quantiles.

Moments are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979), in float64 for every dtype.

Quantiles come from a histogram with buckets of constant relative width, DDSketch (Masson, Rim and Lee, "DDSketch: A
fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019). Bucket counts add up, so the
sketch of two sets of rows is exactly the sketch of their union. The leading bits of a float64 are the bucket::

    x - anchor    ±  |  exponent  |  6 bits  |  46 bits that are dropped
                     2^-31 … 2^33     1/64

The anchor is the first value of the element. The width of a bucket is relative to the distance from the anchor, so a
joint that moves by a millimetre around 1.6 m is resolved as finely as a joint that moves around zero.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhive.data._dtypes import to_numbers

#: Quantiles in a manifest.
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
#: Largest error of a quantile, relative to the distance between the true quantile and the anchor.
RELATIVE_ERROR = 2.0**-7
#: Distances from the anchor below this value share a bucket; it is the largest absolute error of a tiny distance.
SMALLEST = 2.0**-31
#: Columns with more elements per row (images) have statistics per channel, the last axis, instead of per element.
MAX_ELEMENTS = 512

_SHIFT = 46  # of the 52 bits of mantissa, 6 remain
_PER_OCTAVE = 64
_LOW = (1023 - 31) * _PER_OCTAVE  # bits of 2^-31, shifted
_HALF = 64 * _PER_OCTAVE  # buckets on each side of the anchor
NUM_BUCKETS = 2 * _HALF
_CHUNK = 2**16  # values that are bucketed at once, few enough for the processor's cache
_WIDE = 1024  # row width at which NumPy reduces at full speed
_BLOCK = 2**20  # values that are processed at once; bounds the memory of intermediate results


@dataclass(eq=False)
class ColumnStatistics:
    """Statistics of the rows of one column, element by element.

    :meth:`from_rows` creates them and :meth:`add` updates them in place.

    Memory: 64 KB per element, for any number of rows.

    Attributes:
        count: Number of rows; for a column with statistics per channel, number of values per channel.
        mean: Mean of each element, float64.
        m2: Sum of squared deviations from the mean, float64.
        min: Smallest value of each element, float64.
        max: Largest value of each element, float64.
        anchor: Value from which distances are measured, for each element, float64.
        buckets: Number of rows per element and bucket, int64 ``[elements, NUM_BUCKETS]``; None without a sketch, which
            is required for quantiles.
        whole: Whether all values are integers.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray
    anchor: np.ndarray
    buckets: np.ndarray | None
    whole: bool = False

    @classmethod
    def from_rows(
        cls, rows: np.ndarray, *, anchor: np.ndarray | None = None, quantiles: bool = True
    ) -> "ColumnStatistics":
        """Return the statistics of rows.

        Args:
            rows: Values ``[N, *shape]``; N >= 1 unless an anchor is given.
            anchor: Anchor of the statistics that these are to be merged with; :func:`choose_anchor` of the rows by
                default.
            quantiles: Whether to build the sketch that quantiles are computed from.
        """
        values = flatten_elements(rows)
        num_elements = values.shape[1]
        statistics = cls(
            count=0,
            mean=np.zeros(num_elements),
            m2=np.zeros(num_elements),
            min=np.full(num_elements, np.inf),
            max=np.full(num_elements, -np.inf),
            anchor=choose_anchor(rows) if anchor is None else anchor,
            buckets=np.zeros((num_elements, NUM_BUCKETS), np.int64) if quantiles else None,
            whole=values.dtype.kind in "iub",
        )
        statistics.add(rows)
        return statistics

    def add(self, rows: np.ndarray) -> None:
        """Add rows ``[N, *shape]``."""
        values = flatten_elements(rows)
        block_rows = max(1, _BLOCK // max(values.shape[1], 1))
        with np.errstate(all="ignore"):  # infinite and huge values make the moments infinite or NaN, which is correct
            for start in range(0, len(values), block_rows):
                block = values[start : start + block_rows]
                if block.dtype.itemsize == 1:  # only 256 different values, so counting them first is much faster
                    self._add_weighted(*_count_bytes(block), len(block))
                else:
                    self._add_values(block)

    def merge(self, other: "ColumnStatistics") -> "ColumnStatistics":
        """Return the statistics of the union of both sets of rows; without quantiles if the anchors differ."""
        merged = ColumnStatistics(
            self.count, self.mean, self.m2, self.min, self.max, self.anchor, None, self.whole and other.whole
        )
        with np.errstate(all="ignore"):
            merged._merge_moments(other.count, other.mean, other.m2)
        merged._merge_extremes(other.min, other.max)
        if self.buckets is not None and other.buckets is not None and np.array_equal(self.anchor, other.anchor):
            merged.buckets = self.buckets + other.buckets
        return merged

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation of the rows (divisor N, not N - 1), float64."""
        return np.sqrt(self.m2 / self.count)

    def quantile(self, q: float) -> np.ndarray:
        """Return a quantile of each element, float64.

        The true quantile is the value of rank ``floor(q · (count - 1))``, NumPy's method ``"lower"``. The error is at
        most RELATIVE_ERROR of the true quantile's distance from the anchor, plus SMALLEST, and thus less than one
        percent of the element's range. Integers within 64 of the anchor are exact. Beyond 2^33 from the anchor the
        result is the minimum or the maximum.

        Args:
            q: Probability between 0 and 1.

        Raises:
            ValueError: The statistics have no sketch.
        """
        if self.buckets is None:
            msg = "Quantiles need a sketch: expected buckets, got moments only. Compute the statistics from rows."
            raise ValueError(msg)
        return self._quantile_from_counts(self.buckets.cumsum(axis=1), q)

    def _quantile_from_counts(self, cumulative_counts: np.ndarray, q: float) -> np.ndarray:
        """Return a quantile from the number of values up to and including each bucket, ``[elements, NUM_BUCKETS]``."""
        bucket = (cumulative_counts > int(q * (self.count - 1))).argmax(axis=1)
        values = self.anchor + _bucket_centres()[bucket]
        values = np.where(bucket == 0, self.min, np.where(bucket == NUM_BUCKETS - 1, self.max, values))
        return np.clip(np.round(values) if self.whole else values, self.min, self.max)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics for a manifest; quantiles are included if there is a sketch."""
        arrays = {"mean": self.mean, "std": self.std, "min": self.min, "max": self.max}
        if self.buckets is not None:
            cumulative_counts = self.buckets.cumsum(axis=1)
            arrays |= {name: self._quantile_from_counts(cumulative_counts, q) for name, q in QUANTILES.items()}
        return {"count": self.count} | {name: to_json_numbers(array) for name, array in arrays.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "ColumnStatistics":
        """Return statistics without a sketch from a row that :meth:`to_json` wrote."""
        mean, std, low, high = (np.array(row[name], dtype=np.float64) for name in ("mean", "std", "min", "max"))
        return cls(int(row["count"]), mean, std**2 * row["count"], low, high, np.zeros_like(mean), None)

    def _add_values(self, values: np.ndarray) -> None:
        """Add values ``[N, elements]``."""
        self._merge_extremes(*find_extremes(values))
        num_elements = values.shape[1]
        offsets = np.arange(num_elements) * NUM_BUCKETS
        chunk_rows = max(1, _CHUNK // max(num_elements, 1))
        # Work arrays are allocated once: allocating them for every chunk would cost more than the arithmetic.
        distances, codes = np.empty((chunk_rows, num_elements)), np.empty((chunk_rows, num_elements), np.int64)
        indices = np.empty(values.shape if self.buckets is not None else (0, num_elements), np.int64)
        for start in range(0, len(values), chunk_rows):
            chunk = values[start : start + chunk_rows]
            distance, code = distances[: len(chunk)], codes[: len(chunk)]
            np.subtract(chunk, self.anchor, out=distance)
            if self.buckets is not None:
                np.right_shift(distance.view(np.uint64), _SHIFT, out=code.view(np.uint64))
                index = _bucket_of_code().take(code, out=indices[start : start + chunk_rows], mode="clip")
                index += offsets
            mean = distance.mean(axis=0)
            distance -= mean
            self._merge_moments(len(chunk), self.anchor + mean, np.einsum("ij,ij->j", distance, distance))
        if self.buckets is not None:
            self._count_buckets(self.buckets, indices)

    def _add_weighted(self, values: np.ndarray, weights: np.ndarray, count: int) -> None:
        """Add float64 values ``[N, elements]`` that occur ``weights`` times each; ``count`` is the number of rows."""
        mean = (values * weights).sum(axis=0) / count
        self._merge_moments(count, mean, ((values - mean) ** 2 * weights).sum(axis=0))
        low, high = np.where(weights, values, np.inf), np.where(weights, values, -np.inf)
        self._merge_extremes(low.min(axis=0), high.max(axis=0))
        if self.buckets is not None:
            offsets = np.arange(values.shape[1]) * NUM_BUCKETS
            self._count_buckets(self.buckets, _bucket_indices(values - self.anchor) + offsets, weights)

    def _merge_extremes(self, low: np.ndarray, high: np.ndarray) -> None:
        self.min = np.minimum(self.min, low)
        self.max = np.maximum(self.max, high)

    def _merge_moments(self, count: int, mean: np.ndarray, m2: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.count = total

    @staticmethod
    def _count_buckets(buckets: np.ndarray, indices: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Increment the counts at indices into ``buckets.ravel()``, by 1 or by the weights."""
        flat_weights = None if weights is None else weights.ravel()
        counts = np.bincount(indices.ravel(), flat_weights, minlength=buckets.size)
        buckets += counts.reshape(buckets.shape).astype(np.int64, copy=False)


def choose_anchor(rows: np.ndarray) -> np.ndarray:
    """Return the elements of the first row as float64, 0 for non-finite ones.

    Statistics can only be merged with their quantiles if they share an anchor.
    """
    first_row = flatten_elements(rows[:1])[0].astype(np.float64)
    return np.where(np.isfinite(first_row), first_row, 0.0)


def find_extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each element of ``[N, elements]``, N >= 1; NaN if one is NaN."""
    # NumPy reduces a few wide rows several times as fast as many narrow ones.
    fold = max(1, _WIDE // max(values.shape[1], 1))
    folded = values[: len(values) // fold * fold]
    parts = [values[len(folded) :]]
    if len(folded):
        folded = folded.reshape(len(folded) // fold, fold * values.shape[1])
        parts += [reduce(folded, axis=0).reshape(fold, values.shape[1]) for reduce in (np.min, np.max)]
    candidates = np.concatenate(parts)
    return candidates.min(axis=0), candidates.max(axis=0)


def to_json_numbers(values: np.ndarray) -> list[float | None]:
    """Return the float64 values of a 1-d array for JSON, which has no infinity and no NaN: None replaces them."""
    return [value if math.isfinite(value) else None for value in values.astype(np.float64).tolist()]


def merge_statistics(parts: Iterable[Mapping[str, ColumnStatistics]]) -> dict[str, ColumnStatistics]:
    """Return the statistics of several splits or shards together, by column name."""
    merged: dict[str, ColumnStatistics] = {}
    for part in parts:
        for column, statistics in part.items():
            merged[column] = merged[column].merge(statistics) if column in merged else statistics
    return merged


def flatten_elements(rows: np.ndarray) -> np.ndarray:
    """Return rows ``[N, *shape]`` as ``[N, elements]``; images, which have many, as ``[N · pixels, channels]``."""
    rows = to_numbers(rows)
    width = int(np.prod(rows.shape[1:]))
    if width <= MAX_ELEMENTS:
        return rows.reshape(len(rows), width)
    return rows.reshape(-1, rows.shape[-1] if rows.shape[-1] <= 16 else 1)


def _count_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 256 values of a one-byte dtype and how often each element has them, both ``[256, elements]``."""
    num_elements = values.shape[1]
    indices = values.view(np.uint8) + np.arange(num_elements) * 256
    counts = np.bincount(indices.ravel(), minlength=num_elements * 256).reshape(num_elements, 256).T
    all_values = np.arange(256, dtype=np.uint8).view(values.dtype if values.dtype != np.bool_ else np.uint8)
    return np.repeat(all_values[:, None].astype(np.float64), num_elements, axis=1), counts


def _bucket_indices(distances: np.ndarray) -> np.ndarray:
    """Return the bucket of each float64 distance: increasing with the distance, with zero in the middle."""
    bits = np.ascontiguousarray(distances).view(np.int64)
    indices = ((bits & 0x7FFFFFFFFFFFFFFF) >> _SHIFT) - _LOW
    np.clip(indices, 0, _HALF - 1, out=indices)
    indices ^= bits >> 63  # for a negative distance: -1 - index
    indices += _HALF
    return indices


@functools.cache
def _bucket_of_code() -> np.ndarray:
    """Return the bucket for every sign, exponent and leading bits of a float64: one look-up replaces six operations."""
    return _bucket_indices((np.arange(2 ** (64 - _SHIFT), dtype=np.uint64) << _SHIFT).view(np.float64))


@functools.cache
def _bucket_centres() -> np.ndarray:
    """Return the centre of every bucket as a distance from the anchor."""
    edges = ((np.arange(_HALF + 1) + _LOW) << _SHIFT).view(np.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0] = 0.0  # the bucket of all distances below SMALLEST
    return np.concatenate([-centres[::-1], centres])
