"""The rate of episodes and the timestamps of their steps.

A run records its rate as ``fps``, frames per second. Where it does not, the environment's time step gives it. A version
has a rate if all of its runs have the same. A floating-point column ``timestamp`` of one number holds the seconds at
which each row was recorded, from any origin. The last row has no step::

    timestamp   12.00   12.03   12.07   12.17   12.20
    step             0.03    0.04    0.10    0.03          at 30 frames per second: two dropped frames after row 2
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rlhive.data._dtypes import to_numbers
from rlhive.data._episodes import Columns, EpisodeRecord
from rlhive.data._statistics import ColumnStatistics
from rlhive.errors import InvalidOptionError, SchemaMismatchError

TIMESTAMP = "timestamp"
#: A median step that is further from the period of the rate, relative to it, contradicts the rate.
MAX_DEVIATION = 0.2
#: A step of that many periods or more lost at least one frame.
DROPPED_PERIODS = 1.5
#: Two rates are the same where they differ by less, relative to one of them.
_SAME_RATE = 1e-6


def parse_fps(value: Any) -> float | None:
    """Return a rate in frames per second; None for anything that is none, as an untrusted manifest may hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None


def require_fps(value: Any) -> float:
    """Return a rate that a user gave.

    Raises:
        InvalidOptionError: It is not a positive, finite number.
    """
    fps = parse_fps(value.item() if isinstance(value, np.generic) else value)
    if fps is None:
        msg = f"fps={value!r}: expected a positive number of frames per second"
        raise InvalidOptionError(msg)
    return fps


def find_recorded_fps(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the rate that all runs record; None where one has none, or another."""
    return _find_common([parse_fps(run.get("fps")) for run in runs])


def find_fps(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the rate of all runs, that of the environment's time step where none was recorded; None if they differ."""
    return _find_common([parse_fps(run.get("fps")) or _read_env_rate(run) for run in runs])


def find_timestamps(columns: Columns) -> np.ndarray | None:
    """Return the seconds at which each row was recorded, float64 ``[T]``; None where the data have none."""
    values = columns.get(TIMESTAMP)
    if values is None or values.size != len(values):
        return None
    numbers = to_numbers(values)
    return numbers.reshape(-1).astype(np.float64) if numbers.dtype.kind == "f" else None


class StepTimes:
    """The steps between timestamps, summarised in constant memory.

    Args:
        fps: The rate.
    """

    def __init__(self, fps: float):
        self.period_s = 1 / fps
        self._steps = _make_sketch(self.period_s)
        self._deviations = _make_sketch(0.0)

    def add(self, timestamps: np.ndarray) -> None:
        """Add the steps of an episode, float64 ``[T]``; those from or to a NaN or an infinity count for nothing."""
        steps = np.diff(timestamps)
        steps = steps[np.isfinite(steps)][:, None]
        if len(steps):
            self._steps.add(steps)
            self._deviations.add(np.abs(steps - self.period_s))

    @property
    def median_s(self) -> float | None:
        """Median step in seconds, within a percent of its distance from the period; None without a step."""
        return float(self._steps.quantile(0.5)[0]) if self._steps.count else None

    @property
    def jitter_s(self) -> float | None:
        """95th percentile of the difference between a step and the period, in seconds; None without a step."""
        return float(self._deviations.quantile(0.95)[0]) if self._deviations.count else None

    def describe_contradiction(self) -> str:
        """Return how the steps contradict the rate; empty where they do not."""
        median_s = self.median_s
        if median_s is None or abs(median_s - self.period_s) <= MAX_DEVIATION * self.period_s:
            return ""
        rate = f", {1 / median_s:.3g} frames per second" if median_s > 0 else ""
        return (
            f"fps={1 / self.period_s:g} contradicts the timestamps: expected a median step of {self.period_s:.3g} s, "
            f"within {MAX_DEVIATION:.0%}, got {median_s:.3g} s{rate}"
        )


def require_rate(records: Iterable[EpisodeRecord], fps: float, *, context: str, advice: str) -> Iterator[EpisodeRecord]:
    """Yield episodes, and raise after the last one if their timestamps contradict the rate.

    Args:
        records: The episodes.
        fps: The rate.
        context: Prefix of the message.
        advice: End of the message: what to do.

    Raises:
        SchemaMismatchError: The median step is more than MAX_DEVIATION from the period.
    """
    times = StepTimes(fps)
    for record in records:
        timestamps = find_timestamps(record.columns)
        if timestamps is not None:
            times.add(timestamps)
        yield record
    problem = times.describe_contradiction()
    if problem:
        msg = f"{context}: {problem}. {advice}"
        raise SchemaMismatchError(msg)


def count_dropped(timestamps: np.ndarray, fps: float) -> tuple[int, int]:
    """Return how many frames an episode lost, and the first row after which one is missing; (0, -1) without any."""
    steps = np.diff(timestamps) * fps
    gaps = np.flatnonzero(np.isfinite(steps) & (steps >= DROPPED_PERIODS))
    return int(np.round(steps[gaps] - 1).clip(1).sum()), int(gaps[0]) if len(gaps) else -1


def find_unordered(timestamps: np.ndarray) -> int:
    """Return the first row whose timestamp is not after that of the row before, or is not finite; -1 without one."""
    is_wrong = ~np.isfinite(timestamps)
    is_wrong[1:] |= ~(np.diff(timestamps) > 0)
    return int(is_wrong.argmax()) if is_wrong.any() else -1


def _make_sketch(anchor: float) -> ColumnStatistics:
    return ColumnStatistics.from_rows(np.zeros((0, 1)), anchor=np.array([anchor]))


def _find_common(rates: list[float | None]) -> float | None:
    first = rates[0] if rates else None
    if first is None:
        return None
    return first if all(rate is not None and math.isclose(rate, first, rel_tol=_SAME_RATE) for rate in rates) else None


def _read_env_rate(run: Mapping[str, Any]) -> float | None:
    env = run.get("env")
    time_step_s = parse_fps(env.get("dt")) if isinstance(env, Mapping) else None
    return None if time_step_s is None else parse_fps(1 / time_step_s)
