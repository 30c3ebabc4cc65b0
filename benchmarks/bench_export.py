"""Record and commit: transitions per second and bytes on disk of every peer's writer, on the same episodes, in one run.

    make bench-export
    make bench-export PEERS="minari lerobot" ROUNDS=1
    python -m benchmarks.bench_export --help

Peers take turns, round by round; a figure is the median of the rounds, a ratio the median of the rounds' own ratios.
CPU time, of all threads, is given beside wall time: others on the machine disturb it less. What each stored is opened
again afterwards and compared with the source bit for bit. Ours also says what an episode waits for the disk, which
nobody else does, how fast ``check`` reads a version, and how long ``diff`` takes for two versions of 10,000 episodes;
and beside these the floors: this disk's own flush, and pyarrow alone writing and reading the same rows.

Writes benchmarks/results/export.json; ``python -m benchmarks.report`` makes the table from it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.client import NotOfferedError, PeerFailedError, PeerProcess
from benchmarks.peers.environments import PEERS
from benchmarks.peers.rounds import in_turn, machine, ratio, spread, write_results
from benchmarks.peers.source import Source, make

WRITERS = ["rlhive", "minari", "minari_arrow", "lerobot", "datasets"]
#: Name, kind of the values, episodes, length.
SETS = {
    "short": ("walk", 1_000, 50),
    "long": ("walk", 1_000, 100),
    "noise": ("noise", 1_000, 50),
}
#: Ours once more, with the batches that a collector gives: one call and one wait for the disk per batch.
BATCHES, FRAMES = "rlhive:batches", 1_000
ENOUGH_S = 45  # of rounds of one writer
DIFF_EPISODES, DIFF_LENGTH = 10_000, 10


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write and print; return what was written."""
    options = _options(arguments)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    content = {"machine": machine(), "versions": {}, "rows": rows, "diff": {}}
    content["options"] = {name: getattr(options, name) for name in ("peers", "sets", "rounds", "scale", "patience")}
    for peer in options.peers if options.install else ():
        PEERS[peer].install()
    with tempfile.TemporaryDirectory(prefix="rlhive-bench-") as temporary:
        for name in options.sets:
            kind, episodes, length = SETS[name]
            episodes = max(2, int(episodes * options.scale))
            source = make(
                Path(temporary) / f"source-{name}", num_transitions=episodes * length, length=length, kind=kind
            )
            for row in _one_set(source, Path(temporary) / name, content["versions"], options):
                rows.append({"set": name, "kind": kind, "episodes": episodes, "length": length, **row})
                print(_line(rows[-1]), flush=True)
                if "floors" in row:
                    print(_floors(rows[-1]), flush=True)
        content["diff"] = _diff(Path(temporary), options)
        print(f"diff {content['diff']}", flush=True)
    content["seconds"] = round(time.perf_counter() - began)
    content["machine"]["load_after"] = machine()["load"]
    if options.results:
        print(write_results(options.results, content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", nargs="+", default=WRITERS, choices=WRITERS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the episodes, for a quick look")
    parser.add_argument("--patience", type=float, default=550, help="seconds that a writer may take")
    parser.add_argument("--results", help="name below benchmarks/results; by default only all peers and sets have one")
    parser.add_argument("--no-install", dest="install", action="store_false", help="skip peers that are not installed")
    options = parser.parse_args(arguments)
    whole = set(options.peers) == set(WRITERS) and set(options.sets) == set(SETS) and options.scale == 1
    if options.results is None and whole:
        options.results = "export"
    if "rlhive" not in options.peers:
        options.peers.insert(0, "rlhive")  # ratios are to it
    return options


def _one_set(
    source: Source, folder: Path, versions: dict[str, Any], options: argparse.Namespace
) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        names = [name for peer in options.peers for name in ([peer, BATCHES] if peer == "rlhive" else [peer])]
        processes: dict[str, PeerProcess] = {}
        rows = {name: {"peer": name, "transitions": len(source), "raw_bytes": source.raw_bytes} for name in names}
        busy: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            peer = name.partition(":")[0]
            try:
                process = PeerProcess(peer, source.folder, folder / name, timeout_s=options.patience)
                processes[name] = stack.enter_context(process)
                versions[peer] = process.ask("versions")
            except (NotOfferedError, PeerFailedError) as reason:
                rows[name]["unavailable"] = str(reason)

        def write(name: str) -> float:
            said = processes[name].ask("write", **({"frames": FRAMES} if name == BATCHES else {}))
            rows[name] |= {key: value for key, value in said.items() if key not in ("seconds", "cpu_seconds")}
            busy[name].append(said["cpu_seconds"])
            return said["seconds"]

        found = in_turn(
            {name: (lambda name=name: write(name)) for name in processes}, options.rounds, enough_s=ENOUGH_S
        )
        for name, seconds in found.items():
            if isinstance(seconds, str):
                rows[name]["unavailable"] = seconds
                continue
            rows[name] |= {"write_s": spread(seconds), "per_s": len(source) / spread(seconds)["median"]}
            rows[name] |= {"cpu_s": spread(busy[name])}
            if not isinstance(found["rlhive"], str):
                rows[name]["ratio"] = ratio(seconds, found["rlhive"])
                rows[name]["bytes_ratio"] = rows["rlhive"]["bytes"] / rows[name]["bytes"]
            if not isinstance(found[BATCHES], str):
                rows[name]["ratio_to_batches"] = ratio(seconds, found[BATCHES])
                rows[name]["cpu_ratio_to_batches"] = ratio(busy[name], busy[BATCHES])
            rows[name] |= _read_back(processes[name])
            if name == "rlhive":
                rows[name] |= _only_ours(processes[name], source, options.rounds)
    return list(rows.values())


def _read_back(process: PeerProcess) -> dict[str, Any]:
    what = {"workload": "random_256", "variant": ""}
    try:
        process.ask("open", **what)
        checked = {"checked": process.ask("check", **what)}
        process.ask("close")
    except (NotOfferedError, PeerFailedError) as reason:
        return {"failed": str(reason)}
    return checked


def _only_ours(process: PeerProcess, source: Source, rounds: int) -> dict[str, Any]:
    """What an episode waits for the disk, how fast ``check`` reads the version, and the floors of both."""
    found: dict[str, Any] = {"durability": process.ask("call", method="durability")}
    floors = [process.ask("call", method="floors") for _ in range(rounds)]
    found["floors"] = {name: spread([one[name] for one in floors])["median"] for name in floors[0]}
    try:
        checks = [process.ask("call", method="check") for _ in range(rounds)]
    except (NotOfferedError, PeerFailedError) as reason:
        return found | {"check": {"unavailable": str(reason)}}
    seconds = spread([one["seconds"] for one in checks])
    cpu = spread([one["cpu_seconds"] for one in checks])
    rates = {"bytes_per_s": source.raw_bytes / seconds["median"], "bytes_per_cpu_s": source.raw_bytes / cpu["median"]}
    return found | {"check": {"ok": checks[0]["ok"], **seconds, "cpu_s": cpu, **rates}}


def _diff(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Two versions of many episodes, one of which lacks every tenth."""
    episodes = max(20, int(DIFF_EPISODES * options.scale))
    source = make(folder / "source-diff", num_transitions=episodes * DIFF_LENGTH, length=DIFF_LENGTH)
    with PeerProcess("rlhive", source.folder, folder / "diff", timeout_s=options.patience) as process:
        try:
            process.ask("write", frames=FRAMES)
            runs = [process.ask("call", method="diff") for _ in range(options.rounds)]
        except (NotOfferedError, PeerFailedError) as reason:
            return {"episodes": episodes, "unavailable": str(reason)}
    return {"episodes": episodes, **spread([run["seconds"] for run in runs]), "result": runs[0]["result"]}


def _line(row: dict[str, Any]) -> str:
    said = row.get("unavailable") or (
        f"{row['per_s']:10,.0f}/s {row['write_s']['median']:8.2f} s {row['cpu_s']['median']:8.2f} s CPU"
        f" {row['bytes'] / 1e6:8.1f} MB {row.get('ratio', {}).get('median', 0):8.2f} times"
        f" {row.get('cpu_ratio_to_batches', {}).get('median', 0):8.2f} times the CPU of batches {row.get('failed', '')}"
    )
    return f"{row['set']:<6} {row['peer']:<14} {said}"


def _floors(row: dict[str, Any]) -> str:
    """Say below what nobody comes who promises the same."""
    floors, check, gigabytes = row["floors"], row["check"], row["raw_bytes"] / 1e9
    said = [
        f"  {row['durability']['wait_ms']:.2f} ms wait for the disk per episode; this disk's flush alone"
        f" {floors['flush_ms']:.2f} ms, {floors['flush_ms'] / 1e3 * row['episodes']:.2f} s for {row['episodes']}",
        f"  pyarrow alone writes the same rows in {floors['parquet_s']:.2f} s, {floors['parquet_cpu_s']:.2f} s CPU",
    ]
    if "cpu_s" in check:
        own = gigabytes / (floors["decode_cpu_s"] + floors["sha256_cpu_s"])
        said.append(
            f"  check {check['bytes_per_s'] / 1e9:.2f} GB/s, {check['bytes_per_cpu_s'] / 1e9:.2f} a core;"
            f" pyarrow reading and SHA-256 of the files alone {own:.2f} a core"
        )
    return "\n".join(said)


if __name__ == "__main__":
    main()
