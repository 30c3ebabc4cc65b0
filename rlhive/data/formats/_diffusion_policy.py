"""Diffusion Policy's replay buffers in zarr, read into episodes.

::

    data/action [N, A]                    action
    data/<name> [N, …]                    observation, or observation.<name> where there are several; pixels.<name> for
                                          pictures: of 8 bits, or whole numbers from 0 to 255 in floats
    data/reward, data/done [N]            next.reward, next.done, also in the plural
    meta/episode_ends [E]                 the row after the last one of each episode

A row holds a state and the action taken in it, so the state after the last action is not in the files: the last row
gives the final observation, without its action.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, Columns
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode
from rlhive.data.formats._memory_limits import MemoryBudget
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._transitions import DONE
from rlhive.data.formats._zarr import ZarrArray, open_zarr
from rlhive.errors import SchemaMismatchError

_DATA, _ENDS = "data/", "meta/episode_ends"
_NAMES = {
    "action": keys.ACTION,
    "actions": keys.ACTION,
    "reward": REWARD,
    "rewards": REWARD,
    "done": DONE,
    "dones": DONE,
}


def read_diffusion_policy(source: Path, *, split: str = "train") -> EpisodeSource:
    """Read a replay buffer: a folder ``*.zarr`` or a file ``*.zarr.zip``, of zarr v2.

    Args:
        source: Folder or file.
        split: Name of the split for all episodes.

    Raises:
        SchemaMismatchError: It is no such store, its episode_ends and arrays do not agree, or a chunk is damaged.
        MissingExtraError: numcodecs, for Blosc, is not installed.

    Example:
        >>> read_diffusion_policy(Path("pusht_cchi_v7_replay.zarr")).num_episodes  # doctest: +SKIP
        206
    """
    with open_zarr(source) as arrays:
        ends = _read_ends(arrays, source)
    starts = [0, *ends[:-1]]

    def pending() -> Iterator[PendingEpisode]:
        with open_zarr(source) as arrays:
            for episode, (start, stop) in enumerate(zip(starts, ends, strict=True)):
                context = f"{source}, episode {episode}"
                read = partial(_read_zarr_rows, arrays, start, stop, context)
                yield PendingEpisode(episode, context, read, {"split": split, "run": "diffusion_policy"})

    run = {"run": "diffusion_policy", "imported_from": "diffusion-policy-zarr"}
    notes = ("the last row of an episode is its final observation, without its action",)
    return build_source(pending, runs=(run,), num_episodes=len(ends), notes=notes)


def _read_ends(arrays: Mapping[str, ZarrArray], source: Path) -> list[int]:
    """Return episode_ends, after checking them."""
    if _ENDS not in arrays or (f"{_DATA}action" not in arrays and f"{_DATA}actions" not in arrays):
        msg = f"{source}: expected data/action and meta/episode_ends, got {', '.join(arrays) or 'no array'}."
        raise SchemaMismatchError(msg)
    array = arrays[_ENDS]
    ends = array.read(0, len(array), MemoryBudget(array.context))
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends) or (np.diff(ends, prepend=0) <= 0).any():
        msg = f"{array.context}: expected rising row numbers above 0, got {ends.dtype} {list(ends[:8])}."
        raise SchemaMismatchError(msg)
    for path, item in arrays.items():
        if path.startswith(_DATA) and len(item) != ends[-1]:
            msg = f"{item.context}: expected {ends[-1]} rows, the last of episode_ends, got {len(item)}."
            raise SchemaMismatchError(msg)
    return [int(end) for end in ends]


def _read_zarr_rows(
    arrays: Mapping[str, ZarrArray], start: int, stop: int, context: str, keeps: Keeps
) -> EpisodeArrays:
    columns: Columns = {}
    origins: dict[str, str] = {}
    left_out: list[str] = []
    budget = MemoryBudget(context)
    for path, column in _name_arrays(arrays).items():
        if not keeps(path, column):
            continue
        rows = arrays[path].read(start, stop, budget)
        columns[column], origins[column] = _to_pictures(rows) if column.startswith(keys.PIXELS) else rows, path
        if arrays[path].has_missing_chunks:
            left_out.append(f"{path}, in chunks that the store lacks, which are its fill value")
    return EpisodeArrays(columns, {}, context, {}, has_frames=True, left_out=tuple(left_out), origins=origins)


def _name_arrays(arrays: Mapping[str, ZarrArray]) -> dict[str, str]:
    """Return the column of every array below ``data``."""
    columns: dict[str, str] = {}
    states: list[str] = []
    for path, item in arrays.items():
        name = path.removeprefix(_DATA).replace("/", ".")
        if not path.startswith(_DATA):
            continue
        if name in _NAMES:
            columns[path] = _NAMES[name]
        elif item.ndim == 4 and item.shape[-1] in (1, 3, 4):
            is_depth = (item.dtype.kind == "f" and item.shape[-1] == 1) or item.dtype == np.uint16
            columns[path] = f"{keys.DEPTH if is_depth else keys.PIXELS}.{name}"
        else:
            states.append(path)
            columns[path] = f"{keys.OBSERVATION}.{name}"
    return columns | ({states[0]: keys.OBSERVATION} if len(states) == 1 else {})


def _to_pictures(rows: np.ndarray) -> np.ndarray:
    """Return pictures of 8 bits, where floats hold nothing else."""
    if (
        rows.dtype.kind == "f"
        and rows.size
        and rows.min() >= 0
        and rows.max() <= 255
        and (rows == np.floor(rows)).all()
    ):
        return rows.astype(np.uint8)
    return rows
