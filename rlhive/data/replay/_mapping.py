"""Mapped files that were cut: an error instead of a crash.

A read behind the end of a mapped file kills the process (SIGBUS), so that the size of the file is compared before each
read. A file that is cut during a read still kills the process. A file that is deleted or replaced does no harm: the
mapping keeps the old content.
"""

import os
import weakref
from pathlib import Path

from rlhive.data.replay._checksums import damaged_cache_error


class MappedFiles:
    """The files of a cache folder that are mapped.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: list[tuple[int, int, str]] = []

    def add(self, name: str) -> None:
        """Add a file with its current size; it is kept open."""
        handle = os.open(self._folder / name, os.O_RDONLY)
        weakref.finalize(self, os.close, handle)
        self._files.append((handle, os.lseek(handle, 0, os.SEEK_END), name))

    def require_whole(self) -> None:
        """Raise if a file has become shorter since it was added.

        Raises:
            CorruptDatasetError: Names the folder and the file.
        """
        for handle, size, name in self._files:
            if os.lseek(handle, 0, os.SEEK_END) < size:  # a third of the time of fstat
                problem = f"{name} was cut while it was open: expected {size} bytes"
                raise damaged_cache_error(self._folder, problem)
