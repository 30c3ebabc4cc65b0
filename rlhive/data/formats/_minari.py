"""Minari's datasets, in its three storages → episodes; and a version → a Minari dataset in HDF5.

::

    <dataset>/data/metadata.json              spaces, counts, env_spec, authors
    <dataset>/data/main_data.hdf5             groups episode_<id>: observations [T+1], actions [T], …, infos; or
    <dataset>/data/<id>/part-0.arrow|parquet  rows T+1, the last of actions, rewards and ends is padding

    space       column                    space       column
    Box         array of its shape        Dict        observation.<key>
    Discrete    int64 []                  Tuple       observation.<position>
    Text        string []                 others      array of their shape
"""

import json
import math
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from rlhive import keys
from rlhive.data import _store
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.formats._hdf5 import create_hdf5, open_hdf5
from rlhive.data.formats._imported import Imported, record_of, schema_of
from rlhive.data.formats._pictures import decoded
from rlhive.data.versions import Manifest
from rlhive.errors import SchemaMismatch

_FILE = "main_data.hdf5"
_INFO = "info"
_MINARI_VERSION = "0.5.4"
#: What of the metadata goes into the run's provenance.
_TOLD = ("dataset_id", "minari_version", "env_spec", "author", "author_email", "algorithm_name", "code_permalink")

Tree = Any


def read(source: str | Path, *, split: str = "train") -> Imported:
    """Read one Minari dataset, in HDF5, Arrow or Parquet.

    Kept: every observation with the true last one, actions, rewards, both ends, seeds, reset options (as metadata),
    infos as ``info.<key>``, the spaces and the environment's specification (as provenance). Frames that Minari stored
    as JPEG are decoded; what JPEG lost is lost.

    Args:
        source: Folder of the dataset, ``…/door/human-v2`` for example, or its ``data`` folder.
        split: Name of the split that all episodes go to.

    Raises:
        SchemaMismatch: It is no such folder, or an episode does not have the lengths that Minari promises; the message
            names the episode.
        MissingExtra: h5py is not installed and the storage is HDF5.

    Example:
        >>> read("~/.minari/datasets/door/human-v2").num_episodes  # doctest: +SKIP
        25
    """
    folder = _data_folder(Path(source).expanduser())
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    spaces = {name: json.loads(metadata[f"{name}_space"]) for name in ("observation", "action")}
    images = bool(metadata.get("jpeg_encoding", True))
    count = int(metadata["total_episodes"])
    if not count:
        msg = f"{folder}: expected episodes, got none. Give another dataset."
        raise SchemaMismatch(msg)
    run = _run(folder, metadata)

    def arrays(episode: int) -> tuple[dict, dict, dict]:
        return _columns(
            _episode(folder, metadata["data_format"], episode), spaces, images, f"{folder}, episode {episode}"
        )

    schema = schema_of(*arrays(0)[:2])

    def records() -> Iterator[EpisodeRecord]:
        for episode in range(count):
            columns, final, told = arrays(episode)
            where = f"{folder}, episode {episode}"
            yield record_of(columns, final, schema, where=where, episode=episode, split=split, run=run["run"], **told)

    lossy = [f"JPEG pictures, decoded: {', '.join(names)}"] if images and (names := _pictures(spaces)) else []
    env_name = json.loads(metadata["env_spec"])["id"] if metadata.get("env_spec") else ""
    return Imported(
        schema, records, runs=(run,), env_name=env_name, num_episodes=count, notes=(*lossy, *_dropped(schema))
    )


def write(manifest: Manifest, records: Iterable[EpisodeRecord], target: Path, *, dataset_id: str | None = None) -> None:
    """Write episodes as a Minari dataset in HDF5.

    Kept: every value, seeds, and metadata as reset options. Splits and start states have no place in Minari: the split
    goes into the options of its episode, start states are left out. Episodes are numbered from 0.

    Args:
        manifest: Of the version.
        records: Its episodes.
        target: Folder that becomes the dataset; it must not exist.
        dataset_id: Minari's name of the dataset; ``<namespace>/<name>-v<major>`` by default.

    Raises:
        DatasetExists: The target is there.
        MissingExtra: h5py is not installed.
    """
    spaces = _spaces(manifest)
    with _store.publishing(Path(target)) as partial:
        folder = partial / "data"
        folder.mkdir()
        with create_hdf5(folder / _FILE) as h5:
            steps, episodes = 0, 0
            for record in records:
                _write_episode(h5.create_group(f"episode_{episodes}"), record, manifest.schema, spaces, episodes)
                episodes, steps = episodes + 1, steps + record.length
        metadata = {
            "total_episodes": episodes,
            "total_steps": steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": json.dumps(spaces["observation"]),
            "action_space": json.dumps(spaces["action"]),
            "dataset_id": dataset_id or f"{manifest.name}-v{manifest.version.split('.')[0]}",
            "minari_version": _MINARI_VERSION,
            "description": f"{manifest.description} {manifest.name} {manifest.version}, {manifest.fingerprint}",
            **{key: run[key] for run in manifest.runs for key in ("env_spec",) if run.get(key)},
        }
        (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


# --- reading ---


def _data_folder(source: Path) -> Path:
    for folder in (source, source / "data"):
        if (folder / "metadata.json").is_file():
            return folder
    msg = f"{source}: expected a Minari dataset with data/metadata.json, got none. Give the dataset's folder."
    raise SchemaMismatch(msg)


def _episode(folder: Path, storage: str, episode: int) -> dict[str, Any]:
    """Return an episode as nested dicts of arrays, with its own metadata as "told"; nothing is decoded yet."""
    if storage == "hdf5":
        with open_hdf5(folder / _FILE) as h5:
            group = h5[f"episode_{episode}"]
            return {**_from_hdf5(group), "told": _unflattened(dict(group.attrs))}
    if storage not in ("arrow", "parquet"):
        msg = f"{folder}: expected a data_format of hdf5, arrow or parquet, got {storage!r}."
        raise SchemaMismatch(msg)
    path = folder / str(episode)
    table = pa.concat_tables([_read_part(part) for part in sorted(path.glob(f"part-*.{storage}"))]).combine_chunks()
    told = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    length = told["total_steps"]
    content = {name: _from_arrow(table.column(name).combine_chunks()) for name in table.column_names}
    padded = {"actions", "rewards", "terminations", "truncations"}
    return {name: _cut(value, length) if name in padded else value for name, value in content.items()} | {"told": told}


def _read_part(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read()
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _from_hdf5(group: Any) -> dict[str, Tree]:
    return {
        name.removeprefix("_index_"): _from_hdf5(item) if hasattr(item, "keys") else item[()]
        for name, item in group.items()
    }


def _from_arrow(array: pa.Array, metadata: Mapping[bytes, bytes] | None = None) -> Tree:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_struct(array.type):
        parts = zip(array.type, array.flatten(), strict=True)
        return {field.name: _from_arrow(part, field.metadata) for field, part in parts}
    if pa.types.is_fixed_size_list(array.type):
        # Only infos carry their shape; that of observations and actions is in their space.
        shape = [array.type.list_size]
        if metadata and b"shape" in metadata:
            shape = [int(size) for size in metadata[b"shape"].split(b",") if size]
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)
    return np.array(array.to_pylist(), object) if not _is_number(array.type) else array.to_numpy(zero_copy_only=False)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _cut(tree: Tree, length: int) -> Tree:
    return {name: _cut(value, length) for name, value in tree.items()} if isinstance(tree, dict) else tree[:length]


def _columns(content: dict[str, Any], spaces: Mapping[str, Any], images: bool, where: str) -> tuple[dict, dict, dict]:
    """Return the columns, the final values, and the record's further fields of an episode."""
    states = dict(_leaves(content["observations"], spaces["observation"], keys.OBSERVATION, images))
    columns = dict(_leaves(content["actions"], spaces["action"], keys.ACTION, images))
    length = len(content["rewards"])
    infos = dict(_flat(content.get("infos") or {}, _INFO))
    states |= {name: rows for name, rows in infos.items() if len(rows) == length + 1}
    columns |= {name: rows for name, rows in infos.items() if len(rows) == length}
    wrong = {name: len(rows) for name, rows in states.items() if len(rows) != length + 1}
    wrong |= {name: len(rows) for name, rows in columns.items() if len(rows) != length}
    if wrong or not length:
        msg = f"{where}: expected {length + 1} observations for {length} rewards, got {wrong}. Leave the episode out."
        raise SchemaMismatch(msg)
    for column, name in ((REWARD, "rewards"), (TERMINATED, "terminations"), (TRUNCATED, "truncations")):
        columns[column] = np.asarray(content[name]).reshape(length, 1)
    columns |= {name: rows[:-1] for name, rows in states.items()}
    seed, options = content["told"].get("seed"), content["told"].get("options")
    told = {"seed": None if seed is None else int(seed), "metadata": {"options": options} if options else {}}
    return columns, {name: rows[-1] for name, rows in states.items()}, told


def _leaves(tree: Tree, space: Mapping[str, Any], column: str, images: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the columns of a space; a space's key with a dot cannot be told from two and is refused later."""
    if space["type"] in ("Dict", "Tuple"):
        inner = space["subspaces"]
        for name, subspace in inner.items() if space["type"] == "Dict" else enumerate(inner):
            yield from _leaves(tree[str(name)], subspace, f"{column}.{name}", images)
    elif space["type"] == "Text":
        yield column, np.array([text if isinstance(text, str) else text.decode() for text in tree], object)
    elif images and _is_picture(space):
        yield column, np.stack([decoded(bytes(frame), where=column) for frame in tree])
    elif space["type"] == "Discrete":
        yield column, np.asarray(tree).reshape(-1).astype(np.int64)
    else:
        shape = space.get("shape") or np.shape(space.get("nvec", np.zeros(_sizes(space.get("n", ())))))
        rows = np.asarray(tree)
        yield column, rows.reshape(len(rows), *shape)


def _sizes(n: Any) -> tuple[int, ...]:
    return tuple(n) if isinstance(n, (list, tuple)) else (int(n),)


def _flat(tree: Mapping[str, Tree], above: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}.{name}")
        elif np.asarray(value).dtype.kind in "fiub":
            yield f"{above}.{name}", np.asarray(value)


def _is_picture(space: Mapping[str, Any]) -> bool:
    """Whether Minari stores a space as JPEG: 8-bit, two or three dimensions, at least 32 by 32, from 0 to 255."""
    shape = space.get("shape", ())
    return (
        space["type"] == "Box"
        and space["dtype"] == "uint8"
        and len(shape) in (2, 3)
        and min(shape[:2]) >= 32
        and not np.any(space["low"])
        and bool(np.all(np.asarray(space["high"]) == 255))
    )


def _pictures(spaces: Mapping[str, Any]) -> list[str]:
    def walk(space: Mapping[str, Any], column: str) -> Iterator[str]:
        if space["type"] in ("Dict", "Tuple"):
            inner = space["subspaces"]
            for name, subspace in inner.items() if isinstance(inner, dict) else enumerate(inner):
                yield from walk(subspace, f"{column}.{name}")
        elif _is_picture(space):
            yield column

    return [column for name, space in spaces.items() for column in walk(space, name)]


def _unflattened(attributes: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in attributes.items():
        *above, last = name.split("/")
        node = told
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value.tolist() if hasattr(value, "tolist") else value
    return told


def _run(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    spaces = {name: metadata[name] for name in ("observation_space", "action_space")}
    told = {key: metadata[key] for key in _TOLD if metadata.get(key)}
    return {"run": "minari", "imported_from": f"minari-{metadata['data_format']}", **told, **spaces}


def _dropped(schema: Schema) -> Iterator[str]:
    if not any(column.startswith(f"{_INFO}.") for column in schema.columns):
        yield "no infos in the files"


# --- writing ---


def _spaces(manifest: Manifest) -> dict[str, Any]:
    """Return the two spaces: as a Minari dataset had them that this version came from, or by dtypes and shapes."""
    for run in manifest.runs:
        if "observation_space" in run and "action_space" in run:
            return {name: json.loads(run[f"{name}_space"]) for name in ("observation", "action")}
    return {name: _space_of(manifest.schema, name) for name in (keys.OBSERVATION, keys.ACTION)}


def _space_of(schema: Schema, column: str) -> dict[str, Any]:
    parts = [item for item in schema.fields if item.column.split(".")[0] == column]
    if len(parts) == 1 and parts[0].column == column:
        return _leaf_space(parts[0])
    root: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for item in parts:
        node = root
        *above, last = item.column.split(".")[1:]
        for part in above:
            node = node["subspaces"].setdefault(part, {"type": "Dict", "subspaces": {}})
        node["subspaces"][last] = _leaf_space(item)
    return root


def _leaf_space(item: Field) -> dict[str, Any]:
    if item.is_string:
        return {"type": "Text", "max_length": 2**16, "min_length": 0, "charset": string.printable}
    low, high = _bounds(item.dtype)
    shape = list(item.shape)
    ends = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": item.dtype, "shape": shape, **ends}


def _bounds(dtype: str) -> tuple[float, float]:
    if dtype == "bool":
        return 0, 1
    if np.issubdtype(np.dtype(dtype), np.floating):
        return -math.inf, math.inf
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _write_episode(group: Any, record: EpisodeRecord, schema: Schema, spaces: Mapping[str, Any], episode: int) -> None:
    group.attrs.update({"id": episode, "total_steps": record.length})
    if record.seed is not None:
        group.attrs["seed"] = record.seed
    options = {**record.metadata.get("options", {}), "split": record.split}
    group.attrs.update({f"options/{name}": value for name, value in options.items()})
    names = {REWARD: "rewards", TERMINATED: "terminations", TRUNCATED: "truncations"}
    for item in schema.fields:
        rows = record.columns[item.column]
        if item.observed:
            rows = np.concatenate([rows, np.asarray(record.final[item.column], rows.dtype)[None]])
        root, *inner = item.column.split(".")
        if item.column in names:
            group[names[item.column]] = rows.reshape(-1)
        elif root in (keys.OBSERVATION, keys.ACTION):
            _put(group, _path(f"{root}s", inner, spaces[root]), rows, item)
        else:
            _put(group, "/".join(["infos", *(inner if root == _INFO else [root, *inner])]), rows, item)


def _path(root: str, inner: list[str], space: Mapping[str, Any]) -> str:
    """Return where Minari keeps a leaf; the positions of a Tuple are called ``_index_<i>``."""
    parts = [root]
    for name in inner:
        is_tuple = space["type"] == "Tuple"
        parts.append(f"_index_{name}" if is_tuple else name)
        space = space["subspaces"][int(name) if is_tuple else name]
    return "/".join(parts)


def _put(group: Any, path: str, rows: np.ndarray, item: Field) -> None:
    content = [text.encode() for text in rows.tolist()] if item.is_string else rows
    group.create_dataset(path, data=content)
