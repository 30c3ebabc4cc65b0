"""Dimensions and coverage, as the figures of :mod:`rlhive.dataset` compute them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive.dataset import SATURATED, project, sample_rows, summarize_dimensions, vector_columns
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from rlhive.viewer._json import to_series

if TYPE_CHECKING:
    from rlhive.dataset import DatasetView

#: Points of the projection.
MAX_POINTS = 6000


def state_columns(view: "DatasetView") -> list[str]:
    """Return the columns of numbers that belong to a state or an action."""
    return [name for name in vector_columns(view.manifest.schema) if not name.startswith(f"{keys.NEXT}.")]


def summarize_view(view: "DatasetView") -> dict[str, Any]:
    """Return percentiles, dead and saturated dimensions of every column in every split.

    Raises:
        SchemaMismatchError: The dataset has no vectors of numbers.
    """
    columns = state_columns(view)
    if not columns:
        msg = f"{view.manifest.name}: expected a column with vectors of numbers, got none"
        raise SchemaMismatchError(msg)
    rows = sample_rows(view, columns)
    splits = {split: {name: _summarize_rows(values[name]) for name in columns} for split, values in rows.items()}
    return {
        "columns": columns,
        "splits": splits,
        "saturated": SATURATED,
        "episodes_read": _count_episodes(rows.values()),
    }


def _summarize_rows(rows: np.ndarray) -> dict[str, Any]:
    """Return the summary of a column; of one without a finite row, percentiles of None."""
    if not np.isfinite(rows).all(axis=1).any():
        nothing = [None] * rows.shape[1]
        no = [False] * rows.shape[1]
        return {"percentiles": [nothing] * 5, "dead": no, "saturated": no}
    summary = summarize_dimensions(rows)
    return {
        "percentiles": [to_series(values) for values in summary.percentiles],
        "dead": summary.is_dead.tolist(),
        "saturated": summary.is_saturated.tolist(),
    }


def project_views(views: Sequence["DatasetView"], key: str) -> dict[str, Any]:
    """Return transitions of all views on the first two principal components of a column, which the views share.

    Raises:
        InvalidOptionError: A view has no such column of numbers, or one of another width.
        SchemaMismatchError: No row is finite.
    """
    parts = []
    for index, view in enumerate(views):
        columns = vector_columns(view.manifest.schema)
        if key not in columns:
            msg = f"{view.manifest.name}: column {key!r}: expected one of {', '.join(columns) or 'none'}"
            raise InvalidOptionError(msg)
        for split, values in sample_rows(view, [key]).items():
            is_finite = np.isfinite(values[key]).all(axis=1)
            parts.append((index, split, values[key][is_finite], values[keys.EPISODE][is_finite]))
    if len({rows.shape[1] for _, _, rows, _ in parts}) > 1:
        msg = f"column {key!r}: expected the same width in both datasets"
        raise InvalidOptionError(msg)
    if not sum(len(rows) for _, _, rows, _ in parts):
        msg = f"expected finite numbers in {key}, got none"
        raise SchemaMismatchError(msg)
    points, fractions = project(np.concatenate([rows for _, _, rows, _ in parts]))
    stops = np.cumsum([len(rows) for _, _, rows, _ in parts])
    answers = [
        _make_points(points[stop - len(rows) : stop], index, split, episodes, num_parts=len(parts))
        for stop, (index, split, rows, episodes) in zip(stops, parts, strict=True)
    ]
    num_episodes = sum(len(np.unique(episodes)) for _, _, _, episodes in parts)
    return {"fractions": fractions.tolist(), "parts": answers, "episodes_read": num_episodes}


def _make_points(points: np.ndarray, index: int, split: str, episodes: np.ndarray, *, num_parts: int) -> dict[str, Any]:
    step = max(1, -(-len(points) * num_parts // MAX_POINTS))
    x, y = points[::step].T
    return {
        "dataset": index,
        "split": split,
        "x": to_series(x),
        "y": to_series(y),
        "episode": episodes[::step].tolist(),
    }


def _count_episodes(parts: Any) -> int:
    return sum(len(np.unique(values[keys.EPISODE])) for values in parts)
