"""A recording: the folder in which episodes are safe from the moment they end until they become a version.

::

    recording.json      format_version, name; written first; whoever writes holds a shared lock of it
    schema.json         schema, sizes of the simulator's start state; written once, with the first episode
    <run>.run.json      provenance of a run
    <writer>.arrows     the episodes of one writer, see :mod:`rlhive.data.recording`

Every file but the streams is written once and whole.
"""

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data.recording._order import in_order
from rlhive.data.recording._stream import SUFFIX, StreamReader, head_bytes
from rlhive.data.versions import VersionSource
from rlhive.errors import CorruptDataset, InvalidName, RecordingInUse, SchemaMismatch, UnsupportedFormat

FORMAT_VERSION = 2
#: Somebody who only looks holds the lock for an instant.
PATIENCE_S = 5.0
_HEAD = "recording.json"
_SCHEMA = "schema.json"
_RUN = ".run.json"
_WORD = re.compile(r"[A-Za-z0-9_-]{1,96}")


@dataclass(frozen=True)
class Survey:
    """What a recording holds.

    Attributes:
        path: Its folder.
        name: The dataset that it is meant for; may be empty.
        num_episodes: Whole and undamaged ones.
        num_transitions: Of those.
        num_bytes: Size of all streams.
        unreadable_bytes: What cannot be read: episodes in flight when their writer died, and damage.
        age_s: Seconds since something was written.
        in_use: Whether a live process writes to it.
    """

    path: Path
    name: str
    num_episodes: int
    num_transitions: int
    num_bytes: int
    unreadable_bytes: int
    age_s: float
    in_use: bool


class Recording:
    """A folder of recorded episodes: opened to add writers, or to read what is there.

    Args:
        path: Folder of an existing recording; :meth:`create` makes one.

    Raises:
        CorruptDataset: The folder has no readable ``recording.json``.
        UnsupportedFormat: Another version of RLHive wrote it.

    Attributes:
        path: The folder.
        name: The dataset that it is meant for; may be empty.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._known: tuple[Schema, dict[str, int]] | None = None
        head = self._read(_HEAD)
        found = head.get("format_version") if isinstance(head, dict) else None
        self.name = str(head.get("name", "")) if found else ""
        if found != FORMAT_VERSION:
            msg = f"{self.path}: expected a recording of format_version {FORMAT_VERSION}, got {found!r}. Record again."
            raise UnsupportedFormat(msg)

    @classmethod
    def create(
        cls,
        path: Path,
        schema: Schema | None = None,
        *,
        start_state: Mapping[str, np.ndarray] | None = None,
        provenance: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> "Recording":
        """Make a recording, or open the one that is there.

        Args:
            path: Its folder.
            schema: Of the transitions; by default that of the first episode.
            start_state: Any simulator state, for the names and sizes of its parts.
            provenance: How the episodes come about, with the run's id as ``"run"``; JSON-able.
            name: The dataset that it is meant for.

        Raises:
            StoreNotWritable, DiskFull: The folder cannot be made.
            SchemaMismatch: A recording with another schema is there.
        """
        path = Path(path)
        with _store.translate_disk_errors(path):
            _make_folder(path)
            _write_once(path / _HEAD, {"format_version": FORMAT_VERSION, "name": name})
        recording = cls(path)
        if schema is not None:
            recording.set_schema(schema, start_state or {})
        if provenance is not None:
            recording.add_run(provenance)
        return recording

    @property
    def schema(self) -> Schema | None:
        """Of the transitions; None before the first episode, unless it was given."""
        return self._description()[0]

    @property
    def start_state_sizes(self) -> dict[str, int]:
        """Number of elements of each named part of the simulator's start state."""
        return self._description()[1]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Provenance of every run, sorted by their ids."""
        return [self._read(name) for name in sorted(path.name for path in self.path.glob(f"*{_RUN}"))]

    @property
    def run(self) -> str:
        """Id of the first run; empty where there is none."""
        return next((str(run.get("run", "")) for run in self.runs), "")

    def set_schema(self, schema: Schema, start_state: Mapping[str, np.ndarray]) -> None:
        """Fix the schema and the parts of the start state, or check that they are those of the recording.

        Raises:
            SchemaMismatch: The recording has others.
        """
        if self.schema is None:
            sizes = {name: int(np.size(value)) for name, value in start_state.items()}
            with _store.translate_disk_errors(self.path):
                _write_once(self.path / _SCHEMA, {"schema": schema.to_json(), "start_state": sizes})
        self.schema.require(schema, context=str(self.path))
        self.require_start_state(start_state, where=str(self.path))

    def require_start_state(self, start_state: Mapping[str, np.ndarray], *, where: str) -> None:
        """Raise unless a start state has the parts and sizes of the recording's.

        Raises:
            SchemaMismatch: Names the first part that differs.
        """
        expected, got = self.start_state_sizes, {name: np.size(value) for name, value in start_state.items()}
        for name in sorted(expected.keys() | got.keys()):
            if expected.get(name) != got.get(name):
                sizes = [f"{found[name]} numbers" if name in found else "no such part" for found in (expected, got)]
                msg = (
                    f"{where}: start state {name!r}: expected {sizes[0]}, got {sizes[1]}. "
                    "Give every episode of a recording the same parts, or none to any."
                )
                raise SchemaMismatch(msg)

    def add_run(self, provenance: Mapping[str, Any]) -> None:
        """Add a run's provenance; one of the same id that is there already stays.

        Raises:
            InvalidName: The run's id is not a word.
        """
        run = word(str(provenance.get("run", "")) or "run", "run")
        with _store.translate_disk_errors(self.path):
            _write_once(self.path / f"{run}{_RUN}", dict(provenance))

    def records(self) -> Iterator[EpisodeRecord]:
        """Yield every whole episode, stream by stream; a repeated id only once."""
        seen: set[int] = set()
        for path in self._streams():
            with self._reader(path) as reader:
                for _, record in reader.scan():
                    if record.episode not in seen:
                        seen.add(record.episode)
                        yield record

    def sorted_records(self) -> Iterator[EpisodeRecord]:
        """Yield every whole episode in the order of their ids, whoever recorded them and when.

        See :func:`rlhive.data.recording.in_order` for what that costs.
        """
        return in_order(self._streams(), self._reader)

    def as_source(self, schema: Schema | None = None) -> VersionSource:
        """Return the episodes with the provenance of their runs, as :func:`rlhive.data.versions.export` takes them.

        Args:
            schema: Schema of an empty version, where no episode was recorded.

        Raises:
            SchemaMismatch: Nothing was recorded and no schema is given, or the recording has another one.
        """
        known = self.schema or schema
        if known is None:
            msg = f"{self.path}: expected episodes, got none. Record some, or pass schema= for an empty version."
            raise SchemaMismatch(msg)
        known.require(schema or known, context=str(self.path))
        return VersionSource(known, self.sorted_records, ids=self.summaries, runs=tuple(self.runs))

    def summaries(self) -> dict[int, tuple[int, bool]]:
        """Return length and success of every whole episode, by id."""
        return {record.episode: (record.length, record.success) for record in self.records()}

    def survey(self) -> Survey:
        """Read everything and say what is there."""
        lengths: dict[int, int] = {}
        stats = [path.stat() for path in self._streams()]
        unreadable = sum(stat.st_size for stat in stats)
        for path in self._streams():
            with self._reader(path) as reader:
                unreadable -= min(path.stat().st_size, head_bytes(self.schema, self.start_state_sizes))
                for place, record in reader.scan():
                    lengths[record.episode] = record.length
                    unreadable -= place.size
        newest = max([(self.path / _HEAD).stat().st_mtime, *(stat.st_mtime for stat in stats)])
        return Survey(
            path=self.path,
            name=self.name,
            num_episodes=len(lengths),
            num_transitions=sum(lengths.values()),
            num_bytes=sum(stat.st_size for stat in stats),
            unreadable_bytes=max(unreadable, 0),
            age_s=max(time.time() - newest, 0.0),
            in_use=self.in_use(),
        )

    def in_use(self) -> bool:
        """Whether a live process writes to it, or commits or discards it."""
        try:
            with self.exclusive(patience_s=0):
                return False
        except RecordingInUse:
            return True

    @contextlib.contextmanager
    def shared(self, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Hold the recording for writing: nobody commits or discards it meanwhile.

        Raises:
            RecordingInUse: Somebody is committing or discarding it, still after ``patience_s``.
        """
        with self._locked(fcntl.LOCK_SH, patience_s):
            yield

    @contextlib.contextmanager
    def exclusive(self, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Hold the recording for committing or discarding it.

        Raises:
            RecordingInUse: A live process writes to it, still after ``patience_s``.
        """
        with self._locked(fcntl.LOCK_EX, patience_s):
            yield

    def discard(self) -> None:
        """Remove the recording and what it holds; hold it :meth:`exclusive` meanwhile."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, kind: int, patience_s: float) -> Iterator[None]:
        # flock, since the locks of fcntl() are lost as soon as anything in the process closes the file. The operating
        # system frees it when the last process that holds it dies.
        deadline = time.monotonic() + patience_s
        with _store.translate_disk_errors(self.path), (self.path / _HEAD).open("rb") as head:
            while True:
                try:
                    fcntl.flock(head, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        msg = f"{self.path}: expected a recording that no live process holds, got one in use. End that."
                        raise RecordingInUse(msg) from error
                time.sleep(0.01)
            yield

    def _description(self) -> tuple[Schema | None, dict[str, int]]:
        if self._known is None:
            if not (self.path / _SCHEMA).exists():
                return None, {}
            content = self._read(_SCHEMA)
            try:
                sizes = {str(name): int(size) for name, size in content["start_state"].items()}
                self._known = Schema.from_json(content["schema"]), sizes
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._corrupt(_SCHEMA, error) from error
        return self._known

    def _reader(self, path: Path) -> StreamReader:
        return StreamReader(path, self.schema, self.start_state_sizes)

    def _streams(self) -> list[Path]:
        return [] if self.schema is None else sorted(self.path.glob(f"*{SUFFIX}"))

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._corrupt(name, error) from error

    def _corrupt(self, name: str, error: Exception) -> CorruptDataset:
        msg = f"{self.path} is not a recording: expected a readable {name}, got {error!r}. Remove the folder."
        return CorruptDataset(msg)


def word(text: str, what: str) -> str:
    """Return the name of a writer or a run if it can be part of a file's name.

    Raises:
        InvalidName: It cannot.
    """
    if not _WORD.fullmatch(text):
        msg = f"Name of a {what}: expected letters, digits, '_' and '-', got {text!r}. Choose another."
        raise InvalidName(msg)
    return text


def _make_folder(path: Path) -> None:
    """Make a folder whose name, and those of the folders above it that are new, survive a power loss."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        _store.fsync_path(folder.parent)


def _write_once(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file unless it is there; of several processes one wins."""
    if not path.exists():
        with _store.locked(path):
            if not path.exists():
                _store.write_atomically(path, json.dumps(content, indent=1).encode())
