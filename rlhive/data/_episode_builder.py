"""Episodes put together from what a collector, a replay buffer or a loop of steps hands out.

Such batches hold pieces of the episodes of several environments, ``[*lines, time]``::

    batch 1   line 0   s_0 s_1 s_2 s_3          whose piece it is, a trajectory id or the line says;
              line 1   s_7 s_8|s_0 s_1          that it goes on there, the observations prove
    batch 2   line 0   s_4 s_5|s_0 s_1
              line 1   s_2 s_3 s_4 s_5

Arrays only; nothing here touches a file or knows a schema.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tensordict import TensorDictBase, is_non_tensor

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED
from rlhive.data._schema import dtype_name, flatten_tensordict, is_stored
from rlhive.errors import SchemaMismatch

logger = logging.getLogger(__name__)

Leaves = dict[str, np.ndarray]

#: Keys that collectors, samplers and trackers add for themselves. They are used or ignored, and never recorded; so is
#: every key whose name begins with "_".
BOOKKEEPING = ("collector", "traj_ids", "mask", "index", "priority_weight", "is_init")

_DONE = keys.key_to_column(keys.NEXT_DONE)
#: So many pieces of an episode are joined into one, so that a long episode of single steps stays small.
_MAX_CHUNKS = 256


@dataclass(frozen=True)
class About:
    """What is said of an episode beside its transitions; see :class:`rlhive.data.EpisodeRecord`."""

    split: str
    seed: int | None = None
    start_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    policy: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Batch:
    """A batch of transitions as arrays.

    Attributes:
        rows: Arrays ``[lines, time, *shape]`` by column name, bookkeeping left out.
        ids: Trajectory of each row, int64 ``[lines, time]``, where the collector said.
        valid: Whether a row is one and not padding.
        starts: Whether a row follows a reset, where a StepCounter or InitTracker said.
        states: The simulator's state before each row, float64 ``[lines, time, *shape]`` by name, where the environment
            gives it below ``state``, as ``RoboHiveEnv(…, state=True)`` does.
    """

    rows: Leaves
    ids: np.ndarray | None
    valid: np.ndarray | None
    starts: np.ndarray | None
    states: Leaves

    @classmethod
    def of(cls, transitions: TensorDictBase, *, drop: tuple[str, ...] = BOOKKEEPING, where: str) -> "Batch":
        """Take a TED TensorDict of batch size ``[*lines, time]`` apart; the arrays share its memory.

        Args:
            transitions: Where it has no ``("next", "truncated")``, that is what is done and not terminated.
            drop: Names of keys at any depth that are left out.
            where: Address for messages.

        Raises:
            SchemaMismatch: No time dimension or no end flags, or a key that cannot be recorded.
        """
        if not isinstance(transitions, TensorDictBase):
            msg = f"{where}: expected a TensorDict of TED transitions, got a {type(transitions).__name__}. Convert it."
            raise SchemaMismatch(msg)
        if not transitions.ndim:
            msg = f"{where}: expected batch size [..., time], got []. Record single transitions with step()."
            raise SchemaMismatch(msg)
        dropped = transitions.exclude(*_dropped_keys(transitions, drop))
        shape = transitions.shape
        lines = int(np.prod(shape[:-1]))
        rows = {
            name: array.reshape(lines, shape[-1], *array.shape[len(shape) :])
            for name, array in flatten_tensordict(dropped, context=where).items()
        }
        _complete_flags(rows, where)
        if REWARD in rows:
            rows.pop(keys.REWARD, None)  # what `td = td["next"]` leaves at the root
        rows = {name: array for name, array in rows.items() if _needed(name, rows)}
        states = _states_of(transitions, where)
        states = {name: array.reshape(lines, shape[-1], -1) for name, array in states.items()}
        used = flatten_tensordict(transitions.select(*_USED, strict=False), context=where)
        used = {name: array.reshape(lines, shape[-1]) for name, array in used.items()}
        ids, valid, starts = (_first_of(used, names) for names in (_IDS, _MASKS, _STARTS))
        if ids is not None and (ids < 0).any():  # frames that a preempted collector did not fill
            valid = (ids >= 0) if valid is None else valid & (ids >= 0)
        if keys.STEP_COUNT in used:
            starts = used[keys.STEP_COUNT] == 0
        return cls(rows, ids, valid, starts, states)

    @property
    def ends(self) -> np.ndarray:
        """Whether the environment said that the episode ends with a row, bool ``[lines, time]``."""
        flags = self.rows[TERMINATED] | self.rows[TRUNCATED]
        return flags.reshape(*flags.shape[:2], -1).any(axis=2)

    @property
    def observed(self) -> list[str]:
        """The columns that have a twin below ``"next"``."""
        return [name for name in sorted(self.rows) if f"{keys.NEXT}.{name}" in self.rows]

    def about_of(self, line: int, row: int, about: About) -> About:
        """Return what is said of an episode that begins in a row, with the start state that the data hold."""
        if about.start_state or not self.states:
            return about
        return replace(about, start_state={name: array[line, row].copy() for name, array in self.states.items()})

    def continues(self, line: int) -> np.ndarray:
        """Whether the observations of row t+1 are the next ones of row t, bool ``[time - 1]``."""
        together = np.ones(self.rows[TERMINATED].shape[1] - 1, dtype=bool)
        for name in self.observed:
            here, there = self.rows[f"{keys.NEXT}.{name}"][line, :-1], self.rows[name][line, 1:]
            # NaN is refused anyway; whole rows are compared, and -0.0 with 0.0 is decided when the episode is packed.
            together &= (here == there).reshape(len(here), -1).all(axis=1)
        return together


@dataclass
class Episode:
    """An episode that is being put together.

    Attributes:
        about: What was said of it.
        chunks: Its transitions in order, arrays ``[t, *shape]``.
        tail: The observed values after the last of them, bit for bit.
        ended: Whether the environment said that it is over.
        headless: Whether its first row does not follow a reset.
        trajectory: The collector's id of it, or None.
        problem: Why it cannot be recorded; empty where nothing is wrong.
    """

    about: About
    chunks: list[Leaves]
    tail: bytes = b""
    ended: bool = False
    headless: bool = False
    trajectory: int | None = None
    problem: str = ""

    def append(self, piece: Leaves) -> None:
        """Add transitions; that they do not fit the first ones is reported when the episode is asked for."""
        first = self.chunks[0] if self.chunks else {}
        for name in sorted(first.keys() | piece.keys()) if first else ():
            kinds = ["no such key" if name not in part else _kind(part[name]) for part in (first, piece)]
            if kinds[0] != kinds[1]:
                self.problem = (
                    self.problem or f"key {name} changes inside the episode: expected {kinds[0]}, got {kinds[1]}"
                )
        if not self.problem:
            self.chunks.append(piece)

    def leaves(self) -> Leaves:
        """Return all its transitions as arrays ``[T, *shape]``.

        Raises:
            SchemaMismatch: A key came or went, or changed its dtype or shape, inside the episode.
        """
        if self.problem:
            msg = f"{self.problem}. Record episodes of one kind."
            raise SchemaMismatch(msg)
        if len(self.chunks) > 1:
            names = self.chunks[0]
            self.chunks = [{name: np.concatenate([chunk[name] for chunk in self.chunks]) for name in names}]
        return self.chunks[0]

    def truncated(self) -> "Episode":
        """Mark the last transition as cut off."""
        leaves = dict(self.leaves())
        leaves[TRUNCATED] = leaves[TRUNCATED].copy()
        leaves[TRUNCATED][-1] = True
        self.chunks, self.ended = [leaves], True
        return self


class Assembler:
    """Turns batches into episodes; holds those that have not ended yet.

    A piece goes on an open episode of its trajectory, or of its line where there are no trajectory ids, if it begins
    with the observation that the episode ended with, bit for bit. If not, the open episode of a line is over, and that
    of a trajectory stays open: two collectors may have given the same id.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], list[Episode]] = {}

    @property
    def open_episodes(self) -> list[Episode]:
        """Those that have not ended yet."""
        return [episode for episodes in self._open.values() for episode in episodes]

    def feed(
        self,
        batch: Batch,
        about: Callable[[int], About],
        *,
        first_line: int = 0,
        lines: bool = True,
        seams: bool = False,
    ) -> Iterator[Episode]:
        """Take a batch and yield the episodes that are over; consume the iterator whole.

        Args:
            batch: Its arrays may be overwritten afterwards.
            about: Says of a line what holds for an episode that begins there.
            first_line: Number of the first line.
            lines: Whether a line goes on in the same line of the next batch. If not, and without trajectory ids, a
                piece goes on whatever it continues.
            seams: Whether a line may hold what was written at several times, one after the other.
        """
        observed, ends = batch.observed, batch.ends
        for line in range(len(ends)):
            for start, stop in _pieces(batch, line, ends[line], by_continuity=seams and batch.ids is None):
                piece = {name: array[line, start:stop] for name, array in batch.rows.items()}
                trajectory = None if batch.ids is None else int(batch.ids[line, start])
                number = (first_line + line if lines else -1) if trajectory is None else trajectory
                key = ("line" if trajectory is None else "trajectory", number)
                episode, over = self._place(key, piece, observed, one_at_a_time=lines and trajectory is None)
                if over is not None:
                    yield over
                if episode is None:
                    headless = batch.starts is not None and not batch.starts[line, start]
                    said = batch.about_of(line, start, about(first_line + line))
                    episode = Episode(said, [], headless=headless, trajectory=trajectory)
                if ends[line, stop - 1]:
                    episode.append(piece)
                    episode.ended = True
                    yield episode
                else:
                    self._keep(key, episode, piece, observed)

    def take(self, line: int | None = None) -> list[Episode]:
        """Return the open episodes, or that of one line, and forget them."""
        if line is not None:
            return self._open.pop(("line", line), [])
        episodes, self._open = self.open_episodes, {}
        return episodes

    def _place(
        self, key: tuple[str, int], piece: Leaves, observed: list[str], *, one_at_a_time: bool
    ) -> tuple[Episode | None, Episode | None]:
        """Return the open episode that a piece goes on, taken out, and the one that it shows to be over."""
        candidates = self._open.get(key)
        if not candidates:
            return None, None
        begin = _bytes_of(piece, observed, 0)
        for index, episode in enumerate(candidates):
            if episode.tail == begin:
                del candidates[index]
                return episode, None
        if one_at_a_time:
            return None, candidates.pop()
        if key[0] == "trajectory":
            logger.warning("Trajectory %d does not go on where it stopped: taken as another collector's", key[1])
        return None, None

    def _keep(self, key: tuple[str, int], episode: Episode, piece: Leaves, observed: list[str]) -> None:
        # A copy: collectors write their next batch over this one.
        episode.append({name: array.copy() for name, array in piece.items()})
        episode.tail = _bytes_of(piece, [f"{keys.NEXT}.{name}" for name in observed], -1)
        if len(episode.chunks) > _MAX_CHUNKS and not episode.problem:
            episode.leaves()
        self._open.setdefault(key, []).append(episode)


_IDS = ("collector.traj_ids", "traj_ids")
_MASKS = ("collector.mask", "mask")
_STARTS = ("is_init",)
_USED = [keys.column_to_key(name) for name in (*_IDS, *_MASKS, *_STARTS, keys.STEP_COUNT)]


def _states_of(transitions: TensorDictBase, where: str) -> Leaves:
    node = transitions.get("state", None)
    if not isinstance(node, TensorDictBase) or is_non_tensor(node):
        return {}
    leaves = flatten_tensordict(node, context=where)
    return leaves if all(array.dtype == np.float64 for array in leaves.values()) else {}


def _dropped_keys(node: TensorDictBase, drop: tuple[str, ...]) -> list[tuple[str, ...]]:
    below = node.get(keys.NEXT, None)
    levels = [((), node), *([((keys.NEXT,), below)] if isinstance(below, TensorDictBase) else [])]
    return [(*above, key) for above, level in levels for key in level.keys() if key in drop or key.startswith("_")]  # noqa: SIM118


def _complete_flags(rows: Leaves, where: str) -> None:
    if TRUNCATED not in rows and TERMINATED in rows and _DONE in rows:
        rows[TRUNCATED] = rows[_DONE] & ~rows[TERMINATED]
    for name in (TERMINATED, TRUNCATED):
        if name not in rows:
            msg = f"{where}: key {name} is missing: expected a flag that says why an episode ends. Add it to the data."
            raise SchemaMismatch(msg)


def _needed(name: str, rows: Leaves) -> bool:
    """Whether a leaf is a column or the twin of one."""
    bare = name.removeprefix(f"{keys.NEXT}.")
    return is_stored(name, rows) or (name != bare and bare in rows and is_stored(bare, rows))


def _kind(array: np.ndarray) -> str:
    return f"{dtype_name(array.dtype)} {array.shape[1:]}"


def _first_of(used: Leaves, names: tuple[str, ...]) -> np.ndarray | None:
    return next((used[name] for name in names if name in used), None)


def _pieces(batch: Batch, line: int, ends: np.ndarray, *, by_continuity: bool) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every run of rows that belong to one episode; padding is left out."""
    cut = ends[:-1].copy()
    if batch.ids is not None:
        cut |= batch.ids[line, 1:] != batch.ids[line, :-1]
    if batch.valid is not None:
        cut |= batch.valid[line, 1:] != batch.valid[line, :-1]
    if by_continuity:
        cut |= ~batch.continues(line)
    bounds = [0, *(np.flatnonzero(cut) + 1).tolist(), len(ends)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start and (batch.valid is None or batch.valid[line, start]):
            yield start, stop


def _bytes_of(rows: Leaves, names: list[str], index: int) -> bytes:
    parts = [rows[name][index] for name in names]
    return b"\0".join(part.encode() if isinstance(part, str) else part.tobytes() for part in parts)
