"""Losslessly compressed pictures: how an encoded cache stores a wide field instead of raw rows.

::

    wide-0.lz4     the frames one after the other, an LZ4 block each
    wide-0.idx     int64 per frame: first byte, number of bytes, number of its key frame

    frame      k      k+1       k+2            k+3            a camera's frames in one episode
    content    s_0    s_1 - s_0  s_2 - s_0     s_3            bytes, modulo 256
    key        k      k          k             k+3            its own number: stored as it is

A row has one frame per camera. A camera that stands still sees the same background throughout an episode, so that the
byte-wise difference from the episode's first frame is mostly zeros and takes a fourth of the frame's PNG. Reading a
frame decodes at most two frames, never a chain. If the difference is not smaller than the frame, as with a moving
camera, the frame itself is stored.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import torch

from rlhive._threads import num_cores
from rlhive.data.replay._checksums import damaged_cache_error
from rlhive.data.replay._mapping import MappedFiles
from rlhive.errors import CorruptDatasetError

#: Zstandard files are a tenth smaller and take four times as long to read, see benchmarks/picture_codecs.py.
_CODEC = "lz4_raw"

#: If a difference shrinks to this share of a frame, the frame itself is not compressed for comparison.
_SMALL_SHARE = 0.25

_WORD = 8
_START, _SIZE, _KEY = range(3)

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_thread_local = threading.local()


@dataclass(frozen=True)
class FrameFormat:
    """The frames in a row of a wide field.

    Attributes:
        num_frames: Number of frames in a row.
        frame_bytes: Bytes of a frame.
        row_bytes: Bytes of a row, a multiple of 8.
    """

    num_frames: int
    frame_bytes: int
    row_bytes: int

    @classmethod
    def from_shape(cls, shape: Sequence[int], itemsize: int, row_bytes: int) -> "FrameFormat":
        """Return the format of a field; the last three dimensions of its shape are one frame."""
        frame_bytes = int(np.prod(shape[-3:])) * itemsize
        return cls(int(np.prod(shape[:-3])), frame_bytes, row_bytes)


class RowReader(ABC):
    """Rows of a wide field that are decoded when they are read."""

    @abstractmethod
    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows by their numbers, int64 ``[n, row_bytes // 8]`` in new memory."""


class FrameWriter:
    """Compress rows in order, on :func:`num_threads` threads.

    Args:
        folder: Folder of the files; rows are appended to those of an earlier build.
        name: Name of the files without a suffix.
        frame_format: Frames of a row.
        first_rows: For every row, the first row of its episode, int64 ``[num_rows]``.
    """

    def __init__(self, folder: Path, name: str, frame_format: FrameFormat, first_rows: np.ndarray):
        self._format = frame_format
        self._first_rows = first_rows
        self._file = (Path(folder) / f"{name}.lz4").open("ab")
        self._index_file = (Path(folder) / f"{name}.idx").open("ab")
        self._num_rows = self._index_file.tell() // (frame_format.num_frames * 3 * _WORD)
        self._num_bytes = self._file.tell()
        # The first row of the episode at hand, which may have come in an earlier call.
        self._key_row = np.empty((frame_format.num_frames, frame_format.frame_bytes), np.uint8)
        if self._num_rows < len(first_rows) and first_rows[self._num_rows] < self._num_rows:
            self._key_row = self._read_row(Path(folder), name, int(first_rows[self._num_rows]))

    def write(self, rows: np.ndarray) -> None:
        """Append rows, uint8 ``[n, row_bytes]``."""
        num_frames, frame_bytes, start = self._format.num_frames, self._format.frame_bytes, self._num_rows
        frames = rows[:, : num_frames * frame_bytes].reshape(len(rows), num_frames, frame_bytes)
        first_rows = self._first_rows[start : start + len(rows)]
        pairs = self._pair_with_keys(frames, first_rows)
        index = np.empty((len(rows) * num_frames, 3), np.int64)
        numbers = np.arange(len(index)) + start * num_frames
        key_numbers = first_rows.repeat(num_frames) * num_frames + np.tile(np.arange(num_frames), len(rows))
        for position, (content, is_key) in enumerate(_map_in_batches(_encode, pairs)):
            self._file.write(content)
            key_number = numbers[position] if is_key else key_numbers[position]
            index[position] = self._num_bytes, len(content), key_number
            self._num_bytes += len(content)
        self._index_file.write(index.data)
        self._num_rows += len(rows)

    @property
    def files(self) -> tuple[BinaryIO, ...]:
        """The open files."""
        return self._file, self._index_file

    def _read_row(self, folder: Path, name: str, row: int) -> np.ndarray:
        """Return the frames ``[num_frames, frame_bytes]`` of a row that an earlier build wrote."""
        reader = FrameReader(folder, name, self._format, self._num_rows)
        content = reader.take(torch.tensor([row])).numpy().view(np.uint8)[0]
        num_frames, frame_bytes = self._format.num_frames, self._format.frame_bytes
        return content[: num_frames * frame_bytes].reshape(num_frames, frame_bytes)

    def _pair_with_keys(self, frames: np.ndarray, first_rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return every frame with its key frame, None for the frames of an episode's first row."""
        pairs = []
        for row, first_row in enumerate((first_rows - self._num_rows).tolist()):
            if first_row >= 0:
                self._key_row = frames[first_row]
            for camera in range(self._format.num_frames):
                pairs.append((frames[row, camera], self._key_row[camera] if first_row < row else None))
        self._key_row = self._key_row.copy()  # a view would keep the caller's rows in memory
        return pairs


class FrameReader(RowReader):
    """Compressed rows, decoded when they are read.

    Args:
        folder: Folder that a :class:`FrameWriter` wrote to.
        name: Name of the files without a suffix.
        frame_format: Frames of a row.
        num_rows: Number of rows.

    Raises:
        CorruptDatasetError: A file is missing, or the index has the wrong size.
    """

    def __init__(self, folder: Path, name: str, frame_format: FrameFormat, num_rows: int):
        self._format = frame_format
        self._num_rows = num_rows
        self._path = Path(folder) / f"{name}.lz4"
        index_path = Path(folder) / f"{name}.idx"
        expected = num_rows * frame_format.num_frames * 3 * _WORD
        size = index_path.stat().st_size if index_path.is_file() else 0
        if size != expected or not self._path.is_file():
            msg = f"{index_path.name}: expected {expected} bytes and {self._path.name} beside it, got {size}"
            raise self._damaged_error(msg)
        self._files = MappedFiles(self._path.parent)
        self._files.add(index_path.name)
        self._files.add(self._path.name)
        self._index = _map_file(index_path).view(np.int64).reshape(-1, 3)
        self._content = pa.py_buffer(_map_file(self._path))

    def __len__(self) -> int:
        return self._num_rows

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Decode rows on :func:`num_threads` threads.

        Args:
            rows: Row numbers, int64 ``[n]``. A repeated number is decoded once per thread.

        Returns:
            int64 ``[n, row_bytes // 8]`` in new memory; the bytes after the last frame of a row are undefined.

        Raises:
            CorruptDatasetError: A frame cannot be decoded, or a file was cut.
        """
        self._files.require_whole()
        decoded = torch.empty(len(rows), self._format.row_bytes // _WORD, dtype=torch.int64, device="cpu")
        target = decoded.numpy().view(np.uint8)
        numbers = rows.numpy()
        # Neighbouring rows go to the same thread: they share their key frames, and equal rows are decoded once.
        order = np.argsort(numbers, kind="stable")
        chunks = [chunk for chunk in np.array_split(order, _num_chunks(len(order))) if len(chunk)]
        for _ in map_in_threads(lambda chunk: self._decode_rows(target, numbers, chunk), chunks):
            pass
        return decoded

    def _decode_rows(self, target: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> None:
        """Decode row ``numbers[position]`` into ``target[position]`` for some positions, ordered by row number."""
        num_frames, frame_bytes = self._format.num_frames, self._format.frame_bytes
        frames = (numbers[positions][:, None] * num_frames + np.arange(num_frames)).reshape(-1)
        entries = self._index[frames]
        self._require_valid(entries, frames)
        keys: list[tuple[int, np.ndarray]] = [(-1, np.empty(0, np.uint8))] * num_frames
        previous = -1
        for offset, position in enumerate(positions.tolist()):
            row = target[position]
            if previous >= 0 and numbers[position] == numbers[previous]:
                row[:] = target[previous]
                continue
            for camera in range(num_frames):
                entry = offset * num_frames + camera
                start, size, key = entries[entry].tolist()
                frame = row[camera * frame_bytes : (camera + 1) * frame_bytes]
                if key == frames[entry]:
                    frame[:] = self._decode(start, size)
                    continue
                if keys[camera][0] != key:
                    keys[camera] = key, self._decode(*self._index[key, :_KEY].tolist())
                np.add(self._decode(start, size), keys[camera][1], out=frame)
            previous = position

    def _decode(self, start: int, size: int) -> np.ndarray:
        """Return the uint8 content of a block of the file."""
        try:
            block = self._content.slice(start, size)
            return np.frombuffer(_codec().decompress(block, self._format.frame_bytes), np.uint8)
        except (OSError, ValueError) as error:
            msg = f"{self._path.name}, bytes {start} to {start + size}: {error}"
            raise self._damaged_error(msg) from error

    def _require_valid(self, entries: np.ndarray, frames: np.ndarray) -> None:
        """Raise if an index entry lies outside the file, or its key frame is itself a difference."""
        keys = entries[:, _KEY]
        is_valid = (keys >= 0) & (keys < len(self._index))
        key_entries = self._index[np.where(is_valid, keys, 0)]
        for rows in (entries, key_entries):
            stop = rows[:, _START] + rows[:, _SIZE]
            is_valid &= (rows[:, _START] >= 0) & (rows[:, _SIZE] > 0) & (stop <= self._content.size)
        is_valid &= key_entries[:, _KEY] == keys
        if not is_valid.all():
            msg = f"{self._path.stem}.idx, frame {int(frames[~is_valid][0])}: invalid start, size or key"
            raise self._damaged_error(msg)

    def _damaged_error(self, problem: str) -> CorruptDatasetError:
        return damaged_cache_error(self._path.parent, problem)


def num_threads() -> int:
    """Return the number of threads that encode or decode: one per core, and one in a DataLoader's worker."""
    if torch.utils.data.get_worker_info() is not None:
        return 1
    return num_cores()


def _encode(pair: tuple[np.ndarray, np.ndarray | None]) -> tuple[bytes, bool]:
    """Compress a frame or its difference from its key frame, whichever is smaller.

    Returns:
        The content, and whether it is the frame itself.
    """
    frame, key = pair
    if key is None:
        return _codec().compress(frame, asbytes=True), True
    difference = _codec().compress(frame - key, asbytes=True)
    if len(difference) < _SMALL_SHARE * len(frame):
        return difference, False
    whole = _codec().compress(frame, asbytes=True)
    return (whole, True) if len(whole) <= len(difference) else (difference, False)


def map_in_threads(work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterable[_Result]:
    """Return the results of all jobs in order, each job on one of several threads."""
    if num_threads() == 1 or len(jobs) == 1:
        return map(work, jobs)
    return _thread_pool().map(work, jobs)


def _map_in_batches(work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterable[_Result]:
    """Return the results of many small jobs in order; a thread does a batch of them at a time."""
    size = max(1, -(-len(jobs) // (4 * num_threads())))
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return (result for results in map_in_threads(lambda batch: list(map(work, batch)), batches) for result in results)


def _num_chunks(num_rows: int) -> int:
    """Return the number of chunks to decode in parallel, of at least 4 rows: waking a thread costs about one row."""
    return max(1, min(num_threads(), num_rows // 4))


@lru_cache(maxsize=1)
def _thread_pool() -> ThreadPoolExecutor:
    """Return this process's threads for encoding and decoding; none of their jobs waits for another."""
    return ThreadPoolExecutor(max_workers=num_threads(), thread_name_prefix="rlhive-frames")


os.register_at_fork(after_in_child=_thread_pool.cache_clear)  # a forked process has no threads of its parent's pool


def _codec() -> pa.Codec:
    """Return the codec of the current thread; a codec must not be shared between threads."""
    if not hasattr(_thread_local, "codec"):
        _thread_local.codec = pa.Codec(_CODEC)
    return _thread_local.codec


def _map_file(path: Path) -> np.ndarray:
    """Return the bytes of a file, mapped read-only; an empty file cannot be mapped."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, np.uint8)
