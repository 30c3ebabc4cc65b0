"""Time of a batch of ten sources beside one source of the same transitions: ``python -m benchmarks.mixtures``.

    python -m benchmarks.mixtures                            # 100,000 transitions, batches of 256
    python -m benchmarks.mixtures --transitions 1000000 --batch 256 4096

The sources are random walks of the size of RoboHive's kitchens: 50 steps of 75 observations and 9 actions. All
contenders take turns; times are CPU times, medians over the rounds, and the ratios are medians of the rounds' ratios.
``ensemble`` is TorchRL's ``ReplayBufferEnsemble`` of the ten datasets' own buffers, which takes as many transitions
from each. Afterwards every transition of a batch is compared with the buffer of its own source.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.data import ReplayBufferEnsemble

from rlhive import RoboHiveDataset, mix
from rlhive.data import EpisodeRecord, Field, Schema
from rlhive.data.versions import export

SCHEMA = Schema(
    (
        Field("action", "float32", (9,), observed=False),
        Field("next.reward", "float32", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float32", (75,), observed=True),
    )
)
LENGTH, NUM_SOURCES, ROUNDS = 50, 10, 21
ONE, TEN, ENSEMBLE = "one source", "ten sources", "ensemble"


def make_episodes(numbers: range, seed: int) -> Iterator[EpisodeRecord]:
    """Yield random walks."""
    generator = np.random.default_rng(seed)
    for number in numbers:
        walk = generator.normal(size=(LENGTH + 1, 75)).cumsum(0).astype(np.float32)
        ends = np.zeros((LENGTH, 1), np.bool_)
        columns = {
            "observation": walk[:-1],
            "action": generator.normal(size=(LENGTH, 9)).astype(np.float32),
            "next.reward": generator.normal(size=(LENGTH, 1)).astype(np.float32),
            "next.terminated": ends,
            "next.truncated": np.arange(LENGTH)[:, None] == LENGTH - 1,
        }
        yield EpisodeRecord(number, "train", columns, {"observation": walk[-1]})


def make_datasets(store: Path, num_transitions: int) -> tuple[RoboHiveDataset, list[RoboHiveDataset]]:
    """Return one dataset of all transitions and ten of a tenth each."""
    count = num_transitions // LENGTH
    whole = export(make_episodes(range(count), 0), "bench/whole", schema=SCHEMA, license="mit", store=store)
    parts = [
        export(
            make_episodes(range(count // NUM_SOURCES), seed),
            f"bench/part{seed}",
            schema=SCHEMA,
            license="mit",
            store=store,
        )
        for seed in range(NUM_SOURCES)
    ]
    return RoboHiveDataset(whole, store=store), [RoboHiveDataset(part, store=store) for part in parts]


def measure(contenders: dict[str, Callable[[], Any]], num_calls: int) -> dict[str, list[float]]:
    """Return CPU µs of a call, of every round for every contender."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            start = time.process_time()
            for _ in range(num_calls):
                call()
            times[name].append(1e6 * (time.process_time() - start) / num_calls)
    return times


def compare_values(parts: Sequence[RoboHiveDataset], batch: Any) -> None:
    """Raise AssertionError unless every transition is that of its own source."""
    size = len(parts[0])
    for number, part in enumerate(parts):
        rows = batch[batch["source"] == number]
        expected = part.as_storage().get(rows["index"] - number * size)
        assert len(rows) in (len(batch) // len(parts), len(batch) // len(parts) + 1), "another share"
        assert all(torch.equal(rows.get(key), value) for key, value in expected.items(True, True)), "other values"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"| batch | {ONE}, µs | {TEN}, µs | ratio | {ENSEMBLE}, µs | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = make_datasets(Path(folder), options.transitions)
        for size in options.batch:
            one, ten = whole.as_replay_buffer(size, seed=0), mix(parts, size, temperature=0, seed=0)
            members = [part.as_replay_buffer(size // NUM_SOURCES, seed=0) for part in parts]
            ensemble = ReplayBufferEnsemble(
                *members, sample_from_all=True, batch_size=size // NUM_SOURCES * NUM_SOURCES
            )
            loops = {name: iter(buffer) for name, buffer in ((ONE, one), (TEN, ten))}
            calls: dict[str, dict[str, Callable[[], Any]]] = {
                f"{size:,}": {ONE: one.sample, TEN: ten.sample, ENSEMBLE: ensemble.sample},
                f"{size:,}, in a loop": {name: loop.__next__ for name, loop in loops.items()},
            }
            for name, contenders in calls.items():
                print(_format_row(name, measure(contenders, max(1, 20_000 // size))), flush=True)
            compare_values(parts, ten.sample())


def _format_row(name: str, times: dict[str, list[float]]) -> str:
    cells = [f"{statistics.median(times[ONE]):,.0f}"]
    for contender in (TEN, ENSEMBLE):
        if contender not in times:
            cells += ["-", "-"]
            continue
        ratio = statistics.median(many / one for many, one in zip(times[contender], times[ONE], strict=True))
        cells += [f"{statistics.median(times[contender]):,.0f}", f"{ratio:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
