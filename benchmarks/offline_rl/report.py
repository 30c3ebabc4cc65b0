"""The tables and the picture of the cells that have been run.

    python -m benchmarks.offline_rl.report

Reads benchmarks/results/offline_rl/*.json and writes docs/benchmark/results.md, profile.png and profile.pdf beside it,
and the scores that datasets' cards show (rlhive/data/versions/reference_scores.json). A cell that was not run is empty.
Statistics over tasks and splits are those of the cells that all algorithms have, and of those that the algorithms with
cells on at least half of the tasks and splits have.
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
from rlhive.envs import get_task
from rlhive.sim_algos._bootstrap import bootstrap_interval, difference_interval

DOCS = ROOT / "docs/benchmark"
CARD_SCORES = ROOT / "rlhive/data/versions/reference_scores.json"

#: Algorithms of which one has to be above cloning on a split that belongs to the benchmark, and by how much
#: (docs/benchmark/protocol.md).
PROBES = ("filtered_bc", "rebrac", "iql")
SMALLEST_GAP = 10.0

#: (task, split) → algorithm → content of the cell's file.
Cells = Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> str:
    """Write the page and the picture and return the page's text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=Path, default=FOLDER, help="folder of the cells' files")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the page and the picture")
    parser.add_argument("--card-scores", type=Path, default=CARD_SCORES, help="file of the scores on datasets' cards")
    options = parser.parse_args(arguments)
    cells = read_cells(options.cells)
    algorithms = [name for name in catalogue.ALGORITHMS if any(name in row for row in cells.values())]
    options.output.mkdir(parents=True, exist_ok=True)
    lines = ["# Results", "", *_score_table(cells, algorithms), "", *_gap_table(cells), ""]
    frequent = find_frequent(cells, algorithms)
    lines += [*_split_table(cells, frequent), "", "## Together", "", *_aggregate_table(cells, frequent)]
    for name in algorithms:
        if name not in frequent and sum(name in row for row in cells.values()) > 1:
            lines += ["", *_aggregate_table(cells, [*(other for other in ("bc", "iql") if other in frequent), name])]
    if draw_profiles(cells, frequent, options.output / "profile"):
        lines += ["", "![Share of runs above each score](profile.png)"]
    lines += ["", _describe_cost(cells)]
    text = "\n".join(lines) + "\n"
    (options.output / "results.md").write_text(text, encoding="utf-8")
    card_scores = json.dumps({"tasks": summarize_for_cards(cells)}, indent=1)
    options.card_scores.write_text(f"{card_scores}\n", encoding="utf-8")
    return text


def read_cells(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the cells of a folder."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        cell = content["cell"]
        cells.setdefault((cell["task"], cell["split"]), {})[cell["algorithm"]] = content
    return cells


def _describe_cost(cells: Cells) -> str:
    """Return a sentence on the time of the cells, and on that of the table's missing ones."""
    seconds: dict[str, list[float]] = {}
    for row in cells.values():
        for name, cell in row.items():
            seconds.setdefault(name, []).append(sum(cell["seconds"].values()))
    hours = sum(sum(values) for values in seconds.values()) / 3600
    missing = [cell for cell in catalogue.list_cells() if cell.algorithm not in cells.get((cell.task, cell.split), {})]
    estimate = sum(float(np.median(seconds[cell.algorithm])) for cell in missing if cell.algorithm in seconds) / 3600
    cost = f"These {sum(map(len, seconds.values()))} cells took {hours:.1f} hours, one after the other"
    if not missing:
        return f"{cost}: the whole table."
    return (
        f"{cost}, in part beside other work. {len(missing)} of the table's {len(list(catalogue.list_cells()))} cells "
        f"are missing, which by the median times take {estimate:.1f} hours."
    )


def find_frequent(cells: Cells, algorithms: Sequence[str]) -> list[str]:
    """Return the algorithms that have cells on at least half of the tasks and splits."""
    return [name for name in algorithms if 2 * sum(name in row for row in cells.values()) >= len(cells)]


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
    return "{:.0f} ({:.0f} to {:.0f})".format(*_summarize_cell(content))


def _summarize_cell(content: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the mean score of a cell and its interval."""
    return mean_score(content), *bootstrap_interval(_list_scores(content))


def mean_score(content: Mapping[str, Any]) -> float:
    """Return the mean over the seeds of the mean score of each seed's episodes."""
    return float(np.mean([np.mean(values) for values in _list_scores(content)]))


def _list_scores(content: Mapping[str, Any]) -> list[list[float]]:
    return [seed["scores"] for seed in content["evaluations"]]


def _gap_table(cells: Cells) -> list[str]:
    """Return for each task and split how far the probes are above cloning, and what that says of the split."""
    lines = [
        "## Which splits tell algorithms apart",
        "",
        f"Score minus that of bc (95 % interval). A split does where {' or '.join(PROBES)} is more than "
        f"{SMALLEST_GAP:.0f} points above bc",
        "and the interval excludes zero; it belongs to the benchmark if it does so on at least one task.",
        "",
        f"| task | split | {' | '.join(PROBES)} | tells algorithms apart |",
        f"|---|---|{'---:|' * len(PROBES)}---|",
    ]
    for (task, split), row in cells.items():
        if "bc" in row:
            gaps = {name: measure_gap(row[name], row["bc"]) for name in row if name != "bc"}
            texts = ["{:+.0f} ({:+.0f} to {:+.0f})".format(*gaps[name]) if name in gaps else "" for name in PROBES]
            lines.append(f"| {task} | {split} | {' | '.join(texts)} | {judge_gaps(gaps)} |")
    return lines


def measure_gap(content: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the score of one cell minus that of another, with its interval."""
    interval = difference_interval(_list_scores(content), _list_scores(other))
    return mean_score(content) - mean_score(other), *interval


def judge_gaps(gaps: Mapping[str, tuple[float, float, float]]) -> str:
    """Return whether a split tells algorithms apart, from what each algorithm is above cloning.

    Args:
        gaps: Algorithm → difference to cloning and the bounds of its interval.
    """
    above = [name for name in PROBES if name in gaps and gaps[name][0] > SMALLEST_GAP and gaps[name][1] > 0]
    if above:
        return f"yes: {', '.join(above)}"
    missing = [name for name in PROBES if name not in gaps]
    if missing:
        return f"not known: {', '.join(missing)} not run"
    differing = [name for name, (_, low, high) in gaps.items() if low > 0 or high < 0]
    return f"no; {', '.join(differing)} differ from bc" if differing else "no: all tie with bc"


def _split_table(cells: Cells, algorithms: Sequence[str]) -> list[str]:
    """Return the interquartile mean of each algorithm on each split, over the tasks that all its algorithms have."""
    lines = [
        "## By split",
        "",
        "Interquartile mean over tasks and seeds (95 % interval), from the tasks that all algorithms of the row have.",
        "",
        f"| split | tasks | {' | '.join(algorithms)} |",
        f"|---|---:|{'---:|' * len(algorithms)}",
    ]
    for split in dict.fromkeys(split for _, split in cells):
        rows = {key: row for key, row in cells.items() if key[1] == split}
        present = [name for name in algorithms if any(name in row for row in rows.values())]
        scores = scores_by_algorithm(rows, present)
        num_tasks = len(next(iter(scores.values())))
        texts = [_format_iqm(scores[name]) if name in present and num_tasks else "" for name in algorithms]
        lines.append(f"| {split} | {num_tasks} | {' | '.join(texts)} |")
    return lines


def _format_iqm(scores: np.ndarray) -> str:
    low, high = iqm_interval(scores)
    return f"{iqm(scores):.1f} ({low:.1f} to {high:.1f})"


def summarize_for_cards(cells: Cells) -> dict[str, Any]:
    """Return for each dataset of the benchmark the references and the scores that its card shows, JSON-able.

    Raises:
        ValueError: Cells of a dataset learned from different contents.
    """
    recipes = [split for split in catalogue.SPLITS if split != "replay"]
    summaries = {f"bench_{task}": _summarize_dataset(task, recipes, cells) for task in catalogue.TASKS}
    replayed = {f"bench_{task}_replay": _summarize_dataset(task, ["replay"], cells) for task in catalogue.REPLAYED}
    return summaries | replayed


def _summarize_dataset(task: str, splits: Sequence[str], cells: Cells) -> dict[str, Any]:
    rows = {split: cells[task, split] for split in splits if (task, split) in cells}
    fingerprints = {content["dataset"]["fingerprint"] for row in rows.values() for content in row.values()}
    if len(fingerprints) > 1:
        msg = f"{task}: expected cells of one content, got the fingerprints {', '.join(sorted(fingerprints))}"
        raise ValueError(msg)
    reference = get_task(f"bench_{task}").reference
    policies = {"random": reference.random, "expert": reference.expert}
    fields = ("num_episodes", "return_mean", "success_rate")
    return {
        "policies": {name: {field: getattr(result, field) for field in fields} for name, result in policies.items()},
        "fingerprint": next(iter(fingerprints), ""),
        "scores": {
            split: {
                name: [round(value, 2) for value in _summarize_cell(row[name])]
                for name in catalogue.ALGORITHMS
                if name in row
            }
            for split, row in rows.items()
        },
    }


def _aggregate_table(cells: Cells, algorithms: Sequence[str]) -> list[str]:
    """Return the interquartile means and the probabilities of improvement over cloning."""
    scores = scores_by_algorithm(cells, algorithms)
    num_cells = len(next(iter(scores.values()), ()))
    if not num_cells:
        return ["No task and split has all algorithms yet: no statistics over them."]
    lines = [
        f"Over the tasks and splits that {', '.join(algorithms)} have, {num_cells} in number:",
        "",
        "| algorithm | interquartile mean (95 % interval) | probability of improvement over bc (95 % interval) |",
        "|---|---:|---:|",
    ]
    for name in algorithms:
        improvement = ""
        if "bc" in scores and name != "bc":
            least, most = improvement_interval(scores[name], scores["bc"])
            probability = probability_of_improvement(scores[name], scores["bc"])
            improvement = f"{probability:.2f} ({least:.2f} to {most:.2f})"
        lines.append(f"| {name} | {_format_iqm(scores[name])} | {improvement} |")
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
