"""The rule that decides the number of the next version.

The rule is that of TensorFlow Datasets. It compares the new version with the newest earlier version of the same
dataset in the store::

    MAJOR   records or their splits changed
    MINOR   the same records have more columns, or pictures that were encoded with a loss
    PATCH   the same records are described or encoded differently

A record is an episode's id, split, seed, transitions and final values.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhive import keys
from rlhive.data import _parquet, _store
from rlhive.data._schema import Schema
from rlhive.data.versions._local import find_newest_version, find_stored_version, list_local_versions
from rlhive.data.versions._manifest import EPISODES_PATH, Manifest, verify_files
from rlhive.errors import WrongVersionError

if TYPE_CHECKING:  # episodes need torch, whose import takes seconds
    from rlhive.data._episodes import EpisodeRecord
    from rlhive.data.versions._encoding import EncodedEpisode

FIRST_VERSION = "1.0.0"
MAJOR = "MAJOR"
MINOR = "MINOR"
PATCH = "PATCH"
_LEVELS = (MAJOR, MINOR, PATCH)

_DESCRIPTIONS = {
    MAJOR: "records or their splits changed",
    MINOR: "the same records have more columns or lost detail of their pictures",
    PATCH: "the records are the same",
}


def find_earlier_version(name: str, version: str | None, *, store: Path | None = None) -> Path | None:
    """Return the folder of the newest version in the store below ``version``; None if the store has none.

    From an object store, the version is fetched without its shards.

    Args:
        name: Dataset name.
        version: MAJOR.MINOR.PATCH; None for the newest version of all.
        store: Folder of all datasets.
    """
    number = find_newest_version(name, below=version, store=store)
    return None if number is None else find_stored_version(name, number, splits=(), store=store)


def next_patch(name: str, version: str, *, store: Path | None = None) -> str:
    """Return the PATCH version after a version that the store does not have: ``"1.0.1"`` for ``"1.0.0"``."""
    existing = list_local_versions(name, store=store)
    number = next_version(version, PATCH)
    while number in existing:
        number = next_version(number, PATCH)
    return number


class VersionChange:
    """What changed since an earlier version; fed with the new version's episodes as they are written.

    The comparison reads only the earlier version's episode table, and its memory does not grow with the episodes.

    Args:
        folder: Folder of the earlier version.
        schema: Schema of the new version.
    """

    def __init__(self, folder: Path, schema: Schema):
        self.folder = folder
        self.manifest = Manifest.read(folder)
        old_columns = _describe_columns(self.manifest.schema)
        new_columns = _describe_columns(schema)
        self._has_same_columns = old_columns == new_columns
        self._has_more_columns = old_columns < new_columns
        self._old_names = set(self.manifest.schema.columns)
        # Content hashes of lossy pictures depend on the storage: compare the episodes before they were encoded, too.
        old_storages, new_storages = _find_lossy(self.manifest.schema), _find_lossy(schema)
        self._stores_otherwise = old_storages != new_storages
        self._loses_detail = bool(new_storages.items() - old_storages.items())
        self._original_hash = hashlib.sha256()
        self._original_old_columns_hash = hashlib.sha256()
        self._old_digest = _digest_episode_table(folder, self.manifest)
        self._new_hash = hashlib.sha256()
        self._old_columns_hash = hashlib.sha256()  # of the new episodes, without the new columns

    def add(self, episode: "EncodedEpisode") -> None:
        """Add the next episode of the new version, in rising order of ids."""
        record = episode.record
        self._add_to(self._new_hash, record)
        if self._stores_otherwise:
            self._add_to(self._original_hash, episode.original)
        if self._has_more_columns:
            self._add_to(self._old_columns_hash, self._keep_old_columns(record))
            if self._stores_otherwise:
                self._add_to(self._original_old_columns_hash, self._keep_old_columns(episode.original))

    def add_stored(self, record: "EpisodeRecord") -> None:
        """Add an episode whose transitions are not read, of the version that the new one continues.

        If the columns differ from the earlier version's, the records do too: an append changes them.
        """
        self._add_to(self._new_hash, record)

    @property
    def level(self) -> str:
        """MAJOR, MINOR or PATCH."""
        if self._has_same_columns and self._is_old(self._new_hash):
            return PATCH
        if self._has_same_columns and self._stores_otherwise and self._is_old(self._original_hash):
            return MINOR if self._loses_detail else PATCH
        hashes = (self._old_columns_hash, *([self._original_old_columns_hash] if self._stores_otherwise else []))
        if self._has_more_columns and any(self._is_old(digest) for digest in hashes):
            return MINOR
        return MAJOR

    def _add_to(self, digest: "hashlib._Hash", record: "EpisodeRecord") -> None:
        _update_digest(digest, record.episode, record.split, record.seed, record.content_hash())

    def _keep_old_columns(self, record: "EpisodeRecord") -> "EpisodeRecord":
        columns = {name: array for name, array in record.columns.items() if name in self._old_names}
        final = {name: array for name, array in record.final.items() if name in self._old_names}
        return replace(record, columns=columns, final=final)

    def _is_old(self, digest: "hashlib._Hash") -> bool:
        return digest.digest() == self._old_digest

    @property
    def next_version(self) -> str:
        """The version number that follows the earlier version's."""
        return next_version(self.manifest.version, self.level)

    def require(self, version: str) -> None:
        """Raise unless a version number fits what changed. Numbers may be skipped.

        Raises:
            WrongVersionError: The number does not fit; the message names the right one.
        """
        old, new = _store.parse_version(self.manifest.version), _store.parse_version(version)
        level = next(level for level, before, after in zip(_LEVELS, old, new, strict=True) if before != after)
        if level != self.level:
            msg = (
                f"{self.manifest.name} {version}: {_DESCRIPTIONS[self.level]} since {self.manifest.version}, expected "
                f"a {self.level} step, got a {level} step. Use {self.next_version}, or leave the version out."
            )
            raise WrongVersionError(msg)


def next_version(version: str, level: str) -> str:
    """Return the number that follows: ``next_version("1.2.3", "MINOR")`` is ``"1.3.0"``."""
    major, minor, patch = _store.parse_version(version)
    if level == MAJOR:
        return f"{major + 1}.0.0"
    if level == MINOR:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def _describe_columns(schema: Schema) -> set[tuple[str, str, tuple[int, ...], bool]]:
    """Return the fields of a schema without their units, which are only a description."""
    return {(field.column, field.dtype, field.shape, field.observed) for field in schema.fields}


def _find_lossy(schema: Schema) -> dict[str, str | None]:
    """Return the storage of each column that loses detail."""
    return {field.column: field.storage for field in schema.fields if field.is_lossy}


def _digest_episode_table(folder: Path, manifest: Manifest) -> bytes:
    """Return the digest of a version's records, from its episode table."""
    verify_files(folder, [entry for entry in manifest.files if entry.path == EPISODES_PATH])
    names = (keys.EPISODE, "split", "seed", "content_hash")
    table = _parquet.read_table(folder / EPISODES_PATH, names, max_rows=manifest.num_episodes)
    digest = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in names), strict=True):
        _update_digest(digest, *row)
    return digest.digest()


def _update_digest(digest: "hashlib._Hash", *row: object) -> None:
    digest.update(json.dumps(row).encode())
