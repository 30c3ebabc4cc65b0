"""A recording: the folder that keeps episodes from the moment they end until they become a dataset version.

::

    recording.json      format_version, name; written first; writers hold a shared lock of this file
    schema.json         schema, sizes of the simulator's start state; written once, with the first episode
    start_state.json    sizes of the simulator's start state, if the first episode had none and a later one has
    <run>.run.json      provenance of a run
    <writer>.arrows     the episodes of one writer, see :mod:`rlhive.data.recording`
    <token>.open        the transitions of an open episode

Except for the streams and the open episodes, every file is written once and atomically.
"""

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data import _store
from rlhive.data._episodes import EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data._timing import find_recorded_fps, require_fps, require_rate
from rlhive.data.recording._journal import InterruptedEpisode, read_interrupted
from rlhive.data.recording._stream import SUFFIX, StreamReader, read_sorted_records
from rlhive.data.versions import VersionSource
from rlhive.errors import (
    CorruptDatasetError,
    InvalidNameError,
    InvalidOptionError,
    RecordingInUseError,
    SchemaMismatchError,
    UnsupportedFormatError,
)

FORMAT_VERSION = 2
#: How long to wait for the lock of a recording: a process that only reads its state holds it for an instant.
LOCK_TIMEOUT_S = 5.0
_RECORDING_FILE = "recording.json"
_SCHEMA_FILE = "schema.json"
_START_STATE_FILE = "start_state.json"
_RUN_SUFFIX = ".run.json"
_WORD = re.compile(r"[A-Za-z0-9_-]{1,96}")


@dataclass(frozen=True)
class RecordingSummary:
    """Size and state of a recording.

    Attributes:
        path: Folder of the recording.
        name: Name of the dataset that the recording is meant for; may be empty.
        num_episodes: Number of complete and undamaged episodes.
        num_transitions: Number of transitions in these episodes.
        num_bytes: Size of all streams.
        num_interrupted: Number of episodes that were open when their process died. A commit records what was saved.
        interrupted_transitions: Number of transitions that were saved of them.
        unreadable_bytes: Size of what cannot be read: episodes in flight when their writer died, and damage.
        age_s: Seconds since the last write.
        in_use: Whether a live process writes to the recording.
    """

    path: Path
    name: str
    num_episodes: int
    num_transitions: int
    num_bytes: int
    num_interrupted: int
    interrupted_transitions: int
    unreadable_bytes: int
    age_s: float
    in_use: bool


class Recording:
    """A folder of recorded episodes, opened to add writers or to read the episodes.

    Args:
        path: Folder of an existing recording; :meth:`create` makes one.

    Raises:
        CorruptDatasetError: The folder has no readable ``recording.json``.
        UnsupportedFormatError: Another version of RLHive wrote the recording.

    Attributes:
        path: The folder.
        name: Name of the dataset that the recording is meant for; may be empty.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._description: tuple[Schema, dict[str, int]] | None = None
        self._tokens_by_stream: dict[Path, tuple[int, set[str]]] = {}
        content = self._read_json(_RECORDING_FILE)
        version = content.get("format_version") if isinstance(content, dict) else None
        self.name = str(content.get("name", "")) if version else ""
        if version != FORMAT_VERSION:
            msg = f"{self.path}: expected a recording of format_version {FORMAT_VERSION}, got {version!r}."
            raise UnsupportedFormatError(msg)

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
        """Make a recording, or open the existing one.

        Args:
            path: Folder of the recording.
            schema: Schema of the transitions; by default that of the first episode.
            start_state: Any simulator state, for the names and sizes of its parts.
            provenance: Provenance of a run, with the run's id as ``"run"``; JSON-able.
            name: Name of the dataset that the recording is meant for.

        Raises:
            StoreNotWritableError, DiskFullError: The folder cannot be made.
            SchemaMismatchError: The existing recording has another schema.
        """
        path = Path(path)
        with _store.translate_disk_errors(path):
            _make_durable_folder(path)
            _write_once(path / _RECORDING_FILE, {"format_version": FORMAT_VERSION, "name": name})
        recording = cls(path)
        if schema is not None:
            recording.set_schema(schema, start_state or {})
        if provenance is not None:
            recording.add_run(provenance)
        return recording

    @property
    def schema(self) -> Schema | None:
        """Schema of the transitions; None before the first episode, unless it was given."""
        description = self._read_description()
        return None if description is None else description[0]

    @property
    def start_state_sizes(self) -> dict[str, int]:
        """Number of elements of each named part of the simulator's start state; empty until an episode has one."""
        description = self._read_description()
        if description is None or description[1] or not (self.path / _START_STATE_FILE).exists():
            return {} if description is None else description[1]
        sizes = self._parse_sizes(_START_STATE_FILE, self._read_json(_START_STATE_FILE))
        self._description = description[0], sizes
        return sizes

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Provenance of every run, sorted by run id."""
        return [self._read_json(name) for name in sorted(path.name for path in self.path.glob(f"*{_RUN_SUFFIX}"))]

    @property
    def run(self) -> str:
        """Id of the first run; empty where there is none."""
        return next((str(run.get("run", "")) for run in self.runs), "")

    def choose_fps(self, fps: float | None) -> float | None:
        """Return the rate of further runs: that of the recording.

        Args:
            fps: Rate that the caller expects; None for any.

        Raises:
            InvalidOptionError: The recording has another rate, or none.
        """
        recorded_fps = find_recorded_fps(self.runs)
        if fps is not None and require_fps(fps) != recorded_fps:
            recorded_rate = "no rate" if recorded_fps is None else f"{recorded_fps:g}"
            msg = (
                f"{self.path}: fps={fps!r}: expected the recording's rate, got {recorded_rate} there. "
                "commit(fps=…) sets it"
            )
            raise InvalidOptionError(msg)
        return recorded_fps

    def require_schema(self) -> Schema:
        """Return the schema of the transitions.

        Raises:
            SchemaMismatchError: No schema was given and no episode was recorded.
        """
        schema = self.schema
        if schema is None:
            msg = f"{self.path}: expected a schema, got none: the recording holds no episode."
            raise SchemaMismatchError(msg)
        return schema

    def set_schema(self, schema: Schema, start_state: Mapping[str, np.ndarray]) -> None:
        """Fix the schema and the parts of the start state, or check that they are those of the recording.

        Args:
            schema: Schema of the transitions.
            start_state: A start state; empty if there is none.

        Raises:
            SchemaMismatchError: The recording has another schema or other parts.
        """
        if self.schema is None:
            sizes = {name: int(np.size(value)) for name, value in start_state.items()}
            with _store.translate_disk_errors(self.path):
                _write_once(
                    self.path / _SCHEMA_FILE, {"schema": schema.without_storage().to_json(), "start_state": sizes}
                )
        self.require_schema().require(schema, context=str(self.path))
        self.accept_start_state(start_state, context=str(self.path))

    def accept_start_state(self, start_state: Mapping[str, np.ndarray], *, context: str) -> None:
        """Check that a start state has the parts and sizes of the recording's; the first one fixes them.

        An episode without a start state is accepted beside others.

        Raises:
            SchemaMismatchError: Names the first part that differs.
        """
        got = {name: int(np.size(value)) for name, value in start_state.items()}
        if got and not self.start_state_sizes:
            with _store.translate_disk_errors(self.path):
                _write_once(self.path / _START_STATE_FILE, got)
        expected = self.start_state_sizes if got else {}
        for name in sorted(expected.keys() | got.keys()):
            if expected.get(name) != got.get(name):
                numbers = [f"{sizes[name]} numbers" if name in sizes else "no such part" for sizes in (expected, got)]
                msg = (
                    f"{context}: start state {name!r}: expected {numbers[0]}, got {numbers[1]}. "
                    "All episodes of a recording need the same parts, or none."
                )
                raise SchemaMismatchError(msg)

    def accept(self, record: EpisodeRecord, schema: Schema, context: str) -> None:
        """Check that an episode fits the recording; the first episode fixes the schema and the start state's parts.

        Raises:
            SchemaMismatchError: The recording has another schema, or a start state of other parts.
        """
        recording_schema = self.schema
        if recording_schema is None:
            self.set_schema(schema, record.start_state)
        elif recording_schema != schema:
            recording_schema.require(schema, context=context)
        self.accept_start_state(record.start_state, context=context)

    def add_run(self, provenance: Mapping[str, Any]) -> None:
        """Add the provenance of a run; an existing one with the same id stays.

        Raises:
            InvalidNameError: The run's id cannot be part of a file name.
        """
        run = require_word(str(provenance.get("run", "")) or "run", "run")
        with _store.translate_disk_errors(self.path):
            _write_once(self.path / f"{run}{_RUN_SUFFIX}", dict(provenance))

    def records(self) -> Iterator[EpisodeRecord]:
        """Yield every complete episode, stream by stream; a repeated id only once."""
        episode_ids: set[int] = set()
        for path in self._stream_paths():
            with self._open_reader(path) as reader:
                for _, record in reader.scan():
                    if record.episode not in episode_ids:
                        episode_ids.add(record.episode)
                        yield record

    def sorted_records(self) -> Iterator[EpisodeRecord]:
        """Yield every complete episode of all writers, sorted by id.

        Each episode is hashed once. Memory: half a kilobyte for each episode and 64 MB of episodes at most.
        """
        return read_sorted_records(self._stream_paths(), self._open_reader)

    def interrupted_episodes(self) -> Iterator[InterruptedEpisode]:
        """Yield the episodes that were open when their processes died, and are not recorded yet."""
        return read_interrupted(self.path, self.journal_tokens)

    def journal_tokens(self) -> set[str]:
        """Return the tokens of the journals whose episodes the recording holds."""
        for path in self._stream_paths():
            size = path.stat().st_size
            if self._tokens_by_stream.get(path, (-1, set()))[0] != size:  # a stream that did not grow is read once
                with self._open_reader(path) as reader:
                    self._tokens_by_stream[path] = size, set(reader.journal_tokens())
        return set().union(*(tokens for _, tokens in self._tokens_by_stream.values()))

    def as_source(self, schema: Schema | None = None, *, fps: float | None = None) -> VersionSource:
        """Return the episodes and the provenance of their runs, as :func:`rlhive.data.versions.export` takes them.

        Args:
            schema: Schema of an empty version, where no episode was recorded.
            fps: Rate of all runs, in place of the recorded one.

        Raises:
            SchemaMismatchError: No episode was recorded and no schema is given, or the recording has another one; or,
                after the last episode was read, their timestamps contradict the rate.
            InvalidOptionError: ``fps`` is not a positive number.
        """
        recording_schema = self.schema or schema
        if recording_schema is None:
            msg = f"{self.path}: expected episodes, got none. Record some, or pass schema= for an empty version."
            raise SchemaMismatchError(msg)
        if schema is not None:
            recording_schema.require(schema, context=str(self.path))
        runs = self.runs if fps is None else [{**run, "fps": require_fps(fps)} for run in self.runs]
        rate = find_recorded_fps(runs)
        records = self.sorted_records if rate is None else partial(self._timed_records, rate)
        return VersionSource(recording_schema, records, ids=self.episode_outcomes, runs=tuple(runs))

    def _timed_records(self, fps: float) -> Iterator[EpisodeRecord]:
        advice = "commit(fps=…) or `rlhive recover --commit --fps …` sets another rate; the recording is kept."
        return require_rate(self.sorted_records(), fps, context=str(self.path), advice=advice)

    def episode_outcomes(self) -> dict[int, tuple[int, bool | None]]:
        """Return length and success of every complete episode, by id; None where success was not recorded."""
        return {record.episode: (record.length, record.success) for record in self.records()}

    def summarize(self) -> RecordingSummary:
        """Read all streams and return the size and state of the recording."""
        lengths: dict[int, int] = {}
        stats = {path: path.stat() for path in self._stream_paths()}
        num_bytes = sum(stat.st_size for stat in stats.values())
        readable_bytes = 0
        for path, stat in stats.items():
            with self._open_reader(path) as reader:
                readable_bytes += min(stat.st_size, reader.header_bytes)
                for location, record in reader.scan():
                    lengths[record.episode] = record.length
                    readable_bytes += location.size
        interrupted = [episode.length for episode in self.interrupted_episodes()]
        newest = max([(self.path / _RECORDING_FILE).stat().st_mtime, *(stat.st_mtime for stat in stats.values())])
        return RecordingSummary(
            path=self.path,
            name=self.name,
            num_episodes=len(lengths),
            num_transitions=sum(lengths.values()),
            num_bytes=num_bytes,
            num_interrupted=len(interrupted),
            interrupted_transitions=sum(interrupted),
            unreadable_bytes=max(num_bytes - readable_bytes, 0),
            age_s=max(time.time() - newest, 0.0),
            in_use=self.in_use(),
        )

    def in_use(self) -> bool:
        """Return whether a live process writes to the recording, or commits or discards it."""
        try:
            with self.exclusive(timeout_s=0):
                return False
        except RecordingInUseError:
            return True

    @contextlib.contextmanager
    def shared(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock for writing: no other process commits or discards the recording meanwhile.

        Raises:
            RecordingInUseError: Another process is still committing or discarding it after ``timeout_s``.
        """
        with self._locked(fcntl.LOCK_SH, timeout_s):
            yield

    @contextlib.contextmanager
    def exclusive(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock for committing or discarding the recording.

        Raises:
            RecordingInUseError: A live process still writes to it after ``timeout_s``.
        """
        with self._locked(fcntl.LOCK_EX, timeout_s):
            yield

    def discard(self) -> None:
        """Remove the recording and its episodes; the caller holds the :meth:`exclusive` lock."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, kind: int, timeout_s: float) -> Iterator[None]:
        # flock, since the locks of fcntl() are lost as soon as anything in the process closes the file. The operating
        # system frees it when the last process that holds it dies.
        deadline = time.monotonic() + timeout_s
        with _store.translate_disk_errors(self.path), (self.path / _RECORDING_FILE).open("rb") as file:
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        msg = f"{self.path}: expected a recording that no live process holds, got one in use."
                        raise RecordingInUseError(msg) from error
                time.sleep(0.01)
            yield

    def _read_description(self) -> tuple[Schema, dict[str, int]] | None:
        """Return schema and start state sizes; None before the first episode."""
        if self._description is None and (self.path / _SCHEMA_FILE).exists():
            content = self._read_json(_SCHEMA_FILE)
            try:
                sizes = self._parse_sizes(_SCHEMA_FILE, content["start_state"])
                self._description = Schema.from_json(content["schema"]), sizes
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._corrupt_error(_SCHEMA_FILE, error) from error
        return self._description

    def _parse_sizes(self, name: str, content: Any) -> dict[str, int]:
        try:
            return {str(part): int(size) for part, size in content.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise self._corrupt_error(name, error) from error

    def _open_reader(self, path: Path) -> StreamReader:
        return StreamReader(path, self.require_schema(), self.start_state_sizes)

    def _stream_paths(self) -> list[Path]:
        return [] if self.schema is None else sorted(self.path.glob(f"*{SUFFIX}"))

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._corrupt_error(name, error) from error

    def _corrupt_error(self, name: str, error: Exception) -> CorruptDatasetError:
        return CorruptDatasetError(f"{self.path} is not a recording: expected a readable {name}, got {error!r}.")


def require_word(text: str, kind: str) -> str:
    """Return the name of a writer or a run if it can be part of a file name.

    Raises:
        InvalidNameError: The name holds other characters or is too long.
    """
    if not _WORD.fullmatch(text):
        msg = f"Name of a {kind}: expected 1 to 96 letters, digits, '_' and '-', got {text!r}."
        raise InvalidNameError(msg)
    return text


def _make_durable_folder(path: Path) -> None:
    """Make a folder whose name survives a power loss, and so do the names of its parents that did not exist."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _store.fsync_path(folder.parent)


def _write_once(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file unless it exists; if several processes do so at once, one of them writes."""
    if not path.exists():
        with _store.locked(path):
            if not path.exists():
                _store.write_atomically(path, json.dumps(content, indent=1).encode())
