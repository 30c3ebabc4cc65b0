"""Figures of a dataset: returns, one episode, dimensions, coverage. ``dataset.plot.returns()`` is a matplotlib figure.

The figures are drawn from the episode table and the stored transitions; neither a simulator nor torch is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive import keys
from rlhive._figures import COLORS, DASHES, FONT_SIZE, make_figure, save_figure
from rlhive._text import printable
from rlhive.data import REWARD, EpisodeRecord, find_unrecorded, to_numbers
from rlhive.dataset._description import picture_columns, reference_returns, vector_columns
from rlhive.dataset._view import DatasetView
from rlhive.errors import InvalidOptionError, SchemaMismatchError, StoreNotWritableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Episodes from which transitions are read; of a larger dataset these many, evenly spaced within each split.
MAX_EPISODES = 500
#: Points of a scatter plot.
MAX_POINTS = 4000

#: Fraction of the values at the smallest or the largest value from which a dimension counts as saturated.
SATURATED = 0.05

_NUM_BINS = 30
_NUM_FRAMES = 6
#: Standard deviations at which the colours of an observation end.
_LARGEST_SCORE = 3.0
#: Percentiles of a dimension's thin and thick line and its dot.
_PERCENTILES = (1, 10, 50, 90, 99)


@dataclass(frozen=True)
class DimensionSummary:
    """The values of the dimensions of one column in one split.

    Attributes:
        percentiles: The 1st, 10th, 50th, 90th and 99th percentile of each dimension, ``[5, num_dimensions]``.
        is_dead: Whether a dimension never changes, bool ``[num_dimensions]``.
        is_saturated: Whether at least a fraction :data:`SATURATED` of the values equals the smallest or the largest
            one, bool ``[num_dimensions]``; False where the dimension is dead.
    """

    percentiles: np.ndarray
    is_dead: np.ndarray
    is_saturated: np.ndarray


def summarize_dimensions(rows: np.ndarray) -> DimensionSummary:
    """Return the summary of values ``[num_rows, num_dimensions]``; rows with a NaN or infinite value are left out.

    Raises:
        SchemaMismatchError: No row is finite.

    Example:
        >>> summarize_dimensions(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])).is_dead.tolist()
        [True, False]
    """
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        msg = "expected rows of finite numbers, got none"
        raise SchemaMismatchError(msg)
    low, high = rows.min(axis=0), rows.max(axis=0)
    is_dead = low == high
    at_bounds = np.maximum((rows == low).mean(axis=0), (rows == high).mean(axis=0))
    # In fewer rows, a single smallest value is a large fraction.
    is_saturated = ~is_dead & (at_bounds >= max(SATURATED, 2.5 / len(rows)))
    return DimensionSummary(np.percentile(rows, _PERCENTILES, axis=0), is_dead, is_saturated)


def project(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components of standardised rows, and the fraction of the variance of each.

    Args:
        rows: Values ``[num_rows, num_dimensions]``. Dimensions that never change are left out.

    Returns:
        Coordinates float64 ``[num_rows, 2]`` and fractions ``[2]``. The sign of a component is that of its largest
        weight.
    """
    rows = np.asarray(rows, np.float64)
    std = rows.std(axis=0)
    varying = std > 0
    if not varying.any():
        return np.zeros((len(rows), 2)), np.zeros(2)
    standardised = (rows[:, varying] - rows[:, varying].mean(axis=0)) / std[varying]
    _, singular, weights = np.linalg.svd(standardised, full_matrices=False)
    axes = np.zeros((2, standardised.shape[1]))
    count = min(2, len(singular))
    largest = np.abs(weights[:count]).argmax(axis=1)
    axes[:count] = weights[:count] * np.sign(weights[np.arange(count), largest])[:, None]
    fractions = np.zeros(2)
    fractions[:count] = singular[:count] ** 2 / max((singular**2).sum(), np.finfo(float).tiny)
    return standardised @ axes.T, fractions


def sample_rows(view: DatasetView, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the rows of at most :data:`MAX_EPISODES` episodes, evenly spaced within each split.

    Args:
        view: Version or view.
        names: Columns of numbers.

    Returns:
        By split and column, values ``[num_rows, num_dimensions]``; ``episode`` is the id of each row's episode, int64
        ``[num_rows]``.
    """
    table = view.read_episode_table()
    splits = dict(zip(table["episode"].to_pylist(), table["split"].to_pylist(), strict=True))
    step = -(-len(splits) // MAX_EPISODES)
    episode_ids = [
        episode
        for split in view.splits
        for episode in [number for number, name in splits.items() if name == split][::step]
    ]
    rows: dict[str, dict[str, list[np.ndarray]]] = {}
    for record in (view.select(episode_ids) if step > 1 else view).iter_records():
        columns = rows.setdefault(splits[record.episode], {name: [] for name in (*names, keys.EPISODE)})
        columns[keys.EPISODE].append(np.full(record.length, record.episode))
        for name in names:
            columns[name].append(to_numbers(record.columns[name]).reshape(record.length, -1))
    return {
        split: {name: np.concatenate(parts) for name, parts in rows[split].items()}
        for split in view.splits
        if split in rows
    }


class DatasetPlots:
    """Figures of a dataset or view; each method returns a ``matplotlib.figure.Figure``, which the caller saves.

    Example:
        >>> RoboHiveDataset("kitchen_knob1").plot.returns().savefig("returns.pdf")  # doctest: +SKIP
    """

    def __init__(self, view: DatasetView) -> None:
        self._view = view

    def returns(self) -> "Figure":
        """Draw the histogram of the episodes' returns, a line per split, with the task's reference returns.

        Raises:
            SchemaMismatchError: No return was recorded.
            MissingExtraError: Matplotlib is not installed.
        """
        by_split = self._returns_by_split()
        values = np.concatenate(list(by_split.values()))
        references = reference_returns(self._view)
        bins = np.histogram_bin_edges(values, _NUM_BINS)
        figure, axes = make_figure(1, 1, height=2.2)
        axis = axes[0, 0]
        for index, (split, returns) in enumerate(by_split.items()):
            color = COLORS[index % len(COLORS)]
            label = f"{printable(split)} ({len(returns):,})"
            style = {"color": color, "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.3}
            axis.hist(returns, bins, histtype="step", label=_escape(label), **style)
            axis.hist(returns, bins, color=color, alpha=0.15)
        for name, value in references.items():
            axis.axvline(value, color="black", linewidth=0.8, linestyle=":")
            axis.annotate(
                name,
                (value, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=FONT_SIZE - 1,
            )
        axis.set_xlabel("return")
        axis.set_ylabel("episodes")
        figure.legend(loc="outside right upper", frameon=False, fontsize=FONT_SIZE - 1)
        return figure

    def episode(self, episode: int) -> "Figure":
        """Draw one episode over time: its pictures, reward and success, actions and observations.

        Observations are drawn in standard deviations from their mean in the dataset.

        Args:
            episode: Id of the episode.

        Raises:
            SchemaMismatchError: The dataset has no such episode.
            MissingExtraError: Matplotlib is not installed.
        """
        record = next(self._view.select([episode]).iter_records())
        schema = self._view.manifest.schema
        time, unit = self._time_axis(record.length)
        pictures = [name for name in picture_columns(schema) if name in record.columns]
        matrices = [name for name in vector_columns(schema) if not name.startswith(f"{keys.NEXT}.")]
        has_reward = REWARD in record.columns
        heights = [0.8] * len(pictures) + [0.8] * has_reward + [1.1] * len(matrices)
        figure, axes = make_figure(
            len(heights), 1, height=0.5 + sum(heights), sharex=not pictures, gridspec_kw={"height_ratios": heights}
        )
        remaining = list(axes[:, 0])
        for name in pictures:
            _draw_pictures(remaining.pop(0), record.columns[name], name)
        if has_reward:
            _draw_reward(remaining.pop(0), record, time)
        for name in matrices:
            axis = remaining.pop(0)
            rows = to_numbers(record.columns[name]).reshape(record.length, -1).astype(np.float64)
            is_action = name == keys.ACTION
            shown = rows if is_action else self._standardise(name, rows)
            limit = max(1.0, np.abs(shown[np.isfinite(shown)]).max(initial=0.0)) if is_action else _LARGEST_SCORE
            image = _draw_matrix(axis, shown, time, limit=float(limit))
            axis.set_ylabel(_escape(name))
            bar = figure.colorbar(image, ax=axis, pad=0.01)
            bar.set_label("" if is_action else "std", fontsize=FONT_SIZE - 1)
            bar.ax.tick_params(labelsize=FONT_SIZE - 1)
        for axis in axes[len(pictures) :, 0]:
            axis.set_xlim(time[0], time[-1] + (time[1] - time[0] if len(time) > 1 else 1))
        axes[-1, 0].set_xlabel(unit)
        outcome = {True: ", solved", False: ", not solved", None: ""}[record.success]
        figure.suptitle(
            _escape(f"{self._view.manifest.name} {self._view.manifest.version}, episode {episode}{outcome}"),
            fontsize=FONT_SIZE,
        )
        return figure

    def dimensions(self) -> "Figure":
        """Draw the distribution of every dimension of the actions and observations, a column of marks per split.

        A dot is the median, the thick line the 10th to 90th and the thin line the 1st to 99th percentile. A cross
        marks a dimension that never changes, a triangle one that is saturated (:data:`SATURATED`).

        Raises:
            SchemaMismatchError: The dataset has no vectors of numbers.
            MissingExtraError: Matplotlib is not installed.
        """
        names = [name for name in vector_columns(self._view.manifest.schema) if not name.startswith(f"{keys.NEXT}.")]
        if not names:
            msg = f"{self._view.manifest.name}: expected a column with vectors of numbers, got none"
            raise SchemaMismatchError(msg)
        rows = sample_rows(self._view, names)
        figure, axes = make_figure(len(names), 1, height=0.5 + 1.6 * len(names))
        for name, axis in zip(names, axes[:, 0], strict=True):
            for index, (split, columns) in enumerate(rows.items()):
                _draw_dimensions(axis, summarize_dimensions(columns[name]), index, len(rows), _escape(printable(split)))
            axis.set_ylabel(_escape(name))
        axes[-1, 0].set_xlabel("dimension")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=FONT_SIZE - 1)
        return figure

    def coverage(self, key: str = keys.OBSERVATION) -> "Figure":
        """Draw the transitions of each split on the first two principal components of a column.

        Args:
            key: Column of numbers, for example "observation" or "action".

        Raises:
            InvalidOptionError: The dataset has no such column of numbers.
            SchemaMismatchError: None of its rows is finite.
            MissingExtraError: Matplotlib is not installed.
        """
        names = vector_columns(self._view.manifest.schema)
        if key not in names:
            msg = f"key={key!r}: expected a column of numbers out of {', '.join(names) or 'none'}"
            raise InvalidOptionError(msg)
        by_split = {split: columns[key] for split, columns in sample_rows(self._view, [key]).items()}
        by_split = {split: rows[np.isfinite(rows).all(axis=1)] for split, rows in by_split.items()}
        if not any(map(len, by_split.values())):
            msg = f"{self._view.manifest.name}: expected finite numbers in {key}, got none"
            raise SchemaMismatchError(msg)
        points, fractions = project(np.concatenate(list(by_split.values())))
        bounds = np.cumsum([0, *map(len, by_split.values())])
        figure, axes = make_figure(1, 1, height=3.2)
        axis = axes[0, 0]
        for index, split in enumerate(by_split):
            part = points[bounds[index] : bounds[index + 1]]
            shown = part[:: max(1, -(-len(part) * len(by_split) // MAX_POINTS))]
            style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "marker": "o^sDvPX"[index % 7]}
            # Rasterised: a PDF of thousands of marks is slow to draw.
            style |= {"s": 4, "alpha": 0.4, "linewidth": 0, "rasterized": True}
            axis.scatter(*shown.T, label=_escape(printable(split)), **style)
        axis.set_xlabel(f"first component of {_escape(key)} ({fractions[0]:.0%} of the variance)")
        axis.set_ylabel(f"second ({fractions[1]:.0%})")
        legend = figure.legend(loc="outside right upper", frameon=False, fontsize=FONT_SIZE - 1, markerscale=2)
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1.0)
        return figure

    def save(
        self,
        folder: str | Path,
        figures: Sequence[str] = ("returns", "dimensions", "coverage"),
        *,
        episode: int | None = None,
        formats: Sequence[str] = ("pdf", "png"),
    ) -> list[Path]:
        """Write some figures into a folder, which is made.

        Args:
            folder: Folder of the files ``returns.pdf``, ….
            figures: Names of the methods.
            episode: Id of an episode that is drawn as well, as ``episode-7.pdf``.
            formats: Some of "pdf", "png" and "svg".

        Returns:
            The files.

        Raises:
            InvalidOptionError: A figure or a format is unknown.
            SchemaMismatchError: The dataset lacks what a figure shows.
            StoreNotWritableError: The folder cannot be written.
        """
        draws: dict[str, Callable[[], Figure]] = {
            "returns": self.returns,
            "dimensions": self.dimensions,
            "coverage": self.coverage,
        }
        unknown = [name for name in figures if name not in draws]
        if unknown:
            msg = f"figures: expected some of {', '.join(draws)}, got {unknown[0]!r}"
            raise InvalidOptionError(msg)
        drawn = {name: draws[name]() for name in figures}
        if episode is not None:
            drawn[f"episode-{episode}"] = self.episode(episode)
        return _write(drawn, Path(folder), formats)

    def _returns_by_split(self) -> dict[str, np.ndarray]:
        """Return the recorded returns of each split."""
        if "return" in find_unrecorded(self._view.manifest.schema):
            msg = f"{self._view.manifest.name}: expected recorded returns, but no rewards were recorded"
            raise SchemaMismatchError(msg)
        table = self._view.read_episode_table()
        rows = list(zip(table["split"].to_pylist(), table["return"].to_pylist(), strict=True))
        by_split = {
            split: np.array([value for name, value in rows if name == split and value is not None])
            for split in self._view.splits
        }
        by_split = {split: values[np.isfinite(values)] for split, values in by_split.items() if len(values)}
        if not any(map(len, by_split.values())):
            msg = f"{self._view.manifest.name}: expected recorded returns, got none"
            raise SchemaMismatchError(msg)
        return by_split

    def _standardise(self, name: str, rows: np.ndarray) -> np.ndarray:
        statistics = self._view.compute_statistics()[name]
        mean, std = (np.asarray(statistics[part], np.float64).reshape(-1) for part in ("mean", "std"))
        return (rows - mean) / np.where(std > 0, std, 1.0)

    def _time_axis(self, length: int) -> tuple[np.ndarray, str]:
        fps = self._view.manifest.fps
        return (np.arange(length), "step") if fps is None else (np.arange(length) / fps, "time (s)")


def _draw_pictures(axis: Any, frames: np.ndarray, name: str) -> None:
    """Draw some pictures of an episode side by side; of several cameras, one below the other."""
    sampled = frames[np.linspace(0, len(frames) - 1, min(_NUM_FRAMES, len(frames))).round().astype(int)]
    cameras = sampled.reshape(len(sampled), -1, *sampled.shape[-3:])
    axis.imshow(np.concatenate([np.concatenate(list(row), axis=0) for row in cameras], axis=1))
    axis.set_axis_off()
    axis.set_title(_escape(name), fontsize=FONT_SIZE - 1, loc="left")


def _draw_reward(axis: Any, record: EpisodeRecord, time: np.ndarray) -> None:
    axis.plot(time, to_numbers(record.columns[REWARD]).reshape(-1), color=COLORS[0], linewidth=1.2, label="reward")
    solved = record.columns.get(f"{keys.NEXT}.{keys.SUCCESS}", record.columns.get(keys.SUCCESS))
    if solved is not None and solved.any():
        low, high = axis.get_ylim()
        axis.fill_between(time, low, high, where=solved.reshape(-1), color=COLORS[2], alpha=0.2, linewidth=0)
        axis.set_ylim(low, high)
    axis.set_ylabel("reward")


def _draw_matrix(axis: Any, rows: np.ndarray, time: np.ndarray, *, limit: float) -> Any:
    """Draw dimensions over time, in a palette whose middle is white."""
    end = time[-1] + (time[1] - time[0] if len(time) > 1 else 1)
    axis.grid(visible=False)
    axis.yaxis.get_major_locator().set_params(integer=True)
    extent = (time[0], end, rows.shape[1] - 0.5, -0.5)
    return axis.imshow(
        rows.T, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest"
    )


def _draw_dimensions(axis: Any, summary: DimensionSummary, index: int, num_splits: int, label: str) -> None:
    color = COLORS[index % len(COLORS)]
    first, tenth, median, ninetieth, last = summary.percentiles
    places = np.arange(len(median)) + (index - (num_splits - 1) / 2) * 0.8 / num_splits
    axis.xaxis.get_major_locator().set_params(integer=True)
    width = min(1.0, 20 / len(median))
    axis.vlines(places, first, last, color=color, linewidth=0.6 * width + 0.2)
    axis.vlines(places, tenth, ninetieth, color=color, linewidth=2.2 * width + 0.4)
    axis.plot(places, median, linestyle="", marker="o", markersize=2.2 * width + 0.6, color=color, label=label)
    for mask, marker in ((summary.is_dead, "x"), (summary.is_saturated, "^")):
        axis.plot(places[mask], last[mask], linestyle="", marker=marker, markersize=3.5, color=color)


def _escape(text: str) -> str:
    """Return a text in which no dollar sign begins a formula."""
    return text.replace("$", r"\$")


def _write(figures: Mapping[str, "Figure"], folder: Path, formats: Sequence[str]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [file for name, figure in figures.items() for file in save_figure(figure, folder / name, formats)]
    except OSError as error:
        msg = f"No figures can be written to {folder}: {error.strerror}. Choose another folder."
        raise StoreNotWritableError(msg) from error
