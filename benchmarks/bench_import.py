"""Memory, progress and interruption of `rlhive import`, on generated files of 1 GB of every kind.

    make bench-import                                       # every kind, 1 GB; 30 minutes, 3 GB of disk
    python -m benchmarks.bench_import --kinds rlds --episodes 2048 --small 512

Each run executes the command in a new pseudo-terminal. Peak memory is that of the whole process, including Python,
PyTorch and pyarrow; a small import of the same kind gives the baseline. The large import runs three times: interrupted
by Ctrl-C, killed by kill -9, and to the end. The first two must not leave anything that looks like a version.
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
from rlhive.data.versions import list_local_versions

NAME = "lab/walk"


@dataclass
class Run:
    """A command in a pseudo-terminal.

    Attributes:
        output: Everything that it printed.
        status: Exit status; the negative signal number if a signal ended it.
        peak_bytes: Peak resident memory.
        cpu_s: User and system time.
        pid: Process id.
    """

    output: str = ""
    status: int = 0
    peak_bytes: int = 0
    cpu_s: float = 0.0
    pid: int = 0
    _terminal: int = -1
    _reader: threading.Thread = field(default_factory=threading.Thread)

    @classmethod
    def start(cls, arguments: list[str], store: Path) -> "Run":
        """Start `rlhive` with a store."""
        pid, terminal = pty.fork()
        if not pid:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell inherit an ignored SIGINT
            environment = {**os.environ, "RLHIVE_DATASETS_PATH": str(store), "TERM": "xterm"}
            os.execve(sys.executable, [sys.executable, "-m", "rlhive.cli", *arguments], environment)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # rows, columns, pixels
        run = cls(pid=pid, _terminal=terminal)
        run._reader = threading.Thread(target=run._read)
        run._reader.start()
        return run

    def end(self) -> "Run":
        """Wait for the command to end; record its status, peak memory and CPU time."""
        _, status, usage = os.wait4(self.pid, 0)
        self._reader.join()
        os.close(self._terminal)
        self.status = os.waitstatus_to_exitcode(status)
        self.peak_bytes, self.cpu_s = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
        return self

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._terminal, 65536)
            except OSError:  # the child has closed its end of the terminal
                return
            if not part:
                return
            self.output += part.decode(errors="replace")


def percentages(output: str) -> list[int]:
    """Return the percentages that the progress bar of the dataset showed."""
    return [int(digits) for digits in re.findall(rf"{NAME}: +(\d+)%", output)]


def left(store: Path) -> dict[str, object]:
    """Return the number of the dataset's complete versions in a store, and the bytes of its files without locks."""
    files = [path for path in (store / NAME).rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    versions = list_local_versions(NAME, store=store)
    return {"versions": len(versions), "bytes": sum(path.stat().st_size for path in files)}


def interrupted(arguments: list[str], store: Path, number: signal.Signals, after_bytes: int) -> dict[str, object]:
    """Send a signal when ``after_bytes`` are written; return the exit status and the remains in the store."""
    run = Run.start(arguments, store)
    while not run.ended:
        partial = [path for path in (store / NAME).glob("*/data/*") if path.is_file()]
        if sum(path.stat().st_size for path in partial) >= after_bytes:
            os.kill(run.pid, number)
            break
        time.sleep(0.01)
    start = time.perf_counter()
    run.end()
    if run.status not in (130, -number):  # 130 is the exit status after Ctrl-C, by convention of shells
        msg = f"{number.name}: expected exit status 130 or {-number}, got {run.status}: {run.output[-2000:]}"
        raise SystemExit(msg)
    return {"status": run.status, "ended_within_s": round(time.perf_counter() - start, 2), **left(store)}


def measure(name: str, episodes: int, small: int, folder: Path, signals: Iterable[signal.Signals]) -> dict[str, object]:
    """Import a small and a large file of one kind; interrupt the large import first."""
    kind, make = SOURCES[name]
    row: dict[str, object] = {"source": name}
    for size, count in (("small", small), ("large", episodes)):
        source, store = folder / f"walk.{size}", folder / "store"
        # Another process writes the source: a forked command would inherit this process's peak memory.
        writer = multiprocessing.get_context("spawn").Process(target=make, args=(source, count))
        writer.start()
        writer.join()
        if writer.exitcode:
            msg = f"{name}: expected {count} episodes in {source}, the writer ended with status {writer.exitcode}"
            raise SystemExit(msg)
        arguments = ["import", kind, str(source), NAME, "--license", "mit"]
        if size == "large":
            raw = count * EPISODE_BYTES
            row |= {f"{number.name}": interrupted(arguments, store, number, raw // 4) for number in signals}
        run = Run.start(arguments, store).end()
        if run.status:
            raise SystemExit(run.output[-2000:])
        percents = percentages(run.output)
        dataset = RoboHiveDataset(store / NAME / "1.0.0")
        require_complete_import(name, dataset, count, left(store))
        row[size] = {
            "raw_bytes": count * EPISODE_BYTES,
            "file_bytes": _bytes_of(source),
            "peak_bytes": run.peak_bytes,
            "cpu_s": round(run.cpu_s, 1),
            "progress_steps": len(set(percents)),
            "progress_ended_at": percents[-1] if percents else None,
            "episodes": len(dataset.episodes),
        }
        for path in (source, store):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return row


def require_complete_import(name: str, dataset: RoboHiveDataset, count: int, store_content: dict[str, object]) -> None:
    """Raise unless the store holds one version with all episodes, no other file, and a last episode with its values.

    LeRobot stores no observation after the last action; the last frame becomes the final observation. Some kinds name
    what they observe, observation.qpos, and some have no rewards.
    """
    [record] = stream_records(dataset.path, dataset.manifest, dataset.splits, [count - 1])
    states, actions, rewards = episode(count - 1)
    expected_rows = {"observation": states, "action": actions, "next.reward": rewards[:, None]}
    rows_by_key = {  # RLDS stores rewards as float32
        key: rows
        for key in expected_rows
        for column, rows in record.columns.items()
        if column == key or column.startswith(f"{key}.")
    }
    wrong_keys = [
        key
        for key, rows in rows_by_key.items()
        if not np.array_equal(rows, expected_rows[key][: len(rows)].astype(rows.dtype))
    ]
    length = LENGTH - 1 if name == "lerobot" else LENGTH
    expected_content = {"versions": 1, "bytes": _bytes_of(dataset.path)}
    wrong_keys += [key for key in ("observation", "action") if key not in rows_by_key]
    if wrong_keys or record.length != length or len(dataset.episodes) != count or store_content != expected_content:
        msg = f"{name}: expected {count} episodes of {length} transitions and {expected_content}, got "
        msg += f"{len(dataset.episodes)} episodes, the last one of {record.length} transitions with other values in "
        msg += f"{wrong_keys}, and {store_content}"
        raise SystemExit(msg)


def _bytes_of(path: Path) -> int:
    return sum(part.stat().st_size for part in ([path] if path.is_file() else path.rglob("*")) if part.is_file())


def main() -> None:
    """Measure every kind and print a line for each; a complete run writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = sorted({kind for kind, _ in SOURCES.values()})
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--episodes", type=int, default=8192, help="episodes of the large import; 8,192 are 1 GB")
    parser.add_argument("--small", type=int, default=512, help="episodes of the small import")
    parser.add_argument(
        "--no-interrupts", action="store_true", help="skip the interrupted runs; takes a third of the time"
    )
    parser.add_argument("--folder", type=Path, help="folder of the files; a temporary folder by default")
    options = parser.parse_args()
    machine_before, rows = machine(), []
    signals = () if options.no_interrupts else (signal.SIGINT, signal.SIGKILL)
    for name, (kind, _) in SOURCES.items():
        if kind in options.kinds:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                rows.append(measure(name, options.episodes, options.small, Path(folder), signals))
            print(json.dumps(rows[-1]), flush=True)
    if options.kinds == kinds and signals:
        write_results("import", {"machine": machine_before, "rows": rows})


if __name__ == "__main__":
    main()
