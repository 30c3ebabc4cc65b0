"""Near-duplicate episodes, found by hashing every row to a code that rounding and noise rarely change.

::

    row ─► observations and actions, each element divided by its standard deviation
        ─► projections on NUM_PROJECTIONS random directions ─► rounded to cells of CELL standard deviations
        ─► one 64-bit code
    two episodes are near-duplicates if SHARE of the codes of the episode with fewer codes are codes of the other too

A code does not depend on the position of its row, so shifted and cropped copies are found. Rounding absorbs noise of
about a thousandth of a standard deviation, and storage in float32. Not found are copies with other physics, a mirrored
scene or larger noise, and episodes with fewer than MIN_CODES different rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhive import keys
from rlhive.data._dtypes import to_numbers
from rlhive.data._episodes import Columns
from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics

NUM_PROJECTIONS = 6
CELL = 0.05
SHARE = 0.6
MIN_CODES = 5
MAX_SAMPLED_ELEMENTS = 256
MAX_ROWS = 20_000_000
HASHED_ROWS = 2**16  # rows that are hashed at once; each takes some 250 bytes of intermediate results
BLOCK_CODES = 2**18  # codes that are compared at once; bounds the memory beyond the codes themselves
MAX_BLOCKS = 64


@dataclass(frozen=True)
class NearDuplicate:
    """Two episodes that are nearly the same.

    Attributes:
        first: Index of the first episode.
        second: Index of the second episode.
        shared: Number of codes that both episodes have.
        codes: Number of different codes of the episode that has fewer.
    """

    first: int
    second: int
    shared: int
    codes: int


class Sketcher:
    """Hash function from rows to codes.

    Args:
        schema: The transitions' schema. Observed fields and ``action`` are hashed; flags and strings are not.
        statistics: Statistics of the columns, of which the standard deviation is used.
        num_rows: Number of rows of the version. If it exceeds MAX_ROWS, only a sample of the rows has codes; equal
            rows are all in the sample or all outside of it.
    """

    def __init__(self, schema: Schema, statistics: Mapping[str, ColumnStatistics], num_rows: int):
        self._fields = [field for field in schema.fields if _is_hashed(field) and field.column in statistics]
        self._modulus = np.uint64(max(1, -(-num_rows // MAX_ROWS)))
        generator = np.random.default_rng(0x5EED)
        self._directions = [_draw_directions(field, statistics[field.column], generator) for field in self._fields]
        self._mixers = generator.integers(1, 2**63, NUM_PROJECTIONS, dtype=np.uint64) | np.uint64(1)

    def compute_codes(self, columns: Columns) -> np.ndarray:
        """Return one code per row, uint64 ``[num_rows]``; 0 for rows outside of the sample and non-finite rows.

        Memory: the codes, and some MB whatever the number of rows.
        """
        codes = np.empty(len(next(iter(columns.values()))), np.uint64)
        for start in range(0, len(codes), HASHED_ROWS):
            rows = slice(start, start + HASHED_ROWS)
            part = {field.column: columns[field.column][rows] for field in self._fields}
            codes[rows] = self._hash_rows(part, len(codes[rows]))
        return codes

    def _hash_rows(self, columns: Columns, num_rows: int) -> np.ndarray:
        projections = np.zeros((num_rows, NUM_PROJECTIONS))
        with np.errstate(invalid="ignore", over="ignore"):
            for field, directions in zip(self._fields, self._directions, strict=True):
                elements = to_numbers(_sample_elements(columns[field.column])).astype(np.float64, copy=False)
                # Not @: OpenBLAS allocates 32 MB per thread, and in a memory-limited process waits for it forever.
                projections += np.einsum("re,pe->rp", elements, directions)
            cells = np.floor(projections / CELL).astype(np.int64).astype(np.uint64)
        codes = cells @ self._mixers
        codes ^= codes >> np.uint64(29)
        codes[(codes % self._modulus != 0) | ~np.isfinite(projections).all(axis=1)] = 0
        return codes


def unique_codes(codes: np.ndarray) -> np.ndarray:
    """Return the unique codes of an episode's rows, sorted, without the 0 of rows that have no code."""
    unique = np.unique(codes)
    return unique[unique != 0]


def find_near_duplicates(codes: Sequence[np.ndarray]) -> list[NearDuplicate]:
    """Return the pairs of episodes that are nearly the same; in a group of several, each episode with the next.

    Memory: a copy of the codes. They are sorted in blocks of a value range each.

    Args:
        codes: Codes of each episode, as :func:`unique_codes` returns them.
    """
    sizes = np.array([len(episode) for episode in codes], dtype=np.int64)
    all_codes = np.concatenate([*codes, np.zeros(0, np.uint64)])
    num_blocks = min(MAX_BLOCKS, 1 + len(all_codes) // BLOCK_CODES)
    bounds = [np.uint64(2**64 * block // num_blocks) for block in range(num_blocks)]
    pairs, shared = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        in_block = all_codes >= low if high is None else (all_codes >= low) & (all_codes < high)
        block_pairs, block_counts = _count_shared_codes(all_codes, np.flatnonzero(in_block), sizes.cumsum())
        pairs, inverse = np.unique(np.concatenate([pairs, block_pairs]), return_inverse=True)
        shared = np.bincount(inverse, np.concatenate([shared, block_counts]), len(pairs)).astype(np.int64)
    first, second = np.divmod(pairs, max(len(codes), 1))
    fewer = np.minimum(sizes[first], sizes[second])
    is_duplicate = (shared >= SHARE * fewer) & (fewer >= MIN_CODES)
    rows = zip(first[is_duplicate], second[is_duplicate], shared[is_duplicate], fewer[is_duplicate], strict=True)
    return [NearDuplicate(*map(int, row)) for row in rows]


def _count_shared_codes(all_codes: np.ndarray, indices: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of episodes share codes, and how many.

    Args:
        all_codes: Codes of all episodes, one episode after the other.
        indices: Indices of the codes to compare.
        ends: End of each episode in ``all_codes``.

    Returns:
        Pairs as ``first * num_episodes + second``, and the number of shared codes of each.
    """
    # Only repeated codes matter, and they are few. Finding them first avoids sorting the episodes of all codes.
    ordered = np.sort(all_codes[indices])
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not repeated.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    indices = indices[repeated.take(np.searchsorted(repeated, all_codes[indices]), mode="clip") == all_codes[indices]]
    # A stable sort keeps the episodes of a code in their order.
    indices = indices[np.argsort(all_codes[indices], kind="stable")]
    episodes = np.searchsorted(ends, indices, side="right")
    same_code = np.flatnonzero(all_codes[indices[1:]] == all_codes[indices[:-1]])
    return np.unique(episodes[same_code] * len(ends) + episodes[same_code + 1], return_counts=True)


def _is_hashed(field: Field) -> bool:
    is_input = field.observed or field.column == keys.ACTION
    return is_input and field.dtype not in ("bool", "string") and field.width > 0


def _sample_elements(values: np.ndarray) -> np.ndarray:
    """Return at most MAX_SAMPLED_ELEMENTS elements of each row: all elements of a state, some pixels of an image."""
    elements = values.reshape(len(values), -1)
    return elements[:, :: -(-elements.shape[1] // MAX_SAMPLED_ELEMENTS)]


def _draw_directions(field: Field, statistics: ColumnStatistics, generator: np.random.Generator) -> np.ndarray:
    """Return random directions ``[NUM_PROJECTIONS, elements]`` that divide each element by its standard deviation."""
    std = np.resize(statistics.std, field.width)  # repeats the statistics of an image's channels, its last axis
    spread = np.nan_to_num(_sample_elements(std.reshape(1, -1))[0], posinf=0.0)
    # A lower bound: the noise of an element that hardly moves must not weigh as much as a motion.
    spread = np.maximum(spread, 0.1 * np.sqrt(np.mean(spread**2)))
    weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    directions = generator.normal(size=(len(weights), NUM_PROJECTIONS)) * weights[:, None] / np.sqrt(len(weights))
    return np.ascontiguousarray(directions.T)
