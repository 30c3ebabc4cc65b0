"""A video of one recorded episode: its stored pictures, or its states rendered again by the simulator."""

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np

from rlhive import keys
from rlhive._text import printable
from rlhive.data import EpisodeRecord
from rlhive.data.formats import write_gif, write_video
from rlhive.dataset._view import DatasetView
from rlhive.errors import (
    InvalidOptionError,
    ReplayRefusedError,
    RLHiveError,
    SchemaMismatchError,
    StoreNotWritableError,
)

#: Pictures uint8 ``[H, W, 3]``, one after the other.
Frames = Generator[np.ndarray, None, None]

#: Frames per second of an episode whose rate is not known.
_UNKNOWN_FPS = 10.0


def save_video(view: DatasetView, episode: int, path: str | Path, *, camera: str | None = None) -> Path:
    """Write a video of an episode, an MP4 or a GIF file.

    Args:
        view: Version or view.
        episode: Id of the episode.
        path: File, whose suffix is ``.mp4`` or ``.gif``.
        camera: Name of a camera of the simulator. None for the stored pictures, or where there are none for the
            environment's first camera.

    Returns:
        The file.

    Raises:
        InvalidOptionError: The suffix is another one, or the environment has no such camera.
        SchemaMismatchError: The dataset has no such episode, or it holds neither pictures nor a start state and a seed.
        ReplayRefusedError: The manifest names an environment that it may not, or the episode cannot be stepped again.
        MissingExtraError: Pillow or PyAV is not installed.
        RoboHiveMissingError, RenderingUnavailableError: The simulator or OpenGL is not installed here.
        StoreNotWritableError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        msg = f"{path}: expected a file named .mp4 or .gif"
        raise InvalidOptionError(msg)
    record = next(view.select([episode]).iter_records())
    frames = _read_pictures(view, record) if camera is None else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(frames or render_states(view, record, camera)) as pictures:
            if path.suffix == ".gif":
                write_gif(path, pictures, fps=view.manifest.fps or _UNKNOWN_FPS)
            else:
                with write_video(path, fps=view.manifest.fps or _UNKNOWN_FPS) as append:
                    for frame in pictures:
                        append(frame)
    except OSError as error:
        msg = f"No video can be written to {path}: {error.strerror}. Choose another file."
        raise StoreNotWritableError(msg) from error
    return path


def _read_pictures(view: DatasetView, record: EpisodeRecord) -> "Frames | None":
    """Return the stored pictures of all cameras side by side, the last one included; None without pictures."""
    fields = [field for field in view.manifest.schema.fields if field.dtype == "uint8" and len(field.shape) >= 3]
    fields = [field for field in fields if field.shape[-1] == 3]
    if not fields:
        return None
    name = next((field.column for field in fields if field.column == keys.PIXELS), fields[0].column)
    return _join_cameras(record.columns, record.final, name)


def _join_cameras(columns: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray], name: str) -> Frames:
    frames = list(columns[name]) + ([final[name]] if name in final else [])
    for frame in frames:
        yield np.concatenate(list(frame.reshape(-1, *frame.shape[-3:])), axis=1)


def render_states(view: DatasetView, record: EpisodeRecord, camera: str | None) -> Frames:
    """Yield a picture of every state of an episode, whose actions are stepped again from its start state."""
    import torch

    from rlhive.envs import open_camera
    from rlhive.rollouts import build_recorded_env, step_recorded_actions, tasks_by_run

    if not record.start_state and record.seed is None:
        msg = (
            f"Episode {record.episode} of {view.manifest.name} holds neither pictures nor a start state or seed from "
            "which it could be rendered"
        )
        raise SchemaMismatchError(msg)
    tasks = tasks_by_run(view.manifest)
    if record.run not in tasks:
        msg = (
            f"Episode {record.episode} of {view.manifest.name}: its run is not in the manifest, expected {list(tasks)}"
        )
        raise SchemaMismatchError(printable(msg))
    env = build_recorded_env(tasks[record.run])
    try:
        with torch.no_grad(), open_camera(env, camera) as episode_camera:
            for _ in step_recorded_actions(env, record):
                yield episode_camera.draw()
    except RLHiveError:
        raise
    except Exception as error:  # a state of a stranger may lead RoboHive's code anywhere
        msg = f"Episode {record.episode} of {view.manifest.name} cannot be stepped again: {error}"
        raise ReplayRefusedError(printable(msg)) from error
    finally:
        env.close()
