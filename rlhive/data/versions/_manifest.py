"""One version's record, ``rlhive.json``: written last, read first, JSON only.

A version exists when its manifest does. The fingerprint hashes the schema and the episodes, not files: it is the
same for the same content whatever the shards, the processes or the version of pyarrow that wrote them.
"""

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rlhive import keys
from rlhive.data import _store, _untrusted
from rlhive.data._schema import Schema
from rlhive.errors import CorruptDataset, DatasetNotFound, RLHiveError, UnsupportedFormat

MANIFEST_NAME = "rlhive.json"
FORMAT_VERSION = 1
MAX_BYTES = 64 * 2**20
EPISODES_PATH = "meta/episodes.parquet"
SKETCHES_PATH = "meta/statistics.parquet"


@dataclass(frozen=True)
class FileEntry:
    """A file of the version, as it was when the manifest was written.

    Attributes:
        path: Relative, with forward slashes, never leaving the version's folder.
        sha256: Of its bytes.
        bytes: Its size.
        split: The split of a shard of transitions; empty for any other file.
        num_transitions: Rows of a shard.
        num_episodes: Episodes of a shard; an episode is never cut.
    """

    path: str
    sha256: str
    bytes: int
    split: str = ""
    num_transitions: int = 0
    num_episodes: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything that a version says of itself.

    Attributes:
        name: ``namespace/name``.
        version: MAJOR.MINOR.PATCH of the content.
        fingerprint: SHA-256 of the logical content.
        schema: Of the transitions.
        splits: Number of episodes and transitions per split.
        files: Every file but the manifest.
        license: Identifier of the licence.
        description: What the dataset is, in a sentence or two.
        env_name: Environment that the episodes come from; empty where unknown.
        task: Name in the catalogue; empty where there is none.
        created: When it was written, UTC, ISO 8601.
        runs: Provenance, one entry per recording run.
        parents: Versions that this one was made from.
        statistics: Per split and column, see :mod:`rlhive.data`; the sketches behind the quantiles lie in
            ``meta/statistics.parquet``.
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

    @property
    def num_episodes(self) -> int:
        """Episodes over all splits."""
        return sum(split["num_episodes"] for split in self.splits.values())

    @property
    def num_transitions(self) -> int:
        """Transitions over all splits."""
        return sum(split["num_transitions"] for split in self.splits.values())

    @property
    def num_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.bytes for entry in self.files)

    def shards(self, split: str | None = None) -> tuple[FileEntry, ...]:
        """Return the shards of transitions, in order; of one split, or of all."""
        return tuple(entry for entry in self.files if entry.split and split in (None, entry.split))

    @property
    def data_key(self) -> str:
        """SHA-256 of everything that decides which transitions are served; a fingerprint is only a claim."""
        files = [asdict(entry) for entry in self.files if entry.split or entry.path == EPISODES_PATH]
        decides = [self.fingerprint, self.schema.to_json(), dict(self.splits), list(self.splits), files]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def restrict_to_shards(self, shards: Iterable[FileEntry]) -> "Manifest":
        """Return the manifest of a part: these shards alone, under a fingerprint of its own."""
        kept = {entry.path: entry for entry in shards}
        splits = {}
        for split in self.splits:
            own = [entry for entry in kept.values() if entry.split == split]
            if own:
                counts = ("num_episodes", "num_transitions")
                splits[split] = {count: sum(getattr(entry, count) for entry in own) for count in counts}
        part = hashlib.sha256("\n".join([self.fingerprint, *sorted(kept)]).encode()).hexdigest()
        files = tuple(entry for entry in self.files if not entry.split or entry.path in kept)
        return replace(self, fingerprint=part, splits=splits, files=files, statistics={})

    def write(self, folder: Path) -> None:
        """Write ``rlhive.json`` into the folder; do so last."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        files = [asdict(entry) for entry in self.files]
        content |= {"format_version": FORMAT_VERSION, "schema": self.schema.to_json(), "files": files}
        text = json.dumps(content, indent=1, allow_nan=False)
        _store.write_atomically(folder / MANIFEST_NAME, text.encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a version's folder and check that it makes sense.

        Raises:
            DatasetNotFound: The folder does not exist, or has no manifest and so is not a complete version.
            UnsupportedFormat: It is of a format_version that this RLHive does not read.
            CorruptDataset: It is not what RLHive writes.
        """
        path = Path(folder) / MANIFEST_NAME
        try:
            status = path.stat()
        except OSError as error:
            found = "no such folder" if not Path(folder).is_dir() else f"a folder without {MANIFEST_NAME}"
            msg = f"{folder} is not a dataset version: expected its manifest, got {found}. Collect or pull it again."
            raise DatasetNotFound(msg) from error
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            found = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
            msg = f"{path}: expected a file of at most {MAX_BYTES} bytes, got {found}. Fetch the version again."
            raise CorruptDataset(msg)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _require_format(content, path)
            return _from_json(content)
        except RLHiveError as error:
            if isinstance(error, UnsupportedFormat):
                raise
            raise _corrupt(path, error) from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
            raise _corrupt(path, error) from error


class Fingerprint:
    """The fingerprint of a version, fed episode by episode in the order of their ids.

    Args:
        schema: Of the transitions.
    """

    def __init__(self, schema: Schema):
        self._digest = hashlib.sha256(json.dumps(schema.to_json(), sort_keys=True).encode())

    def add(self, identity: str) -> None:
        """Add an episode's :meth:`~rlhive.data.EpisodeRecord.identity`."""
        self._digest.update(identity.encode())

    def hexdigest(self) -> str:
        """Return the fingerprint of what was added so far."""
        return self._digest.hexdigest()


def compute_fingerprint(schema: Schema, identities: Iterable[str]) -> str:
    """Return the fingerprint of a version from the identities of its episodes, in the order of their ids."""
    fingerprint = Fingerprint(schema)
    for identity in identities:
        fingerprint.add(identity)
    return fingerprint.hexdigest()


def verify_files(folder: Path, entries: Iterable[FileEntry]) -> None:
    """Check files against the hashes that the manifest recorded.

    Raises:
        CorruptDataset: Names the first file whose size or SHA-256 differs.
    """
    for entry in entries:
        path = Path(folder) / entry.path
        try:
            _untrusted.require_inside(folder, path)
        except ValueError as error:
            msg = f"{error}: expected a file in it. Copy the file into its place, or fetch the version again."
            raise CorruptDataset(msg) from error
        found = path.stat().st_size if path.is_file() else None
        if found != entry.bytes:
            size = "no such file" if found is None else f"{found} bytes"
            msg = f"{path}: expected {entry.bytes} bytes, got {size}. Fetch or make the version again."
            raise CorruptDataset(msg)
        digest = compute_sha256(path)
        if digest != entry.sha256:
            msg = f"{path}: expected SHA-256 {entry.sha256}, got {digest}. Fetch or make the version again."
            raise CorruptDataset(msg)


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_format(content: Any, path: Path) -> None:
    found = content["format_version"]
    if not isinstance(found, int) or found > FORMAT_VERSION or found < 1:
        msg = f"{path}: expected format_version 1 to {FORMAT_VERSION}, got {found!r}. Upgrade: pip install -U rlhive"
        raise UnsupportedFormat(msg)


def _from_json(content: dict[str, Any]) -> Manifest:
    entries = tuple(_file_entry(row) for row in _untrusted.parse_objects(content["files"]))
    if len({entry.path.lower() for entry in entries} | {MANIFEST_NAME}) != len(entries) + 1:
        msg = f"a file is listed twice, or {MANIFEST_NAME} itself is"
        raise ValueError(msg)
    names = ("license", "description", "env_name", "task", "created")
    texts = {name: _untrusted.parse_text(content[name]) for name in names}
    _store.parse_name(_untrusted.parse_text(content["name"]))
    _store.parse_version(_untrusted.parse_text(content["version"]))
    return Manifest(
        name=content["name"],
        version=content["version"],
        fingerprint=_untrusted.parse_sha256(content["fingerprint"]),
        schema=_schema(content["schema"]),
        splits={
            _untrusted.parse_split_name(name): {
                key: _untrusted.parse_count(row[key]) for key in ("num_episodes", "num_transitions")
            }
            for name, row in content["splits"].items()
        },
        files=entries,
        runs=_untrusted.parse_objects(content["runs"]),
        parents=_untrusted.parse_objects(content["parents"]),
        statistics=_untrusted.parse_statistics(content["statistics"]),
        **texts,
    )


def _schema(rows: Any) -> Schema:
    schema = Schema.from_json(list(_untrusted.parse_objects(rows)))
    for flag in (keys.NEXT_TERMINATED, keys.NEXT_TRUNCATED):
        if schema[keys.key_to_column(flag)].dtype != "bool":
            msg = f"column {keys.key_to_column(flag)} is {schema[keys.key_to_column(flag)].dtype}, not bool"
            raise ValueError(msg)
    return schema


def _file_entry(row: Mapping[str, Any]) -> FileEntry:
    counts = {name: _untrusted.parse_count(row[name]) for name in ("bytes", "num_transitions", "num_episodes")}
    split = _untrusted.parse_split_name(row["split"]) if row["split"] != "" else ""
    return FileEntry(
        path=_untrusted.parse_file_path(row["path"]),
        sha256=_untrusted.parse_sha256(row["sha256"]),
        split=split,
        **counts,
    )


def _corrupt(path: Path, error: Exception) -> CorruptDataset:
    return CorruptDataset(f"{path} is not a manifest that RLHive wrote: {error}. Fetch or make the version again.")
