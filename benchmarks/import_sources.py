"""Generated files of every kind that `rlhive import` reads, of any size, with the same episodes and without pictures.

The code here writes the files, because the packages of the other libraries do not install together; the tests import
files that these libraries wrote. Kinds that RLHive exports (minari in HDF5, lerobot) are exported from a version.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data._episodes import EpisodeRecord
from rlhive.data.formats import _tfrecord
from rlhive.data.formats._convert import export_to
from rlhive.data.versions._export import export

WIDTH, ACTIONS, LENGTH = 75, 9, 200
#: Bytes of an episode: states (including the final one), actions and rewards.
EPISODE_BYTES = (LENGTH + 1) * WIDTH * 8 + LENGTH * (ACTIONS * 4 + 8)


def episode(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states float64 [201, 75], actions float32 [200, 9] and rewards float64 [200] of a smooth walk."""
    generator = np.random.default_rng(number)
    states = generator.normal(size=(LENGTH + 1, WIDTH)).cumsum(axis=0) + 1000 * number
    return states, generator.uniform(-1, 1, (LENGTH, ACTIONS)).astype(np.float32), states[1:, 0].copy()


def roboset(target: Path, count: int) -> None:
    """Write a RoboHive log: T+1 rows, NaN as last action, each reward in the row of the state that it led to."""
    with h5py.File(target, "w") as h5:
        for number in range(count):
            states, actions, rewards = episode(number)
            group = h5.create_group(f"Trial{number}")
            group["observations"] = states
            group["actions"] = np.concatenate([actions, np.full((1, ACTIONS), np.nan, np.float32)])
            group["rewards"] = np.concatenate([[0.0], rewards])
            group["done"] = np.zeros((LENGTH + 1, 1), bool)
            group["env_infos/time"] = np.arange(LENGTH + 1) * 0.02


def d4rl(target: Path, count: int) -> None:
    """Write D4RL's flat arrays with next observations, so the file holds most states twice."""
    rows = {"observations": WIDTH, "next_observations": WIDTH, "actions": ACTIONS}
    with h5py.File(target, "w") as h5:
        for name, width in rows.items():
            h5.create_dataset(name, (count * LENGTH, width), "f4" if name == "actions" else "f8")
        for name, dtype in (("rewards", "f8"), ("terminals", "?"), ("timeouts", "?")):
            h5.create_dataset(name, (count * LENGTH,), dtype)
        for number in range(count):
            states, actions, rewards = episode(number)
            part = slice(number * LENGTH, (number + 1) * LENGTH)
            h5["observations"][part], h5["next_observations"][part] = states[:-1], states[1:]
            h5["actions"][part], h5["rewards"][part] = actions, rewards
            h5["timeouts"][part.stop - 1] = True


def robomimic(target: Path, count: int) -> None:
    """Write robomimic's demonstrations with next_obs, so the file holds most states twice."""
    with h5py.File(target, "w") as h5:
        for number in range(count):
            states, actions, rewards = episode(number)
            group = h5.create_group(f"data/demo_{number}")
            group["obs/object"], group["next_obs/object"] = states[:-1], states[1:]
            group["actions"], group["rewards"], group["dones"] = actions, rewards, np.zeros(LENGTH, np.int64)


def ogbench(target: Path, count: int) -> None:
    """Write OGBench's arrays, T+1 rows an episode, not compressed."""
    rows = count * (LENGTH + 1)
    with zipfile.ZipFile(target, "w") as archive:
        for name, dtype, width in (
            ("observations", "<f8", WIDTH),
            ("actions", "<f4", ACTIONS),
            ("terminals", "|b1", 0),
        ):
            shape = (rows, width) if width else (rows,)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for number in range(count):
                    states, actions, _ = episode(number)
                    arrays = {"observations": states, "actions": np.pad(actions, ((0, 1), (0, 0)))}
                    file.write(arrays.get(name, np.arange(LENGTH + 1) == LENGTH).astype(dtype).tobytes())


def aloha(target: Path, count: int) -> None:
    """Write ALOHA's folder, a file an episode; the row of the last state has an action too."""
    target.mkdir()
    for number in range(count):
        states, actions, _ = episode(number)
        with h5py.File(target / f"episode_{number}.hdf5", "w") as h5:
            h5["observations/qpos"], h5["action"] = states, np.pad(actions, ((0, 1), (0, 0)))


def diffusion_policy(target: Path, count: int) -> None:
    """Write Diffusion Policy's zarr, a chunk an episode, not compressed; the last state has an action too."""
    num_rows = LENGTH + 1
    shapes = {"data/state": (WIDTH, "<f8"), "data/action": (ACTIONS, "<f4"), "meta/episode_ends": (0, "<i8")}
    for path, (width, dtype) in shapes.items():
        (target / path).mkdir(parents=True)
        shape, chunks = ([count * num_rows, width], [num_rows, width]) if width else ([count], [count])
        array = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype, "order": "C"}
        array |= {"fill_value": 0, "compressor": None, "filters": None}
        (target / path / ".zarray").write_text(json.dumps(array))
    (target / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (target / "meta/episode_ends/0").write_bytes((num_rows * np.arange(1, count + 1)).astype("<i8").tobytes())
    for number in range(count):
        states, actions, _ = episode(number)
        (target / f"data/state/{number}.0").write_bytes(states.tobytes())
        (target / f"data/action/{number}.0").write_bytes(np.pad(actions, ((0, 1), (0, 0))).tobytes())


def parquet(target: Path, count: int) -> None:
    """Write a Parquet file with a column of episodes; the row of the last state has an action too."""
    with pq.ParquetWriter(target, _PARQUET_SCHEMA) as writer:
        for number in range(count):
            states, actions, _ = episode(number)
            columns = [
                pa.FixedSizeListArray.from_arrays(states.ravel(), WIDTH),
                pa.FixedSizeListArray.from_arrays(np.pad(actions, ((0, 1), (0, 0))).ravel(), ACTIONS),
                pa.array(np.full(LENGTH + 1, number)),
            ]
            writer.write_batch(pa.record_batch(columns, schema=_PARQUET_SCHEMA))


_PARQUET_SCHEMA = pa.schema(
    {
        "observation": pa.list_(pa.float64(), WIDTH),
        "action": pa.list_(pa.float32(), ACTIONS),
        "episode_index": pa.int64(),
    }
)


def minari_arrow(target: Path, count: int, *, storage: str = "arrow") -> None:
    """Write Minari's Arrow or Parquet storage: a folder per episode with T+1 rows; actions and rewards are padded."""
    folder = target / "data"
    folder.mkdir(parents=True)
    space = {"type": "Box", "dtype": "float64", "shape": [WIDTH], "low": [-9e9] * WIDTH, "high": [9e9] * WIDTH}
    action = {"type": "Box", "dtype": "float32", "shape": [ACTIONS], "low": [-1] * ACTIONS, "high": [1] * ACTIONS}
    metadata = {
        "data_format": storage,
        "total_episodes": count,
        "total_steps": count * LENGTH,
        "dataset_id": "lab/walk-v0",
    }
    spaces = {"observation_space": json.dumps(space), "action_space": json.dumps(action)}
    (folder / "metadata.json").write_text(json.dumps({**metadata, **spaces}))
    for number in range(count):
        states, actions, rewards = episode(number)
        ends = np.arange(LENGTH + 1) == LENGTH - 1
        table = pa.table(
            {
                "observations": pa.FixedSizeListArray.from_arrays(states.ravel(), WIDTH),
                "actions": pa.FixedSizeListArray.from_arrays(np.pad(actions, ((0, 1), (0, 0))).ravel(), ACTIONS),
                "rewards": np.pad(rewards, (0, 1)),
                "terminations": np.zeros(LENGTH + 1, bool),
                "truncations": ends,
            }
        )
        part = folder / str(number)
        part.mkdir()
        (part / "metadata.json").write_text(json.dumps({"id": number, "total_steps": LENGTH, "seed": number}))
        if storage == "parquet":
            pq.write_table(table, part / "part-0.parquet")
        else:
            with pa.OSFile(str(part / "part-0.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)


def minari_parquet(target: Path, count: int) -> None:
    """Write Minari's Parquet storage."""
    minari_arrow(target, count, storage="parquet")


def minari_hdf5(target: Path, count: int) -> None:
    """Write Minari's HDF5 storage with RLHive's writer."""
    _from_version(target, count, "minari")


def lerobot(target: Path, count: int) -> None:
    """Write LeRobot v3.0 with RLHive's writer, without RLHive's additional episode table."""
    _from_version(target, count, "lerobot", fps=50)
    (target / "meta" / "rlhive_episodes.parquet").unlink()


def rlds(target: Path, count: int, *, kind: str = "tfrecord") -> None:
    """Write RLDS steps as TFDS does, in TFRecord or Parquet files of 256 episodes each."""
    target.mkdir()
    shards = [range(start, min(start + 256, count)) for start in range(0, count, 256)]
    for index, numbers in enumerate(shards):
        path = target / f"walk-train.{kind}-{index:05d}-of-{len(shards):05d}"
        contents = map(_example, numbers)
        if kind == "parquet":
            with pq.ParquetWriter(path, pa.schema([("data", pa.binary())])) as writer:
                for content in contents:
                    writer.write_table(pa.table({"data": [content]}))
        else:
            write_tfrecord(path, contents)
    split = {"name": "train", "shardLengths": [str(len(numbers)) for numbers in shards]}
    info = {"name": "walk", "version": "1.0.0", "fileFormat": kind, "splits": [split]}
    (target / "dataset_info.json").write_text(json.dumps(info))
    (target / "features.json").write_text(json.dumps(_dict({"steps": _STEPS})))


def rlds_parquet(target: Path, count: int) -> None:
    """Write RLDS steps as TFDS does, in Parquet."""
    rlds(target, count, kind="parquet")


#: Name → kind argument of `rlhive import`, and the function that writes the source.
SOURCES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "roboset": ("roboset", roboset),
    "d4rl": ("d4rl", d4rl),
    "minari, HDF5": ("minari", minari_hdf5),
    "minari, Arrow": ("minari", minari_arrow),
    "minari, Parquet": ("minari", minari_parquet),
    "lerobot": ("lerobot", lerobot),
    "rlds, TFRecord": ("rlds", rlds),
    "rlds, Parquet": ("rlds", rlds_parquet),
    "robomimic": ("robomimic", robomimic),
    "ogbench": ("ogbench", ogbench),
    "aloha": ("aloha", aloha),
    "diffusion_policy": ("diffusion_policy", diffusion_policy),
    "parquet": ("parquet", parquet),
}


def write_tfrecord(path: Path, contents: Iterator[bytes]) -> None:
    """Write a TFRecord file."""
    with path.open("wb") as file:
        for content in contents:
            for part in (struct.pack("<Q", len(content)), content):
                crc = google_crc32c.value(part)
                file.write(part + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF))


def _from_version(target: Path, count: int, kind: str, **options: object) -> None:
    """Export a temporary version, and from it the files of a format."""
    store = target.with_name(f"{target.name}-store")
    version = export(map(_record, range(count)), "lab/walk", license="mit", description="A walk.", store=store)
    export_to(kind, version, target, progress=False, **options)
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    store.rmdir()


def _record(number: int) -> EpisodeRecord:
    states, actions, rewards = episode(number)
    columns = {
        "action": actions,
        "next.reward": rewards[:, None],
        "next.terminated": np.zeros((LENGTH, 1), bool),
        "next.truncated": np.arange(LENGTH)[:, None] == LENGTH - 1,
        "observation": states[:-1],
    }
    return EpisodeRecord(number, "train", columns, {"observation": states[-1]}, seed=number)


def _example(number: int) -> bytes:
    """Return an episode as TFDS serialises it; the states are a tensor feature with encoding="bytes"."""
    states, actions, rewards = episode(number)
    message, _ = _tfrecord.build_example_class()
    example, last = message(), np.arange(LENGTH + 1) == LENGTH
    features = example.features.feature
    features["steps/observation"].bytes_list.value.extend(row.tobytes() for row in states)
    features["steps/action"].float_list.value.extend(np.pad(actions, ((0, 1), (0, 0))).ravel())
    features["steps/reward"].float_list.value.extend(np.pad(rewards, (0, 1)))
    features["steps/is_last"].int64_list.value.extend(last.astype(int))
    features["steps/is_terminal"].int64_list.value.extend(np.zeros(LENGTH + 1, int))
    return example.SerializeToString()


def _dict(features: dict[str, dict]) -> dict:
    return {"pythonClassName": "tfds.FeaturesDict", "featuresDict": {"features": features}}


def _tensor(dtype: str, *shape: int, encoding: str = "none") -> dict:
    sizes = {"dimensions": [str(size) for size in shape]}
    return {"pythonClassName": "tfds.Tensor", "tensor": {"dtype": dtype, "shape": sizes, "encoding": encoding}}


_STEPS = {
    "pythonClassName": "tfds.Dataset",
    "sequence": {
        "feature": _dict(
            {
                "observation": _tensor("float64", WIDTH, encoding="bytes"),
                "action": _tensor("float32", ACTIONS),
                "reward": _tensor("float32"),
                "is_last": _tensor("bool"),
                "is_terminal": _tensor("bool"),
            }
        )
    },
}
