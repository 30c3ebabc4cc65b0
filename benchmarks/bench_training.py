"""CPU time of a gradient step of RLHive and its peers, with the same networks and batches, in one run.

    make bench-training
    python -m benchmarks.bench_training --rounds 3 --variants rlhive/iql corl/iql

Batches of 256 transitions with 75 observations and 9 actions, hidden layers 2x256 of every network, one thread. Each
library runs in a process of its own environment. Each round runs every variant once. Two figures are reported: the best
of the rounds, which other processes on the machine disturb least, and the median; ratios of the medians are computed
within each round. After the timing, the losses of IQL's first steps are compared between the libraries, from the same
weights and batches.

Writes benchmarks/results/training.json; ``python -m benchmarks.report`` makes the table from it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.client import PeerProcess
from benchmarks.peers.environments import TRAINERS
from benchmarks.peers.rounds import in_turn, machine, ratio, spread, write_results
from benchmarks.peers.source import make

#: Variants as library/algorithm:seeds, or library/workload/algorithm.
VARIANTS = [
    *("matmuls/bc", "rlhive/bc", "rlhive/bc:5", "d3rlpy/bc"),
    *("rlhive/iql", "rlhive/iql:5", "rlhive/iql_default", "torchrl/iql", "corl/iql", "d3rlpy/iql"),
    *("rlhive/td3_bc", "d3rlpy/td3_bc", "rlhive/rebrac", "d3rlpy/rebrac", "rlhive/sac", "d3rlpy/sac"),
    *("rlhive/step/bc", "rlhive/sampling/bc", "d3rlpy/step/bc"),
    *("rlhive/step/iql", "rlhive/sampling/iql", "d3rlpy/step/iql"),
]
#: Name → variant, variant that it is compared with, and the largest ratio of their CPU times.
GOALS = {
    "bc and its matrix products": ("rlhive/bc", "matmuls/bc", 1.6),
    "bc and d3rlpy's": ("rlhive/bc", "d3rlpy/bc", 0.35),
    "a whole step of bc and d3rlpy's": ("rlhive/step/bc", "d3rlpy/step/bc", 0.35),
    "iql and TorchRL's script": ("rlhive/iql", "torchrl/iql", 0.55),
    "iql and a CORL-style one": ("rlhive/iql", "corl/iql", 0.8),
    "bc, five seeds and one": ("rlhive/bc:5", "rlhive/bc", 4.5),
    "iql, five seeds and one": ("rlhive/iql:5", "rlhive/iql", 4.5),
    "sampling in a step of bc": ("rlhive/sampling/bc", "rlhive/step/bc", 0.1),
    "sampling in a step of iql": ("rlhive/sampling/iql", "rlhive/step/iql", 0.1),
}
NUM_COMPARED, TOLERANCE = 5, 1e-4
ENOUGH_S = 600


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its figures, write the result file of a complete run, and return its content."""
    options = _options(arguments)
    start = time.perf_counter()
    content: dict[str, Any] = {"machine": machine(), "versions": {}, "rounds": options.rounds, "rows": []}
    with tempfile.TemporaryDirectory(prefix="rlhive-bench-") as folder, ExitStack() as stack:
        source = make(Path(folder) / "source", num_transitions=options.transitions, length=100, kind="walk")
        libraries = dict.fromkeys(variant.partition("/")[0] for variant in options.variants)
        processes = {}
        for library in libraries:
            adapter = f"updates.{library}"
            if options.install:
                TRAINERS[adapter].install()
            process = PeerProcess(adapter, source.folder, Path(folder), timeout_s=300, threads=options.threads)
            processes[library] = stack.enter_context(process)
            content["versions"][library] = process.ask("versions")
        if any(variant.startswith(("rlhive/step", "rlhive/sampling")) for variant in options.variants):
            processes["rlhive"].ask("write")
        content["rows"] = _measure(options, processes)
        content["goals"] = _goals(content["rows"])
        content["values"] = _compare_values(processes)
    content["seconds"] = round(time.perf_counter() - start)
    content["machine"]["load_after"] = machine()["load"]
    if options.results:
        print(write_results(options.results, content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="; ".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="duration of a round of one variant")
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS, OpenMP and torch")
    parser.add_argument("--transitions", type=int, default=100_000, help="size of the dataset of the whole step")
    parser.add_argument("--results", help="name of the file in results; by default, only a complete run writes it")
    parser.add_argument("--no-install", dest="install", action="store_false", help="use the environments as they are")
    options = parser.parse_args(arguments)
    if options.results is None and set(options.variants) == set(VARIANTS):
        options.results = "training"
    return options


def _measure(options: argparse.Namespace, processes: dict[str, PeerProcess]) -> list[dict[str, Any]]:
    contenders = {variant: Contender(variant, processes) for variant in options.variants}
    seconds = in_turn(
        {name: (lambda one=one: one.measure(options.seconds)) for name, one in contenders.items()},
        options.rounds,
        enough_s=ENOUGH_S,
    )
    rows = []
    for name, one in contenders.items():
        row: dict[str, Any] = {"variant": name}
        if isinstance(seconds[name], str):
            row["unavailable"] = seconds[name]
        else:
            row |= {"cpu_ms": spread([1e3 * value for value in one.cpu_s]), "all_cpu_ms": [1e3 * v for v in one.cpu_s]}
        rows.append(row)
        print(_line(row), flush=True)
    return rows


class Contender:
    """A variant; the first measurement opens it."""

    def __init__(self, name: str, processes: dict[str, PeerProcess]):
        library, _, rest = name.partition("/")
        workload, _, variant = rest.rpartition("/")
        self._process, self._what = processes[library], {"workload": workload or "update", "variant": variant}
        self._is_open = False
        self.cpu_s: list[float] = []

    def measure(self, seconds: float) -> float:
        """Return the CPU seconds of a step; the first call warms up."""
        if not self._is_open:
            self._process.ask("open", **self._what)
            self._process.ask("run", **self._what, seconds=seconds)
            self._is_open = True
        reply = self._process.ask("run", **self._what, seconds=seconds)
        self.cpu_s.append(reply["cpu_seconds"] / reply["draws"])
        return self.cpu_s[-1]


def _goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_variant = {row["variant"]: row for row in rows if "cpu_ms" in row}
    goals = []
    for name, (variant, reference, limit) in GOALS.items():
        if variant not in by_variant or reference not in by_variant:
            continue
        ours, other = by_variant[variant], by_variant[reference]
        best = ours["cpu_ms"]["min"] / other["cpu_ms"]["min"]
        rounds = ratio(ours["all_cpu_ms"], other["all_cpu_ms"])
        goals.append({"name": name, "variant": variant, "reference": reference, "limit": limit})
        goals[-1] |= {"best": best, "rounds": rounds}
        verdict = "ok" if best <= limit else "MISSED"
        print(
            f"{name:<30} best {best:6.3f}  median {rounds['median']:6.3f}  at most {limit:5.2f}  {verdict}", flush=True
        )
    return goals


def _compare_values(processes: dict[str, PeerProcess]) -> dict[str, Any]:
    """Compare the losses of IQL's first gradient steps with RLHive's.

    Returns:
        Library → number of compared losses, and the largest relative difference.
    """
    if "rlhive" not in processes:
        return {}
    ours = processes["rlhive"].ask("call", method="losses", num_steps=NUM_COMPARED)
    result: dict[str, Any] = {"rlhive": ours}
    for library in ("torchrl", "corl", "d3rlpy"):
        if library not in processes:
            continue
        theirs = processes[library].ask("call", method="losses", num_steps=NUM_COMPARED)
        pairs = [(mine[name], value) for mine, step in zip(ours, theirs, strict=False) for name, value in step.items()]
        error = max(abs(mine - value) / max(abs(value), 1e-3) for mine, value in pairs)
        result[library] = {"compared": len(pairs), "largest_relative_error": error, "equal": error < TOLERANCE}
        print(f"losses of iql, {library}: {len(pairs)} compared, largest relative difference {error:.1e}", flush=True)
    return result


def _line(row: dict[str, Any]) -> str:
    if "unavailable" in row:
        return f"{row['variant']:<22} {row['unavailable']}"
    return f"{row['variant']:<22} best {row['cpu_ms']['min']:8.3f} ms  median {row['cpu_ms']['median']:8.3f} ms"


if __name__ == "__main__":
    main()
