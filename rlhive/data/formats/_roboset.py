"""RoboHive's own logs (HDF5), in both of its schemas → episodes with rewards and ends on the transition they belong to.

RoboHive's ``Trace`` logs the state and what was computed *of that state*, then the action taken in it; the row after
the last action closes the episode::

    row             0     1     …   T-1     T
    observations    s_0   s_1   …   s_T-1   s_T
    actions         a_0   a_1   …   a_T-1   NaN          "state" alignment: T+1 rows, T transitions
    rewards, done   of s_0          …       of s_T       the reward of a_t stands in row t+1

Older logs ("paths", written by ``examine_policy``) have T rows, with the reward that a_t led to in row t and no final
observation, unless ``env_infos/obs_dict`` still holds its parts. Which of the two a file is cannot be told from its
shape alone: it is detected from the NaN action and from the first time, and refused where they disagree.

The RoboSet schema (``data/ctrl_arm``, ``data/qp_arm``, …) holds no reward and no end: every row is a state.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, EpisodeRecord
from rlhive.data._schema import Schema
from rlhive.data.formats._hdf5 import open_hdf5, sha256_of
from rlhive.data.formats._imported import Imported, end_flags, record_of, schema_of
from rlhive.errors import SchemaMismatch

#: Names of the two conventions, as an override takes them.
ALIGNMENTS = ("state", "path")

_TRIAL = re.compile(r"(\D*)(\d+)")
_ENVIRONMENT_ID = re.compile(r"[A-Za-z][\w-]*-v\d+")
_CAMERA = re.compile(r"rgb:(?P<camera>.+):(?P<size>\d+x\d+):.*")
_ROBOSET_STATES = ("qp_arm", "qv_arm", "tau_arm", "qp_ee", "qv_ee")
_STATE = "env_infos/state/"
#: Trials looked at before the file is opened anew: HDF5 keeps 10 KB of each that it has seen.
_OPENED = 256


def read(source: str | Path, *, alignment: str | None = None, split: str = "train") -> Imported:
    """Read one HDF5 log, or every ``*.h5`` below a folder, as in the public RoboSet collection.

    Half precision, the default of RoboHive's writer, is widened to float32, which is exact. A time limit is
    ``truncated``: RoboHive's ``done`` marks only ends of the task. Kept: observations with the true final one, actions,
    rewards, ``success``, camera pictures (``pixels.<camera>``), the simulator's state of row 0. Left out, by name in
    the notes: the rest of ``env_infos``.

    Args:
        source: A file or a folder. Below a folder, files are taken in the order of their relative paths, and the trials
            of a file in the order of their numbers; an episode's id counts on over all of them.
        alignment: "state" or "path", where the detection is unsure or wrong.
        split: Name of the split that all episodes go to.

    Returns:
        The episodes; each one's metadata names its file and trial.

    Raises:
        SchemaMismatch: A file is not such a log, its alignment is unsure, or two files have different keys; the message
            names the file and the trial.
        MissingExtra: h5py is not installed.

    Example:
        >>> read("FK1_Knob1OnRandom.h5").num_episodes  # doctest: +SKIP
        25
    """
    _require_alignment(alignment)
    root, files = _files(Path(source))
    trials = [trial for file in files for trial in _trials(root, file, alignment)]
    if not trials:
        msg = f"{source}: expected trials (groups such as Trial0) in its HDF5 files, got none. Give another file."
        raise SchemaMismatch(msg)
    first = _read_trial(trials[0])
    schema = schema_of(first.columns, first.final)

    def records() -> Iterator[EpisodeRecord]:
        for episode, trial in enumerate(trials):
            yield _record(trial, schema, episode=episode, split=split)

    return Imported(
        schema=schema,
        records=records,
        num_episodes=len(trials),
        env_name=_env_name(root, files),
        runs=_runs(trials),
        notes=_notes(trials),
    )


@dataclass(frozen=True)
class _Trial:
    """Where an episode lies, and how its rows are aligned."""

    file: Path
    group: str
    name: str
    kind: str
    alignment: str

    @property
    def where(self) -> str:
        return f"{self.file}, {self.group}"


@dataclass
class _Rows:
    """One episode as it goes into the schema: T rows and the final values of the observed fields."""

    columns: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    start_state: dict[str, np.ndarray]
    metadata: dict[str, Any]


def _files(source: Path) -> tuple[Path, list[Path]]:
    if source.suffix.lower() in (".pickle", ".pkl"):
        msg = f"{source}: expected HDF5, got a pickle, which is never loaded. Save it again with Trace.save('x.h5')."
        raise SchemaMismatch(msg)
    if source.is_dir():
        return source, sorted(source.rglob("*.h5"), key=lambda path: path.relative_to(source).as_posix())
    if not source.is_file():
        msg = f"{source}: expected an HDF5 file or a folder of them, got no such path."
        raise SchemaMismatch(msg)
    return source.parent, [source]


def _trials(root: Path, file: Path, alignment: str | None) -> Iterator[_Trial]:
    with open_hdf5(file) as h5:
        groups = {name: match for name in h5 if (match := _TRIAL.fullmatch(name))}
    names = sorted(groups, key=lambda name: int(groups[name][2]))
    for start in range(0, len(names), _OPENED):
        with open_hdf5(file) as h5:
            for name in names[start : start + _OPENED]:
                kind, found = _kind(h5[name], f"{file}, {name}", alignment)
                yield _Trial(file, name, file.relative_to(root).as_posix(), kind, found)


def _kind(group: Any, where: str, alignment: str | None) -> tuple[str, str]:
    """Return the schema of a trial and how its rows are aligned."""
    if "observations" in group and "actions" in group:
        return "robohive", alignment or _detect(group, where)
    if "data/time" in group:
        return "roboset", "state"
    msg = f"{where}: expected observations and actions, or RoboSet's data, got {', '.join(group)}."
    raise SchemaMismatch(msg)


def _detect(group: Any, where: str) -> str:
    """Return the alignment that both signs agree on: the closing NaN action, and the first time."""
    actions = group["actions"]
    closed = bool(np.isnan(np.asarray(actions[-1], np.float64)).all())
    times = next((group[key] for key in ("env_infos/time", "time") if key in group), None)
    began = None if times is None else float(np.ravel(times[0])[0]) == 0.0
    if closed and began is not False:
        return "state"
    if not closed and began is False:
        return "path"
    signs = f"last action {'NaN' if closed else 'a number'}, first time {'unknown' if times is None else times[0]}"
    msg = (
        f"{where}: cannot tell whether row t holds the reward of its own state or of the next ({signs}; expected NaN "
        "and 0, or a number and a later time). Say which: alignment='state' or alignment='path'."
    )
    raise SchemaMismatch(msg)


def _read_trial(trial: _Trial) -> _Rows:
    with open_hdf5(trial.file) as h5:
        group = h5[trial.group]
        if trial.kind == "roboset":
            return _read_roboset(group, trial)
        return _read_state_aligned(group, trial) if trial.alignment == "state" else _read_path(group, trial)


def _read_state_aligned(group: Any, trial: _Trial) -> _Rows:
    num_rows = len(group["observations"])
    if num_rows < 2:
        msg = f"{trial.where}: expected at least 2 rows, a state and the one that followed, got {num_rows}."
        raise SchemaMismatch(msg)
    states = {keys.OBSERVATION: _array(group["observations"]), **_pictures(group)}
    solved = _flag(group, "env_infos/solved")
    if solved is not None:
        states[keys.SUCCESS] = solved
    columns = {name: rows[:-1] for name, rows in states.items()}
    columns[keys.ACTION] = _array(group["actions"])[:-1]
    done = _flag(group, "done")
    terminated = done[1:] if done is not None else np.zeros((num_rows - 1, 1), bool)
    if "rewards" in group:
        columns[REWARD] = _array(group["rewards"]).reshape(num_rows, 1)[1:]
    return _finished(group, columns, {name: rows[-1] for name, rows in states.items()}, terminated)


def _read_path(group: Any, trial: _Trial) -> _Rows:
    observations = _array(group["observations"])
    final = _rebuilt_final(group, observations)
    count = len(observations) if final is not None else len(observations) - 1
    if count < 1:
        msg = f"{trial.where}: expected at least 2 rows, since the last one's next observation is unknown, got 1."
        raise SchemaMismatch(msg)
    columns = {keys.OBSERVATION: observations[:count], keys.ACTION: _array(group["actions"])[:count]}
    if "rewards" in group:
        columns[REWARD] = _array(group["rewards"]).reshape(-1, 1)[:count]
    done = _flag(group, "done")
    terminated = np.zeros((count, 1), bool) if done is None else done[:count]
    if done is None and "terminated" in group and final is not None:
        terminated[-1] = bool(np.ravel(group["terminated"])[-1])
    ends = {keys.OBSERVATION: final if final is not None else observations[count]}
    return _finished(None, columns, ends, terminated)


def _read_roboset(group: Any, trial: _Trial) -> _Rows:
    data = group["data"]
    actions = np.concatenate([_rows(_array(data[name])) for name in ("ctrl_arm", "ctrl_ee")], axis=1)
    if len(actions) < 2:
        msg = f"{trial.where}: expected at least 2 rows, a state and the one that followed, got {len(actions)}."
        raise SchemaMismatch(msg)
    states = {f"{keys.OBSERVATION}.{name}": _rows(_array(data[name])) for name in _ROBOSET_STATES if name in data}
    for name in data:
        if name.startswith("rgb_"):
            states[f"{keys.PIXELS}.{name.removeprefix('rgb_')}"] = np.asarray(data[name])
        elif name.startswith("d_"):
            states[f"{keys.DEPTH}.{name.removeprefix('d_')}"] = _array(data[name])
    if "derived/pose_ee" in group:
        states[f"{keys.OBSERVATION}.pose_ee"] = _array(group["derived/pose_ee"])
    columns = {name: rows[:-1] for name, rows in states.items()} | {keys.ACTION: actions[:-1]}
    rows = _finished(None, columns, {name: value[-1] for name, value in states.items()}, None)
    if "config/solved" in group:
        rows.metadata["solved"] = bool(np.ravel(group["config/solved"])[-1])
    return rows


def _finished(
    group: Any, columns: dict[str, np.ndarray], final: dict[str, np.ndarray], terminated: np.ndarray | None
) -> _Rows:
    """Add the end flags: where no end of the task is marked, the log was cut off."""
    length = len(columns[keys.ACTION])
    flags = end_flags(length, terminated=terminated is not None and bool(terminated[-1].any()))
    if terminated is not None:
        flags[TERMINATED] |= terminated  # an end before the last row is refused where the record is checked
    return _Rows(
        columns={**columns, **flags},
        final=final,
        start_state={} if group is None else _start_state(group),
        metadata={},
    )


def _rebuilt_final(group: Any, observations: np.ndarray) -> np.ndarray | None:
    """Return the observation after the last action, put together from ``obs_dict``, or None where that is impossible.

    Row t of ``obs_dict`` holds the parts of ``observations[t + 1]``; their order is found by comparing them.
    """
    parts = group.get("env_infos/obs_dict", {})
    known = {name: _rows(_array(parts[name])) for name in parts if len(parts[name]) == len(observations)}
    position, chosen = 0, []
    while position < observations.shape[1] and len(observations) > 1:
        for name, rows in known.items():
            following = observations[1:, position : position + rows.shape[1]]
            if name not in chosen and rows.shape[1] and np.array_equal(rows[:-1], following):
                chosen.append(name)
                position += rows.shape[1]
                break
        else:
            return None
    return np.concatenate([known[name][-1] for name in chosen]) if chosen else None


def _record(trial: _Trial, schema: Schema, *, episode: int, split: str) -> EpisodeRecord:
    rows = _read_trial(trial)
    return record_of(
        rows.columns,
        rows.final,
        schema,
        where=trial.where,
        episode=episode,
        split=split,
        start_state=rows.start_state,
        run=_run_id(trial),
        metadata={"file": trial.name, "trial": trial.group, **rows.metadata},
    )


def _start_state(group: Any) -> dict[str, np.ndarray]:
    parts = group.get(_STATE.rstrip("/"), {})
    state = {name: np.asarray(parts[name][0], np.float64).ravel() for name in sorted(parts)}
    # RoboHive writes what a model lacks (activations, mocap bodies) as NaN.
    return {name: value for name, value in state.items() if value.size and np.isfinite(value).all()}


def _pictures(group: Any) -> dict[str, np.ndarray]:
    visuals = group.get("env_infos/visual_dict", {})
    cameras = {name: _CAMERA.fullmatch(name) for name in visuals}
    return {
        f"{keys.PIXELS}.{match['camera']}": np.asarray(visuals[name])
        for name, match in cameras.items()
        if match and visuals[name].dtype == np.uint8
    }


def _flag(group: Any, key: str) -> np.ndarray | None:
    return np.asarray(group[key]).reshape(-1, 1).astype(bool) if key in group else None


def _array(dataset: Any) -> np.ndarray:
    values = np.asarray(dataset)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _env_name(root: Path, files: list[Path]) -> str:
    """Return the environment id that the paths agree on: the public collection names folders and files by it."""
    paths = [(Path(root.name) / file.relative_to(root)).as_posix() for file in files]
    found = {match for path in paths for match in _ENVIRONMENT_ID.findall(path)[-1:]}
    return found.pop() if len(found) == 1 else ""


def _run_id(trial: _Trial) -> str:
    return hashlib.sha256(json.dumps([trial.name, trial.alignment]).encode()).hexdigest()[:12]


def _runs(trials: list[_Trial]) -> tuple[dict[str, Any], ...]:
    runs = {}
    for trial in trials:
        run = _run_id(trial)
        if run not in runs:
            digest = sha256_of(trial.file)
            found = {"schema": trial.kind, "alignment": trial.alignment}
            runs[run] = {"run": run, "imported_from": "robohive-hdf5", "file": trial.name, "sha256": digest, **found}
    return tuple(runs.values())


def _notes(trials: list[_Trial]) -> tuple[str, ...]:
    notes = []
    for kind, alignment in sorted({(trial.kind, trial.alignment) for trial in trials}):
        count = sum((trial.kind, trial.alignment) == (kind, alignment) for trial in trials)
        notes.append(f"{count} trials of the {kind} schema, {_MEANS[kind, alignment]}")
    with open_hdf5(trials[0].file) as h5:
        group = h5[trials[0].group]
        halves = [name for name, dtype in _leaves(group) if dtype == np.float16]
        small = [name for name, dtype in _leaves(group) if dtype == np.int8]
        dropped = [name for name, _ in _leaves(group) if not _kept(name)]
    if halves:
        notes.append("half precision, RoboHive's default: widened to float32; the digits were lost in the log")
    if small:
        notes.append(f"8-bit integers in the file: larger numbers wrapped when it was written ({', '.join(small)})")
    if dropped:
        notes.append(f"left out: {', '.join(dropped)}")
    return tuple(notes)


_MEANS: Mapping[tuple[str, str], str] = {
    ("robohive", "state"): "T+1 rows with the reward of the row's own state: rewards and ends moved one row up",
    ("robohive", "path"): "T rows with the reward that the row's action led to: taken as they are",
    ("roboset", "state"): "one state a row, without rewards: the last row is the final observation",
}


def _kept(name: str) -> bool:
    return name.startswith((_STATE, "data/", "derived/", "config/", "env_infos/visual_dict/")) or name in (
        "observations",
        "actions",
        "rewards",
        "done",
        "terminated",
        "env_infos/solved",
    )


def _leaves(group: Any) -> Iterator[tuple[str, np.dtype]]:
    found: list[tuple[str, np.dtype]] = []
    group.visititems(lambda name, item: found.append((name, item.dtype)) if hasattr(item, "dtype") else None)
    yield from found


def _require_alignment(alignment: str | None) -> None:
    if alignment not in (None, *ALIGNMENTS):
        msg = f"alignment={alignment!r}: expected one of {', '.join(ALIGNMENTS)}, or None to detect it."
        raise SchemaMismatch(msg)
