"""The formats that can be used: those that ship, and those that installed packages add.

A package names a :class:`~rlhive.data.formats.Format`, class or instance, as an entry point of the group
``rlhive.formats``.
"""

import warnings
from collections.abc import Mapping
from functools import cache

from rlhive.data.formats._builtin import (
    D4RL,
    RLDS,
    Aloha,
    DiffusionPolicy,
    LeRobot,
    Minari,
    OGBench,
    Parquet,
    RoboMimic,
    RoboSet,
)
from rlhive.data.formats._format import Format
from rlhive.errors import UnsupportedFormatError

#: Group of the entry points by which packages add formats.
ENTRY_POINT_GROUP = "rlhive.formats"

#: The formats that ship, by name.
BUILT_IN: dict[str, Format] = {
    item.name: item
    for item in (
        RoboSet(),
        D4RL(),
        Minari(),
        LeRobot(),
        RLDS(),
        RoboMimic(),
        OGBench(),
        Aloha(),
        DiffusionPolicy(),
        Parquet(),
    )
}


def available_formats() -> Mapping[str, Format]:
    """Return the formats by name, those of installed packages last."""
    return BUILT_IN | _load_plugin_formats()


def get_format(kind: str | Format, *, for_writing: bool = False) -> Format:
    """Return the format of a name; a Format is returned as it is.

    Args:
        kind: Name of a format, or a Format that is not registered.
        for_writing: Whether only formats that can be written count.

    Raises:
        UnsupportedFormatError: No such format; the message lists the names.
    """
    item = kind if isinstance(kind, Format) else _find_format(kind)
    if item is not None and (item.can_write or not for_writing):
        return item
    names = [name for name, known in available_formats().items() if known.can_write or not for_writing]
    name, purpose = kind if item is None else item.name, " that can be written" if for_writing else ""
    msg = f"No format {name!r}{purpose}: expected one of {', '.join(names)}."
    raise UnsupportedFormatError(msg)


def _find_format(name: str) -> Format | None:
    return BUILT_IN.get(name) or _load_plugin_formats().get(name)  # a format that ships imports no plugin


@cache
def _load_plugin_formats() -> dict[str, Format]:
    """Load the entry points, once; one that fails is named in a warning and left out."""
    from importlib.metadata import entry_points  # slow to import, and --help and show need no plugin

    plugins: dict[str, Format] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            item = _instantiate(entry.load())
            if item.name in BUILT_IN or item.name in plugins:
                msg = f"the name {item.name!r} is taken"
                raise UnsupportedFormatError(msg)
        except Exception as error:  # a defect of another package must not disable RLHive's own formats
            package = entry.dist.name if entry.dist else "unknown package"
            msg = f"The format {entry.value!r} ({package}) is left out: {error!r}. Update or remove the package."
            warnings.warn(msg, RuntimeWarning, stacklevel=3)
            continue
        plugins[item.name] = item
    return plugins


def _instantiate(loaded: object) -> Format:
    """Return a format from the object of an entry point.

    Raises:
        UnsupportedFormatError: The object is no Format, or its name is no text.
    """
    item = loaded() if isinstance(loaded, type) and issubclass(loaded, Format) else loaded
    if not isinstance(item, Format):
        msg = f"expected a Format, class or instance, got {type(item).__name__}"
        raise UnsupportedFormatError(msg)
    if not isinstance(getattr(item, "name", None), str) or not item.name:
        msg = f"expected {type(item).__name__}.name to be a text"
        raise UnsupportedFormatError(msg)
    return item
