"""Intervals of a mean over several seeds with several episodes each, and the interquartile mean.

A few trainings times some dozens of episodes have two sources of chance. Episodes of one training are not independent
samples of the algorithm: an interval from all episodes together is several times too narrow.
"""

from collections.abc import Sequence

import numpy as np

#: Number of resamples. The bounds then vary by one or two hundredths of the interval's width.
NUM_RESAMPLES = 5000


def bootstrap_interval(
    runs: Sequence[Sequence[float]], *, num_resamples: int = NUM_RESAMPLES, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mean over runs, by a two-level bootstrap.

    Each resample draws runs with replacement, and then in each drawn run episodes with replacement (Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Agarwal et al., "Deep Reinforcement Learning
    at the Edge of the Statistical Precipice", NeurIPS 2021, resample the runs in the same way for a few seeds; below
    five seeds the interval is too narrow. A single run has no variance over seeds: its interval covers the episodes
    alone. Runs of one number each are resampled as runs alone. Where all values are equal, such as a success rate of 0
    or 1, the interval has no width, although other episodes might differ.

    Args:
        runs: The episodes' values of each run, at least one of each.
        num_resamples: Number of resamples. The generator has a fixed seed: the same values give the same interval.
        confidence: Probability that the interval stands for.

    Example:
        >>> bootstrap_interval([[0.0, 0.0], [1.0, 1.0]])
        (0.0, 1.0)
    """
    return _quantiles(_resample_runs(runs, num_resamples, np.random.default_rng(0)), confidence)


def difference_interval(
    runs: Sequence[Sequence[float]],
    others: Sequence[Sequence[float]],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of the mean of some runs minus that of others.

    Both are resampled as in :func:`bootstrap_interval`, independently of each other.

    Args:
        runs: The episodes' values of each run, at least one of each.
        others: Those of the runs that they are compared with.
        num_resamples: Number of resamples.
        confidence: Probability that the interval stands for.

    Example:
        >>> difference_interval([[3.0, 3.0]], [[1.0], [1.0]])
        (2.0, 2.0)
    """
    generator = np.random.default_rng(0)
    means, other_means = (_resample_runs(rows, num_resamples, generator) for rows in (runs, others))
    return _quantiles(means - other_means, confidence)


def _resample_runs(runs: Sequence[Sequence[float]], num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means ``[num_resamples]`` of resamples of runs and, within each, episodes."""
    choices = generator.integers(len(runs), size=(num_resamples, len(runs)))
    means = np.empty(choices.shape)
    for index, values in enumerate(runs):
        is_chosen = choices == index
        means[is_chosen] = _resample_means(np.asarray(values, np.float64), int(is_chosen.sum()), generator)
    return means.mean(axis=1)


def _quantiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resample_means(values: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means of ``count`` resamples of the values; a block of resamples at a time, whatever their number."""
    if len(values) == 1:
        return np.full(count, values[0])
    block = max(1, 2**20 // len(values))
    blocks = [
        values[generator.integers(len(values), size=(min(block, count - start), len(values)))].mean(axis=1)
        for start in range(0, count, block)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0)


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean without the lowest and the highest quarter of the values (Agarwal et al., 2021).

    As in their library rliable, a quarter is rounded down: up to three values it is the mean.

    Example:
        >>> interquartile_mean([0.0, 1.0, 2.0, 99.0])
        1.5
    """
    ordered = np.sort(np.asarray(values, np.float64))
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
