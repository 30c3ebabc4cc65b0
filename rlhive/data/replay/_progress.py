"""How far the build of a cache came, so that the build goes on where it was after its process was killed.

::

    progress.json    {"key": …, "num_transitions": …, "files": {"records.bin": {"bytes": …, "crc32": …}, …}}

The files of a cache only grow. They are on the disk before the note that names their sizes, so that a note is never
ahead of them; what lies behind the noted sizes is cut off when the build goes on.
"""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from rlhive.data import _store

NOTE_NAME = "progress.json"
_READ_BYTES = 2**20


class BuildProgress:
    """The noted progress of a build.

    Opening it cuts the files of the folder to their noted sizes and removes all others. Unless each file still has the
    noted content, and the note the same key, the folder is emptied.

    Args:
        folder: Folder of the build.
        key: What the content of the cache depends on.

    Attributes:
        num_transitions: Number of transitions that the files hold.
    """

    def __init__(self, folder: Path, key: str):
        self._folder, self._key = folder, key
        self.num_transitions, self._files = self._read()
        for path in folder.iterdir():
            if path.name in self._files:
                os.truncate(path, self._files[path.name][0])
            elif path.name != NOTE_NAME or not self._files:
                path.unlink()

    def note(self, num_transitions: int, names: Iterable[str]) -> None:
        """Note that the files of the folder hold some transitions.

        Args:
            num_transitions: Number of transitions.
            names: Names of the files, which are flushed to the disk.
        """
        for name in names:
            start, checksum = self._files.get(name, (0, 0))
            stop = (self._folder / name).stat().st_size
            self._files[name] = stop, _continue_checksum(self._folder / name, start, stop, checksum)
        files = {name: {"bytes": size, "crc32": checksum} for name, (size, checksum) in self._files.items()}
        content = {"key": self._key, "num_transitions": num_transitions, "files": files}
        _store.write_atomically(self._folder / NOTE_NAME, json.dumps(content).encode())
        self.num_transitions = num_transitions

    def _read(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return the number of transitions, and size and checksum of each file; nothing if they cannot be used."""
        names = {path.name for path in self._folder.iterdir()}
        try:
            content = json.loads((self._folder / NOTE_NAME).read_text(encoding="utf-8"))
            num_transitions = int(content["num_transitions"])
            files = {name: (int(entry["bytes"]), int(entry["crc32"])) for name, entry in content["files"].items()}
            is_intact = content["key"] == self._key and files.keys() <= names
            is_intact = is_intact and all(
                _continue_checksum(self._folder / name, 0, size, 0) == checksum
                for name, (size, checksum) in files.items()
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return 0, {}
        return (num_transitions, files) if is_intact else (0, {})


def remove_progress(folder: Path) -> None:
    """Remove the note of a build that is complete."""
    (folder / NOTE_NAME).unlink(missing_ok=True)


def _continue_checksum(path: Path, start: int, stop: int, checksum: int) -> int:
    """Return the CRC-32 of the first ``stop`` bytes of a file, given that of the first ``start`` bytes.

    Raises:
        ValueError: The file is shorter.
    """
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            content = file.read(min(stop - start, _READ_BYTES))
            if not content:
                msg = f"{path}: expected {stop} bytes, got {start}"
                raise ValueError(msg)
            checksum = zlib.crc32(content, checksum)
            start += len(content)
    return checksum
