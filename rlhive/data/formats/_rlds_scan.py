"""The first pass over RLDS episodes: checksums, sequence lengths, and what the last step of an episode is.

RLDS puts an observation and the action taken in it into one step, and closes an episode with a step of its own::

    step           0     1     …   T-1     T
    observation    s_0   s_1   …   s_T-1   s_T
    action         a_0   a_1   …   a_T-1   (zeros)     "observation": the last step is the final observation alone
    reward         r_1   r_2   …   r_T     (zeros)     r_t+1 is that of a_t, in the same step
    is_last        0     0     …   0       1
    is_terminal    0     0     …   0       1 if the task ended, 0 if it was cut off

Many datasets that were converted from logs, those of Open X-Embodiment among them, have T steps instead: the last
action and reward count, and no final observation follows ("transition"). TFDS's own conversion of D4RL mixes both
("each"). No flag tells them apart. The values of the last steps of all episodes do, or the reader refuses the dataset.

An episode whose last step is not ``is_last`` was cut while it was recorded; it ends as "unfinished".
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data.formats._tfds import Feature, TfdsShard
from rlhive.data.formats._tfds_values import read_feature, read_sequence_lengths
from rlhive.data.formats._tfrecord import Example
from rlhive.data.versions import compute_sha256
from rlhive.errors import SchemaMismatchError

#: Path of the features of a step.
STEPS = "steps/"
#: The features that mark where an episode starts and ends.
FLAGS = ("is_first", "is_last", "is_terminal")
#: Probability below which the last steps of all episodes cannot look empty by accident.
_ACCIDENT = 1e-3

_MEANINGS = {
    "observation": "the last step of an episode is its final observation, its action and reward are left out",
    "transition": "the last step of an episode is a transition, what followed is not in the files: an episode that was "
    "cut off gives its last observation as the final one, without the action and reward there",
    "each": "the last step of an episode is its final observation where it has zeros alone, else a transition",
}


@dataclass(frozen=True)
class StepFeatures:
    """The features of a dataset by their roles.

    Attributes:
        columns: Features of a step by the column that they become.
        observed: The columns that belong to the state, whose values in the last step are final ones.
        flags: The features in FLAGS, by name.
        episode: Features of an episode, which become its metadata.
    """

    columns: Mapping[str, Feature]
    observed: tuple[str, ...]
    flags: Mapping[str, Feature]
    episode: tuple[Feature, ...]

    def select(self, root: str) -> list[Feature]:
        """Return the numeric features of a step that lie at or below a name."""
        return [
            feature
            for feature in self.columns.values()
            if feature.path[1] == root and feature.kind == "tensor" and feature.depth == 1
        ]


@dataclass(frozen=True)
class EpisodeFlags:
    """The flags of an episode, and the signs of what its last step is.

    Attributes:
        length: Number of steps.
        starts_first: Whether the first step is marked as the first.
        ends_last: Whether the last step is marked as the last.
        is_terminal: Whether the task ended.
        last_is_empty: Whether the dataset has actions and the last step's action, reward and discount are zero or NaN.
        last_is_full: Whether neither the action nor the reward of the last step is zero or NaN.
        num_other_steps: Number of steps before the last.
        num_other_empty: Number of those whose action and reward are zero or NaN.
    """

    length: int
    starts_first: bool
    ends_last: bool
    is_terminal: bool
    last_is_empty: bool
    last_is_full: bool
    num_other_steps: int
    num_other_empty: int

    def has_closing_step(self, last_step: str) -> bool:
        """Return whether the last step is the final observation alone."""
        return self.ends_last and (last_step == "observation" or (last_step == "each" and self.last_is_empty))

    def count_transitions(self, last_step: str) -> int:
        """Return the number of steps that are transitions whose next observation is known or not needed."""
        if self.ends_last and self.is_terminal and not self.has_closing_step(last_step):
            return self.length
        return self.length - 1


@dataclass(frozen=True)
class LastStep:
    """What the last steps of a dataset are.

    Attributes:
        kind: "observation", "transition" or "each".
        reason: How that was decided, a sentence.
    """

    kind: str
    reason: str


class RldsScan:
    """Statistics of one pass over all episodes.

    Args:
        features: The features of the dataset.
        listed: Names of all features of features.json, those that are left out included.

    Attributes:
        digests: SHA-256 of the files, by name.
        num_unlisted: Number of records that hold a list which belongs to no feature, by the list's name.
        sequence_lengths: Smallest and largest length of a sequence that every step has, by column.
    """

    def __init__(self, features: StepFeatures, listed: Iterable[str]):
        self.digests: dict[str, str] = {}
        self.num_unlisted: Counter[str] = Counter()
        self._listed = frozenset(listed)
        self.sequence_lengths: dict[str, tuple[int, int]] = {}
        self._features = features
        self._num_ended = 0
        self._num_empty = 0
        self._num_full = 0
        self._num_other_steps = 0
        self._num_other_empty = 0
        self._episodes: Counter[EpisodeFlags] = Counter()

    def add(self, shard: TfdsShard, advance: Callable[[], Any]) -> None:
        """Read a file, all its checksums included, and call ``advance`` after each record.

        Raises:
            SchemaMismatchError: The file is damaged, or the flags of an episode contradict each other.
        """
        self.digests[shard.path.name] = compute_sha256(shard.path)
        for example in shard.read_examples():
            flags = read_flags(self._features, example)
            self._count(flags)
            self.num_unlisted.update(name for name in example.names() if not self._is_listed(name))
            for column, feature in self._features.columns.items():
                if feature.depth == 2:
                    lengths = read_sequence_lengths(feature, example)[: flags.length].tolist()
                    shortest, longest = self.sequence_lengths.get(column, (2**62, 0))
                    self.sequence_lengths[column] = (min([shortest, *lengths]), max([longest, *lengths]))
            advance()

    def _is_listed(self, name: str) -> bool:
        """Return whether a list belongs to a feature; TFDS adds parts such as "/ragged_flat_values" to some names."""
        while name and name not in self._listed:
            name = name.rpartition("/")[0]
        return bool(name)

    def _count(self, flags: EpisodeFlags) -> None:
        self._num_ended += flags.ends_last
        self._num_empty += flags.ends_last and flags.last_is_empty
        self._num_full += flags.ends_last and flags.last_is_full
        self._num_other_steps += flags.num_other_steps
        self._num_other_empty += flags.num_other_empty
        # Without the lengths there are a few dozen different ones at most, whatever the number of episodes.
        self._episodes[replace(flags, length=min(flags.length, 2), num_other_steps=0, num_other_empty=0)] += 1

    def count_episodes(self, last_step: str) -> tuple[int, int]:
        """Return the number of episodes that have a transition, and of those that have none."""
        num_without = sum(count for flags, count in self._episodes.items() if flags.count_transitions(last_step) == 0)
        return self._episodes.total() - num_without, num_without

    def decide_last_step(self, given: str | None, context: str) -> LastStep:
        """Return what last steps are: as given, or as the values of all last steps show.

        Args:
            given: The option ``last_step``; None to decide by the values.
            context: Address for messages.

        Raises:
            SchemaMismatchError: The values do not decide; the message has the counts.
        """
        if given is not None:
            return LastStep(given, f"{_MEANINGS[given]}, as the option last_step says")
        num_ended, num_empty, num_full = self._num_ended, self._num_empty, self._num_full
        share = self._num_other_empty / max(self._num_other_steps, 1)
        counts = (
            f"of {num_ended} last steps, {num_empty} have no action, reward or discount but zeros, {num_full} have both"
        )
        if num_empty == num_ended and (not num_ended or share**num_ended < _ACCIDENT):
            return LastStep("observation", f"{_MEANINGS['observation']}: {counts}")
        if num_full and not num_empty:
            return LastStep("transition", f"{_MEANINGS['transition']}: {counts}")
        msg = (
            f"{context}: cannot tell what the last step of an episode is ({counts}; {share:.0%} of the other steps "
            "have zeros too). The option decides: last_step='observation', it is the final observation alone; "
            "'transition', its action and reward count; 'each', the first where its values are zeros and the second "
            "elsewhere."
        )
        raise SchemaMismatchError(msg)


def read_flags(features: StepFeatures, example: Example) -> EpisodeFlags:
    """Return the flags of a record.

    Raises:
        SchemaMismatchError: A flag has another length, or stands inside the episode.
    """
    flags = {name: read_feature(feature, example).reshape(-1).astype(bool) for name, feature in features.flags.items()}
    length = len(flags["is_last"])
    for name, values in flags.items():
        require_length(values, length, features.flags[name], example)
        _require_outer_flag(name, values, example)
    has_no_action = _find_zero_steps(features.select(keys.ACTION), example, length)
    has_no_reward = _find_zero_steps(features.select(keys.REWARD), example, length)
    has_no_discount = _find_zero_steps(features.select("discount"), example, length)
    has_actions = bool(features.select(keys.ACTION))
    return EpisodeFlags(
        length=length,
        starts_first=bool(flags["is_first"][0]) if "is_first" in flags else True,
        ends_last=bool(flags["is_last"][-1] or flags["is_terminal"][-1]),
        is_terminal=bool(flags["is_terminal"][-1]),
        last_is_empty=has_actions and bool(has_no_action[-1] and has_no_reward[-1] and has_no_discount[-1]),
        last_is_full=has_actions and bool(not has_no_action[-1] and not has_no_reward[-1]),
        num_other_steps=length - 1,
        num_other_empty=int((has_no_action & has_no_reward)[:-1].sum()),
    )


def _require_outer_flag(name: str, values: np.ndarray, example: Example) -> None:
    """Refuse a record without steps, and a flag at a step where an episode cannot start or end."""
    is_first = name == "is_first"
    inner = values[1:] if is_first else values[:-1]
    if len(values) and not inner.any():
        return
    step = int(inner.argmax()) + is_first if len(values) else 0
    msg = (
        f"{example.context}: expected {name} at the {'first' if is_first else 'last'} of its {len(values)} steps, "
        f"got it at step {step}. A record must be one episode."
    )
    raise SchemaMismatchError(msg)


def _find_zero_steps(features: list[Feature], example: Example, length: int) -> np.ndarray:
    """Return at which steps all features are zero or NaN, bool ``[length]``; all True for no features."""
    is_zero = np.ones(length, bool)
    for feature in features:
        rows = read_feature(feature, example)
        require_length(rows, length, feature, example)
        flat = rows.reshape(length, -1)
        is_zero &= ((flat == 0) | (flat != flat)).all(axis=1)
    return is_zero


def require_length(rows: np.ndarray, length: int, feature: Feature, example: Example) -> None:
    """Refuse a feature that has another number of rows than the flags.

    Raises:
        SchemaMismatchError: The numbers differ; the message names the record and the feature.
    """
    if len(rows) != length:
        msg = f"{example.context}: expected {length} rows of {feature.name}, as of is_last, got {len(rows)}."
        raise SchemaMismatchError(msg)
