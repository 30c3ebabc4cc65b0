"""Time to collect a dataset with one and with two workers of a Ray cluster whose two nodes are on this machine.

    python -m benchmarks.ray_scaling

Prints the time of whole collections, from the first episode to the version, and the ratio of their medians. All
versions must have the same fingerprint.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from rlhive.data.versions import Manifest
from rlhive.envs import Recipe, get_task
from rlhive.rollouts import collect


def main() -> None:
    """Start the cluster, collect in turn with one and with two workers, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="toy_point")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    task = replace(get_task(options.task), recipe=Recipe("1.0.0", {"expert": options.episodes}, "mit"))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    times: dict[int, list[float]] = {1: [], 2: []}
    fingerprints = set()
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(options.rounds + 1):  # the first one starts the workers
            for num_workers, seconds in times.items():
                started = time.monotonic()
                store = Path(folder, f"{attempt}-{num_workers}")
                version = collect(task, backend="ray", num_workers=num_workers, store=store, progress=False)
                fingerprints.add(Manifest.read(version).fingerprint)
                if attempt:
                    seconds.append(time.monotonic() - started)
    ray.shutdown()
    cluster.shutdown()
    if len(fingerprints) > 1:
        msg = f"{len(fingerprints)} different fingerprints"
        raise SystemExit(msg)
    for num_workers, seconds in times.items():
        print(f"{num_workers} workers: {', '.join(f'{value:.1f}' for value in seconds)} s")
    ratio = statistics.median(times[1]) / statistics.median(times[2])
    print(f"ratio of the medians {ratio:.2f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
