"""Selections: which episodes of a version, as episode ids per split in rising order.

A selection is computed from the episode table alone. :mod:`rlhive.data.versions._conditions` has the conditions.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._arrow import EPISODE_FIELDS
from rlhive.errors import InvalidExpressionError, SchemaMismatchError

#: Episode ids of each split, int64, in rising order.
Selection = dict[str, np.ndarray]

#: Columns of the episode table, without final values and start states.
EPISODE_COLUMNS = tuple(field.name for field in EPISODE_FIELDS)
#: Scores that :mod:`rlhive.data.scores` computes of each episode; conditions take them as further columns.
SCORE_COLUMNS: tuple[str, ...] = (
    "jerk",
    "idle",
    "path_length",
    "saturation",
    "distance_to_goal",
    "isolation",
    "duplicate_distance",
    "duplicate",
    "outlier",
)
METADATA = "metadata"


def build_selection(table: pa.Table, splits: Sequence[str]) -> Selection:
    """Return the selection of all episodes in some splits.

    Args:
        table: Columns ``episode`` and ``split`` of the episode table.
        splits: Split names, in order.
    """
    episode_ids, names = table[keys.EPISODE].to_numpy(), table["split"].to_numpy()
    return {split: np.sort(episode_ids[names == split]) for split in splits}


def apply_selection(table: pa.Table, selection: Mapping[str, np.ndarray]) -> pa.Table:
    """Return the rows of the selected episodes in rising order of ids; ``split`` is the split in the selection.

    Args:
        table: Columns of the episode table, ``episode`` and ``split`` included.
        selection: The selected episodes.
    """
    ids, codes = _sort_selection(selection)
    episode_ids = table[keys.EPISODE].to_numpy()
    positions = np.searchsorted(ids, episode_ids)
    is_selected = positions < len(ids)
    is_selected[is_selected] = ids[positions[is_selected]] == episode_ids[is_selected]
    table = table.filter(pa.array(is_selected))
    names = pa.array(list(selection), pa.string())
    splits = pa.DictionaryArray.from_arrays(pa.array(codes[positions[is_selected]]), names).dictionary_decode()
    return table.set_column(table.column_names.index("split"), table.schema.field("split"), splits)


def _sort_selection(selection: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all selected episodes in rising order, and the index of the split of each, int64."""
    ids = _concatenate_ids(selection)
    codes = np.repeat(np.arange(len(selection)), [len(members) for members in selection.values()])
    order = np.argsort(ids, kind="stable")
    return ids[order], codes[order]


def intersect_selection(selection: Mapping[str, np.ndarray], episode_ids: Iterable[int]) -> Selection:
    """Return the selection without the episodes that are not among ``episode_ids``; empty splits stay."""
    ids = np.fromiter(episode_ids, np.int64)
    return {split: members[np.isin(members, ids)] for split, members in selection.items()}


def require_episodes(selection: Mapping[str, np.ndarray], episode_ids: Iterable[int]) -> list[int]:
    """Return the ids as a list of ints.

    Raises:
        SchemaMismatchError: An id is not in the selection.
    """
    requested = [int(episode) for episode in episode_ids]
    missing = np.flatnonzero(~np.isin(requested, _concatenate_ids(selection)))
    if len(missing):
        splits = ", ".join(selection)
        msg = f"There is no episode {requested[missing[0]]} in splits {splits}. dataset.episodes lists the ids."
        raise SchemaMismatchError(msg)
    return requested


def locate_episodes(episode_ids: np.ndarray, selection: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the positions of the selected episodes in ``episode_ids``, split by split, int64."""
    order = np.argsort(episode_ids, kind="stable")
    selected = _concatenate_ids(selection)
    return order[np.searchsorted(episode_ids, selected, sorter=order)]


def locate_rows(episode_ids: np.ndarray, selection: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the positions of the rows of the selected episodes, split by split in rising order of ids, int64.

    Args:
        episode_ids: Episode id of every row; the rows of an episode are contiguous.
        selection: The selected episodes.
    """
    order = np.argsort(episode_ids, kind="stable")
    selected = _concatenate_ids(selection)
    start = np.searchsorted(episode_ids, selected, "left", sorter=order)
    length = np.searchsorted(episode_ids, selected, "right", sorter=order) - start
    offset = start - (np.cumsum(length) - length)
    return order[np.arange(length.sum()) + np.repeat(offset, length)]


def select_by(table: pa.Table, predicate: Callable[[dict[str, Any]], bool]) -> list[int]:
    """Return the ids of the episodes for which a function of their row returns True.

    Args:
        table: The episode table.
        predicate: Takes the values of :data:`EPISODE_COLUMNS` by name; ``metadata`` is a dict, and what was not
            recorded is None.

    Raises:
        InvalidExpressionError: The function returns None for every episode, or cannot compute with None, since a column
            was not recorded.
    """
    rows = table.select([name for name in EPISODE_COLUMNS if name in table.column_names]).to_pylist()
    null_columns = find_null_columns(table)
    try:
        results = [predicate(row | {METADATA: json.loads(row[METADATA])}) for row in rows]
    except TypeError as error:
        if "NoneType" not in str(error) or not null_columns:
            raise
        raise InvalidExpressionError(_describe_unknown(null_columns, len(table), str(error))) from error
    if null_columns and all(result is None for result in results):
        raise InvalidExpressionError(_describe_unknown(null_columns, len(table), "the function returns None for all"))
    return [row[keys.EPISODE] for row, result in zip(rows, results, strict=True) if result]


def find_null_columns(table: pa.Table) -> list[str]:
    """Return the columns of an episode table that are null for every episode; none for a table without episodes."""
    nullable = [*(field.name for field in EPISODE_FIELDS if field.nullable), *SCORE_COLUMNS]
    names = [name for name in nullable if name in table.column_names]
    return [name for name in names if len(table) and table[name].null_count == len(table)]


def _describe_unknown(columns: Sequence[str], num_episodes: int, reason: str) -> str:
    return f"filter(): {' and '.join(columns)} of all {num_episodes} episodes are None, since not recorded: {reason}."


def _concatenate_ids(selection: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *selection.values()])
