"""Time of batches of a dataset on one thread and on torch's default threads: ``python -m benchmarks.sampling_threads``.

    python -m benchmarks.sampling_threads kitchen_knob1           # quiet
    python -m benchmarks.sampling_threads kitchen_knob1 --busy    # every core busy with another process

Both numbers of threads take turns. Times are medians over the rounds, CPU time is that of all threads of the process,
and the ratio is the median of the rounds' ratios. The batches of both are compared.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.peers.rounds import busy_cores
from rlhive import RoboHiveDataset

#: Name of a row → batch size and options of ``as_replay_buffer``.
BATCHES: dict[str, tuple[int, dict[str, Any]]] = {
    "256": (256, {}),
    "4,096": (4096, {}),
    "256, slices of 16": (256, {"slice_len": 16}),
    "256, n_step=3": (256, {"n_step": 3}),
    "256, three stacked frames": (256, {"frame_stack": 3}),
    "4,096, normalize=True": (4096, {"normalize": True}),
}
ROUND_TRANSITIONS, ROUNDS = 16_384, 15


def measure(
    dataset: RoboHiveDataset, threads: Sequence[int], batch_size: int, options: dict[str, Any]
) -> list[list[tuple[float, float]]]:
    """Return wall and CPU time of a batch in µs, of every round for every number of threads, which take turns.

    Raises:
        AssertionError: The number of threads changes a batch.
    """
    buffers = {number: dataset.as_replay_buffer(batch_size, seed=0, **options) for number in threads}
    times: list[list[tuple[float, float]]] = [[] for _ in threads]
    count = ROUND_TRANSITIONS // batch_size
    for _ in range(ROUNDS):
        last = []
        for number, results in zip(threads, times, strict=True):
            torch.set_num_threads(number)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                batch = buffers[number].sample()
            results.append((1e6 * (time.perf_counter() - wall) / count, 1e6 * (time.process_time() - cpu) / count))
            last.append(batch)
        assert (last[0] == last[1]).all(), "the number of threads changes a batch"
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", nargs="?", default="kitchen_knob1")
    parser.add_argument("--busy", action="store_true", help="keep every core busy with another process")
    options = parser.parse_args(arguments)
    dataset, default = RoboHiveDataset(options.dataset), torch.get_num_threads()
    print(f"| batch of {dataset.name} | µs, 1 thread | CPU µs | µs, {default} threads | CPU µs | CPU ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    with busy_cores() if options.busy else nullcontext():
        for name, (batch_size, batch_options) in BATCHES.items():
            rounds = measure(dataset, (1, default), batch_size, batch_options)
            medians = [
                f"{statistics.median(values):,.0f}" for results in rounds for values in zip(*results, strict=True)
            ]
            ratio = statistics.median(many[1] / one[1] for one, many in zip(*rounds, strict=True))
            print(f"| {name} | {' | '.join(medians)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
