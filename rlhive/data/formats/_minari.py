"""Minari's datasets, in its three storages, read into episodes.

::

    <dataset>/data/metadata.json              spaces, counts, env_spec, authors
    <dataset>/data/main_data.hdf5             groups episode_<id>: observations [T+1], actions [T], …, infos; or
    <dataset>/data/<id>/part-0.arrow|parquet  T+1 rows; the last of actions, rewards and ends is padding

    space       column                    space       column
    Box         array of its shape        Dict        observation.<key>
    Discrete    int64 []                  Tuple       observation.<position>
    Text        string []                 others      array of their shape
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED
from rlhive.data._schema import Schema
from rlhive.data.formats._column_values import cast_exactly, to_text
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode
from rlhive.data.formats._minari_storage import INFO, Tree, read_minari_episode
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._pictures import decode_pictures
from rlhive.data.formats._source_files import require_source_file
from rlhive.errors import SchemaMismatchError

#: What an episode holds.
_READ = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
#: Keys of metadata.json that go into the run's provenance.
_PROVENANCE_KEYS = (
    "dataset_id",
    "minari_version",
    "env_spec",
    "author",
    "author_email",
    "algorithm_name",
    "code_permalink",
)


def read_minari(source: Path, *, split: str = "train") -> EpisodeSource:
    """Read one Minari dataset, in HDF5, Arrow or Parquet.

    Kept: every observation with the true last one, actions, rewards, both ends, seeds (in the metadata where they are
    no int64, as half of those that Minari draws), reset options (as metadata), infos as ``info.<key>``, the spaces and
    the environment's specification (as provenance). Frames that Minari stored as JPEG are decoded; what JPEG lost is
    lost.

    Args:
        source: Folder of the dataset, ``…/door/human-v2`` for example, or its ``data`` folder.
        split: Name of the split for all episodes.

    Raises:
        SchemaMismatchError: The folder is no Minari dataset, or an episode does not have the lengths that Minari
            promises; the message names the episode.
        MissingExtraError: h5py is not installed and the storage is HDF5.

    Example:
        >>> read_minari(Path("~/.minari/datasets/door/human-v2").expanduser()).num_episodes  # doctest: +SKIP
        25
    """
    folder = _find_data_folder(source)
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    spaces = {name: json.loads(metadata[f"{name}_space"]) for name in ("observation", "action")}
    has_jpeg = bool(metadata.get("jpeg_encoding", True))
    num_episodes = int(metadata["total_episodes"])
    if not num_episodes:
        msg = f"{folder}: expected episodes, got none."
        raise SchemaMismatchError(msg)
    run = _describe_minari_run(metadata)

    def read_arrays(episode: int, keeps: Keeps) -> EpisodeArrays:
        content, attributes = read_minari_episode(folder, metadata["data_format"], episode)
        return _build_minari_arrays(content, attributes, spaces, has_jpeg, f"{folder}, episode {episode}", keeps)

    def pending() -> Iterator[PendingEpisode]:
        fields = {"split": split, "run": run["run"]}
        for episode in range(num_episodes):
            yield PendingEpisode(episode, f"{folder}, episode {episode}", partial(read_arrays, episode), fields)

    episodes = build_source(
        pending,
        runs=(run,),
        env_name=json.loads(metadata["env_spec"])["id"] if metadata.get("env_spec") else "",
        num_episodes=num_episodes,
    )
    jpeg_columns = _list_picture_columns(spaces) if has_jpeg else []
    return replace(episodes, notes=tuple(_describe_minari_losses(episodes.schema, jpeg_columns)))


def _find_data_folder(source: Path) -> Path:
    for folder in (source, source / "data"):
        if (folder / "metadata.json").is_file():
            require_source_file(source, folder / "metadata.json")
            return folder
    msg = f"{source}: expected a Minari dataset with data/metadata.json, got none."
    raise SchemaMismatchError(msg)


def _build_minari_arrays(
    content: Mapping[str, Any],
    attributes: Mapping[str, Any],
    spaces: Mapping[str, Any],
    has_jpeg: bool,
    context: str,
    keeps: Keeps,
) -> EpisodeArrays:
    states = dict(_space_columns(content["observations"], spaces["observation"], keys.OBSERVATION, has_jpeg, keeps))
    columns = dict(_space_columns(content["actions"], spaces["action"], keys.ACTION, has_jpeg, keeps))
    length = len(content["rewards"]) if "rewards" in content else len(next(iter(columns.values()), ()))
    wrong = {name: len(rows) for name, rows in states.items() if len(rows) != length + 1}
    wrong |= {name: len(rows) for name, rows in columns.items() if len(rows) != length}
    if wrong:
        counted = "rewards" if "rewards" in content else "actions"
        msg = f"{context}: expected {length + 1} observations for {length} {counted}, got {wrong}."
        raise SchemaMismatchError(msg)
    left_out = [f"{name} (not part of Minari's layout)" for name in content if name not in _READ]
    for name, rows in _info_columns(content.get("infos") or {}, INFO, keeps):
        if len(rows) in (length, length + 1):
            (columns if len(rows) == length else states)[name] = rows
        else:
            left_out.append(f"{name} ({len(rows)} rows for {length} actions)")
    for column, name in ((REWARD, "rewards"), (TERMINATED, "terminations"), (TRUNCATED, "truncations")):
        if name in content:
            columns[column] = np.asarray(content[name]).reshape(length, 1)
    columns |= {name: rows[:-1] for name, rows in states.items()}
    options = attributes.get("options")
    fields = {"seed": attributes.get("seed"), "metadata": {"options": options} if options else {}}
    final = {name: rows[-1] for name, rows in states.items()}
    return EpisodeArrays(columns, final, context, fields, left_out=tuple(left_out))


def _space_columns(
    tree: Tree, space: Mapping[str, Any], column: str, has_jpeg: bool, keeps: Keeps
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the columns of a space; a key with a dot gives an ambiguous column, which is refused later."""
    if space["type"] in ("Dict", "Tuple"):
        for name, subspace in _list_subspaces(space):
            yield from _space_columns(tree[name], subspace, f"{column}.{name}", has_jpeg, keeps)
    elif not keeps(column):
        return
    elif space["type"] == "Text":
        yield column, np.array([to_text(text) for text in tree], object)
    elif has_jpeg and _is_jpeg_space(space):
        yield column, np.stack(decode_pictures((bytes(frame) for frame in tree), context=column))
    elif space["type"] == "Discrete":
        rows = np.asarray(tree).reshape(-1)
        yield column, cast_exactly(rows, np.dtype(np.int64), column) if rows.dtype.kind in "bif" else rows
    else:
        shape = space.get("shape") or (
            np.shape(space["nvec"]) if "nvec" in space else _binary_sizes(space.get("n", ()))
        )
        rows = np.asarray(tree)
        fits = math.prod(rows.shape[1:]) == math.prod(shape)  # otherwise the file wins
        yield column, rows.reshape(len(rows), *shape) if fits else rows


def _list_subspaces(space: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the keys of a Dict, or the positions of a Tuple, with their spaces."""
    subspaces = space["subspaces"]
    items = subspaces.items() if space["type"] == "Dict" else enumerate(subspaces)
    return [(str(name), subspace) for name, subspace in items]


def _binary_sizes(n: Any) -> tuple[int, ...]:
    """Return the shape of a MultiBinary space from its ``n``."""
    return tuple(n) if isinstance(n, (list, tuple)) else (int(n),)


def _info_columns(tree: Mapping[str, Tree], prefix: str, keeps: Keeps) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the infos, numbers and texts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _info_columns(value, f"{prefix}.{name}", keeps)
        elif np.ndim(value) and keeps(f"{prefix}.{name}"):
            yield f"{prefix}.{name}", np.asarray(value)


def _is_jpeg_space(space: Mapping[str, Any]) -> bool:
    """Return whether Minari stores a space as JPEG: uint8, two or three dimensions, at least 32 by 32, 0 to 255."""
    shape = space.get("shape", ())
    return (
        space["type"] == "Box"
        and space["dtype"] == "uint8"
        and len(shape) in (2, 3)
        and min(shape[:2]) >= 32
        and not np.any(space["low"])
        and bool(np.all(np.asarray(space["high"]) == 255))
    )


def _list_picture_columns(spaces: Mapping[str, Any]) -> list[str]:
    def walk(space: Mapping[str, Any], column: str) -> Iterator[str]:
        if space["type"] in ("Dict", "Tuple"):
            for name, subspace in _list_subspaces(space):
                yield from walk(subspace, f"{column}.{name}")
        elif _is_jpeg_space(space):
            yield column

    return [column for name, space in spaces.items() for column in walk(space, name)]


def _describe_minari_run(metadata: Mapping[str, Any]) -> dict[str, Any]:
    spaces = {name: metadata[name] for name in ("observation_space", "action_space")}
    provenance = {key: metadata[key] for key in _PROVENANCE_KEYS if metadata.get(key)}
    return {"run": "minari", "imported_from": f"minari-{metadata['data_format']}", **provenance, **spaces}


def _describe_minari_losses(schema: Schema, jpeg_columns: list[str]) -> Iterator[str]:
    if jpeg_columns:
        yield f"JPEG pictures, decoded: {', '.join(jpeg_columns)}"
    if not any(column.startswith(f"{INFO}.") for column in schema.columns):
        yield "no infos in the files"
