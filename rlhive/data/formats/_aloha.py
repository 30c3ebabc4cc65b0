"""ALOHA's and ACT's folders of episode_<n>.hdf5, read into episodes.

::

    action [T, A]                         action
    observations/<name> [T, …]            observation.<name>: qpos, qvel, effort
    observations/images/<camera>          pixels.<camera>: uint8 [T, H, W, 3]; or compressed, uint8 [T, bytes], each a
                                          JPEG or PNG file that zeros fill up
    <path> [T, …]                         info.<path>: base_action
    attributes                            the metadata: sim, compress

A row holds a state and the action taken in it, so the state after the last action is not in the files: the last row
gives the final observation, without its action. The files have neither rewards nor ends.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data.formats._column_values import to_text
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode
from rlhive.data.formats._hdf5 import Hdf5File, open_hdf5
from rlhive.data.formats._hdf5_dataset import Hdf5Dataset
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._pictures import decode_pictures, stack_pictures
from rlhive.data.formats._source_files import list_source_files
from rlhive.errors import SchemaMismatchError

_EPISODE = re.compile(r"episode_([0-9]{1,18})\.(?:hdf5|h5)")  # an episode id has 64 bits
_IMAGES, _OBSERVATIONS, _ACTION = "observations/images/", "observations/", "action"
#: Sizes of the compressed pictures; the pictures end by themselves.
_SIZES = ("compress_len",)


def read_aloha(source: Path, *, split: str = "train", swap_colours: bool = False) -> EpisodeSource:
    """Read one file, or every ``episode_<n>.hdf5`` of a folder, in the order of their numbers.

    Args:
        source: File or folder.
        split: Name of the split for all episodes.
        swap_colours: Whether red and blue are exchanged, for pictures that were stored as OpenCV has them; depth stays
            as it is. JPEG files that OpenCV wrote from such pictures have the right colours without it.

    Returns:
        The episodes, by the numbers of their files; ends are not recorded.

    Raises:
        SchemaMismatchError: A file has another layout, or a picture cannot be decoded.
        MissingExtraError: h5py, or Pillow for compressed pictures, is not installed.

    Example:
        >>> read_aloha(Path("sim_transfer_cube_scripted")).num_episodes  # doctest: +SKIP
        50
    """
    files = _number_episode_files(source)
    if not files:
        msg = f"{source}: expected files episode_0.hdf5, episode_1.hdf5, …, got none."
        raise SchemaMismatchError(msg)

    def pending() -> Iterator[PendingEpisode]:
        for episode, file in files.items():
            read = partial(_read_episode_file, file, swap_colours)
            yield PendingEpisode(episode, str(file), read, {"split": split, "run": "aloha"})

    run = {"run": "aloha", "imported_from": "aloha-hdf5"}
    notes = ["the last row of an episode is its final observation; rewards and ends are not recorded"]
    notes += ["red and blue are exchanged in the pictures"] if swap_colours else []
    return build_source(pending, runs=(run,), num_episodes=len(files), notes=tuple(notes))


def _number_episode_files(source: Path) -> dict[int, Path]:
    if not source.is_dir():
        if not source.is_file():
            msg = f"{source}: expected a folder of episode_0.hdf5, …, or one such file, got no such path."
            raise SchemaMismatchError(msg)
        match = _EPISODE.fullmatch(source.name)
        return {int(match[1]) if match else 0: source}
    files: dict[int, Path] = {}
    for file in list_source_files(source, "episode_*.h*5"):
        match = _EPISODE.fullmatch(file.name)
        if match is None:
            continue
        number = int(match[1])
        if number in files:
            msg = f"{source}: expected one file of episode {number}, got {files[number].name} and {file.name}."
            raise SchemaMismatchError(msg)
        files[number] = file
    return dict(sorted(files.items()))


def _read_episode_file(file: Path, swap_colours: bool, keeps: Keeps) -> EpisodeArrays:
    with open_hdf5(file) as h5:
        h5.require_bounded()
        datasets = h5.find_datasets()
        if _ACTION not in datasets or not any(path.startswith(_OBSERVATIONS) for path in datasets):
            msg = (
                f"{file}: expected ALOHA's action and observations, got {', '.join(sorted(datasets)) or 'no dataset'}."
            )
            raise SchemaMismatchError(msg)
        length = len(datasets[_ACTION])
        columns, origins, left_out = {}, {}, []
        for path, item in sorted(datasets.items()):
            column = _name_aloha_column(path)
            if path in _SIZES:
                continue
            if item.shape[:1] != (length,):
                left_out.append(f"{path}, which has no row for each action")
            elif keeps(path, column):
                columns[column] = _read_camera(item, swap_colours) if path.startswith(_IMAGES) else np.asarray(item)
                origins[column] = path
        metadata = {"file": file.name, **_read_flat_attributes(h5)}
    return EpisodeArrays(
        columns, {}, str(file), {"metadata": metadata}, has_frames=True, left_out=tuple(left_out), origins=origins
    )


def _name_aloha_column(path: str) -> str:
    name = path.replace("/", ".")
    if path.startswith(_IMAGES):
        return f"{keys.PIXELS}.{name.removeprefix('observations.images.')}"
    if path.startswith(_OBSERVATIONS):
        return f"{keys.OBSERVATION}.{name.removeprefix('observations.')}"
    return keys.ACTION if path == _ACTION else f"info.{name}"


def _read_camera(item: Hdf5Dataset, swap_colours: bool) -> np.ndarray:
    """Return the pictures of a camera, ``[T, H, W, 3]``; depth is ``[T, H, W]``."""
    rows = np.asarray(item)
    if rows.ndim <= 2:  # compressed: lists of bytes, or rows of one width
        contents = [np.asarray(row, np.uint8).tobytes().rstrip(b"\0") for row in rows]
        rows = stack_pictures(decode_pictures(contents, context=item.context), context=item.context)
    has_colours = rows.ndim == 4 and rows.shape[-1] == 3
    return np.ascontiguousarray(rows[..., ::-1]) if swap_colours and has_colours else rows


def _read_flat_attributes(h5: Hdf5File) -> dict[str, Any]:
    """Return the attributes of the file that are texts, flags and finite numbers."""
    attributes: dict[str, Any] = {}
    for name, value in h5.attrs.items():
        item = value.item() if isinstance(value, np.generic) else value
        if isinstance(item, str | bytes):
            attributes[name] = to_text(item)
        elif isinstance(item, bool | int | float) and abs(item) < float("inf"):
            attributes[name] = item
    return attributes
