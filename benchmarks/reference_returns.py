"""Measure the catalogue's reference returns again: ``python benchmarks/reference_returns.py``.

The random and the expert policy of every task are measured on the evaluation seeds, on which no expert was tuned. The
numbers are stored in rlhive/envs/references.json with their command, seeds and versions. Without arguments, the tasks
are measured whose numbers are missing or belong to other expert parameters. ``--check`` only lists these tasks and
exits with 1. A task takes about 40 s of CPU time.
"""

import argparse
import datetime
import importlib.metadata
import json
import sys
from pathlib import Path

from tqdm import tqdm

from rlhive._provenance import git_state
from rlhive.envs._references import expert_hash, find_stale_references
from rlhive.envs._tasks import EVALUATION_SEED, TASKS, Task
from rlhive.rollouts._evaluate import Evaluation, evaluate

FILE = Path(__file__).parents[1] / "rlhive" / "envs" / "references.json"
PACKAGES = ("rlhive", "robohive", "mujoco", "numpy", "torch", "torchrl")


def measure(task: Task, *, episodes: int, num_workers: int, git: dict | None) -> dict:
    """Return the row of one task."""
    levels = [level for level in ("random", "expert") if level in task.levels]
    rows = {level: summarise(evaluate(level, task, num_episodes=episodes, num_workers=num_workers)) for level in levels}
    return {
        "env_name": task.env_name,
        "expert_hash": expert_hash(task.env_name),
        **rows,
        "seeds": [EVALUATION_SEED, EVALUATION_SEED + episodes - 1],
        "command": f"python benchmarks/reference_returns.py {task.name} --episodes {episodes}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git": git,
        "date": datetime.date.today().isoformat(),
    }


def summarise(evaluation: Evaluation) -> dict:
    """Return the numbers of an evaluation that a reference stores, rounded well below their intervals."""
    return {
        "num_episodes": evaluation.num_episodes,
        "invalid": len(evaluation.invalid),
        "return_mean": round(evaluation.return_mean, 3),
        "return_interval": [round(bound, 3) for bound in evaluation.return_interval],
        "success_rate": evaluation.success_rate,
        "success_interval": [round(bound, 4) for bound in evaluation.success_interval],
    }


def main() -> None:
    """Measure the named or stale tasks one after the other; store each result at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", help="task names; default: the tasks whose reference is stale")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="measure nothing; list the tasks whose reference is stale")
    arguments = parser.parse_args()
    names = arguments.tasks or find_stale_references((task.name, task.env_name) for task in TASKS.values())
    if arguments.check:
        sys.exit("\n".join(names) if names else 0)
    git = git_state()  # before the file itself changes
    for name in tqdm(names, unit="task"):
        row = measure(TASKS[name], episodes=arguments.episodes, num_workers=arguments.workers, git=git)
        # Read again: another process may have measured other tasks in the meantime.
        content = json.loads(FILE.read_text(encoding="utf-8"))
        content["tasks"] = {
            key: {**content["tasks"], name: row}[key] for key in TASKS if key in {*content["tasks"], name}
        }
        FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
