"""Count, mean, standard deviation, minimum and maximum per column, in one streaming pass, merged exactly.

Moments are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances" (1979), in float64 whatever the column's dtype.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Statistics of the rows of one column, element by element.

    Attributes:
        count: Number of rows.
        mean: Mean of each element, float64.
        m2: Sum of squared deviations from the mean, float64.
        min: Smallest value, float64.
        max: Largest value, float64.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Moments":
        """Return the statistics of ``[N, *shape]``, N at least 1."""
        values = rows.reshape(len(rows), -1).astype(np.float64)
        with np.errstate(all="ignore"):  # an infinite or huge value has no finite moments, and that is said by them
            mean = values.mean(axis=0)
            m2 = ((values - mean) ** 2).sum(axis=0)
        return cls(len(values), mean, m2, values.min(axis=0), values.max(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        """Return the statistics of both sets of rows together."""
        count = self.count + other.count
        with np.errstate(all="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + delta * (other.count / count)
            m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return Moments(count, mean, m2, np.minimum(self.min, other.min), np.maximum(self.max, other.max))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the rows (divided by N, not N - 1), float64."""
        return np.sqrt(self.m2 / self.count)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as the manifest keeps them."""
        arrays = {"mean": self.mean, "std": self.std, "min": self.min, "max": self.max}
        # JSON has no infinity; an element that met one has no finite moments.
        rows = {name: np.where(np.isfinite(array), array, None).tolist() for name, array in arrays.items()}
        return {"count": self.count} | rows

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Moments":
        """Return the statistics that :meth:`to_json` wrote."""
        mean, std, low, high = (np.array(row[name], dtype=np.float64) for name in ("mean", "std", "min", "max"))
        return cls(int(row["count"]), mean, std**2 * row["count"], low, high)


def merge_all(parts: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """Merge the statistics of several splits or shards, column by column."""
    total: dict[str, Moments] = {}
    for part in parts:
        for column, moments in part.items():
            total[column] = total[column].merge(moments) if column in total else moments
    return total
