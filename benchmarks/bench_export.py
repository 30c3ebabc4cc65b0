"""Write speed (record and commit) and bytes on disk of RLHive and its peers, on the same episodes, in one run.

    make bench-export
    make bench-export PEERS="minari lerobot" ROUNDS=1
    python -m benchmarks.bench_export --help

Each round runs every peer once. A figure is the median over the rounds; a ratio is computed within each round, and its
median is reported. CPU time of all threads is reported beside wall time, because other processes on the machine disturb
it less. After the timing, each peer's files are opened again and compared with the source bit for bit. For RLHive, the
benchmark also measures the time that an episode waits for the disk (no other peer flushes), the speed of ``check``, and
the time of ``diff`` on two versions of 10,000 episodes. It measures their lower bounds as well: a flush of this disk,
and pyarrow alone writing and reading the same rows.

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
#: Name → kind of the values, number of episodes, episode length.
SETS = {
    "short": ("walk", 1_000, 50),
    "long": ("walk", 1_000, 100),
    "noise": ("noise", 1_000, 50),
}
#: RLHive again: with batches as a collector yields them, one call and one flush per batch; and with a call per episode
#: and a flush per second.
BATCHES, SECONDS = "rlhive:batches", "rlhive:seconds"
VARIANTS: dict[str, dict[str, Any]] = {BATCHES: {"frames": 1_000}, SECONDS: {"durability": "batch"}}
ENOUGH_S = 45  # a writer takes part in no further round after this time
DIFF_EPISODES, DIFF_LENGTH = 10_000, 10


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, write the result file, and return its content."""
    options = _options(arguments)
    start = time.perf_counter()
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
    content["seconds"] = round(time.perf_counter() - start)
    content["machine"]["load_after"] = machine()["load"]
    if options.results:
        print(write_results(options.results, content))
    return content


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", nargs="+", default=WRITERS, choices=WRITERS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the episodes, for a short run")
    parser.add_argument("--patience", type=float, default=550, help="time limit of one request to a writer, in seconds")
    parser.add_argument(
        "--results", help="name of the file in benchmarks/results; by default, only a complete run writes one"
    )
    parser.add_argument("--no-install", dest="install", action="store_false", help="skip peers that are not installed")
    options = parser.parse_args(arguments)
    is_complete = set(options.peers) == set(WRITERS) and set(options.sets) == set(SETS) and options.scale == 1
    if options.results is None and is_complete:
        options.results = "export"
    if "rlhive" not in options.peers:
        options.peers.insert(0, "rlhive")  # the denominator of every ratio
    return options


def _one_set(
    source: Source, folder: Path, versions: dict[str, Any], options: argparse.Namespace
) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        names = [name for peer in options.peers for name in ([peer, *VARIANTS] if peer == "rlhive" else [peer])]
        processes: dict[str, PeerProcess] = {}
        rows = {name: {"peer": name, "transitions": len(source), "raw_bytes": source.raw_bytes} for name in names}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            peer = name.partition(":")[0]
            try:
                process = PeerProcess(peer, source.folder, folder / name, timeout_s=options.patience)
                processes[name] = stack.enter_context(process)
                versions[peer] = process.ask("versions")
            except (NotOfferedError, PeerFailedError) as reason:
                rows[name]["unavailable"] = str(reason)

        def write(name: str) -> float:
            reply = processes[name].ask("write", **VARIANTS.get(name, {}))
            rows[name] |= {key: value for key, value in reply.items() if key not in ("seconds", "cpu_seconds")}
            cpu_seconds[name].append(reply["cpu_seconds"])
            return reply["seconds"]

        seconds_by_name = in_turn(
            {name: (lambda name=name: write(name)) for name in processes}, options.rounds, enough_s=ENOUGH_S
        )
        for name, seconds in seconds_by_name.items():
            if isinstance(seconds, str):
                rows[name]["unavailable"] = seconds
                continue
            rows[name] |= {"write_s": spread(seconds), "per_s": len(source) / spread(seconds)["median"]}
            rows[name] |= {"cpu_s": spread(cpu_seconds[name])}
            if not isinstance(seconds_by_name["rlhive"], str):
                rows[name]["ratio"] = ratio(seconds, seconds_by_name["rlhive"])
                rows[name]["bytes_ratio"] = rows["rlhive"]["bytes"] / rows[name]["bytes"]
            if not isinstance(seconds_by_name[BATCHES], str):
                rows[name]["ratio_to_batches"] = ratio(seconds, seconds_by_name[BATCHES])
                rows[name]["cpu_ratio_to_batches"] = ratio(cpu_seconds[name], cpu_seconds[BATCHES])
            rows[name] |= _read_back(processes[name])
            if name == "rlhive":
                rows[name] |= _measure_rlhive_only(processes[name], source, options.rounds)
    return list(rows.values())


def _read_back(process: PeerProcess) -> dict[str, Any]:
    request = {"workload": "random_256", "variant": ""}
    try:
        process.ask("open", **request)
        checked = {"checked": process.ask("check", **request)}
        process.ask("close")
    except (NotOfferedError, PeerFailedError) as reason:
        return {"failed": str(reason)}
    return checked


def _measure_rlhive_only(process: PeerProcess, source: Source, rounds: int) -> dict[str, Any]:
    """Measure RLHive's wait for the disk, the speed of ``check``, and the lower bounds of both."""
    results: dict[str, Any] = {"durability": process.ask("call", method="durability")}
    floors = [process.ask("call", method="floors") for _ in range(rounds)]
    results["floors"] = {name: spread([run[name] for run in floors])["median"] for name in floors[0]}
    try:
        checks = [process.ask("call", method="check") for _ in range(rounds)]
    except (NotOfferedError, PeerFailedError) as reason:
        return results | {"check": {"unavailable": str(reason)}}
    seconds = spread([run["seconds"] for run in checks])
    cpu = spread([run["cpu_seconds"] for run in checks])
    rates = {"bytes_per_s": source.raw_bytes / seconds["median"], "bytes_per_cpu_s": source.raw_bytes / cpu["median"]}
    return results | {"check": {"ok": checks[0]["ok"], **seconds, "cpu_s": cpu, **rates}}


def _diff(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time ``diff`` on two versions; the second lacks every tenth episode."""
    episodes = max(20, int(DIFF_EPISODES * options.scale))
    source = make(folder / "source-diff", num_transitions=episodes * DIFF_LENGTH, length=DIFF_LENGTH)
    with PeerProcess("rlhive", source.folder, folder / "diff", timeout_s=options.patience) as process:
        try:
            process.ask("write", **VARIANTS[BATCHES])
            runs = [process.ask("call", method="diff") for _ in range(options.rounds)]
        except (NotOfferedError, PeerFailedError) as reason:
            return {"episodes": episodes, "unavailable": str(reason)}
    return {"episodes": episodes, **spread([run["seconds"] for run in runs]), "result": runs[0]["result"]}


def _line(row: dict[str, Any]) -> str:
    text = row.get("unavailable") or (
        f"{row['per_s']:10,.0f}/s {row['write_s']['median']:8.2f} s {row['cpu_s']['median']:8.2f} s CPU"
        f" {row['bytes'] / 1e6:8.1f} MB {row.get('ratio', {}).get('median', 0):8.2f} x RLHive's time"
        f" {row.get('cpu_ratio_to_batches', {}).get('median', 0):8.2f} x CPU time of rlhive:batches"
        f" {row.get('failed', '')}"
    )
    return f"{row['set']:<6} {row['peer']:<14} {text}"


def _floors(row: dict[str, Any]) -> str:
    """Describe RLHive's durability and check speed with their lower bounds."""
    floors, check, gigabytes = row["floors"], row["check"], row["raw_bytes"] / 1e9
    lines = [
        f"  {row['durability']['wait_ms']:.2f} ms wait for the disk per episode; a flush alone"
        f" {floors['flush_ms']:.2f} ms, {floors['flush_ms'] / 1e3 * row['episodes']:.2f} s for {row['episodes']}",
        f"  pyarrow alone writes the same rows in {floors['parquet_s']:.2f} s, {floors['parquet_cpu_s']:.2f} s CPU",
    ]
    if "cpu_s" in check:
        lower_bound = gigabytes / (floors["decode_cpu_s"] + floors["sha256_cpu_s"])
        lines.append(
            f"  check {check['bytes_per_s'] / 1e9:.2f} GB/s, {check['bytes_per_cpu_s'] / 1e9:.2f} per core;"
            f" pyarrow reading and SHA-256 of the files alone {lower_bound:.2f} per core"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
