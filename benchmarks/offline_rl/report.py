"""The table and the picture of the cells that have been run.

    python -m benchmarks.offline_rl.report

Reads benchmarks/results/offline_rl/*.json and writes docs/benchmark/results.md, profile.png and profile.pdf beside it.
A cell that was not run is empty. Statistics over tasks and splits are those of the cells that all algorithms have.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.offline_rl import catalogue
from benchmarks.offline_rl.aggregate import (
    improvement_interval,
    iqm,
    iqm_interval,
    performance_profile,
    probability_of_improvement,
)
from benchmarks.offline_rl.run import FOLDER
from benchmarks.peers.environments import ROOT
from rlhive._figures import COLORS
from rlhive.sim_algos._bootstrap import bootstrap_interval

DOCS = ROOT / "docs/benchmark"

#: (task, split) → algorithm → content of the cell's file.
Cells = Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> str:
    """Write the page and the picture and return the page's text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=Path, default=FOLDER, help="folder of the cells' files")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the page and the picture")
    options = parser.parse_args(arguments)
    cells = read_cells(options.cells)
    algorithms = [name for name in catalogue.ALGORITHMS if any(name in row for row in cells.values())]
    options.output.mkdir(parents=True, exist_ok=True)
    lines = ["# Results", "", *_score_table(cells, algorithms), "", *_aggregate_table(cells, algorithms)]
    if draw_profiles(cells, algorithms, options.output / "profile"):
        lines += ["", "![Share of runs above each score](profile.png)"]
    hours = sum(sum(cell["seconds"].values()) for row in cells.values() for cell in row.values()) / 3600
    lines += ["", f"These cells took {hours:.1f} hours."]
    text = "\n".join(lines) + "\n"
    (options.output / "results.md").write_text(text, encoding="utf-8")
    return text


def read_cells(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the cells of a folder."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        cell = content["cell"]
        cells.setdefault((cell["task"], cell["split"]), {})[cell["algorithm"]] = content
    return cells


def scores_by_algorithm(cells: Cells, algorithms: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the scores ``[num_cells, num_seeds]`` of each algorithm, of the tasks and splits that all have."""
    common = [row for row in cells.values() if all(name in row for name in algorithms)]
    return {
        name: np.array([[np.mean(seed["scores"]) for seed in row[name]["evaluations"]] for row in common])
        for name in algorithms
    }


def _score_table(cells: Cells, algorithms: Sequence[str]) -> list[str]:
    """Return the normalised scores, mean over seeds and episodes with 95 % intervals, by task and split."""
    lines = [
        "Normalised score: 0 is the random policy, 100 the expert. Mean over seeds and episodes (95 % interval of a",
        "bootstrap over both). † marks the tasks on whose data hyperparameters were chosen.",
        "",
        f"| task | split | episodes | {' | '.join(algorithms)} |",
        f"|---|---|---:|{'---:|' * len(algorithms)}",
    ]
    for (task, split), row in cells.items():
        texts = [_format_cell(row[name]) if name in row else "" for name in algorithms]
        num_episodes = next((row[name]["num_episodes"] for name in ("bc", *algorithms) if name in row), "")
        mark = " †" if task in catalogue.TUNED else ""
        lines.append(f"| {task}{mark} | {split} | {num_episodes} | {' | '.join(texts)} |")
    return lines


def _format_cell(content: Mapping[str, Any]) -> str:
    scores = [seed["scores"] for seed in content["evaluations"]]
    low, high = bootstrap_interval(scores)
    return f"{np.mean([np.mean(values) for values in scores]):.0f} ({low:.0f} to {high:.0f})"


def _aggregate_table(cells: Cells, algorithms: Sequence[str]) -> list[str]:
    """Return the interquartile means and the probabilities of improvement over cloning."""
    scores = scores_by_algorithm(cells, algorithms)
    num_cells = len(next(iter(scores.values()), ()))
    if not num_cells:
        return ["No task and split has all algorithms yet: no statistics over them."]
    lines = [
        f"Over the tasks and splits that all algorithms have, {num_cells} in number:",
        "",
        "| algorithm | interquartile mean (95 % interval) | probability of improvement over bc (95 % interval) |",
        "|---|---:|---:|",
    ]
    for name in algorithms:
        low, high = iqm_interval(scores[name])
        improvement = ""
        if "bc" in scores and name != "bc":
            least, most = improvement_interval(scores[name], scores["bc"])
            probability = probability_of_improvement(scores[name], scores["bc"])
            improvement = f"{probability:.2f} ({least:.2f} to {most:.2f})"
        lines.append(f"| {name} | {iqm(scores[name]):.1f} ({low:.1f} to {high:.1f}) | {improvement} |")
    return lines


def draw_profiles(cells: Cells, algorithms: Sequence[str], path: Path) -> bool:
    """Write the performance profiles as PNG and PDF; return whether there are any."""
    from matplotlib.figure import Figure

    scores = scores_by_algorithm(cells, algorithms)
    if not len(next(iter(scores.values()), ())):
        return False
    thresholds = np.linspace(min(0.0, min(rows.min() for rows in scores.values())), 110.0, 111)
    figure = Figure(figsize=(5.5, 3.0), layout="constrained")
    axis = figure.subplots()
    for index, (name, rows) in enumerate(scores.items()):
        share, low, high = performance_profile(rows, thresholds)
        color, style = COLORS[index % len(COLORS)], ("-", "--", "-.", ":")[index % 4]
        axis.plot(thresholds, share, label=name, color=color, linestyle=style, linewidth=1.3)
        axis.fill_between(thresholds, low, high, color=color, alpha=0.15, linewidth=0)
    axis.set_xlabel("normalised score")
    axis.set_ylabel("share of runs above")
    axis.set_ylim(0, 1)
    axis.legend(fontsize=7)
    for suffix in (".png", ".pdf"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    return True


if __name__ == "__main__":
    print(main())
