"""Appending: a version that begins with the episodes of another one and shares that version's shards.

::

    base version         train-00000-of-00002 ── link ──► train-00000-of-00003         new version
                         train-00001-of-00002 ── link ──► train-00001-of-00003
    further episodes ─── encode ────────────────────────► train-00002-of-00003

Every shared shard is verified by its hash. The episodes of the base version are read all the same: the fingerprint and
the statistics are about all episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data.versions._manifest import FileEntry, Manifest
from rlhive.data.versions._operations import merge, stream_selected
from rlhive.data.versions._reader import read_episodes
from rlhive.data.versions._selection import build_selection
from rlhive.data.versions._source import VersionSource
from rlhive.errors import DatasetNotFoundError, SchemaMismatchError


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

    def to_source(self) -> VersionSource:
        """Return the episodes of the version, verified as they are read."""
        manifest = self.manifest
        selection = build_selection(
            read_episodes(self.folder, manifest, [keys.EPISODE, "split"]), list(manifest.splits)
        )
        return stored_source(self.folder, manifest, selection, splits=tuple(manifest.splits))


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
