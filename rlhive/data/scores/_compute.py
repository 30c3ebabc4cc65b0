"""The scores of a version's episodes, in one pass over the columns of numbers.

::

    shard ─► columns of numbers ─┬─► jerk, idle, saturation, path_length               of each episode alone
                                 └─► rows at some moments ─► isolation, duplicates     of all episodes together

Pictures are not read. Memory: the numbers of one shard, and at most 16 rows of each episode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._dtypes import to_numbers
from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics, merge_statistics
from rlhive.data.scores._measures import (
    compute_jerk,
    measure_idle,
    measure_path,
    measure_saturation,
    take_moments,
)
from rlhive.data.scores._nearest import choose_moments, find_copies, measure_isolation
from rlhive.data.scores._outliers import find_outliers
from rlhive.data.scores._sidecar import SCORE_SCHEMA
from rlhive.data.versions import SCORE_COLUMNS, Manifest, iterate_shards, read_episodes, verify_files
from rlhive.errors import CorruptDatasetError, SchemaMismatchError

#: Columns with more numbers in a row are not compared.
MAX_WIDTH = 256


def compute_scores(folder: Path, manifest: Manifest, *, goal_distances: np.ndarray | None = None) -> pa.Table:
    """Return the scores of all episodes of a version, in rising order of ids.

    Args:
        folder: The version's folder, with all shards.
        manifest: The version's manifest.
        goal_distances: Distance to the goal at the end of each episode, float64 ``[num_episodes]``, where known.

    Returns:
        Table with ``episode`` and :data:`rlhive.data.versions.SCORE_COLUMNS`; null where a score is not known.

    Raises:
        SchemaMismatchError: The version has no actions and no observed numbers.
        CorruptDatasetError: A file is not what the manifest recorded.
    """
    from tqdm import tqdm  # which the verbs that show stored scores do not need

    layout = _Layout.of(manifest)
    episodes = read_episodes(folder, manifest, [keys.EPISODE, "split", "success"])
    position = {episode: index for index, episode in enumerate(episodes[keys.EPISODE].to_pylist())}
    scores = {name: np.full(len(position), np.nan) for name in SCORE_COLUMNS if name not in ("duplicate", "outlier")}
    moments = np.zeros((len(position), choose_moments(len(position)), layout.width), np.float32)
    numbers = _iterate_numbers(folder, manifest, layout)
    # Shown when it takes longer than a second; TQDM_DISABLE=1 turns it off.
    bar = tqdm(numbers, total=len(position), desc=f"score {manifest.name}", unit="ep", delay=1, leave=False)
    for episode, states, actions in bar:
        index = position[episode]
        for name, value in _measure(states, actions, layout, rate=manifest.fps or 1.0).items():
            scores[name][index] = value
        moments[index] = _standardise_moments(states[:-1], actions, layout, count=moments.shape[1])
    if goal_distances is not None:
        scores["distance_to_goal"] = goal_distances
    scores["isolation"] = measure_isolation(moments)
    scores["duplicate_distance"], is_duplicate = find_copies(moments)
    is_solved = np.array([success is True for success in episodes["success"].to_pylist()], bool)
    outliers = find_outliers(scores, is_duplicate, is_solved, episodes["split"].to_numpy())
    columns: dict[str, pa.Array] = {
        keys.EPISODE: episodes[keys.EPISODE].combine_chunks(),
        **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in scores.items()},
        "duplicate": pa.array(is_duplicate),
        "outlier": pa.array(outliers, pa.string()),
    }
    return pa.table({field.name: columns[field.name] for field in SCORE_SCHEMA}, SCORE_SCHEMA)


@dataclass(frozen=True)
class _Layout:
    """Which columns are compared, and their statistics in the whole version.

    Attributes:
        states: Observed columns of numbers.
        actions: The action; empty if there is none.
        state_std: Standard deviation of the states' numbers.
        action_std: Standard deviation of the actions' numbers.
        low: Smallest actions.
        high: Largest actions.
    """

    states: tuple[Field, ...]
    actions: tuple[Field, ...]
    state_std: np.ndarray
    action_std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest) -> "_Layout":
        """Return the layout of a version."""
        fields = [field for field in manifest.schema.fields if _is_compared(field)]
        states = tuple(field for field in fields if field.observed)
        actions = tuple(field for field in fields if field.column == keys.ACTION)
        if not states and not actions:
            msg = f"{manifest.name} {manifest.version}: expected actions or observed numbers to score, got neither"
            raise SchemaMismatchError(msg)
        statistics = merge_statistics(
            {column: ColumnStatistics.from_json(row) for column, row in columns.items()}
            for columns in manifest.statistics.values()
        )
        return cls(
            states=states,
            actions=actions,
            state_std=_join_statistics(statistics, states, "std"),
            action_std=_join_statistics(statistics, actions, "std"),
            low=_join_statistics(statistics, actions, "min"),
            high=_join_statistics(statistics, actions, "max"),
        )

    @property
    def width(self) -> int:
        """Numbers of a row: those of state and action."""
        return len(self.state_std) + len(self.action_std)


def _is_compared(item: Field) -> bool:
    is_vector = len(item.shape) <= 1 and not item.is_ragged and item.width <= MAX_WIDTH
    is_input = item.column == keys.ACTION or (item.observed and item.column != keys.SUCCESS)
    return is_input and is_vector and item.dtype not in ("bool", "string", "bytes")


def _join_statistics(statistics: dict[str, ColumnStatistics], fields: tuple[Field, ...], name: str) -> np.ndarray:
    """Return one statistic of the numbers of some columns, side by side.

    Raises:
        CorruptDatasetError: The manifest has no statistics of a column, or of another number of elements.
    """
    parts = [np.zeros(0)]
    for item in fields:
        values = np.ravel(getattr(statistics[item.column], name)) if item.column in statistics else np.zeros(0)
        if len(values) != item.width:
            msg = f"rlhive.json: expected statistics of {item.width} numbers of {item.column}, got {len(values)}"
            raise CorruptDatasetError(msg)
        parts.append(np.asarray(values, np.float64))
    return np.nan_to_num(np.concatenate(parts), posinf=0.0, neginf=0.0)


def _measure(states: np.ndarray, actions: np.ndarray, layout: _Layout, *, rate: float) -> dict[str, float]:
    """Return the scores that an episode has without the others."""
    scores = {"path_length": measure_path(states, layout.state_std)}
    if layout.actions:
        scores["jerk"] = compute_jerk(actions, rate)
        scores["idle"] = measure_idle(actions, layout.low, layout.high)
        scores["saturation"] = measure_saturation(actions, layout.low, layout.high)
    return scores


def _standardise_moments(states: np.ndarray, actions: np.ndarray, layout: _Layout, *, count: int) -> np.ndarray:
    """Return states and actions at some moments in standard deviations, float32 ``[count, D]``."""
    parts = [
        _standardise(take_moments(rows, count), std)
        for rows, std in ((states, layout.state_std), (actions, layout.action_std))
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _standardise(rows: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return rows in standard deviations, divided so that all numbers of a column count like one."""
    weights = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0) / np.sqrt(max(1, np.count_nonzero(std)))
    return np.nan_to_num(rows * weights, posinf=0.0, neginf=0.0)


def _iterate_numbers(folder: Path, manifest: Manifest, layout: _Layout) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield id, states ``[T + 1, n]`` and actions ``[T, m]`` of each episode, shard by shard."""
    schema = Schema((*layout.states, *layout.actions))
    finals = [f"{_arrow.FINAL_PREFIX}{item.column}" for item in layout.states]
    columns = [keys.EPISODE, "split", "length", *finals]
    for entry, episodes in iterate_shards(folder, manifest, manifest.splits, columns):
        verify_files(folder, [entry])
        path = Path(folder) / entry.path
        table = _parquet.read_table(path, list(schema.columns), max_rows=entry.num_transitions)
        rows = _arrow.table_to_columns(table, schema)
        states = _join_rows(rows, layout.states, len(table))
        actions = _join_rows(rows, layout.actions, len(table))
        last = _join_rows(_arrow.read_final_values(episodes, Schema(layout.states)), layout.states, len(episodes))
        stops = np.cumsum(episodes["length"].to_numpy())
        if len(stops) and stops[-1] != len(table):
            msg = f"{path}: expected {stops[-1]} rows, got {len(table)}. Fetch or make the version again."
            raise CorruptDatasetError(msg)
        for index, (episode, stop) in enumerate(zip(episodes[keys.EPISODE].to_pylist(), stops, strict=True)):
            part = slice(stops[index - 1] if index else 0, stop)
            yield episode, np.concatenate([states[part], last[index : index + 1]]), actions[part]


def _join_rows(columns: dict[str, np.ndarray], fields: tuple[Field, ...], num_rows: int) -> np.ndarray:
    """Return columns side by side, float64 ``[num_rows, numbers]``."""
    parts = [to_numbers(columns[item.column]).reshape(num_rows, -1).astype(np.float64) for item in fields]
    return np.concatenate([*parts, np.zeros((num_rows, 0))], axis=1)
