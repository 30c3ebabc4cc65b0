"""A new HDF5 file, written so that a full disk is an error and not the end of the process.

Where a write fails, HDF5 cannot close its objects any more and crashes when they are freed. HDF5 therefore writes to
:class:`_UnfailingFile`, which keeps what the disk does not take in memory; the error is raised after HDF5 has closed.
"""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlhive.data.formats._hdf5 import import_h5py
from rlhive.data.formats._interrupts import detect_interrupts


class Hdf5Writer:
    """A new HDF5 file, as a context manager.

    Args:
        path: Path of the file, which must not exist.

    Raises:
        MissingExtraError: h5py is not installed.
        OSError: The disk is full; raised by :meth:`create_group`, or when the file is closed.
    """

    def __init__(self, path: Path):
        self._path = path
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        h5py = import_h5py()
        with self._exits as exits:
            # An interrupt must not be raised inside HDF5 either, which calls back into Python now.
            self._raise_if_interrupted = exits.enter_context(detect_interrupts(deferred=True))
            self._file = exits.enter_context(_UnfailingFile(self._path))
            self._h5 = exits.enter_context(h5py.File(self._file, "w", track_order=True))
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.close()
        if error is None:
            self._file.raise_error()

    def create_group(self, name: str) -> Any:
        """Return a new ``h5py.Group``; at most its content is held in memory where the disk is full."""
        self._raise_if_interrupted()
        self._file.raise_error()
        return self._h5.create_group(name)


class _UnfailingFile:
    """A binary file that keeps in memory what cannot be written, with the methods that h5py calls.

    Args:
        path: Path of the file, which must not exist.
    """

    def __init__(self, path: Path):
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._position = 0
        self._num_bytes = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._handle)

    def raise_error(self) -> None:
        """Raise the first error of the disk, if there was one."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, content: Any) -> int:
        """Write at the position."""
        view = memoryview(content).cast("B")
        if self._error is None:
            try:
                written = 0
                while written < len(view):
                    written += os.pwrite(self._handle, view[written:], self._position + written)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._unwritten.append((self._position, bytes(view)))
        self._position += len(view)
        self._num_bytes = max(self._num_bytes, self._position)
        return len(view)

    def read(self, count: int = -1) -> bytes:
        """Read from the position."""
        end = self._num_bytes if count < 0 else min(self._num_bytes, self._position + count)
        content = bytearray(max(0, end - self._position))
        self.readinto(content)
        return bytes(content)

    def readinto(self, buffer: Any) -> int:
        """Read from the position into a buffer: what the disk holds, and over it what it did not take."""
        start, view = self._position, memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._num_bytes - start))
        content = os.pread(self._handle, count, start)
        view[:count] = content.ljust(count, b"\0")
        for offset, unwritten in self._unwritten:
            first, last = max(offset, start), min(offset + len(unwritten), start + count)
            if first < last:
                view[first - start : last - start] = unwritten[first - offset : last - offset]
        self._position += count
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        self._num_bytes = self._position if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._handle, self._num_bytes)
            except OSError as error:
                self._error = error
        return self._num_bytes

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""
