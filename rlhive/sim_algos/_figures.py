"""Figures of a sweep: learning curves, and bars with a point per seed, in the size of a paper's column."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhive._figures import COLORS, DASHES, FONT_SIZE, WIDTH, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rlhive.sim_algos._results import RunGroup

#: Longest name of a group in a figure.
_MAX_NAME = 300
_LABELS = {"success": "success rate", "return": "return"}


def draw_curves(groups: "Sequence[RunGroup]") -> "Figure | None":
    """Draw each metric over the gradient steps, mean and 95 % interval; None without at least two evaluations."""
    metrics = [name for name in _LABELS if any(len(group.curves.get(name, ())) > 1 for group in groups)]
    if not metrics:
        return None
    figure, axes = make_figure(1, len(metrics), width=_width(metrics), height=2.1 + 0.17 * len(groups))
    for metric, axis in zip(metrics, axes[0], strict=True):
        for index, group in enumerate(groups):
            points = group.curves.get(metric, ())
            if points:
                color = COLORS[index % len(COLORS)]
                style = {"color": color, "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.3}
                steps = [point.step for point in points]
                axis.plot(steps, [point.mean for point in points], label=_make_label(group, 70), **style)
                bounds = [point.interval or (point.mean, point.mean) for point in points]
                axis.fill_between(steps, *zip(*bounds, strict=True), color=color, alpha=0.18, linewidth=0)
        axis.set_xlabel("gradient steps")
        axis.set_ylabel(_LABELS[metric])
        axis.xaxis.set_major_formatter(_format_steps)
        _set_limits(axis, metric, axis.set_ylim)
    pairs = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    handles = {label: handle for axis_pairs in pairs for handle, label in axis_pairs}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=2 if len(groups) > 2 and max(map(len, handles)) < 36 else 1,
        frameon=False,
        fontsize=FONT_SIZE - 1,
    )
    return figure


def draw_bars(groups: "Sequence[RunGroup]") -> "Figure | None":
    """Draw the last evaluation of each group: a bar with its 95 % interval, and a point per seed; None without any."""
    metrics = [name for name in _LABELS if any(name in group.final for group in groups)]
    if not metrics:
        return None
    labels = [_make_label(group, 26) for group in groups]
    num_lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure, axes = make_figure(1, len(metrics), width=_width(metrics), height=0.7 + 0.17 * num_lines)
    for metric, axis in zip(metrics, axes[0], strict=True):
        for index, group in enumerate(groups):
            if metric in group.final:
                _draw_bar(axis, index, group.final[metric])
        axis.set_yticks(range(len(groups)), labels if axis is axes[0][0] else [""] * len(groups))
        axis.set_ylim(len(groups) - 0.4, -0.6)  # the first group on top
        axis.set_xlabel(_LABELS[metric])
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        _set_limits(axis, metric, axis.set_xlim)
    return figure


def _draw_bar(axis: Any, index: int, point: Any) -> None:
    color = COLORS[index % len(COLORS)]
    axis.barh(index, point.mean, height=0.62, color=color, alpha=0.45, linewidth=0)
    offsets = np.linspace(-0.17, 0.17, len(point.seed_means)) if len(point.seed_means) > 1 else [0.0]
    axis.scatter(
        point.seed_means, index + np.asarray(offsets), s=9, color=color, edgecolor="white", linewidth=0.4, zorder=3
    )
    if point.interval is not None:
        low, high = point.interval
        mean = min(max(point.mean, low), high)
        axis.errorbar(mean, index, xerr=[[mean - low], [high - mean]], color="black", linewidth=0.9, capsize=2.5)


def _width(metrics: Sequence[str]) -> float:
    """Return the width of a figure in inches: of the text column, or of two thirds for a single metric."""
    return WIDTH if len(metrics) > 1 else 0.65 * WIDTH


def _set_limits(axis: Any, metric: str, set_limits: Any) -> None:
    if metric == "success":
        set_limits(0.0, 1.02)


def _format_steps(value: float, _: int) -> str:
    """Return 12000 as 12k."""
    for divisor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:g}{unit}"
    return f"{value:g}"


def _make_label(group: "RunGroup", width: int) -> str:
    """Return the name of a group and its number of seeds, in lines; a dollar sign would begin a formula."""
    seeds = "1_seed" if len(group.seeds) == 1 else f"{len(group.seeds)}_seeds"
    name = group.name if len(group.name) <= _MAX_NAME else f"{group.name[:_MAX_NAME]}…"
    *lines, last = textwrap.wrap(f"{name} ({seeds})", width, break_on_hyphens=False)
    return "\n".join([*lines, last.replace(f"({seeds})", f"({seeds.replace('_', ' ')})")]).replace("$", r"\$")
