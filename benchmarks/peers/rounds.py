"""Interleaved rounds of several contenders, their statistics, and a description of the machine."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.client import NotOfferedError, PeerFailedError
from benchmarks.peers.environments import ROOT
from rlhive._threads import num_cores

RESULTS = ROOT / "benchmarks" / "results"


def in_turn(
    contenders: dict[str, Callable[[], float]], rounds: int, *, enough_s: float = float("inf")
) -> dict[str, list[float] | str]:
    """Run every contender once per round, so that all are exposed to the same noise.

    Args:
        contenders: Name → function that runs the contender and returns its seconds.
        rounds: Number of rounds.
        enough_s: A contender whose rounds took longer than this in total takes part in no further round.

    Returns:
        Name → seconds of each round; for a contender that failed, the error message.
    """
    results: dict[str, list[float] | str] = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    for _ in range(rounds):
        for name, measure in contenders.items():
            if isinstance(results[name], str) or spent[name] > enough_s:
                continue
            start = time.perf_counter()
            try:
                results[name].append(measure())
            except (NotOfferedError, PeerFailedError) as reason:
                results[name] = str(reason)
            spent[name] += time.perf_counter() - start
    return results


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return the spread of ``seconds / reference``, over the rounds that both have."""
    return spread([one / other for one, other in zip(seconds, reference, strict=False)])


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with a process that computes, inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_cores())]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def machine() -> dict[str, Any]:
    """Return the hardware, load, date and commit of a run."""
    cpu = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "platform": platform.platform(),
        "load": list(os.getloadavg()),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit.strip(),
    }


def write_results(name: str, content: dict[str, Any]) -> Path:
    """Write a result file; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
