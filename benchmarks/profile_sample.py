"""Where the time of one ``rb.sample()`` goes: ``python -m benchmarks.profile_sample``.

Prints the CPU time of every step on the way, outside to inside, for random batches of 256, slices and a loop over
the buffer: each step is called by itself with what it gets inside ``sample()``, many times in short runs, and the
fastest run counts, since others on the machine only ever add. Beside it stand TorchRL's own buffer and the packed floor
on the same episodes. Then what cProfile sees, which adds its own time to every Python call.
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
from rlhive.data.replay._buffer import DatasetReplayBuffer, _add_info

SIZE, LENGTH, BATCH = 100_000, 100, 256
RUNS, CALLS, DRAWS = 40, 100, 3_000


def steps_of(buffer: DatasetReplayBuffer, size: int = BATCH) -> dict[str, Callable[[], Any]]:
    """Return the steps of ``sample()``, each ready to be called by itself; indented ones are part of the one above."""
    storage = buffer.storage
    # As many draws as a run has calls, and more: the same rows again and again would lie in the processor's caches.
    drawn = [buffer._draw(size) for _ in range(DRAWS)]
    flats = [index[0] if isinstance(index, tuple) else index for index, _ in drawn]
    index_of, flat_of = itertools.cycle(index for index, _ in drawn), itertools.cycle(flats)
    row_of = itertools.cycle([storage._rows.take(flat) for flat in flats])
    gather = max(storage._plans, key=lambda gather: gather.item_bytes)
    copies = gather.gather(next(row_of), None, storage.device)
    flat, info = flats[0], drawn[0][1]
    leaves: dict[str, Any] = {}
    gather.fill([leaves], copies)
    below = leaves["next"]

    def tensordicts() -> TensorDict:
        made = TensorDict._new_unsafe(None, flat.shape)
        made._tensordict = leaves | {"next": TensorDict._new_unsafe(None, flat.shape)}
        made["next"]._tensordict = dict(below)
        return made

    batch = storage.get(drawn[0][0])
    return {
        "sample()": buffer.sample,
        "  the sampler draws": lambda: buffer._draw(size),
        "  storage.get": lambda: storage.get(next(index_of)),
        "    row of each transition": lambda: storage._rows.take(next(flat_of)),
        f"    copy {gather.item_bytes} bytes of each": lambda: gather._data.index_select(0, next(row_of)),
        "    cut the copy into leaves": lambda: gather.fill([{}], copies),
        "    two TensorDicts around them": tensordicts,
        "  index and flags go in": lambda: _add_info(batch, info),
    }


def steps_of_a_loop(buffer: DatasetReplayBuffer, size: int = BATCH) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return the steps of ``for batch in buffer``, each with the batches that a call of it is for."""
    storage, at_once = buffer.storage, _prefetch.num_batches_ahead(buffer.storage, size)
    chunks = [torch.cat([buffer._draw(size)[1]["index"] for _ in range(at_once)]) for _ in range(DRAWS // at_once)]
    chunk_of, row_of = itertools.cycle(chunks), itertools.cycle([storage._rows.take(chunk) for chunk in chunks])
    gather = max(storage._plans, key=lambda gather: gather.item_bytes)
    batches = iter(buffer)
    return {
        "a batch of the loop": (lambda: next(batches), 1),
        f"  its share of {at_once} gathered at once": (lambda: storage.get_many(next(chunk_of), size), at_once),
        "    its share of their copy": (lambda: gather._data.index_select(0, next(row_of)), at_once),
        "  the sampler draws": (lambda: buffer._draw(size), 1),
    }


def fastest(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return µs of CPU of a call of each; the steps take turns."""
    found = dict.fromkeys(steps, float("inf"))
    for _ in range(RUNS):
        for name, step in steps.items():
            began = time.process_time()
            for _ in range(CALLS):
                step()
            found[name] = min(found[name], (time.process_time() - began) / CALLS * 1e6)
    return found


def cprofile(buffer: DatasetReplayBuffer, lines: int = 12) -> str:
    """Return what cProfile says of a thousand calls, the costliest functions first."""
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
        made = source.make(Path(folder) / "source", num_transitions=int(options.size), length=LENGTH)
        peers = {}
        for room in (rlhive, torchrl, packed):
            home = Path(folder) / room.__name__.rpartition(".")[2]
            home.mkdir()
            peers[home.name] = room.Peer(made, home)
            peers[home.name].write()
        for title, workload, arguments in (
            (f"random batches of {BATCH}", "random_256", {}),
            (f"slices, {BATCH // 16} of 16", "slices_16x16", {"slice_len": 16}),
        ):
            buffer = peers["rlhive"]._buffer(batch_size=BATCH, **arguments)
            others = {"TorchRL's buffer": peers["torchrl"].open(workload, "cached").draw}
            if workload.startswith("random"):
                others["the packed floor"] = peers["packed"].open(workload, "").draw
            found = fastest(steps_of(buffer) | others)
            print(f"\n{title}, {int(options.size):,} transitions\n")
            for name, spent in found.items():
                share = "" if name in others else f"{spent / found['sample()']:7.0%}"
                print(f"  {name:<34} {spent:8.1f} µs {share}")
            print(f"\n{cprofile(buffer)}")
        steps = steps_of_a_loop(peers["rlhive"]._buffer(batch_size=BATCH))
        found = fastest({name: step for name, (step, _) in steps.items()})
        print(f"\nbatches of {BATCH} in a loop, {int(options.size):,} transitions\n")
        for name, (_, num_batches) in steps.items():
            print(f"  {name:<34} {found[name] / num_batches:8.1f} µs")


if __name__ == "__main__":
    main()
