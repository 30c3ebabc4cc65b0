"""Behaviour cloning of a noisy set: of all episodes, of those that do not stand out by a score, of the good ones.

    python -m benchmarks.curation kitchen_knob1 --good 150 --bad 15

The set is planted as by ``benchmarks.score_recall``. Five seeds of each arm are trained and measured on the same
unseen episodes; intervals are of the two-level bootstrap, over seeds and their episodes.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.score_recall import plant
from rlhive import RoboHiveDataset, evaluate, train
from rlhive.sim_algos._bootstrap import bootstrap_interval, difference_interval

#: Condition on the episodes of each arm; the last one needs to be told which episodes are good.
ARMS = {"all": "", "curated": "outlier == ''", "good": "metadata.kind == 'good'"}


def main() -> None:
    """Print a row of a Markdown table for each arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--good", type=int, default=150, help="good episodes")
    parser.add_argument("--bad", type=int, default=15, help="bad episodes of each kind")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6000, help="gradient steps")
    parser.add_argument("--episodes", type=int, default=30, help="episodes of each evaluation")
    parser.add_argument("--folder", type=Path, help="keeps datasets and runs; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        version = folder / "store" / "planted" / options.task / "1.0.0"
        if not version.exists():
            plant(options.task, folder / "store", good=options.good, bad=options.bad)
        print("| trained on | episodes | success | 95 % | minus all, 95 % |")
        print("|---|---:|---:|---|---|")
        solved: dict[str, list[list[float]]] = {}
        for arm, where in ARMS.items():
            solved[arm] = run_arm(arm, where, version, options, folder)
            dataset = RoboHiveDataset(version, where=where or None, store=folder / "store")
            low, high = bootstrap_interval(solved[arm])
            cells = [arm, str(len(dataset.episodes)), f"{np.mean(solved[arm]):.1%}", f"{low:.1%} to {high:.1%}"]
            if arm != "all":
                low, high = difference_interval(solved[arm], solved["all"])
                difference = np.mean(solved[arm]) - np.mean(solved["all"])
                cells.append(f"{difference:+.1%} ({low:+.1%} to {high:+.1%})")
            print(f"| {' | '.join([*cells, *[''] * (5 - len(cells))])} |", flush=True)


def run_arm(arm: str, where: str, version: Path, options: argparse.Namespace, folder: Path) -> list[list[float]]:
    """Train all seeds of an arm; return for each one whether it solved each of the unseen episodes."""
    dataset = RoboHiveDataset(version, where=where or None, store=folder / "store").save(f"planted/{arm}")
    result = train(
        "bc",
        dataset.path,
        split="train",
        num_seeds=options.seeds,
        overrides=[f"train.num_steps={options.steps}"],
        output_dir=folder / "runs" / arm,
        progress=False,
    )
    evaluations = [
        evaluate(checkpoint, options.task, num_episodes=options.episodes, num_workers=1, progress=False)
        for checkpoint in result.checkpoints
    ]
    return [[float(is_solved) for is_solved in evaluation.solved] for evaluation in evaluations]


if __name__ == "__main__":
    main()
