"""One recorded episode as a recording of the Rerun viewer, https://rerun.io: pictures and numbers on two timelines.

::

    <column>             numbers over time, a line per dimension
    <column>/<camera>    pictures
    step, time           timelines: index of the state, and seconds where the rate is known
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from rlhive._extras import require_extra
from rlhive.data import EpisodeRecord, to_numbers
from rlhive.dataset._description import picture_columns
from rlhive.dataset._film import render_states
from rlhive.dataset._view import DatasetView
from rlhive.errors import InvalidOptionError, StoreNotWritableError


def save_rerun(view: DatasetView, episode: int, path: str | Path, *, camera: str | None = None) -> Path:
    """Write an episode as a file for the Rerun viewer; see :meth:`rlhive.RoboHiveDataset.save_rerun`.

    Args:
        view: Version or view.
        episode: Id of the episode.
        path: File, whose suffix is ``.rrd``.
        camera: Name of a camera of the simulator, which renders the states; None for the stored pictures, if any.
    """
    path = Path(path)
    if path.suffix != ".rrd":
        msg = f"{path}: expected a file named .rrd"
        raise InvalidOptionError(msg)
    rerun = _import_rerun()
    record = next(view.select([episode]).iter_records())
    frames = None if camera is None else list(render_states(view, record, camera))
    recording = rerun.RecordingStream("rlhive", recording_id=f"{view.manifest.fingerprint[:32]}-{episode}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # the viewer's library names no reason where it cannot write
        recording.save(partial)
        _log_columns(rerun, recording, view, record)
        if frames is not None:
            _log_pictures(rerun, recording, f"rendered/{camera}", np.stack(frames), view.manifest.fps)
        recording.flush()
        recording.disconnect()
        partial.replace(path)
    except OSError as error:
        msg = f"No recording can be written to {path}: {error.strerror}. Choose another file."
        raise StoreNotWritableError(msg) from error
    finally:
        with contextlib.suppress(OSError):  # such as a folder that is a file
            partial.unlink(missing_ok=True)
    return path


def _import_rerun() -> Any:
    msg = "A recording for the Rerun viewer needs rerun-sdk, not installed here. Type: pip install 'rlhive[rerun]'"
    with require_extra(msg):
        import rerun
    return rerun


def _log_columns(rerun: Any, recording: Any, view: DatasetView, record: EpisodeRecord) -> None:
    """Log every column of pictures or of numbers; a value of the next state stands at that state."""
    fps = view.manifest.fps
    pictures = picture_columns(view.manifest.schema)
    for item in view.manifest.schema.fields:
        if item.is_ragged or item.is_string:
            continue
        values = record.columns[item.column]
        if item.column in record.final:
            values = np.concatenate([values, record.final[item.column][None]])
        first = 1 if item.column.startswith("next.") else 0
        entity = item.column.replace(".", "/")
        if item.column in pictures:
            _log_pictures(rerun, recording, entity, values, fps, first=first)
        elif len(item.shape) <= 1:
            numbers = to_numbers(values).reshape(len(values), -1).astype(np.float64)
            indexes = _timelines(rerun, first, len(values), fps)
            recording.send_columns(entity, indexes=indexes, columns=rerun.Scalars.columns(scalars=numbers))


def _log_pictures(
    rerun: Any, recording: Any, entity: str, values: np.ndarray, fps: float | None, *, first: int = 0
) -> None:
    """Log pictures ``[T, …, H, W, C]``, those of each camera under a name of their own."""
    by_camera = values.reshape(len(values), -1, *values.shape[-3:])
    for camera in range(by_camera.shape[1]):
        name = entity if by_camera.shape[1] == 1 else f"{entity}/{camera}"
        for step, picture in enumerate(by_camera[:, camera], start=first):
            recording.set_time("step", sequence=step)
            if fps is not None:
                recording.set_time("time", duration=step / fps)
            recording.log(name, rerun.Image(np.ascontiguousarray(picture)))


def _timelines(rerun: Any, first: int, count: int, fps: float | None) -> list[Any]:
    steps = np.arange(first, first + count)
    timelines = [rerun.TimeColumn("step", sequence=steps)]
    return timelines if fps is None else [*timelines, rerun.TimeColumn("time", duration=steps / fps)]
