"""Small sources of every format with columns of any kind, written here, value by value."""

import io
import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def write_minari(folder, episodes, *, observation=None, storage="hdf5"):
    """Write Minari's HDF5; an episode is a dictionary of arrays by path, with the attributes as ``seed``."""
    data = folder / "data"
    data.mkdir(parents=True)
    shape = list(np.shape(episodes[0]["observations"])[1:])
    spaces = {
        "observation_space": observation or {"type": "Box", "dtype": "float32", "shape": shape, "low": 0, "high": 1},
        "action_space": {"type": "Box", "dtype": "float32", "shape": [2], "low": 0, "high": 1},
    }
    metadata = {"total_episodes": len(episodes), "data_format": storage, "jpeg_encoding": False}
    metadata |= {name: json.dumps(space) for name, space in spaces.items()}
    (data / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(data / "main_data.hdf5", "w") as h5:
        for number, episode in enumerate(episodes):
            group = h5.create_group(f"episode_{number}")
            for path, values in episode.items():
                if path == "seed":
                    group.attrs["seed"] = values
                else:
                    group[path] = values
    return folder


def minari_episode(length=3, *, first=0.0, **others):
    """Return an episode whose numbers start at ``first``."""
    return {
        "observations": (first + np.arange((length + 1) * 2)).reshape(-1, 2).astype(np.float32),
        "actions": np.full((length, 2), first, np.float32),
        "rewards": first + np.arange(length, dtype=np.float64),
        "terminations": np.zeros(length, bool),
        "truncations": np.arange(length) == length - 1,
        **others,
    }


def write_d4rl(path, lengths=(3, 2), **others):
    """Write D4RL's HDF5 with time-outs and next observations; ``others`` are further datasets by path."""
    num_rows = sum(lengths)
    states = np.arange((num_rows + 1) * 2, dtype=np.float32).reshape(-1, 2)
    ends = np.zeros(num_rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    arrays = {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": np.zeros((num_rows, 1), np.float32),
        "rewards": np.arange(num_rows, dtype=np.float32),
        "terminals": np.zeros(num_rows, bool),
        "timeouts": ends,
    } | others
    with h5py.File(path, "w") as h5:
        for name, values in arrays.items():
            h5[name] = values
    return path


def write_lerobot(folder, episodes, features, *, by_file=None):
    """Write LeRobot v2.1.

    Args:
        folder: The folder.
        episodes: Arrow arrays, or what makes one, by feature.
        features: dtype and shape of every feature.
        by_file: Names of the columns that stand in the files; those of the episode by default.
    """
    rows = []
    for number, columns in enumerate(episodes):
        arrays = {name: pa.array(values) if isinstance(values, list) else values for name, values in columns.items()}
        length = len(next(iter(arrays.values())))
        index = {
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / 10),
            "frame_index": pa.array(range(length)),
            "episode_index": pa.array([number] * length),
            "index": pa.array(range(length)),
            "task_index": pa.array([0] * length),
        }
        path = folder / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(index | arrays), path)
        rows.append({"episode_index": number, "tasks": ["pick"], "length": length})
    declared = {
        name: {"dtype": dtype, "shape": list(shape), "names": None} for name, (dtype, shape) in features.items()
    }
    declared |= {name: {"dtype": "int64", "shape": [1]} for name in INDICES}
    declared["timestamp"] = {"dtype": "float32", "shape": [1]}
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 1000, "features": declared}
    (folder / "meta").mkdir()
    (folder / "meta/info.json").write_text(json.dumps(info))
    for name, lines in (("episodes", rows), ("tasks", [{"task_index": 0, "task": "pick"}])):
        (folder / f"meta/{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def lerobot_episode(length=4, **others):
    """Return the features of an episode: a state of two numbers, an action, and others."""
    return {
        "observation.state": list(np.arange(length * 2, dtype=np.float32).reshape(-1, 2)),
        "action": list(np.zeros((length, 1), np.float32)),
        **others,
    }


INDICES = ("frame_index", "episode_index", "index", "task_index")
PLAIN = {"observation.state": ("float32", [2]), "action": ("float32", [1])}


def write_roboset(path, trials):
    """Write a log of RoboHive, state-aligned: T + 1 rows and a closing action of NaN; trials by path and values."""
    with h5py.File(path, "w") as h5:
        for number, others in enumerate(trials):
            length = others.pop("length", 3)
            group = h5.create_group(f"Trial{number}")
            rows = np.arange((length + 1) * 2, dtype=np.float64).reshape(-1, 2)
            group["observations"], group["time"] = rows, np.arange(length + 1) * 0.1
            actions = np.full((length + 1, 1), 0.5)
            actions[-1] = np.nan
            group["actions"], group["rewards"] = actions, np.arange(length + 1, dtype=np.float64)
            for name, values in others.items():
                if name in group:
                    del group[name]
                group[name] = values
    return path


def encode(picture, mode=None, kind="PNG", **options):
    """Return a picture of an array or an image as the content of a file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture, mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_palette(indices, colours):
    """Return a PNG of palette indices ``[H, W]`` and colours ``[n, 3]``."""
    image = Image.fromarray(np.asarray(indices, np.uint8), "P")
    image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    return encode(image)


def to_pictures(contents):
    """Return pictures as LeRobot stores them."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], struct)
