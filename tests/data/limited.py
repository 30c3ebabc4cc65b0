"""A dataset ten times larger than the memory that a process may allocate: exported, merged, verified, checked, packed.

    python -m tests.data.limited FOLDER HEADROOM_MB [--times 10] [--group-bytes N]

The same is first done with four episodes, so that every library is loaded and every pool of threads has run. Then the
kernel is told that this process may hold what it holds now and HEADROOM_MB more; whoever asks for more gets a
MemoryError. Prints one JSON line. With row groups as large as a split, which are held in memory, it must fail.

The limit is RLIMIT_DATA, which counts private writable memory (VmData): what a process really takes for itself.
RLIMIT_AS would count address space instead, of which torch and the mapped libraries reserve gigabytes that are never
touched, and mapped files, which are the disk's memory and can be dropped at any time; set above those it would bound
nothing. A cgroup needs rights that a test does not have, and counts the page cache.
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
    """Yield random walks: hardly anything is the same twice, so that nothing is small after compression."""
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


def everything(store, name, count):
    """Export, merge with two more episodes, verify, check and pack; return what came of it."""
    options = {"license": "mit", "store": store}
    export(episodes(count), f"{name}/one", **options)
    export(episodes(2, seed=1), f"{name}/two", **options)
    one, two = (RoboHiveDataset(f"{name}/{part}", generate=False, store=store) for part in ("one", "two"))
    both = one.merge(two, name=f"{name}/both")
    verify_files(both.path, both.manifest.files)
    report = run_checks(both.path, threads=2)
    return {"ok": report.ok, "episodes": both.manifest.num_episodes, "packed_bytes": pack(both, store)}


def pack(dataset, store):
    """Make the memmap cache; return the bytes of its files.

    Opening it maps them as private memory, copied where it is written to. That takes none, but RLIMIT_DATA counts it:
    so the cache is made within the limit, and opened without it.
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
    """Do it small, set the limit, do it large."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("headroom_mb", type=float)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--group-bytes", type=int, default=_parquet.ROW_GROUP_BYTES)
    given = parser.parse_args()
    threading.stack_size(2**20)  # RLIMIT_DATA counts the 8 MB that a thread would reserve for its stack
    _parquet.ROW_GROUP_BYTES, _parquet.ROW_GROUP_ROWS = (
        given.group_bytes,
        max(_parquet.ROW_GROUP_ROWS, given.group_bytes),
    )
    everything(given.folder / "small", "small", 4)
    headroom = int(given.headroom_mb * 2**20)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + headroom, hard))
    count = int(headroom * given.times / EPISODE_BYTES) + 1
    said = everything(given.folder / "large", "large", count)
    sizes = {"raw_bytes": count * EPISODE_BYTES, "headroom_bytes": headroom, "added": said.pop("episodes") - count}
    sys.stdout.write(json.dumps(sizes | said) + "\n")


if __name__ == "__main__":
    main()
