"""A peer in a process of its own, asked over a pipe: ``python -m benchmarks.peers.worker PEER SOURCE FOLDER``.

The driver writes one JSON object a line to standard input and reads one a line from what was standard output; whatever
the peer's library prints goes to standard error. The process stays alive between rounds, so that rounds of several
peers take turns without paying for imports.

A peer's room holds a class ``Peer``::

    Peer(source, folder)                folder: its own, for what it stores
    versions() -> {library: version}
    write() -> {"bytes": …}             store the source's episodes below folder, durably: record and commit;
                                        "seconds" and "cpu_seconds", where making the library's own kind of input
                                        was not timed
    open(workload, variant) -> Drawing  or raise UnavailableError with one sentence
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
    """The peer does not do this; one sentence says why."""


@dataclass
class Drawing:
    """A workload that is ready to be timed.

    Attributes:
        draw: Returns the next batch in the peer's own form.
        arrays: Turns a batch into the source's names and NumPy arrays; only called after the timing.
        size: Transitions of a batch, where it is not the workload's.
        close: Frees what the workload holds.
        before: Called before each draw and not timed.
        frames: Pictures of a transition.
        bytes: Of the files that it reads from, where they are not those that the peer stored.
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
    """Return the length of a window; 1 where there is none."""
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
    """Answers the driver; several variants of one workload are open at a time."""

    def __init__(self, peer: Any, source: Source, folder: Path):
        self._peer, self._source, self._folder = peer, source, folder
        self._drawings: dict[tuple[str, str], Drawing] = {}

    def versions(self) -> dict[str, Any]:
        """Return the versions of the peer's libraries."""
        return self._peer.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}

    def write(self, **how: Any) -> dict[str, Any]:
        """Store the source anew; return seconds, CPU seconds of all threads, and what the peer says."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        began, idle = time.perf_counter(), time.process_time()
        said = self._peer.write(**how)
        return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - idle, **said}

    def open(self, workload: str, variant: str = "") -> dict[str, Any]:
        """Prepare a workload and draw once; it stays open until :meth:`close`."""
        drawing = self._drawings[workload, variant] = self._peer.open(workload, variant)
        self._draw(drawing)
        return {"frames": drawing.frames, "bytes": drawing.bytes}

    def run(self, workload: str, variant: str, seconds: float) -> dict[str, Any]:
        """Draw for some time; return draws, seconds, CPU seconds of all threads, and transitions of a draw."""
        drawing, draws, spent, busy = self._drawings[workload, variant], 0, 0.0, 0.0
        if drawing.before is not None:
            while not draws or spent < seconds:
                drawing.before()
                began, idle = time.perf_counter(), time.process_time()
                drawing.draw()
                spent, draws = spent + time.perf_counter() - began, draws + 1
                busy += time.process_time() - idle
        else:
            began, idle = time.perf_counter(), time.process_time()
            while not draws or spent < seconds:
                drawing.draw()
                draws += 1
                spent = time.perf_counter() - began
            busy = time.process_time() - idle
        return {
            "draws": draws,
            "seconds": spent,
            "cpu_seconds": busy,
            "transitions": drawing.size or batch_of(workload),
        }

    def check(self, workload: str, variant: str) -> dict[str, Any]:
        """Draw some batches and compare them with the source."""
        drawing, kind = self._drawings[workload, variant], WORKLOADS[workload][1]
        draws = CHECKED_DRAWS if drawing.before is None else 1  # a cold opening takes its time
        batches = [drawing.arrays(self._draw(drawing)) for _ in range(draws)]
        keys = sorted(batches[0])
        return {"keys": keys, "means": self._source.check(batches, kind)}

    def memory(self) -> dict[str, int]:
        """Return this process's memory."""
        gc.collect()
        return memory()

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the peer that only it has."""
        return getattr(self._peer, method)(**arguments)

    def close(self) -> dict[str, Any]:
        """Free what is open."""
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
    """Answer until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                room = importlib.import_module(f"benchmarks.peers.{peer}")
                opened = Source(Path(source))
                server = Server(room.Peer(opened, Path(folder)), opened, Path(folder))
            reply = {"ok": getattr(server, request.pop("do"))(**request)}
        except UnavailableError as reason:
            reply = {"unavailable": str(reason)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
    if server is not None:
        server.close()


if __name__ == "__main__":
    # The rooms import this module by its name, not as __main__: there must be one class UnavailableError.
    importlib.import_module("benchmarks.peers.worker").main(*sys.argv[1:4])
