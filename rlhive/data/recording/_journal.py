"""Journals: the transitions of open episodes on disk, so that a long episode neither fills memory nor is lost whole.

::

    <token>.open     frame: JSON    episode metadata, run, fields           one file for each open episode
                     frame: rows    Arrow record batch
                     frame: rows    …

    frame            magic, CRC-32, size; content; zeros up to a multiple of 64 bytes

A journal begins when an episode is SAVE_SECONDS old or SAVE_BYTES large, and is removed when the recording holds the
episode. The file is locked by the process that writes it: a journal without a lock is what a killed process left, and
recovery makes an episode of it. Frames that a kill or a power loss cut are left out.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive.data import _arrow, _store
from rlhive.data._episode_builder import ChunkList
from rlhive.data._episodes import EpisodeInfo
from rlhive.data._schema import Field, Schema
from rlhive.data._transition_batch import Leaves
from rlhive.errors import DiskFullError, StoreNotWritableError

logger = logging.getLogger(__name__)

SUFFIX = ".open"
#: Transitions of an open episode are on disk at most this many seconds after they were recorded …
SAVE_SECONDS = 2.0
#: … or as soon as they take this many bytes, whichever comes first.
SAVE_BYTES = 4 * 2**20

_MAGIC = b"RLHOPEN1"
_FRAME = struct.Struct("<8sIQ")  # magic, CRC-32 of the content, size of the content
_ALIGNMENT = 64


class EpisodeJournal(ChunkList):
    """The chunks of an open episode, of which the earlier ones lie on disk.

    Memory: SAVE_BYTES, or what comes in SAVE_SECONDS. If the disk is full, a warning says so, and what follows stays in
    memory.

    Args:
        folder: Folder of the recording.
        info: Metadata of the episode.
        run: Id of the run that records.
        on_incomplete: What becomes of the episode if it is not ended.

    Attributes:
        token: Name of the journal, unique among all recordings.
    """

    def __init__(self, folder: Path, info: EpisodeInfo, *, run: str, on_incomplete: str):
        super().__init__()
        self.token = uuid.uuid4().hex
        self._path = folder / f"{self.token}{SUFFIX}"
        self._header = {"run": run, "on_incomplete": on_incomplete, "info": _info_to_json(info)}
        self._file: int | None = None
        self._is_broken = False
        self._schema = Schema(())
        self._save_after = time.monotonic() + SAVE_SECONDS

    def keep(self) -> None:
        """Write the chunks to the disk if they are large or old enough."""
        super().keep()
        if not self.chunks:  # a chunk that differs from the first one was not added; the end of the episode says so
            return
        if not self._is_broken and (self.num_bytes >= SAVE_BYTES or time.monotonic() >= self._save_after):
            self._save()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Sequence[Leaves]]:
        """Give all chunks in order, to be read inside the block; those on disk are mapped."""
        if not self._saved_bytes:
            yield self.chunks
            return
        with contextlib.closing(pa.memory_map(str(self._path))) as source:
            frames = _read_frames(source, self._saved_bytes)
            next(frames)
            yield [*(_decode_rows(frame, self._schema) for frame in frames), *self.chunks]

    def clear(self) -> None:
        """Forget the chunks, those on disk too; the file stays."""
        super().clear()
        self._saved_bytes = 0  # of complete frames

    @property
    def is_saved(self) -> bool:
        """Whether the episode has a file."""
        return self._file is not None

    def remove(self) -> None:
        """Remove the file: the recording holds the episode, or refused it."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Close the file, which stays: in a fork, it is the parent's."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _save(self) -> None:
        chunk = super().concatenate()
        try:
            with _store.translate_disk_errors(self._path):
                if not self._saved_bytes:
                    self._begin(chunk)
                end = self._write(_encode_rows(chunk, self._schema))
        except (DiskFullError, StoreNotWritableError) as error:
            self._is_broken = True
            logger.warning("The open episode stays in memory, and is lost if this process dies: %s", error)
            return
        # One statement: Ctrl-C may come between two, and the chunks would then be on the disk and in memory.
        self._saved_bytes, self.chunks, self.num_bytes = end, [], 0
        self._save_after = time.monotonic() + SAVE_SECONDS

    def _begin(self, chunk: Leaves) -> None:
        self._schema = Schema(tuple(Field.of_array(name, array) for name, array in sorted(chunk.items())))
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._saved_bytes = self._write(json.dumps(self._header | {"fields": self._schema.to_json()}).encode())
        _store.fsync_path(self._path.parent)

    def _write(self, content: bytes | pa.Buffer) -> int:
        """Write a frame behind the complete ones, flush it, and return where it ends."""
        assert self._file is not None
        frame, end = _frame(content), self._saved_bytes
        while frame:
            count = os.pwrite(self._file, frame, end)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            frame, end = frame[count:], end + count
        getattr(os, "fdatasync", os.fsync)(self._file)
        return end


@dataclass(frozen=True)
class InterruptedEpisode:
    """An episode that was open when its process died.

    Attributes:
        token: Name of its journal.
        run: Id of the run that recorded it.
        on_incomplete: What becomes of an episode that was not ended.
        info: Metadata of the episode.
        chunks: The transitions, mapped from the file.
    """

    token: str
    run: str
    on_incomplete: str
    info: EpisodeInfo
    chunks: ChunkList

    @property
    def length(self) -> int:
        """Number of transitions."""
        return sum(len(next(iter(chunk.values()))) for chunk in self.chunks.chunks)


def read_interrupted(folder: Path, list_recorded: Callable[[], Collection[str]]) -> Iterator[InterruptedEpisode]:
    """Yield the episodes that were open when their processes died, and hold the lock of each meanwhile.

    Journals of live processes, and those that cannot be read, are left out.

    Args:
        folder: Folder of the recording.
        list_recorded: Lists the tokens of the journals whose episodes the recording holds, which are left out.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            episode = None if path.stem in list_recorded() else _read_journal(path)
            if episode is not None:
                yield episode


def remove_journals(folder: Path, tokens: Collection[str]) -> None:
    """Remove the journals of episodes that the recording holds."""
    for path in folder.glob(f"*{SUFFIX}"):
        if path.stem in tokens:
            path.unlink(missing_ok=True)


def _read_journal(path: Path) -> InterruptedEpisode | None:
    """Return what a journal holds; None if it holds no transition."""
    try:
        with contextlib.closing(pa.memory_map(str(path))) as source:
            frames = _read_frames(source, path.stat().st_size)
            header = json.loads(next(frames).to_pybytes())
            schema = Schema.from_json(header["fields"])
            chunks = ChunkList()
            for frame in frames:
                chunks.append(_decode_rows(frame, schema))
            info = _info_from_json(header["info"])
            episode = InterruptedEpisode(path.stem, header["run"], header["on_incomplete"], info, chunks)
    except (ValueError, KeyError, TypeError, StopIteration, OSError, pa.ArrowException):
        return None
    return episode if chunks.chunks else None


def _frame(content: bytes | pa.Buffer) -> memoryview:
    padding = -(_ALIGNMENT + len(content)) % _ALIGNMENT
    start = _FRAME.pack(_MAGIC, zlib.crc32(content), len(content)).ljust(_ALIGNMENT, b"\0")
    return memoryview(b"".join([start, memoryview(content), bytes(padding)]))


def _read_frames(source: pa.NativeFile, num_bytes: int) -> Iterator[pa.Buffer]:
    """Yield the content of each complete frame; the first damaged one ends the journal."""
    source.seek(0)
    while source.tell() + _ALIGNMENT <= num_bytes:
        magic, crc, size = _FRAME.unpack_from(source.read_buffer(_ALIGNMENT))
        if magic != _MAGIC or source.tell() + size > num_bytes:
            return
        content = source.read_buffer(size)
        if zlib.crc32(content) != crc:
            return
        yield content
        source.seek(source.tell() + -size % _ALIGNMENT)


def _encode_rows(chunk: Leaves, schema: Schema) -> pa.Buffer:
    num_rows = len(next(iter(chunk.values())))
    return _arrow.columns_to_batch(chunk, [0], [num_rows], schema).serialize()


def _decode_rows(frame: pa.Buffer, schema: Schema) -> Leaves:
    batch = pa.ipc.read_record_batch(frame, _arrow.row_schema(schema))
    batch.validate(full=True)
    return dict(_arrow.table_to_columns(batch, schema))


def _info_to_json(info: EpisodeInfo) -> dict[str, Any]:
    start_state = {name: np.asarray(value, np.float64).ravel().tolist() for name, value in info.start_state.items()}
    return {
        "split": info.split,
        "policy": info.policy,
        "seed": info.seed,
        "metadata": dict(info.metadata),
        "start_state": start_state,
    }


def _info_from_json(content: Mapping[str, Any]) -> EpisodeInfo:
    start_state = {name: np.array(value, np.float64) for name, value in content["start_state"].items()}
    return replace(
        EpisodeInfo(content["split"]),
        policy=content["policy"],
        seed=content["seed"],
        metadata=content["metadata"],
        start_state=start_state,
    )
