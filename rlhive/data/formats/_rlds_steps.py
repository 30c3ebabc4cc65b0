"""Where an RLDS episode ends, and what its last step is.

RLDS puts an observation and what was done in it into one step, and closes an episode with a step of its own::

    step           0     1     …   T-1     T
    observation    s_0   s_1   …   s_T-1   s_T
    action         a_0   a_1   …   a_T-1   (zeros)     "observation": the last step is the final observation alone
    reward         r_1   r_2   …   r_T     (zeros)     r_t+1 is that of a_t, in the same step
    is_last        0     0     …   0       1
    is_terminal    0     0     …   0       1 if the task ended, 0 if it was cut off

Many datasets that were converted from logs, those of Open X-Embodiment among them, have T steps instead, whose last
action and reward count, and no final observation ("transition"). TFDS's own conversion of D4RL mixes both ("each").
No flag tells them apart: what the last steps of all episodes hold does, or nothing does and the reader refuses.

An episode whose last step is not ``is_last`` was cut while it was recorded; it ends as "unfinished".
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import TRUNCATED, Columns
from rlhive.data.formats import _tfds
from rlhive.data.formats._imported import end_flags
from rlhive.data.formats._tfds import Leaf, Shard
from rlhive.data.formats._tfrecord import Example
from rlhive.errors import SchemaMismatch

#: What the last step of an episode may be, as an override takes it; "each": decided for every episode by itself.
LAST_STEPS = ("observation", "transition", "each")

STEPS = "steps/"
FLAGS = ("is_first", "is_last", "is_terminal")
_TASKS = ("language_instruction", "natural_language_instruction")
#: How likely it may be that the last steps of all episodes look empty by accident.
_ACCIDENT = 1e-3


@dataclass(frozen=True)
class Layout:
    """Which features there are.

    Attributes:
        columns: Those of a step, by the column that they become.
        observed: The columns that belong to the state, so that the last step's values are final ones.
        flags: The three that say where an episode begins and ends.
        told: Those of an episode, which become its metadata.
    """

    columns: Mapping[str, Leaf]
    observed: tuple[str, ...]
    flags: Mapping[str, Leaf]
    told: tuple[Leaf, ...]

    def named(self, *names: str) -> list[Leaf]:
        """Return the features of a step that are numbers and lie at or below one of these names."""
        return [
            leaf
            for leaf in self.columns.values()
            if leaf.path[1] in names and leaf.kind == "tensor" and leaf.depth == 1
        ]


@dataclass(frozen=True)
class Steps:
    """One episode as it goes into the schema; fields as of an EpisodeRecord."""

    columns: Columns
    final: Columns
    split: str
    metadata: dict[str, Any]
    where: str


@dataclass(frozen=True)
class _Ends:
    """The flags of an episode, and the signs of what its last step is.

    Attributes:
        length: Number of steps.
        began: Whether its first step is the environment's first.
        last: Whether its last step is marked as the last.
        terminal: Whether the task ended.
        empty: Whether the last step's action, reward and discount are all zero or NaN, and there are any.
        full: Whether its action is not, and its reward neither.
        others: Number of the other steps.
        others_empty: Number of those whose action and reward are zero or NaN.
    """

    length: int
    began: bool
    last: bool
    terminal: bool
    empty: bool
    full: bool
    others: int
    others_empty: int


@dataclass
class Survey:
    """What a first look at all episodes found; then, once it is decided what last steps are, the way to read them.

    Attributes:
        layout: Which features there are.
        digests: SHA-256 of the files, by name.
        last_step: One of LAST_STEPS, once it is decided.
        said: How it was, a sentence.
        longest: The greatest length of a sequence that every step has, and the smallest, by column.
    """

    layout: Layout
    digests: dict[str, str] = field(default_factory=dict)
    last_step: str = ""
    said: str = ""
    longest: dict[str, tuple[int, int]] = field(default_factory=dict)
    _kinds: Counter = field(default_factory=Counter)
    _others: Counter = field(default_factory=Counter)

    def look_through(self, shard: Shard, advance: Callable[[], Any]) -> None:
        """Read a file, all its checksums included, and call ``advance`` after each record.

        Raises:
            SchemaMismatch: It is damaged, or the flags of an episode contradict each other.
        """
        with shard.path.open("rb") as file:
            self.digests[shard.path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        for example in shard.records():
            ends = _ends(self.layout, example)
            self._kinds[ends.last, ends.terminal, ends.empty, ends.full, min(ends.length, 2)] += 1
            self._others["all"] += ends.others
            self._others["empty"] += ends.others_empty
            for column, leaf in self.layout.columns.items():
                if leaf.depth == 2:
                    lengths = _tfds.row_lengths(leaf, example)[: ends.length]
                    most, least = self.longest.get(column, (0, 2**62))
                    self.longest[column] = (max([most, *lengths.tolist()]), min([least, *lengths.tolist()]))
            advance()

    def decided(self, last_step: str | None, *, where: str) -> "Survey":
        """Return the survey with what last steps are: as given, or as all of them tell.

        Raises:
            SchemaMismatch: They tell nothing, or different things; the message says what was found.
        """
        if last_step is not None:
            return replace(self, last_step=last_step, said=f"{_MEANS[last_step]}, as it was given")
        ended = sum(count for (last, *_), count in self._kinds.items() if last)
        empty = sum(count for (last, _, is_empty, _, _), count in self._kinds.items() if last and is_empty)
        full = sum(count for (last, _, _, is_full, _), count in self._kinds.items() if last and is_full)
        usual = self._others["empty"] / max(self._others["all"], 1)
        found = f"of {ended} last steps, {empty} have no action, reward or discount but zeros, {full} have both"
        if empty == ended and (not ended or usual**ended < _ACCIDENT):
            return replace(self, last_step="observation", said=f"{_MEANS['observation']}: {found}")
        if full and not empty:
            return replace(self, last_step="transition", said=f"{_MEANS['transition']}: {found}")
        msg = (
            f"{where}: cannot tell what the last step of an episode is ({found}; {usual:.0%} of the other steps have "
            "zeros too). Say which: last_step='observation', it is the final observation alone; 'transition', its "
            "action and reward count; 'each', the first where its values are zeros and the second elsewhere."
        )
        raise SchemaMismatch(msg)

    @property
    def num_episodes(self) -> int:
        """How many episodes have a transition."""
        return self._kinds.total() - self.num_empty

    @property
    def num_empty(self) -> int:
        """How many have none: of one step that is an observation alone."""
        return sum(
            count
            for (last, terminal, empty, _, length), count in self._kinds.items()
            if length == 1 and _kept(length, last, terminal, self._is_closed(empty, last)) == 0
        )

    @property
    def padded(self) -> list[str]:
        """The columns of sequences that differ in length."""
        return [column for column, (most, least) in self.longest.items() if most != least]

    def episodes(self, shard: Shard) -> Iterator[Steps]:
        """Yield the episodes of a file that have a transition, one at a time.

        Raises:
            SchemaMismatch: A record is damaged, or holds something else than features.json says.
        """
        for number, example in enumerate(shard.records()):
            ends = _ends(self.layout, example)
            closed = self._is_closed(ends.empty, ends.last)
            kept = _kept(ends.length, ends.last, ends.terminal, closed)
            if kept:
                told = {"file": shard.path.name, "record": number, **_told(self.layout, example, ends)}
                yield self._steps(example, ends, kept, Steps({}, {}, shard.split, told, example.where))

    def _is_closed(self, empty: bool, last: bool) -> bool:
        """Whether an episode's last step is its final observation alone."""
        return last and (self.last_step == "observation" or (self.last_step == "each" and empty))

    def _steps(self, example: Example, ends: _Ends, kept: int, episode: Steps) -> Steps:
        rows = {column: self._rows(column, leaf, example, ends) for column, leaf in self.layout.columns.items()}
        final = {column: rows[column][-1] for column in self.layout.observed}
        texts = [rows[column] for column, leaf in self.layout.columns.items() if leaf.path[-1] in _TASKS]
        metadata = dict(episode.metadata)
        if texts and len(set(texts[0])) == 1:
            metadata["task"] = texts[0][0]
        blank = all(not value.any() for value in final.values() if value.dtype != object)
        if ends.terminal and (kept == ends.length or blank):  # TFDS puts zeros where D4RL has no last state
            metadata["final_observation"] = "unknown"
        columns = {column: values[:kept] for column, values in rows.items()}
        for column, (most, least) in self.longest.items():
            if most != least:
                columns[f"{column}_length"] = _tfds.row_lengths(self.layout.columns[column], example)[:kept]
        flags = end_flags(kept, terminated=ends.terminal)
        if not ends.last:
            flags[TRUNCATED][:] = False
        return replace(episode, columns=columns | flags, final=final, metadata=metadata)

    def _rows(self, column: str, leaf: Leaf, example: Example, ends: _Ends) -> np.ndarray:
        """Return the values of all steps, ``[length, *shape]``."""
        if leaf.depth == 2:
            return _filled(*_tfds.ragged(leaf, example), self.longest[column][0], leaf, example, ends.length)
        rows = _tfds.values(leaf, example)
        _require_length(rows, ends.length, leaf, example)
        return rows[:, None] if column == keys.column_of(keys.NEXT_REWARD) and rows.ndim == 1 else rows


_MEANS = {
    "observation": "the last step of an episode is its final observation, its action and reward are left out",
    "transition": "the last step of an episode is a transition, what followed is not in the files: an episode that was "
    "cut off gives its last observation as the final one, without the action and reward there",
    "each": "the last step of an episode is its final observation where it has zeros alone, else a transition",
}


def _kept(length: int, last: bool, terminal: bool, closed: bool) -> int:
    """Return the number of an episode's steps that are transitions whose next observation is known, or not needed."""
    return length if last and terminal and not closed else length - 1


def _ends(layout: Layout, example: Example) -> _Ends:
    flags = {name: _tfds.values(leaf, example).reshape(-1).astype(bool) for name, leaf in layout.flags.items()}
    length = len(flags["is_last"])
    for name, values in flags.items():
        _require_length(values, length, layout.flags[name], example)
        inner = values[1:] if name == "is_first" else values[:-1]
        if not length or inner.any():
            row = int(inner.argmax()) + (name == "is_first") if length else 0
            msg = (
                f"{example.where}: expected {name} at the {'first' if name == 'is_first' else 'last'} of its {length} "
                f"steps, got it at step {row}. A record must be one episode."
            )
            raise SchemaMismatch(msg)
    acted = _is_zero(layout.named(keys.ACTION), example, length)
    rewarded = _is_zero(layout.named(keys.REWARD), example, length)
    discounted = _is_zero(layout.named("discount"), example, length)
    known = bool(layout.named(keys.ACTION))
    return _Ends(
        length=length,
        began=bool(flags["is_first"][0]) if "is_first" in flags else True,
        last=bool(flags["is_last"][-1] or flags["is_terminal"][-1]),
        terminal=bool(flags["is_terminal"][-1]),
        empty=known and bool(acted[-1] and rewarded[-1] and discounted[-1]),
        full=known and bool(not acted[-1] and not rewarded[-1]),
        others=length - 1,
        others_empty=int((acted & rewarded)[:-1].sum()),
    )


def _is_zero(leaves: list[Leaf], example: Example, length: int) -> np.ndarray:
    """Return at which steps all these features are zero or NaN, bool ``[length]``; everywhere if there are none."""
    zero = np.ones(length, bool)
    for leaf in leaves:
        rows = _tfds.values(leaf, example)
        _require_length(rows, length, leaf, example)
        flat = rows.reshape(length, -1)
        zero &= ((flat == 0) | (flat != flat)).all(axis=1)
    return zero


def _require_length(rows: np.ndarray, length: int, leaf: Leaf, example: Example) -> None:
    if len(rows) != length:
        msg = f"{example.where}: expected {length} rows of {leaf.name}, as of is_last, got {len(rows)}. Fetch it again."
        raise SchemaMismatch(msg)


def _filled(
    elements: np.ndarray, lengths: np.ndarray, longest: int, leaf: Leaf, example: Example, length: int
) -> np.ndarray:
    """Return sequences of different lengths as one array, filled up with zeros, ``[length, longest, *shape]``."""
    _require_length(lengths, length, leaf, example)
    rows = np.zeros((length, longest, *elements.shape[1:]), elements.dtype)
    rows[np.arange(longest) < lengths[:, None]] = elements
    return rows


def _told(layout: Layout, example: Example, ends: _Ends) -> dict[str, Any]:
    """Return the features of an episode as nested dictionaries of what JSON can hold."""
    told: dict[str, Any] = {} if ends.began else {"is_first": False}
    for leaf in layout.told:
        node, (*above, last) = told, leaf.path
        for part in above:
            node = node.setdefault(part, {})
        node[last] = _plain(_tfds.values(leaf, example))
    return told


def _plain(value: Any) -> Any:
    """Return an array as lists, with None where a number is NaN or infinite, which JSON has not."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(item) for item in value]
    item = value.item() if hasattr(value, "item") else value
    return None if isinstance(item, float) and not np.isfinite(item) else item
