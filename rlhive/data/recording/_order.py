"""The episodes of many streams in the order of their ids: found in one pass, read again only where they are many."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhive.data._episodes import EpisodeRecord
from rlhive.data.recording._stream import BLOCK_BYTES, Place, StreamReader

#: So many streams are open at once; a recording may have more than a process may open files.
MAX_OPEN = 64
#: Streams of at most so many bytes together are read once, larger ones twice.
KEPT_BYTES = 64 * 2**20


class _Known(NamedTuple):
    """A whole episode: where it lies, and what it hashed to."""

    path: Path
    place: Place
    content_hash: str
    identity: str


def in_order(paths: Iterable[Path], reader_of: Callable[[Path], StreamReader]) -> Iterator[EpisodeRecord]:
    """Yield every whole and undamaged episode of some streams in the order of their ids; a repeated id once.

    Each episode is hashed once, to check it, and the record remembers its hashes.

    Memory: half a kilobyte for each episode and at most KEPT_BYTES of them; streams are mapped, not read into memory.

    Args:
        paths: Of the streams.
        reader_of: Opens one of them.
    """
    known, kept = _survey(paths, reader_of)
    if kept is not None:
        yield from (kept[episode] for episode in sorted(known))
        return
    readers: dict[Path, StreamReader] = {}
    with contextlib.ExitStack() as stack:
        for block in _blocks_of([known[episode] for episode in sorted(known)]):
            path = block[0].path
            if path not in readers and len(readers) == MAX_OPEN:
                stack.pop_all().close()  # what was yielded keeps its part of the mapping
                readers = {}
            if path not in readers:
                readers[path] = stack.enter_context(reader_of(path))
            records = readers[path].read([one.place for one in block])
            for one, record in zip(block, records, strict=True):
                yield record.with_known_hashes(one.content_hash, one.identity)


def _survey(
    paths: Iterable[Path], reader_of: Callable[[Path], StreamReader]
) -> tuple[dict[int, _Known], dict[int, EpisodeRecord] | None]:
    """Return where every whole episode lies, and the episodes themselves where all of them are few bytes."""
    known: dict[int, _Known] = {}
    kept: dict[int, EpisodeRecord] | None = {}
    size = 0
    for path in paths:
        with reader_of(path) as reader:
            for place, record in reader.scan():
                if record.episode in known:
                    continue
                known[record.episode] = _Known(path, place, record.content_hash(), record.identity())
                size += place.size
                if size > KEPT_BYTES:
                    kept = None
                if kept is not None:
                    kept[record.episode] = record
    return known, kept


def _blocks_of(episodes: Iterable[_Known]) -> Iterator[list[_Known]]:
    """Cut a sequence of episodes where the stream changes or a block is full."""
    block: list[_Known] = []
    size = 0
    for one in episodes:
        if block and (one.path != block[0].path or size >= BLOCK_BYTES):
            yield block
            block, size = [], 0
        block.append(one)
        size += one.place.size
    if block:
        yield block
