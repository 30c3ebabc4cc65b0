"""Time of `diff` on two versions of 10,000 episodes: python -m benchmarks.bench_diff [--json]."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

EPISODES = 10_000
REPEATS = 5


def make(folder: Path) -> tuple[Path, Path]:
    """Write two versions with the column widths of a kitchen dataset: 75 observations and 2.4 KB of simulator state."""
    from rlhive.data._episodes import EpisodeRecord
    from rlhive.data.versions._export import export

    generator = np.random.default_rng(0)

    def episodes():
        for episode in range(EPISODES):
            flags = np.zeros((2, 1), bool)
            columns = {
                "observation": generator.normal(size=(2, 75)),
                "action": generator.normal(size=(2, 9)).astype(np.float32),
                "next.reward": generator.normal(size=(2, 1)),
                "next.terminated": flags,
                "next.truncated": ~flags,
            }
            final = {"observation": generator.normal(size=75)}
            yield EpisodeRecord(episode, "train", columns, final, episode, {"qpos": generator.normal(size=300)})

    first = list(episodes())
    second = [replace(record, episode=record.episode + (record.episode > 5_000)) for record in first if record.episode]
    options = {"license": "mit", "store": folder}
    return export(first, "bench/one", **options), export(second, "bench/two", **options)


def main() -> None:
    """Time the function `diff` in this process and the command `rlhive diff` in a new one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    from rlhive.data.versions._diff import diff

    with tempfile.TemporaryDirectory() as folder:
        one, two = make(Path(folder))
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            difference = diff(one, two)
            times.append(time.perf_counter() - start)
        assert difference.dropped == [0]
        assert len(difference.renumbered) == EPISODES - 5_001
        assert difference.num_same == 5_000
        command = [sys.executable, "-m", "rlhive.cli", "diff", str(one), str(two), "--json"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        command_s = time.perf_counter() - start
    rows = {"episodes": EPISODES, "diff_s": min(times), "diff_max_s": max(times), "command_s": command_s}
    text = ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in rows.items()
    )
    print(json.dumps(rows) if as_json else text)


if __name__ == "__main__":
    main()
