"""Which versions of a dataset the store holds, and which number the next one must have.

The rule is that of TensorFlow Datasets, with respect to the newest earlier version of the same name in the store::

    MAJOR   records or their splits changed
    MINOR   the same records have more columns
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
from rlhive.data.versions._manifest import EPISODES_PATH, MANIFEST_NAME, Manifest, verify_files
from rlhive.errors import WrongVersion

if TYPE_CHECKING:  # episodes need torch, whose import takes seconds
    from rlhive.data._episodes import EpisodeRecord

FIRST = "1.0.0"
MAJOR, MINOR, PATCH = "MAJOR", "MINOR", "PATCH"

_MEANING = {
    MAJOR: "records or their splits changed",
    MINOR: "the same records have more columns",
    PATCH: "the records are the same",
}


def list_local_versions(name: str, *, store: Path | None = None) -> dict[str, Path]:
    """Return the complete versions of a dataset in the local store, oldest first, with their folders."""
    namespace, bare = _store.parse_name(name)
    folder = (store or _store.store_dir()) / namespace / bare
    found = {}
    for path in folder.glob(f"*/{MANIFEST_NAME}"):
        try:
            found[_store.parse_version(path.parent.name)] = path.parent
        except ValueError:
            continue
    return {".".join(map(str, version)): found[version] for version in sorted(found)}


def list_local_datasets(*, store: Path | None = None) -> list[str]:
    """Return the ids ``namespace/name`` of all datasets in the local store."""
    root = store or _store.store_dir()
    return sorted({"/".join(path.parts[-4:-2]) for path in root.glob(f"[!.]*/[!.]*/*/{MANIFEST_NAME}")})


def find_earlier_version(name: str, version: str | None, *, store: Path | None = None) -> Path | None:
    """Return the folder of the newest version in the store below ``version``, or of all; None where there is none."""
    below = [
        path
        for number, path in list_local_versions(name, store=store).items()
        if version is None or _store.parse_version(number) < _store.parse_version(version)
    ]
    return below[-1] if below else None


class VersionChange:
    """What changed since an earlier version; fed the new one's episodes as they are written.

    Reads the earlier version's episode table only. Memory does not grow with the episodes.

    Args:
        folder: Of the earlier version.
        schema: Of the new one.
    """

    def __init__(self, folder: Path, schema: Schema):
        self.manifest = Manifest.read(folder)
        self._old = _digest_of(folder, self.manifest)
        self._new, self._restricted = hashlib.sha256(), hashlib.sha256()
        before, after = _plain(self.manifest.schema), _plain(schema)
        self._same_columns = before == after
        self._more_columns = before < after
        self._columns = set(self.manifest.schema.columns)

    def add(self, record: "EpisodeRecord") -> None:
        """Take the next episode of the new version, in rising order of ids."""
        _put(self._new, record.episode, record.split, record.seed, record.content_hash())
        if self._more_columns:  # the same episode without the new columns
            columns = {name: array for name, array in record.columns.items() if name in self._columns}
            final = {name: array for name, array in record.final.items() if name in self._columns}
            less = replace(record, columns=columns, final=final)
            _put(self._restricted, record.episode, record.split, record.seed, less.content_hash())

    @property
    def level(self) -> str:
        """MAJOR, MINOR or PATCH."""
        if self._same_columns and self._new.digest() == self._old:
            return PATCH
        return MINOR if self._more_columns and self._restricted.digest() == self._old else MAJOR

    @property
    def next_version(self) -> str:
        """The right number after the earlier version's."""
        return next_version(self.manifest.version, self.level)

    def require(self, version: str) -> None:
        """Raise unless a number says what changed. Numbers may be skipped.

        Raises:
            WrongVersion: Names the right one.
        """
        before, after = _store.parse_version(self.manifest.version), _store.parse_version(version)
        level = (MAJOR, MINOR, PATCH)[next(place for place in range(3) if before[place] != after[place])]
        if level != self.level:
            msg = (
                f"{self.manifest.name} {version}: {_MEANING[self.level]} since {self.manifest.version}, expected a "
                f"{self.level} step, got a {level} one. Choose {self.next_version}, or leave the version out."
            )
            raise WrongVersion(msg)


def next_version(version: str, level: str) -> str:
    """Return the number that follows: ``next_version("1.2.3", "MINOR")`` is ``"1.3.0"``."""
    major, minor, patch = _store.parse_version(version)
    if level == MAJOR:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if level == MINOR else f"{major}.{minor}.{patch + 1}"


def _plain(schema: Schema) -> set[tuple]:
    """The fields without their units, which only describe them."""
    return {(field.column, field.dtype, field.shape, field.observed) for field in schema.fields}


def _digest_of(folder: Path, manifest: Manifest) -> bytes:
    verify_files(folder, [entry for entry in manifest.files if entry.path == EPISODES_PATH])
    names = (keys.EPISODE, "split", "seed", "content_hash")
    table = _parquet.read_table(folder / EPISODES_PATH, names)
    digest = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in names), strict=True):
        _put(digest, *row)
    return digest.digest()


def _put(digest: "hashlib._Hash", *row: object) -> None:
    digest.update(json.dumps(row).encode())
