"""Pictures compressed one by one: what an encoded cache keeps of a wide field instead of raw rows.

::

    wide-0.lz4     the frames one after the other, an LZ4 block each
    wide-0.idx     int64 per frame: first byte, number of bytes, key

    frame      k      k+1       k+2            k+3            a camera's frames in one episode
    content    s_0    s_1 - s_0  s_2 - s_0     s_3            bytes, modulo 256
    key        k      k          k             k+3            itself: kept as it is

A row has one frame per camera. A camera that stands still sees the same background throughout an episode: what a frame
has other than its episode's first, byte by byte, is mostly zeros and takes a fourth of the picture's own PNG, without a
loss. Reading it decodes two frames and no chain. Where the difference is no smaller than the frame, as with a camera
that moves, the frame itself is kept.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from rlhive.errors import CorruptDataset

#: Zstandard saves a tenth more and takes four times as long to read, see benchmarks/picture_codecs.py.
_CODEC = "lz4_raw"

#: A difference that shrinks to this share of a frame is not compared with the frame itself.
_SMALL = 0.25

_WORD = 8
_START, _SIZE, _KEY = range(3)

_local = threading.local()


class Form(NamedTuple):
    """The frames of a row: how many, of how many bytes each, and the bytes of a row, a multiple of 8."""

    count: int
    frame_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, shape: Sequence[int], itemsize: int, row_bytes: int) -> "Form":
        """Return the form of a field; the last three dimensions are one picture."""
        frame = int(np.prod(shape[-3:])) * itemsize
        return cls(int(np.prod(shape[:-3])), frame, row_bytes)


class FrameWriter:
    """Compress rows in order; :func:`num_threads` at once.

    Args:
        folder: Where to write.
        name: Of the files.
        form: Of a row.
        first: For every row, the row with which its episode begins, int64 ``[num_rows]``.
    """

    def __init__(self, folder: Path, name: str, form: Form, first: np.ndarray):
        self._file = (Path(folder) / f"{name}.lz4").open("wb")
        self._form, self._first, self._path = form, first, Path(folder) / f"{name}.idx"
        self._index = np.zeros((len(first), form.count, 3), np.int64)
        self._written = self._end = 0
        self._episode: np.ndarray | None = None

    def write(self, rows: np.ndarray) -> None:
        """Add rows, uint8 ``[n, row_bytes]``."""
        form, start = self._form, self._written
        frames = rows[:, : form.count * form.frame_bytes].reshape(len(rows), form.count, form.frame_bytes)
        first = self._first[start : start + len(rows)]
        jobs = []
        for row, begin in enumerate(first.tolist()):
            # An episode that began in an earlier piece: its first row is kept for it.
            whole = frames[begin - start] if begin >= start else self._episode
            for camera in range(form.count):
                jobs.append((frames[row, camera], whole[camera] if begin < start + row else None))
        if first[-1] >= start:
            self._episode = frames[first[-1] - start].copy()
        index = self._index[start : start + len(rows)].reshape(-1, 3)
        own = np.arange(len(index)) + start * form.count
        keys = first.repeat(form.count) * form.count + np.tile(np.arange(form.count), len(rows))
        for number, (content, is_key) in enumerate(_in_threads(_encode, jobs)):
            self._file.write(content)
            index[number] = self._end, len(content), own[number] if is_key else keys[number]
            self._end += len(content)
        self._written += len(rows)

    def finish(self) -> None:
        """Close the file and write the index."""
        self.close()
        self._path.write_bytes(self._index.data)

    def close(self) -> None:
        """Close the file; without :meth:`finish` nobody can read it."""
        self._file.close()


class Frames:
    """Compressed rows, decoded when they are taken. Pickles as nothing: whoever opens the folder opens them.

    Args:
        folder: Where a :class:`FrameWriter` wrote.
        name: Of the files.
        form: Of a row.
        num_rows: How many there are.

    Raises:
        CorruptDataset: A file is missing or has another size than it must have.
    """

    def __init__(self, folder: Path, name: str, form: Form, num_rows: int):
        self._form, self._len = form, num_rows
        self._path = Path(folder) / f"{name}.lz4"
        index = Path(folder) / f"{name}.idx"
        expected = num_rows * form.count * 3 * _WORD
        found = index.stat().st_size if index.is_file() else -1
        if found != expected or not self._path.is_file():
            msg = f"{index.name}: expected {expected} bytes and {self._path.name} beside it, got {max(found, 0)}"
            raise self._damaged(msg)
        self._index = _mapped(index).view(np.int64).reshape(-1, 3)
        self._content = pa.py_buffer(_mapped(self._path))

    def __len__(self) -> int:
        return self._len

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Decode rows, as many at once as :func:`num_threads` says.

        Args:
            rows: Their numbers, int64 ``[n]``; one that comes twice is decoded once.

        Returns:
            int64 ``[n, row_bytes // 8]``; what is behind the last frame of a row means nothing.

        Raises:
            CorruptDataset: A frame cannot be decoded.
        """
        form = self._form
        taken = torch.empty(len(rows), form.row_bytes // _WORD, dtype=torch.int64)
        target = taken.numpy().view(np.uint8)
        numbers = rows.numpy()
        order = np.argsort(numbers, kind="stable")
        # Neighbours in the same thread: they share their key, and often are the same row.
        parts = [part for part in np.array_split(order, _num_parts(len(order))) if len(part)]
        for _ in _in_threads(lambda part: self._fill(target, numbers, part), parts, split=False):
            pass
        return taken

    def _fill(self, target: np.ndarray, numbers: np.ndarray, places: np.ndarray) -> None:
        """Decode the rows that belong to some places of the target."""
        form = self._form
        frames = (numbers[places][:, None] * form.count + np.arange(form.count)).reshape(-1)
        entries = self._index[frames]
        self._require_sound(entries, frames)
        keys: list[tuple[int, np.ndarray | None]] = [(-1, None)] * form.count
        before, count = -1, form.count
        for number, place in enumerate(places.tolist()):
            row = target[place]
            if before >= 0 and numbers[place] == numbers[before]:
                row[:] = target[before]
                continue
            for camera in range(count):
                start, size, key = entries[number * count + camera].tolist()
                into = row[camera * form.frame_bytes : (camera + 1) * form.frame_bytes]
                if key == frames[number * count + camera]:
                    into[:] = self._decoded(start, size)
                    continue
                if keys[camera][0] != key:
                    keys[camera] = key, self._decoded(*self._index[key, :_KEY].tolist())
                np.add(self._decoded(start, size), keys[camera][1], out=into)
            before = place

    def _decoded(self, start: int, size: int) -> np.ndarray:
        try:
            return np.frombuffer(
                _codec().decompress(self._content.slice(start, size), self._form.frame_bytes), np.uint8
            )
        except (OSError, ValueError) as error:
            msg = f"{self._path.name}, bytes {start} to {start + size}: {error}"
            raise self._damaged(msg) from error

    def _require_sound(self, entries: np.ndarray, frames: np.ndarray) -> None:
        """Raise where the index points out of the file, or a key is not kept as it is."""
        keys = entries[:, _KEY]
        sound = (keys >= 0) & (keys < len(self._index))
        for told in (entries, self._index[np.where(sound, keys, 0)]):
            stop = told[:, _START] + told[:, _SIZE]
            sound &= (told[:, _START] >= 0) & (told[:, _SIZE] > 0) & (stop <= self._content.size)
        sound &= told[:, _KEY] == keys
        if not sound.all():
            msg = f"{self._path.stem}.idx, frame {int(frames[~sound][0])}: it points nowhere"
            raise self._damaged(msg)

    def _damaged(self, problem: str) -> CorruptDataset:
        folder = self._path.parent
        return CorruptDataset(f"Cache {folder} is damaged: {problem}. Delete the folder; it is made again.")


def num_threads() -> int:
    """Return how many frames are encoded or decoded at once: one per core, and one in a DataLoader's worker."""
    if torch.utils.data.get_worker_info() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encode(job: tuple[np.ndarray, np.ndarray | None]) -> tuple[bytes, bool]:
    """Return the shorter of a frame and its difference from a key, compressed, and whether it is the frame."""
    frame, key = job
    if key is None:
        return _codec().compress(frame, asbytes=True), True
    difference = _codec().compress(frame - key, asbytes=True)
    if len(difference) < _SMALL * len(frame):
        return difference, False
    whole = _codec().compress(frame, asbytes=True)
    return (whole, True) if len(whole) <= len(difference) else (difference, False)


def _in_threads(work: Callable[[Any], Any], jobs: Sequence[Any], *, split: bool = True) -> Iterable[Any]:
    """Return the results of all jobs in order; several jobs are one task of a thread, where ``split``."""
    if num_threads() == 1 or len(jobs) == 1:
        return map(work, jobs)
    if not split:
        return _pool().map(work, jobs)
    size = -(-len(jobs) // (4 * num_threads()))
    tasks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return (result for task in _pool().map(lambda task: list(map(work, task)), tasks) for result in task)


def _num_parts(count: int) -> int:
    """A part has 4 rows at least: waking a thread costs as much as decoding one."""
    return max(1, min(num_threads(), count // 4))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """The threads of this process that encode and decode; none of them waits for another."""
    return ThreadPoolExecutor(max_workers=num_threads(), thread_name_prefix="rlhive-frames")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads but its own


def _codec() -> pa.Codec:
    """This thread's own codec."""
    if not hasattr(_local, "codec"):
        _local.codec = pa.Codec(_CODEC)
    return _local.codec


def _mapped(path: Path) -> np.ndarray:
    """A file's bytes, mapped read-only; a file of no bytes cannot be mapped."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, np.uint8)
