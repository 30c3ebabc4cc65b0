"""The chunks of a streamed version: the order in which an epoch reads them, and reading them.

::

    shards of all splits ─► shuffled ─► groups of SHARDS_PER_GROUP ─► chunks of a group, shuffled ─► rows
                                         footers are read here         a chunk: row groups with whole episodes

The episode table tells how many requested transitions a shard holds, so that footers are read only of the shards that
are due. Without a shuffle, chunks keep the order of the version.
"""

import functools
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._object_store import in_parallel
from rlhive.data.hub._stream_cache import RangeCache
from rlhive.data.hub._stream_order import Runs, permute
from rlhive.data.hub._streaming import ShardSource
from rlhive.data.replay import derive_seed
from rlhive.data.versions import FileEntry, Manifest, iterate_shards, open_videos

if TYPE_CHECKING:
    import pyarrow.parquet as pq

#: Shards whose chunks are shuffled together.
SHARDS_PER_GROUP = 8
_GROUPS_IN_MEMORY = 4
_FOOTERS_IN_MEMORY = 256


@dataclass(frozen=True, eq=False)
class StreamedShard:
    """A shard with requested episodes.

    Attributes:
        entry: The file.
        episodes: Rows of the episode table of the shard's episodes.
        is_requested: Which of them are requested, bool.
    """

    entry: FileEntry
    episodes: pa.Table
    is_requested: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of transitions of each episode."""
        return self.episodes["length"].to_numpy()

    @property
    def num_rows(self) -> int:
        """Number of requested transitions."""
        return int(self.lengths[self.is_requested].sum())


@dataclass(frozen=True)
class StreamedChunk:
    """A chunk of a shard with requested episodes.

    Attributes:
        shard: The shard.
        footer: The shard's footer.
        chunk: Row groups and episodes.
        num_rows: Number of requested transitions.
    """

    shard: StreamedShard
    footer: "pq.FileMetaData"
    chunk: _parquet.Chunk
    num_rows: int


@dataclass(frozen=True)
class Piece:
    """Some rows of a chunk.

    Attributes:
        source: The chunk.
        rows: Indices among the chunk's requested rows, int64.
    """

    source: StreamedChunk
    rows: np.ndarray


class StreamedVersion:
    """The requested transitions of a version, in files on this machine, on the Hub or in an object store.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        splits: Names of the splits.
        episode_ids: Ids of the episodes; all by default.
        cache: Cache of the byte ranges of remote shards.

    Attributes:
        shards: Shards with requested episodes, split by split.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        splits: Sequence[str],
        episode_ids: Iterable[int] | None = None,
        cache: RangeCache | None = None,
    ):
        self._folder, self._manifest = Path(folder), manifest
        self._source = ShardSource(self._folder, manifest, cache)
        self._find_chunks = functools.lru_cache(maxsize=_FOOTERS_IN_MEMORY)(self._read_chunks)
        self._videos = open_videos(self._folder, manifest)
        self.shards = list(_find_requested(self._folder, manifest, splits, episode_ids))

    @property
    def address(self) -> str:
        """Name and version, for messages."""
        return f"{self._manifest.name} {self._manifest.version}"

    @property
    def identity(self) -> dict[str, str]:
        """What determines the transitions and the chunks that hold them, JSON-able."""
        files = hashlib.sha256("\n".join(shard.entry.sha256 for shard in self.shards).encode())
        ids = [shard.episodes[keys.EPISODE].to_numpy()[shard.is_requested] for shard in self.shards]
        episodes = hashlib.sha256(np.concatenate([np.empty(0, np.int64), *ids]).astype("<i8").tobytes())
        return {
            "version": self._manifest.version,
            "fingerprint": self._manifest.fingerprint,
            "shards": files.hexdigest()[:16],
            "episodes": episodes.hexdigest()[:16],
        }

    def order(self, seed: int | None) -> "ChunkOrder":
        """Return the order in which an epoch reads the chunks; None keeps that of the version."""
        return ChunkOrder(self, seed)

    def read_records(self, source: StreamedChunk) -> list[EpisodeRecord]:
        """Return the requested episodes of a chunk, verified."""
        shard, chunk = source.shard, source.chunk
        first, stop = chunk.positions[0], chunk.positions[-1] + 1
        episodes = shard.episodes.slice(first, stop - first)

        def read(reader: _parquet.GroupReader) -> list[EpisodeRecord]:
            rows = reader.read(chunk.groups)
            return list(_arrow.table_to_records(rows, episodes, self._manifest.schema, self._videos))

        records = self._source.read(shard.entry, read, source.footer)
        return list(itertools.compress(records, shard.is_requested[first:stop]))

    def find_chunks(self, shard: StreamedShard) -> list[StreamedChunk]:
        """Return the chunks of a shard with requested episodes; its footer is read, and remembered for a while."""
        return self._find_chunks(shard)

    def _read_chunks(self, shard: StreamedShard) -> list[StreamedChunk]:
        path, lengths = self._folder / shard.entry.path, shard.lengths
        requested_lengths = np.where(shard.is_requested, lengths, 0)
        # A footer is not verified before its row groups are read: it does not go through the cache.
        with self._source.open(shard.entry) as reader:
            chunks = _parquet.split_into_chunks(path, range(len(lengths)), lengths.tolist(), reader.sizes)
            footer = reader.footer
        counts = [int(requested_lengths[chunk.positions[0] : chunk.positions[-1] + 1].sum()) for chunk in chunks]
        return [
            StreamedChunk(shard, footer, chunk, count) for chunk, count in zip(chunks, counts, strict=True) if count
        ]


class ChunkOrder:
    """The order in which an epoch reads a version: a function of the seed, the shards and their row groups.

    Args:
        version: The version.
        seed: Seed of the epoch; None keeps the order of the version.
    """

    def __init__(self, version: StreamedVersion, seed: int | None):
        self._version, self._seed = version, seed
        shards, size = version.shards, 1
        if seed is not None:
            shards, size = [shards[index] for index in permute(len(shards), derive_seed(seed, 0))], SHARDS_PER_GROUP
        self._groups = [shards[start : start + size] for start in range(0, len(shards), size)]
        self._ends = np.cumsum([sum(shard.num_rows for shard in group) for group in self._groups], dtype=np.int64)
        self._opened: OrderedDict[int, tuple[list[StreamedChunk], np.ndarray]] = OrderedDict()

    def iter_pieces(self, runs: Runs) -> Iterator[Piece]:
        """Yield the chunks that hold some positions, each with its rows, in the order of the positions."""
        current: StreamedChunk | None = None
        rows: list[np.ndarray] = []
        for source, part in self._iter_parts(runs):
            if current is not None and rows and source is not current:
                yield Piece(current, np.concatenate(rows))
                rows = []
            current = source
            rows.append(part)
            if part[-1] == source.num_rows - 1:  # the footer of the next group is not awaited
                yield Piece(source, np.concatenate(rows))
                rows = []
        if current is not None and rows:
            yield Piece(current, np.concatenate(rows))

    def _iter_parts(self, runs: Runs) -> Iterator[tuple[StreamedChunk, np.ndarray]]:
        """Yield the rows of each range of positions, chunk by chunk."""
        for start, stop in zip(runs.starts.tolist(), runs.stops.tolist(), strict=True):
            position = start
            while position < stop:
                group = int(np.searchsorted(self._ends, position, side="right"))
                chunks, ends = self._open_group(group)
                index = int(np.searchsorted(ends, position, side="right"))
                first = int(ends[index]) - chunks[index].num_rows
                next_position = min(stop, int(ends[index]))
                yield chunks[index], np.arange(position - first, next_position - first)
                position = next_position

    def _open_group(self, number: int) -> tuple[list[StreamedChunk], np.ndarray]:
        """Return the chunks of a group in their order, and the position after the last row of each."""
        if number not in self._opened:
            shards = self._groups[number]
            chunks = list(itertools.chain.from_iterable(in_parallel(self._version.find_chunks, shards)))
            if self._seed is not None:
                order = permute(len(chunks), derive_seed(self._seed, 1 + number))
                chunks = [chunks[index] for index in order]
            before = int(self._ends[number - 1]) if number else 0
            self._opened[number] = chunks, before + np.cumsum([chunk.num_rows for chunk in chunks])
            if len(self._opened) > _GROUPS_IN_MEMORY:
                self._opened.popitem(last=False)
        return self._opened[number]


def _find_requested(
    folder: Path, manifest: Manifest, splits: Sequence[str], episode_ids: Iterable[int] | None
) -> Iterator[StreamedShard]:
    requested_ids = None if episode_ids is None else np.fromiter(episode_ids, np.int64)
    for entry, episodes in iterate_shards(folder, manifest, splits):
        ids = episodes[keys.EPISODE].to_numpy()
        is_requested = np.ones(len(ids), bool) if requested_ids is None else np.isin(ids, requested_ids)
        if is_requested.any():
            yield StreamedShard(entry, episodes, is_requested)
