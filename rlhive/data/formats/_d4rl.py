"""D4RL's flat HDF5 files → episodes, with their ends where the data say they are.

::

    observations [N, …]  actions [N, …]  rewards [N]  terminals [N]     one row per transition, episode after episode
    timeouts [N]             the time limit ended the episode after this row; some files lack it
    next_observations [N, …] the state that followed; some files lack it, and with it every episode's last state
    infos/<name> [N, …]      further values of the row, simulator positions (qpos, qvel) among them

Known defects of published files are found from the data and told, or refused where they cannot be resolved: ends that
are not marked or stand elsewhere than the trajectory's breaks, no next observations, no timeouts at all, and rewards of
the row's own state instead of the following one (maze2d).
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, EpisodeRecord
from rlhive.data._schema import Field, Schema
from rlhive.data.formats._hdf5 import open_hdf5, sha256_of
from rlhive.data.formats._imported import Imported, end_flags, record_of
from rlhive.errors import SchemaMismatch

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_CHUNK_BYTES = 4 * 2**20  # of the observations that are compared at a time
#: A step this many times as long as the 99.9th percentile of all steps is a jump to another trajectory.
_JUMP = 10.0


@dataclass(frozen=True)
class _Cut:
    """Where an episode lies: rows ``[start, stop)`` of the file, and how it ends."""

    start: int
    stop: int
    terminated: bool
    #: Index of the row below "observations" that holds the last state; None for that of next_observations.
    final: int | None
    known: bool


def read(
    source: str | Path,
    *,
    alignment: str | None = None,
    horizon: int | None = None,
    breaks: str | None = None,
    split: str = "train",
) -> Imported:
    """Read one D4RL file.

    Every episode keeps its true last observation where the file has it. Where it has none, an episode that the time
    limit ended loses its last transition, whose following state nobody knows, and one that ended for good repeats its
    last observation, which no value target reads; its metadata say ``"final_observation": "unknown"``.

    Args:
        source: The file.
        alignment: "path", the reward of a row is that of its action; "state", it is that of the row's own state, as in
            maze2d's files, and moves one row up. Files named maze2d have to be told; any other is "path".
        horizon: Maximum episode length, for files without timeouts and without next observations.
        breaks: "marked" takes episodes as the file marks them; "found" cuts where the observations jump as well, and
            ignores time-outs inside a trajectory. By default the two have to agree.
        split: Name of the split that all episodes go to.

    Returns:
        The episodes, with simulator positions of row 0 as start state, and ``info.<name>`` columns.

    Raises:
        SchemaMismatch: It is no such file, its ends disagree with its observations, or it has no ends; the message
            names the row and the argument that decides.
        MissingExtra: h5py is not installed.

    Example:
        >>> read("halfcheetah_medium-v2.hdf5").num_episodes  # doctest: +SKIP
        1000
    """
    path = Path(source)
    with open_hdf5(path) as h5:
        _require_keys(h5, path)
        alignment = _alignment(path, alignment)
        ends, notes = _ends(h5, path, horizon, breaks)
        cuts = list(_cuts(h5, *ends, alignment))
        schema = _schema(h5)
    run = _run(path, alignment)

    def records() -> Iterator[EpisodeRecord]:
        with open_hdf5(path) as h5:
            for episode, cut in enumerate(cuts):
                where = f"{path}, rows from {cut.start}"
                told = {"split": split, "run": run["run"], "metadata": _metadata(cut)}
                columns, final = _columns(h5, cut, alignment)
                state = _start_state(h5, cut.start)
                yield record_of(columns, final, schema, where=where, episode=episode, start_state=state, **told)

    return Imported(schema, records, runs=(run,), num_episodes=len(cuts), notes=(*notes, *_lost(cuts)))


def _require_keys(h5: Any, path: Path) -> None:
    missing = [name for name in _REQUIRED if name not in h5]
    sizes = {name: len(h5[name]) for name in _REQUIRED if name in h5}
    if missing or len(set(sizes.values())) != 1:
        found = f"no {', '.join(missing)}" if missing else f"lengths {sizes}"
        msg = f"{path}: expected D4RL's {', '.join(_REQUIRED)}, all of one length, got {found}. Give another file."
        raise SchemaMismatch(msg)


def _alignment(path: Path, alignment: str | None) -> str:
    if alignment not in (None, "path", "state"):
        msg = f"alignment={alignment!r}: expected 'path' or 'state'."
        raise SchemaMismatch(msg)
    if alignment is None and "maze2d" in path.name:
        msg = (
            f"{path}: maze2d's published files hold the reward of the row's own state, not of the one that its action "
            "led to. Say which is meant: alignment='state' moves it, alignment='path' takes it as it is."
        )
        raise SchemaMismatch(msg)
    return alignment or "path"


def _ends(h5: Any, path: Path, horizon: int | None, breaks: str | None) -> tuple[tuple, list[str]]:
    """Return whether each row ends the task and whether it is its episode's last, bool ``[N]`` each; and notes."""
    if breaks not in (None, "marked", "found"):
        msg = f"breaks={breaks!r}: expected 'marked' or 'found'."
        raise SchemaMismatch(msg)
    terminals = np.ravel(h5["terminals"]).astype(bool)
    marked = "timeouts" in h5 or horizon is not None
    timeouts = _timeouts(h5, terminals, horizon)
    last = terminals | timeouts
    jumps = _jumps(h5)
    if not marked and "next_observations" not in h5 and not jumps.any() and not terminals.any():
        msg = f"{path}: expected timeouts, next_observations or terminals, got none of them. Give horizon=."
        raise SchemaMismatch(msg)
    unmarked, early = jumps & ~last, timeouts[:-1] & ~jumps[:-1] if len(last) > 1 else timeouts[:0]
    notes = [] if "timeouts" in h5 else ["no timeouts in the file: " + _said(horizon)]
    if unmarked.any() and marked and breaks is None:
        msg = (
            f"{path}: the observations jump after row {int(unmarked.argmax())}, and at {int(unmarked.sum())} places "
            "in all, where the file marks no end. breaks='found' cuts there, breaks='marked' believes the file."
        )
        raise SchemaMismatch(msg)
    if breaks != "marked" and unmarked.any():
        notes.append(f"{int(unmarked.sum())} ends that the file does not mark, found where its observations jump")
        last = last | unmarked
    if breaks == "found" and early.any():
        notes.append(f"{int(early.sum())} time-outs inside a trajectory, ignored")
        last[:-1] &= ~early | terminals[:-1]
    last[-1] = True
    return (terminals, last), notes


def _said(horizon: int | None) -> str:
    return f"an episode ends after {horizon} rows" if horizon else "ends are where the observations jump"


def _timeouts(h5: Any, terminals: np.ndarray, horizon: int | None) -> np.ndarray:
    if "timeouts" in h5:
        return np.ravel(h5["timeouts"]).astype(bool)
    timeouts = np.zeros(len(terminals), bool)
    if horizon:
        starts = np.concatenate([[0], np.flatnonzero(terminals) + 1, [len(terminals)]])
        for start, stop in itertools.pairwise(starts):
            timeouts[start + horizon - 1 : stop : horizon] = True
    return timeouts


def _jumps(h5: Any) -> np.ndarray:
    """Return after which rows another trajectory begins, as the observations tell; bool ``[N]``, the last False.

    Exact where the file has next observations; without, a step many times as long as any usual one.
    """
    observations = h5["observations"]
    count = len(observations)
    lengths, differs = np.zeros(count), np.zeros(count, bool)
    chunk = max(1, _CHUNK_BYTES // max(1, observations.dtype.itemsize * math.prod(observations.shape[1:])))
    for start in range(0, count - 1, chunk):
        stop = min(start + chunk, count - 1)
        rows = np.asarray(observations[start : stop + 1]).reshape(stop - start + 1, -1)
        if "next_observations" in h5:
            following = np.asarray(h5["next_observations"][start:stop]).reshape(stop - start, -1)
            differs[start:stop] = (following != rows[1:]).any(axis=1)
        lengths[start:stop] = np.abs(np.diff(rows.astype(np.float64), axis=0)).max(axis=1)
    if "next_observations" in h5:
        return differs
    usual = np.quantile(lengths[: count - 1], 0.999) if count > 1 else 0.0
    # In a file of few rows the breaks themselves make the upper percentiles.
    usual = min(usual, 10 * np.median(lengths[: count - 1])) if count > 1 else 0.0
    return lengths > _JUMP * usual if usual > 0 else differs


def _cuts(h5: Any, terminals: np.ndarray, last: np.ndarray, alignment: str) -> Iterator[_Cut]:
    """Yield the episodes; those of which nothing is left are dropped."""
    start = 0
    for row in np.flatnonzero(last).tolist():
        stop, terminated = row + 1, bool(terminals[row])
        if alignment == "state" or ("next_observations" not in h5 and not terminated):
            cut = _Cut(start, row, terminated, final=row, known=True)  # the last row is the last state
        elif "next_observations" in h5:
            cut = _Cut(start, stop, terminated, final=None, known=True)
        else:
            cut = _Cut(start, stop, terminated, final=row, known=False)
        if cut.stop > cut.start:
            yield cut
        start = stop


def _columns(h5: Any, cut: _Cut, alignment: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the columns and the final values of an episode."""
    length, rows = cut.stop - cut.start, slice(cut.start, cut.stop)
    rewarded = slice(cut.start + 1, cut.stop + 1) if alignment == "state" else rows
    columns = {
        keys.OBSERVATION: np.asarray(h5["observations"][rows]),
        keys.ACTION: np.asarray(h5["actions"][rows]),
        REWARD: np.asarray(h5["rewards"][rewarded]).reshape(length, 1),
        **end_flags(length, terminated=cut.terminated),
        **{f"info.{name}": np.asarray(values[rows]) for name, values in _infos(h5).items()},
    }
    ends = h5["next_observations"][cut.stop - 1] if cut.final is None else h5["observations"][cut.final]
    return columns, {keys.OBSERVATION: np.asarray(ends)}


def _metadata(cut: _Cut) -> dict[str, Any]:
    return {} if cut.known else {"final_observation": "unknown"}


def _start_state(h5: Any, row: int) -> dict[str, np.ndarray]:
    names = [name for name in ("qpos", "qvel") if f"infos/{name}" in h5]
    return {name: np.asarray(h5[f"infos/{name}"][row], np.float64).ravel() for name in names}


def _infos(h5: Any) -> dict[str, Any]:
    infos, count = h5.get("infos", {}), len(h5["observations"])
    return {name: infos[name] for name in infos if getattr(infos[name], "shape", ())[:1] == (count,)}


def _schema(h5: Any) -> Schema:
    def field(column: str, values: Any, *, observed: bool = False) -> Field:
        return Field(column, values.dtype.name, tuple(values.shape[1:]), observed=observed)

    flags = [Field(column, "bool", (1,), observed=False) for column in (TERMINATED, TRUNCATED)]
    fields = [
        field(keys.OBSERVATION, h5["observations"], observed=True),
        field(keys.ACTION, h5["actions"]),
        Field(REWARD, h5["rewards"].dtype.name, (1,), observed=False),
        *flags,
        *(field(f"info.{name}", values) for name, values in _infos(h5).items()),
    ]
    return Schema(tuple(sorted(fields, key=lambda item: item.column)))


def _run(path: Path, alignment: str) -> dict[str, Any]:
    digest = sha256_of(path)
    run = hashlib.sha256(json.dumps([digest, alignment]).encode()).hexdigest()[:12]
    return {"run": run, "imported_from": "d4rl-hdf5", "file": path.name, "sha256": digest, "alignment": alignment}


def _lost(cuts: list[_Cut]) -> Iterator[str]:
    unknown = sum(not cut.known for cut in cuts)
    if unknown:
        yield f"{unknown} episodes whose last observation is not in the file: the one before stands in for it"
    cut_short = sum(cut.final is not None and cut.known for cut in cuts)
    if cut_short:
        yield f"{cut_short} episodes whose last row serves as the final observation: its action and reward are left out"
