"""A dataset takes less than a tenth of its size in memory when it is exported, merged and verified."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from rlhive.data import shards

SCRIPT = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
from rlhive.data import shards
from rlhive.data.episodes import EpisodeRecord
from rlhive.data.export import export
from rlhive.data.manifest import verify
from rlhive.dataset import RoboHiveDataset

shards.ROW_GROUP_BYTES = 2**20
ROWS, WIDTH, COUNT = 1000, 40, 1900
options = {"license": "mit", "store": Path(sys.argv[1]), "shard_bytes": 2**25}
peaks = {}

def episodes(count, shift=0.0):
    for episode in range(count):
        observation = np.full((ROWS, WIDTH), episode + shift)
        flags = np.broadcast_to(False, (ROWS, 1))
        observation.flags.writeable = False
        columns = {"observation": observation, "next.terminated": flags, "next.truncated": flags}
        yield EpisodeRecord(episode, "ab"[episode % 2], columns, {"observation": observation[0]}, episode)

def megabytes(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024

def measured(name, work):
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = megabytes("VmRSS")
    result = work()
    peaks[name] = megabytes("VmHWM") - before
    return result

def all_of_it(count, name):
    one = measured("export", lambda: export(episodes(count), f"{name}/one", **options))
    two = export(episodes(2, 0.5), f"{name}/two", **options)
    datasets = [RoboHiveDataset(path, store=options["store"]) for path in (one, two)]
    merged = measured("merge", lambda: datasets[0].merge(datasets[1], name=f"{name}/both"))
    measured("verify", lambda: verify(merged.path, merged.manifest.files))
    return merged.manifest.num_episodes

all_of_it(3, "warm")
num_episodes = all_of_it(COUNT, "big")
print(json.dumps({"raw": ROWS * WIDTH * 8 * COUNT / 2**20, "peaks": peaks, "added": num_episodes - COUNT}))
"""


def test_a_dataset_ten_times_larger_than_the_memory_that_it_takes(tmp_path):
    quiet = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "524288", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=os.environ | quiet
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout)
    assert told["added"] == 2
    assert set(told["peaks"]) == {"export", "merge", "verify"}
    assert all(peak < told["raw"] / 10 for peak in told["peaks"].values()), told


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    shards.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")

    said = "malloc of size 1048576 failed"

    def full(*args, **kwargs):
        raise pa.ArrowMemoryError(said)

    monkeypatch.setattr(shards.pq, "ParquetFile", full)
    with pytest.raises(MemoryError, match=r"x\.parquet: malloc"):
        shards.read_table(tmp_path / "x.parquet")
