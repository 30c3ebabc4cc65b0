"""robomimic's HDF5 demonstrations, and those of MimicGen and LIBERO, read into episodes.

::

    data                                  attributes: env_args (JSON); LIBERO: problem_info with the instruction
      demo_<n>                            attributes: model_file (MuJoCo XML), ep_meta (JSON)
        obs/<name> [T, …]                 pixels.<name> for pictures of 8 bits, depth.<name> for others, else
                                          observation.<name>
        next_obs/<name> [T, …]            its last row is the final observation; many files lack the group
        actions [T, A]                    action
        rewards [T]  dones [T]            next.reward and the ends; some files lack them
        states [T, S]                     info.states; the start state of row 0; the observation where there is no obs
        <path> [T, …]                     info.<path>: MimicGen's datagen_info, LIBERO's robot_states
    mask/<name>                           names of demonstrations: splits, and booleans in the metadata

robomimic marks a ``done`` wherever the task is solved, at the end of every demonstration, or both (``--done_mode``).
The last one alone ends an episode: by solving the task, unless a reward of 0 or less says that it was only cut off.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, Columns
from rlhive.data.formats._column_values import to_text
from rlhive.data.formats._episode_source import EpisodeArrays, EpisodeSource, Keeps, PendingEpisode, end_flags
from rlhive.data.formats._hdf5 import Hdf5Group, open_hdf5
from rlhive.data.formats._hdf5_dataset import Hdf5Dataset
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._robomimic_masks import DemoMasks
from rlhive.data.formats._source_files import list_source_files
from rlhive.data.versions import compute_sha256
from rlhive.errors import SchemaMismatchError

_DEMO = re.compile(r"(?:.*_)?([0-9]+)")
_OBS, _NEXT_OBS, _STATES = "obs/", "next_obs/", "states"
#: Attributes of the group ``data`` and of a demonstration that hold JSON.
_JSON_ATTRIBUTES = ("env_args", "problem_info", "ep_meta")
#: Longest model that goes into the metadata of an episode, whose size is bounded; models of kitchens can be longer.
_MAX_MODEL_LENGTH = 2**19
_TEXT_ATTRIBUTES = ("bddl_file_name", "tag")


def read_robomimic(
    source: Path, *, split: str = "train", split_masks: str | Sequence[str] | None = None
) -> EpisodeSource:
    """Read one file, or every ``*.hdf5`` below a folder.

    Where ``next_obs`` is missing, no state after the last action is in the file: an episode that solved the task
    repeats its last observation, any other one loses its last transition. Rewards and dones that are missing count as
    not recorded.

    Args:
        source: File or folder. Files are read in the order of their paths, demonstrations in that of their numbers;
            episode ids count on over all files.
        split: Name of the split for files without masks.
        split_masks: Names of the masks that become splits; train, valid and test by default, "none" for no mask.

    Returns:
        The episodes. The metadata of each has file, demo, the model's XML as ``model_file`` (its
        SHA-256 where it is longer than 524,288 characters), and ``mask_<name>``:
        whether the demonstration is in that mask.

    Raises:
        SchemaMismatchError: A file has another layout, or a demonstration is in two of the masks that become splits.
        MissingExtraError: h5py is not installed.

    Example:
        >>> read_robomimic(Path("low_dim_v141.hdf5")).num_episodes  # doctest: +SKIP
        200
    """
    files = _list_demo_files(source)
    demos = [demo for file in files for demo in _list_demos(file, source, split, split_masks)]
    if not demos:
        msg = f"{source}: expected demonstrations (data/demo_0) in its HDF5 files, got none."
        raise SchemaMismatchError(msg)

    def pending() -> Iterator[PendingEpisode]:
        for episode, demo in enumerate(demos):
            fields = {"split": demo.split, "run": demo.file.run["run"]}
            yield PendingEpisode(episode, demo.context, partial(_read_demo, demo), fields)

    runs = {demo.file.run["run"]: demo.file.run for demo in demos}
    notes = [note for masks in {demo.file.path: demo.file.masks for demo in demos}.values() for note in masks.notes()]
    env_args = demos[0].file.run.get("env_args", {})
    env_name = str(env_args.get("env_name", "")) if isinstance(env_args, Mapping) else ""
    return build_source(
        pending, runs=tuple(runs.values()), num_episodes=len(demos), notes=tuple(notes), env_name=env_name
    )


@dataclass(frozen=True)
class _File:
    """A file, not read yet.

    Attributes:
        path: Its path.
        name: Its path relative to the source's folder.
        masks: Its masks.
        run: Its provenance.
    """

    path: Path
    name: str
    masks: DemoMasks
    run: Mapping[str, Any]


@dataclass(frozen=True)
class _Demo:
    """A demonstration, not read yet.

    Attributes:
        file: The file that holds it.
        name: Its name in the group ``data``.
        split: Its split.
    """

    file: _File
    name: str
    split: str

    @property
    def context(self) -> str:
        """Address for messages."""
        return f"{self.file.path}, data/{self.name}"


def _list_demo_files(source: Path) -> list[Path]:
    if source.is_dir():
        return list_source_files(source, "**/*.hdf5")
    if not source.is_file():
        msg = f"{source}: expected an HDF5 file or a folder of them, got no such path."
        raise SchemaMismatchError(msg)
    return [source]


def _list_demos(path: Path, source: Path, split: str, split_masks: str | Sequence[str] | None) -> Iterator[_Demo]:
    with open_hdf5(path) as h5:
        if "data" not in h5:
            msg = f"{path}: expected robomimic's group data, got {', '.join(h5) or 'an empty file'}."
            raise SchemaMismatchError(msg)
        data = h5.group("data")
        numbers = {name: int(match[1]) for name in data if (match := _DEMO.fullmatch(name))}
        masks = DemoMasks.read(h5, numbers, split_masks)
        run = _describe_run(path, data)
    name = path.relative_to(source).as_posix() if source.is_dir() else path.name
    file = _File(path, name, masks, run)
    for demo in sorted(numbers, key=lambda name: (numbers[name], name)):
        yield _Demo(file, demo, masks.choose_split(demo, split))


def _describe_run(path: Path, data: Hdf5Group) -> dict[str, Any]:
    digest = compute_sha256(path)
    run_id = hashlib.sha256(digest.encode()).hexdigest()[:12]
    run = {"run": run_id, "imported_from": "robomimic-hdf5", "file": path.name, "sha256": digest}
    return run | _read_attributes(data)


def _read_attributes(group: Hdf5Group) -> dict[str, Any]:
    """Return the attributes that describe the environment and the task, JSON parsed."""
    attributes: dict[str, Any] = {}
    for name, value in group.attrs.items():
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
        if name in _JSON_ATTRIBUTES and isinstance(text, str):
            try:
                attributes[name] = json.loads(text, parse_constant=str)
            except (ValueError, RecursionError) as error:
                msg = f"{group.context}, attribute {name}: expected JSON, got {text[:80]!r}: {error}."
                raise SchemaMismatchError(msg) from error
        elif name in _TEXT_ATTRIBUTES and isinstance(text, str):
            attributes[name] = text
    return attributes


def _read_demo(demo: _Demo, keeps: Keeps) -> EpisodeArrays:
    with open_hdf5(demo.file.path) as h5:
        group = h5.group(f"data/{demo.name}")
        group.require_bounded()
        datasets = group.find_datasets()
        if "actions" not in datasets:
            msg = f"{demo.context}: expected actions, got {', '.join(sorted(datasets)) or 'no dataset'}."
            raise SchemaMismatchError(msg)
        length = len(datasets["actions"])
        columns, final, origins, left_out = _read_columns(datasets, length, keeps)
        terminated, left_out_dones = _find_end(datasets, length)
        if terminated is not None:
            columns |= end_flags(length, terminated=terminated)
        fields = {"metadata": _describe_demo(demo, group), "start_state": _read_start_state(datasets)}
    return EpisodeArrays(columns, final, demo.context, fields, left_out=(*left_out, *left_out_dones), origins=origins)


def _read_columns(
    datasets: Mapping[str, Hdf5Dataset], length: int, keeps: Keeps
) -> tuple[Columns, Columns, dict[str, str], list[str]]:
    """Return the columns, their final values, their names in the file, and what is left out."""
    columns: Columns = {}
    final: Columns = {}
    origins: dict[str, str] = {}
    left_out: list[str] = []
    has_obs = any(path.startswith(_OBS) for path in datasets)
    for path, item in sorted(datasets.items()):
        if path == "dones" or path.startswith(_NEXT_OBS):
            continue
        column = _name_demo_column(path, item, has_obs=has_obs)
        # Some writers append the final observation.
        has_final_row = item.shape[:1] == (length + 1,) and path.startswith(_OBS)
        if item.shape[:1] != (length,) and not has_final_row:
            left_out.append(f"{path}, which has no row for each action")
        elif keeps(path, column):
            rows = np.asarray(item[:length])
            columns[column], origins[column] = rows, path
            following = datasets.get(path.replace(_OBS, _NEXT_OBS, 1)) if path.startswith(_OBS) else None
            if has_final_row:
                final[column] = np.asarray(item[length])
            elif following is not None:
                final[column] = np.asarray(following[len(following) - 1])
                if not _continues(rows, following):
                    left_out.append(f"{following.name.rpartition('next_obs')[2]} of next_obs, which differs from obs")
    return columns, final, origins, left_out


def _name_demo_column(path: str, item: Hdf5Dataset, *, has_obs: bool) -> str:
    if path.startswith(_OBS):
        root = keys.OBSERVATION
        if item.ndim == 4:
            root = keys.PIXELS if item.dtype == np.uint8 else keys.DEPTH
        return f"{root}.{path.removeprefix(_OBS).replace('/', '.')}"
    if path == _STATES and not has_obs:
        return keys.OBSERVATION
    return {"actions": keys.ACTION, "rewards": REWARD}.get(path, f"info.{path.replace('/', '.')}")


def _continues(rows: np.ndarray, following: Hdf5Dataset) -> bool:
    """Return whether next_obs holds the rows that follow; of pictures the first and last pair are compared."""
    if len(following) != len(rows):
        return False
    if rows.ndim < 4:
        return np.array_equal(rows[1:], np.asarray(following[: len(rows) - 1]), equal_nan=rows.dtype.kind == "f")
    return all(np.array_equal(rows[row + 1], following[row]) for row in {0, len(rows) - 2} if 0 <= row < len(rows) - 1)


def _find_end(datasets: Mapping[str, Hdf5Dataset], length: int) -> tuple[bool | None, list[str]]:
    """Return whether the last transition ended the task, None where no done is recorded, and what is left out."""
    dones = datasets.get("dones")
    if dones is None or dones.shape[:1] != (length,) or not length:
        return None, []
    is_done = np.asarray(dones[()]).reshape(length, -1).any(axis=1)
    left_out = ["dones before the last row, which end no episode"] if is_done[:-1].any() else []
    return bool(is_done[-1]) and not _is_cut_off(datasets.get("rewards"), length), left_out


def _is_cut_off(rewards: Hdf5Dataset | None, length: int) -> bool:
    """Return whether the last reward is 0 or less, so that the last ``done`` marks an episode that was only cut off."""
    if rewards is None or rewards.shape not in ((length,), (length, 1)) or rewards.dtype.kind not in "biuf":
        return False
    return not np.any(rewards[length - 1] > 0)


def _describe_demo(demo: _Demo, group: Hdf5Group) -> dict[str, Any]:
    metadata: dict[str, Any] = {"file": demo.file.name, "demo": demo.name}
    metadata |= _read_attributes(group)
    if "model_file" in group.attrs:
        model = to_text(group.attrs["model_file"])
        if len(model) <= _MAX_MODEL_LENGTH:
            metadata["model_file"] = model
        else:
            metadata["model_sha256"] = hashlib.sha256(model.encode()).hexdigest()
    instruction = _find_instruction(demo.file.run.get("problem_info"), metadata.get("ep_meta"))
    if instruction:
        metadata["task"] = instruction
    return metadata | demo.file.masks.describe(demo.name)


def _find_instruction(problem_info: Any, ep_meta: Any) -> str:
    """Return the instruction of LIBERO's or robosuite's JSON; "" without one."""
    instruction = problem_info.get("language_instruction") if isinstance(problem_info, Mapping) else None
    if not instruction and isinstance(ep_meta, Mapping):
        instruction = ep_meta.get("lang")
    if isinstance(instruction, list):  # LIBERO stores the words
        return " ".join(map(str, instruction))
    return str(instruction or "")


def _read_start_state(datasets: Mapping[str, Hdf5Dataset]) -> dict[str, np.ndarray]:
    """Return the simulator's state of row 0: time, positions and velocities in one float64 array."""
    states = datasets.get(_STATES)
    if states is None or states.ndim != 2 or not len(states):
        return {}
    return {"state": np.asarray(states[0], np.float64)}
