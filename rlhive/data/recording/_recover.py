"""Recordings that were not committed: list them, make a dataset version of one, or discard it."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from rlhive.data import _store
from rlhive.data._episode_builder import EpisodeBuilder
from rlhive.data.recording._journal import remove_journals
from rlhive.data.recording._recording import Recording
from rlhive.data.recording._writer import StreamWriter
from rlhive.data.versions import Manifest, export, find_earlier_version, read_episodes
from rlhive.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    InvalidNameError,
    SchemaMismatchError,
    UnsupportedFormatError,
)

logger = logging.getLogger(__name__)

#: How long a commit waits for processes that only list recordings, which hold the lock for an instant.
_COMMIT_TIMEOUT_S = 0.5


def recordings(*, store: Path | None = None) -> list[Recording]:
    """Return the uncommitted recordings of a store, sorted by path; unreadable ones are left out."""
    readable = []
    for file in sorted((store or _store.store_dir()).glob(".recordings/**/recording.json")):
        with contextlib.suppress(CorruptDatasetError, UnsupportedFormatError):
            readable.append(Recording(file.parent))
    return readable


def find_recording(name: str = "", *, store: Path | None = None) -> Recording:
    """Return the recording that a name denotes.

    Args:
        name: The recording's folder, the last part of that path, or the name of the dataset that the recording is
            meant for; may be empty if the store has a single recording.
        store: Folder of all datasets.

    Raises:
        DatasetNotFoundError: No recording matches, or several do; the message lists them.
    """
    folder = Path(name).expanduser().absolute()
    if name and (folder / "recording.json").is_file():
        return Recording(folder)
    candidates = recordings(store=store)
    matches = [
        recording
        for recording in candidates
        if name in ("", recording.path.name, recording.name, recording.name.rpartition("/")[2])
    ]
    if len(matches) == 1:
        return matches[0]
    paths = ", ".join(str(recording.path) for recording in matches or candidates) or "none"
    msg = (
        f"Recording {name!r}: expected one match, got {len(matches)}; recordings: {paths}. "
        "Pass the folder of one; `rlhive recover` lists them."
    )
    raise DatasetNotFoundError(msg)


def commit_recording(
    recording: Recording,
    name: str = "",
    *,
    license: str = "",
    version: str | None = None,
    append: bool = False,
    fps: float | None = None,
    **options: Any,
) -> Path:
    """Make a dataset version of the complete episodes of a recording, and remove the recording.

    Episodes that were interrupted by the death of their process are recorded as far as they were saved.

    Args:
        recording: A recording that no process writes to.
        name: Name of the dataset; by default the one that the recording is meant for.
        license: License identifier as the Hub knows it, ``"cc-by-4.0"`` for example; required, except to append.
        version: MAJOR.MINOR.PATCH; by default the number that follows from the changes.
        append: Whether the version begins with the episodes of the newest version in the store, if there is one. If
            not, a warning says how many of those episodes the new version does not hold.
        fps: Rate of all episodes in frames per second; by default the recorded one.
        **options: Options of :func:`rlhive.data.versions.export`.

    Returns:
        The version's folder.

    Raises:
        RecordingInUseError: A live process writes to the recording.
        DatasetNotFoundError: The recording holds no complete episode.
        DatasetExistsError: The version exists; the recording is kept.
        SchemaMismatchError: The episodes have other columns than the version to which they are appended; the recording
            is kept. Or their timestamps contradict the rate.
        InvalidNameError: There is no name, or the name or version is not accepted.
    """
    name = name or recording.name
    if not name:
        msg = f"{recording.path}: expected the name of a dataset, got none: the recording has no name of its own."
        raise InvalidNameError(msg)
    recover_interrupted(recording)
    with recording.exclusive(timeout_s=_COMMIT_TIMEOUT_S):
        if recording.schema is None:
            msg = f"{recording.path} holds no complete episode: expected at least one."
            raise DatasetNotFoundError(msg)
        options = {**_recorded_names(recording), **options}
        earlier = find_earlier_version(name, version, store=options.get("store"))
        source = recording.as_source(options.pop("schema", None), fps=fps)
        folder = export(source, name, version=version, license=license, append=append, **options)
        if earlier is not None and not append:
            _warn_of_left_out(earlier, folder)
        recording.discard()
    return folder


def _recorded_names(recording: Recording) -> dict[str, str]:
    """Return the environment and the task of the first runs that name them."""
    env_names = (str(run.get("env", {}).get("env_name", "")) for run in recording.runs)
    tasks = (str(run.get("task", "")) for run in recording.runs)
    return {"env_name": next(filter(None, env_names), ""), "task": next(filter(None, tasks), "")}


def recover_interrupted(recording: Recording) -> list[int]:
    """Record the episodes that were open when their processes died, as far as they were saved; return their ids.

    They are ``unfinished``, or ``truncated`` where their recorder said so. A second call, also after a kill, records
    none of them again.
    """
    episode_ids = []
    for episode in recording.interrupted_episodes():
        builder = EpisodeBuilder(
            schema=recording.schema,
            on_incomplete=episode.on_incomplete,
            context=lambda _: f"{recording.path}, interrupted episode",
            accept=recording.accept,
        )
        try:
            (record,) = builder.add_arrays(episode.chunks.concatenate(), episode.info)
        except SchemaMismatchError as error:
            logger.warning("An interrupted episode of %d transitions is left out: %s", episode.length, error)
            continue
        with StreamWriter(recording, run=episode.run) as writer:
            episode_ids.append(writer.append(record, journal=episode.token))
            writer.flush()
        logger.warning(
            "Episode %d was interrupted: its first %d transitions are recorded", episode_ids[-1], record.length
        )
    if episode_ids:
        remove_journals(recording.path, recording.journal_tokens())
    return episode_ids


def _warn_of_left_out(earlier: Path, folder: Path) -> None:
    """Warn if a version does not hold all episodes of the version before it."""
    old, new = Manifest.read(earlier), Manifest.read(folder)
    old_hashes, new_hashes = (
        set(read_episodes(path, manifest, ["content_hash"])["content_hash"].to_pylist())
        for path, manifest in ((earlier, old), (folder, new))
    )
    num_missing = len(old_hashes - new_hashes)
    if num_missing:
        logger.warning(
            "%s %s does not hold %d episodes of %s, which stays in the store. commit(append=True), or rlhive recover "
            "--commit --append, writes both; now: rlhive append %s %s",
            new.name,
            new.version,
            num_missing,
            old.version,
            new.name,
            earlier,
        )


def discard_recording(recording: Recording) -> None:
    """Remove a recording and its episodes.

    Raises:
        RecordingInUseError: A live process writes to the recording.
    """
    with recording.exclusive(timeout_s=_COMMIT_TIMEOUT_S):
        recording.discard()
