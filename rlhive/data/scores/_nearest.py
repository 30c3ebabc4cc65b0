"""Distances between episodes: how isolated one is, and of which earlier one it is a copy.

::

    episode ─► rows at S evenly spaced steps, in standard deviations      [N, S, D]
        isolation:  each row ─► its nearest rows of other episodes ─► mean over the rows
        duplicates: all S rows as one vector ─► nearest vectors        ─► root mean square of the difference

Rows are projected on their first principal components, in which a k-d tree finds neighbours quickly; distances between
whole episodes are computed without the projection.

Cost: N · S queries of the tree for the isolation, N for the duplicates. Where the rows vary in few directions, as those
of one task do, a query compares its row with few others, however many there are. In many independent directions it
compares it with more: with nearly all, for duplicates among episodes of white noise. S falls from 16 to 4 as N grows.
"""

import numpy as np

#: Nearest transitions over which the isolation is averaged.
NUM_NEAREST = 5
#: Distance in standard deviations below which two episodes are copies of each other.
DUPLICATE_DISTANCE = 0.01
_ROW_DIMENSIONS = 8
_EPISODE_DIMENSIONS = 16
_CANDIDATES = 8
_MIN_MOMENTS, _MAX_MOMENTS = 4, 16
_MAX_ROWS = 200_000
_BLOCK_ROWS = 4096


def choose_moments(num_episodes: int) -> int:
    """Return how many rows of each episode are compared, so that there are not too many in total.

    Example:
        >>> choose_moments(300), choose_moments(20_000), choose_moments(1_000_000)
        (16, 10, 4)
    """
    return int(np.clip(_MAX_ROWS // max(1, num_episodes), _MIN_MOMENTS, _MAX_MOMENTS))


def measure_isolation(moments: np.ndarray) -> np.ndarray:
    """Return the mean distance of each episode's rows to the nearest rows of other episodes, float64 ``[N]``.

    Args:
        moments: ``[N, S, D]``, standardised.

    Returns:
        Root mean squares over the dimensions, in standard deviations; NaN for a single episode.
    """
    from scipy.spatial import cKDTree
    from tqdm import tqdm

    num_episodes, num_moments, _ = moments.shape
    if num_episodes < 2:
        return np.full(num_episodes, np.nan)
    rows = project_rows(moments.reshape(num_episodes * num_moments, -1), _ROW_DIMENSIONS)
    owner = np.repeat(np.arange(num_episodes), num_moments)
    # Of the nearest rows at most num_moments are the episode's own.
    count = min(len(rows), NUM_NEAREST + num_moments)
    tree = cKDTree(rows)
    means = np.empty(len(rows))
    for block in tqdm(_slice_blocks(len(rows)), desc="compare episodes", unit="block", delay=1, leave=False):
        distances, indices = tree.query(rows[block], count)
        distances[owner[indices] == owner[block, None]] = np.inf
        nearest = np.sort(distances, axis=1)[:, :NUM_NEAREST]
        means[block] = np.mean(nearest, axis=1, where=np.isfinite(nearest))
    return means.reshape(num_episodes, num_moments).mean(axis=1)


def _slice_blocks(num_rows: int) -> list[slice]:
    """Return slices that together hold all rows."""
    return [slice(start, start + _BLOCK_ROWS) for start in range(0, num_rows, _BLOCK_ROWS)]


def find_copies(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest other episode, and whether an earlier episode is the same but for noise.

    Of a group of copies only the first is not marked.

    Args:
        moments: ``[N, S, D]``, standardised.

    Returns:
        Distances float64 ``[N]`` in standard deviations, NaN for a single episode, and bool ``[N]``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    count = len(moments)
    if count < 2:
        return np.full(count, np.nan), np.zeros(count, bool)
    vectors = moments.reshape(count, -1) / np.sqrt(max(1, moments.shape[1]))
    projected = project_rows(vectors, _EPISODE_DIMENSIONS)
    _, candidates = cKDTree(projected).query(projected, min(count, _CANDIDATES + 1))
    distances = np.stack([np.linalg.norm(vectors - vectors[column], axis=1) for column in candidates.T], axis=1)
    distances[candidates == np.arange(count)[:, None]] = np.inf
    first, column = np.nonzero(distances < DUPLICATE_DISTANCE)
    pairs = coo_array((np.ones(len(first), bool), (first, candidates[first, column])), shape=(count, count))
    _, group = connected_components(pairs, directed=False)
    is_first = np.zeros(count, bool)
    is_first[np.unique(group, return_index=True)[1]] = True
    return distances.min(axis=1), ~is_first


def project_rows(rows: np.ndarray, num_dimensions: int) -> np.ndarray:
    """Return rows on their first principal components, float64 ``[num_rows, <= num_dimensions]``."""
    centred = np.asarray(rows, np.float64) - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, -num_dimensions:]
