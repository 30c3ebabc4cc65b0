"""Scores of an algorithm's options on validation seeds, over several datasets and splits; their mean chooses defaults.

    python -m benchmarks.tune_offline iql --grid loss.temperature=1,6 loss.expectile=0.7,0.9
    python -m benchmarks.tune_offline td3_bc --sources reach:medium --grid loss.alpha=0.1,2.5

Every combination of the grid trains seeds 100, 101 and 102 at once; an interrupted run goes on where it was. Each
policy is evaluated on episodes whose seeds begin at 2,800,000. Neither the trainings' seeds nor the episodes' are those
of ``rlhive evaluate``, of an evaluation during a training, of the parity tables or of the tests. A score is 0 for the
random policy and 100 for the expert.

Writes benchmarks/results/tune_MODEL.json after every training, and the table between its markers in docs/parity.md.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import ROOT
from benchmarks.peers.rounds import RESULTS, machine, write_results
from benchmarks.report import replace_section
from rlhive import evaluate, train
from rlhive.sim_algos._bootstrap import bootstrap_interval

DOCUMENT = ROOT / "docs" / "parity.md"
SOURCES = ("reach:medium", "reach:all", "kitchen_knob1:medium", "kitchen_knob1:all")
TRAINING_SEED, NUM_SEEDS = 100, 3
EPISODE_SEED, NUM_EPISODES = 2_800_000, 20


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and evaluate what the results lack, write them, and return them."""
    options = _options(arguments)
    results = f"tune_{options.model}"
    content = _read_results(results)
    # Every source has a combination before the next combination begins, so that an interrupted run can be compared.
    for overrides, source in itertools.product(_combinations(options.grid), options.sources):
        key = {"source": source, "overrides": overrides, "steps": options.steps}
        if any(key.items() <= row.items() for row in content["rows"]):
            continue
        row = {**key, **_measure(options.model, source, overrides, options.steps)}
        content = _read_results(results)  # another process may have measured other sources meanwhile
        content["rows"].append(row)
        write_results(results, content)
        print(f"{source:<24} {_label(overrides):<50} {_cell([row])}", flush=True)
    print(table(content))
    replace_section(DOCUMENT, results, table(content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="algorithm, for example iql")
    parser.add_argument("--sources", nargs="+", default=SOURCES, metavar="DATASET:SPLIT")
    parser.add_argument("--grid", nargs="+", required=True, metavar="OPTION=VALUE,VALUE")
    parser.add_argument("--steps", type=int, default=3_000, help="gradient steps")
    return parser.parse_args(arguments)


def _read_results(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"machine": machine(), "rows": []}


def _combinations(grid: Iterable[str]) -> Iterable[list[str]]:
    """Yield the overrides of every combination of the values."""
    names, values = zip(*(entry.split("=", 1) for entry in grid), strict=True)
    for choice in itertools.product(*(value.split(",") for value in values)):
        yield [f"{name}={value}" for name, value in zip(names, choice, strict=True)]


def _measure(model: str, source: str, overrides: Sequence[str], steps: int) -> dict[str, Any]:
    """Return the score and the success rate of each training."""
    dataset, split = source.split(":")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rlhive-tune-") as folder:
        result = train(
            model,
            dataset,
            split=None if split == "all" else split,
            seed=TRAINING_SEED,
            num_seeds=NUM_SEEDS,
            overrides=[*overrides, f"train.num_steps={steps}", "logger=null"],
            output_dir=Path(folder),
            progress=False,
        )
        trained = time.perf_counter()
        runs = [
            evaluate(policy, dataset, num_episodes=NUM_EPISODES, seed=EPISODE_SEED, num_workers=1, progress=False)
            for policy in result.checkpoints
        ]
    return {
        "score": [run.score for run in runs],
        "solved": [run.success_rate for run in runs],
        "train_s": round(trained - start),
        "evaluate_s": round(time.perf_counter() - trained),
    }


def table(content: dict[str, Any]) -> str:
    """Return a Markdown table of the mean scores, best combination first."""
    sources = list(dict.fromkeys(row["source"] for row in content["rows"]))
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        groups.setdefault((_label(row["overrides"]), row["steps"]), []).append(row)
    complete = {key: rows for key, rows in groups.items() if len(rows) == len(sources)}
    lines = [["options", "steps", *sources, "mean (95 % interval)"]]
    lines.append(["---"] * len(lines[0]))
    for (label, steps), rows in sorted(complete.items(), key=lambda item: -_mean_score(item[1])):
        by_source = {row["source"]: row for row in rows}
        lines.append([label, f"{steps:,}", *(f"{_mean_score([by_source[name]]):.0f}" for name in sources), _cell(rows)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean_score(rows: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([row["score"] for row in rows]))


def _cell(rows: Sequence[dict[str, Any]]) -> str:
    """Return the mean score, and its interval over the training seeds, each of which saw every source."""
    low, high = bootstrap_interval([[score] for score in np.mean([row["score"] for row in rows], axis=0)])
    return f"{_mean_score(rows):.1f} ({low:.1f} to {high:.1f})"


def _label(overrides: Iterable[str]) -> str:
    return " ".join(text.partition(".")[2] for text in overrides)


if __name__ == "__main__":
    main()
