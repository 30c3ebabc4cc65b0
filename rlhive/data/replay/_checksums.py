"""A derived folder's seal: checksums of its files, and how the operating system last saw them.

    seal.json    {"source": …,
                  "files": {"records.bin": {"bytes": …, "crc32": […per PIECE…], "stamp": [inode, mtime_ns, ctime_ns]}}}

Whoever writes into a file, cuts it, copies it or puts another in its place changes its stamp; then the checksums are
computed once, and a match is stamped anew. A file whose stamp has not changed is taken without being read, so that
opening takes milliseconds. What the stamps cannot see is a disk that returns other bits than were written.
"""

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from rlhive.data import _store
from rlhive.errors import CorruptDataset

FILE_NAME = "seal.json"
PIECE = 16 * 2**20
_READ = 2**20


def seal(folder: Path, source: str) -> None:
    """Write the seal of all files of a folder, which nobody writes to any more.

    Args:
        folder: The folder.
        source: What its content was derived from.
    """
    files = {path.name: _checksums(path) | {"stamp": _stamp(path)} for path in _files(folder)}
    _write(folder, source, files)


def source_of(folder: Path) -> str:
    """Return what a folder was derived from; empty where no seal says so."""
    try:
        return _read(Path(folder))[0]
    except CorruptDataset:
        return ""


def require_sealed(folder: Path, *, read: bool = False) -> None:
    """Raise unless every file of the folder is what was sealed.

    Args:
        folder: The folder.
        read: Whether to read every file, even one that nobody seems to have touched.

    Raises:
        CorruptDataset: A file is missing, is more than was sealed, or is not what it was.
    """
    folder = Path(folder)
    source, files = _read(folder)
    touched = False
    if {path.name for path in _files(folder)} != files.keys():
        raise _broken(folder, f"expected the files {', '.join(files)}, got {', '.join(p.name for p in _files(folder))}")
    for name, told in files.items():
        path = folder / name
        stamp = _stamp(path)
        if not read and stamp == told.get("stamp"):
            continue
        if _checksums(path) != {key: told.get(key) for key in ("bytes", "crc32")}:
            raise _broken(folder, f"{name} has other content than was written")
        if stamp != told.get("stamp"):
            told["stamp"], touched = stamp, True
    if touched:
        with contextlib.suppress(OSError):  # whoever may not write here reads the files each time
            _write(folder, source, files)


def _read(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        source, files = str(content["source"]), dict(content["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _broken(folder, f"{FILE_NAME}: {error!r}") from error
    if not all(isinstance(row, dict) for row in files.values()):
        raise _broken(folder, f"{FILE_NAME} is not one that RLHive wrote")
    return source, files


def _write(folder: Path, source: str, files: dict[str, Any]) -> None:
    _store.write_aside(Path(folder) / FILE_NAME, json.dumps({"source": source, "files": files}).encode())


def _files(folder: Path) -> list[Path]:
    there = (path for path in Path(folder).iterdir() if path.name != FILE_NAME and _store.PARTIAL not in path.name)
    return sorted(there)


def _checksums(path: Path) -> dict[str, Any]:
    sums: list[int] = []
    with path.open("rb") as file:
        for _ in range(0, path.stat().st_size, PIECE):
            checksum, left = 0, PIECE
            while left and (part := file.read(min(left, _READ))):
                checksum, left = zlib.crc32(part, checksum), left - len(part)
            if left < PIECE:
                sums.append(checksum)
    return {"bytes": path.stat().st_size, "crc32": sums}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _broken(folder: Path, problem: str) -> CorruptDataset:
    return CorruptDataset(f"Cache {folder} is damaged: {problem}. Delete the folder; it is made again.")
