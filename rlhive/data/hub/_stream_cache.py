"""A bounded cache of the byte ranges that a stream reads, on this machine's disk.

::

    <store>/.cache/<fingerprint>.stream/<SHA-256 of the shard>-<first byte>-<stop>

A range is kept after the episodes in it were compared with their content hashes, and they are compared again whenever
it is read: a damaged range is fetched again. A full cache makes room by removing the ranges of other versions, never
of this one: each epoch reads all ranges once, so that removing the oldest would leave none for the next epoch.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from rlhive.data import _store

logger = logging.getLogger(__name__)

#: Bytes of the disk that stay free.
_RESERVED_BYTES = 10**9
#: After so many new ranges, the cache is measured again: other processes add to it as well.
_ADDITIONS_PER_SCAN = 64


class RangeCache:
    """The cached ranges of one version; usable by several threads and processes.

    Args:
        folder: Folder of the version's ranges, in the folder of all caches.
        limit_bytes: Size that the ranges of all versions may have together.
    """

    def __init__(self, folder: Path, limit_bytes: float):
        self._folder, self._limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        self._num_added = 0
        self._used_bytes = 0.0

    def find(self, name: str) -> bytes | None:
        """Return the content of a range; None if it is not cached."""
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def add(self, name: str, content: bytes) -> None:
        """Keep a range if there is room for it, or can be made."""
        with self._lock:
            try:
                if self._make_room(len(content)):
                    self._write(name, content)
            except OSError as error:
                logger.warning("%s: ranges are not cached any more (%s)", self._folder, error)
                self._limit_bytes = 0.0

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # "rlhive delete" may have removed it
        partial = self._folder / f".{name}.{os.getpid()}"
        try:
            partial.write_bytes(content)  # not flushed to the disk: what a power loss leaves is found to be damaged
            partial.replace(self._folder / name)
        finally:
            partial.unlink(missing_ok=True)
        self._used_bytes += len(content)
        self._num_added += 1

    def _make_room(self, num_bytes: int) -> bool:
        """Return whether some more bytes fit, after the ranges of versions that were streamed before are removed."""
        if num_bytes > self._limit_bytes:
            return False
        if self._num_added % _ADDITIONS_PER_SCAN == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.utime(self._folder)  # of the versions, the one that was streamed longest ago goes first
            self._used_bytes = sum(map(_sum_sizes, self._list_folders()))
        for folder in self._list_folders():
            if self._fits(num_bytes):
                return True
            if folder != self._folder:
                self._used_bytes -= _sum_sizes(folder)
                shutil.rmtree(folder, ignore_errors=True)
        return self._fits(num_bytes)

    def _fits(self, num_bytes: int) -> bool:
        free_bytes = _store.free_bytes(self._folder.parent)
        return self._used_bytes + num_bytes <= self._limit_bytes and free_bytes >= num_bytes + _RESERVED_BYTES

    def _list_folders(self) -> list[Path]:
        """Return the folders of all versions, the one first that was streamed longest ago."""
        folders = self._folder.parent.glob(f"*{_store.STREAM_SUFFIX}")
        return sorted(folders, key=lambda folder: folder.stat().st_mtime)


class CachedRanges:
    """Reads ranges of one remote file, from the cache or from the remote store, for one use of them.

    Args:
        cache: The cache; None without one.
        name: Name of the file in the cache.
        fetch: Returns the bytes from a first to a last, exclusive.
        renew: Whether to fetch what is cached, too.
    """

    def __init__(self, cache: RangeCache | None, name: str, fetch: Callable[[int, int], bytes], *, renew: bool = False):
        self._cache, self._name, self._fetch, self._renew = cache, name, fetch, renew
        self._fetched: dict[str, bytes] = {}
        self._found: list[str] = []

    @property
    def uses_cache(self) -> bool:
        """Whether a range came from the cache."""
        return bool(self._found)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range."""
        if self._cache is None:
            return self._fetch(start, stop)
        name = f"{self._name}-{start}-{stop}"
        content = None if self._renew else self._cache.find(name)
        if content is not None and len(content) == stop - start:
            self._found.append(name)
            return content
        self._fetched[name] = content = self._fetch(start, stop)
        return content

    def keep(self) -> None:
        """Cache what was fetched: it is verified."""
        if self._cache is not None:
            for name, content in self._fetched.items():
                self._cache.add(name, content)


def _sum_sizes(folder: Path) -> int:
    """Return the size of the files in a folder in bytes; files that vanish count as nothing."""
    num_bytes = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                num_bytes += entry.stat().st_size
    return num_bytes
