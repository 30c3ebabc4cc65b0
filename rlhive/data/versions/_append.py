"""Appending: a version that begins with the episodes of another one and shares that version's shards.

::

    base version         train-00000-of-00002 ── link ──► train-00000-of-00003         new version
                         train-00001-of-00002 ── link ──► train-00001-of-00003
    further episodes ─── encode ────────────────────────► train-00002-of-00003

No shard of the base version is read: its episode table has the hashes of the episodes, from which the fingerprint is
computed, and its statistics go on with the further episodes. So the cost grows with the further transitions and with
the number of episodes. Shared shards keep their hashes, which every reader compares.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._arrow import read_start_states
from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Field
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.versions._manifest import SKETCHES_PATH, FileEntry, Manifest
from rlhive.data.versions._operations import merge, stream_selected
from rlhive.data.versions._reader import read_episodes
from rlhive.data.versions._selection import build_selection
from rlhive.data.versions._sketches import read_statistics
from rlhive.data.versions._source import VersionSource
from rlhive.errors import DatasetNotFoundError, SchemaMismatchError

_TABLE_ROWS = 2_000  # rows of the episode table that become Python objects at once


@dataclass(frozen=True)
class BaseVersion:
    """A version on disk that another version begins with.

    Attributes:
        folder: Folder of the version.
        manifest: Manifest of the version.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "BaseVersion":
        """Open a version.

        Raises:
            DatasetNotFoundError: A shard was not pulled.
        """
        manifest = Manifest.read(folder)
        missing = [entry for entry in manifest.files if not (folder / entry.path).is_file()]
        if missing:
            msg = (
                f"Append to {manifest.name} {manifest.version}: expected all of its files, got no {missing[0].path}. "
                f"Fetch them: rlhive pull {manifest.name} --version {manifest.version}"
            )
            raise DatasetNotFoundError(msg)
        return cls(folder, manifest)

    def shards(self, split: str) -> list[FileEntry]:
        """Return the shards of a split that hold episodes; none for a split that the version lacks."""
        return [entry for entry in self.manifest.files if entry.split == split and entry.num_episodes]

    @property
    def has_sketches(self) -> bool:
        """Whether its statistics can go on; versions that were written before there were quantiles have none."""
        return any(entry.path == SKETCHES_PATH for entry in self.manifest.files)

    @functools.cached_property
    def episodes(self) -> pa.Table:
        """The episode table, verified."""
        return read_episodes(self.folder, self.manifest)

    def read_statistics(self) -> dict[str, dict[str, ColumnStatistics]]:
        """Return the statistics of each column by split, to which further rows can be added."""
        splits, schema = list(self.manifest.splits), self.manifest.schema
        parts = read_statistics(self.folder, self.manifest, splits)
        return {
            split: {column: _complete_statistics(row, schema[column]) for column, row in columns.items()}
            for split, columns in zip(splits, parts, strict=True)
        }

    def to_source(self) -> VersionSource:
        """Return the episodes of the version, verified as they are read."""
        manifest = self.manifest
        selection = build_selection(
            read_episodes(self.folder, manifest, [keys.EPISODE, "split"]), list(manifest.splits)
        )
        return stored_source(self.folder, manifest, selection, splits=tuple(manifest.splits))

    def to_table_source(self) -> VersionSource:
        """Return the episodes of the version without their transitions, which their records lack."""
        return replace(self.to_source(), records=self._iterate_table)

    def _iterate_table(self) -> Iterator[EpisodeRecord]:
        """Yield what the episode table says of each episode, with its content hash."""
        columns = [keys.EPISODE, "split", "seed", "policy", "run", "metadata", "content_hash"]
        start_states = read_start_states(self.episodes)
        for batch in self.episodes.select(columns).to_batches(max_chunksize=_TABLE_ROWS):
            for row, start_state in zip(batch.to_pylist(), start_states, strict=False):
                metadata, content_hash = json.loads(row.pop("metadata")), row.pop("content_hash")
                record = EpisodeRecord(columns={}, final={}, start_state=start_state, metadata=metadata, **row)
                record.cache_hashes(content_hash)
                yield record


def _complete_statistics(row: ColumnStatistics, item: Field) -> ColumnStatistics:
    """Return statistics of a manifest, which has no infinities, as they were: null was an extreme that is infinite."""
    return replace(
        row,
        min=np.where(np.isnan(row.min), -np.inf, row.min),
        max=np.where(np.isnan(row.max), np.inf, row.max),
        whole=to_numpy_dtype(item.dtype).kind in "iub",
    )


def stored_source(
    folder: Path,
    manifest: Manifest,
    selection: Mapping[str, np.ndarray],
    *,
    splits: Sequence[str],
    operations: Sequence[str] = (),
) -> VersionSource:
    """Return selected episodes of a version on disk, with the version as their parent.

    Args:
        folder: Folder of the version.
        manifest: Manifest of the version.
        selection: Episode ids of each split.
        splits: Splits, in order.
        operations: The operations that made the selection, as text.
    """
    parent = {
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "operations": list(operations),
    }
    return VersionSource(
        manifest.schema,
        partial(stream_selected, folder, manifest, selection),
        ids=lambda: [int(episode) for episode_ids in selection.values() for episode in episode_ids],
        splits=tuple(splits),
        runs=manifest.runs,
        parents=(parent,),
        license=manifest.license,
        description=manifest.description,
        env_name=manifest.env_name,
        task=manifest.task,
    )


def append_source(base: VersionSource, source: VersionSource, *, base_name: str) -> VersionSource:
    """Return the episodes of a version with their ids, then further episodes with the ids that follow.

    Licence, environment and task are the version's where the further episodes name none. A further episode that equals
    an earlier one is left out, with a warning.

    Args:
        base: Episodes of the version.
        source: The further episodes.
        base_name: Name and number of the version, for error messages.

    Raises:
        SchemaMismatchError: The columns differ; the message names each difference.
    """
    source = replace(
        source,
        license=source.license or base.license,
        env_name=source.env_name or base.env_name,
        task=source.task or base.task,
    )
    try:
        appended = merge([base, source], keep_ids_of_first=True)
    except SchemaMismatchError as error:
        msg = f"Append to {base_name}: {error} Episodes of a recording: write them under another name first."
        raise SchemaMismatchError(msg) from error
    return replace(appended, parents=tuple(add_operation(parent, "append") for parent in appended.parents))


def add_operation(parent: Mapping[str, Any], operation: str) -> dict[str, Any]:
    """Return the record of a parent version with a further operation."""
    return {**parent, "operations": [*parent.get("operations", []), operation]}
