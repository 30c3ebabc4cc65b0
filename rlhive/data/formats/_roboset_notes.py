"""What the import of RoboHive's logs detected, converted and left out, in sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.data.formats._hdf5 import open_hdf5

#: Where a log keeps the simulator's state.
STATE_PREFIX = "env_infos/state/"

_READ_PREFIXES = (STATE_PREFIX, "data/", "derived/", "config/", "env_infos/visual_dict/")
_READ_DATASETS = ("observations", "actions", "rewards", "done", "terminated", "env_infos/solved")

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
        dtypes = _list_datasets(h5[group])
    if np.float16 in dtypes.values():
        notes.append("half precision, RoboHive's default: widened to float32; the digits were lost in the log")
    small = [name for name, dtype in dtypes.items() if dtype == np.int8]
    if small:
        notes.append(f"8-bit integers in the file: larger numbers wrapped when it was written ({', '.join(small)})")
    ignored = [name for name in dtypes if not name.startswith(_READ_PREFIXES) and name not in _READ_DATASETS]
    if ignored:
        notes.append(f"left out: {', '.join(ignored)}")
    return tuple(notes)


def _list_datasets(group: Any) -> dict[str, np.dtype]:
    """Return the dtype of every dataset below a group, by name."""
    dtypes: dict[str, np.dtype] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            dtypes[name] = item.dtype

    group.visititems(visit)
    return dtypes
