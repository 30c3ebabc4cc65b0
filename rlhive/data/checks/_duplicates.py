"""Episodes that are nearly the same: found by what their rows look like, in one pass and a sort.

    row ─► its observed and action values, each divided by its spread
        ─► NUM_PROJECTIONS random directions ─► rounded to cells of CELL standard deviations ─► one 64-bit code
    two episodes are near-duplicates when SHARE of the shorter one's codes also stand in the other

A code says nothing of where its row stands, so that a shifted or cut copy is found; rounding lets noise of about a
thousandth of a standard deviation pass, and so does storing in float32. What is not found: copies with other physics,
a mirrored scene, larger noise, and episodes of fewer than MIN_CODES different rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhive import keys
from rlhive.data._episodes import Columns
from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics

NUM_PROJECTIONS = 6
CELL = 0.05
SHARE = 0.6
MIN_CODES = 5
MAX_ELEMENTS = 256
MAX_ROWS = 20_000_000
BLOCK_CODES = 2**18  # compared at once, so that little more than the codes themselves is held
MAX_BLOCKS = 64


@dataclass(frozen=True)
class Pair:
    """Two episodes that look alike, by their positions in the order given.

    Attributes:
        first: Position of one.
        second: Position of the other.
        shared: Number of codes that both have.
        codes: Number of different codes of the one that has fewer.
    """

    first: int
    second: int
    shared: int
    codes: int


class Sketcher:
    """Turn rows into codes.

    Args:
        schema: Of the transitions; observed fields and ``action`` count, flags do not.
        moments: Statistics of the columns, for their spread; of any rows like those to come.
        num_rows: How many rows will come; of very many only a part is kept, the same part of equal ones.
    """

    def __init__(self, schema: Schema, moments: Mapping[str, ColumnStatistics], num_rows: int):
        self._fields = [item for item in schema.fields if _counts(item) and item.column in moments]
        self._modulus = np.uint64(max(1, -(-num_rows // MAX_ROWS)))
        generator = np.random.default_rng(0x5EED)
        self._directions = [_directions(item, moments[item.column], generator) for item in self._fields]
        self._mixers = generator.integers(1, 2**63, NUM_PROJECTIONS, dtype=np.uint64) | np.uint64(1)

    def codes(self, columns: Columns) -> np.ndarray:
        """Return one code per row, uint64 ``[n]``; zero for a row that is not kept."""
        projected = np.zeros((len(next(iter(columns.values()))), NUM_PROJECTIONS))
        with np.errstate(invalid="ignore", over="ignore"):  # a row with a NaN or an infinity is not compared
            for item, directions in zip(self._fields, self._directions, strict=True):
                elements = _elements(columns[item.column]).astype(np.float64, copy=False)
                # Not @: OpenBLAS takes 32 MB per thread for itself, and waits for them forever where there are none.
                projected += np.einsum("re,pe->rp", elements, directions)
            cells = np.floor(projected / CELL).astype(np.int64).astype(np.uint64)
        codes = cells @ self._mixers
        codes ^= codes >> np.uint64(29)
        codes[(codes % self._modulus != 0) | ~np.isfinite(projected).all(axis=1)] = 0
        return codes


def distinct(codes: np.ndarray) -> np.ndarray:
    """Return the different codes of an episode's rows, in rising order, without those of rows that are not kept."""
    found = np.unique(codes)
    return found[found != 0]


def near_duplicates(codes: Sequence[np.ndarray]) -> list[Pair]:
    """Return the pairs of episodes that look alike; of a group of many, each with the next.

    Memory: a copy of the codes; what is sorted is a part of them, one range of values after the other.

    Args:
        codes: Of each episode, as :func:`distinct` gave them.
    """
    sizes = np.array([len(part) for part in codes], dtype=np.int64)
    flat = np.concatenate([*codes, np.zeros(0, np.uint64)])
    num_blocks = min(MAX_BLOCKS, 1 + len(flat) // BLOCK_CODES)
    bounds = [np.uint64(2**64 * block // num_blocks) for block in range(num_blocks)]
    pairs, shared = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        inside = flat >= low if high is None else (flat >= low) & (flat < high)
        own, counts = _pairs_of(flat, np.flatnonzero(inside), sizes.cumsum())
        pairs, place = np.unique(np.concatenate([pairs, own]), return_inverse=True)
        shared = np.bincount(place, np.concatenate([shared, counts]), len(pairs)).astype(np.int64)
    first, second = np.divmod(pairs, max(len(codes), 1))
    fewest = np.minimum(sizes[first], sizes[second])
    alike = (shared >= SHARE * fewest) & (fewest >= MIN_CODES)
    rows = zip(first[alike], second[alike], shared[alike], fewest[alike], strict=True)
    return [Pair(*map(int, row)) for row in rows]


def _pairs_of(flat: np.ndarray, chosen: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which episodes share how many of some codes: ``first * num_episodes + second``, and the counts."""
    # Only codes that come again matter, and those are few: finding them needs no order of the episodes.
    ordered = np.sort(flat[chosen])
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not again.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = chosen[again.take(np.searchsorted(again, flat[chosen]), mode="clip") == flat[chosen]]
    # A stable sort leaves the episodes of a code in their order.
    chosen = chosen[np.argsort(flat[chosen], kind="stable")]
    episode = np.searchsorted(ends, chosen, side="right")
    same = np.flatnonzero(flat[chosen[1:]] == flat[chosen[:-1]])
    return np.unique(episode[same] * len(ends) + episode[same + 1], return_counts=True)


def _counts(item: Field) -> bool:
    return (item.observed or item.column == keys.ACTION) and item.dtype not in ("bool", "string") and item.width > 0


def _elements(values: np.ndarray) -> np.ndarray:
    """Return at most MAX_ELEMENTS numbers of each row: all of a state, some pixels of a picture."""
    flat = values.reshape(len(values), -1)
    return flat[:, :: -(-flat.shape[1] // MAX_ELEMENTS)]


def _directions(item: Field, moments: ColumnStatistics, generator: np.random.Generator) -> np.ndarray:
    every = np.resize(moments.std, item.width)  # of a picture, one per channel: the last axis
    spread = np.nan_to_num(_elements(every.reshape(1, -1))[0], posinf=0.0)
    # An element that hardly moves would otherwise blow its jitter up to the size of a motion.
    spread = np.maximum(spread, 0.1 * np.sqrt(np.mean(spread**2)))
    weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    directions = generator.normal(size=(len(weights), NUM_PROJECTIONS)) * weights[:, None] / np.sqrt(len(weights))
    return np.ascontiguousarray(directions.T)
