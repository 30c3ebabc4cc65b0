"""Arrow ⇄ Parquet files, in bounded memory. Knows no TensorDict and no network.

Floats are byte-stream-split and never dictionary-encoded, everything is zstd; content-defined chunking lets the
Hub re-send only what changed; page checksums and a page index are always written.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.errors import CorruptDataset

ROW_GROUP_ROWS = 10_000
ROW_GROUP_BYTES = 32 * 2**20  # rows of pictures are large: fewer of them go into a group
SHARD_BYTES = 256 * 2**20


class ShardWriter:
    """Write the transitions of one split as ``<split>-00000-of-0000N.parquet``; an episode is never cut.

    Args:
        folder: Where the shards go; it must exist.
        split: Name of the split, the beginning of the file names.
        schema: Arrow schema of the rows.
        shard_bytes: A shard is closed when it holds this many bytes of Arrow data.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, *, shard_bytes: int = SHARD_BYTES):
        self._folder, self._split, self._schema, self._limit = folder, split, schema, shard_bytes
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0
        self._counts: list[list[int]] = []

    def write(self, rows: pa.RecordBatch, *, num_episodes: int) -> None:
        """Write the rows of whole episodes as one row group, and close the shard if it is full."""
        if self._writer is None:
            self._writer = open_writer(self._part(len(self._counts)), self._schema)
            self._counts.append([0, 0])
        self._writer.write_table(pa.Table.from_batches([rows]), row_group_size=max(rows.num_rows, 1))
        self._bytes += rows.nbytes
        self._counts[-1][0] += rows.num_rows
        self._counts[-1][1] += num_episodes
        if self._bytes >= self._limit:
            self._close()

    def finish(self) -> list[tuple[Path, int, int]]:
        """Close the last shard and name all of them.

        Returns:
            Path, number of transitions and number of episodes of each shard; one empty shard for an empty split.
        """
        if not self._counts:
            self._writer = open_writer(self._part(0), self._schema)
            self._counts.append([0, 0])
        self._close()
        total = len(self._counts)
        named = []
        for index, (rows, episodes) in enumerate(self._counts):
            path = self._folder / f"{self._split}-{index:05d}-of-{total:05d}.parquet"
            self._part(index).rename(path)
            named.append((path, rows, episodes))
        return named

    def _part(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05d}.parquet.part"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes = None, 0


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer with RLHive's settings."""
    floats, others = [], []
    for field in schema:
        nested = pa.types.is_fixed_size_list(field.type)
        value = field.type.value_type if nested else field.type
        column = f"{field.name}.list.element" if nested else field.name
        (floats if pa.types.is_floating(value) else others).append(column)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=others,
        use_byte_stream_split=floats,
        use_content_defined_chunking=True,
        write_page_index=True,
        write_page_checksum=True,
    )


def write_table(table: pa.Table, path: Path) -> None:
    """Write one table as one Parquet file."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table, ROW_GROUP_ROWS)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns, checking page checksums.

    Raises:
        CorruptDataset: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def read_batches(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of several shards in order, a row group's worth at a time, checking page checksums.

    Memory: one row group; nothing is read ahead.

    Raises:
        CorruptDataset: A file is missing or damaged.
    """
    for path in paths:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    yield from file.iter_batches(batch_size=_batch_rows(file, group), row_groups=[group])
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, error) from error


def _batch_rows(file: pq.ParquetFile, group: int) -> int:
    """Rows of a group that fit into ROW_GROUP_BYTES; other writers make groups of any size."""
    metadata = file.metadata.row_group(group)
    row_bytes = metadata.total_byte_size // max(metadata.num_rows, 1)
    return max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(row_bytes, 1)))


def read_group_sizes(path: Path) -> list[int]:
    """Return the number of rows of each row group of a Parquet file.

    Raises:
        CorruptDataset: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            return [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def read_arrow_schema(path: Path) -> pa.Schema:
    """Return the Arrow schema of a Parquet file.

    Raises:
        CorruptDataset: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def read_groups(path: Path, groups: Iterable[int]) -> pa.Table:
    """Read some row groups of a Parquet file, checking their page checksums; one thread of its own does it.

    Raises:
        CorruptDataset: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_groups(list(groups), use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


@dataclass(frozen=True)
class Chunk:
    """Some episodes of one shard, by position in the episode table, and the row groups that hold exactly them."""

    path: Path
    groups: range
    positions: Sequence[int]


class GroupReader:
    """An open Parquet file, on disk or behind ranged reads, whose row groups are read one after the other.

    Page checksums are checked. What goes wrong on the way to a remote file is raised as it comes.

    Args:
        source: A path, or a seekable file of bytes, which is closed at the end.
        address: Of the file, for messages.

    Raises:
        CorruptDataset: The file is missing or damaged.
    """

    def __init__(self, source: Path | BinaryIO, address: str):
        self._address, self._source = address, source
        with self._naming_damage():
            # Only what a read asks for is fetched, neighbouring columns in one piece.
            self._file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)

    @property
    def sizes(self) -> list[int]:
        """Rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def read(self, groups: Iterable[int]) -> pa.Table:
        """Return the rows of some row groups."""
        with self._naming_damage():
            return self._file.read_row_groups(list(groups), use_threads=False)

    def __enter__(self) -> "GroupReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close(force=True)

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, pa.ArrowException) or type(error) in (OSError, FileNotFoundError):
                raise _damaged(self._address, error) from error
            raise


def split_into_chunks(
    path: Path, positions: Sequence[int], lengths: Sequence[int], group_sizes: Sequence[int]
) -> list[Chunk]:
    """Cut a shard where a row group and an episode end together.

    Args:
        path: Of the shard.
        positions: Of its episodes in the episode table, in the order of the shard.
        lengths: Of the same episodes.
        group_sizes: Rows of each of its row groups.

    Raises:
        CorruptDataset: The episodes have more rows or fewer than the shard.
    """
    expected, there = int(np.sum(lengths)), int(np.sum(group_sizes))
    if expected != there:
        msg = f"{path}: expected {expected} rows, got {there}. Fetch or make the version again."
        raise CorruptDataset(msg)
    ends, episode_ends = np.cumsum(group_sizes), np.cumsum(lengths)
    chunks, group, episode = [], 0, 0
    for cut in np.intersect1d(ends, episode_ends):
        next_group, next_episode = (int(np.searchsorted(part, cut, side="right")) for part in (ends, episode_ends))
        chunks.append(Chunk(path, range(group, next_group), positions[episode:next_episode]))
        group, episode = next_group, next_episode
    return chunks


def _damaged(path: Path | str, error: Exception) -> Exception:
    if isinstance(error, MemoryError):  # Arrow's own is an ArrowException too: the file is not to blame
        return MemoryError(f"{path}: {error}")
    said = " ".join(str(error).split())
    return CorruptDataset(f"{path}: expected a readable Parquet file, got: {said}. Fetch or make the version again.")
