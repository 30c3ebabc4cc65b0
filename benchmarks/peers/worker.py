"""Server process of one peer: ``python -m benchmarks.peers.worker PEER SOURCE FOLDER``.

The driver writes one JSON object per line to standard input and reads one reply per line from the original standard
output; output of the peer's library goes to standard error. The process stays alive between rounds, so that interleaved
rounds of several peers do not repeat imports.

A peer's adapter defines a class ``Peer``::

    Peer(source, folder)                folder: where the peer stores the episodes
    versions() -> {library: version}
    write() -> {"bytes": …}             record and commit the source's episodes below folder;
                                        "seconds" and "cpu_seconds", if the conversion to the library's input
                                        format is not timed
    open(workload, variant) -> Drawing  or raise UnavailableError with the reason
"""

import gc
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.source import Source

CHECKED_DRAWS = 8
WORKLOADS = {
    "random_256": (256, "transitions"),
    "random_4096": (4096, "transitions"),
    "iterate_256": (256, "transitions"),
    "slices_16x16": (256, "slices:16"),
    "slices_4x64": (256, "slices:64"),
    "nstep_3": (256, "nstep"),
    "prioritized": (256, "transitions"),
    "stack_3": (256, "stack"),
    "images_64": (64, "transitions"),
    "open_warm": (256, "first"),
    "open_cold": (256, "first"),
}


class UnavailableError(Exception):
    """The peer does not support the request; the message gives the reason."""


@dataclass
class Drawing:
    """A workload that is ready to be timed.

    Attributes:
        draw: Returns the next batch in the peer's format.
        arrays: Converts a batch to NumPy arrays under the source's names; only called after the timing.
        size: Transitions of a batch, if they differ from the workload's.
        close: Frees the resources of the workload.
        before: Called before each draw and not timed.
        frames: Pictures of a transition.
        bytes: Size of the files that are read, if they are not those that the peer stored.
    """

    draw: Callable[[], Any]
    arrays: Callable[[Any], Mapping[str, np.ndarray]]
    size: int | None = None
    close: Callable[[], None] = lambda: None
    before: Callable[[], None] | None = None
    frames: int = 1
    bytes: int | None = None


def batch_of(workload: str) -> int:
    """Return the transitions of a batch."""
    return WORKLOADS[workload][0]


def slice_of(workload: str) -> int:
    """Return the length of a window; 1 for workloads without windows."""
    return int(WORKLOADS[workload][1].partition(":")[2] or 1)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def memory() -> dict[str, int]:
    """Return, in bytes, this process's peak resident memory, its anonymous memory now, and its files' mapped pages."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"peak": "VmHWM", "anonymous": "RssAnon", "mapped": "RssFile"}
    return {name: int(rows[key].split()[0]) * 1024 for name, key in names.items()}


class Server:
    """Handler of the driver's requests; several variants of one workload can be open at a time."""

    def __init__(self, peer: Any, source: Source, folder: Path):
        self._peer, self._source, self._folder = peer, source, folder
        self._drawings: dict[tuple[str, str], Drawing] = {}

    def versions(self) -> dict[str, Any]:
        """Return the versions of the peer's libraries."""
        return self._peer.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}

    def write(self, **options: Any) -> dict[str, Any]:
        """Store the source in an empty folder; return seconds, CPU seconds of all threads, and the peer's results."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        start, cpu_start = time.perf_counter(), time.process_time()
        result = self._peer.write(**options)
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start, **result}

    def open(self, workload: str, variant: str = "") -> dict[str, Any]:
        """Prepare a workload and draw once; the workload stays open until :meth:`close`."""
        drawing = self._drawings[workload, variant] = self._peer.open(workload, variant)
        self._draw(drawing)
        return {"frames": drawing.frames, "bytes": drawing.bytes}

    def run(self, workload: str, variant: str, seconds: float) -> dict[str, Any]:
        """Draw for some time; return draws, seconds, CPU seconds of all threads, and transitions of a draw."""
        drawing, draws, elapsed, cpu_seconds = self._drawings[workload, variant], 0, 0.0, 0.0
        if drawing.before is not None:
            while not draws or elapsed < seconds:
                drawing.before()
                start, cpu_start = time.perf_counter(), time.process_time()
                drawing.draw()
                elapsed, draws = elapsed + time.perf_counter() - start, draws + 1
                cpu_seconds += time.process_time() - cpu_start
        else:
            start, cpu_start = time.perf_counter(), time.process_time()
            while not draws or elapsed < seconds:
                drawing.draw()
                draws += 1
                elapsed = time.perf_counter() - start
            cpu_seconds = time.process_time() - cpu_start
        return {
            "draws": draws,
            "seconds": elapsed,
            "cpu_seconds": cpu_seconds,
            "transitions": drawing.size or batch_of(workload),
        }

    def check(self, workload: str, variant: str) -> dict[str, Any]:
        """Draw some batches and compare them with the source."""
        drawing, kind = self._drawings[workload, variant], WORKLOADS[workload][1]
        draws = CHECKED_DRAWS if drawing.before is None else 1  # a cold opening is slow
        batches = [drawing.arrays(self._draw(drawing)) for _ in range(draws)]
        keys = sorted(batches[0])
        return {"keys": keys, "means": self._source.check(batches, kind)}

    def memory(self) -> dict[str, int]:
        """Return this process's memory."""
        gc.collect()
        return memory()

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method that only this peer has."""
        return getattr(self._peer, method)(**arguments)

    def close(self) -> dict[str, Any]:
        """Close all workloads."""
        while self._drawings:
            self._drawings.popitem()[1].close()
        gc.collect()
        return {}

    @staticmethod
    def _draw(drawing: Drawing) -> Any:
        if drawing.before is not None:
            drawing.before()
        return drawing.draw()


def main(peer: str, source: str, folder: str) -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                adapter = importlib.import_module(f"benchmarks.peers.{peer}")
                episodes = Source(Path(source))
                server = Server(adapter.Peer(episodes, Path(folder)), episodes, Path(folder))
            reply = {"ok": getattr(server, request.pop("do"))(**request)}
        except UnavailableError as reason:
            reply = {"unavailable": str(reason)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
    if server is not None:
        server.close()


if __name__ == "__main__":
    # Adapters import this module by its name, not as __main__: UnavailableError must be the same class.
    importlib.import_module("benchmarks.peers.worker").main(*sys.argv[1:4])
