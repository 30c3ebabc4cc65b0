"""Time and bytes until the first batch of a streamed version, and the speed of its epochs beside the files on disk.

    python -m benchmarks.streaming --episodes 500 2000 --latency 0.02 --megabytes-per-s 400

moto's S3 runs in a process of its own, waits before each answer and limits the speed of all answers together. The
first batch comes from an empty mirror: the manifest, the episode table, footers and the chunks of the shuffle pool are
fetched. Epochs are timed in turns with those of a folder, and the medians are compared. A first epoch begins with an
empty cache. After the timing, the batches are compared with the folder's.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.bench_push import LENGTH, SCHEMA, episode
from rlhive import RoboHiveDataset
from rlhive.data.hub import BatchStream
from rlhive.data.versions import export
from tests.object_server import Bucket, ObjectServer, serving

BATCH_SIZE = 256


def serve(connection: Connection, latency_s: float, bytes_per_s: float) -> None:
    """Serve, and answer each message with the bytes that were sent so far; stop at an empty one."""
    with serving() as server:
        connection.send(server.url)
        server.latency_s, server.bytes_per_s = latency_s, bytes_per_s
        while connection.recv():
            connection.send(sum(size for path, size in server.sent_bytes.items() if "/data/" in path))


def forget(folder: Path) -> None:
    """Remove the mirror."""
    shutil.rmtree(folder / "stores", ignore_errors=True)


class Measurement:
    """The timings of one version.

    Args:
        num_episodes: Number of its episodes.
        folder: Folder for everything.
        shuffle: Size of the pool in transitions.
        connection: Connection to the server's process.
    """

    def __init__(self, num_episodes: int, folder: Path, shuffle: int, connection: Connection):
        self._name, self._folder, self._shuffle = f"org/walk{num_episodes}", folder, shuffle
        self._connection = connection
        records = {"schema": SCHEMA, "license": "mit", "shard_bytes": 32 * 2**20}
        self._version = export(map(episode, range(num_episodes)), self._name, store=folder / "local", **records)
        export(map(episode, range(num_episodes)), self._name, **records)
        self.row: dict[str, Any] = {"transitions": num_episodes * LENGTH, "mb": self._megabytes()}

    def _megabytes(self) -> float:
        return round(sum(path.stat().st_size for path in self._version.glob("data/*")) / 1e6, 1)

    def open_local(self) -> BatchStream:
        """Return the stream of the folder."""
        return RoboHiveDataset(self._version).iter_batches(BATCH_SIZE, shuffle=self._shuffle, seed=0)

    def open_remote(self) -> BatchStream:
        """Return the stream of the object store."""
        dataset = RoboHiveDataset(self._name, streaming=True)
        return dataset.iter_batches(BATCH_SIZE, shuffle=self._shuffle, seed=0)

    def measure_first_batch(self, repeats: int) -> None:
        """Measure from the call that opens the dataset to its first batch; the shortest time counts."""
        times, sizes = [], []
        for _ in range(repeats):
            forget(self._folder)
            before, start = self._sent_bytes(), time.perf_counter()
            stream = self.open_remote()
            batch = next(stream)
            times.append(time.perf_counter() - start)
            sizes.append(self._sent_bytes() - before)
            del stream  # what it reads ahead ends
            require_equal([batch], [next(self.open_local())])
        self.row["first_batch_s"] = round(min(times), 2)
        self.row["first_batch_mb"] = round(statistics.median(sizes) / 1e6, 1)

    def measure_epochs(self, repeats: int) -> None:
        """Measure epochs of the folder, first epochs and second epochs in turns."""
        seconds: dict[str, list[tuple[float, float]]] = {"local": [], "first": [], "later": []}
        for _ in range(repeats):
            forget(self._folder)
            remote, local = self.open_remote(), self.open_local()
            for kind, stream in (("first", remote), ("local", local), ("later", remote), ("local", local)):
                seconds[kind].append(time_epoch(stream))
        medians = {kind: list(map(statistics.median, zip(*times, strict=True))) for kind, times in seconds.items()}
        (wall_s, cpu_s) = medians["local"]
        self.row["local_transitions_per_s"] = round(self.row["transitions"] / wall_s)
        for kind in ("first", "later"):
            self.row[f"{kind}_epoch_speed_of_local"] = round(wall_s / medians[kind][0], 2)
            self.row[f"{kind}_epoch_cpu_of_local"] = round(medians[kind][1] / cpu_s, 2)
        remote, local = self.open_remote(), self.open_local()
        for _ in range(2):
            require_equal(remote, local)

    def measure_resumption(self) -> None:
        """Measure from a state in the middle of the epoch to the batch that was due."""
        local = self.open_local()
        half = len(local) // 2
        expected = next(itertools.islice(local, half, None))
        state = self.open_local().state_dict() | {"stages": [[1, 1, half]]}
        stream, start = self.open_local(), time.perf_counter()
        stream.load_state_dict(state)
        batch = next(stream)
        self.row["resume_half_way_s"] = round(time.perf_counter() - start, 2)
        require_equal([batch], [expected])

    def _sent_bytes(self) -> int:
        self._connection.send("bytes")
        return self._connection.recv()


def time_epoch(stream: BatchStream) -> tuple[float, float]:
    """Return how long an epoch takes, and the CPU time of this process, in seconds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    num_transitions = sum(len(batch) for batch in stream)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if not num_transitions:
        msg = "the epoch is empty"
        raise AssertionError(msg)
    return seconds, cpu_seconds


def require_equal(left: Any, right: Any) -> None:
    """Raise unless two streams give the same batches."""
    if not all((one == other).all() for one, other in zip(left, right, strict=True)):
        msg = "the object store gives other batches than the folder"
        raise AssertionError(msg)


def main() -> None:
    """Measure and print one JSON line for each version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    parser.add_argument("--megabytes-per-s", type=float, default=400)
    parser.add_argument("--shuffle", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, options.latency, options.megabytes_per_s * 1e6)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments)
    process.start()
    try:
        bucket = Bucket(ObjectServer(ours.recv()))
        with tempfile.TemporaryDirectory() as name:
            os.environ.update(bucket.environment(Path(name)))
            for num_episodes in options.episodes:
                measurement = Measurement(num_episodes, Path(name), options.shuffle, ours)
                measurement.measure_first_batch(options.repeats)
                measurement.measure_epochs(options.repeats)
                measurement.measure_resumption()
                sys.stdout.write(json.dumps(measurement.row) + "\n")
                sys.stdout.flush()
    finally:
        ours.send("")
        process.join()


if __name__ == "__main__":
    main()
