"""Sampling speed of RLHive and its peers, in transitions per second, on the same episodes, in one run.

    make bench-sampling                                              # everything at 1e5 and 1e6 transitions
    make bench-sampling PEERS="torchrl minari" SIZE=1e5 WORKLOADS=random_256
    make bench-sampling PEERS=torchrl SIZE=1e5 THREADS=default LOAD=busy   # torch's own threads, every core busy
    python -m benchmarks.bench_sampling --help

Each peer stores the same episodes in its own format and serves them from its own process. For each workload, each round
runs every peer once. A figure is the median over the rounds; a ratio is computed within each round, and its median is
reported. After the timing, some batches of each peer are compared with the source: bit for bit, or within a tolerance
for pictures, which pass a codec, and for rewards that are sums. A peer that serves other values is reported as failed,
with these values.

Writes benchmarks/results/sampling-SIZE.json; ``python -m benchmarks.report`` makes the tables and the chart from them.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.peers.client import NotOfferedError, PeerFailedError, PeerProcess
from benchmarks.peers.environments import PEERS
from benchmarks.peers.rounds import busy_cores, in_turn, machine, ratio, spread, write_results
from benchmarks.peers.source import make
from benchmarks.peers.worker import WORKLOADS

#: Contenders of each workload, as peer:variant. RLHive without a variant comes first: it is the denominator of ratios.
RANDOM = [
    "rlhive",
    "packed",
    "numpy",
    "torchrl",
    "cpprb",
    "cpprb:torch",
    "d3rlpy",
    "minari",
    "minari_arrow",
    "datasets",
]
LOADERS = ["lerobot:0", "lerobot:2"]
CONTENDERS = {
    "random_256": [*RANDOM, "rlhive:prefetch", "torchrl:prefetch", *LOADERS],
    "random_4096": [*RANDOM, "rlhive:prefetch", "torchrl:prefetch"],
    "iterate_256": [
        *("rlhive", "rlhive:prefetch", "rlhive:dataloader", "torchrl", "torchrl:prefetch"),
        *("minari", "minari_arrow", "datasets", *LOADERS),
    ],
    "slices_16x16": ["rlhive", "torchrl", "torchrl:cached", "d3rlpy", "minari", "minari_arrow", *LOADERS],
    "slices_4x64": ["rlhive", "torchrl", "torchrl:cached", "d3rlpy", "minari", "minari_arrow", *LOADERS],
    "nstep_3": ["rlhive", "torchrl", "torchrl:cached", "cpprb:torch", "d3rlpy"],
    "prioritized": ["rlhive", "torchrl", "cpprb:torch"],
    "stack_3": ["rlhive", "torchrl", "torchrl:cached", "d3rlpy", *LOADERS],
    "images_64": ["rlhive:raw", "rlhive:encoded", *LOADERS, "lerobot_images:0", "lerobot_images:2"],
    "open_warm": ["rlhive", "torchrl", "cpprb", "d3rlpy", "minari", "minari_arrow", "datasets", "lerobot"],
    "open_cold": ["rlhive", "rlhive:pyarrow", "datasets"],
}
PICTURES, PICTURE_SIDE = 2_000, 128
OUR_PATIENCE_S = 3_600
ENOUGH_S = 15  # a contender takes part in no further round after this time
STORE = {"rlhive": {"frames": 10_000}}  # options of write(), whose time is not measured here
MEMORY_SHARE = 0.7  # share of the machine's memory that all peers may use, mapped pages of files included
MEMORY = "memory"  # not a workload of a peer: a new process that runs random_256


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark, write the result files, and return their contents, one per set of episodes."""
    options = _options(arguments)
    for peer in options.peers if options.install else ():
        PEERS[peer].install()
    contents: list[dict[str, Any]] = []
    load = busy_cores() if options.load == "busy" else nullcontext()
    with load, tempfile.TemporaryDirectory(prefix="rlhive-bench-") as temporary:
        for kind, size in _sources(options):
            work = options.work or Path(temporary)
            is_stored = (work / f"stores-{kind}-{size}").exists()  # by an earlier run with the same --work
            if not is_stored and (lack := _lacking_disk(work, contents, size)):
                print(f"left out: {size:,} transitions, {lack}", flush=True)
                continue
            start = time.perf_counter()
            content = {"kind": kind, "size": size, "machine": machine(), "options": _plain(options)}
            content |= {"versions": {}, "stores": [], "rows": []}
            _one_source(options, work, content, contents)
            if options.work is None:
                shutil.rmtree(work / f"stores-{kind}-{size}", ignore_errors=True)
            contents.append(content)
            content["seconds"] = round(time.perf_counter() - start)
            content["machine"]["load_after"] = machine()["load"]
            if options.results:
                print(write_results(f"{options.results}-{'pixels' if kind == 'pixels' else size}", content))
    return contents


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--workloads", nargs="+", default=[*WORKLOADS, MEMORY], choices=[*WORKLOADS, MEMORY])
    parser.add_argument(
        "--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7], help="transitions; 1e7 needs 40 GB of disk"
    )
    parser.add_argument("--length", type=int, default=100, help="transitions of an episode")
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, help=f"number of transitions with a {PICTURE_SIDE}² picture"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of a round of one contender")
    parser.add_argument("--patience", type=float, default=300, help="time limit of storing the episodes, in seconds")
    parser.add_argument(
        "--threads",
        type=lambda text: None if text == "default" else int(text),
        default=1,
        help="threads of BLAS, OpenMP and torch in each peer, or default",
    )
    parser.add_argument(
        "--load", choices=["quiet", "busy"], default="quiet", help='"busy" keeps every core busy with another process'
    )
    parser.add_argument(
        "--work", type=Path, help="folder of the stored episodes, which the next run reuses; temporary by default"
    )
    parser.add_argument(
        "--results", help="name of the files in benchmarks/results; by default, only a complete run writes them"
    )
    parser.add_argument("--no-install", dest="install", action="store_false", help="skip peers that are not installed")
    options = parser.parse_args(arguments)
    is_complete = set(options.peers) == set(PEERS) and set(options.workloads) == {*WORKLOADS, MEMORY}
    if options.results is None and is_complete and options.threads == 1 and options.load == "quiet":
        options.results = "sampling"
    if "rlhive" not in options.peers:
        options.peers.insert(0, "rlhive")  # the denominator of every ratio
    return options


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("work", "results", "install")}


def _sources(options: argparse.Namespace) -> list[tuple[str, int]]:
    has_plain_workload = any(workload != "images_64" for workload in options.workloads)
    return [("walk", int(size)) for size in options.sizes if has_plain_workload] + (
        [("pixels", options.pictures)] if "images_64" in options.workloads else []
    )


def _one_source(
    options: argparse.Namespace, work: Path, content: dict[str, Any], smaller: list[dict[str, Any]]
) -> None:
    kind, size, rows = content["kind"], content["size"], content["rows"]
    folder = work / f"source-{kind}-{size}"
    source = make(folder, num_transitions=size, length=options.length, kind=kind, side=PICTURE_SIDE)
    workloads = [
        name for name in options.workloads if name in CONTENDERS and (name == "images_64") == (kind == "pixels")
    ]
    participants = {name.partition(":")[0] for workload in workloads for name in CONTENDERS[workload]}
    folder = work / f"stores-{kind}-{size}"
    with ExitStack() as stack:
        processes: dict[str, PeerProcess] = {}
        memory = 0.0
        for peer in options.peers:
            if peer not in participants:
                continue
            row = {"peer": peer, "raw_bytes": source.raw_bytes}
            content["stores"].append(row)
            try:
                _refuse_if_too_slow(peer, content, smaller, options.patience)
                memory += _refuse_if_too_big(peer, content, smaller, memory)
                process = stack.enter_context(_start(peer, source.folder, folder, options))
                content["versions"][peer] = process.ask("versions")
                row |= _store(peer, process, folder / f"{peer}.json")
                processes[peer] = process
            except (NotOfferedError, PeerFailedError) as reason:
                row["unavailable"] = str(reason)
            print(_store_line(row), flush=True)
        for peer in reversed(processes):  # RLHive last: the page cache keeps the files that were read last
            _read_once(folder / peer)
        for workload in workloads:
            for row in _one_workload(workload, size, processes, options):
                rows.append(row)
                print(_line(row), flush=True)
    for row in (
        _memory(processes, source.folder, folder, options) if kind != "pixels" and MEMORY in options.workloads else ()
    ):
        rows.append(row)
        print(_line(row), flush=True)


def _read_once(folder: Path) -> None:
    """Read a peer's files once, so that the page cache holds them where memory suffices."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(2**24):
                pass


def _store(peer: str, process: PeerProcess, reply_path: Path) -> dict[str, Any]:
    """Let a peer store the episodes, unless an earlier run with the same ``--work`` did; RLHive always stores them."""
    if peer == "rlhive" or not reply_path.exists():
        reply_path.write_text(json.dumps(process.ask("write", **STORE.get(peer, {}))), encoding="utf-8")
    return json.loads(reply_path.read_text(encoding="utf-8"))


def _start(peer: str, source: Path, folder: Path, options: argparse.Namespace) -> PeerProcess:
    patience = OUR_PATIENCE_S if peer == "rlhive" else options.patience
    return PeerProcess(peer, source, folder, timeout_s=patience, threads=options.threads)


def _refuse_if_too_slow(peer: str, content: dict[str, Any], smaller: list[dict[str, Any]], patience: float) -> None:
    """Extrapolate the storing time from a smaller set; RLHive always takes part, since ratios refer to it."""
    for other in smaller if peer != "rlhive" else ():
        for row in other["stores"]:
            if row["peer"] != peer or other["kind"] != content["kind"] or other["size"] >= content["size"]:
                continue
            if "seconds" not in row:
                msg = f"left out, as with {other['size']:,} transitions: {row['unavailable']}"
                raise NotOfferedError(msg)
            if row["seconds"] * content["size"] / other["size"] > patience:
                msg = f"left out: storing {other['size']:,} transitions took {row['seconds']:.0f} s"
                raise NotOfferedError(msg)


def _refuse_if_too_big(peer: str, content: dict[str, Any], smaller: list[dict[str, Any]], used: float) -> float:
    """Extrapolate the memory from a smaller set; all peers hold their memory at the same time."""
    for other in reversed(smaller):
        for row in other["rows"]:
            if row["peer"] != peer or row["workload"] != MEMORY or "after" not in row or other["kind"] == "pixels":
                continue
            growth = sum(row["after"][name] - row["before"][name] for name in ("anonymous", "mapped"))
            needed = max(0.0, growth * content["size"] / other["size"])
            available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE
            if used + needed > available:
                msg = f"left out: it would take {needed / 1e9:.0f} GB of memory beside the {used / 1e9:.0f} of others"
                raise NotOfferedError(msg)
            return needed
    return 0.0


def _lacking_disk(work: Path, contents: list[dict[str, Any]], size: int) -> str:
    """Extrapolate the disk space from a smaller set; return "" if it suffices or no smaller set was measured."""
    for other in reversed(contents):
        used = sum(row.get("bytes", 0) for row in other["stores"]) + 2 * other["stores"][0]["raw_bytes"]
        needed = 1.5 * used * size / other["size"] if other["kind"] != "pixels" else 0
        free = shutil.disk_usage(work).free
        if needed > free:
            return f"which need {needed / 1e9:.0f} GB of disk where {free / 1e9:.0f} are free"
        if needed:
            break
    return ""


def _one_workload(
    workload: str, size: int, processes: dict[str, PeerProcess], options: argparse.Namespace
) -> list[dict[str, Any]]:
    contenders = [Contender(workload, name, processes) for name in CONTENDERS[workload]]
    contenders = [contender for contender in contenders if contender.process is not None]
    warm_s = options.seconds / 3 * max(1, size / 1e6)
    seconds_by_name = in_turn(
        {one.name: (lambda one=one: one.measure(options.seconds, warm_s)) for one in contenders},
        options.rounds,
        enough_s=ENOUGH_S,
    )
    measured = [contender for contender in contenders if not isinstance(seconds_by_name[contender.name], str)]
    rlhive = next((contender for contender in measured if contender.peer == "rlhive"), None)
    rows = []
    for contender in contenders:
        row = {"workload": workload, "peer": contender.peer, "variant": contender.variant}
        rows.append(row)
        seconds = seconds_by_name[contender.name]
        if isinstance(seconds, str):
            row["unavailable"] = seconds
            continue
        row |= {"transitions": contender.transitions, "draw_s": spread(seconds)}
        if not contender.has_workers:
            row["cpu_s"] = spread(contender.cpu_s)
        row["per_s"] = contender.transitions / row["draw_s"]["median"]
        row |= {name: value for name, value in contender.opened.items() if value is not None}
        if rlhive is not None:
            scale = rlhive.transitions / contender.transitions
            row["ratio"] = {key: value * scale for key, value in ratio(seconds, seconds_by_name[rlhive.name]).items()}
            if "cpu_s" in row:
                row["cpu_ratio"] = {key: value * scale for key, value in ratio(contender.cpu_s, rlhive.cpu_s).items()}
        try:
            row["checked"] = contender.check()
        except (NotOfferedError, PeerFailedError) as reason:
            row["failed"] = str(reason)
    for process in processes.values():
        process.ask("close")
    return rows


class Contender:
    """A peer's variant in one workload; the first measurement opens it."""

    def __init__(self, workload: str, name: str, processes: dict[str, PeerProcess]):
        self.name, self.transitions, self.opened = name, 0, {}
        self.cpu_s: list[float] = []
        self.peer, _, self.variant = name.partition(":")
        self.process = processes.get(self.peer)
        self._what = {"workload": workload, "variant": self.variant}

    @property
    def has_workers(self) -> bool:
        """Whether loader processes do the work, whose CPU time is not counted."""
        return self.variant.isdigit() and int(self.variant) > 0

    def measure(self, seconds: float, warm_s: float) -> float:
        """Return the seconds of one draw; the first call draws for ``warm_s`` before the timing, to map the pages."""
        if not self.opened:
            self.opened = self.process.ask("open", **self._what)
            if not self._what["workload"].startswith("open"):
                self.process.ask("run", **self._what, seconds=warm_s)
        reply = self.process.ask("run", **self._what, seconds=seconds)
        self.transitions = reply["transitions"]
        self.cpu_s.append(reply["cpu_seconds"] / reply["draws"])
        return reply["seconds"] / reply["draws"]

    def check(self) -> dict[str, Any]:
        """Compare some batches with the source; reading with pyarrow alone serves no batches."""
        return {} if self.variant == "pyarrow" else self.process.ask("check", **self._what)


def _memory(
    processes: dict[str, PeerProcess], source: Path, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure each peer's memory in a new process, before opening and after one second of random batches."""
    rows = []
    for peer in processes:
        row = {"workload": "memory", "peer": peer, "variant": ""}
        try:
            with _start(peer, source, folder, options) as process:
                process.ask("versions")
                before = process.ask("memory")
                process.ask("open", workload="random_256", variant="")
                process.ask("run", workload="random_256", variant="", seconds=1.0)
                row |= {"before": before, "after": process.ask("memory")}
        except (NotOfferedError, PeerFailedError) as reason:
            row["unavailable"] = str(reason)
        rows.append(row)
    return rows


def _store_line(row: dict[str, Any]) -> str:
    text = row.get("unavailable") or f"{row['seconds']:8.1f} s {row['bytes'] / 1e6:10.1f} MB"
    return f"{'store':<14} {row['peer']:<16} {text}"


def _line(row: dict[str, Any]) -> str:
    name = row["peer"] + (f":{row['variant']}" if row["variant"] else "")
    text = row.get("unavailable") or ""
    if "draw_s" in row:
        time_ratio = row.get("ratio", {}).get("median", 0)
        text = f"{row['draw_s']['median'] * 1e6:10.0f} µs {row['per_s']:12,.0f}/s {time_ratio:8.2f} x RLHive's time"
        if "cpu_ratio" in row:
            text += f" {row['cpu_s']['median'] * 1e6:10.0f} µs CPU {row['cpu_ratio']['median']:8.2f} x RLHive's"
        text += f"  WRONG: {row['failed']}" if "failed" in row else ""
    elif "after" in row:
        growth = row["after"]["anonymous"] - row["before"]["anonymous"]
        text = f"{row['after']['peak'] / 1e6:10.0f} MB peak {growth / 1e6:8.0f} MB added anonymous memory"
    return f"{row['workload']:<14} {name:<16} {text}"


if __name__ == "__main__":
    main()
