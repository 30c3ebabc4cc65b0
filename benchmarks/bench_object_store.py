"""Time to open a version in an S3 with latency and to have its first batch, compared with a folder; and a long listing.

    python -m benchmarks.bench_object_store --episodes 500 --latency 0.02

moto's server runs in a process of its own and waits before each answer. "cold" has an empty mirror, "warm" has fetched
the version before. Every time is the shortest of three. The batches and the fingerprint are compared with the folder's.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.bench_push import SCHEMA, episode
from rlhive import RoboHiveDataset
from rlhive.data.versions import export, list_local_versions
from tests.object_server import Bucket, ObjectServer, serving

NAME = "org/walk"
REPEATS = 3


def serve(connection: Connection, latency_s: float) -> None:
    """Serve until the other end sends something."""
    with serving() as server:
        server.latency_s = latency_s
        connection.send(server.url)
        connection.recv()


def shortest(function: Callable[[], Any], *, before: Callable[[], Any] = lambda: None) -> tuple[float, Any]:
    """Return the shortest time of a function in seconds, and its last result."""
    times = []
    for _ in range(REPEATS):
        before()
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return round(min(times), 3), result


def first_batch(store: Path | None) -> Any:
    """Open the version and draw a batch."""
    return RoboHiveDataset(NAME, store=store).as_replay_buffer(256, seed=0).sample()


def first_streamed_batch() -> Any:
    """Open the version for streaming and return the first batch in the order of the episodes."""
    return next(iter(RoboHiveDataset(NAME, streaming=True).iter_batches(256)))


def measure(num_episodes: int, bucket: Bucket, num_versions: int, folder: Path) -> dict[str, float]:
    """Return the seconds of each step; raise if the object store gives other values than the folder."""
    local, mirrors = folder / "local", folder / "stores"
    records = {"schema": SCHEMA, "license": "mit", "shard_bytes": 8 * 2**20}
    row: dict[str, float] = {}
    start = time.perf_counter()
    version = export(map(episode, range(num_episodes)), NAME, store=local, **records)
    row["commit_folder_s"] = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    export(map(episode, range(num_episodes)), NAME, **records)
    row["commit_s3_s"] = round(time.perf_counter() - start, 3)

    def forget(*stores: Path) -> Callable[[], None]:
        return lambda: [shutil.rmtree(path, ignore_errors=True) for path in stores]

    row["mb"] = round(sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) / 1e6, 1)
    row["folder_cold_s"], expected = shortest(lambda: first_batch(local), before=forget(local / ".cache"))
    row["folder_warm_s"], _ = shortest(lambda: first_batch(local))
    row["s3_cold_s"], batch = shortest(lambda: first_batch(None), before=forget(mirrors))
    row["s3_warm_s"], warm_batch = shortest(lambda: first_batch(None))
    row["s3_streamed_s"], streamed = shortest(first_streamed_batch, before=forget(mirrors))
    in_order = next(iter(RoboHiveDataset(version).iter_batches(256)))
    if not ((batch == expected).all() and (warm_batch == expected).all() and (streamed == in_order).all()):
        msg = "the object store gives other batches than the folder"
        raise AssertionError(msg)
    if RoboHiveDataset(NAME).fingerprint != RoboHiveDataset(version).fingerprint:
        msg = "the object store has another fingerprint than the folder"
        raise AssertionError(msg)
    for number in range(num_versions):
        bucket.put(f"org/long/1.0.{number}.json", b"{}")
    row[f"list_{num_versions}_versions_s"], versions = shortest(lambda: list_local_versions("org/long"))
    if len(versions) != num_versions:
        msg = f"expected {num_versions} versions, got {len(versions)}"
        raise AssertionError(msg)
    return row


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.latency))
    process.start()
    try:
        bucket = Bucket(ObjectServer(ours.recv()))
        with tempfile.TemporaryDirectory() as name:
            os.environ.update(bucket.environment(Path(name)))
            row = measure(options.episodes, bucket, options.versions, Path(name))
        sys.stdout.write(json.dumps({"episodes": options.episodes, "latency_s": options.latency, **row}) + "\n")
    finally:
        ours.send("stop")
        process.join()


if __name__ == "__main__":
    main()
