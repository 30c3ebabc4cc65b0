"""RoboHive's logs (HDF5), in both of its schemas, read into episodes.

RoboHive's ``Trace`` logs a state with what was computed from that state, then the action taken in it; a row after the
last action closes the episode::

    row             0     1     …   T-1     T
    observations    s_0   s_1   …   s_T-1   s_T
    actions         a_0   a_1   …   a_T-1   NaN          "state" alignment: T+1 rows, T transitions
    rewards, done   of s_0          …       of s_T       row t+1 holds the reward of a_t

Older logs ("path" alignment, written by ``examine_policy``) have T rows. Row t holds the reward of a_t, and the final
observation is missing unless ``env_infos/obs_dict`` still holds its parts. The shape of a file does not tell which
alignment it has: it is detected from the NaN action and from the first time, and a file where they disagree is refused.

The RoboSet schema (``data/ctrl_arm``, ``data/qp_arm``, …) holds neither rewards nor ends: every row is a state.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED
from rlhive.data.formats._episode_source import (
    EpisodeArrays,
    EpisodeSource,
    Keeps,
    PendingEpisode,
    end_flags,
)
from rlhive.data.formats._hdf5 import open_hdf5
from rlhive.data.formats._pending_source import build_source
from rlhive.data.formats._roboset_notes import (
    ROBOSET_STATES,
    STATE_PREFIX,
    TRIAL,
    VISUALS,
    describe_logs,
    describe_other_groups,
    list_ignored,
    name_camera,
)
from rlhive.data.formats._source_files import list_source_files
from rlhive.data.versions import compute_sha256
from rlhive.errors import SchemaMismatchError

_ENVIRONMENT_ID = re.compile(r"[A-Za-z][\w-]*-v\d+")
#: Trials that are read before the file is reopened: HDF5 keeps 10 KB of memory for each trial that was opened.
_TRIALS_PER_OPENING = 256


def read_roboset(source: Path, *, alignment: str | None = None, split: str = "train") -> EpisodeSource:
    """Read one HDF5 log, or every ``*.h5`` below a folder, as in the public RoboSet collection.

    Half precision, the default of RoboHive's writer, is widened to float32, which is exact. A time limit is
    ``truncated``: RoboHive's ``done`` marks only ends of the task. Kept: observations with the true final one, actions,
    rewards, ``success``, camera pictures (``pixels.<camera>``), the simulator's state of row 0. Left out, by name in
    the notes: the rest of ``env_infos``.

    Args:
        source: File or folder. The files of a folder are read in the order of their relative paths, the trials of a
            file in the order of their numbers; episode ids count on over all files.
        alignment: "state" or "path"; by default it is detected.
        split: Name of the split for all episodes.

    Returns:
        The episodes; the metadata of each names its file and trial.

    Raises:
        SchemaMismatchError: A file is no such log, its alignment is unclear, or two files have different keys; the
            message names the file and the trial.
        MissingExtraError: h5py is not installed.

    Example:
        >>> read_roboset(Path("FK1_Knob1OnRandom.h5")).num_episodes  # doctest: +SKIP
        25
    """
    root, files = _list_log_files(source)
    trials = [trial for file in files for trial in _list_trials(root, file, alignment)]
    if not trials:
        msg = f"{source}: expected trials (groups such as Trial0) in its HDF5 files, got none."
        raise SchemaMismatchError(msg)

    def pending() -> Iterator[PendingEpisode]:
        for episode, trial in enumerate(trials):
            fields = {"split": split, "run": _trial_run_id(trial)}
            yield PendingEpisode(episode, trial.context, partial(_read_trial, trial), fields)

    return build_source(
        pending,
        num_episodes=len(trials),
        env_name=_find_env_name(root, files),
        runs=_describe_log_runs(trials),
        notes=(
            *describe_logs([(trial.schema, trial.alignment) for trial in trials], trials[0].file, trials[0].group),
            *describe_other_groups(files),
        ),
    )


@dataclass(frozen=True)
class _Trial:
    """One episode of a log, not read yet.

    Attributes:
        file: The log.
        group: HDF5 group of the trial.
        name: Path of the log, relative to the source's folder.
        schema: "robohive" or "roboset".
        alignment: "state" or "path".
    """

    file: Path
    group: str
    name: str
    schema: str
    alignment: str

    @property
    def context(self) -> str:
        """Address for messages."""
        return f"{self.file}, {self.group}"


def _list_log_files(source: Path) -> tuple[Path, list[Path]]:
    """Return the folder to which names are relative, and the logs."""
    if source.suffix.lower() in (".pickle", ".pkl"):
        msg = f"{source}: expected HDF5, got a pickle, which is never loaded. Trace.save('x.h5') writes HDF5."
        raise SchemaMismatchError(msg)
    if source.is_dir():
        return source, list_source_files(source, "**/*.h5")
    if not source.is_file():
        msg = f"{source}: expected an HDF5 file or a folder of them, got no such path."
        raise SchemaMismatchError(msg)
    return source.parent, [source]


def _list_trials(root: Path, file: Path, alignment: str | None) -> Iterator[_Trial]:
    with open_hdf5(file) as h5:
        matches = {name: match for name in h5 if (match := TRIAL.fullmatch(name))}
    names = sorted(matches, key=lambda name: int(matches[name][2]))
    for start in range(0, len(names), _TRIALS_PER_OPENING):
        with open_hdf5(file) as h5:
            for name in names[start : start + _TRIALS_PER_OPENING]:
                schema, detected = _detect_schema(h5[name], f"{file}, {name}", alignment)
                yield _Trial(file, name, file.relative_to(root).as_posix(), schema, detected)


def _detect_schema(group: Any, context: str, alignment: str | None) -> tuple[str, str]:
    """Return the schema of a trial and the alignment of its rows."""
    if "observations" in group and "actions" in group:
        return "robohive", alignment or _detect_alignment(group, context)
    if "data/time" in group:
        return "roboset", "state"
    msg = f"{context}: expected observations and actions, or RoboSet's data, got {', '.join(group)}."
    raise SchemaMismatchError(msg)


def _detect_alignment(group: Any, context: str) -> str:
    """Return the alignment that both signs agree on: the closing NaN action, and the first time."""
    actions = group["actions"]
    ends_with_nan = bool(np.isnan(np.asarray(actions[-1], np.float64)).all())
    times = next((group[key] for key in ("env_infos/time", "time") if key in group), None)
    starts_at_zero = None if times is None else float(np.ravel(times[0])[0]) == 0.0
    if ends_with_nan and starts_at_zero is not False:
        return "state"
    if not ends_with_nan and starts_at_zero is False:
        return "path"
    signs = f"last action {'NaN' if ends_with_nan else 'a number'}, first time {_first_time(times)}"
    msg = (
        f"{context}: cannot tell whether row t holds the reward of its own state or of the next ({signs}; expected NaN "
        "and 0, or a number and a later time). The option decides: alignment='state' or alignment='path'."
    )
    raise SchemaMismatchError(msg)


def _first_time(times: Any) -> Any:
    return "unknown" if times is None else times[0]


def _read_trial(trial: _Trial, keeps: Keeps) -> EpisodeArrays:
    with open_hdf5(trial.file) as h5:
        group = h5.group(trial.group)
        group.require_bounded()
        if trial.schema == "roboset":
            arrays = _read_roboset_trial(group, trial, keeps)
        elif trial.alignment == "state":
            arrays = _read_state_aligned(group, trial, keeps)
        else:
            arrays = _read_path_aligned(group, trial)
        return replace(arrays, left_out=list_ignored(group, trial.schema, trial.alignment))


def _read_state_aligned(group: Any, trial: _Trial, keeps: Keeps) -> EpisodeArrays:
    num_rows = len(group["observations"])
    states = {keys.OBSERVATION: _read_numbers(group["observations"]), **_read_camera_pictures(group, keeps)}
    solved = _read_flag(group, "env_infos/solved")
    if solved is not None:
        states[keys.SUCCESS] = solved
    columns = {name: rows[:-1] for name, rows in states.items()}
    columns[keys.ACTION] = _read_numbers(group["actions"])[:-1]
    done = _read_flag(group, "done")
    terminated = done[1:] if done is not None else None
    if "rewards" in group:
        columns[REWARD] = _read_numbers(group["rewards"]).reshape(num_rows, 1)[1:]
    final = {name: rows[-1] for name, rows in states.items()}
    return _finish_trial(trial, columns, final, terminated, start_state=_read_simulator_state(group))


def _read_path_aligned(group: Any, trial: _Trial) -> EpisodeArrays:
    observations = _read_numbers(group["observations"])
    final = _rebuild_final_observation(group, observations)
    length = len(observations) if final is not None else len(observations) - 1
    columns = {keys.OBSERVATION: observations[:length], keys.ACTION: _read_numbers(group["actions"])[:length]}
    if "rewards" in group:
        columns[REWARD] = _read_numbers(group["rewards"]).reshape(-1, 1)[:length]
    done = _read_flag(group, "done")
    terminated = None if done is None else done[:length]
    if done is None and "terminated" in group and final is not None and length:
        terminated = np.zeros((length, 1), bool)
        terminated[-1] = bool(np.ravel(group["terminated"])[-1])
    last_state = final if final is not None else observations[-1]
    return _finish_trial(trial, columns, {keys.OBSERVATION: last_state}, terminated)


def _read_roboset_trial(group: Any, trial: _Trial, keeps: Keeps) -> EpisodeArrays:
    data = group["data"]
    actions = np.concatenate([_flatten_rows(_read_numbers(data[name])) for name in ("ctrl_arm", "ctrl_ee")], axis=1)
    states = {
        f"{keys.OBSERVATION}.{name}": _flatten_rows(_read_numbers(data[name]))
        for name in ROBOSET_STATES
        if name in data and keeps(f"data/{name}", f"{keys.OBSERVATION}.{name}")
    }
    for name in data:
        root = keys.PIXELS if name.startswith("rgb_") else keys.DEPTH
        column = f"{root}.{name.removeprefix('rgb_').removeprefix('d_')}"
        if name.startswith(("rgb_", "d_")) and keeps(f"data/{name}", column):
            states[column] = _read_numbers(data[name])
    if "derived/pose_ee" in group:
        states[f"{keys.OBSERVATION}.pose_ee"] = _read_numbers(group["derived/pose_ee"])
    columns = {name: rows[:-1] for name, rows in states.items()} | {keys.ACTION: actions[:-1]}
    final = {name: rows[-1] for name, rows in states.items()}
    metadata = {"solved": bool(np.ravel(group["config/solved"])[-1])} if "config/solved" in group else {}
    return _finish_trial(trial, columns, final, None, metadata=metadata)


def _finish_trial(
    trial: _Trial,
    columns: dict[str, np.ndarray],
    final: dict[str, np.ndarray],
    terminated: np.ndarray | None,
    *,
    start_state: dict[str, np.ndarray] | None = None,
    metadata: dict[str, Any] | None = None,
) -> EpisodeArrays:
    """Add the end columns: an episode without a marked end of the task is truncated, without marks it is unfinished."""
    length = len(columns[keys.ACTION])
    if not length:  # one state: an episode without a transition
        return EpisodeArrays({keys.ACTION: columns[keys.ACTION]}, {}, trial.context)
    flags = end_flags(length, terminated=None if terminated is None else bool(terminated[-1].any()))
    if terminated is not None:
        flags[TERMINATED] |= terminated  # an end before the last row is refused where the record is checked
    return EpisodeArrays(
        {**columns, **flags},
        final,
        trial.context,
        {
            "start_state": start_state or {},
            "metadata": {"file": trial.name, "trial": trial.group, **(metadata or {})},
        },
    )


def _rebuild_final_observation(group: Any, observations: np.ndarray) -> np.ndarray | None:
    """Return the observation after the last action, composed from ``obs_dict``; None where that is impossible.

    Row t of ``obs_dict`` holds the parts of ``observations[t + 1]``; their order is found by comparison.
    """
    datasets = group.get("env_infos/obs_dict", {})
    parts = {
        name: _flatten_rows(_read_numbers(datasets[name]))
        for name in datasets
        if len(datasets[name]) == len(observations)
    }
    order: list[str] = []
    position = 0
    while position < observations.shape[1] and len(observations) > 1:
        name = _find_part(parts, order, observations[1:, position:])
        if name is None:
            return None
        order.append(name)
        position += parts[name].shape[1]
    return np.concatenate([parts[name][-1] for name in order]) if order else None


def _find_part(parts: dict[str, np.ndarray], used: list[str], following: np.ndarray) -> str | None:
    """Return the part, not used yet, whose rows are the first columns of the following observations."""
    for name, rows in parts.items():
        width = rows.shape[1]
        if name not in used and width and np.array_equal(rows[:-1], following[:, :width]):
            return name
    return None


def _read_simulator_state(group: Any) -> dict[str, np.ndarray]:
    """Return the simulator's state of row 0, flat float64 arrays by name."""
    parts = group.get(STATE_PREFIX.rstrip("/"), {})
    state = {name: np.asarray(parts[name][0], np.float64).ravel() for name in sorted(parts)}
    # RoboHive writes NaN for what a model lacks: activations, mocap bodies.
    return {name: value for name, value in state.items() if value.size and np.isfinite(value).all()}


def _read_camera_pictures(group: Any, keeps: Keeps) -> dict[str, np.ndarray]:
    visuals = group.get(VISUALS.rstrip("/"), {})
    cameras = {name: name_camera(name, visuals[name].dtype) for name in visuals}
    columns = {name: f"{keys.PIXELS}.{camera}" for name, camera in cameras.items() if camera}
    return {column: np.asarray(visuals[name]) for name, column in columns.items() if keeps(VISUALS + name, column)}


def _read_flag(group: Any, key: str) -> np.ndarray | None:
    """Return a flag, bool ``[num_rows, 1]``; None where the trial has none."""
    return np.asarray(group[key]).reshape(-1, 1).astype(bool) if key in group else None


def _read_numbers(dataset: Any) -> np.ndarray:
    """Return the values of a dataset; half precision is widened to float32."""
    values = np.asarray(dataset)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _flatten_rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _find_env_name(root: Path, files: list[Path]) -> str:
    """Return the environment id that all paths agree on: the public collection names folders and files by it."""
    paths = [(Path(root.name) / file.relative_to(root)).as_posix() for file in files]
    env_names = {match for path in paths for match in _ENVIRONMENT_ID.findall(path)[-1:]}
    return env_names.pop() if len(env_names) == 1 else ""


def _trial_run_id(trial: _Trial) -> str:
    return hashlib.sha256(json.dumps([trial.name, trial.alignment]).encode()).hexdigest()[:12]


def _describe_log_runs(trials: list[_Trial]) -> tuple[dict[str, Any], ...]:
    """Return the provenance of every log and alignment."""
    runs: dict[str, dict[str, Any]] = {}
    for trial in trials:
        run_id = _trial_run_id(trial)
        if run_id not in runs:
            runs[run_id] = {
                "run": run_id,
                "imported_from": "robohive-hdf5",
                "file": trial.name,
                "sha256": compute_sha256(trial.file),
                "schema": trial.schema,
                "alignment": trial.alignment,
            }
    return tuple(runs.values())
