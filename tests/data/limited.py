"""A dataset ten times larger than the memory that the process may allocate: exported, merged, checked, cached, drawn from.

    python -m tests.data.limited FOLDER HEADROOM_MB [TIMES]

The same is first done with a few episodes, so that every library is loaded and every thread has run. Then the kernel is
told that this process may hold what it holds now (VmData) and HEADROOM_MB more: RLIMIT_DATA counts private writable
memory and not mapped files, which are the disk's. Whatever allocates more gets a MemoryError. Prints one JSON line.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from rlhive.data.check import check
from rlhive.data.episodes import EpisodeRecord
from rlhive.data.export import export
from rlhive.data.manifest import verify
from rlhive.dataset import RoboHiveDataset

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
    """Export, merge with two more episodes, verify, check, cache and draw; return the sizes."""
    options = {"license": "mit", "store": store, "shard_bytes": 2**25}
    export(episodes(count), f"{name}/one", **options)
    export(episodes(2, seed=1), f"{name}/two", **options)
    one, two = (RoboHiveDataset(f"{name}/{part}", generate=False, store=store) for part in ("one", "two"))
    both = one.merge(two, name=f"{name}/both")
    verify(both.path, both.manifest.files)
    report = check(both.path, threads=2)
    buffer = both.as_replay_buffer(batch_size=256)
    drawn = sum(float(buffer.sample()["observation"].abs().sum()) > 0 for _ in range(50))
    return {"ok": report.ok, "episodes": both.manifest.num_episodes, "bytes": both.manifest.num_bytes, "drawn": drawn}


def main(folder, headroom, times):
    """Do it small, set the limit, do it large."""
    everything(folder / "small", "small", 4)
    limit = private_bytes() + headroom
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    count = int(headroom * times / EPISODE_BYTES)
    said = everything(folder / "large", "large", count)
    sizes = {"raw_mb": count * EPISODE_BYTES / 2**20, "headroom_mb": headroom / 2**20, "added": said["episodes"] - count}
    sys.stdout.write(json.dumps(sizes | said) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(float(sys.argv[2]) * 2**20), float(sys.argv[3]) if len(sys.argv) > 3 else 10)
