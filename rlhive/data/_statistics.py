"""Count, mean, deviation, extremes and quantiles per column, in one streaming pass, merged exactly.

Moments are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979), in float64 whatever the column's dtype.

Quantiles come from a histogram with buckets of constant relative width, DDSketch (Masson, Rim and Lee, "DDSketch: A
fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019): counts add up, so the sketch of
two sets of rows is exactly the sketch of their union. A bucket is the leading bits of a float64::

    x - anchor    ±  |  exponent  |  6 bits  |  46 bits that do not matter
                     2^-31 … 2^33     1/64

The anchor is the element's first value. Distances from it are what is relative, so that a joint which moves by a
millimetre around 1.6 m is resolved as finely as one that moves around zero.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: The quantiles that a manifest keeps.
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
#: A quantile is at most this far from the true one, as a part of the distance between that one and the anchor.
RELATIVE_ERROR = 2.0**-7
#: Distances below this are all one: it bounds the absolute error of the smallest.
SMALLEST = 2.0**-31
#: Columns of more elements per row (pictures) are summarised per channel, the last axis, instead of per element.
MAX_ELEMENTS = 512

_SHIFT = 46  # 52 bits of mantissa, 6 of which are kept
_PER_OCTAVE = 64
_LOW = (1023 - 31) * _PER_OCTAVE  # the bits of 2^-31, shifted
_HALF = 64 * _PER_OCTAVE  # buckets on each side of the anchor
NUM_BUCKETS = 2 * _HALF
_CHUNK = 2**16  # values bucketed at once: they stay in the processor's cache
_WIDE = 1024  # values of a row that NumPy reduces at full speed
_BLOCK = 2**20  # values taken at once: bounds the memory of the intermediate results


@dataclass(eq=False)
class ColumnStatistics:
    """Statistics of the rows of one column, element by element; :meth:`from_rows` and :meth:`add` fill it.

    Memory: 64 KB per element, however many rows.

    Attributes:
        count: Number of rows; of a column that is summarised per channel, of values per channel.
        mean: Mean of each element, float64.
        m2: Sum of squared deviations from the mean, float64.
        min: Smallest value, float64.
        max: Largest value, float64.
        anchor: What distances are measured from, float64.
        buckets: Rows per element and bucket, int64 ``[elements, 8192]``; None where only moments are known.
        whole: Whether the values are whole numbers.
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
        """Return the statistics of ``[N, *shape]``.

        Args:
            rows: The values; N at least 1 unless an anchor is given.
            anchor: Of the summary that this one will be merged with; by default :func:`choose_anchor` the rows.
            quantiles: Whether to keep the histogram that quantiles are read from.
        """
        values = flatten_elements(rows)
        anchor = choose_anchor(rows) if anchor is None else anchor
        blank = np.zeros(values.shape[1])
        buckets = np.zeros((values.shape[1], NUM_BUCKETS), np.int64) if quantiles else None
        summary = cls(0, blank, blank, blank + np.inf, blank - np.inf, anchor, buckets, values.dtype.kind in "iub")
        summary.add(rows)
        return summary

    def add(self, rows: np.ndarray) -> None:
        """Count further rows ``[N, *shape]``."""
        values = flatten_elements(rows)
        step = max(1, _BLOCK // max(values.shape[1], 1))
        with np.errstate(all="ignore"):  # an infinite or huge value has no finite moments, and that is said by them
            for start in range(0, len(values), step):
                part = values[start : start + step]
                if part.dtype.itemsize == 1:  # few different values: count them first, and the rest is free
                    self._include_tallied(*_tally(part), len(part))
                else:
                    self._include(part)

    def merge(self, other: "ColumnStatistics") -> "ColumnStatistics":
        """Return the statistics of both sets of rows together; without quantiles if the anchors differ."""
        merged = ColumnStatistics(
            self.count, self.mean, self.m2, self.min, self.max, self.anchor, None, self.whole and other.whole
        )
        with np.errstate(all="ignore"):
            merged._combine(other.count, other.mean, other.m2)
        merged._widen(other.min, other.max)
        if self.buckets is not None and other.buckets is not None and np.array_equal(self.anchor, other.anchor):
            merged.buckets = self.buckets + other.buckets
        return merged

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the rows (divided by N, not N - 1), float64."""
        return np.sqrt(self.m2 / self.count)

    def quantile(self, q: float) -> np.ndarray:
        """Return a quantile of each element, float64.

        The true value is that of rank ``floor(q · (count - 1))``, NumPy's method ``"lower"``. The answer is off by at
        most RELATIVE_ERROR of that value's distance from the anchor, plus SMALLEST, and so by less than one percent
        of the element's range. Whole numbers nearer to the anchor than 64 are exact. Beyond 2^33 from the anchor the
        answer is the extreme.

        Raises:
            ValueError: Only moments are known.
        """
        if self.buckets is None:
            msg = "Quantiles need the sketch: expected buckets, got moments alone. Compute the statistics from rows."
            raise ValueError(msg)
        return self._value_at(self.buckets.cumsum(axis=1), q)

    def _value_at(self, below: np.ndarray, q: float) -> np.ndarray:
        """Return a quantile, given how many values lie in each bucket or below it."""
        found = (below > int(q * (self.count - 1))).argmax(axis=1)
        values = self.anchor + _centres()[found]
        values = np.where(found == 0, self.min, np.where(found == NUM_BUCKETS - 1, self.max, values))
        return np.clip(np.round(values) if self.whole else values, self.min, self.max)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as the manifest keeps them; quantiles only where they are known."""
        arrays = {"mean": self.mean, "std": self.std, "min": self.min, "max": self.max}
        if self.buckets is not None:
            below = self.buckets.cumsum(axis=1)
            arrays |= {name: self._value_at(below, q) for name, q in QUANTILES.items()}
        # JSON has no infinity; an element that met one has no finite moments.
        rows = {name: np.where(np.isfinite(array), array, None).tolist() for name, array in arrays.items()}
        return {"count": self.count} | rows

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "ColumnStatistics":
        """Return the moments of a row that :meth:`to_json` wrote; quantiles need the sketch."""
        mean, std, low, high = (np.array(row[name], dtype=np.float64) for name in ("mean", "std", "min", "max"))
        return cls(int(row["count"]), mean, std**2 * row["count"], low, high, np.zeros_like(mean), None)

    def _include(self, values: np.ndarray) -> None:
        """Count values ``[N, elements]``."""
        self._widen(*find_extremes(values))
        elements = values.shape[1]
        first = np.arange(elements) * NUM_BUCKETS
        step = max(1, _CHUNK // max(elements, 1))
        distances, codes = np.empty((step, elements)), np.empty((step, elements), np.int64)
        places = np.empty(values.shape if self.buckets is not None else (0, elements), np.int64)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            distance, code = distances[: len(part)], codes[: len(part)]
            np.subtract(part, self.anchor, out=distance)
            if self.buckets is not None:
                np.right_shift(distance.view(np.uint64), _SHIFT, out=code.view(np.uint64))
                place = _bucket_of_code().take(code, out=places[start : start + step], mode="clip")
                place += first
            mean = distance.mean(axis=0)
            distance -= mean
            self._combine(len(part), self.anchor + mean, np.einsum("ij,ij->j", distance, distance))
        if self.buckets is not None:
            self._count(places)

    def _include_tallied(self, values: np.ndarray, weights: np.ndarray, count: int) -> None:
        """Count float64 values ``[N, elements]``, each ``weights`` times; ``count`` times all together."""
        mean = (values * weights).sum(axis=0) / count
        self._combine(count, mean, ((values - mean) ** 2 * weights).sum(axis=0))
        self._widen(np.where(weights, values, np.inf).min(axis=0), np.where(weights, values, -np.inf).max(axis=0))
        if self.buckets is not None:
            first = np.arange(values.shape[1]) * NUM_BUCKETS
            self._count(_buckets_of(values - self.anchor) + first, weights)

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        self.min, self.max = np.minimum(self.min, low), np.maximum(self.max, high)

    def _combine(self, count: int, mean: np.ndarray, m2: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.count = total

    def _count(self, places: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count places in ``buckets.ravel()``."""
        repeats = None if weights is None else weights.ravel()
        counts = np.bincount(places.ravel(), repeats, minlength=self.buckets.size)
        self.buckets += counts.reshape(self.buckets.shape).astype(np.int64, copy=False)


def choose_anchor(rows: np.ndarray) -> np.ndarray:
    """Return the first row's elements, float64; 0 for one that is not finite. Summaries that merge share it."""
    first = flatten_elements(rows[:1])[0].astype(np.float64)
    return np.where(np.isfinite(first), first, 0.0)


def find_extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each element of ``[N, elements]``, N >= 1; NaN where one is."""
    # NumPy reduces a few wide rows several times as fast as many narrow ones.
    fold = max(1, _WIDE // max(values.shape[1], 1))
    wide = values[: len(values) // fold * fold]
    parts = [values[len(wide) :]]
    if len(wide):
        wide = wide.reshape(len(wide) // fold, fold * values.shape[1])
        parts += [reduce(wide, axis=0).reshape(fold, values.shape[1]) for reduce in (np.min, np.max)]
    together = np.concatenate(parts)
    return together.min(axis=0), together.max(axis=0)


def merge_statistics(parts: Iterable[Mapping[str, ColumnStatistics]]) -> dict[str, ColumnStatistics]:
    """Merge the statistics of several splits or shards, column by column."""
    total: dict[str, ColumnStatistics] = {}
    for part in parts:
        for column, summary in part.items():
            total[column] = total[column].merge(summary) if column in total else summary
    return total


def flatten_elements(rows: np.ndarray) -> np.ndarray:
    """Return what is summarised of ``[N, *shape]``: ``[N, elements]``, of a wide column ``[N · pixels, channels]``."""
    width = int(np.prod(rows.shape[1:]))
    if width <= MAX_ELEMENTS:
        return rows.reshape(len(rows), width)
    return rows.reshape(-1, rows.shape[-1] if rows.shape[-1] <= 16 else 1)


def _tally(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 256 values of a one-byte dtype and how often each element has them, both ``[256, elements]``."""
    elements = values.shape[1]
    places = values.view(np.uint8) + np.arange(elements) * 256
    weights = np.bincount(places.ravel(), minlength=elements * 256).reshape(elements, 256).T
    kinds = np.arange(256, dtype=np.uint8).view(values.dtype if values.dtype != np.bool_ else np.uint8)
    return np.repeat(kinds[:, None].astype(np.float64), elements, axis=1), weights


def _buckets_of(distance: np.ndarray) -> np.ndarray:
    """Return the bucket of each float64: rising with the value, the anchor's own in the middle."""
    bits = np.ascontiguousarray(distance).view(np.int64)
    size = ((bits & 0x7FFFFFFFFFFFFFFF) >> _SHIFT) - _LOW
    np.clip(size, 0, _HALF - 1, out=size)
    size ^= bits >> 63  # negative: -1 - size
    size += _HALF
    return size


@functools.cache
def _bucket_of_code() -> np.ndarray:
    """Return the bucket of every sign, exponent and leading bits of a float64: a look-up instead of six operations."""
    return _buckets_of((np.arange(2 ** (64 - _SHIFT), dtype=np.uint64) << _SHIFT).view(np.float64))


@functools.cache
def _centres() -> np.ndarray:
    """Return the middle of every bucket, as a distance from the anchor."""
    edges = ((np.arange(_HALF + 1) + _LOW) << _SHIFT).view(np.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    centres[0] = 0.0  # everything nearer than the smallest distance
    return np.concatenate([-centres[::-1], centres])
