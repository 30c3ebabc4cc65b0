"""Measures of one episode: arrays in, a number out. NaN where an episode is too short for a measure."""

import numpy as np

#: Part of a dimension's range within which an action counts as being at the end of the range.
AT_BOUND = 1e-3
#: Part of a dimension's range by which two actions may differ and still count as equal.
EQUAL = 1e-3


def compute_jerk(actions: np.ndarray, rate: float) -> float:
    """Return the root mean square of the third difference of the actions, in action units per second³.

    Args:
        actions: ``[T, num_dimensions]``.
        rate: Steps per second; 1 gives the jerk per step³.

    Example:
        >>> compute_jerk(np.array([[0.0], [0.0], [0.0], [1.0]]), rate=10.0)
        1000.0
    """
    if len(actions) < 4:
        return np.nan
    return float(np.sqrt(np.mean(np.diff(actions, 3, axis=0) ** 2)) * rate**3)


def measure_path(states: np.ndarray, std: np.ndarray) -> float:
    """Return the length of the path of the state, in standard deviations.

    The length of a step is the root mean square over the dimensions that vary.

    Args:
        states: ``[T + 1, num_dimensions]``, the final one included.
        std: Standard deviation of each dimension in the version; 0 for one that never changes.

    Example:
        >>> measure_path(np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), std=np.array([0.5, 0.0]))
        8.0
    """
    varying = std > 0
    if not varying.any():
        return np.nan
    moved = np.nan_to_num(np.diff(states[:, varying], axis=0) / std[varying], posinf=0, neginf=0)
    return float(np.sqrt(np.mean(moved**2, axis=1)).sum())


def measure_idle(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the share of the steps whose action equals the one before.

    Args:
        actions: ``[T, num_dimensions]``.
        low: Smallest value of each dimension in the version.
        high: Largest value.

    Example:
        >>> measure_idle(np.array([[0.0], [1.0], [1.0], [1.0], [0.0]]), np.array([0.0]), np.array([1.0]))
        0.5
    """
    if len(actions) < 2:
        return np.nan
    return float((np.abs(np.diff(actions, axis=0)) <= EQUAL * (high - low)).all(axis=1).mean())


def measure_saturation(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the share of the actions' numbers at the smallest or largest value of their dimension in the version.

    Args:
        actions: ``[T, num_dimensions]``.
        low: Smallest value of each dimension in the version.
        high: Largest value; a dimension that never changes does not count.

    Example:
        >>> measure_saturation(np.array([[1.0], [0.0], [-1.0], [0.5]]), np.array([-1.0]), np.array([1.0]))
        0.5
    """
    varying = high > low
    if not varying.any():
        return np.nan
    margin = AT_BOUND * (high - low)
    at_bound = (actions <= low + margin) | (actions >= high - margin)
    return float(at_bound[:, varying].mean())


def take_moments(rows: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows at evenly spaced steps, from the first to the last one."""
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
