"""Reading a version: verified files, tables and episode records. Counterpart of :mod:`rlhive.data.versions._export`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._video_files import VideoFolder
from rlhive.data.versions._consistency import (
    COUNT_COLUMNS,
    find_count_mismatches,
    find_schema_mismatches,
    find_table_mismatches,
    require_consistent,
)
from rlhive.data.versions._manifest import EPISODES_PATH, FileEntry, Manifest, verify_files
from rlhive.errors import CorruptDatasetError


def read_episodes(folder: Path, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the episode table, one row per episode in rising order of ids.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        columns: Columns to read; all by default.

    Raises:
        CorruptDatasetError: The file is not what the manifest recorded, or contradicts the manifest.
    """
    entries = [entry for entry in manifest.files if entry.path == EPISODES_PATH]
    path = Path(folder) / EPISODES_PATH
    if not entries:
        msg = f"{folder}: expected {EPISODES_PATH} in the manifest, got no such file. Fetch or make the version again."
        raise CorruptDatasetError(msg)
    verify_files(folder, entries)
    require_consistent(find_table_mismatches(path, _parquet.read_arrow_schema(path), manifest))
    needed = None if columns is None else list(dict.fromkeys([*COUNT_COLUMNS, *columns]))
    table = _parquet.read_table(path, needed, max_rows=manifest.num_episodes)
    require_consistent(find_count_mismatches(manifest, table))
    return table if columns is None else table.select(columns)


def read_rows(folder: Path, manifest: Manifest, splits: Sequence[str]) -> pa.Table:
    """Return the transitions of some splits, in the order of ``splits``.

    Raises:
        CorruptDatasetError: A shard is not what the manifest recorded.
    """
    batches = _parquet.read_batches(verify_shards(folder, manifest, splits))
    return pa.Table.from_batches(batches, _arrow.row_schema(manifest.schema))


def verify_shards(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[Path]:
    """Verify the shards of some splits and return their paths, in order.

    Raises:
        CorruptDatasetError: A shard is not what the manifest recorded.
    """
    entries = [entry for split in splits for entry in manifest.shards(split)]
    return [_verify_shard(folder, manifest, entry) for entry in entries]


def open_videos(folder: Path, manifest: Manifest) -> VideoFolder:
    """Return the videos of a version; each is verified and opened when it is first needed."""
    entries = {entry.path: entry for entry in manifest.videos}

    def verify(path: str) -> None:
        if path not in entries:
            msg = (
                f"{folder}: rows name the video {path}, which is not in the manifest. Fetch or make the version again."
            )
            raise CorruptDatasetError(msg)
        verify_files(folder, [entries[path]])

    return VideoFolder(Path(folder), verify)


def read_records(folder: Path, manifest: Manifest, splits: Sequence[str]) -> Iterator[EpisodeRecord]:
    """Yield the episodes of some splits, each verified by its content hash.

    Memory: a few row groups. A shard is verified before its first episode is yielded.

    Raises:
        CorruptDatasetError: A file or an episode is not what the manifest recorded.
    """
    videos = open_videos(folder, manifest)
    for entry, episodes in iterate_shards(folder, manifest, splits):
        path, lengths = _verify_shard(folder, manifest, entry), episodes["length"].to_numpy()
        start = 0
        with _parquet.GroupReader(path, str(path)) as reader:
            for chunk in _parquet.split_into_chunks(path, range(len(episodes)), lengths, reader.sizes):
                chunk_episodes = episodes.slice(start, len(chunk.positions))
                start += len(chunk.positions)
                yield from _arrow.table_to_records(reader.read(chunk.groups), chunk_episodes, manifest.schema, videos)


def iterate_shards(
    folder: Path, manifest: Manifest, splits: Iterable[str], columns: Sequence[str] | None = None
) -> Iterator[tuple[FileEntry, pa.Table]]:
    """Yield every shard of some splits with its rows of the episode table, in the order of the shard's episodes."""
    table = read_episodes(folder, manifest, columns)
    for split in splits:
        episodes = table.filter(pa.array(table["split"].to_numpy() == split))
        start = 0
        for entry in manifest.shards(split):
            yield entry, episodes.slice(start, entry.num_episodes)
            start += entry.num_episodes


@dataclass(frozen=True)
class EpisodeBlock:
    """Consecutive row groups of a shard that hold whole episodes, as few as possible; read apart from all others.

    Attributes:
        folder: The version's folder.
        entry: The shard.
        groups: Indices of the row groups.
    """

    folder: Path
    entry: FileEntry
    groups: range

    def read(self) -> pa.Table:
        """Return the rows, after the shard's hash was compared with the manifest's.

        Raises:
            CorruptDatasetError: The shard is not what the manifest recorded.
        """
        verify_files(self.folder, [self.entry])
        return _parquet.read_groups(self.folder / self.entry.path, self.groups)


def iterate_blocks(
    folder: Path, manifest: Manifest, splits: Iterable[str], shards: Iterable[FileEntry]
) -> Iterator[tuple[EpisodeBlock, pa.Table]]:
    """Yield the blocks of some shards, each with ids and lengths of its episodes; the footers of the files are read.

    Args:
        folder: The version's folder.
        manifest: The version's manifest.
        splits: Splits, in the order of the result.
        shards: Shards of these splits.

    Raises:
        CorruptDatasetError: A shard has other columns or another number of rows than the manifest says.
    """
    folder, paths, schema = Path(folder), {entry.path for entry in shards}, _arrow.row_schema(manifest.schema)
    for entry, episodes in iterate_shards(folder, manifest, splits, [keys.EPISODE, "split", "length"]):
        if entry.path not in paths:
            continue
        path, lengths = folder / entry.path, episodes["length"].to_numpy()
        require_consistent(find_schema_mismatches(path, _parquet.read_arrow_schema(path), schema))
        group_sizes = _parquet.read_group_sizes(path)
        for chunk in _parquet.split_into_chunks(path, range(len(episodes)), lengths, group_sizes):
            block = EpisodeBlock(folder, entry, chunk.groups)
            yield block, episodes.slice(chunk.positions[0], len(chunk.positions))


def find_shards(folder: Path, manifest: Manifest, episode_ids: np.ndarray) -> list[FileEntry]:
    """Return the shards that hold any of some episodes."""
    shards = iterate_shards(folder, manifest, manifest.splits, [keys.EPISODE, "split"])
    return [entry for entry, episodes in shards if np.isin(episodes[keys.EPISODE].to_numpy(), episode_ids).any()]


def read_shard_episodes(folder: Path, manifest: Manifest, shards: Iterable[FileEntry]) -> pa.Table:
    """Return the rows of the episode table of the episodes in some shards, in rising order of ids."""
    paths = {entry.path for entry in shards}
    tables = [episodes for entry, episodes in iterate_shards(folder, manifest, manifest.splits) if entry.path in paths]
    empty_table = read_episodes(folder, manifest).slice(0, 0)
    return pa.concat_tables([empty_table, *tables]).sort_by(keys.EPISODE)


def _verify_shard(folder: Path, manifest: Manifest, entry: FileEntry) -> Path:
    """Return the path of a shard after a check of its hash, its columns and its number of rows."""
    verify_files(folder, [entry])
    path = Path(folder) / entry.path
    actual, expected = _parquet.read_arrow_schema(path), _arrow.row_schema(manifest.schema)
    require_consistent(find_schema_mismatches(path, actual, expected))
    num_rows = sum(_parquet.read_group_sizes(path))
    if num_rows != entry.num_transitions:
        msg = f"{path}: expected {entry.num_transitions} rows, got {num_rows}. Fetch or make the version again."
        raise CorruptDatasetError(msg)
    return path
