"""The state of an interrupted training on disk, from which it goes on.

::

    <run>/training_state/
      <step>.pt       state of algorithm, data and learning curves, read with weights_only
      state.json      its name and hash, the gradient step and the configuration; written after it

The state is replaced whole: a training that is killed at any moment leaves the newest complete one.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlhive.errors import CheckpointMismatchError, DatasetNotFoundError
from rlhive.policies import replace_file

STATE_FOLDER = "training_state"
_INDEX = "state.json"

#: Options that may differ between a training and its continuation, since no number depends on them; the version of the
#: dataset is compared by its fingerprint.
_FREE = ("progress", "resume", "logger", "version")


def save_training_state(
    folder: Path, state: Mapping[str, Any], *, step: int, config: Mapping[str, Any], source: Mapping[str, Any]
) -> None:
    """Write a state and remove the one before.

    Args:
        folder: Folder of the run.
        state: Tensors and plain values.
        step: Number of gradient steps so far.
        config: Configuration of the training.
        source: What identifies the data: the configuration may leave the dataset's version open.
    """
    folder = folder / STATE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(dict(state), content)
    name = f"{step}.pt"
    replace_file(folder / name, content.getvalue())
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    index = {"file": name, "sha256": sha256, "step": step, "config": dict(config), "source": dict(source)}
    replace_file(folder / _INDEX, json.dumps(index, indent=1).encode())
    for path in folder.glob("*.pt"):
        if path.name != name:
            path.unlink()


def load_training_state(folder: Path, config: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an interrupted training of this configuration on these data.

    Raises:
        DatasetNotFoundError: The folder holds no state.
        CheckpointMismatchError: The state belongs to another configuration or other data, or its file has changed.
    """
    index = read_index(folder)
    if index is None:
        msg = f"resume={folder}: expected a folder with {STATE_FOLDER}, which an interrupted training leaves, got none"
        raise DatasetNotFoundError(msg)
    differences = compare_configs(index["config"], config)
    if differences:
        msg = f"resume={folder}: this is a training of another configuration: {'; '.join(differences)}"
        raise CheckpointMismatchError(msg)
    differences = compare_configs(index["source"], source)
    if differences:
        msg = (
            f"resume={folder}: this is a training on other data: {'; '.join(differences)}. Name the version: version=…"
        )
        raise CheckpointMismatchError(msg)
    path = folder / STATE_FOLDER / index["file"]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != index["sha256"]:
        msg = f"{path} is not the file that {_INDEX} describes: expected sha256 {index['sha256']}. Train anew."
        raise CheckpointMismatchError(msg)
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return what ``state.json`` says of the state in the folder of a run, None without a state.

    Raises:
        CheckpointMismatchError: The file does not have the form in which it is written.
    """
    path = folder / STATE_FOLDER / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        is_valid = Path(index["file"]).name == index["file"] and isinstance(index["config"], dict)
        is_valid = is_valid and isinstance(index["source"], dict)
        is_valid = is_valid and type(index["step"]) is int and isinstance(index["sha256"], str)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        is_valid = False
    if not is_valid:
        msg = f"{path}: expected the index of a training state, as an interrupted training writes it"
        raise CheckpointMismatchError(msg)
    return index


def find_interrupted(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the newest run below a folder, or the folder itself, that was interrupted with this configuration."""
    candidates = [folder, *(path.parent.parent for path in sorted(folder.glob(f"**/{STATE_FOLDER}/{_INDEX}")))]
    matching = []
    for candidate in candidates:
        index = read_index(candidate)
        if index is not None and not compare_configs(index["config"], config):
            matching.append(((candidate / STATE_FOLDER / _INDEX).stat().st_mtime_ns, candidate))
    return max(matching)[1] if matching else None


def remove_training_state(folder: Path) -> None:
    """Remove the state of a training that has ended."""
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def compare_configs(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the differences of two configurations as text, ``train.num_steps: 100 before, 200 now``."""
    differences = []
    for name in sorted({*old, *new}):
        if not prefix and name in _FREE:
            continue
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            differences += compare_configs(before, now, f"{prefix}{name}.")
        elif before != now:
            differences.append(f"{prefix}{name}: {json.dumps(before):.80} before, {json.dumps(now):.80} now")
    return differences
