"""Behaviour cloning from pictures on one kitchen, five seeds, beside the random policy and the expert.

    python -m benchmarks.pixels --work ~/rlhive-pixels

Collects kitchen_sdoor_open with two cameras of 84 x 84 pixels, trains the CNN with the robot's joints beside it on the
expert split, and evaluates each policy on 20 unseen seeds. What the folder ``--work`` holds already is not done again.
It took two hours on two busy cores. Writes benchmarks/results/pixels.json and prints the table of docs/pixels.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.rounds import RESULTS, machine
from rlhive import RoboHiveDataset, collect, evaluate, get_task, train
from rlhive.policies import read_checkpoint
from rlhive.rollouts import Evaluation
from rlhive.sim_algos._bootstrap import bootstrap_interval

TASK = "kitchen_sdoor_open"
CAMERAS = ("left_cam", "right_cam")
SEEDS = 5
EPISODES = 20
OVERRIDES = (
    "encoder=cnn",
    "obs_keys=[pixels,robot_jnt]",
    "train.batch_size=64",
    "train.num_steps=2000",
    "optim.lr=3e-4",
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Do what is missing, write the results and return them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the dataset and the run")
    work = parser.parse_args(arguments).work.expanduser()
    task = get_task(TASK).with_pixels(cameras=CAMERAS, obs_keys=("robot_jnt",))
    dataset = RoboHiveDataset(collect(task, name=f"{TASK}_pixels", store=work / "store"))
    folders = [work / "runs/bc" / f"seed_{seed}" for seed in range(SEEDS)]
    if not all((folder / "checkpoint.json").exists() for folder in folders):
        train("bc", dataset.path, overrides=OVERRIDES, num_seeds=SEEDS, output_dir=work / "runs/bc", resume="auto")
    evaluations = [evaluate(folder, TASK, num_episodes=EPISODES) for folder in folders]
    rows = {
        "bc from pictures, 5 seeds": evaluations,
        **{level: [evaluate(level, TASK, num_episodes=EPISODES)] for level in ("random", "expert")},
    }
    content = {
        "machine": machine(),
        "fingerprint": dataset.fingerprint,
        "seconds": read_checkpoint(folders[0])["seconds"],
        "overrides": list(OVERRIDES),
        "rows": {name: [row.to_dict() for row in results] for name, results in rows.items()},
    }
    (RESULTS / "pixels.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("| policy | success | return |\n|---|---:|---:|")
    for name, results in rows.items():
        print(_format_row(name, results))
    return content


def _format_row(name: str, results: Sequence[Evaluation]) -> str:
    """Return a row of the table: means, and 95 % intervals over seeds and episodes."""
    texts = []
    for runs, spec in (
        ([[float(solved) for solved in result.solved or ()] for result in results], ".0%"),
        ([result.returns for result in results], ".1f"),
    ):
        low, high = bootstrap_interval(runs)
        mean = np.mean([np.mean(run) for run in runs])
        texts.append(f"{mean:{spec}} ({low:{spec}} to {high:{spec}})")
    return f"| {name} | {' | '.join(texts)} |"


if __name__ == "__main__":
    main()
