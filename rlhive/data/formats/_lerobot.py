"""LeRobot's datasets, v3.0 and v2.1, read into episodes.

::

    feature                               column
    observation.state                     observation, if it is the only vector of observations; else its own name
    observation.images.<camera>           pixels.<camera>, uint8 [H, W, 3]
    next.success                          success, one row later: it is a property of the state
    task                                  metadata of the episode; a column where an episode has several

A frame holds a state and the action taken in it, so the state after the last action is not in the files. An episode
that did not end the task therefore gives its last frame as the final observation, without its action.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns, EpisodeRecord
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, end_flags
from rlhive.data.formats._lerobot_files import LeRobotEpisode, LeRobotFiles
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
    ``next.done`` and, if the data have it, ``next.success``. Any other episode is truncated.

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
    first_frames = next(iter(files.read_frames(episodes[:1])))
    schema = _build_lerobot_arrays(files, episodes[0], first_frames, extras[0] if extras else None).infer_schema()
    provenance = {key: files.info[key] for key in _PROVENANCE_KEYS if files.info.get(key) is not None}
    run = {"run": "lerobot", "imported_from": f"lerobot-{files.version}", **provenance}

    def records() -> Iterator[EpisodeRecord]:
        for episode, frames in zip(episodes, files.read_frames(episodes), strict=True):
            extra = None if extras is None else extras[episode.index]
            arrays = _build_lerobot_arrays(files, episode, frames, extra)
            yield arrays.to_record(schema, episode=episode.index, split=split, run=run["run"])

    notes = [] if extras is not None else ["the last frame of an episode that was cut off is its final observation"]
    notes += [f"video, decoded: {', '.join(files.videos)}"] if files.videos else []
    return EpisodeSource(
        schema,
        records,
        runs=(run,),
        num_episodes=len(episodes),
        notes=tuple(notes),
        env_name=str(files.info.get("env_name", "")),
    )


def _build_lerobot_arrays(
    files: LeRobotFiles, episode: LeRobotEpisode, frames: pa.Table, extra: Mapping[str, Any] | None
) -> EpisodeArrays:
    """Return an episode's arrays; ``extra`` is what RLHive kept beside the frames, if it wrote them."""
    context = f"{files.root}, episode {episode.index}"
    values = {name: _read_feature(files, name, episode, frames) for name in files.features}
    terminated = _is_terminated(values)
    success = values.pop(SUCCESS, None)
    for name in (DONE, TERMINATED, TRUNCATED):
        values.pop(name, None)
    column_names = _name_columns(files.features)
    columns = {column_names[name]: rows for name, rows in values.items()}
    final: Columns = {}
    if success is not None:
        solved = success.reshape(episode.length, 1).astype(bool)
        columns[keys.SUCCESS] = np.concatenate([[[False]], solved[:-1]])
        final[keys.SUCCESS] = solved[-1]
    observed = [name for name in columns if name.split(".")[0] in (keys.OBSERVATION, keys.PIXELS)]
    if extra is not None:
        final = {name: _read_final(extra["final"], name, columns[name]) for name in (*observed, *final)}
        fields = {"split": extra["split"], "seed": extra["seed"], "policy": extra["policy"]}
        fields["metadata"] = json.loads(extra["metadata"])
        return EpisodeArrays(columns | end_flags(episode.length, terminated=terminated), final, context, fields)
    metadata = {"task": episode.tasks[0]} if len(episode.tasks) == 1 else {}
    if len(episode.tasks) > 1:
        texts = files.read_tasks()
        columns["task"] = np.array([texts[index] for index in frames.column("task_index").to_pylist()], object)
    final |= {name: columns[name][-1] for name in observed}
    if terminated:
        metadata["final_observation"] = "unknown"
        return EpisodeArrays(
            columns | end_flags(episode.length, terminated=True), final, context, {"metadata": metadata}
        )
    return _drop_last_frame(columns, final, context, metadata)


def _drop_last_frame(columns: Columns, final: Columns, context: str, metadata: Mapping[str, Any]) -> EpisodeArrays:
    """Return a truncated episode whose last frame is its final observation, since no frame follows it."""
    length = len(next(iter(columns.values())))
    if length < 2:
        msg = f"{context}: expected at least 2 frames, the last of which is the final observation, got {length}."
        raise SchemaMismatchError(msg)
    if keys.SUCCESS in final:
        final = final | {keys.SUCCESS: columns[keys.SUCCESS][-1]}
    shortened = {name: rows[:-1] for name, rows in columns.items()}
    return EpisodeArrays(shortened | end_flags(length - 1, terminated=False), final, context, {"metadata": metadata})


def _read_feature(files: LeRobotFiles, name: str, episode: LeRobotEpisode, frames: pa.Table) -> np.ndarray:
    feature = files.features[name]
    if feature["dtype"] in ("image", "video"):
        return files.read_pictures(name, episode, frames)
    column = frames.column(name)
    if feature["dtype"] == "string":
        return np.array(column.to_pylist(), object)
    rows = np.array(column.to_pylist(), feature["dtype"])
    return rows.reshape(len(rows), *feature["shape"])


def _is_terminated(values: Mapping[str, np.ndarray]) -> bool:
    """Return whether the last frame's action ended the task."""
    if TERMINATED in values:
        return bool(values[TERMINATED][-1].any())
    return DONE in values and bool(values[DONE][-1].any()) and bool(np.any(values.get(SUCCESS, np.ones(1))[-1]))


def _name_columns(features: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of every feature."""
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


def _read_final(finals: Mapping[str, np.ndarray], name: str, rows: np.ndarray) -> np.ndarray:
    """Return the final value of a column; a camera without a name is one of several in ``pixels``."""
    if name in finals:
        return np.asarray(finals[name], rows.dtype).reshape(rows.shape[1:])
    camera = int(name.removeprefix(f"{keys.PIXELS}."))
    return np.asarray(finals[keys.PIXELS], rows.dtype).reshape(-1, *rows.shape[1:])[camera]
