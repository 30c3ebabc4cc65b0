"""A process that may hold a tenth of a dataset exports, merges, verifies, checks and packs it; see limited.py."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from rlhive.data import _parquet

HEADROOM_MB = 32


def limited(folder, *, group_bytes):
    """Run everything with HEADROOM_MB to take; glibc's arenas differ with the number of cores, so there is one."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.data.limited", folder, str(HEADROOM_MB), "--group-bytes", str(group_bytes)],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    return ran.returncode, ran.stdout, ran.stderr[-3000:]


def test_a_dataset_ten_times_larger_than_the_memory_that_a_process_may_take(tmp_path):
    status, said, wrong = limited(tmp_path, group_bytes=2**20)

    assert status == 0, wrong
    told = json.loads(said)
    assert (told["ok"], told["added"], told["headroom_bytes"]) == (True, 2, HEADROOM_MB * 2**20)
    assert told["raw_bytes"] >= 10 * told["headroom_bytes"]
    assert told["packed_bytes"] > told["raw_bytes"]


def test_what_holds_a_whole_split_does_not_stay_within_the_limit(tmp_path):
    status, _, wrong = limited(tmp_path, group_bytes=2**31)

    assert status == 1
    assert "MemoryError" in wrong


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    _parquet.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")

    said = "malloc of size 1048576 failed"

    def full(*args, **kwargs):
        raise pa.ArrowMemoryError(said)

    monkeypatch.setattr(_parquet.pq, "ParquetFile", full)
    with pytest.raises(MemoryError, match=r"x\.parquet: malloc"):
        _parquet.read_table(tmp_path / "x.parquet")
