"""From the arrays of an episode to transitions: end flags, final observations, and frames that have no successor."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns
from rlhive.data.formats._episode_source import EpisodeArrays, end_flags
from rlhive.errors import SchemaMismatchError

#: Column of a flag that does not say whether the task ended or was cut off.
DONE = keys.key_to_column(keys.NEXT_DONE)
#: Roots of the columns that belong to the state.
OBSERVED_ROOTS = (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)


def finish_episode(arrays: EpisodeArrays) -> EpisodeArrays | None:
    """Return the arrays as transitions, with end flags and final observations; None if there is no transition.

    Without any end flag in the file, why the episode ends is unknown, and neither flag is set.

    Raises:
        SchemaMismatchError: An end flag stands before the last row, or a row has several rewards.
    """
    if arrays.has_frames:
        return _finish_frames(arrays)
    if not arrays.length:
        return None
    columns = dict(arrays.columns)
    done = columns.pop(DONE, None)
    if done is not None and not {TERMINATED, TRUNCATED} & columns.keys():
        columns |= end_flags(arrays.length, terminated=bool(np.any(done[-1])))
    unknown = end_flags(arrays.length, terminated=None)
    for name in (TERMINATED, TRUNCATED):
        columns[name] = _to_flag(columns[name], arrays.length) if name in columns else unknown[name]
    _require_last(columns, arrays.context)
    if REWARD in columns:
        columns[REWARD] = _to_column_vector(columns[REWARD], arrays)
    new = [name for name in columns if name.split(".")[0] in OBSERVED_ROOTS and name not in arrays.final]
    finished = replace(arrays, columns=columns)
    terminated = bool(columns[TERMINATED][-1].any())
    is_known = terminated or bool(columns[TRUNCATED][-1].any())
    return _observe(finished, new, terminated=terminated if is_known else None) if new else finished


def _finish_frames(arrays: EpisodeArrays) -> EpisodeArrays | None:
    columns = dict(arrays.columns)
    length = arrays.length
    if not length:
        return None
    flags = {name: columns.pop(name) for name in (DONE, TERMINATED, TRUNCATED) if name in columns}
    inner = [name for name, rows in flags.items() if np.any(rows[:-1])]
    left_out = (*arrays.left_out, *(f"{name} before the last frame" for name in inner))
    terminated = _is_terminated(flags, arrays.final) if flags else None
    if REWARD in columns:
        columns[REWARD] = _to_column_vector(columns[REWARD], arrays)
    ended = replace(
        arrays, columns=columns | end_flags(length, terminated=terminated), left_out=left_out, has_frames=False
    )
    new = [name for name in columns if name.split(".")[0] in OBSERVED_ROOTS and name not in arrays.final]
    return _observe(ended, new, terminated=terminated)


def _observe(arrays: EpisodeArrays, names: Iterable[str], *, terminated: bool | None) -> EpisodeArrays | None:
    """Return an episode in which further columns are observed, although the file has no value after their last row.

    Where the task ended, the last value stands in for it, which no value target reads. Otherwise the last row becomes
    the final observation, without its action.
    """
    final = dict(arrays.final) | {name: arrays.columns[name][-1] for name in names}
    metadata = dict(arrays.fields.get("metadata") or {})
    if terminated:
        fields = {**arrays.fields, "metadata": metadata | {"final_observation": "unknown"}}
        return replace(arrays, final=final, fields=fields)
    length = arrays.length - 1
    if length < 1:
        return None
    final |= {name: arrays.columns[name][-1] for name in arrays.final}
    columns = {name: rows[:-1] for name, rows in arrays.columns.items()}
    return replace(arrays, columns=columns | end_flags(length, terminated=terminated), final=final)


def _is_terminated(flags: Columns, final: Columns) -> bool:
    """Return whether the last action ended the task: done counts where it was also a success, if that is known."""
    if TERMINATED in flags:
        return bool(np.any(flags[TERMINATED][-1]))
    return DONE in flags and bool(np.any(flags[DONE][-1])) and bool(np.any(final.get(keys.SUCCESS, True)))


def _require_last(columns: Columns, context: str) -> None:
    """Refuse an end flag that is set before the last row."""
    ends = (columns[TERMINATED] | columns[TRUNCATED]).any(axis=1)
    if ends[:-1].any():
        msg = (
            f"{context}, row {int(ends[:-1].argmax())}: expected an end flag only in the last row {len(ends) - 1}. "
            "Split the episode here."
        )
        raise SchemaMismatchError(msg)


def _to_flag(rows: np.ndarray, length: int) -> np.ndarray:
    """Return a flag as bool ``[T, 1]``; one that is null is not set."""
    flat = rows.reshape(length, -1)
    is_set = (
        np.array([[bool(item) and item == item for item in row] for row in flat])
        if flat.dtype == object
        else ((flat != 0) & (flat == flat))
    )
    return is_set.any(axis=1)[:, None]


def _to_column_vector(rows: np.ndarray, arrays: EpisodeArrays) -> np.ndarray:
    """Return the rewards of an episode, ``[T, 1]``; objects are left to the import, which knows their form."""
    if rows.dtype == object:
        return rows
    if rows.shape not in ((arrays.length,), (arrays.length, 1)):
        msg = (
            f"{arrays.context}: column {REWARD}: expected one number for each row, got {rows.dtype} "
            f"{list(rows.shape)}. The option drop leaves it out, rename gives it another name."
        )
        raise SchemaMismatchError(msg)
    return rows.reshape(arrays.length, 1)
