"""How the cost of each step grows: ``python -m benchmarks.scaling`` (``make bench-scaling``).

    python -m benchmarks.scaling --largest 1e4     # a quick look: 10,000 episodes, transitions and versions
    python -m benchmarks.scaling --parts episodes  # only one of the parts versions, episodes, transitions and ranks

Three series: versions in a store, episodes in a version, transitions in a memmap cache (a sparse file: its zeros take
no disk, and the page cache serves them like data). Every operation is checked by what it returns. A time is the least
CPU time of several calls, since other processes disturb it least; the results hold the wall time as well. The slope is
that of the line through the logarithms of sizes and times: 0 is constant, 1 is linear, and the slope between the two
largest sizes tells what constant costs hide.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.peers.environments import ROOT
from benchmarks.peers.rounds import RESULTS, machine, write_results
from benchmarks.report import replace_section
from rlhive import RoboHiveDataset, check
from rlhive.data import EpisodeRecord, Field, Schema
from rlhive.data.replay import (
    DataLoaderOptions,
    PackedCache,
    PackedStorage,
    ReadOptions,
    SamplingOptions,
    make_dataloader,
    make_replay_buffer,
    make_storage,
)
from rlhive.data.replay._layout import FORMAT_VERSION, build_blocks
from rlhive.data.versions import Manifest, diff, export, find_stored_version, list_all_versions, list_local_versions
from rlhive.dataset import delete

SCHEMA = Schema(
    (
        Field("action", "float32", (2,), observed=False),
        Field("next.reward", "float32", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float32", (8,), observed=True),
        Field("success", "bool", (1,), observed=True),
    )
)
PARTS = ("versions", "episodes", "transitions", "ranks")
LARGEST = {"versions": 100_000, "episodes": 1_000_000, "transitions": 100_000_000, "ranks": 10_000_000}
SMALLEST = {"versions": 100, "episodes": 100, "transitions": 100_000, "ranks": 10_000_000}
BATCH_SIZE = 256
#: Transitions of an episode of the series of episodes, and of that of transitions.
LENGTH, SPARSE_LENGTH = 10, 100
NUM_APPENDED = 100
#: Versions of a dataset in the store that is listed.
VERSIONS_PER_DATASET = 10
WORLD_SIZES = (2, 4, 8)
#: Calls of an operation, and seconds after which no further call begins.
MAX_CALLS, ENOUGH_S = 7, 2.0
#: Batches of a call, where the time of a batch is measured.
NUM_BATCHES = 1_000
#: Epochs of every number of ranks, which take turns.
NUM_ROUNDS = 5
#: Operations that may not grow; those that wait for memory may grow as a bare gather does, and others linearly.
CONSTANT = (
    "open by number",
    "open",
    "epoch start",
    "resume in an epoch",
)
FLOOR = "bare gather of 256"
MEMORY_BOUND = ("sample 256", "loop, a batch", FLOOR)
#: Slope between the two largest sizes above that of the goal by which a measurement may err.
TOLERANCE = 0.15

_Result = TypeVar("_Result")
Row = dict[str, Any]


def measure(
    operation: str, size: int, call: Callable[[], _Result], *, prepare: Callable[[], object] | None = None
) -> tuple[Row, _Result]:
    """Return the least CPU and wall time of several calls, and the last result.

    Args:
        operation: Name of the row.
        size: Size of the row.
        call: What is measured.
        prepare: Called before every call, outside of the time; nothing by default.
    """
    wall, cpu = [], []
    while len(wall) < MAX_CALLS and sum(wall) < ENOUGH_S:
        if prepare is not None:
            prepare()
        started, used = time.perf_counter(), time.process_time()
        result = call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"operation": operation, "size": size, "cpu_s": min(cpu), "wall_s": min(wall), "calls": len(wall)}, result


def measure_versions(folder: Path, size: int) -> list[Row]:
    """Return the rows of a store with some versions: in datasets of ten versions each, and in one dataset."""
    store, rows = folder / "store", []
    template = Manifest.read(export(make_episodes(range(3)), "bench/template", license="mit", store=folder / "one"))
    template.write(folder)
    text = (folder / "rlhive.json").read_text()
    for number in range(size):
        dataset = f"part{number // VERSIONS_PER_DATASET}"
        _write_manifest(store / "bench" / dataset / f"1.0.{number % VERSIONS_PER_DATASET}", text)
    row, listed = measure("list", size, lambda: list_all_versions(store=store))
    assert sum(map(len, listed.values())) == size
    rows.append(row)
    shutil.rmtree(store)
    for number in range(size):
        _write_manifest(store / "bench" / "many" / f"1.0.{number}", text)
    last = store / "bench" / "many" / f"1.0.{size - 1}"
    row, versions = measure("versions", size, lambda: list_local_versions("bench/many", store=store))
    assert (len(versions), next(reversed(versions.values()))) == (size, last)
    rows.append(row)
    row, found = measure("open the newest", size, lambda: find_stored_version("bench/many", store=store))
    assert found == last
    rows.append(row)
    row, found = measure("open by number", size, lambda: find_stored_version("bench/many", last.name, store=store))
    assert found == last
    rows.append(row)
    row, found = measure(
        "delete one",
        size,
        lambda: delete("bench/many", last.name, store=store),
        prepare=lambda: _write_manifest(last, text),
    )
    assert not found.exists()
    shutil.rmtree(store)
    return [*rows, row]


def _write_manifest(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rlhive.json").write_text(text)


def measure_episodes(folder: Path, size: int) -> list[Row]:
    """Return the rows of a version of some episodes of ten transitions."""
    store, rows = folder / "store", []

    def add(operation: str, call: Callable[[], _Result], **options: Any) -> _Result:
        row, result = measure(operation, size, call, **options)
        rows.append(row)
        return result

    def remove(name: str) -> Callable[[], None]:
        return lambda: shutil.rmtree(store / "bench" / name, ignore_errors=True)

    def write(name: str, numbers: range) -> RoboHiveDataset:
        path = export(make_episodes(numbers), f"bench/{name}", schema=SCHEMA, license="mit", store=store)
        return RoboHiveDataset(path, store=store)

    dataset = add("export", lambda: write("base", range(size)), prepare=remove("base"))
    assert len(dataset) == size * LENGTH
    add("first batch, cold", lambda: dataset.as_replay_buffer(BATCH_SIZE).sample(), prepare=remove("../.cache"))
    add("open", lambda: RoboHiveDataset("bench/base", store=store))
    add("first batch, warm", lambda: dataset.as_replay_buffer(BATCH_SIZE).sample())
    successful = add("where", lambda: dataset.where("success and return < 1e9"))
    assert successful.counts["train"]["num_episodes"] == size - size // 2
    view = add("view", lambda: dataset.select(range(0, size, 2)))
    assert view.counts["train"] == {"num_episodes": size - size // 2, "num_transitions": (size - size // 2) * LENGTH}
    batch = add("first batch of a view", lambda: view.as_replay_buffer(BATCH_SIZE).sample())
    assert not (batch["episode"] % 2).any()

    further = write("further", range(size, size + NUM_APPENDED))

    def undo_append() -> None:
        shutil.rmtree(store / "bench" / "base" / "2.0.0", ignore_errors=True)

    appended = add("append 100", lambda: dataset.append(further), prepare=undo_append)
    assert len(appended) == (size + NUM_APPENDED) * LENGTH
    difference = add("diff", lambda: diff(dataset.path, appended.path))
    assert (difference.num_same, len(difference.added)) == (size, NUM_APPENDED)
    report = add("check", lambda: check(dataset.path))
    assert report.ok, report
    merged = add("merge", lambda: dataset.merge(further, name="bench/merged", license="mit"), prepare=remove("merged"))
    assert len(merged) == (size + NUM_APPENDED) * LENGTH
    shutil.rmtree(store)
    return rows


def make_episodes(numbers: range) -> Iterator[EpisodeRecord]:
    """Yield random episodes of ten transitions; every second one is a success."""
    for start in range(numbers.start, numbers.stop, 1_000):
        block = range(start, min(start + 1_000, numbers.stop))
        generator = np.random.default_rng(start)
        observations = generator.standard_normal((len(block), LENGTH + 1, 8), dtype=np.float32)
        actions = generator.standard_normal((len(block), LENGTH, 2), dtype=np.float32)
        ends = np.arange(LENGTH)[:, None] == LENGTH - 1
        never = np.zeros((LENGTH, 1), np.bool_)
        for number, observation, action in zip(block, observations, actions, strict=True):
            columns = {
                "observation": observation[:-1],
                "action": action,
                "next.reward": observation[1:, :1],
                "next.terminated": never,
                "next.truncated": ends,
                "success": never,
            }
            final = {"observation": observation[-1], "success": np.array([number % 2 == 0])}
            yield EpisodeRecord(number, "train", columns, final, number)


def measure_transitions(folder: Path, size: int) -> list[Row]:
    """Return the rows of a sparse cache of some transitions in episodes of 100."""
    results: list[Row] = []

    def add(operation: str, call: Callable[[], _Result], *, per: int = 1) -> _Result:
        call()  # reads pages for the first time
        row, result = measure(operation, size, call)
        results.append(row | {clock: row[clock] / per for clock in ("cpu_s", "wall_s")})
        return result

    folder = make_sparse_cache(folder / "cache", size // SPARSE_LENGTH)
    add("open a cache", lambda: make_storage(PackedCache(folder), None, ReadOptions()))
    cache = PackedCache(folder)
    touch(cache)
    storage = make_storage(cache, None, ReadOptions())
    assert len(storage) == size
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=BATCH_SIZE, seed=0))
    batch = add("sample 256", lambda: [buffer.sample() for _ in range(NUM_BATCHES)][-1], per=NUM_BATCHES)
    assert batch["observation"].shape == (BATCH_SIZE, 8)
    batches = add("loop, a batch", lambda: sum(1 for _ in itertools.islice(buffer, NUM_BATCHES)), per=NUM_BATCHES)
    assert batches == NUM_BATCHES
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(cache.data[0]), (BATCH_SIZE,), generator=generator) for _ in range(NUM_BATCHES)]
    add("bare gather of 256", lambda: [cache.data[0][index] for index in rows], per=NUM_BATCHES)
    loader = make_dataloader(storage, DataLoaderOptions(batch_size=BATCH_SIZE, seed=0))
    batch = add("epoch start", lambda: _take_first(loader))
    assert batch["observation"].shape == (min(BATCH_SIZE, size), 8)
    state = loader.state_dict() | {"num_batches": len(loader) // 2}

    def resume() -> Any:
        resumed = make_dataloader(storage, DataLoaderOptions(batch_size=BATCH_SIZE))
        resumed.load_state_dict(state)
        return _take_first(resumed), resumed.state_dict()

    _, position = add("resume in an epoch", resume)
    assert position["num_batches"] == state["num_batches"] + 1
    shutil.rmtree(folder)
    return results


def touch(cache: PackedCache) -> None:
    """Read every page of a cache, so that the measurements do not count the first access to each."""
    cache.rows.sum()
    for block in cache.data:
        block[:, 0].sum()


def _take_first(loader: Any) -> Any:
    iterator = iter(loader)
    batch = next(iterator)
    iterator.close()
    return batch


def measure_ranks(folder: Path, size: int) -> list[Row]:
    """Return the time of a batch of 256 for one of several ranks, over a whole epoch, and its ratio to one process.

    The batch of all ranks has 256 transitions for each, so that a rank gathers as much per batch as one process does.
    """
    cache = PackedCache(make_sparse_cache(folder / "cache", size // SPARSE_LENGTH))
    touch(cache)
    storage = make_storage(cache, None, ReadOptions())
    worlds = (1, *WORLD_SIZES)
    times: dict[int, list[tuple[float, float]]] = {world: [] for world in worlds}
    for _ in range(NUM_ROUNDS):
        for world in worlds:
            times[world].append(_time_epoch(storage, world))
    rows = []
    for world in worlds:
        cpu, wall = (min(values) for values in zip(*times[world], strict=True))
        rows.append(
            {
                "operation": "epoch of a rank, a batch",
                "size": size,
                "world_size": world,
                "cpu_s": cpu,
                "wall_s": wall,
                "ratio": cpu / min(times[1])[0],
                "rounds": [used for used, _ in times[world]],
            }
        )
    shutil.rmtree(folder / "cache")
    return rows


def _time_epoch(storage: PackedStorage, world_size: int) -> tuple[float, float]:
    """Return CPU and wall time of a batch, over an epoch of the last rank."""
    options = DataLoaderOptions(
        batch_size=BATCH_SIZE * world_size, seed=0, rank=world_size - 1, world_size=world_size, drop_last=True
    )
    loader = make_dataloader(storage, options)
    started, used = time.perf_counter(), time.process_time()
    num_batches = sum(1 for _ in loader)
    cpu, wall = time.process_time() - used, time.perf_counter() - started
    assert num_batches == len(storage) // options.batch_size
    return cpu / num_batches, wall / num_batches


def make_sparse_cache(folder: Path, num_episodes: int) -> Path:
    """Write a memmap cache of episodes of 100 transitions whose records are zeros in a sparse file."""
    folder.mkdir(parents=True)
    num_transitions = num_episodes * SPARSE_LENGTH
    layout = {
        "format_version": FORMAT_VERSION,
        "schema": SCHEMA.to_json(),
        "splits": ["train"],
        "num_transitions": num_transitions,
        "num_episodes": num_episodes,
    }
    (folder / "layout.json").write_text(json.dumps(layout))
    [records] = build_blocks(SCHEMA)
    with (folder / "records.bin").open("wb") as file:
        file.truncate((num_transitions + num_episodes) * records.row_bytes)
    with (folder / "rows.bin").open("wb") as file:
        for start in range(0, num_episodes, 10_000):
            episodes = np.arange(start, min(start + 10_000, num_episodes))
            rows = episodes[:, None] * (SPARSE_LENGTH + 1) + np.arange(SPARSE_LENGTH)
            file.write(rows.astype(np.int64).tobytes())
    episodes = np.arange(num_episodes)
    table = [episodes, np.zeros_like(episodes), episodes * SPARSE_LENGTH, np.full_like(episodes, SPARSE_LENGTH)]
    (folder / "episodes.bin").write_bytes(np.stack(table, axis=1).astype(np.int64).tobytes())
    return folder


def fit_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms: b of ``seconds ≈ a * size ** b``."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Return the slopes of every operation of several sizes, with its times and whether it grows as it may."""
    summaries = []
    for operation in dict.fromkeys(row["operation"] for row in rows):
        part = [row for row in rows if row["operation"] == operation]
        if len(part) < 2:
            continue
        sizes, seconds = [row["size"] for row in part], [row["cpu_s"] for row in part]
        last = _find_last_slope(rows, operation)
        goal = float(operation not in CONSTANT)
        if operation in MEMORY_BOUND:
            goal = max(0.0, _find_last_slope(rows, FLOOR))
        summaries.append(
            {
                "operation": operation,
                "part": part[0]["part"],
                "sizes": sizes,
                "seconds": seconds,
                "slope": fit_slope(sizes, seconds),
                "last_slope": last,
                "goal": goal,
                "kept": last <= goal + TOLERANCE,
            }
        )
    return summaries


def _find_last_slope(rows: Sequence[Row], operation: str) -> float:
    """Return the slope of an operation between its two largest sizes."""
    sizes, seconds = zip(*[(row["size"], row["cpu_s"]) for row in rows if row["operation"] == operation], strict=True)
    return fit_slope(sizes[-2:], seconds[-2:])


def make_table(summaries: Sequence[Row], part: str) -> str:
    """Return the times and slopes of a part as a Markdown table."""
    chosen = [summary for summary in summaries if summary["part"] == part]
    sizes = sorted({size for summary in chosen for size in summary["sizes"]})
    head = [part, *(f"10^{round(math.log10(size))}" for size in sizes), "slope", "at the end", "may be"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for summary in chosen:
        times = dict(zip(summary["sizes"], summary["seconds"], strict=True))
        cells = [format_time(times[size]) if size in times else "" for size in sizes]
        slopes = [f"{summary[name]:.2f}" for name in ("slope", "last_slope")]
        mark = "" if summary["kept"] else " (missed)"
        lines.append([summary["operation"], *cells, *slopes, f"{summary['goal']:.2g}{mark}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_ranks_table(rows: Sequence[Row]) -> str:
    """Return the cost of ranks as a Markdown table."""
    lines = ["| ranks | CPU time of a batch | ratio to one process |", "|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['world_size']} | {format_time(row['cpu_s'])} | {row['ratio']:.3f} |")
    return "\n".join(lines)


def format_time(seconds: float) -> str:
    """Return a time with two or three digits."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def draw(summaries: Sequence[Row], path: Path) -> None:
    """Draw the times of every operation over the size, a panel for each part, with a line of slope 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    parts = list(dict.fromkeys(summary["part"] for summary in summaries))
    figure, axes = plt.subplots(1, len(parts), figsize=(6 * len(parts), 6), squeeze=False)
    for panel, part in zip(axes.flat, parts, strict=True):
        chosen = [summary for summary in summaries if summary["part"] == part]
        for summary, marker in zip(chosen, itertools.cycle("os^vDP*X"), strict=False):
            label = f"{summary['operation']} ({summary['last_slope']:.2f})"
            panel.plot(summary["sizes"], summary["seconds"], marker=marker, markersize=4, linewidth=1, label=label)
        sizes = np.array(sorted({size for summary in chosen for size in summary["sizes"]}), float)
        middle = np.exp(np.mean([np.log(summary["seconds"][-1]) for summary in chosen]))
        panel.plot(sizes, middle * sizes / sizes[-1], color="0.7", linestyle="--", label="slope 1")
        panel.set(xscale="log", yscale="log", xlabel=part, ylabel="CPU time in s")
        panel.legend(fontsize=7)
    figure.suptitle("How the cost grows; in brackets the slope between the two largest sizes")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def run(part: str, largest: float, folder: Path) -> list[Row]:
    """Return the rows of a part, smallest sizes first, and print them as they come."""
    functions = {"versions": measure_versions, "episodes": measure_episodes, "transitions": measure_transitions}
    function = functions.get(part, measure_ranks)
    rows, size = [], SMALLEST[part]
    while size <= min(LARGEST[part], max(largest, SMALLEST[part])):
        for row in function(folder / f"{size}", size):
            rows.append({"part": part} | row)
            print(f"{part} {size:>11,} {row['operation']:<24} {format_time(row['cpu_s'])}", flush=True)
        size *= 10
    return rows


def write_report() -> None:
    """Write the tables and the picture of the results into the documentation."""
    path, page = RESULTS / "scaling.json", ROOT / "docs" / "scale.md"
    content = json.loads(path.read_text()) if path.exists() else {}
    summaries: list[Row] = []
    for part, result in content.items():
        info = result["machine"]
        table = make_ranks_table(result["rows"]) if part == "ranks" else make_table(summarize(result["rows"]), part)
        cores = f"{info['cores']} cores of {info['cpu']}, load {info['load'][0]:.1f}"
        text = f"{info['date']}, commit {info['commit']}: {cores}."
        took = f", {result['seconds']} s" if result["seconds"] else ""
        replace_section(page, part, f"{text} `make bench-scaling PARTS={part}`{took}.\n\n{table}")
        if part != "ranks":
            summaries += summarize(result["rows"])
    if summaries:
        draw(summaries, ROOT / "docs" / "scaling.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the results and the documentation if all parts ran."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--largest", type=float, default=1e8, help="largest size; 1e8 measures every size")
    parser.add_argument("--folder", type=Path, help="folder of the data; a temporary one by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ.setdefault("TQDM_DISABLE", "1")
    for part in options.parts:
        started, info = time.monotonic(), machine()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows = run(part, options.largest, Path(folder))
        print(make_ranks_table(rows) if part == "ranks" else make_table(summarize(rows), part), flush=True)
        if options.largest >= LARGEST[part]:
            add_results(part, {"machine": info, "seconds": round(time.monotonic() - started), "rows": rows})
    write_report()


def add_results(part: str, result: Row) -> None:
    """Replace the results of a part."""
    path = RESULTS / "scaling.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    write_results("scaling", content | {part: result})


if __name__ == "__main__":
    main()
