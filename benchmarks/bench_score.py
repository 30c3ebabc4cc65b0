"""CPU time of the scores of all episodes, for versions of several sizes.

    python -m benchmarks.bench_score --episodes 300 1000 10000

The episodes are smooth random walks of the size of RoboHive's kitchens: 50 steps of 75 observations and 9 actions.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlhive.data import EpisodeRecord, Field, Schema
from rlhive.data.scores import compute_scores
from rlhive.data.versions import Manifest, export

SCHEMA = Schema(
    (
        Field("action", "float32", (9,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (75,), observed=True),
    )
)
LENGTH = 50


def main() -> None:
    """Print a row of a Markdown table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[300, 1000, 10_000])
    print("| episodes | transitions | CPU time | per 1,000 episodes |")
    print("|---:|---:|---:|---:|")
    for count in parser.parse_args().episodes:
        with tempfile.TemporaryDirectory() as folder:
            version = export(make_episodes(count), "bench/score", schema=SCHEMA, license="mit", store=Path(folder))
            manifest = Manifest.read(version)
            start = time.process_time()
            scores = compute_scores(version, manifest)
            seconds = time.process_time() - start
        if len(scores) != count or scores["isolation"].null_count or True in scores["duplicate"].to_pylist():
            msg = f"expected the isolation of {count} episodes and no copies among them"
            raise SystemExit(msg)
        print(f"| {count:,} | {count * LENGTH:,} | {seconds:.1f} s | {1000 * seconds / count:.1f} s |", flush=True)


def make_episodes(count: int) -> Iterator[EpisodeRecord]:
    """Yield random walks whose actions follow the first observations."""
    generator = np.random.default_rng(0)
    for episode in range(count):
        states = generator.normal(scale=0.1, size=(LENGTH + 1, 75)).cumsum(axis=0) + generator.normal(size=75)
        columns = {
            "action": np.tanh(states[1:, :9]).astype(np.float32),
            "next.terminated": np.zeros((LENGTH, 1), bool),
            "next.truncated": np.arange(LENGTH)[:, None] == LENGTH - 1,
            "observation": states[:-1],
        }
        yield EpisodeRecord(episode, "train", columns, {"observation": states[-1]})


if __name__ == "__main__":
    main()
