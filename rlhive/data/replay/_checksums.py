"""Checksums of the files of a cache folder, kept in its ``seal.json``.

::

    seal.json    {"source": …,
                  "files": {"records.bin": {"bytes": …, "crc32": [one per CHUNK_BYTES],
                                            "stamp": [inode, mtime_ns, ctime_ns]}}}

Writing to a file, truncating, copying or replacing it changes its stamp. A file with an unchanged stamp is accepted
without being read, so that a cache opens in milliseconds. A file with a new stamp is read once, and the new stamp is
recorded if the checksums match. Stamps do not detect a disk that returns other bits than were written;
``require_intact(folder, read_all=True)`` does.
"""

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from rlhive.data import _store
from rlhive.data.replay import _progress
from rlhive.errors import CorruptDatasetError

FILE_NAME = "seal.json"
CHUNK_BYTES = 16 * 2**20
_READ_BYTES = 2**20


def write_checksums(folder: Path, source: str) -> None:
    """Write the checksums of all files of a folder, which must not be written to afterwards.

    Args:
        folder: The folder.
        source: Key of the data that the files were derived from.
    """
    files = {path.name: _compute_checksums(path) | {"stamp": _read_stamp(path)} for path in _list_files(folder)}
    _write_record(folder, source, files)


def read_source(folder: Path) -> str:
    """Return the key of the data that a folder was derived from; empty if the folder has no readable checksums."""
    try:
        return _read_record(Path(folder))[0]
    except CorruptDatasetError:
        return ""


def require_intact(folder: Path, *, read_all: bool = False) -> None:
    """Raise unless every file of a folder matches its checksums.

    Args:
        folder: The folder.
        read_all: Whether to read files with an unchanged stamp as well.

    Raises:
        CorruptDatasetError: A file is missing, was added, or has changed.
    """
    folder = Path(folder)
    source, files = _read_record(folder)
    names = [path.name for path in _list_files(folder)]
    if set(names) != files.keys():
        raise damaged_cache_error(folder, f"expected the files {', '.join(files)}, got {', '.join(names)}")
    has_new_stamps = False
    for name, recorded in files.items():
        stamp = _read_stamp(folder / name)
        is_touched = stamp != recorded.get("stamp")
        if not (is_touched or read_all):
            continue
        if _compute_checksums(folder / name) != {key: recorded.get(key) for key in ("bytes", "crc32")}:
            raise damaged_cache_error(folder, f"the content of {name} does not match its checksums")
        if is_touched:
            recorded["stamp"] = stamp
            has_new_stamps = True
    if has_new_stamps:
        with contextlib.suppress(OSError):  # without write permission the files are read at every opening
            _write_record(folder, source, files)


def damaged_cache_error(folder: Path, problem: str) -> CorruptDatasetError:
    """Return the error for a damaged cache folder, ready to be raised."""
    return CorruptDatasetError(
        f"Cache {folder} is damaged: {problem}. Delete the folder; the next call builds it again."
    )


def _read_record(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the source and the entry of every file from ``seal.json``."""
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        source, files = str(content["source"]), dict(content["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged_cache_error(folder, f"{FILE_NAME}: {error!r}") from error
    if not all(isinstance(entry, dict) for entry in files.values()):
        raise damaged_cache_error(folder, f"{FILE_NAME} was not written by RLHive")
    return source, files


def _write_record(folder: Path, source: str, files: dict[str, Any]) -> None:
    _store.write_atomically(Path(folder) / FILE_NAME, json.dumps({"source": source, "files": files}).encode())


def _list_files(folder: Path) -> list[Path]:
    """Return the files that have checksums, sorted by name."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.name not in (FILE_NAME, _progress.NOTE_NAME) and _store.PARTIAL_SUFFIX not in path.name
    )


def _compute_checksums(path: Path) -> dict[str, Any]:
    """Return the size of a file and the CRC-32 of each of its chunks."""
    checksums: list[int] = []
    with path.open("rb") as file:
        for _ in range(0, path.stat().st_size, CHUNK_BYTES):
            checksum, num_left = 0, CHUNK_BYTES
            while num_left and (content := file.read(min(num_left, _READ_BYTES))):
                checksum = zlib.crc32(content, checksum)
                num_left -= len(content)
            if num_left < CHUNK_BYTES:
                checksums.append(checksum)
    return {"bytes": path.stat().st_size, "crc32": checksums}


def _read_stamp(path: Path) -> list[int]:
    """Return what changes whenever a file is written to or replaced: inode, modification and change time."""
    status = path.stat()
    return [status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
