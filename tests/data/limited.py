"""Export, merge, verify, check and pack a dataset that is ten times larger than the memory that the process may take.

    python -m tests.data.limited FOLDER HEADROOM_MB [--times 10] [--group-bytes N]

Everything first runs with four episodes, so that all libraries are loaded and all thread pools started. Then the memory
of the process is limited to its present size and HEADROOM_MB more; an allocation beyond that is a MemoryError. Prints
one JSON line. With row groups as large as a split, which are held in memory, the run must fail.

The limit is RLIMIT_DATA, which counts private writable memory (VmData). RLIMIT_AS counts address space: torch and the
mapped libraries reserve gigabytes that they never touch, and mapped files can be dropped at any time, so a limit above
these would bound nothing. A cgroup needs permissions that a test does not have, and counts the page cache.
"""

import argparse
import json
import resource
import sys
import threading
from pathlib import Path

import numpy as np

from rlhive.data import _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._store import memmap_dir
from rlhive.data.checks._check import run_checks
from rlhive.data.replay import open_packed
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import verify_files
from rlhive.dataset._dataset import RoboHiveDataset

LENGTH, OBSERVED, ACTED = 200, 75, 9
EPISODE_BYTES = LENGTH * (8 * OBSERVED + 4 * ACTED + 8 + 2)


def episodes(count, seed=0):
    """Yield random walks, which hardly compress."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        states = generator.normal(size=(LENGTH + 1, OBSERVED)).cumsum(0)
        columns = {
            "action": generator.uniform(-1, 1, (LENGTH, ACTED)).astype(np.float32),
            "next.reward": states[1:, :1].copy(),
            "next.terminated": np.zeros((LENGTH, 1), bool),
            "next.truncated": np.arange(1, LENGTH + 1)[:, None] == LENGTH,
            "observation": states[:-1],
        }
        yield EpisodeRecord(number, "ab"[number % 2], columns, {"observation": states[-1]}, number)


def private_bytes():
    """Return the private writable memory of this process, as RLIMIT_DATA counts it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


def run_all(store, name, count):
    """Export, merge with two more episodes, verify, check and pack; return the results."""
    options = {"license": "mit", "store": store}
    export(episodes(count), f"{name}/one", **options)
    export(episodes(2, seed=1), f"{name}/two", **options)
    one, two = (RoboHiveDataset(f"{name}/{part}", generate=False, store=store) for part in ("one", "two"))
    merged = one.merge(two, name=f"{name}/both")
    verify_files(merged.path, merged.manifest.files)
    report = run_checks(merged.path, threads=2)
    return {"ok": report.ok, "episodes": merged.manifest.num_episodes, "packed_bytes": pack(merged, store)}


def pack(dataset, store):
    """Make the memmap cache; return the bytes of its files.

    Opening the cache maps the files as private copy-on-write memory. RLIMIT_DATA counts that although it takes none, so
    the cache is made within the limit and opened without it.
    """
    target, limits = memmap_dir(dataset.fingerprint, store=store), resource.getrlimit(resource.RLIMIT_DATA)
    try:
        open_packed(dataset.path, dataset.manifest, store=store)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
    made = target.stat().st_ino
    resource.setrlimit(resource.RLIMIT_DATA, (limits[1], limits[1]))
    packed = open_packed(dataset.path, dataset.manifest, store=store)
    assert target.stat().st_ino == made, "the cache was not made within the limit"
    assert len(packed) == dataset.manifest.num_transitions
    resource.setrlimit(resource.RLIMIT_DATA, limits)
    return sum(path.stat().st_size for path in target.iterdir())


def main():
    """Run everything with few episodes, set the limit, and run it with many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("headroom_mb", type=float)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--group-bytes", type=int, default=_parquet.ROW_GROUP_BYTES)
    options = parser.parse_args()
    threading.stack_size(2**20)  # RLIMIT_DATA counts the 8 MB that a thread would reserve for its stack
    _parquet.ROW_GROUP_BYTES, _parquet.ROW_GROUP_ROWS = (
        options.group_bytes,
        max(_parquet.ROW_GROUP_ROWS, options.group_bytes),
    )
    run_all(options.folder / "small", "small", 4)
    headroom = int(options.headroom_mb * 2**20)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + headroom, hard))
    count = int(headroom * options.times / EPISODE_BYTES) + 1
    result = run_all(options.folder / "large", "large", count)
    sizes = {"raw_bytes": count * EPISODE_BYTES, "headroom_bytes": headroom, "added": result.pop("episodes") - count}
    sys.stdout.write(json.dumps(sizes | result) + "\n")


if __name__ == "__main__":
    main()
