"""Where the episodes of a D4RL file end: by its marks, and by the jumps of its observations."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.errors import SchemaMismatchError

#: Bytes of observations that are compared at a time.
_CHUNK_BYTES = 4 * 2**20
#: A step this many times as long as the 99.9th percentile of all steps is a jump to another trajectory.
_JUMP_FACTOR = 10.0


def find_episode_ends(
    h5: Any, path: Path, horizon: int | None, breaks: str | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Find the last row of every episode.

    Args:
        h5: The open file.
        path: Path of the file, for messages.
        horizon: Maximum episode length, for files without timeouts; None if unknown.
        breaks: "marked", "found", or None where marks and jumps must agree.

    Returns:
        Whether each row ends the task, whether it is the last of its episode, bool ``[N]`` each; and notes.

    Raises:
        SchemaMismatchError: The file has no ends at all, or the observations jump where no end is marked.
    """
    terminals = np.ravel(h5["terminals"]).astype(bool)
    has_marks = "timeouts" in h5 or horizon is not None
    timeouts = _read_timeouts(h5, terminals, horizon)
    is_last = terminals | timeouts
    jumps = _find_jumps(h5)
    if not has_marks and "next_observations" not in h5 and not jumps.any() and not terminals.any():
        msg = f"{path}: expected timeouts, next_observations or terminals, got none of them. horizon= replaces them."
        raise SchemaMismatchError(msg)
    unmarked = jumps & ~is_last
    if unmarked.any() and has_marks and breaks is None:
        msg = (
            f"{path}: the observations jump after row {int(unmarked.argmax())}, and at {int(unmarked.sum())} places "
            "in all, where the file marks no end. breaks='found' ends episodes there, breaks='marked' ignores the "
            "jumps."
        )
        raise SchemaMismatchError(msg)
    notes = [] if "timeouts" in h5 else [_describe_missing_timeouts(horizon)]
    if breaks != "marked" and unmarked.any():
        notes.append(f"{int(unmarked.sum())} ends that the file does not mark, found where its observations jump")
        is_last = is_last | unmarked
    inside = timeouts[:-1] & ~jumps[:-1]
    if breaks == "found" and inside.any():
        notes.append(f"{int(inside.sum())} time-outs inside a trajectory, ignored")
        is_last[:-1] &= ~inside | terminals[:-1]
    is_last[-1] = True
    return terminals, is_last, notes


def _describe_missing_timeouts(horizon: int | None) -> str:
    rule = f"an episode ends after {horizon} rows" if horizon else "ends are where the observations jump"
    return f"no timeouts in the file: {rule}"


def _read_timeouts(h5: Any, terminals: np.ndarray, horizon: int | None) -> np.ndarray:
    """Return after which rows the time limit ended an episode, bool ``[N]``; computed from the horizon if needed."""
    if "timeouts" in h5:
        return np.ravel(h5["timeouts"]).astype(bool)
    timeouts = np.zeros(len(terminals), bool)
    if horizon:
        starts = np.concatenate([[0], np.flatnonzero(terminals) + 1, [len(terminals)]])
        for start, stop in itertools.pairwise(starts):
            timeouts[start + horizon - 1 : stop : horizon] = True
    return timeouts


def _find_jumps(h5: Any) -> np.ndarray:
    """Return after which rows another trajectory begins, bool ``[N]``, the last False.

    Exact where the file has next observations. Otherwise a jump is a step many times as long as the usual ones.
    """
    observations = h5["observations"]
    num_rows = len(observations)
    step_lengths, differs = np.zeros(num_rows), np.zeros(num_rows, bool)
    chunk = max(1, _CHUNK_BYTES // max(1, observations.dtype.itemsize * math.prod(observations.shape[1:])))
    for start in range(0, num_rows - 1, chunk):
        stop = min(start + chunk, num_rows - 1)
        rows = np.asarray(observations[start : stop + 1]).reshape(stop - start + 1, -1)
        if "next_observations" in h5:
            following = np.asarray(h5["next_observations"][start:stop]).reshape(stop - start, -1)
            is_nan = (following != following) & (rows[1:] != rows[1:])  # a NaN is no jump
            differs[start:stop] = ((following != rows[1:]) & ~is_nan).any(axis=1)
        steps = np.abs(np.diff(rows.astype(np.float64), axis=0))
        step_lengths[start:stop] = np.where(np.isnan(steps), 0, steps).max(axis=1)
    if "next_observations" in h5 or num_rows < 2:
        return differs
    usual = np.quantile(step_lengths[: num_rows - 1], 0.999)
    # In a file of few rows the jumps themselves are the upper percentiles.
    usual = min(usual, 10 * np.median(step_lengths[: num_rows - 1]))
    return step_lengths > _JUMP_FACTOR * usual if usual > 0 else differs
