"""What the import of RoboHive's logs detected, converted and left out, in sentences."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data.formats._hdf5 import open_hdf5

#: Where a log keeps the simulator's state.
STATE_PREFIX = "env_infos/state/"

#: Name of the group of a trial, with its number.
TRIAL = re.compile(r"(\D*)(\d+)")
#: Where a log keeps camera pictures.
VISUALS = "env_infos/visual_dict/"
#: The states of the RoboSet schema, below ``data``.
ROBOSET_STATES = ("qp_arm", "qv_arm", "tau_arm", "qp_ee", "qv_ee")

_CAMERA = re.compile(r"rgb:(?P<camera>.+):(?P<size>\d+x\d+):.*")
_READ = {
    ("robohive", "state"): ("observations", "actions", "rewards", "done", "env_infos/solved"),
    ("robohive", "path"): ("observations", "actions", "rewards", "done", "terminated"),
    ("roboset", "state"): (
        *(f"data/{name}" for name in (*ROBOSET_STATES, "ctrl_arm", "ctrl_ee")),
        "derived/pose_ee",
        "config/solved",
    ),
}

_MEANINGS: Mapping[tuple[str, str], str] = {
    ("robohive", "state"): "T+1 rows with the reward of the row's own state: rewards and ends moved one row up",
    ("robohive", "path"): "T rows with the reward that the row's action led to: taken as they are",
    ("roboset", "state"): "one state a row, without rewards: the last row is the final observation",
}


def describe_logs(kinds: Sequence[tuple[str, str]], file: Path, group: str) -> tuple[str, ...]:
    """Return the notes of an import.

    Args:
        kinds: Schema and alignment of every trial.
        file: A log whose first trial stands for all.
        group: HDF5 group of that trial.
    """
    notes = [
        f"{count} trials of the {schema} schema, {_MEANINGS[schema, alignment]}"
        for (schema, alignment), count in sorted(Counter(kinds).items())
    ]
    with open_hdf5(file) as h5:
        dtypes = {name: item.dtype for name, item in h5.group(group).find_datasets().items()}
    if np.float16 in dtypes.values():
        notes.append("half precision, RoboHive's default: widened to float32; the digits were lost in the log")
    small = [name for name, dtype in dtypes.items() if dtype == np.int8]
    if small:
        notes.append(f"8-bit integers in the file: larger numbers wrapped when it was written ({', '.join(small)})")
    return tuple(notes)


def describe_other_groups(files: list[Path]) -> Iterator[str]:
    """Yield a note for what stands beside the trials of the files."""
    counts: Counter[str] = Counter()
    for file in files:
        with open_hdf5(file) as h5:
            counts.update(name for name in h5 if not TRIAL.fullmatch(name))
    if counts:
        names = ", ".join(f"{name} (in {count} files)" for name, count in sorted(counts.items()))
        yield f"left out, since they are no trials: {names}"


def name_camera(name: str, dtype: np.dtype) -> str:
    """Return the camera of a dataset of pictures; empty for depth and other datasets."""
    match = _CAMERA.fullmatch(name)
    return match["camera"] if match and dtype == np.uint8 else ""


def list_ignored(group: Any, schema: str, alignment: str) -> tuple[str, ...]:
    """Return the datasets of a trial that are not read."""
    return tuple(
        name
        for name, item in group.find_datasets().items()
        if name not in _READ[schema, alignment] and not _is_read_by_prefix(name, item.dtype, schema, alignment)
    )


def _is_read_by_prefix(name: str, dtype: np.dtype, schema: str, alignment: str) -> bool:
    if schema == "roboset":
        return name.startswith(("data/rgb_", "data/d_"))
    if alignment == "path":
        return name.startswith("env_infos/obs_dict/")
    return name.startswith(STATE_PREFIX) or (
        name.startswith(VISUALS) and name_camera(name.removeprefix(VISUALS), dtype) != ""
    )
