"""What another processor changes in a recipe's episodes: glibc without its paths with fused multiply-add plays it.

    python -m benchmarks.processors --episodes 6 kitchen_knob1 push

Each recipe runs twice, in processes with and without GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA, so many episodes
of every policy, and the two versions are compared. A folder keeps them for the next call.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from rlhive.data.versions import Manifest, diff, read_records

PATHS = {"with-fma": "", "without-fma": "glibc.cpu.hwcaps=-AVX2,-FMA"}
COLLECT = """
import sys
from dataclasses import replace
from pathlib import Path
from rlhive.envs import get_task
from rlhive.rollouts import collect
task = get_task(sys.argv[1])
task = replace(task, recipe=replace(task.recipe, episodes=dict.fromkeys(task.recipe.episodes, int(sys.argv[2]))))
print(collect(task, store=Path(sys.argv[3]), progress=False))
"""


def main() -> None:
    """Print a row of a Markdown table for each task."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--episodes", type=int, default=6, help="episodes of every policy")
    parser.add_argument("--folder", type=Path, help="keeps the versions; a temporary folder by default")
    options = parser.parse_args()
    print("| task | episodes | actions | observations, median | observations | returns | other outcome or return |")
    print("|---|---:|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for task in options.tasks:
            folders = [collect(task, options.episodes, options.folder or Path(temporary), path) for path in PATHS]
            print(f"| {task} | {' | '.join(compare(*folders))} |", flush=True)


def collect(task: str, episodes: int, folder: Path, path: str) -> Path:
    """Return the folder of a recipe's version, made with one of the paths of glibc."""
    environment = {**os.environ, **({"GLIBC_TUNABLES": PATHS[path]} if PATHS[path] else {})}
    command = [sys.executable, "-c", COLLECT, task, str(episodes), str(folder / path)]
    return Path(
        subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    )


def compare(one: Path, other: Path) -> list[str]:
    """Return the cells of a row: how many episodes are in both, and the largest differences."""
    records = [
        {record.episode: record for record in read_records(folder, manifest, list(manifest.splits))}
        for folder, manifest in ((folder, Manifest.read(folder)) for folder in (one, other))
    ]
    common = sorted(records[0].keys() & records[1].keys())
    errors = {
        name: [
            np.abs(records[0][episode].columns[name] - records[1][episode].columns[name]).max() for episode in common
        ]
        for name in ("action", "observation")
    }
    difference = diff(one, other)
    apart = sorted({*difference.added, *difference.dropped})
    outcomes = difference.outcomes or {"different": [], "unequal_returns": [], "return_error": 0.0}
    odd = sorted({*outcomes["different"], *outcomes["unequal_returns"]})
    notes = [*([f"{len(odd)}"] if odd else []), *([f"{len(apart)} invalid on one side"] if apart else [])]
    return [
        str(len(common)),
        f"{max(errors['action']):.2g}",
        f"{np.median(errors['observation']):.2g}",
        f"{max(errors['observation']):.2g}",
        f"{outcomes['return_error']:.2g}",
        ", ".join(notes) or "none",
    ]


if __name__ == "__main__":
    main()
