"""The options that every importer has: which columns and episodes are left out, what a NaN means, and names.

Every column of a source has two names: the one in the file and the one in RLHive, ``observation.images.top`` and
``pixels.top`` for example. The options take either, or a group of columns such as ``info``.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlhive import keys
from rlhive.data._episodes import REWARD, TERMINATED, TRUNCATED
from rlhive.data._video_files import Clip
from rlhive.data.formats._episode_source import EpisodeArrays
from rlhive.data.formats._format import COMMON_OPTIONS
from rlhive.data.formats._success_rewards import RewardOption, SuccessOption, SuccessRewards
from rlhive.data.formats._transitions import DONE
from rlhive.errors import SchemaMismatchError

#: Names that other libraries use, by the column that they mean.
ALIASES: Mapping[str, tuple[str, ...]] = {
    keys.OBSERVATION: ("state", "states", "obs", "observations"),
    keys.ACTION: ("actions", "act", "acts"),
    REWARD: ("reward", "rewards"),
    DONE: ("done", "dones", "is_done"),
    TERMINATED: ("terminated", "terminations", "terminal", "terminals", "is_terminal"),
    TRUNCATED: ("truncated", "truncations", "timeout", "timeouts"),
}
_IMAGES = ("image", "images")
_SHORT = {keys.REWARD: REWARD, keys.DONE: DONE, keys.TERMINATED: TERMINATED, keys.TRUNCATED: TRUNCATED}
#: Names that mean something else in a column.
_RESERVED = (*keys.END_FLAGS, keys.EPISODE, keys.STEP_COUNT)


@dataclass
class ImportRules:
    """The common options of one import.

    Attributes:
        drop: Columns and groups to leave out.
        skip_episode: Ids of the episodes to leave out.
        on_nan: "keep", "skip" or "refuse"; None for the default.
        rename: Columns by their names in the file.
        format_name: Name of the format, for messages.
        success_rewards: What reward and success are.
    """

    drop: tuple[str, ...] = ()
    skip_episode: frozenset[int] = frozenset()
    on_nan: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    format_name: str = ""
    success_rewards: SuccessRewards = field(default_factory=SuccessRewards)

    def __post_init__(self) -> None:
        self._used: set[str] = set()
        self._names: set[str] = set()
        self._aliases: dict[str, str] | None = None

    @classmethod
    def create(
        cls,
        *,
        drop: str | Sequence[str] | None = None,
        skip_episode: int | Sequence[int] | None = None,
        on_nan: str | None = None,
        rename: Mapping[str, str] | str | Sequence[str] | None = None,
        reward: RewardOption | None = None,
        success: SuccessOption | None = None,
        format_name: str = "",
    ) -> "ImportRules":
        """Check the options as users write them.

        Raises:
            SchemaMismatchError: A value has another type, or is not among the choices.
        """
        given = {"drop": drop, "skip_episode": skip_episode, "on_nan": on_nan}
        for option in COMMON_OPTIONS:
            option.require(given.get(option.name))
        return cls(
            drop=tuple(_to_list(drop)),
            skip_episode=frozenset(_to_list(skip_episode)),
            on_nan=on_nan,
            rename=parse_rename(rename),
            format_name=format_name,
            success_rewards=SuccessRewards(reward, success),
        )

    @property
    def aliases(self) -> Mapping[str, str]:
        """The columns that were recognised by a usual name, by that name."""
        return self._aliases or {}

    def keeps(self, *names: str) -> bool:
        """Return whether a column is wanted, given its names in the file and in RLHive."""
        self._names.update(names[-1:])
        for dropped in self.drop:
            if any(_is_in_group(name, dropped) for name in names):
                self._used.add(dropped)
                return False
        return True

    def apply(self, arrays: EpisodeArrays) -> EpisodeArrays:
        """Return the arrays without the dropped columns, under the names that the options and aliases give.

        Rewards, success and ends are those that the options say.

        Raises:
            SchemaMismatchError: Two columns would have one name, or an option names no column.
        """
        wanted = [name for name in arrays.columns if self.keeps(arrays.origins.get(name, name), name)]
        if self._aliases is None:
            explicit = {self._rename(name, arrays.origins.get(name, name)) for name in wanted}
            self._aliases = _find_aliases([name for name in explicit if name], arrays)
        columns: dict[str, np.ndarray] = {}
        final: dict[str, np.ndarray] = {}
        clips: dict[str, Clip] = {}
        for name in wanted:
            target = self._rename(name, arrays.origins.get(name, name))
            target = self._aliases.get(target, target)
            target = f"info.{target}" if target in _RESERVED else target
            if target in columns:
                msg = (
                    f"{arrays.context}: column {name} would be {target}, which is there. rename gives it another name."
                )
                raise SchemaMismatchError(msg)
            _require_column_name(target, arrays.context)
            columns[target] = arrays.columns[name]
            if name in arrays.final:
                final[target] = arrays.final[name]
            if name in arrays.clips:
                clips[target] = arrays.clips[name]
        return self.success_rewards.apply(replace(arrays, columns=columns, final=final, clips=clips))

    def require_used(self, episodes: Collection[int], context: str) -> None:
        """Refuse an option that names no column or episode of the source.

        Args:
            episodes: Ids of the episodes, those that were left out included.
            context: Address for messages.

        Raises:
            SchemaMismatchError: A name or an id is unknown; the message has the nearest.
        """
        for option, names in (("drop", self.drop), ("rename", tuple(self.rename))):
            for name in names:
                if name not in self._used:
                    nearest = difflib.get_close_matches(name, self._names, n=3, cutoff=0.5)
                    hint = f"nearest {', '.join(nearest)}; " if nearest else ""
                    msg = f"{context}: {option}={name!r}: {hint}expected one of {', '.join(sorted(self._names))}."
                    raise SchemaMismatchError(msg)
        missing = sorted(self.skip_episode - set(episodes))
        if missing:
            id_range = f"ids from {min(episodes)} to {max(episodes)}" if episodes else "no episode"
            msg = f"{context}: skip_episode={missing[0]}: expected the id of an episode, got {id_range}."
            raise SchemaMismatchError(msg)

    def _rename(self, name: str, origin: str) -> str:
        for source in (name, origin):
            if source in self.rename:
                self._used.add(source)
                return self.rename[source]
        return name


def parse_rename(value: Mapping[str, str] | str | Iterable[str] | None) -> dict[str, str]:
    """Return the columns by their names in the file, of a mapping or of texts such as ``"state=observation"``.

    Raises:
        SchemaMismatchError: A text has no "=", or a name is empty.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        texts = [value] if isinstance(value, str) else list(value)
        pairs = [pair for text in texts for pair in str(text).replace(",", " ").split()]
        value = {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}
    if not all(isinstance(name, str) and name and isinstance(column, str) and column for name, column in value.items()):
        msg = f"rename={value!r}: expected names in the file and columns, actions=action for example."
        raise SchemaMismatchError(msg)
    return {name: _SHORT.get(column, column) for name, column in value.items()}


def _to_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, int)) else list(value)


def _is_in_group(name: str, group: str) -> bool:
    name, group = name.replace("/", "."), group.strip("/").replace("/", ".")
    return f"{name}.".startswith(f"{group}.")


def _find_aliases(names: Collection[str], arrays: EpisodeArrays) -> dict[str, str]:
    """Return the columns that usual names mean, by name: where the column is missing and one name alone means it."""
    aliases: dict[str, str] = {}
    for column, usual in ALIASES.items():
        candidates = [name for name in names if name in usual]
        if len(candidates) == 1 and not any(_is_in_group(name, column) for name in names):
            aliases[candidates[0]] = column
    if DONE in aliases.values() and {TERMINATED, TRUNCATED} & {*names}:
        aliases = {name: column for name, column in aliases.items() if column != DONE}
    for name in _IMAGES:
        rows = arrays.columns.get(name)
        if name in names and rows is not None and rows.dtype == np.uint8 and rows.ndim > 2:
            aliases[name] = f"{keys.PIXELS}.{name}"
    return aliases


def _require_column_name(name: str, context: str) -> None:
    try:
        keys.key_to_column(tuple(name.split(".")))
    except ValueError as error:
        msg = f"{context}: column {name!r}: {error} rename gives it another name, drop leaves it out."
        raise SchemaMismatchError(msg) from error
