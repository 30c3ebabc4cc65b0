"""Which episodes stand out from those of their split by a score, without a threshold that somebody has to choose.

::

    score > median + max(SPREADS · spread, floor)        spread: (upper quartile - median) / 0.6745

The spread is that of the half above the median, since scores are skewed, and equals the standard deviation of a normal
distribution. The floor keeps a split in which all episodes are nearly the same from having outliers.
"""

from collections.abc import Mapping

import numpy as np

SPREADS = 4.0
#: Smallest distance from the median that stands out: a number, and a share of the median.
_FLOORS = {
    "jerk": (0.0, 1.0),
    "idle": (0.25, 0.0),
    "saturation": (0.05, 0.0),
    "path_length": (0.0, 1.0),
    "distance_to_goal": (0.0, 1.0),
    "isolation": (0.05, 0.5),
}
#: Episodes that a split must have for any of them to stand out.
MIN_EPISODES = 8
_QUARTILE_OF_NORMAL = 0.6745


def find_outliers(
    scores: Mapping[str, np.ndarray], is_duplicate: np.ndarray, is_solved: np.ndarray, splits: np.ndarray
) -> list[str]:
    """Return for each episode the names of the scores by which it stands out, joined by commas; empty for most.

    Args:
        scores: Scores by name, ``[num_episodes]``; those that this module does not judge are ignored.
        is_duplicate: Whether an episode is a copy of an earlier one, bool ``[num_episodes]``.
        is_solved: Whether an episode was solved at some time; it does not stand out by its distance to the goal.
        splits: Split of each episode.
    """
    stands_out = {name: np.zeros(len(splits), bool) for name in _FLOORS if name in scores}
    for name, mask in stands_out.items():
        for split in np.unique(splits):
            members = splits == split
            mask[members] = scores[name][members] > _fence(name, scores[name][members])
    if "distance_to_goal" in stands_out:
        stands_out["distance_to_goal"] &= ~is_solved
    stands_out["duplicate"] = is_duplicate
    names = list(stands_out)
    rows = np.stack([stands_out[name] for name in names], axis=1)
    return [", ".join(name for name, value in zip(names, row, strict=True) if value) for row in rows]


def _fence(name: str, values: np.ndarray) -> float:
    """Return the largest value that does not stand out."""
    values = values[np.isfinite(values)]
    if len(values) < MIN_EPISODES:
        return np.inf
    median, quartile = np.percentile(values, [50, 75])
    absolute, relative = _FLOORS[name]
    return float(median + max(SPREADS * (quartile - median) / _QUARTILE_OF_NORMAL, absolute + relative * abs(median)))
