"""The files of a LeRobot dataset, v3.0 and v2.1: episodes, frames, tasks, pictures and videos.

::

    meta/info.json                        codebase_version, fps, features
    meta/episodes/*/*.parquet             v3.0: length, tasks, where the episode's video starts; v2.1: episodes.jsonl
    meta/tasks.parquet | tasks.jsonl      the text of every task_index
    data/*/*.parquet                      one row per frame, episode after episode
    videos/…                              one file of many episodes (v3.0), or one per episode (v2.1)
    meta/rlhive_episodes.parquet          written by RLHive only: the true final observations, seeds, splits
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data import _arrow, _parquet
from rlhive.data._video_files import Clip
from rlhive.data.formats._arrow_values import read_arrow_columns
from rlhive.data.formats._foreign_parquet import read_foreign_table
from rlhive.data.formats._parquet_rows import ParquetRows, read_picture_contents
from rlhive.data.formats._pictures import decode_pictures, stack_pictures
from rlhive.data.formats._source_files import expand_path_template, list_source_files, require_source_file
from rlhive.data.formats._video_clips import find_clip
from rlhive.data.formats._videos import decode_video_frames
from rlhive.errors import SchemaMismatchError

#: What RLHive adds to a LeRobot dataset; LeRobot ignores the file.
EPISODES_PATH = "meta/rlhive_episodes.parquet"
#: Key of info.json under which RLHive keeps column and shape of every feature; LeRobot ignores it.
COLUMNS_KEY = "rlhive_columns"
#: The columns of a frame that are no features.
BOOKKEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_VERSIONS = ("v3.0", "v2.1", "v2.0")
#: The fields of the two templates of paths.
_EXAMPLE_FIELDS: dict[str, str | int] = {
    **dict.fromkeys(("episode_chunk", "episode_index", "chunk_index", "file_index"), 0),
    "video_key": "camera",
}


@dataclass(frozen=True)
class LeRobotEpisode:
    """One row of the table of episodes.

    Attributes:
        index: LeRobot's number of the episode.
        length: Number of frames.
        tasks: The episode's instructions.
        row: The whole row.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    row: Mapping[str, Any]


class LeRobotFiles:
    """A LeRobot dataset's folder, of either version.

    Args:
        root: The folder.

    Attributes:
        info: Content of meta/info.json.
        version: Its codebase_version.
        features: The features by name, without the bookkeeping ones.
        videos: Names of the features that are videos.

    Raises:
        SchemaMismatchError: The folder is no LeRobot dataset, or one of another version.
    """

    def __init__(self, root: Path):
        self.root = root
        path = root / "meta" / "info.json"
        if not path.is_file():
            msg = f"{root}: expected a LeRobot dataset with meta/info.json, got none."
            raise SchemaMismatchError(msg)
        require_source_file(root, path)
        self.info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.version: str = self.info["codebase_version"]
        if self.version not in _VERSIONS:
            msg = f"{root}: expected a codebase_version of {', '.join(_VERSIONS)}, got {self.version!r}."
            raise SchemaMismatchError(msg)
        for name in ("data_path", "video_path"):
            if self.info.get(name) is not None:
                self._expand_path(name, **_EXAMPLE_FIELDS)
        features = self.info["features"]
        self.videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
        self.features = {name: feature for name, feature in features.items() if name not in BOOKKEEPING}

    def read_episodes(self) -> list[LeRobotEpisode]:
        """Return the episodes in the order of their indices."""
        if self.version == "v3.0":
            paths = list_source_files(self.root, "meta/episodes/*/*.parquet")
            rows = [row for path in paths for row in _read_without_statistics(path).to_pylist()]
        else:
            rows = _read_json_lines(self._find_file("meta/episodes.jsonl"))
        rows.sort(key=lambda row: row["episode_index"])
        return [LeRobotEpisode(row["episode_index"], row["length"], tuple(row["tasks"]), row) for row in rows]

    def read_frames(self, episodes: list[LeRobotEpisode]) -> Iterator[pa.Table]:
        """Yield the frames of each episode; the files hold them in that order.

        Raises:
            SchemaMismatchError: Frames are missing, or belong to another episode.
            CorruptDatasetError: A Parquet file is damaged.
        """
        rows = ParquetRows(self._list_frame_files())
        for episode in episodes:
            frames = rows.take(episode.length, context=f"{self.root}, episode {episode.index}")
            indices = set(frames.column("episode_index").to_pylist())
            if len(frames) != episode.length or indices != {episode.index}:
                msg = (
                    f"{self.root}, episode {episode.index}: expected {episode.length} frames, got {len(frames)} of "
                    f"episodes {sorted(indices)}."
                )
                raise SchemaMismatchError(msg)
            yield frames

    def read_tasks(self) -> dict[int, str]:
        """Return the instruction of every task_index."""
        if self.version == "v3.0":
            table = read_foreign_table(self._find_file("meta/tasks.parquet")).to_pydict()
            texts = next(values for name, values in table.items() if name != "task_index")
            return dict(zip(table["task_index"], texts, strict=True))
        return {row["task_index"]: row["task"] for row in _read_json_lines(self._find_file("meta/tasks.jsonl"))}

    def read_feature(self, name: str, episode: LeRobotEpisode, frames: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the values of a feature, ``[T, *shape]``, as the files hold them; a struct as its fields, by name.

        Raises:
            SchemaMismatchError: No column can hold the values, or a picture cannot be decoded.
        """
        feature = self.features[name]
        if feature["dtype"] in ("image", "video"):
            yield name, self.read_pictures(name, episode, frames)
            return
        context = f"{self.root}, episode {episode.index}"
        shape = tuple(feature.get("shape") or ())
        for part, rows in read_arrow_columns(name, frames.column(name), context=context):
            fits = rows.dtype != object and math.prod(rows.shape[1:]) == math.prod(shape)
            yield part, rows.reshape(len(rows), *shape) if fits and part == name else rows

    def describe_differences(self) -> Iterator[str]:
        """Yield where info.json declares another dtype or shape than the files of frames have."""
        paths = self._list_frame_files()
        actual = _parquet.read_arrow_schema(paths[0]) if paths else pa.schema([])
        for name, feature in self.features.items():
            if feature["dtype"] in ("image", "video") or name not in actual.names:
                continue
            stored = _describe_stored_dtype(actual.field(name).type)
            declared = str(feature["dtype"])
            if stored != declared:
                yield f"{name}: info.json declares {declared}, the files hold {stored}, which is taken"

    def _list_frame_files(self) -> list[Path]:
        return list_source_files(self.root, "data/*/*.parquet")

    def read_pictures(self, name: str, episode: LeRobotEpisode, frames: pa.Table) -> np.ndarray:
        """Return the pictures of a camera, uint8 ``[T, H, W, 3]`` for colour pictures of 8 bits."""
        if name not in self.videos:
            context = f"{self.root}, episode {episode.index}, {name}"
            contents = read_picture_contents(frames.column(name), context)
            return stack_pictures(decode_pictures(contents, context=context), context=context)
        path, start_s = self._locate_video(name, episode)
        context, is_whole = f"episode {episode.index}", self.version != "v3.0"  # before, a file for each episode
        return decode_video_frames(
            path, start_s=start_s, count=episode.length, fps=self.info["fps"], context=context, is_whole=is_whole
        )

    def find_clip(self, name: str, episode: LeRobotEpisode, pictures: np.ndarray) -> Clip | None:
        """Return the packets of a camera's frames, which :meth:`read_pictures` decoded; None if none can be kept."""
        if name not in self.videos:
            return None
        path, start_s = self._locate_video(name, episode)
        return find_clip(path, pictures, start_s=start_s, fps=self.info["fps"])

    def _locate_video(self, name: str, episode: LeRobotEpisode) -> tuple[Path, float]:
        """Return the file that holds an episode's video, and the time of its first frame in seconds."""
        fields: dict[str, str | int] = {"video_key": name, "episode_index": episode.index}
        start_s = 0.0
        if self.version == "v3.0":
            start_s = float(episode.row[f"videos/{name}/from_timestamp"])
            fields |= {key: int(episode.row[f"videos/{name}/{key}"]) for key in ("chunk_index", "file_index")}
        else:
            fields["episode_chunk"] = episode.index // self.info["chunks_size"]
        return require_source_file(self.root, self._expand_path("video_path", **fields)), start_s

    def read_rlhive_episodes(self) -> list[dict[str, Any]] | None:
        """Return what RLHive kept beside the frames, by episode; None where another library wrote the dataset.

        Returns:
            Split, seed, policy, metadata (JSON) and final, the final values by column, of each episode.
        """
        if not (self.root / EPISODES_PATH).exists():
            return None
        path = self._find_file(EPISODES_PATH)
        table = read_foreign_table(path)
        columns = [name for name in table.column_names if name.startswith(_arrow.FINAL_PREFIX)]
        finals = {name.removeprefix(_arrow.FINAL_PREFIX): _stack_elements(table.column(name)) for name in columns}
        rows = table.select(["split", "seed", "policy", "metadata"]).to_pylist()
        return [
            {**row, "final": {name: values[index] for name, values in finals.items()}} for index, row in enumerate(rows)
        ]

    def _expand_path(self, name: str, **fields: str | int) -> Path:
        """Return the path that a template of info.json gives."""
        return expand_path_template(self.root, self.info[name], fields, context=f"{self.root}, meta/info.json, {name}")

    def _find_file(self, path: str) -> Path:
        return require_source_file(self.root, self.root / path)


def _describe_stored_dtype(dtype: pa.DataType) -> str:
    """Return the name that info.json would have for the elements of a column."""
    while pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        dtype = dtype.value_type
    if isinstance(dtype, pa.BaseExtensionType):
        return _describe_stored_dtype(dtype.storage_type)
    names = {"float": "float32", "double": "float64", "halffloat": "float16", "large_string": "string"}
    return names.get(str(dtype), str(dtype))


def _stack_elements(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column's elements, ``[num_rows, width]`` where it holds lists."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _read_without_statistics(path: Path) -> pa.Table:
    """Read a table of episodes without their statistics, which are most of it."""
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    return read_foreign_table(path, names)


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
