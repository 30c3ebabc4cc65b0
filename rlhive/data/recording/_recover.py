"""Recordings that were not committed: list them, make a dataset version of one, or discard it."""

import contextlib
from pathlib import Path
from typing import Any

from rlhive.data import _store
from rlhive.data.recording._recording import Recording
from rlhive.data.versions import export
from rlhive.errors import CorruptDatasetError, DatasetNotFoundError, InvalidNameError, UnsupportedFormatError

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
    recording: Recording, name: str = "", *, license: str, version: str | None = None, **options: Any
) -> Path:
    """Make a dataset version of the complete episodes of a recording, and remove the recording.

    Args:
        recording: A recording that no process writes to.
        name: Name of the dataset; by default the one that the recording is meant for.
        license: License identifier as the Hub knows it, ``"cc-by-4.0"`` for example; required.
        version: MAJOR.MINOR.PATCH; by default the number that follows from the changes.
        **options: Options of :func:`rlhive.data.versions.export`.

    Returns:
        The version's folder.

    Raises:
        RecordingInUseError: A live process writes to the recording.
        DatasetNotFoundError: The recording holds no complete episode.
        DatasetExistsError: The version exists; the recording is kept.
        InvalidNameError: There is no name, or the name or version is not accepted.
    """
    name = name or recording.name
    if not name:
        msg = f"{recording.path}: expected the name of a dataset, got none: the recording has no name of its own."
        raise InvalidNameError(msg)
    with recording.exclusive(timeout_s=_COMMIT_TIMEOUT_S):
        if recording.schema is None:
            msg = f"{recording.path} holds no complete episode: expected at least one."
            raise DatasetNotFoundError(msg)
        env_names = [run.get("env", {}).get("env_name", "") for run in recording.runs]
        options = {"env_name": next((env_name for env_name in env_names if env_name), ""), **options}
        folder = export(recording, name, version=version, license=license, **options)
        recording.discard()
    return folder


def discard_recording(recording: Recording) -> None:
    """Remove a recording and its episodes.

    Raises:
        RecordingInUseError: A live process writes to the recording.
    """
    with recording.exclusive(timeout_s=_COMMIT_TIMEOUT_S):
        recording.discard()
