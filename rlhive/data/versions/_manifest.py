"""The manifest of a version, ``rlhive.json``: written last, read first, JSON only.

A version exists when its manifest exists. The fingerprint hashes the schema and the episodes, not the files: the same
content has the same fingerprint for all shard sizes, recording processes and versions of pyarrow.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rlhive import keys
from rlhive.data import _store, _untrusted
from rlhive.data._picture_codecs import RAW
from rlhive.data._schema import Schema
from rlhive.data._timing import find_fps
from rlhive.data.versions._local import MANIFEST_NAME
from rlhive.data.versions._manifest_file import (
    EPISODES_PATH as EPISODES_PATH,
    FORMAT_VERSION,
    parse_manifest_file,
    parse_success_rates,
)
from rlhive.errors import CorruptDatasetError

SKETCHES_PATH = "meta/statistics.parquet"
VIDEOS_PATH = "videos/"
_COUNTS = ("num_episodes", "num_transitions")


@dataclass(frozen=True)
class FileEntry:
    """A file of the version, as the manifest records it.

    Attributes:
        path: Path relative to the version's folder, with forward slashes.
        sha256: SHA-256 of the file's bytes.
        bytes: Size in bytes.
        split: Split of a shard of transitions; empty for any other file.
        num_transitions: Number of rows of a shard.
        num_episodes: Number of episodes of a shard. A shard holds whole episodes.
    """

    path: str
    sha256: str
    bytes: int
    split: str = ""
    num_transitions: int = 0
    num_episodes: int = 0


@dataclass(frozen=True)
class Manifest:
    """Description of a version: identity, schema, splits, files, provenance and statistics.

    Attributes:
        name: Dataset name, ``namespace/name``.
        version: MAJOR.MINOR.PATCH.
        fingerprint: SHA-256 of the schema and the episodes.
        schema: Schema of the transitions.
        splits: Number of episodes and transitions per split.
        files: Every file of the version except the manifest.
        license: Licence identifier.
        description: Description of the dataset in a sentence or two.
        env_name: Environment of the episodes; empty if unknown.
        task: Name of the task in the catalogue; empty if there is none.
        created: Time of the export, UTC, ISO 8601.
        runs: Provenance, one entry per recording run.
        parents: Versions that this version is derived from.
        statistics: Statistics per split and column, see :mod:`rlhive.data`. The histograms behind the quantiles are in
            ``meta/statistics.parquet``.
        success_rates: Share of successful episodes per split, None where success was not recorded; empty in versions
            that were written before it was noted.
        picture_loss: What the pictures that were encoded for this version lost, per split and column: ``num_pictures``,
            ``psnr`` in dB and ``ssim``, and those of the worst picture, ``min_psnr`` and ``min_ssim``, which
            earlier versions may lack. Empty where nothing was lost here; pictures that were copied from a parent are in
            the parent's.
    """

    name: str
    version: str
    fingerprint: str
    schema: Schema
    splits: Mapping[str, Mapping[str, int]]
    files: tuple[FileEntry, ...]
    license: str
    description: str
    env_name: str
    task: str
    created: str
    runs: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[Mapping[str, Any], ...] = ()
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    success_rates: Mapping[str, float | None] = field(default_factory=dict)
    picture_loss: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def num_episodes(self) -> int:
        """Number of episodes in all splits."""
        return sum(split["num_episodes"] for split in self.splits.values())

    @property
    def num_transitions(self) -> int:
        """Number of transitions in all splits."""
        return sum(split["num_transitions"] for split in self.splits.values())

    @property
    def num_bytes(self) -> int:
        """Size of all files except the manifest."""
        return sum(entry.bytes for entry in self.files)

    @property
    def fps(self) -> float | None:
        """Rate of the steps in frames per second, as all runs recorded it or their environments' time step gives it."""
        return find_fps(self.runs)

    @property
    def data_key(self) -> str:
        """SHA-256 of all fields that decide which transitions are served, for caches of untrusted versions.

        The fingerprint alone would not do: an untrusted manifest can claim any fingerprint.
        """
        files = [
            asdict(entry)
            for entry in self.files
            if entry.split or entry.path == EPISODES_PATH or entry.path.startswith(VIDEOS_PATH)
        ]
        served = [self.fingerprint, self.schema.to_json(), dict(self.splits), list(self.splits), files]
        return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()

    def shards(self, split: str | None = None) -> tuple[FileEntry, ...]:
        """Return the shards of transitions of one split, or of all splits, in order."""
        return tuple(entry for entry in self.files if entry.split and split in (None, entry.split))

    @property
    def videos(self) -> tuple[FileEntry, ...]:
        """The video files."""
        return tuple(entry for entry in self.files if entry.path.startswith(VIDEOS_PATH))

    def restrict_to_shards(self, shards: Iterable[FileEntry]) -> "Manifest":
        """Return the manifest of some shards, with a fingerprint of its own and without statistics."""
        selected = {entry.path: entry for entry in shards}
        splits = {}
        for split in self.splits:
            entries = [entry for entry in selected.values() if entry.split == split]
            if entries:
                splits[split] = {count: sum(getattr(entry, count) for entry in entries) for count in _COUNTS}
        fingerprint = hashlib.sha256("\n".join([self.fingerprint, *sorted(selected)]).encode()).hexdigest()
        files = tuple(entry for entry in self.files if not entry.split or entry.path in selected)
        restricted = replace(self, fingerprint=fingerprint, splits=splits, files=files, statistics={})
        return replace(restricted, success_rates={}, picture_loss={})

    def write(self, folder: Path) -> None:
        """Write ``rlhive.json`` into the folder. Every other file of the version must be complete by then."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["format_version"] = _choose_format(self.schema)
        if not self.picture_loss:  # as all manifests were before there were lossy pictures
            del content["picture_loss"]
        content["schema"] = self.schema.to_json()
        content["files"] = [asdict(entry) for entry in self.files]
        text = json.dumps(content, indent=1, allow_nan=False)
        _store.write_atomically(folder / MANIFEST_NAME, text.encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and validate the manifest of a version's folder.

        Raises:
            DatasetNotFoundError: The folder does not exist, or has no manifest and so is not a complete version.
            UnsupportedFormatError: The format_version is not one that this RLHive reads.
            CorruptDatasetError: The file is not a manifest that RLHive wrote.
        """
        return parse_manifest_file(folder, _parse_manifest)


class Fingerprint:
    """Incremental fingerprint of a version; add the episodes in the order of their ids.

    Args:
        schema: Schema of the transitions.
    """

    def __init__(self, schema: Schema):
        self._digest = hashlib.sha256(schema.identity_json().encode())

    def add(self, identity: str) -> None:
        """Add the :meth:`~rlhive.data.EpisodeRecord.identity` of an episode."""
        self._digest.update(identity.encode())

    def hexdigest(self) -> str:
        """Return the fingerprint of the episodes that were added."""
        return self._digest.hexdigest()


def compute_fingerprint(schema: Schema, identities: Iterable[str]) -> str:
    """Return the fingerprint of a version from the identities of its episodes, in the order of their ids."""
    fingerprint = Fingerprint(schema)
    for identity in identities:
        fingerprint.add(identity)
    return fingerprint.hexdigest()


def verify_files(folder: Path, entries: Iterable[FileEntry]) -> None:
    """Compare files with the sizes and hashes that the manifest recorded.

    Raises:
        CorruptDatasetError: A file is missing, is a link that leaves the folder, or has another size or SHA-256; the
            message names the first such file.
    """
    for entry in entries:
        path = Path(folder) / entry.path
        try:
            _untrusted.require_inside(folder, path)
        except ValueError as error:
            msg = f"{error}: expected a file inside it. Replace the link by the file, or fetch the version again."
            raise CorruptDatasetError(msg) from error
        size = path.stat().st_size if path.is_file() else None
        if size != entry.bytes:
            actual = "no such file" if size is None else f"{size} bytes"
            msg = f"{path}: expected {entry.bytes} bytes, got {actual}. Fetch or make the version again."
            raise CorruptDatasetError(msg)
        digest = compute_sha256(path)
        if digest != entry.sha256:
            msg = f"{path}: expected SHA-256 {entry.sha256}, got {digest}. Fetch or make the version again."
            raise CorruptDatasetError(msg)


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_manifest(content: dict[str, Any]) -> Manifest:
    """Return the manifest of untrusted JSON."""
    entries = tuple(_parse_file_entry(row) for row in _untrusted.parse_objects(content["files"]))
    if len({entry.path.lower() for entry in entries} | {MANIFEST_NAME}) != len(entries) + 1:
        msg = f"a file is listed twice, or {MANIFEST_NAME} itself is listed"
        raise ValueError(msg)
    _store.parse_name(_untrusted.parse_text(content["name"]))
    _store.parse_version(_untrusted.parse_text(content["version"]))
    return Manifest(
        name=content["name"],
        version=content["version"],
        fingerprint=_untrusted.parse_sha256(content["fingerprint"]),
        schema=_parse_schema(content["schema"]),
        splits={
            _untrusted.parse_split_name(name): {count: _untrusted.parse_count(row[count]) for count in _COUNTS}
            for name, row in content["splits"].items()
        },
        files=entries,
        license=_untrusted.parse_text(content["license"]),
        description=_untrusted.parse_text(content["description"]),
        env_name=_untrusted.parse_text(content["env_name"]),
        task=_untrusted.parse_text(content["task"]),
        created=_untrusted.parse_text(content["created"]),
        runs=_untrusted.parse_objects(content["runs"]),
        parents=_untrusted.parse_objects(content["parents"]),
        statistics=_untrusted.parse_statistics(content["statistics"]),
        success_rates=parse_success_rates(content),
        picture_loss=_parse_picture_loss(content.get("picture_loss", {})),
    )


def _choose_format(schema: Schema) -> int:
    """Return the lowest layout whose readers can read the version."""
    if schema.carried:
        return FORMAT_VERSION
    return 2 if schema.encoded else 1


def _parse_picture_loss(value: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Return the loss of each column by split from untrusted JSON: finite numbers by name."""
    losses: dict[str, dict[str, dict[str, float]]] = {}
    for split, columns in dict(value).items():
        losses[_untrusted.parse_split_name(split)] = {}
        for column, numbers in dict(columns).items():
            if not all(type(number) in (int, float) and math.isfinite(number) for number in dict(numbers).values()):
                msg = f"expected numbers of what pictures lost, got {str(numbers)[:80]}"
                raise ValueError(msg)
            losses[split][_untrusted.parse_text(column)] = {
                _untrusted.parse_text(name): number for name, number in numbers.items()
            }
    return losses


def _parse_schema(rows: Any) -> Schema:
    """Return the schema of untrusted JSON; the end flags must be there and boolean."""
    schema = Schema.from_json([dict(row) for row in _untrusted.parse_objects(rows)])
    schema = schema.with_storage({field.column: RAW for field in schema.fields if field.storage is None})
    for flag in (keys.NEXT_TERMINATED, keys.NEXT_TRUNCATED):
        column = keys.key_to_column(flag)
        if schema[column].dtype != "bool":
            msg = f"column {column} is {schema[column].dtype}, not bool"
            raise ValueError(msg)
    return schema


def _parse_file_entry(row: Mapping[str, Any]) -> FileEntry:
    return FileEntry(
        path=_untrusted.parse_file_path(row["path"]),
        sha256=_untrusted.parse_sha256(row["sha256"]),
        bytes=_untrusted.parse_count(row["bytes"]),
        split=_untrusted.parse_split_name(row["split"]) if row["split"] != "" else "",
        num_transitions=_untrusted.parse_count(row["num_transitions"]),
        num_episodes=_untrusted.parse_count(row["num_episodes"]),
    )
