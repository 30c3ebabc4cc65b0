"""A version on disk → verified files → tables and episodes. Mirror image of ``_export``."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.versions._consistency import (
    COUNTED,
    find_count_mismatches,
    find_schema_mismatches,
    find_table_mismatches,
    require,
)
from rlhive.data.versions._manifest import EPISODES_PATH, FileEntry, Manifest, verify_files
from rlhive.errors import CorruptDataset


def read_episodes(folder: Path, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the episode table, or some of its columns: one row per episode, in rising order of their ids.

    The file is verified first, and compared with the manifest.
    """
    entries = [entry for entry in manifest.files if entry.path == EPISODES_PATH]
    path = Path(folder) / EPISODES_PATH
    if not entries:
        msg = f"{folder}: expected {EPISODES_PATH} in the manifest, got no such file. Fetch or make the version again."
        raise CorruptDataset(msg)
    verify_files(folder, entries)
    require(find_table_mismatches(path, _parquet.read_arrow_schema(path), manifest))
    table = _parquet.read_table(path, None if columns is None else list(dict.fromkeys([*COUNTED, *columns])))
    require(find_count_mismatches(manifest, table))
    return table if columns is None else table.select(columns)


def read_rows(folder: Path, manifest: Manifest, splits: Sequence[str]) -> pa.Table:
    """Return the transitions of some splits, in the order given. The shards are verified first."""
    batches = _parquet.read_batches(verify_shards(folder, manifest, splits))
    return pa.Table.from_batches(batches, _arrow.row_schema(manifest.schema))


def verify_shards(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[Path]:
    """Return the shards of some splits in order, each checked against its recorded hash."""
    entries = [entry for split in splits for entry in manifest.shards(split)]
    return [_verified(folder, manifest, entry) for entry in entries]


def _verified(folder: Path, manifest: Manifest, entry: FileEntry) -> Path:
    """Return the path of a shard that has the recorded hash, the manifest's columns, and as many rows as it says."""
    verify_files(folder, [entry])
    path = Path(folder) / entry.path
    require(find_schema_mismatches(path, _parquet.read_arrow_schema(path), _arrow.row_schema(manifest.schema)))
    rows = sum(_parquet.read_group_sizes(path))
    if rows != entry.num_transitions:
        msg = f"{path}: expected {entry.num_transitions} rows, got {rows}. Fetch or make the version again."
        raise CorruptDataset(msg)
    return path


def read_records(folder: Path, manifest: Manifest, splits: Sequence[str]) -> Iterator[EpisodeRecord]:
    """Yield the episodes of some splits, some row groups in memory at a time, each checked by its content hash.

    A shard is verified before its first episode comes.
    """
    for entry, episodes in iterate_shards(folder, manifest, splits):
        path, lengths = _verified(folder, manifest, entry), episodes["length"].to_numpy()
        with _parquet.GroupReader(path, str(path)) as reader:
            for chunk in _parquet.split_into_chunks(path, range(len(episodes)), lengths, reader.sizes):
                own = episodes.slice(chunk.positions.start, len(chunk.positions))
                yield from _arrow.table_to_records(reader.read(chunk.groups), own, manifest.schema)


def iterate_shards(
    folder: Path, manifest: Manifest, splits: Iterable[str], columns: Sequence[str] | None = None
) -> Iterator[tuple[FileEntry, pa.Table]]:
    """Yield every shard of some splits with the rows of the episode table whose transitions it holds, in its order."""
    episodes = read_episodes(folder, manifest, columns)
    for split in splits:
        own, start = episodes.filter(pc.equal(episodes["split"], split)), 0
        for entry in manifest.shards(split):
            yield entry, own.slice(start, entry.num_episodes)
            start += entry.num_episodes


def find_shards(folder: Path, manifest: Manifest, episodes: np.ndarray) -> list[FileEntry]:
    """Return the shards that hold any of some episodes, given their ids."""
    names = [keys.EPISODE, "split"]
    parts = iterate_shards(folder, manifest, manifest.splits, names)
    return [entry for entry, own in parts if np.isin(own[keys.EPISODE].to_numpy(), episodes).any()]


def read_shard_episodes(folder: Path, manifest: Manifest, shards: Iterable[FileEntry]) -> pa.Table:
    """Return the rows of the episode table whose transitions some shards hold, in rising order of their ids."""
    wanted = {entry.path for entry in shards}
    parts = iterate_shards(folder, manifest, manifest.splits)
    episodes = read_episodes(folder, manifest).slice(0, 0)
    return pa.concat_tables([episodes, *(own for entry, own in parts if entry.path in wanted)]).sort_by(keys.EPISODE)
