"""A version, written as a Minari dataset in HDF5; the layout is drawn in :mod:`~rlhive.data.formats._minari`."""

import json
import math
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data import _store
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.formats._hdf5_writer import Hdf5Writer
from rlhive.data.formats._minari_storage import HDF5_FILE, INFO
from rlhive.data.versions import Manifest
from rlhive.errors import UnsupportedFormatError

_MINARI_VERSION = "0.5.4"
_STEP_DATASETS = {REWARD: "rewards", TERMINATED: "terminations", TRUNCATED: "truncations"}


def write_minari(
    manifest: Manifest, records: Iterable[EpisodeRecord], target: Path, *, dataset_id: str | None = None
) -> None:
    """Write episodes as a Minari dataset in HDF5.

    Kept: every value, seeds, and metadata as reset options. Minari has no splits and no start states: the split
    becomes a reset option of its episode, start states are left out. Episodes are numbered from 0.

    Args:
        manifest: Manifest of the version.
        records: Its episodes.
        target: Folder to create; it must not exist.
        dataset_id: Minari's id of the dataset; ``<namespace>/<name>-v<major>`` by default.

    Raises:
        DatasetExistsError: The target exists.
        MissingExtraError: h5py is not installed.
        UnsupportedFormatError: No reward was recorded, which every Minari episode holds.
    """
    if REWARD not in manifest.schema.columns:
        msg = (
            f"{manifest.name} {manifest.version}: Minari's episodes hold rewards, and none were recorded. Export to "
            f"lerobot, or add rewards first: add_column({REWARD!r}, …)."
        )
        raise UnsupportedFormatError(msg)
    spaces = _build_spaces(manifest)
    env_specs = [run["env_spec"] for run in manifest.runs if run.get("env_spec")]
    with _store.atomic_dir(target) as partial:
        folder = partial / "data"
        folder.mkdir()
        num_episodes, num_steps = 0, 0
        with Hdf5Writer(folder / HDF5_FILE) as h5:
            for record in records:
                group = h5.create_group(f"episode_{num_episodes}")
                _write_episode_group(group, record, manifest.schema, spaces, num_episodes)
                num_episodes += 1
                num_steps += record.length
        metadata = {
            "total_episodes": num_episodes,
            "total_steps": num_steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": json.dumps(spaces["observation"]),
            "action_space": json.dumps(spaces["action"]),
            "dataset_id": dataset_id or f"{manifest.name}-v{manifest.version.split('.')[0]}",
            "minari_version": _MINARI_VERSION,
            "description": f"{manifest.description} {manifest.name} {manifest.version}, {manifest.fingerprint}",
            **({"env_spec": env_specs[-1]} if env_specs else {}),
        }
        (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _build_spaces(manifest: Manifest) -> dict[str, Any]:
    """Return the two spaces: those of the Minari dataset that the version was imported from, or by dtype and shape."""
    for run in manifest.runs:
        if "observation_space" in run and "action_space" in run:
            return {name: json.loads(run[f"{name}_space"]) for name in ("observation", "action")}
    return {name: _build_space(manifest.schema, name) for name in (keys.OBSERVATION, keys.ACTION)}


def _build_space(schema: Schema, root_column: str) -> dict[str, Any]:
    fields = [item for item in schema.fields if item.column.split(".")[0] == root_column]
    if len(fields) == 1 and fields[0].column == root_column:
        return _build_leaf_space(fields[0])
    root: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for item in fields:
        node = root
        *parents, last = item.column.split(".")[1:]
        for parent in parents:
            node = node["subspaces"].setdefault(parent, {"type": "Dict", "subspaces": {}})
        node["subspaces"][last] = _build_leaf_space(item)
    return root


def _build_leaf_space(item: Field) -> dict[str, Any]:
    if item.is_string:
        return {"type": "Text", "max_length": 2**16, "min_length": 0, "charset": string.printable}
    low, high = _dtype_bounds(item.dtype)
    shape = list(item.shape)
    bounds = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": item.dtype, "shape": shape, **bounds}


def _dtype_bounds(dtype: str) -> tuple[float, float]:
    if dtype == "bool":
        return 0, 1
    if np.issubdtype(np.dtype(dtype), np.floating):
        return -math.inf, math.inf
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _write_episode_group(
    group: Any, record: EpisodeRecord, schema: Schema, spaces: Mapping[str, Any], episode: int
) -> None:
    group.attrs.update({"id": episode, "total_steps": record.length})
    seed = record.metadata.get("seed") if record.seed is None else record.seed
    if isinstance(seed, int):
        group.attrs["seed"] = np.uint64(seed) if 2**63 <= seed < 2**64 else seed
    options = {**record.metadata.get("options", {}), "split": record.split}
    group.attrs.update({f"options/{name}": value for name, value in options.items()})
    for item in schema.fields:
        rows = record.columns[item.column]
        if item.observed:
            rows = np.concatenate([rows, np.asarray(record.final[item.column], rows.dtype)[None]])
        root, *inner = item.column.split(".")
        if item.column in _STEP_DATASETS:
            group[_STEP_DATASETS[item.column]] = rows.reshape(-1)
        elif root in (keys.OBSERVATION, keys.ACTION):
            _write_dataset(group, _locate_in_space(f"{root}s", inner, spaces[root]), rows, item)
        else:
            _write_dataset(group, "/".join(["infos", *(inner if root == INFO else [root, *inner])]), rows, item)


def _locate_in_space(root: str, inner: list[str], space: Mapping[str, Any]) -> str:
    """Return the HDF5 path of a column; Minari names the positions of a Tuple ``_index_<i>``."""
    parts = [root]
    for name in inner:
        is_tuple = space["type"] == "Tuple"
        parts.append(f"_index_{name}" if is_tuple else name)
        space = space["subspaces"][int(name) if is_tuple else name]
    return "/".join(parts)


def _write_dataset(group: Any, path: str, rows: np.ndarray, item: Field) -> None:
    content = [text.encode() for text in rows.tolist()] if item.is_string else rows
    group.create_dataset(path, data=content)
