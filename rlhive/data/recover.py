"""From a recording to a version, whoever recorded it and however that ended."""

from pathlib import Path
from typing import Any

from rlhive.data.export import export
from rlhive.data.recording import Recording
from rlhive.errors import DatasetNotFound, InvalidName


def commit(recording: Recording, name: str = "", *, license: str, version: str | None = None, **options: Any) -> Path:
    """Make a dataset version of a recording's whole episodes, and remove the recording.

    Args:
        recording: Where nobody records any more.
        name: The dataset; by default the one that the recording is meant for.
        license: Identifier that the Hub knows; asked for, never guessed.
        version: MAJOR.MINOR.PATCH; by default the right next one.
        **options: Of :func:`rlhive.data.export.export`.

    Returns:
        The version's folder.

    Raises:
        RecordingInUse: A live process writes to it.
        DatasetNotFound: It holds no episode.
        DatasetExists: That version is there; the recording is kept.
        InvalidName: No name was given, or it or the version is not accepted.
    """
    name = name or recording.name
    if not name:
        msg = f"{recording.path}: expected the name of the dataset that it becomes, got none. Give a name."
        raise InvalidName(msg)
    with recording.exclusive(patience_s=0.5):
        if recording.schema is None:
            msg = f"{recording.path} holds no whole episode: expected at least one. Discard it."
            raise DatasetNotFound(msg)
        envs = [run.get("env", {}).get("env_name", "") for run in recording.runs]
        options = {"env_name": next((env for env in envs if env), ""), **options}
        folder = export(recording, name, version=version, license=license, **options)
        recording.discard()
    return folder


def discard(recording: Recording) -> None:
    """Remove a recording and what it holds.

    Raises:
        RecordingInUse: A live process writes to it.
    """
    with recording.exclusive(patience_s=0.5):
        recording.discard()
