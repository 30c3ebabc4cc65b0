"""A version, written as a LeRobot v3.0 dataset: frames in Parquet, with pictures as PNG inside, or as videos.

Kept: every observation except the final one, actions, rewards, ends, success, texts, and the instruction of every frame
as its task. The final observations, seeds, splits, policies and metadata go into ``meta/rlhive_episodes.parquet``, and
the columns' own names and shapes into info.json, which LeRobot ignores and RLHive reads. Left out: start states, and
whether the start was solved already. Fields of more than one dimension that are no pictures are refused.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive._text import escape_markdown
from rlhive.data import _arrow, _store
from rlhive.data._episodes import TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data._schema import Field
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.formats._lerobot import DONE, IMAGES, SUCCESS
from rlhive.data.formats._lerobot_clock import LeRobotClock, require_whole_fps
from rlhive.data.formats._lerobot_features import build_features, name_fields, summarise_feature, to_arrow
from rlhive.data.formats._lerobot_files import COLUMNS_KEY, EPISODES_PATH
from rlhive.data.formats._lerobot_tasks import LeRobotTasks
from rlhive.data.formats._lerobot_videos import VIDEO_FILE_MB, VIDEO_PATH, LeRobotVideos, choose_videos
from rlhive.data.versions import Manifest, front_matter_license

#: LeRobot's version of the format, which is also the git tag by which it finds a dataset on the Hub.
CODEBASE_VERSION = "v3.0"
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_INFO_PATH = "meta/info.json"
_META_PATH = "meta/episodes/chunk-000/file-000.parquet"
_FILE_BYTES = 100 * 2**20
_FILES_PER_CHUNK = 1000


def write_lerobot(
    manifest: Manifest,
    records: Iterable[EpisodeRecord],
    target: Path,
    *,
    fps: int | None = None,
    task: str | None = None,
    task_from: str | None = None,
    state: str | None = None,
    dtype: str | None = None,
    robot_type: str = "franka",
    video: bool | None = None,
) -> None:
    """Write episodes as a LeRobot dataset; episodes are numbered from 0.

    Args:
        manifest: Manifest of the version.
        records: Its episodes.
        target: Folder to create; it must not exist.
        fps: Frames per second; by default the recorded rate or that of the environment, rounded, since LeRobot takes a
            whole number.
        task: Instruction of the episodes that have none; by default the description.
        task_from: String column or metadata key with the instructions; by default task, instruction or
            language_instruction. A column may change within an episode, metadata hold for all of it.
        state: Column that becomes observation.state; observation by default, "none" for none. Every other column
            keeps its name, ``observation`` too.
        dtype: "float32" rounds float64 fields to what LeRobot's policies take; by default nothing is rounded.
        robot_type: LeRobot's name of the robot.
        video: Whether pictures become videos, which loses a little: True encodes them as LeRobot does by default, AV1
            with crf 30 and a key frame every 2. By default pictures are PNG, but those that the version holds as av1,
            h264 or h265 are copied as they are, which loses nothing; False decodes these to PNG.

    Raises:
        UnsupportedFormatError: A field cannot be a LeRobot feature, or fps is neither given nor known.
        DatasetExistsError: The target exists.
        MissingExtraError: Pillow is needed for pictures, or PyAV for videos, and not installed.
    """
    origin = _describe_origin(
        manifest, fps=fps, task=task, task_from=task_from, state=state, dtype=dtype, robot_type=robot_type, video=video
    )
    frames_per_second = fps or require_whole_fps(manifest)
    fields = name_fields(manifest.schema, state)
    videos = choose_videos(fields, video=video)
    features = build_features(fields, dtype, videos, frames_per_second)
    tasks = LeRobotTasks(manifest, task, task_from)
    with _store.atomic_dir(target) as partial:
        video_files = LeRobotVideos(partial, fields, videos, frames_per_second)
        writer = _LeRobotWriter(manifest, partial, fields, features, frames_per_second, tasks, video_files)
        for index, record in enumerate(records):
            writer.add(index, record)
        writer.finish(robot_type, origin)


def is_written_by_rlhive(
    manifest: Manifest,
    target: Path,
    *,
    fps: int | None = None,
    task: str | None = None,
    task_from: str | None = None,
    state: str | None = None,
    dtype: str | None = None,
    robot_type: str = "franka",
    video: bool | None = None,
) -> bool:
    """Return whether :func:`write_lerobot` made the folder from this version with these options."""
    try:
        info = json.loads((target / _INFO_PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    origin = _describe_origin(
        manifest, fps=fps, task=task, task_from=task_from, state=state, dtype=dtype, robot_type=robot_type, video=video
    )
    return bool(info.get("rlhive") == origin)


def _describe_origin(manifest: Manifest, **options: Any) -> dict[str, Any]:
    """Return the version and options that info.json records."""
    return {"name": manifest.name, "version": manifest.version, "fingerprint": manifest.fingerprint, **options}


class _LeRobotWriter:
    """Write frames episode by episode, then the metadata that one pass over them gathered.

    Args:
        manifest: Manifest of the version.
        folder: The dataset's folder, which is empty.
        fields: Field of every feature.
        features: LeRobot's features by name.
        fps: Frames per second.
        tasks: The instructions; none of them numbered yet.
        videos: The video files.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        fields: dict[str, Field],
        features: dict[str, dict[str, Any]],
        fps: int,
        tasks: LeRobotTasks,
        videos: LeRobotVideos,
    ):
        self._manifest = manifest
        self._folder = folder
        self._features = features
        self._fps = fps
        self._clock = LeRobotClock(fps)
        self._tasks = tasks
        self._videos = videos
        self._fields = fields
        self._summaries: dict[str, ColumnStatistics] = {}
        self._episodes: list[dict[str, Any]] = []
        self._rlhive_episodes: list[pa.Table] = []
        self._num_frames = 0
        self._file_index = 0
        self._parquet: pq.ParquetWriter | None = None

    def add(self, index: int, record: EpisodeRecord) -> None:
        """Write the frames of one episode."""
        task_index = self._tasks.number(record)
        values = {name: self._feature_values(name, item, record) for name, item in self._fields.items()}
        values[DONE] = record.columns[TERMINATED] | record.columns[TRUNCATED]
        rows = np.arange(record.length)
        values |= {
            "timestamp": self._clock.frame_times(record),
            "frame_index": rows,
            "episode_index": np.full(record.length, index),
            "index": self._num_frames + rows,
            "task_index": task_index,
        }
        pictures = {name: value for name, value in values.items() if self._features[name]["dtype"] == "video"}
        places = self._videos.add(index, record, pictures)
        rows_by_name = {name: value for name, value in values.items() if name not in pictures}
        self._write_frames(
            pa.table({name: to_arrow(value, self._features[name]) for name, value in rows_by_name.items()})
        )
        summaries = {
            name: summarise_feature(value, self._features[name])
            for name, value in values.items()
            if value.dtype != object
        }
        for name, summary in summaries.items():
            self._summaries[name] = self._summaries[name].merge(summary) if name in self._summaries else summary
        described = self._describe_episode(index, record.length, self._tasks.texts(task_index), summaries)
        self._episodes.append(described | places)
        self._rlhive_episodes.append(
            _arrow.build_episode_table([_arrow.EpisodeRow.from_record(record)], self._manifest.schema.without_storage())
        )
        self._num_frames += record.length

    def finish(self, robot_type: str, origin: Mapping[str, Any]) -> None:
        """Close the frames and write the metadata."""
        self._clock.log_replaced(self._manifest.name)
        self._videos.finish()
        if self._parquet is not None:
            self._parquet.close()
        meta = self._folder / "meta"
        (self._folder / _META_PATH).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), self._folder / _META_PATH)
        episodes = pa.concat_tables(self._rlhive_episodes)
        names = [name for name in episodes.column_names if not name.startswith(_arrow.START_PREFIX)]
        pq.write_table(episodes.select(names), self._folder / EPISODES_PATH)
        tasks = pa.table({"task_index": range(len(self._tasks)), "__index_level_0__": list(self._tasks)})
        pq.write_table(tasks.replace_schema_metadata(_PANDAS_INDEX), meta / "tasks.parquet")
        statistics = {name: _describe_summary(summary, name) for name, summary in self._summaries.items()}
        _write_json(meta / "stats.json", statistics)
        _write_json(self._folder / _INFO_PATH, self._describe_dataset(robot_type, origin))
        (self._folder / "README.md").write_text(_build_lerobot_card(self._manifest), encoding="utf-8")

    def _describe_dataset(self, robot_type: str, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of info.json."""
        num_episodes = len(self._episodes)
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": robot_type,
            "total_episodes": num_episodes,
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": _FILE_BYTES // 2**20,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{num_episodes}"},
            "data_path": _DATA_PATH,
            "video_path": VIDEO_PATH if any(item["dtype"] == "video" for item in self._features.values()) else None,
            "features": self._features,
            "env_name": self._manifest.env_name,
            "rlhive": origin,
            COLUMNS_KEY: {
                name: {"column": item.column, "shape": list(item.shape)}
                for name, item in self._fields.items()
                if len(item.shape) < 4
            },
        }

    def _feature_values(self, name: str, item: Field, record: EpisodeRecord) -> np.ndarray:
        rows = record.columns[item.column]
        if name == SUCCESS and item.observed:  # of the state that the action led to
            rows = np.concatenate([rows[1:], record.final[item.column][None]])
        if name.startswith(IMAGES):
            return rows[:, int(name.rpartition(".")[2])] if len(item.shape) == 4 else rows
        return rows.astype(self._features[name]["dtype"]) if rows.dtype != object else rows

    def _write_frames(self, table: pa.Table) -> None:
        """Append frames to the current file; a full file is closed and the next one opened."""
        path = self._current_path()
        if self._parquet is not None and path.stat().st_size >= _FILE_BYTES:
            self._parquet.close()
            self._parquet = None
            self._file_index += 1
            path = self._current_path()
        if self._parquet is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._parquet.write_table(table)

    def _current_path(self) -> Path:
        chunk, file = divmod(self._file_index, _FILES_PER_CHUNK)
        return self._folder / _DATA_PATH.format(chunk_index=chunk, file_index=file)

    def _describe_episode(
        self, index: int, length: int, tasks: list[str], summaries: Mapping[str, ColumnStatistics]
    ) -> dict[str, Any]:
        """Return LeRobot's row of an episode."""
        chunk, file = divmod(self._file_index, _FILES_PER_CHUNK)
        statistics = {
            f"stats/{name}/{statistic}": values
            for name, summary in summaries.items()
            for statistic, values in _describe_summary(summary, name).items()
        }
        return {
            "episode_index": index,
            "tasks": tasks,
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            **statistics,
        }


#: Tells pandas, and so LeRobot, that the tasks are the table's index.
_PANDAS_INDEX = {
    "pandas": json.dumps(
        {
            "index_columns": ["__index_level_0__"],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": field, "pandas_type": pandas, "numpy_type": dtype, "metadata": None}
                for name, field, pandas, dtype in (
                    ("task_index", "task_index", "int64", "int64"),
                    (None, "__index_level_0__", "unicode", "object"),
                )
            ],
        }
    )
}


def _describe_summary(summary: ColumnStatistics, name: str) -> dict[str, Any]:
    """Return LeRobot's statistics of a feature; those of pictures have the shape [3, 1, 1]."""
    shape = (3, 1, 1) if name.startswith(IMAGES) else (-1,)
    arrays = {"min": summary.min, "max": summary.max, "mean": summary.mean, "std": summary.std}
    statistics = {statistic: array.reshape(shape).tolist() for statistic, array in arrays.items()}
    return {**statistics, "count": [summary.count]}


def _build_lerobot_card(manifest: Manifest) -> str:
    license = front_matter_license(manifest.license)
    return (
        f"---\nlicense: {license}\ntask_categories:\n- robotics\ntags:\n- LeRobot\nconfigs:\n"
        f"- config_name: default\n  data_files: data/*/*.parquet\n---\n\n{escape_markdown(manifest.description)}\n\n"
        f"Made by RLHive from {manifest.name} {manifest.version}, fingerprint `{manifest.fingerprint}`.\n"
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
