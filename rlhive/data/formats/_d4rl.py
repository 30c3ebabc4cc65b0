"""D4RL's flat HDF5 files, read into episodes that end where the data show it.

::

    observations [N, …]  actions [N, …]  rewards [N]  terminals [N]     one row per transition, episode after episode
    timeouts [N]             the time limit ended the episode after this row; some files lack it
    next_observations [N, …] the state that followed; in files without it, the last state of every episode is missing
    infos/<name> [N, …]      further values of the row, simulator positions (qpos, qvel) among them
    <name> [N, …]            whatever else has one row per transition

Known defects of published files are detected and noted, or refused where the data cannot resolve them: ends that are
not marked or not where the trajectory breaks, no next observations, no timeouts at all, and rewards of the row's own
state instead of the following one (maze2d).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD
from rlhive.data.formats._d4rl_ends import find_episode_ends
from rlhive.data.formats._episode_source import (
    EpisodeArrays,
    EpisodeSource,
    Keeps,
    PendingEpisode,
    end_flags,
)
from rlhive.data.formats._hdf5 import Hdf5File, open_hdf5
from rlhive.data.formats._hdf5_dataset import Hdf5Dataset
from rlhive.data.formats._memory_limits import MemoryBudget, require_memory
from rlhive.data.formats._pending_source import build_source
from rlhive.data.versions import compute_sha256
from rlhive.errors import SchemaMismatchError

#: Bytes that the ends of the episodes take for each row of a dataset at most.
_ROW_BYTES = 64
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_READ = (*_REQUIRED, "timeouts", "next_observations")
_INFOS = "infos/"


@dataclass(frozen=True)
class _Span:
    """The rows of one episode.

    Attributes:
        start: First row.
        stop: Row after the last transition.
        terminated: Whether the task ended.
        final_row: Row of ``observations`` that holds the last state; None if ``next_observations`` holds it.
        has_final_state: Whether that row is the true last state; otherwise the state before stands in for it.
    """

    start: int
    stop: int
    terminated: bool
    final_row: int | None
    has_final_state: bool


def read_d4rl(
    source: Path,
    *,
    alignment: str | None = None,
    horizon: int | None = None,
    breaks: str | None = None,
    split: str = "train",
) -> EpisodeSource:
    """Read one D4RL file.

    Every episode keeps its true last observation where the file has it. Where the file lacks it, an episode that the
    time limit ended loses its last transition, whose following state is unknown. One that ended the task repeats its
    last observation, which no value target reads; its metadata has ``"final_observation": "unknown"``.

    Args:
        source: The file.
        alignment: "path" if the reward of a row is that of its action. "state" if it is that of the row's own state, as
            in maze2d's files; rewards then move one row up. Required for files named maze2d, "path" for others.
        horizon: Maximum episode length, for files without timeouts and without next observations.
        breaks: "marked" ends episodes where the file marks it. "found" also ends them where the observations jump, and
            ignores time-outs inside a trajectory. By default the two must agree.
        split: Name of the split for all episodes.

    Returns:
        The episodes, with simulator positions of row 0 as start state, and ``info.<name>`` columns.

    Raises:
        SchemaMismatchError: The file is no D4RL file, its ends disagree with its observations, or it has no ends; the
            message names the row and the option that decides.
        MissingExtraError: h5py is not installed.

    Example:
        >>> read_d4rl(Path("halfcheetah_medium-v2.hdf5")).num_episodes  # doctest: +SKIP
        1000
    """
    with open_hdf5(source) as h5:
        _require_d4rl_arrays(h5, source)
        alignment = _choose_alignment(source, alignment)
        terminals, is_last, notes = find_episode_ends(h5, source, horizon, breaks)
        spans = list(_split_into_spans(h5, terminals, is_last, alignment))
        _require_bounded_spans(h5, spans)
        notes += _describe_left_out(h5, int(is_last.sum()) - len(spans))
    run = _describe_d4rl_run(source, alignment)

    def pending() -> Iterator[PendingEpisode]:
        fields = {"split": split, "run": run["run"]}
        with open_hdf5(source) as h5:
            for episode, span in enumerate(spans):
                context = f"{source}, rows from {span.start}"
                yield PendingEpisode(episode, context, partial(_read_span, h5, span, alignment, context), fields)

    notes += _describe_lost_rows(spans)
    return build_source(pending, runs=(run,), num_episodes=len(spans), notes=tuple(notes))


def _require_d4rl_arrays(h5: Any, path: Path) -> None:
    missing = [name for name in _REQUIRED if name not in h5]
    lengths = {name: len(h5[name]) for name in _REQUIRED if name in h5}
    require_memory(sum(lengths.values()) * _ROW_BYTES, h5.num_bytes, str(path))
    if missing or len(set(lengths.values())) != 1:
        problem = f"no {', '.join(missing)}" if missing else f"lengths {lengths}"
        msg = f"{path}: expected D4RL's {', '.join(_REQUIRED)}, all of one length, got {problem}."
        raise SchemaMismatchError(msg)


def _choose_alignment(path: Path, alignment: str | None) -> str:
    if alignment is None and "maze2d" in path.name:
        msg = (
            f"{path}: maze2d's published files hold the reward of the row's own state, not of the one that its action "
            "led to. The option decides: alignment='state' moves it, alignment='path' takes it as it is."
        )
        raise SchemaMismatchError(msg)
    return alignment or "path"


def _split_into_spans(h5: Any, terminals: np.ndarray, is_last: np.ndarray, alignment: str) -> Iterator[_Span]:
    """Yield the episodes that have a transition left."""
    has_next = "next_observations" in h5
    start = 0
    for row in np.flatnonzero(is_last).tolist():
        terminated = bool(terminals[row])
        if alignment == "state" or (not has_next and not terminated):  # the last row is the last state
            span = _Span(start, row, terminated, final_row=row, has_final_state=True)
        else:
            span = _Span(start, row + 1, terminated, final_row=None if has_next else row, has_final_state=has_next)
        if span.stop > span.start:
            yield span
        start = row + 1


def _require_bounded_spans(h5: Hdf5File, spans: list[_Span]) -> None:
    """Check the size of the longest episode before it is read."""
    num_rows = len(h5["observations"])
    longest = max((span.stop - span.start for span in spans), default=0)
    budget = MemoryBudget(f"{h5.path}, an episode of {longest} rows")
    for _, item in h5.walk():
        if isinstance(item, Hdf5Dataset) and item.shape[:1] == (num_rows,):
            share = longest / num_rows
            budget.add(int(item.num_bytes * share), int(item.stored_bytes * share))


def _read_span(h5: Any, span: _Span, alignment: str, context: str, keeps: Keeps) -> EpisodeArrays:
    length, rows = span.stop - span.start, slice(span.start, span.stop)
    reward_rows = slice(span.start + 1, span.stop + 1) if alignment == "state" else rows
    columns = {
        keys.OBSERVATION: np.asarray(h5["observations"][rows]),
        keys.ACTION: np.asarray(h5["actions"][rows]),
        REWARD: np.asarray(h5["rewards"][reward_rows]).reshape(length, 1),
        **end_flags(length, terminated=span.terminated),
        **{name: np.asarray(values[rows]) for name, values in _list_infos(h5).items() if keeps(name)},
    }
    final = h5["next_observations"][span.stop - 1] if span.final_row is None else h5["observations"][span.final_row]
    metadata = {} if span.has_final_state else {"final_observation": "unknown"}
    fields = {"metadata": metadata, "start_state": _read_positions(h5, span.start)}
    return EpisodeArrays(columns, {keys.OBSERVATION: np.asarray(final)}, context, fields)


def _read_positions(h5: Any, row: int) -> dict[str, np.ndarray]:
    """Return the simulator's positions and velocities of a row, flat float64 arrays."""
    names = [name for name in ("qpos", "qvel") if f"infos/{name}" in h5]
    return {name: np.asarray(h5[f"infos/{name}"][row], np.float64).ravel() for name in names}


def _list_infos(h5: Any) -> dict[str, Any]:
    """Return the other datasets that have one row per transition by column: those below ``infos``, and at the top."""
    named: dict[str, Any] = {}
    for path, item in sorted(h5.find_datasets().items(), key=lambda pair: pair[0].startswith(_INFOS)):
        if path not in _READ and item.shape[:1] == (len(h5["observations"]),):
            name = path.removeprefix(_INFOS).replace("/", ".")
            named[f"info.{name}" if f"info.{name}" not in named else f"info.infos.{name}"] = item
    return named


def _describe_left_out(h5: Any, num_without_transition: int) -> Iterator[str]:
    num_rows = len(h5["observations"])
    ignored = [
        f"{path} {list(item.shape)}"
        for path, item in h5.find_datasets().items()
        if path not in _READ and item.shape[:1] != (num_rows,)
    ]
    if ignored:
        yield f"left out, since they have no row for each transition: {', '.join(sorted(ignored))}"
    if num_without_transition:
        yield f"episodes of one row, whose next state is unknown, left out: {num_without_transition}"


def _describe_d4rl_run(path: Path, alignment: str) -> dict[str, Any]:
    digest = compute_sha256(path)
    run_id = hashlib.sha256(json.dumps([digest, alignment]).encode()).hexdigest()[:12]
    return {"run": run_id, "imported_from": "d4rl-hdf5", "file": path.name, "sha256": digest, "alignment": alignment}


def _describe_lost_rows(spans: list[_Span]) -> Iterator[str]:
    num_unknown = sum(not span.has_final_state for span in spans)
    if num_unknown:
        yield f"{num_unknown} episodes whose last observation is not in the file: the one before stands in for it"
    num_shortened = sum(span.final_row is not None and span.has_final_state for span in spans)
    if num_shortened:
        yield (
            f"{num_shortened} episodes whose last row serves as the final observation: "
            "its action and reward are left out"
        )
