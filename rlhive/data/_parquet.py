"""Reading and writing of Parquet files, in bounded memory.

All columns are compressed with zstd. Floats are byte-stream-split and never dictionary-encoded. Content-defined
chunking lets an upload to the Hub send only what changed. Page checksums and a page index are always written.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data import _store
from rlhive.data._parquet_sizes import VALUE_BYTES, measure_groups
from rlhive.errors import CorruptDatasetError

ROW_GROUP_ROWS = 10_000
ROW_GROUP_BYTES = 32 * 2**20  # rows with images are large, so fewer of them make a group
SHARD_BYTES = 256 * 2**20
#: A table of episodes or statistics may decode to more than this only if its file is not MAX_EXPANSION times smaller.
MAX_DECODED_BYTES = 256 * 2**20
MAX_EXPANSION = 10_000
#: Size of a text, such as an episode's metadata as JSON. Parquet may store it in a dictionary and in statistics too.
MAX_TEXT_BYTES = 2**20
_COPIES_OF_TEXT = 4


class ShardWriter:
    """Writer of one split's transitions as ``<split>-00000-of-0000N.parquet``; no episode spans two shards.

    Args:
        folder: Folder of the shards; it must exist.
        split: Name of the split, the prefix of the file names.
        schema: Arrow schema of the rows.
        shard_bytes: Size of Arrow data in bytes at which a shard is closed.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, *, shard_bytes: int = SHARD_BYTES):
        self._folder = folder
        self._split = split
        self._schema = schema
        self._shard_bytes = shard_bytes
        self._writer: pq.ParquetWriter | None = None
        self._written_bytes = 0  # of the open shard
        self._counts: list[list[int]] = []  # rows and episodes of each shard

    def write(self, rows: pa.RecordBatch, *, num_episodes: int) -> None:
        """Write the rows of complete episodes as one row group, and close the shard if it is full."""
        writer = self._writer or self._open_shard()
        writer.write_table(pa.Table.from_batches([rows]), row_group_size=max(rows.num_rows, 1))
        self._written_bytes += rows.nbytes
        self._counts[-1][0] += rows.num_rows
        self._counts[-1][1] += num_episodes
        if self._written_bytes >= self._shard_bytes:
            self._close_shard()

    def share(self, path: Path, *, num_rows: int, num_episodes: int) -> None:
        """Make a finished shard of another folder the next shard, by a link where the disk has links.

        Args:
            path: The shard; it has the schema of the rows.
            num_rows: Number of its transitions.
            num_episodes: Number of its episodes.
        """
        self._close_shard()
        _store.link_or_copy(path, self._partial_path(len(self._counts)))
        self._counts.append([num_rows, num_episodes])

    def finish(self) -> list[tuple[Path, int, int]]:
        """Close the last shard and rename all shards to their final names.

        Returns:
            Path, number of transitions and number of episodes of each shard; one empty shard for an empty split.
        """
        if not self._counts:
            self._open_shard()
        self._close_shard()
        num_shards = len(self._counts)
        shards = []
        for index, (num_rows, num_episodes) in enumerate(self._counts):
            path = self._folder / f"{self._split}-{index:05d}-of-{num_shards:05d}.parquet"
            self._partial_path(index).rename(path)
            shards.append((path, num_rows, num_episodes))
        return shards

    def _partial_path(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05d}.parquet.part"

    def _open_shard(self) -> pq.ParquetWriter:
        self._writer = open_writer(self._partial_path(len(self._counts)), self._schema)
        self._counts.append([0, 0])
        return self._writer

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._written_bytes = 0


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer with RLHive's settings."""
    float_columns: list[str] = []
    other_columns: list[str] = []
    for field in schema:
        is_list = pa.types.is_fixed_size_list(field.type)
        value_type = field.type.value_type if is_list else field.type
        column = f"{field.name}.list.element" if is_list else field.name
        columns = float_columns if pa.types.is_floating(value_type) else other_columns
        columns.append(column)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=other_columns,
        use_byte_stream_split=float_columns,
        use_content_defined_chunking=True,
        write_page_index=True,
        write_page_checksum=True,
    )


def write_table(table: pa.Table, path: Path) -> None:
    """Write one table as one Parquet file."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table, ROW_GROUP_ROWS)


def read_table(path: Path, columns: Sequence[str] | None = None, *, max_rows: int | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns, and verify its page checksums.

    The file is one of episodes or statistics, small beside the shards. Its footer is compared with the limits of this
    module before a value is decoded, since a file of some kilobytes can decode to gigabytes.

    Args:
        path: The file.
        columns: Columns to read; all by default.
        max_rows: Largest number of rows that is accepted.

    Raises:
        CorruptDatasetError: The file is missing or damaged, or decodes to more than the limits allow.
    """
    with _open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        pictures = [name for name in names if _holds_pictures(file.schema_arrow.field(name).type)]
        repeated_texts = _require_bounded(
            file.metadata, [name for name in names if name not in pictures], path, max_rows
        )
        if pictures:
            groups = measure_groups(path, pictures)
            _require_expansion(sum(group.row_bytes * group.num_rows for group in groups), path)
    with _open_parquet(path, page_checksum_verification=True, read_dictionary=repeated_texts) as file:
        table = file.read(columns)
        for name in repeated_texts:
            table = _decode_texts(table, name)
        return table


def _holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column holds encoded pictures, whose sizes have another limit than those of texts."""
    return pa.types.is_struct(kind.value_type if pa.types.is_fixed_size_list(kind) else kind)


def _require_bounded(metadata: pq.FileMetaData, names: list[str], path: Path, max_rows: int | None) -> list[str]:
    """Raise if the columns would decode to too much; return those whose texts may be repeated from a dictionary."""
    if max_rows is not None and metadata.num_rows > max_rows:
        raise _too_large_file(path, f"at most {max_rows} rows", f"{metadata.num_rows}")
    num_bytes, repeated_texts = 0, dict.fromkeys(names, False)
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for position in range(group.num_columns):
            column = group.column(position)
            name = next((name for name in names if f"{column.path_in_schema}.".startswith(f"{name}.")), None)
            if name is None:
                continue
            if column.physical_type == "BYTE_ARRAY":
                num_bytes += column.total_uncompressed_size
                if column.total_uncompressed_size > _COPIES_OF_TEXT * MAX_TEXT_BYTES * max(group.num_rows, 1):
                    got = f"{column.total_uncompressed_size} bytes in {group.num_rows} rows"
                    raise _too_large_file(path, f"texts of at most {MAX_TEXT_BYTES} bytes in column {name}", got)
                if column.total_uncompressed_size * column.num_values > MAX_DECODED_BYTES:
                    repeated_texts[name] = True
            else:
                width = VALUE_BYTES.get(column.physical_type) or metadata.schema.column(position).length
                num_bytes += column.num_values * width
    _require_expansion(num_bytes, path)
    return [name for name, is_repeated in repeated_texts.items() if is_repeated]


def _require_expansion(num_bytes: int, path: Path) -> None:
    limit = max(MAX_DECODED_BYTES, MAX_EXPANSION * path.stat().st_size)
    if num_bytes > limit:
        raise _too_large_file(path, f"at most {limit} bytes after decoding", f"{num_bytes}")


def _decode_texts(table: pa.Table, name: str) -> pa.Table:
    """Replace a dictionary column by its texts, after their total size has been compared with the limit."""
    import pyarrow.compute as pc  # slow to import, and most tables have no such column

    column = table[name]
    if not pa.types.is_dictionary(column.type):
        return table
    for chunk in column.chunks:
        sizes = pc.binary_length(chunk.dictionary).take(chunk.indices)
        _require_text_size(pc.sum(sizes).as_py() or 0, len(chunk), name)
    return table.set_column(
        table.schema.get_field_index(name), table.schema.field(name).with_type(pa.string()), column.cast(pa.string())
    )


def _require_text_size(num_bytes: int, num_rows: int, name: str) -> None:
    if num_bytes > MAX_DECODED_BYTES + MAX_EXPANSION * num_rows:
        msg = f"column {name} repeats texts of {num_bytes} bytes in {num_rows} rows"
        raise pa.ArrowInvalid(msg)


def _too_large_file(path: Path, expected: str, got: str) -> CorruptDatasetError:
    return CorruptDatasetError(f"{path}: expected {expected}, got {got}. Fetch or make the version again.")


def read_batches(paths: Iterable[Path], *, decoded_bytes: int = 0, first_row: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield the rows of several shards in order, in batches within one row group, and verify page checksums.

    Memory: one row group; nothing is prefetched.

    Args:
        paths: The shards.
        decoded_bytes: Size in bytes that a row takes in memory beyond its size in the file, since its pictures are
            decoded later; it makes the batches smaller.
        first_row: Number of rows to leave out at the beginning.

    Raises:
        CorruptDatasetError: A file is missing or damaged.
    """
    num_skipped = first_row
    for path in paths:
        with _open_parquet(path, page_checksum_verification=True, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                if num_skipped >= num_rows:
                    num_skipped -= num_rows
                    continue
                for batch in file.iter_batches(batch_size=_batch_rows(file, group, decoded_bytes), row_groups=[group]):
                    if num_skipped < len(batch):
                        yield batch.slice(num_skipped)
                    num_skipped = max(0, num_skipped - len(batch))


def _batch_rows(file: pq.ParquetFile, group: int, decoded_bytes: int) -> int:
    """Return how many rows of a group fit into ROW_GROUP_BYTES; other programs write groups of any size."""
    metadata = file.metadata.row_group(group)
    row_bytes = metadata.total_byte_size // max(metadata.num_rows, 1) + decoded_bytes
    return max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(row_bytes, 1)))


def read_group_sizes(path: Path) -> list[int]:
    """Return the number of rows of each row group of a Parquet file.

    Raises:
        CorruptDatasetError: The file is missing or damaged.
    """
    with _open_parquet(path) as file:
        return [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]


def read_arrow_schema(path: Path) -> pa.Schema:
    """Return the Arrow schema of a Parquet file.

    Raises:
        CorruptDatasetError: The file is missing or damaged.
    """
    with _open_parquet(path) as file:
        return file.schema_arrow


def read_groups(path: Path, groups: Iterable[int]) -> pa.Table:
    """Read some row groups of a Parquet file on the calling thread, and verify their page checksums.

    Raises:
        CorruptDatasetError: The file is missing or damaged.
    """
    with _open_parquet(path, page_checksum_verification=True) as file:
        return file.read_row_groups(list(groups), use_threads=False)


@dataclass(frozen=True)
class Chunk:
    """Consecutive row groups of a shard that hold whole episodes.

    Attributes:
        path: Path of the shard.
        groups: Indices of the row groups.
        positions: Positions of the episodes in the episode table.
    """

    path: Path
    groups: range
    positions: Sequence[int]


class GroupReader:
    """An open Parquet file, local or read in byte ranges, from which row groups are read.

    Page checksums are verified. Errors of the transport to a remote file are raised unchanged.

    Args:
        source: A path, or a seekable binary file, which is closed with the reader.
        address: Address of the file for error messages.
        footer: Footer of the file, if it was read before.

    Raises:
        CorruptDatasetError: The file is missing or damaged.
    """

    def __init__(self, source: Path | BinaryIO, address: str, footer: pq.FileMetaData | None = None):
        self._address = address
        with self._translating_damage():
            # pre_buffer reads only the columns and row groups of a read, neighbouring columns in one request.
            self._file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True, pre_buffer=True)

    @property
    def footer(self) -> pq.FileMetaData:
        """The footer of the file: its schema and the place of each row group."""
        return self._file.metadata

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def read(self, groups: Iterable[int]) -> pa.Table:
        """Return the rows of some row groups."""
        with self._translating_damage():
            return self._file.read_row_groups(list(groups), use_threads=False)

    def __enter__(self) -> "GroupReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close(force=True)

    @contextlib.contextmanager
    def _translating_damage(self) -> Iterator[None]:
        """Raise CorruptDatasetError for a missing or damaged file; subclasses of OSError come from the transport."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, pa.ArrowException) or type(error) in (OSError, FileNotFoundError):
                raise _unreadable_file(self._address, error) from error
            raise


def split_into_chunks(
    path: Path, positions: Sequence[int], lengths: Sequence[int], group_sizes: Sequence[int]
) -> list[Chunk]:
    """Split a shard at every row where both a row group and an episode end.

    Args:
        path: Path of the shard.
        positions: Positions of the shard's episodes in the episode table, in the order of the shard.
        lengths: Number of rows of each of these episodes.
        group_sizes: Number of rows of each row group of the shard.

    Raises:
        CorruptDatasetError: The shard does not have as many rows as its episodes.
    """
    expected, got = int(np.sum(lengths)), int(np.sum(group_sizes))
    if expected != got:
        msg = f"{path}: expected {expected} rows, got {got}. Fetch or make the version again."
        raise CorruptDatasetError(msg)
    group_ends, episode_ends = np.cumsum(group_sizes), np.cumsum(lengths)
    chunks = []
    first_group = first_episode = 0
    for end in np.intersect1d(group_ends, episode_ends):
        next_group = int(np.searchsorted(group_ends, end, side="right"))
        next_episode = int(np.searchsorted(episode_ends, end, side="right"))
        chunks.append(Chunk(path, range(first_group, next_group), positions[first_episode:next_episode]))
        first_group, first_episode = next_group, next_episode
    return chunks


@contextlib.contextmanager
def _open_parquet(path: Path, **options: bool | list[str]) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file with options of ``pq.ParquetFile``; an error in the block raises CorruptDatasetError."""
    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except CorruptDatasetError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable_file(path, error) from error


def _unreadable_file(path: Path | str, error: Exception) -> Exception:
    """Return the error to raise for a Parquet file that Arrow cannot read."""
    if isinstance(error, MemoryError):  # Arrow's own MemoryError is an ArrowException too; the file is not damaged
        return MemoryError(f"{path}: {error}")
    reason = " ".join(str(error).split())
    return CorruptDatasetError(
        f"{path}: expected a readable Parquet file, got: {reason}. Fetch or make the version again."
    )
