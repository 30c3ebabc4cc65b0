"""One episode over time: its numbers as series of T + 1 values, one for each state.

::

    state        0     1     2   …   T
    observation  o[0]  o[1]  o[2]    final
    action       a[0]  a[1]  a[2]    –          of the step that begins in the state
    next.reward  –     r[0]  r[1]    r[T - 1]   of the step that ended in it
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive.data import REWARD, to_numbers
from rlhive.viewer._json import to_series

if TYPE_CHECKING:
    from rlhive.data import EpisodeRecord

#: Numbers of one episode; of a longer or wider one some steps and dimensions are left out.
MAX_VALUES = 400_000
#: Dimensions of one column.
MAX_DIMENSIONS = 256
#: Standard deviations at which the colours of a heat map end.
LARGEST_SCORE = 3.0

_FLAGS = (keys.SUCCESS, f"{keys.NEXT}.{keys.SUCCESS}")


def make_series(
    record: "EpisodeRecord",
    vectors: list[str],
    statistics: Mapping[str, Mapping[str, Any]],
    fps: float | None,
) -> dict[str, Any]:
    """Return the rewards, successes, actions and observations of an episode.

    Args:
        record: The episode.
        vectors: Columns of numbers in at most one dimension.
        statistics: Mean and std of the columns, for the colours of heat maps.
        fps: Steps per second; None if unknown.

    Returns:
        ``columns``, in the order in which they are drawn, each with ``values``, one list of T + 1 numbers or None for
        each dimension. ``stride``: only every so many steps are included.
    """
    rewards = [name for name in (REWARD, *_FLAGS) if name in record.columns]
    names = [*rewards, *(name for name in vectors if name in record.columns and name not in rewards)]
    rows = {name: _align(record, name) for name in names}
    num_values = sum(min(MAX_DIMENSIONS, values.shape[1]) * len(values) for values in rows.values())
    stride = max(1, -(-num_values // MAX_VALUES))
    columns = [_make_column(name, values, statistics.get(name, {}), stride) for name, values in rows.items()]
    return {"episode": record.episode, "length": record.length, "fps": fps, "stride": stride, "columns": columns}


def align_outcomes(values: np.ndarray, stride: int) -> list[float | None]:
    """Return numbers ``[T]`` of the steps as numbers of the states in which the steps ended."""
    return to_series(np.concatenate([[np.nan], values.astype(np.float64)])[::stride])


def _align(record: "EpisodeRecord", name: str) -> np.ndarray:
    """Return the values of a column as float64 ``[T + 1, num_dimensions]``; NaN for the state without a value."""
    rows = to_numbers(record.columns[name]).reshape(record.length, -1).astype(np.float64)
    missing = np.full((1, rows.shape[1]), np.nan)
    if name.startswith(f"{keys.NEXT}."):
        return np.concatenate([missing, rows])
    last = to_numbers(record.final[name]).reshape(1, -1).astype(np.float64) if name in record.final else missing
    return np.concatenate([rows, last])


def _make_column(name: str, rows: np.ndarray, statistics: Mapping[str, Any], stride: int) -> dict[str, Any]:
    shown = rows[::stride, :MAX_DIMENSIONS]
    offset, scale = _color_range(name, shown, statistics)
    return {
        "name": name,
        "values": [to_series(values) for values in shown.T],
        "offset": to_series(offset),
        "scale": to_series(scale),
        "omitted": rows.shape[1] - shown.shape[1],
        "not_finite": int((~np.isfinite(shown)).sum()) - _num_missing(name, rows, shown),
    }


def _num_missing(name: str, rows: np.ndarray, shown: np.ndarray) -> int:
    """Return how many shown values are NaN because their state has none: actions the last, outcomes the first."""
    first, last = shown[0], shown[-1]
    if name.startswith(f"{keys.NEXT}."):
        return int(np.isnan(first).sum())
    return int(np.isnan(last).sum()) if np.isnan(rows[-1]).all() else 0


def _color_range(name: str, rows: np.ndarray, statistics: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the value in the middle of the colours and the distance to their ends, for each dimension."""
    count = rows.shape[1]
    mean, std = (np.asarray(statistics.get(part) or [], dtype=np.float64)[:count] for part in ("mean", "std"))
    if name == keys.ACTION or len(mean) != count:
        largest = np.abs(rows[np.isfinite(rows)]).max(initial=0.0)
        return np.zeros(count), np.full(count, max(1.0, largest))
    return np.nan_to_num(mean), np.where(std > 0, LARGEST_SCORE * std, 1.0)
