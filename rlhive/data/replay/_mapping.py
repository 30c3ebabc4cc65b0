"""Mapped files: several in one range of addresses, and an error instead of a crash for those that were cut.

A read behind the end of a mapped file kills the process (SIGBUS), so that the size of the file is compared before each
read. A file that is cut during a read still kills the process. A file that is deleted or replaced does no harm: the
mapping keeps the old content.
"""

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from rlhive.data.replay._checksums import damaged_cache_error

_WORD = 8

#: Flags of mmap that Python 3.11 does not name.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x40 if sys.platform == "darwin" else 0x4000


class MappedFiles:
    """The files of a cache folder that are mapped.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: list[tuple[int, int, Path]] = []
        self._owners: list[MappedFiles] = []

    @classmethod
    def join(cls, parts: Iterable["MappedFiles"], *, without: str) -> "MappedFiles":
        """Return the files of several folders as one object, without those of one name."""
        joined = cls(Path())
        joined._owners = list(parts)
        joined._files = [file for part in joined._owners for file in part._files if file[2].name != without]
        return joined

    def add(self, name: str) -> None:
        """Add a file with its current size; it is kept open."""
        path = self._folder / name
        handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, handle)
        self._files.append((handle, os.lseek(handle, 0, os.SEEK_END), path))

    def require_whole(self) -> None:
        """Raise if a file has become shorter since it was added.

        Raises:
            CorruptDatasetError: Names the folder and the file.
        """
        for handle, size, path in self._files:
            if os.lseek(handle, 0, os.SEEK_END) < size:  # a third of the time of fstat
                problem = f"{path.name} was cut while it was open: expected {size} bytes"
                raise damaged_cache_error(path.parent, problem)


def map_side_by_side(paths: Sequence[Path], starts: Sequence[int], num_words: int) -> torch.Tensor:
    """Map files into one range of addresses, so that one index reads any of them.

    The mapping is private, as that of ``torch.from_file(shared=False)``: a write does not reach the files. What lies
    between the files reads as zeros and takes no memory. The range is unmapped with the last tensor of it.

    Args:
        paths: Files of int64 words.
        starts: The word at which each file begins, a multiple of ``mmap.PAGESIZE // 8``, rising.
        num_words: Words of the range.

    Returns:
        int64 ``[num_words]``.

    Raises:
        OSError: A file cannot be mapped.
    """
    # Python's mmap reserves and frees the range; it cannot put a file at an address, the C library's can.
    reserved = mmap.mmap(-1, num_words * _WORD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(reserved))
    place = ctypes.CDLL(None, use_errno=True).mmap
    place.restype = ctypes.c_void_p
    place.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    for path, start in zip(paths, starts, strict=True):
        target = address + start * _WORD
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size and place(target, size, protection, flags, file.fileno(), 0) != target:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return torch.frombuffer(reserved, dtype=torch.int64)
