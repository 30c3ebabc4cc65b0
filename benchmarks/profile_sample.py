"""CPU time of the parts of one ``rb.sample()``: ``python -m benchmarks.profile_sample``.

Prints the CPU time of every step of ``sample()``, from the outermost to the innermost, for random batches of 256, for
slices, and for a loop over the buffer. Each step is called alone, with the arguments that it gets inside ``sample()``,
in many short runs; the fastest run counts, because other processes on the machine can only slow it down. TorchRL's
buffer and the packed lower bound run on the same episodes for comparison. A cProfile listing follows; cProfile adds its
own time to every Python call.
"""

import argparse
import cProfile
import io
import itertools
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from benchmarks.peers import packed, rlhive, source, torchrl
from rlhive.data.replay import _prefetch
from rlhive.data.replay._buffer import DatasetReplayBuffer
from rlhive.data.replay._info import add_info
from rlhive.data.replay._items import take_elements
from rlhive.data.replay._leaves import Leaves

SIZE, LENGTH, BATCH = 100_000, 100, 256
RUNS, CALLS, DRAWS = 40, 100, 3_000


def steps_of(buffer: DatasetReplayBuffer, size: int = BATCH) -> dict[str, Callable[[], Any]]:
    """Return the steps of ``sample()`` as functions without arguments; an indented step is part of the one above it."""
    storage = buffer.storage
    # More draws than a run has calls: repeated rows would be in the processor's caches.
    draws = [buffer._draw(size) for _ in range(DRAWS)]
    flats = [index[0] if isinstance(index, tuple) else index for index, _ in draws]
    index_of, flat_of = itertools.cycle(index for index, _ in draws), itertools.cycle(flats)
    row_of = itertools.cycle([storage._rows.take(flat) for flat in flats])
    gather = max(storage._plans, key=lambda gather: gather.item_bytes)
    copies = gather.gather(next(row_of), None, storage.device)
    flat, info = flats[0], draws[0][1]
    leaves = Leaves()
    gather.fill([leaves], copies)
    next_leaves = leaves["next"]

    def tensordicts() -> TensorDict:
        batch = TensorDict._new_unsafe(None, flat.shape)
        batch._tensordict = leaves | {"next": TensorDict._new_unsafe(None, flat.shape)}
        batch["next"]._tensordict = dict(next_leaves)
        return batch

    batch = storage.get(draws[0][0])
    return {
        "sample()": buffer.sample,
        "  draw the indices": lambda: buffer._draw(size),
        "  storage.get": lambda: storage.get(next(index_of)),
        "    look up the rows": lambda: take_elements(storage._rows, next(flat_of)),
        f"    copy {gather.item_bytes} bytes per transition": lambda: gather._copy(next(row_of)),
        "    split the copy into leaves": lambda: gather.fill([Leaves()], copies),
        "    build two TensorDicts": tensordicts,
        "  add index and flags": lambda: add_info(batch, info),
    }


def steps_of_a_loop(buffer: DatasetReplayBuffer, size: int = BATCH) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return the steps of ``for batch in buffer``, each with the number of batches that one call serves."""
    storage, num_batches = buffer.storage, _prefetch.num_batches_ahead(buffer.storage, size)
    chunks = [
        torch.cat([buffer._draw(size)[1]["index"] for _ in range(num_batches)]) for _ in range(DRAWS // num_batches)
    ]
    chunk_of, row_of = itertools.cycle(chunks), itertools.cycle([storage._rows.take(chunk) for chunk in chunks])
    gather = max(storage._plans, key=lambda gather: gather.item_bytes)
    batches = iter(buffer)
    return {
        "one batch of the loop": (lambda: next(batches), 1),
        f"  its share of {num_batches} gathered at once": (lambda: storage.get_many(next(chunk_of), size), num_batches),
        "    its share of the copy": (lambda: gather._copy(next(row_of)), num_batches),
        "  draw the indices": (lambda: buffer._draw(size), 1),
    }


def fastest(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the µs of CPU time per call of each step; every run calls all steps."""
    fastest_us = dict.fromkeys(steps, float("inf"))
    for _ in range(RUNS):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(CALLS):
                step()
            fastest_us[name] = min(fastest_us[name], (time.process_time() - start) / CALLS * 1e6)
    return fastest_us


def cprofile(buffer: DatasetReplayBuffer, lines: int = 12) -> str:
    """Return the cProfile listing of a thousand calls, the costliest functions first."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(1_000):
        buffer.sample()
    profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return text.getvalue().strip()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=SIZE, help="transitions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        episodes = source.make(Path(folder) / "source", num_transitions=int(options.size), length=LENGTH)
        peers = {}
        for adapter in (rlhive, torchrl, packed):
            peer_folder = Path(folder) / adapter.__name__.rpartition(".")[2]
            peer_folder.mkdir()
            peers[peer_folder.name] = adapter.Peer(episodes, peer_folder)
            peers[peer_folder.name].write()
        for title, workload, arguments in (
            (f"random batches of {BATCH}", "random_256", {}),
            (f"slices, {BATCH // 16} of 16", "slices_16x16", {"slice_len": 16}),
        ):
            buffer = peers["rlhive"]._buffer(batch_size=BATCH, **arguments)
            others = {"TorchRL's buffer": peers["torchrl"].open(workload, "cached").draw}
            if workload.startswith("random"):
                others["packed floor"] = peers["packed"].open(workload, "").draw
            us_by_step = fastest(steps_of(buffer) | others)
            print(f"\n{title}, {int(options.size):,} transitions\n")
            for name, us in us_by_step.items():
                share = "" if name in others else f"{us / us_by_step['sample()']:7.0%}"
                print(f"  {name:<34} {us:8.1f} µs {share}")
            print(f"\n{cprofile(buffer)}")
        steps = steps_of_a_loop(peers["rlhive"]._buffer(batch_size=BATCH))
        us_by_step = fastest({name: step for name, (step, _) in steps.items()})
        print(f"\nbatches of {BATCH} in a loop, {int(options.size):,} transitions\n")
        for name, (_, num_batches) in steps.items():
            print(f"  {name:<34} {us_by_step[name] / num_batches:8.1f} µs")


if __name__ == "__main__":
    main()
