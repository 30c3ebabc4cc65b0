"""Statistics over tasks and training seeds, as Agarwal et al. define them.

"Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. Scores of an algorithm are an
array ``[num_tasks, num_seeds]``: the mean normalised score of the evaluation episodes of each trained policy. Intervals
are of a bootstrap that is stratified by task: each resample draws the seeds of every task with replacement. Their
library rliable computes the same numbers; it asks for packages that nothing else here needs.
"""

import numpy as np
from scipy.stats import rankdata, trim_mean

from rlhive.sim_algos._bootstrap import interquartile_mean

#: Number of resamples, as in the paper.
NUM_RESAMPLES = 2000

_CONFIDENCE = 0.95


def iqm(scores: np.ndarray) -> float:
    """Return the interquartile mean of all runs: without the lowest and the highest quarter.

    Example:
        >>> iqm(np.array([[0.0, 1.0], [2.0, 99.0]]))
        1.5
    """
    return interquartile_mean(scores.ravel())


def iqm_interval(scores: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the interquartile mean.

    Args:
        scores: Scores ``[num_tasks, num_seeds]``.
        num_resamples: Number of resamples.
        seed: Seed of the resampling: the same scores give the same interval.
    """
    generator = np.random.default_rng(seed)
    means = trim_mean(_resample(scores, num_resamples, generator).reshape(num_resamples, -1), 0.25, axis=1)
    return _interval(means)


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> float:
    """Return the probability that a run of one algorithm scores higher than one of another, on a task drawn at random.

    That of a task is the Mann-Whitney statistic divided by the number of pairs; ties count half.

    Args:
        scores: Scores of the first algorithm, ``[num_tasks, num_seeds]``.
        others: Scores of the second, ``[num_tasks, any number of seeds]``.

    Example:
        >>> probability_of_improvement(np.array([[3.0, 1.0]]), np.array([[2.0, 1.0]]))
        0.625
    """
    return float(np.mean([_win_rate(first, second) for first, second in zip(scores, others, strict=True)]))


def improvement_interval(
    scores: np.ndarray, others: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the probability of improvement; the seeds of both algorithms are resampled."""
    generator = np.random.default_rng(seed)
    pairs = zip(_resample(scores, num_resamples, generator), _resample(others, num_resamples, generator), strict=True)
    return _interval(np.array([probability_of_improvement(first, second) for first, second in pairs]))


def performance_profile(
    scores: np.ndarray, thresholds: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of runs whose score exceeds each threshold, and the bounds of its pointwise 95 % interval.

    Args:
        scores: Scores ``[num_tasks, num_seeds]``.
        thresholds: Scores, ``[T]``.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Three arrays ``[T]``: share, lower and upper bound.
    """
    generator = np.random.default_rng(seed)
    resampled = _resample(scores, num_resamples, generator).reshape(num_resamples, -1)
    bounds = np.array([_interval((resampled > threshold).mean(axis=1)) for threshold in thresholds])
    share = np.array([(scores > threshold).mean() for threshold in thresholds])
    return share, bounds[:, 0], bounds[:, 1]


def _resample(scores: np.ndarray, num_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return resamples ``[num_resamples, num_tasks, num_seeds]``, drawn within each task."""
    num_tasks, num_seeds = scores.shape
    choices = generator.integers(num_seeds, size=(num_resamples, num_tasks, num_seeds))
    return np.take_along_axis(scores[None], choices, axis=2)


def _win_rate(first: np.ndarray, second: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    statistic = ranks.sum() - len(first) * (len(first) + 1) / 2
    return float(statistic / (len(first) * len(second)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)
