"""LeRobot's datasets, v3.0 and v2.1, read into episodes.

::

    feature                               column
    observation.state                     observation, if it is the only vector of observations; else its own name
    observation.images.<camera>           pixels.<camera>, uint8 [H, W, 3]; as many channels and bits as the picture has
    next.success                          success, one row later: it is a property of the state
    task                                  metadata of the episode; a column where an episode has several

Features that RLHive wrote become the columns that they were, by name, shape and final value.

A frame holds a state and the action taken in it, so the state after the last action is not in the files. An episode
that did not end the task therefore gives its last frame as the final observation, without its action.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._episodes import REWARD, Columns
from rlhive.data._video_files import Clip
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode
from rlhive.data.formats._lerobot_files import BOOKKEEPING, COLUMNS_KEY, LeRobotEpisode, LeRobotFiles
from rlhive.data.formats._pending_source import build_source
from rlhive.errors import SchemaMismatchError

STATE = "observation.state"
IMAGES = "observation.images."
SUCCESS = "next.success"
DONE = "next.done"
#: Keys of info.json that go into the run's provenance.
_PROVENANCE_KEYS = ("fps", "robot_type", "features")


def read_lerobot(source: Path, *, split: str = "train") -> EpisodeSource:
    """Read a LeRobot dataset's folder.

    An episode ended the task where ``next.terminated`` is set; without that feature, where its last frame has
    ``next.done`` and, if the data have it, ``next.success``. Any other episode is truncated; without any of these
    features nobody recorded why an episode ends, and it is unfinished.

    Args:
        source: Folder of the dataset, which holds ``meta/info.json``.
        split: Name of the split for all episodes; datasets that RLHive wrote keep their splits.

    Raises:
        SchemaMismatchError: The folder is no LeRobot dataset, is of another version, or has fewer frames than its
            episodes.
        CorruptDatasetError: A Parquet file of frames is damaged.
        MissingExtraError: A package for its pictures or videos is not installed.

    Example:
        >>> read_lerobot(Path("pusht")).num_episodes  # doctest: +SKIP
        206
    """
    files = LeRobotFiles(source)
    episodes = files.read_episodes()
    if not episodes:
        msg = f"{files.root}: expected episodes, got none."
        raise SchemaMismatchError(msg)
    extras = files.read_rlhive_episodes()
    provenance = {key: files.info[key] for key in _PROVENANCE_KEYS if files.info.get(key) is not None}
    run = {"run": "lerobot", "imported_from": f"lerobot-{files.version}", **provenance}

    def pending() -> Iterator[PendingEpisode]:
        for episode, frames in zip(episodes, files.read_frames(episodes), strict=True):
            extra = None if extras is None else extras[episode.index]
            context = f"{files.root}, episode {episode.index}"
            read = partial(_build_lerobot_arrays, files, episode, frames, extra, context)
            yield PendingEpisode(episode.index, context, read, {"split": split, "run": run["run"]})

    notes = [] if extras is not None else ["the last frame of an episode that was cut off is its final observation"]
    notes += [f"video, decoded: {', '.join(files.videos)}"] if files.videos else []
    notes += files.describe_differences()
    return build_source(
        pending,
        runs=(run,),
        num_episodes=len(episodes),
        notes=tuple(notes),
        env_name=str(files.info.get("env_name", "")),
    )


def _build_lerobot_arrays(
    files: LeRobotFiles,
    episode: LeRobotEpisode,
    frames: pa.Table,
    extra: Mapping[str, Any] | None,
    context: str,
    keeps: Keeps,
) -> EpisodeArrays:
    """Return an episode's arrays; ``extra`` is what RLHive kept beside the frames, if it wrote them."""
    own_names, shapes = _read_own_columns(files)
    column_names = _name_columns(files.features) | own_names
    columns: Columns = {}
    origins: dict[str, str] = {}
    clips: dict[str, Clip] = {}
    for name, column in column_names.items():
        if (name in files.videos or name in frames.column_names) and keeps(name, column):
            for part, rows in files.read_feature(name, episode, frames):
                target = column + part.removeprefix(name)
                columns[target], origins[target] = _shape_rows(rows, shapes.get(part)), part
                clip = files.find_clip(name, episode, rows) if extra is None else None
                if clip is not None:
                    clips[target] = clip
    final: Columns = {}
    rewritten = column_names.get(SUCCESS)
    if rewritten in columns:
        solved = columns.pop(rewritten).astype(bool)
        if extra is None or keys.SUCCESS in extra["final"]:  # of the state that the action led to
            final[keys.SUCCESS] = solved[-1]
            solved = np.concatenate([np.zeros_like(solved[:1]), solved[:-1]])
        columns[keys.SUCCESS] = solved
    left_out = tuple(_list_left_out(files, frames))
    if extra is not None:
        final = {name: value for name, rows in columns.items() for value in _read_final(extra["final"], name, rows)}
        fields = {"split": extra["split"], "seed": extra["seed"], "policy": extra["policy"]}
        fields["metadata"] = json.loads(extra["metadata"])
        return EpisodeArrays(columns, final, context, fields, left_out=left_out, origins=origins)
    metadata = {"task": episode.tasks[0]} if len(episode.tasks) == 1 else {}
    if len(episode.tasks) > 1 and keeps("task"):
        texts = files.read_tasks()
        columns["task"] = np.array([texts[index] for index in frames.column("task_index").to_pylist()], object)
    fields = {"metadata": metadata}
    return EpisodeArrays(
        columns, final, context, fields, has_frames=True, left_out=left_out, origins=origins, clips=clips
    )


def _list_left_out(files: LeRobotFiles, frames: pa.Table) -> Iterator[str]:
    """Yield what info.json and the files do not agree on."""
    for name in frames.column_names:
        if name not in files.features and name not in BOOKKEEPING:
            yield f"{name}, which info.json does not name"
    for name in files.features:
        if name not in files.videos and name not in frames.column_names:
            yield f"{name}, which info.json names and no file holds"


def _name_columns(features: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of every feature; the usual flat names are recognised by the import."""
    vectors = [
        name
        for name, feature in features.items()
        if name.startswith("observation") and feature["dtype"] not in ("image", "video")
    ]
    columns = {}
    for name, feature in features.items():
        if feature["dtype"] in ("image", "video"):
            columns[name] = f"{keys.PIXELS}.{name.removeprefix(IMAGES).removeprefix('observation.')}"
        else:
            columns[name] = keys.OBSERVATION if vectors == [STATE] and name == STATE else name
    return columns | {"next.reward": REWARD}


def _read_own_columns(files: LeRobotFiles) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the columns and the shapes of the features that RLHive wrote, by the features' names.

    Raises:
        SchemaMismatchError: info.json is malformed.
    """
    rows = files.info.get(COLUMNS_KEY) or {}
    try:
        names = {name: str(row["column"]) for name, row in rows.items() if name in files.features}
        shapes = {name: tuple(map(int, rows[name]["shape"])) for name in names}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = f"{files.root}, meta/info.json, {COLUMNS_KEY}: expected column and shape of features, got {error!r}."
        raise SchemaMismatchError(msg) from error
    return names, shapes


def _shape_rows(rows: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the rows of a feature in the shape that the column had, where it had as many elements."""
    fits = shape is not None and rows.dtype != object and min(shape, default=1) >= 0
    if fits and math.prod(rows.shape[1:]) == math.prod(shape or ()):
        return rows.reshape(len(rows), *(shape or ()))
    return rows


def _read_final(finals: Mapping[str, np.ndarray], name: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the final value of a column, if it has one; a camera without a name is one of several in its column."""
    if name in finals:
        yield np.asarray(finals[name], rows.dtype).reshape(rows.shape[1:])
        return
    column, _, camera = name.rpartition(".")
    if column in finals and camera.isdigit():
        yield np.asarray(finals[column], rows.dtype).reshape(-1, *rows.shape[1:])[int(camera)]
