"""Export, merge, verify, check and pack a dataset ten times larger than the memory limit; see limited.py."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from rlhive.data import _parquet

HEADROOM_MB = 32


def run_limited(folder, *, group_bytes):
    """Run limited.py with HEADROOM_MB.

    One arena, since glibc makes more of them on more cores; and one I/O thread, since Arrow starts further ones when it
    is busy, and RLIMIT_DATA counts the 8 MB that each reserves for its stack.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "tests.data.limited", folder, str(HEADROOM_MB), "--group-bytes", str(group_bytes)],
        capture_output=True,
        text=True,
        env=os.environ
        | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    return ran.returncode, ran.stdout, ran.stderr[-3000:]


@pytest.mark.slow
def test_a_dataset_ten_times_larger_than_the_memory_limit_is_processed(tmp_path):
    status, output, errors = run_limited(tmp_path, group_bytes=2**20)

    assert status == 0, errors
    result = json.loads(output)
    assert (result["ok"], result["added"], result["headroom_bytes"]) == (True, 2, HEADROOM_MB * 2**20)
    assert result["raw_bytes"] >= 10 * result["headroom_bytes"]
    assert result["packed_bytes"] > result["raw_bytes"]


@pytest.mark.slow
def test_row_groups_as_large_as_a_split_exceed_the_limit(tmp_path):
    status, _, errors = run_limited(tmp_path, group_bytes=2**31)

    assert status == 1
    assert "MemoryError" in errors


def test_a_failed_allocation_is_not_reported_as_damage(tmp_path, monkeypatch):
    _parquet.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")

    message = "malloc of size 1048576 failed"

    def fail_to_allocate(*args, **kwargs):
        raise pa.ArrowMemoryError(message)

    monkeypatch.setattr(_parquet.pq, "ParquetFile", fail_to_allocate)
    with pytest.raises(MemoryError, match=r"x\.parquet: malloc"):
        _parquet.read_table(tmp_path / "x.parquet")
