"""The base class of other libraries' file formats, and the declaration of a format's options."""

import abc
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlhive.errors import SchemaMismatchError, UnsupportedFormatError

if TYPE_CHECKING:  # they import torch, and the command line reads the declarations without it
    from rlhive.data._episodes import EpisodeRecord
    from rlhive.data.formats._episode_source import EpisodeSource
    from rlhive.data.versions import Manifest

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Option:
    """A keyword argument of a format's ``read`` or ``write``.

    Attributes:
        name: Name of the argument.
        value_type: Type of a value: str, int, float or bool.
        help: What the option does, for the command line; without the format's name.
        choices: The allowed values; empty where every value of the type is allowed.
        repeatable: Whether a sequence of values is allowed too.
    """

    name: str
    value_type: type
    help: str
    choices: tuple[str, ...] = ()
    repeatable: bool = False

    def parse(self, text: str) -> Any:
        """Convert a text of the command line to a value.

        Raises:
            SchemaMismatchError: The text is no value of the type.
        """
        if self.value_type is bool and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if self.value_type in (int, float):
            try:
                return self.value_type(text)
            except ValueError:
                pass  # refused below, in the words of require
        self.require(text)
        return text

    def require(self, value: Any) -> None:
        """Check a value; None stands for an option that is not given.

        Raises:
            SchemaMismatchError: The value has another type, or is not among the choices.
        """
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
        values = value if self.repeatable and is_sequence else [value]
        for item in values:
            if item is not None and not self._accepts(item):
                expected = f"one of {', '.join(self.choices)}" if self.choices else f"a value of type {self._type_name}"
                msg = f"{self.name}={value!r}: expected {expected}, or None for the default."
                raise SchemaMismatchError(msg)

    @property
    def _type_name(self) -> str:
        return self.value_type.__name__ + (", or several" if self.repeatable else "")

    def _accepts(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or self.value_type is bool:
            return isinstance(value, bool) and self.value_type is bool
        return isinstance(value, (int, float) if self.value_type is float else self.value_type)


#: What becomes of a NaN; by default it is kept, but refused in an observation, action, reward or success.
ON_NAN = ("keep", "skip", "refuse")

#: The options of every importer, besides ``rename``. A format that declares one of these names itself gets its values.
COMMON_OPTIONS = (
    Option("drop", str, "Column, or group of columns, to leave out: info.x, info; repeatable.", repeatable=True),
    Option("skip_episode", int, "Id of an episode to leave out; repeatable.", repeatable=True),
    Option(
        "on_nan",
        str,
        "What becomes of NaN: keep it, skip the episode, or refuse; by default it is refused in observations, actions, "
        "rewards and success, and kept elsewhere.",
        choices=ON_NAN,
    ),
    Option(
        "reward",
        str,
        "The reward: sparse, 1 where the action led to a solved state; or a column; by default that of the files.",
    ),
    Option(
        "success",
        str,
        "Success: all, every episode ends in it; or a column, a flag of each row; by default that of the files.",
    ),
)
COMMON_NAMES = (*(option.name for option in COMMON_OPTIONS), "rename")


class Format(abc.ABC):
    """A file format of another library: how its files are read into episodes and, where possible, how they are written.

    A subclass sets :attr:`name` and implements :meth:`read`. One that also writes implements :meth:`write`. Options are
    declared once, in :attr:`read_options` and :attr:`write_options`: the command line, :func:`import_dataset` and
    :func:`export_to` check them by that declaration before they call the methods. A package adds a format by an entry
    point of the group ``rlhive.formats``; docs/formats.md shows one. :class:`rlhive.testing.FormatTests` are tests that
    every format passes.

    Every format also has the options in :data:`COMMON_OPTIONS` and ``rename``, which the import applies to whatever
    ``read`` returns; those that name columns or episodes take effect before an episode is read where the source has
    ``pending`` episodes.

    Attributes:
        name: Name of the format on the command line and in ``import_dataset(name, …)``.
        read_options: Options of :meth:`read`, besides ``progress``.
        write_options: Options of :meth:`write`.
    """

    name: ClassVar[str]
    read_options: ClassVar[tuple[Option, ...]] = ()
    write_options: ClassVar[tuple[Option, ...]] = ()

    # `*args: Any, **options: Any` lets a subclass declare keyword arguments of its own; type checkers accept that.
    @abc.abstractmethod
    def read(self, source: Path, *args: Any, **options: Any) -> "EpisodeSource":
        """Open files of the format.

        Args:
            source: File or folder, ``~`` expanded.
            *args: Not used.
            **options: The declared options that the caller gave. A reader that looks through the files first, which
                takes a while, may also have a parameter ``progress: bool``: whether to show a progress bar.

        Returns:
            The episodes, read one at a time while they are iterated over.

        Raises:
            SchemaMismatchError: The files are missing, damaged, ambiguous or of another format; the message is one
                sentence with the address. Any other exception of a reader is translated into one.
        """

    def write(
        self, manifest: "Manifest", records: Iterable["EpisodeRecord"], target: Path, *args: Any, **options: Any
    ) -> None:
        """Write the episodes of a version.

        Args:
            manifest: Manifest of the version.
            records: Its episodes, one at a time.
            target: Folder to create. It appears complete or not at all, and an existing one is refused.
            *args: Not used.
            **options: The declared options that the caller gave.

        Raises:
            UnsupportedFormatError: The format cannot hold the episodes, or cannot be written.
            DatasetExistsError: The target exists.
        """
        msg = f"Format {self.name} can be read, not written."
        raise UnsupportedFormatError(msg)

    def is_exported(self, manifest: "Manifest", target: Path, *args: Any, **options: Any) -> bool:
        """Return whether :meth:`write` made a folder from this version with these options.

        A push that was interrupted goes on with such a folder instead of refusing it.
        """
        return False

    @property
    def hub_tag(self) -> str | None:
        """Git tag by which the other library finds its datasets on the Hub; None if it looks for no tag.

        Without a tag, a dataset in this format cannot be pushed.
        """
        return None

    @property
    def can_write(self) -> bool:
        """Whether the format implements :meth:`write`."""
        return type(self).write is not Format.write

    def require_read_options(self, options: Mapping[str, Any]) -> None:
        """Check options of :meth:`read`.

        Raises:
            UnsupportedFormatError: The format has no such option; the message names the nearest.
            SchemaMismatchError: A value has another type, or is not among the choices.
        """
        _require_declared(self.name, self.read_options, options, COMMON_NAMES)

    def require_write_options(self, options: Mapping[str, Any]) -> None:
        """Check options of :meth:`write`; raises as :meth:`require_read_options` does."""
        _require_declared(self.name, self.write_options, options)


def _require_declared(
    name: str, declared: Iterable[Option], options: Mapping[str, Any], common: Sequence[str] = ()
) -> None:
    by_name = {option.name: option for option in declared}
    for option, value in options.items():
        if option not in by_name:
            nearest = difflib.get_close_matches(option, [*by_name, *common], n=3, cutoff=0.5)
            hint = f"nearest {', '.join(nearest)}; " if nearest else ""
            msg = f"Format {name} has no option {option!r}: {hint}expected one of {', '.join(by_name) or 'none'}."
            raise UnsupportedFormatError(msg)
        by_name[option].require(value)
