"""Speed of a check, and of its parts. Run: python benchmarks/bench_check.py [episodes].

Raw data are the bytes of the rows as NumPy arrays. CPU time and wall time are printed for each part.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.checks._check import _make_sketcher, run_checks
from rlhive.data.checks._scan import Extremes
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest, verify_files

LENGTH = 100
SCHEMA = Schema(
    (
        Field("action", "float32", (9,), observed=False),
        Field("next.reward", "float64", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (75,), observed=True),
    )
)


def make_episodes(count):
    """Yield random walks. They compress badly, so decoding takes long."""
    generator = np.random.default_rng(0)
    for episode_id in range(count):
        states = generator.normal(size=(LENGTH + 1, 75)).cumsum(0)
        columns = {
            "action": generator.uniform(-1, 1, (LENGTH, 9)).astype(np.float32),
            "next.reward": states[1:, :1].copy(),
            "next.terminated": np.zeros((LENGTH, 1), bool),
            "next.truncated": np.arange(1, LENGTH + 1)[:, None] == LENGTH,
            "observation": states[:-1],
        }
        yield EpisodeRecord(episode_id, "train", columns, {"observation": states[-1]}, episode_id)


def measure(name, raw_bytes, function):
    """Run a function three times, print the best times, and return its result."""
    best = (1e9, 1e9)
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = best
    print(f"{name:<24} {cpu:7.3f} s CPU  {wall:7.3f} s wall  {raw_bytes / 1e9 / cpu:6.2f} GB/s of raw data per core")
    return result


def main():
    """Export a version; time a check of it and the parts of that check."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as store:
        options = {"version": "1.0.0", "schema": SCHEMA, "license": "mit", "shard_bytes": 64 * 2**20}
        folder = export(make_episodes(count), "bench/check", store=Path(store), **options)
        manifest = Manifest.read(folder)
        raw_bytes = count * LENGTH * sum(field.width * np.dtype(field.dtype).itemsize for field in SCHEMA.fields)
        print(f"{count} episodes, {raw_bytes / 1e6:.0f} MB raw, {manifest.num_bytes / 1e6:.0f} MB on disk")
        assert measure("check", raw_bytes, lambda: run_checks(folder)).ok
        paths = [folder / entry.path for entry in manifest.shards()]
        measure("SHA-256 of files", raw_bytes, lambda: verify_files(folder, manifest.files))
        tables = measure("decode Parquet", raw_bytes, lambda: [_parquet.read_table(path) for path in paths])
        columns = [_arrow.table_to_columns(table, SCHEMA) for table in tables]
        sketcher = _make_sketcher(manifest)
        measure("near-duplicate codes", raw_bytes, lambda: [sketcher.compute_codes(part) for part in columns])
        arrays = [array for part in columns for array in part.values()]
        measure("extremes", raw_bytes, lambda: [Extremes.from_rows(array) for array in arrays])
        records = list(make_episodes(count))
        measure("content hashes", raw_bytes, lambda: [record.content_hash() for record in records])


if __name__ == "__main__":
    main()
