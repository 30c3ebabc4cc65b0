"""Rewards and success of files that have none: the options ``reward`` and ``success`` of an import.

::

    success="all"          every episode ends in a solved state, as demonstrations do
    success="<column>"     a flag of each row: whether its action led to a solved state
    success=function       the same, of the episode's columns [T, …] by name; or one flag for the episode's end
    reward="sparse"        1 where the action of the row led to a solved state, else 0
    reward="<column>"      that column
    reward=function        a number for each row, of the episode's columns

Where the last state is solved the task ended: the last transition is terminated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED, Columns
from rlhive.data.formats._episode_source import EpisodeArrays, end_flags
from rlhive.data.formats._transitions import DONE
from rlhive.errors import SchemaMismatchError

SPARSE, ALL = "sparse", "all"
_KEYWORDS = {"reward": SPARSE, "success": ALL}

#: "sparse" or "all", the name of a column, or a function of an episode's columns ``[T, …]`` by name.
RowFunction: TypeAlias = Callable[[Mapping[str, np.ndarray]], Any]
RewardOption: TypeAlias = str | RowFunction
SuccessOption: TypeAlias = str | RowFunction


@dataclass(frozen=True)
class SuccessRewards:
    """The options ``reward`` and ``success`` of one import.

    Attributes:
        reward: What the rewards are; None for those of the files.
        success: What success is; None for that of the files.
    """

    reward: RewardOption | None = None
    success: SuccessOption | None = None

    def __post_init__(self) -> None:
        for name, value in (("reward", self.reward), ("success", self.success)):
            if value is not None and not callable(value) and (not isinstance(value, str) or not value):
                keyword = _KEYWORDS[name]
                msg = f"{name}={value!r}: expected {keyword!r}, the name of a column, or a function of the columns."
                raise SchemaMismatchError(msg)

    def notes(self) -> tuple[str, ...]:
        """Return what the options do, in sentences."""
        notes = [] if self.success is None else [f"success is {_describe_choice(self.success)}"]
        if self.reward is not None:
            notes.append(f"the reward is {_describe_choice(self.reward)}")
        return tuple(notes)

    def apply(self, arrays: EpisodeArrays) -> EpisodeArrays:
        """Return an episode with the rewards, success and end that the options say.

        Raises:
            SchemaMismatchError: There is no such column, or a function gives another number of rows.
        """
        if not arrays.length or (self.reward is None and self.success is None):
            return arrays
        solved = self._find_solved(arrays)
        if self.reward is None:
            return arrays if solved is None else _mark_solved(arrays, solved)
        if self.reward == SPARSE:
            if solved is None:
                solved = _read_recorded_success(arrays)
            rewards = solved.astype(np.float32)
            return _with_rewards(_mark_solved(arrays, solved), rewards)
        values = _evaluate(self.reward, arrays, "reward")
        rewards = values if values.dtype.kind == "f" else values.astype(np.float32)
        return _with_rewards(arrays if solved is None else _mark_solved(arrays, solved), rewards)

    def _find_solved(self, arrays: EpisodeArrays) -> np.ndarray | None:
        """Return whether the action of each row led to a solved state, bool ``[T]``; None without the option."""
        if self.success is None:
            return None
        if self.success == ALL:
            return np.arange(arrays.length) == arrays.length - 1
        flags = _evaluate(self.success, arrays, "success", is_flag=True)
        return flags != 0


def _read_recorded_success(arrays: EpisodeArrays) -> np.ndarray:
    """Return the success that the files record, bool ``[T]``.

    Where they record none, every episode ends in it that they do not record as cut off.
    """
    final = arrays.final.get(keys.SUCCESS)
    if final is None:
        flags = [bool(np.any(arrays.columns[name][-1])) for name in (TERMINATED, TRUNCATED) if name in arrays.columns]
        is_cut = flags == [False, True]
        return (np.arange(arrays.length) == arrays.length - 1) & (not is_cut)
    states = np.asarray(arrays.columns[keys.SUCCESS]).reshape(arrays.length, -1).any(axis=1)
    return np.append(states[1:], np.any(final))


def _evaluate(option: RewardOption, arrays: EpisodeArrays, name: str, *, is_flag: bool = False) -> np.ndarray:
    """Return the numbers of a column or function, ``[T]``."""
    length = arrays.length
    if callable(option):
        values = np.asarray(option(dict(arrays.columns)))
        if is_flag and values.size == 1:  # of the episode's end
            values = (np.arange(length) == length - 1) & bool(values)
    else:
        by_origin = {origin: column for column, origin in arrays.origins.items()}
        column = option if option in arrays.columns else by_origin.get(option, option)
        if column not in arrays.columns:
            msg = (
                f"{arrays.context}: {name}={option!r}: expected {_KEYWORDS[name]!r} or a column, one of "
                f"{', '.join(sorted(arrays.columns))}."
            )
            raise SchemaMismatchError(msg)
        values = arrays.columns[column]
    if values.shape not in ((length,), (length, 1)) or values.dtype.kind not in "biuf":
        msg = (
            f"{arrays.context}: {name}={_describe_choice(option)}: expected {length} numbers, one for each row, got "
            f"{values.dtype} {list(values.shape)}."
        )
        raise SchemaMismatchError(msg)
    return values.reshape(length)


def _mark_solved(arrays: EpisodeArrays, solved: np.ndarray) -> EpisodeArrays:
    """Return an episode with the column ``success``, a property of the state, and its end."""
    length = arrays.length
    terminated = bool(solved[-1]) or bool(np.any(arrays.columns.get(TERMINATED, np.zeros(1))[-1]))
    columns: Columns = {
        name: rows for name, rows in arrays.columns.items() if name not in (DONE, TERMINATED, TRUNCATED)
    }
    columns[keys.SUCCESS] = np.append(False, solved[:-1]).astype(bool)[:, None]
    columns |= end_flags(length, terminated=terminated)
    final = {**arrays.final, keys.SUCCESS: np.asarray(solved[-1:], bool)}
    return replace(arrays, columns=columns, final=final)


def _with_rewards(arrays: EpisodeArrays, rewards: np.ndarray) -> EpisodeArrays:
    replaced = (f"{REWARD} of the files, which the option reward replaces",) if REWARD in arrays.columns else ()
    columns = {**arrays.columns, REWARD: rewards[:, None]}
    return replace(arrays, columns=columns, left_out=(*arrays.left_out, *replaced))


def _describe_choice(option: RewardOption) -> str:
    return option if isinstance(option, str) else f"the function {getattr(option, '__qualname__', repr(option))}"
