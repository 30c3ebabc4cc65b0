"""Memory, progress and interruption of `rlhive import`, for files of 1 GB of every kind that can be made at once.

    make bench-import                                       # every kind, 1 GB; 30 minutes, 3 GB of disk
    python -m benchmarks.bench_import --kinds rlds --episodes 2048 --small 512

Each run is the command itself in a terminal of its own. Peak memory is that of the process, Python, PyTorch and pyarrow
included; that of a small import of the same kind stands beside it. The large one is run three times: Ctrl-C and kill -9
in its middle, of which nothing may be left that looks like a version, and then to its end.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import pty
import re
import shutil
import signal
import struct
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.import_sources import EPISODE_BYTES, LENGTH, SOURCES, episode
from benchmarks.peers.rounds import machine, write_results
from rlhive import RoboHiveDataset
from rlhive.data.hub._streaming import stream_records
from rlhive.data.versions._numbering import list_local_versions

NAME = "lab/walk"


@dataclass
class Run:
    """A command in a terminal.

    Attributes:
        said: What it printed.
        status: Exit status, or minus the signal that ended it.
        peak_bytes: Largest resident set.
        cpu_s: User and system time.
    """

    said: str = ""
    status: int = 0
    peak_bytes: int = 0
    cpu_s: float = 0.0
    pid: int = 0
    _terminal: int = -1
    _reader: threading.Thread = field(default_factory=threading.Thread)

    @classmethod
    def begin(cls, arguments: list[str], store: Path) -> "Run":
        """Start `rlhive`; it takes the store for its own."""
        pid, terminal = pty.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and so would ours
            environment = {**os.environ, "RLHIVE_DATASETS_PATH": str(store), "TERM": "xterm"}
            os.execve(sys.executable, [sys.executable, "-m", "rlhive.cli", *arguments], environment)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # rows, columns, pixels
        run = cls(pid=pid, _terminal=terminal)
        run._reader = threading.Thread(target=run._read)
        run._reader.start()
        return run

    def end(self) -> "Run":
        """Wait for it."""
        _, status, usage = os.wait4(self.pid, 0)
        self._reader.join()
        os.close(self._terminal)
        self.status = os.waitstatus_to_exitcode(status)
        self.peak_bytes, self.cpu_s = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
        return self

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._terminal, 65536)
            except OSError:  # how a terminal says that nobody is there any more
                return
            if not part:
                return
            self.said += part.decode(errors="replace")


def percentages(said: str) -> list[int]:
    """Return the percentages that a progress bar of the dataset went through."""
    return [int(found) for found in re.findall(rf"{NAME}: +(\d+)%", said)]


def left(store: Path) -> dict[str, object]:
    """Return what a store holds of the dataset: versions, and bytes of whatever else lies about."""
    files = [path for path in (store / NAME).rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    whole = [str(folder) for folder in list_local_versions(NAME, store=store).values()]
    return {"versions": len(whole), "bytes": sum(path.stat().st_size for path in files)}


def interrupted(arguments: list[str], store: Path, number: signal.Signals, after_bytes: int) -> dict[str, object]:
    """Send a signal once so much was written; return what it left behind."""
    run = Run.begin(arguments, store)
    while not run.ended:
        partial = [path for path in (store / NAME).glob("*/data/*") if path.is_file()]
        if sum(path.stat().st_size for path in partial) >= after_bytes:
            os.kill(run.pid, number)
            break
        time.sleep(0.01)
    began = time.perf_counter()
    run.end()
    if run.status not in (130, -number):  # 130 is what a shell says of a command that Ctrl-C ended
        msg = f"{number.name}: expected an end, got status {run.status}: {run.said[-2000:]}"
        raise SystemExit(msg)
    return {"status": run.status, "ended_within_s": round(time.perf_counter() - began, 2), **left(store)}


def measure(name: str, episodes: int, small: int, folder: Path, signals: Iterable[signal.Signals]) -> dict[str, object]:
    """Import files of one kind, small and large, and interrupt the large one."""
    kind, make = SOURCES[name]
    row: dict[str, object] = {"source": name}
    for size, count in (("small", small), ("large", episodes)):
        source, store = folder / f"walk.{size}", folder / "store"
        made = multiprocessing.get_context("spawn").Process(target=make, args=(source, count))
        made.start()  # by another process, whose memory the command's peak does not begin with
        made.join()
        if made.exitcode:
            msg = f"{name}: expected {count} episodes in {source}, got status {made.exitcode}"
            raise SystemExit(msg)
        arguments = ["import", kind, str(source), NAME, "--license", "mit"]
        if size == "large":
            raw = count * EPISODE_BYTES
            row |= {f"{number.name}": interrupted(arguments, store, number, raw // 4) for number in signals}
        run = Run.begin(arguments, store).end()
        if run.status:
            raise SystemExit(run.said[-2000:])
        seen = percentages(run.said)
        dataset = RoboHiveDataset(store / NAME / "1.0.0")
        require_true(name, dataset, count, left(store))
        row[size] = {
            "raw_bytes": count * EPISODE_BYTES,
            "file_bytes": _bytes_of(source),
            "peak_bytes": run.peak_bytes,
            "cpu_s": round(run.cpu_s, 1),
            "progress_steps": len(set(seen)),
            "progress_ended_at": seen[-1] if seen else None,
            "episodes": len(dataset.episodes),
        }
        for path in (source, store):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return row


def require_true(name: str, dataset: RoboHiveDataset, count: int, there: dict[str, object]) -> None:
    """Raise unless all episodes came, nothing else is there, and the last one has the values that were drawn.

    LeRobot keeps no observation after the last action: its last frame is the final observation.
    """
    [record] = stream_records(dataset.path, dataset.manifest, dataset.splits, [count - 1])
    states, actions, rewards = episode(count - 1)
    drawn = {"observation": states, "action": actions, "next.reward": rewards[:, None]}
    found = {key: record.columns[key] for key in drawn}  # RLDS has its rewards in float32
    wrong = [key for key, rows in found.items() if not np.array_equal(rows, drawn[key][: len(rows)].astype(rows.dtype))]
    length = LENGTH - 1 if name == "lerobot" else LENGTH
    wanted = {"versions": 1, "bytes": _bytes_of(dataset.path)}
    if wrong or record.length != length or len(dataset.episodes) != count or there != wanted:
        msg = f"{name}: expected {count} episodes of {length} and {wanted}, got {len(dataset.episodes)}, the last of "
        msg += f"{record.length} with other {wrong}, and {there}"
        raise SystemExit(msg)


def _bytes_of(path: Path) -> int:
    return sum(part.stat().st_size for part in ([path] if path.is_file() else path.rglob("*")) if part.is_file())


def main() -> None:
    """Measure, print a line per kind, keep the results of all kinds; ``benchmarks.report`` makes the table of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = sorted({kind for kind, _ in SOURCES.values()})
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--episodes", type=int, default=8192, help="of the large import; 8,192 are 1 GB")
    parser.add_argument("--small", type=int, default=512)
    parser.add_argument("--no-interrupts", action="store_true", help="import each once; a third of the time")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    options = parser.parse_args()
    before, rows = machine(), []
    signals = () if options.no_interrupts else (signal.SIGINT, signal.SIGKILL)
    for name, (kind, _) in SOURCES.items():
        if kind in options.kinds:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                rows.append(measure(name, options.episodes, options.small, Path(folder), signals))
            print(json.dumps(rows[-1]), flush=True)
    if options.kinds == kinds and signals:
        write_results("import", {"machine": before, "rows": rows})


if __name__ == "__main__":
    main()
