"""A version → a LeRobot v3.0 dataset that LeRobotDataset opens: frames in Parquet, pictures as PNG inside it.

Kept: every observation but the final one, actions, rewards, ends, success; the final observations, seeds, splits,
policies and metadata go into ``meta/rlhive_episodes.parquet``, which LeRobot ignores and
:mod:`~rlhive.data.formats` reads. Left out: start states, and whether the start was solved already. Fields of
more than one dimension that are no pictures are refused.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive import keys
from rlhive.data import _arrow, _store
from rlhive.data._episodes import TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data._schema import Field
from rlhive.data._statistics import Summary
from rlhive.data.formats._lerobot import DONE, EPISODES_PATH, IMAGES, STATE, SUCCESS
from rlhive.data.formats._pictures import png
from rlhive.data.versions import Manifest
from rlhive.errors import UnsupportedFormat

CODEBASE_VERSION = "v3.0"
#: The git tag by which LeRobot finds a dataset of its format on the Hub.
TAG = CODEBASE_VERSION
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_INFO_PATH = "meta/info.json"
_META_PATH = "meta/episodes/chunk-000/file-000.parquet"
_INDICES = ("frame_index", "episode_index", "index", "task_index")
_BOOKKEEPING = {"timestamp": "float32", **dict.fromkeys(_INDICES, "int64")}
_FILE_BYTES = 100 * 2**20
_FILES_PER_CHUNK = 1000


def write(
    manifest: Manifest,
    records: Iterable[EpisodeRecord],
    target: Path,
    *,
    fps: int | None = None,
    task: str | None = None,
    dtype: str | None = None,
    robot_type: str = "franka",
) -> None:
    """Write episodes as a LeRobot dataset; episodes are numbered from 0.

    Args:
        manifest: Of the version.
        records: Its episodes.
        target: Folder that becomes the dataset; it must not exist.
        fps: Frames per second; by default that of the environment, rounded, as LeRobot wants a whole number.
        task: The instruction; by default an episode's metadata ``"task"``, else the description.
        dtype: "float32" rounds float64 fields to what LeRobot's policies take; by default nothing is rounded.
        robot_type: As LeRobot records it.

    Raises:
        UnsupportedFormat: A field cannot be a LeRobot feature, or fps is neither given nor known.
        DatasetExists: The target is there.
        MissingExtra: Pillow is needed for pictures and not installed.
    """
    writer = _Writer(manifest, fps or _fps_of(manifest), task, dtype)
    with _store.publishing(Path(target)) as partial:
        writer.begin(partial)
        for index, record in enumerate(records):
            writer.add(index, record)
        writer.finish(robot_type, _origin(manifest, fps=fps, task=task, dtype=dtype, robot_type=robot_type))


def is_written(
    manifest: Manifest,
    target: Path,
    *,
    fps: int | None = None,
    task: str | None = None,
    dtype: str | None = None,
    robot_type: str = "franka",
) -> bool:
    """Whether :func:`write` made that folder of this very version, with these options."""
    try:
        info = json.loads((Path(target) / _INFO_PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return info.get("rlhive") == _origin(manifest, fps=fps, task=task, dtype=dtype, robot_type=robot_type)


def _origin(manifest: Manifest, **options: Any) -> dict[str, Any]:
    """Return what info.json says about where a dataset comes from."""
    return {"name": manifest.name, "version": manifest.version, "fingerprint": manifest.fingerprint, **options}


class _Writer:
    """What one pass over the episodes gathers."""

    def __init__(self, manifest: Manifest, fps: int, task: str | None, dtype: str | None):
        self._manifest, self._fps, self._task, self._dtype = manifest, fps, task, dtype
        self._fields = {name: item for item in manifest.schema.fields for name in _names(item)}
        self.features = {name: _feature(name, item, dtype) for name, item in self._fields.items()}
        self.features |= {DONE: _described("bool", [1])}
        self.features |= {name: _described(kind, [1]) for name, kind in _BOOKKEEPING.items()}
        self._summaries: dict[str, Summary] = {}
        self._episodes: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._kept: list[pa.Table] = []
        self._frames = 0
        self._file = 0
        self._parquet: pq.ParquetWriter | None = None

    def begin(self, folder: Path) -> None:
        self._folder = folder

    def add(self, index: int, record: EpisodeRecord) -> None:
        """Write the frames of one episode."""
        task = self._task or str(record.metadata.get("task") or self._manifest.description or self._manifest.name)
        task_index = self._tasks.setdefault(task, len(self._tasks))
        values = {name: self._values(name, item, record) for name, item in self._fields.items()}
        values[DONE] = record.columns[TERMINATED] | record.columns[TRUNCATED]
        rows = np.arange(record.length)
        values |= {
            "timestamp": (rows / self._fps).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full(record.length, index),
            "index": self._frames + rows,
            "task_index": np.full(record.length, task_index),
        }
        table = pa.table({name: _array(value, self.features[name]) for name, value in values.items()})
        self._place(table)
        own = {name: _summary(value, self.features[name]) for name, value in values.items() if _counts(value)}
        self._summaries = {
            name: self._summaries[name].merge(part) if name in self._summaries else part for name, part in own.items()
        }
        self._episodes.append(self._row(index, record.length, task, own))
        self._kept.append(_arrow.episode_table([_arrow.EpisodeRow.of(record)], self._manifest.schema))
        self._frames += record.length

    def finish(self, robot_type: str, origin: Mapping[str, Any]) -> None:
        """Write everything but the frames."""
        self._parquet.close()
        meta = self._folder / "meta"
        (self._folder / _META_PATH).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), self._folder / _META_PATH)
        kept = pa.concat_tables(self._kept)
        names = [name for name in kept.column_names if not name.startswith(_arrow.START)]
        pq.write_table(kept.select(names), self._folder / EPISODES_PATH)
        tasks = pa.table({"task_index": list(self._tasks.values()), "__index_level_0__": list(self._tasks)})
        pq.write_table(tasks.replace_schema_metadata(_PANDAS_INDEX), meta / "tasks.parquet")
        _dump(meta / "stats.json", {name: _statistics(part, name) for name, part in self._summaries.items()})
        count = len(self._episodes)
        _dump(
            self._folder / _INFO_PATH,
            {
                "codebase_version": CODEBASE_VERSION,
                "robot_type": robot_type,
                "total_episodes": count,
                "total_frames": self._frames,
                "total_tasks": len(self._tasks),
                "chunks_size": _FILES_PER_CHUNK,
                "data_files_size_in_mb": _FILE_BYTES // 2**20,
                "video_files_size_in_mb": 200,
                "fps": self._fps,
                "splits": {"train": f"0:{count}"},
                "data_path": _DATA_PATH,
                "video_path": None,
                "features": self.features,
                "env_name": self._manifest.env_name,
                "rlhive": origin,
            },
        )
        (self._folder / "README.md").write_text(_card(self._manifest), encoding="utf-8")

    def _values(self, name: str, item: Field, record: EpisodeRecord) -> np.ndarray:
        rows = record.columns[item.column]
        if name == SUCCESS:  # of the state that the action led to
            rows = np.concatenate([rows[1:], record.final[item.column][None]])
        if name.startswith(IMAGES):
            camera = name.removeprefix(IMAGES)
            return rows[:, int(camera)] if len(item.shape) == 4 else rows
        return rows.astype(self.features[name]["dtype"]) if rows.dtype != object else rows

    def _place(self, table: pa.Table) -> None:
        """Append to the current file, or begin the next one."""
        path = self._folder / self._path()
        if self._parquet is not None and path.stat().st_size >= _FILE_BYTES:
            self._parquet.close()
            self._parquet, self._file = None, self._file + 1
            path = self._folder / self._path()
        if self._parquet is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._parquet.write_table(table)

    def _path(self) -> str:
        chunk, file = divmod(self._file, _FILES_PER_CHUNK)
        return _DATA_PATH.format(chunk_index=chunk, file_index=file)

    def _row(self, index: int, length: int, task: str, own: Mapping[str, Summary]) -> dict[str, Any]:
        chunk, file = divmod(self._file, _FILES_PER_CHUNK)
        statistics = {
            f"stats/{name}/{kind}": values
            for name, part in own.items()
            for kind, values in _statistics(part, name).items()
        }
        return {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
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
                {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
                for name, field, kind, dtype in (
                    ("task_index", "task_index", "int64", "int64"),
                    (None, "__index_level_0__", "unicode", "object"),
                )
            ],
        }
    )
}


def _names(item: Field) -> list[str]:
    """Return the features that a field becomes."""
    root, *inner = item.column.split(".")
    if item.column == keys.OBSERVATION:
        return [STATE]
    if item.column == keys.SUCCESS:
        return [SUCCESS]
    if root == keys.PIXELS:
        cameras = range(item.shape[0]) if len(item.shape) == 4 else [".".join(inner) or "camera"]
        return [f"{IMAGES}{camera}" for camera in cameras]
    return [item.column]


def _feature(name: str, item: Field, dtype: str | None) -> dict[str, Any]:
    if name.startswith(IMAGES):
        if item.dtype != "uint8" or len(item.shape) not in (3, 4) or item.shape[-1] != 3:
            msg = f"Key {item.column}: expected uint8 pictures [H, W, 3] or [camera, H, W, 3], got {item.describe()}."
            raise UnsupportedFormat(msg)
        return {"dtype": "image", "shape": list(item.shape[-3:]), "names": ["height", "width", "channel"]}
    if len(item.shape) > 1:
        msg = f"Key {item.column}: LeRobot takes one dimension, got {item.describe()}. Drop the column before."
        raise UnsupportedFormat(msg)
    rounded = dtype if dtype and item.dtype == "float64" else item.dtype
    return _described(rounded, list(item.shape) or [1])


def _described(dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": None}


def _array(values: np.ndarray, feature: Mapping[str, Any]) -> pa.Array:
    if feature["dtype"] == "image":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.array([{"bytes": png(picture), "path": None} for picture in values], kind)
    if feature["dtype"] == "string":
        return pa.array(values.tolist(), pa.string())
    dtype = pa.bool_() if feature["dtype"] == "bool" else pa.from_numpy_dtype(feature["dtype"])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), dtype)
    width = feature["shape"][0]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _counts(values: np.ndarray) -> bool:
    return values.dtype != object


def _summary(values: np.ndarray, feature: Mapping[str, Any]) -> Summary:
    """Summarise an episode's values, pictures by channel; moments alone, which merge whatever the episode."""
    rows = values.reshape(-1, 3) if feature["dtype"] == "image" else values.reshape(len(values), -1)
    values64 = rows.astype(np.float64) / (255.0 if feature["dtype"] == "image" else 1.0)
    mean = values64.mean(axis=0)
    m2 = ((values64 - mean) ** 2).sum(axis=0)
    return Summary(len(rows), mean, m2, values64.min(axis=0), values64.max(axis=0), np.zeros_like(mean), None)


def _statistics(part: Summary, name: str) -> dict[str, Any]:
    """Return LeRobot's statistics; those of a picture have the shape [3, 1, 1]."""
    shape = (3, 1, 1) if name.startswith(IMAGES) else (-1,)
    arrays = {"min": part.min, "max": part.max, "mean": part.mean, "std": part.std}
    return {kind: array.reshape(shape).tolist() for kind, array in arrays.items()} | {"count": [part.count]}


def _fps_of(manifest: Manifest) -> int:
    for run in manifest.runs:
        dt = (run.get("env") or {}).get("dt")
        if run.get("fps") or dt:
            return int(run.get("fps") or max(1, round(1 / dt)))
    msg = f"{manifest.name}: no run says how many frames a second has, expected fps=. Give it."
    raise UnsupportedFormat(msg)


def _card(manifest: Manifest) -> str:
    return (
        f"---\nlicense: {manifest.license}\ntask_categories:\n- robotics\ntags:\n- LeRobot\nconfigs:\n"
        f"- config_name: default\n  data_files: data/*/*.parquet\n---\n\n{manifest.description}\n\n"
        f"Made by RLHive from {manifest.name} {manifest.version}, fingerprint `{manifest.fingerprint}`.\n"
    )


def _dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
