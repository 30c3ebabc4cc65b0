"""From a recording to a version, whoever recorded it and however that ended."""

import contextlib
from pathlib import Path
from typing import Any

from rlhive.data import _store
from rlhive.data.recording._recording import Recording
from rlhive.data.versions import export
from rlhive.errors import CorruptDataset, DatasetNotFound, InvalidName, UnsupportedFormat


def recordings(*, store: Path | None = None) -> list[Recording]:
    """Return the recordings of a store that are not committed yet, by their paths; unreadable ones are left out."""
    found = []
    for head in sorted((store or _store.store_dir()).glob(".recordings/**/recording.json")):
        with contextlib.suppress(CorruptDataset, UnsupportedFormat):
            found.append(Recording(head.parent))
    return found


def find_recording(name: str = "", *, store: Path | None = None) -> Recording:
    """Return the one recording that is meant.

    Args:
        name: Its folder, the last part of it, or the dataset that it is meant for; may be left out if there is one.
        store: Folder of all datasets.

    Raises:
        DatasetNotFound: None is meant, or several; the message names them.
    """
    folder = Path(name).expanduser().absolute()
    if name and (folder / "recording.json").is_file():
        return Recording(folder)
    there = recordings(store=store)
    meant = [one for one in there if name in ("", one.path.name, one.name, one.name.rpartition("/")[2])]
    if len(meant) == 1:
        return meant[0]
    told = ", ".join(str(one.path) for one in meant or there) or "none"
    found = f"expected to mean one, got {len(meant)}; there are: {told}"
    msg = f"Recording {name!r}: {found}. Name its folder; list them: rlhive recover"
    raise DatasetNotFound(msg)


def commit_recording(
    recording: Recording, name: str = "", *, license: str, version: str | None = None, **options: Any
) -> Path:
    """Make a dataset version of a recording's whole episodes, and remove the recording.

    Args:
        recording: Where nobody records any more.
        name: The dataset; by default the one that the recording is meant for.
        license: Identifier that the Hub knows; asked for, never guessed.
        version: MAJOR.MINOR.PATCH; by default the right next one.
        **options: Of :func:`rlhive.data.versions.export`.

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


def discard_recording(recording: Recording) -> None:
    """Remove a recording and what it holds.

    Raises:
        RecordingInUse: A live process writes to it.
    """
    with recording.exclusive(patience_s=0.5):
        recording.discard()
