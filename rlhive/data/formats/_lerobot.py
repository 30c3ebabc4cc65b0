"""LeRobot's datasets, v3.0 and v2.1 → episodes.

::

    meta/info.json                        codebase_version, fps, features
    meta/episodes/*/*.parquet             v3.0: length, tasks, where the episode's video begins; v2.1: episodes.jsonl
    meta/tasks.parquet | tasks.jsonl      what task_index means
    data/*/*.parquet                      one row per frame, episode after episode
    videos/…                              one file of many episodes (v3.0), or one per episode (v2.1)
    meta/rlhive_episodes.parquet          only in what RLHive wrote: the true final observations, seeds, ends

    feature                               column
    observation.state                     observation, where it is the only one that is no picture; else itself
    observation.images.<camera>           pixels.<camera>, uint8 [H, W, 3]
    next.success                          success, one row later: it is a property of the state
    task                                  metadata of the episode; a column where an episode has several

A frame holds a state and the action taken in it, so the state after the last action is not in the files. An episode
that did not end for good therefore gives its last frame as the final observation, without its action.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive import keys
from rlhive.data import _arrow, _parquet
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data.formats._imported import Imported, end_flags, record_of, schema_of
from rlhive.data.formats._pictures import decoded, video_frames
from rlhive.errors import SchemaMismatch

#: Written beside a LeRobot dataset that came from RLHive; LeRobot ignores it.
EPISODES_PATH = "meta/rlhive_episodes.parquet"
STATE = "observation.state"
IMAGES = "observation.images."
SUCCESS = "next.success"
DONE = "next.done"
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_VERSIONS = ("v3.0", "v2.1", "v2.0")


def read(source: str | Path, *, split: str = "train") -> Imported:
    """Read a LeRobot dataset's folder.

    An episode ended for good where ``next.terminated`` says so; without it, where its last frame has ``next.done`` and,
    if the data have it, ``next.success``. Any other end is a cut.

    Args:
        source: Folder of the dataset, which holds ``meta/info.json``.
        split: Name of the split that all episodes go to; what RLHive wrote has its own splits.

    Raises:
        SchemaMismatch: It is no such folder, is of another version, or has fewer frames than its episodes.
        CorruptDataset: A Parquet file of frames is damaged.
        MissingExtra: A package for its pictures or videos is not installed.

    Example:
        >>> read("~/.cache/huggingface/lerobot/lerobot/pusht").num_episodes  # doctest: +SKIP
        206
    """
    dataset = _Dataset(Path(source).expanduser())
    episodes = dataset.episodes()
    if not episodes:
        msg = f"{dataset.root}: expected episodes, got none. Give another dataset."
        raise SchemaMismatch(msg)
    ours = dataset.ours()
    first = next(iter(dataset.frames(episodes[:1])))
    schema = schema_of(*_columns(dataset, episodes[0], first, None if ours is None else ours[0])[:2])
    run = {"run": "lerobot", "imported_from": f"lerobot-{dataset.version}", **dataset.told()}

    def records() -> Iterator[EpisodeRecord]:
        for episode, frames in zip(episodes, dataset.frames(episodes), strict=True):
            known = None if ours is None else ours[episode.index]
            columns, final, told = _columns(dataset, episode, frames, known)
            where = f"{dataset.root}, episode {episode.index}"
            told = {"split": split, "run": run["run"], **told}
            yield record_of(columns, final, schema, where=where, episode=episode.index, **told)

    notes = [] if ours is not None else ["the last frame of an episode that was cut off is its final observation"]
    notes += [f"video, decoded: {', '.join(dataset.videos)}"] if dataset.videos else []
    return Imported(
        schema,
        records,
        runs=(run,),
        num_episodes=len(episodes),
        notes=tuple(notes),
        env_name=str(dataset.info.get("env_name", "")),
    )


@dataclass(frozen=True)
class _Episode:
    """One row of the table of episodes."""

    index: int
    length: int
    tasks: tuple[str, ...]
    row: Mapping[str, Any]


class _Dataset:
    """The files of a LeRobot dataset, of either version."""

    def __init__(self, root: Path):
        self.root = root
        path = root / "meta" / "info.json"
        if not path.is_file():
            msg = f"{root}: expected a LeRobot dataset with meta/info.json, got none. Give the dataset's folder."
            raise SchemaMismatch(msg)
        self.info = json.loads(path.read_text(encoding="utf-8"))
        self.version = self.info["codebase_version"]
        if self.version not in _VERSIONS:
            msg = f"{root}: expected a codebase_version of {', '.join(_VERSIONS)}, got {self.version!r}. Convert it."
            raise SchemaMismatch(msg)
        features = self.info["features"]
        self.videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
        self.features = {name: feature for name, feature in features.items() if name not in _BOOKKEEPING}
        self.names = _column_names(self.features)

    def episodes(self) -> list[_Episode]:
        if self.version == "v3.0":
            paths = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
            rows = [row for path in paths for row in _without_statistics(path).to_pylist()]
        else:
            rows = _json_lines(self.root / "meta" / "episodes.jsonl")
        rows.sort(key=lambda row: row["episode_index"])
        return [_Episode(row["episode_index"], row["length"], tuple(row["tasks"]), row) for row in rows]

    def frames(self, episodes: list[_Episode]) -> Iterator[pa.Table]:
        """Yield the frames of each episode; the files hold them one after the other."""
        rows = _Rows(sorted((self.root / "data").glob("*/*.parquet")))
        for episode in episodes:
            frames = rows.take(episode.length)
            found = set(frames.column("episode_index").to_pylist())
            if len(frames) != episode.length or found != {episode.index}:
                msg = (
                    f"{self.root}, episode {episode.index}: expected {episode.length} frames, got {len(frames)} of "
                    f"episodes {sorted(found)}. Fetch the dataset again."
                )
                raise SchemaMismatch(msg)
            yield frames

    def tasks(self) -> dict[int, str]:
        if self.version == "v3.0":
            table = pq.read_table(self.root / "meta" / "tasks.parquet").to_pydict()
            names = next(values for name, values in table.items() if name != "task_index")
            return dict(zip(table["task_index"], names, strict=True))
        return {row["task_index"]: row["task"] for row in _json_lines(self.root / "meta" / "tasks.jsonl")}

    def pictures(self, name: str, episode: _Episode, frames: pa.Table) -> np.ndarray:
        """Return the frames of a camera, uint8 [T, H, W, 3]."""
        if name not in self.videos:
            where = f"{self.root}, episode {episode.index}, {name}"
            return np.stack([decoded(frame["bytes"], where=where) for frame in frames.column(name).to_pylist()])
        places = {"episode_index": episode.index, "video_key": name, "episode_chunk": 0}
        start = 0.0
        if self.version == "v3.0":
            row = {key.removeprefix(f"videos/{name}/"): value for key, value in episode.row.items()}
            start, places = row["from_timestamp"], {**places, **row}
        else:
            places["episode_chunk"] = episode.index // self.info["chunks_size"]
        path = self.root / self.info["video_path"].format(**places)
        return video_frames(path, start_s=start, count=episode.length, fps=self.info["fps"])

    def ours(self) -> list[dict[str, Any]] | None:
        """Return what RLHive kept beside the frames, by episode; None where RLHive did not write them."""
        path = self.root / EPISODES_PATH
        if not path.is_file():
            return None
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(_arrow.FINAL)]
        finals = {name.removeprefix(_arrow.FINAL): _stacked(table.column(name)) for name in names}
        kept = table.select(["split", "seed", "policy", "metadata"]).to_pylist()
        return [
            {**row, "final": {name: values[index] for name, values in finals.items()}} for index, row in enumerate(kept)
        ]

    def told(self) -> dict[str, Any]:
        return {key: self.info[key] for key in ("fps", "robot_type", "features") if self.info.get(key) is not None}


class _Rows:
    """The rows of several Parquet files in order, any number at a time."""

    def __init__(self, paths: list[Path]):
        self._batches = _parquet.read_batches(paths)
        self._rest: list[pa.RecordBatch] = []

    def take(self, count: int) -> pa.Table:
        """Return the next rows; fewer at the end."""
        while sum(len(batch) for batch in self._rest) < count:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._rest.append(batch)
        table = pa.Table.from_batches(self._rest)
        self._rest = table.slice(count).to_batches()
        return table.slice(0, count)


def _columns(
    dataset: _Dataset, episode: _Episode, frames: pa.Table, ours: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns, the final values and the record's further fields of an episode."""
    values = {name: _values(dataset, name, episode, frames) for name in dataset.features}
    length = episode.length
    terminated = _ended(values)
    flags = end_flags(length, terminated=terminated)
    success = values.pop(SUCCESS, None)
    for name in (DONE, TERMINATED, TRUNCATED):
        values.pop(name, None)
    columns = {dataset.names[name]: rows for name, rows in values.items()}
    final: dict[str, np.ndarray] = {}
    if success is not None:
        solved = success.reshape(length, 1).astype(bool)
        columns[keys.SUCCESS], final[keys.SUCCESS] = np.concatenate([[[False]], solved[:-1]]), solved[-1]
    observed = [name for name in columns if name.split(".")[0] in (keys.OBSERVATION, keys.PIXELS)]
    told: dict[str, Any] = {"metadata": _tasks(dataset, episode, frames, columns)}
    if ours is not None:
        final = {name: _final(ours["final"], name, columns[name]) for name in (*observed, *final)}
        told = {"split": ours["split"], "seed": ours["seed"], "policy": ours["policy"]}
        told["metadata"] = json.loads(ours["metadata"])
        columns.pop("task", None)
        return {**columns, **flags}, final, told
    final |= {name: columns[name][-1] for name in observed}
    if terminated:
        told["metadata"]["final_observation"] = "unknown"
        return {**columns, **flags}, final, told
    if length < 2:
        msg = f"{dataset.root}, episode {episode.index}: expected at least 2 frames, got 1. Leave the episode out."
        raise SchemaMismatch(msg)
    if success is not None:
        final[keys.SUCCESS] = columns[keys.SUCCESS][-1]
    return {name: rows[:-1] for name, rows in columns.items()} | end_flags(length - 1, terminated=False), final, told


def _values(dataset: _Dataset, name: str, episode: _Episode, frames: pa.Table) -> np.ndarray:
    feature = dataset.features[name]
    if feature["dtype"] in ("image", "video"):
        return dataset.pictures(name, episode, frames)
    column = frames.column(name)
    if feature["dtype"] == "string":
        return np.array(column.to_pylist(), object)
    rows = np.array(column.to_pylist(), feature["dtype"])
    return rows.reshape(len(rows), *feature["shape"])


def _ended(values: Mapping[str, np.ndarray]) -> bool:
    """Whether the last frame's action ended the task for good."""
    if TERMINATED in values:
        return bool(values[TERMINATED][-1].any())
    return DONE in values and bool(values[DONE][-1].any()) and bool(np.any(values.get(SUCCESS, np.ones(1))[-1]))


def _tasks(dataset: _Dataset, episode: _Episode, frames: pa.Table, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the episode's instruction; several go into a column."""
    if len(episode.tasks) <= 1:
        return {"task": episode.tasks[0]} if episode.tasks else {}
    names = dataset.tasks()
    columns["task"] = np.array([names[index] for index in frames.column("task_index").to_pylist()], object)
    return {}


def _column_names(features: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of every feature."""
    vectors = [
        name
        for name, feature in features.items()
        if name.startswith("observation") and feature["dtype"] not in ("image", "video")
    ]
    names = {}
    for name, feature in features.items():
        if feature["dtype"] in ("image", "video"):
            names[name] = f"{keys.PIXELS}.{name.removeprefix(IMAGES).removeprefix('observation.')}"
        else:
            names[name] = keys.OBSERVATION if vectors == [STATE] and name == STATE else name
    return names | {"next.reward": REWARD}


def _final(finals: Mapping[str, np.ndarray], name: str, rows: np.ndarray) -> np.ndarray:
    """Return what RLHive kept for a column; a camera without a name of its own is one of several in ``pixels``."""
    if name in finals:
        return np.asarray(finals[name], rows.dtype).reshape(rows.shape[1:])
    camera = int(name.removeprefix(f"{keys.PIXELS}."))
    return np.asarray(finals[keys.PIXELS], rows.dtype).reshape(-1, *rows.shape[1:])[camera]


def _stacked(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column's elements, ``[num_rows, width]`` where it holds lists."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _without_statistics(path: Path) -> pa.Table:
    """Read a table of episodes but for its statistics, which are most of it."""
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    return pq.read_table(path, columns=names)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
