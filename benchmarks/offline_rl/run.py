"""Run the cells of a table that have no file yet.

    python -m benchmarks.offline_rl.run                                  # the table
    python -m benchmarks.offline_rl.run --tasks reach kitchen_knob1 --splits medium mixed --algorithms bc iql
    python -m benchmarks.offline_rl.run --tasks reach --splits medium --algorithms bc iql --shard 2/6

A cell trains five seeds as one batch of networks, evaluates each final policy on 50 episodes of unseen seeds of each
task, and writes benchmarks/results/offline_rl/TASK-SPLIT-ALGORITHM.json: returns and outcomes of every episode, the
command, the versions, the fingerprint of the data and the time that it took. A file is written whole; an interrupted
run goes on with the next missing cell, and ``--shard 2/6`` takes every sixth cell, beginning with the second, for one
of six machines.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.offline_rl import catalogue
from benchmarks.offline_rl.catalogue import Cell, list_cells
from benchmarks.peers.rounds import RESULTS, machine
from rlhive import RoboHiveDataset, evaluate, train
from rlhive.envs import Reference, get_task
from rlhive.errors import InvalidOptionError
from rlhive.policies import read_checkpoint, replace_file

FOLDER = RESULTS / "offline_rl"


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the missing cells and return their files."""
    options = _options(arguments)
    cells = list(list_cells(options.tasks, options.splits, options.algorithms))
    if not cells:
        msg = "the table has no such cell: expected tasks and splits of it, or --tasks and --splits together"
        raise SystemExit(msg)
    first, step = options.shard
    missing = [cell for cell in cells[first::step] if not (options.output / f"{cell.name}.json").exists()]
    print(f"{len(cells)} cells, {len(missing)} to run here", flush=True)
    written = []
    for number, cell in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] {cell.name}", flush=True)
        written.append(_write(options.output / f"{cell.name}.json", run_cell(cell, workers=options.workers)))
    return written


def run_cell(cell: Cell, *, workers: int | None = None) -> dict[str, Any]:
    """Train and evaluate a cell and return the content of its file."""
    model = catalogue.ALGORITHMS[cell.algorithm][0]
    seeds = catalogue.SEEDS
    mixture = {"env": cell.tasks[0]} if len(cell.datasets) > 1 else {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rlhive-cell-") as folder:
        result = train(
            model,
            dict.fromkeys(cell.datasets, 1.0) if mixture else cell.datasets[0],
            overrides=[*cell.overrides, "logger=null"],
            seed=seeds[0],
            num_seeds=len(seeds),
            output_dir=folder,
            progress=False,
            **mixture,
        )
        trained = time.perf_counter()
        evaluations = [_evaluate(path, cell.tasks, workers) for path in result.checkpoints]
        record = read_checkpoint(result.checkpoint)
    finished = time.perf_counter()
    return {
        "cell": {"task": cell.task, "split": cell.split, "algorithm": cell.algorithm},
        "command": f"python -m benchmarks.offline_rl.run --tasks {cell.task} --splits {cell.split} "
        f"--algorithms {cell.algorithm}",
        "dataset": record["dataset"],
        "num_episodes": _count_episodes(record),
        "config": record["config"],
        "seeds": list(seeds),
        "tasks": list(cell.tasks),
        "evaluations": evaluations,
        "seconds": {"train": round(trained - started, 1), "evaluate": round(finished - trained, 1)},
        "versions": record["versions"],
        "git": record["git"],
        "machine": machine(),
    }


def _evaluate(checkpoint: Path, tasks: Sequence[str], workers: int | None) -> dict[str, Any]:
    """Return the outcomes of a policy's episodes in each of the tasks, one task after the other."""
    options = {"num_episodes": catalogue.NUM_EPISODES, "num_workers": workers, "progress": False}
    rows = [evaluate(checkpoint, task, **options).to_dict() for task in tasks]
    outcomes = {name: [value for row in rows for value in row[name]] for name in ("returns", "solved", "invalid")}
    references = [_find_reference(task) for task in tasks]
    scores = [ref.score(value) for ref, row in zip(references, rows, strict=True) for value in row["returns"]]
    success_rate = sum(row["success_rate"] for row in rows) / len(rows)
    return {**outcomes, "success_rate": success_rate, "first_seed": rows[0]["first_seed"], "scores": scores}


def _find_reference(task: str) -> Reference:
    """Return the reference returns of a task, without which there is no score."""
    reference = get_task(task).reference
    if reference is None or reference.expert is None:
        msg = f"{task} has no expert: expected reference returns, with which scores are normalised"
        raise InvalidOptionError(msg)
    return reference


def _count_episodes(record: dict[str, Any]) -> int:
    """Return the number of episodes that a training learned from."""
    config = record["config"]
    share = config["best_share"]
    total = 0
    for name in config["mix"] or [config["dataset"]]:
        num_episodes = RoboHiveDataset(name, split=config["split"], where=config["where"]).episodes.num_rows
        total += num_episodes if share is None else max(1, round(share * num_episodes))
    return total


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", help="tasks of the catalogue; those of the table by default")
    parser.add_argument("--splits", nargs="+", choices=list(catalogue.SPLITS), help="those of the table by default")
    parser.add_argument(
        "--algorithms", nargs="+", default=list(catalogue.TABLE_ALGORITHMS), choices=list(catalogue.ALGORITHMS)
    )
    parser.add_argument("--shard", type=_parse_shard, default=(0, 1), metavar="I/N", help="the I-th of N machines")
    parser.add_argument("--workers", type=int, help="processes of an evaluation; one per core by default")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the cells' files")
    return parser.parse_args(arguments)


def _parse_shard(text: str) -> tuple[int, int]:
    """Return position and number of a shard, from 0."""
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        msg = f"expected I/N with I from 1 to N, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(number) - 1, int(total)


if __name__ == "__main__":
    main()
    sys.exit(0)
