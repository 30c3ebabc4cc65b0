"""OGBench's .npz files, read into episodes.

::

    observations [N, …]       observation; pixels for pictures of 8 bits
    actions [N, …]            action
    terminals [N]             the trajectory ends in this row; OGBench's tasks do not end, so it is cut off there
    next_observations [N, …]  the state that followed. Files without it hold T + 1 rows a trajectory: the last is the
                              final state, and its action leads nowhere
    valids [N]                of a compact file: 0 in the row of the final state, where terminals are set twice
    rewards [N]  masks [N]    of a single task: the reward, and 0 where the task is solved
    <name> [N, …]             info.<name>: qpos and qvel, which are also the start state, and button_states
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, Columns
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode, end_flags
from rlhive.data.formats._memory_limits import MemoryBudget
from rlhive.data.formats._npz import NpzArray, open_npz
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._source_files import list_source_files
from rlhive.data.versions import compute_sha256
from rlhive.errors import SchemaMismatchError

_REQUIRED = ("observations", "actions", "terminals")
_NEXT, _VALIDS, _MASKS = "next_observations", "valids", "masks"
_VALIDATION = "-val.npz"


def read_ogbench(source: Path, *, split: str | None = None) -> EpisodeSource:
    """Read one file, or every ``*.npz`` of a folder.

    Args:
        source: File or folder; episode ids count on over the files.
        split: Name of the split for all episodes; by default ``val`` for files named ``*-val.npz``, else ``train``.

    Returns:
        The episodes, with their true last observations. An episode is truncated, or terminated where the file has
        masks and that of the last transition is 0.

    Raises:
        SchemaMismatchError: A file is no such archive, or holds Python objects.

    Example:
        >>> read_ogbench(Path("cube-single-play-v0.npz")).num_episodes  # doctest: +SKIP
        1000
    """
    files = list_source_files(source, "*.npz") if source.is_dir() else [source]
    files.sort(key=lambda file: (file.name.endswith(_VALIDATION), file.name))
    trajectories = [trajectory for file in files for trajectory in _find_trajectories(file, split)]
    if not trajectories:
        msg = f"{source}: expected .npz files with a trajectory of two rows, got {len(files)} without."
        raise SchemaMismatchError(msg)
    runs = {file: _describe_ogbench_run(file) for file in dict.fromkeys(trajectory.file for trajectory in trajectories)}

    def pending() -> Iterator[PendingEpisode]:
        episode = 0
        for file, run in runs.items():
            with open_npz(file) as arrays:
                for trajectory in (trajectory for trajectory in trajectories if trajectory.file == file):
                    context = f"{file}, rows from {trajectory.start}"
                    fields = {"split": trajectory.split, "run": run["run"]}
                    yield PendingEpisode(
                        episode, context, partial(_read_trajectory, arrays, trajectory, context), fields
                    )
                    episode += 1

    return build_source(
        pending,
        runs=tuple(runs.values()),
        num_episodes=len(trajectories),
        notes=tuple(_describe_trajectories(trajectories)),
    )


@dataclass(frozen=True)
class _Trajectory:
    """The rows of one trajectory.

    Attributes:
        file: The file.
        split: The split.
        start: First row.
        stop: Row after the last transition.
        has_final_row: Whether the row at ``stop`` holds the final state; otherwise ``next_observations`` does.
        is_marked: Whether the file marks its end.
    """

    file: Path
    split: str
    start: int
    stop: int
    has_final_row: bool
    is_marked: bool


def _find_trajectories(file: Path, split: str | None) -> list[_Trajectory]:
    with open_npz(file) as arrays:
        _require_arrays(arrays, file)
        has_final_row = _NEXT not in arrays
        if _VALIDS in arrays and has_final_row:
            is_last = ~_read_flags(arrays[_VALIDS])
        else:
            is_last = _read_flags(arrays["terminals"])
    ends = np.flatnonzero(is_last).tolist()
    if len(is_last) and not is_last[-1]:
        ends.append(len(is_last) - 1)
    split = split or ("val" if file.name.endswith(_VALIDATION) else "train")
    starts = [0, *(end + 1 for end in ends)]
    trajectories = [
        _Trajectory(file, split, start, end if has_final_row else end + 1, has_final_row, bool(is_last[end]))
        for start, end in zip(starts, ends, strict=False)  # nothing follows the last end
    ]
    return [trajectory for trajectory in trajectories if trajectory.stop > trajectory.start]


def _read_flags(array: NpzArray) -> np.ndarray:
    """Return whether the numbers of an array are other than 0, bool ``[N]``."""
    if array.shape not in ((len(array),), (len(array), 1)) or array.dtype.kind not in "biuf":
        msg = f"{array.context}: expected a number for each row, got {array.dtype} {list(array.shape)}."
        raise SchemaMismatchError(msg)
    return array.read(0, len(array)).reshape(-1) != 0


def _require_arrays(arrays: Mapping[str, NpzArray], file: Path) -> None:
    missing = [name for name in _REQUIRED if name not in arrays]
    names = [name for name in (*_REQUIRED, _NEXT, _VALIDS, _MASKS) if name in arrays]
    lengths = {name: len(arrays[name]) for name in names}
    if missing or len(set(lengths.values())) != 1:
        problem = f"no {', '.join(missing)}" if missing else f"lengths {lengths}"
        msg = f"{file}: expected OGBench's {', '.join(_REQUIRED)}, all of one length, got {problem}."
        raise SchemaMismatchError(msg)


def _read_trajectory(
    arrays: Mapping[str, NpzArray], trajectory: _Trajectory, context: str, keeps: Keeps
) -> EpisodeArrays:
    length, num_rows = trajectory.stop - trajectory.start, len(arrays["terminals"])
    budget = MemoryBudget(context)
    for array in arrays.values():
        budget.add(*array.count_bytes(length))
    columns: Columns = {}
    final: Columns = {}
    origins, left_out = {}, []
    for name, array in arrays.items():
        if name in ("terminals", _NEXT, _VALIDS):
            continue
        column = _name_array(name, array)
        if len(array) != num_rows:
            left_out.append(f"{name}, which has no row for each action")
        elif keeps(name, column):
            has_last = name == "observations" and trajectory.has_final_row
            rows = array.read(trajectory.start, trajectory.stop + has_last)
            columns[column], origins[column] = rows[:length], name
            if name == "observations":
                final[column] = rows[-1] if has_last else arrays[_NEXT].read(trajectory.stop - 1, trajectory.stop)[0]
    columns |= end_flags(length, terminated=_is_task_ended(columns, trajectory))
    names = [name for name in ("qpos", "qvel") if f"info.{name}" in columns]
    start_state = {name: np.asarray(columns[f"info.{name}"][0], np.float64).ravel() for name in names}
    return EpisodeArrays(
        columns, final, context, {"start_state": start_state}, left_out=tuple(left_out), origins=origins
    )


def _name_array(name: str, array: NpzArray) -> str:
    if name == "observations" and array.dtype == np.uint8 and array.ndim == 4:
        return keys.PIXELS
    names = {"observations": keys.OBSERVATION, "actions": keys.ACTION, "rewards": REWARD}
    return names.get(name, f"info.{name}")


def _is_task_ended(columns: Columns, trajectory: _Trajectory) -> bool | None:
    """Return whether the last transition ended the task; None where the file ends before the trajectory does."""
    masks = columns.get(f"info.{_MASKS}")
    if masks is not None and not np.any(masks[-1]):
        return True
    return False if trajectory.is_marked else None


def _describe_ogbench_run(file: Path) -> dict[str, Any]:
    digest = compute_sha256(file)
    run_id = hashlib.sha256(digest.encode()).hexdigest()[:12]
    return {"run": run_id, "imported_from": "ogbench-npz", "file": file.name, "sha256": digest}


def _describe_trajectories(trajectories: list[_Trajectory]) -> Iterator[str]:
    num_final = sum(trajectory.has_final_row for trajectory in trajectories)
    if num_final:
        yield f"{num_final} trajectories whose last row is the final observation: its other values are left out"
    num_open = sum(not trajectory.is_marked for trajectory in trajectories)
    if num_open:
        yield f"{num_open} trajectories without a terminal, at the end of a file: unfinished"
