"""What a manifest may say: a manifest comes from anyone, so every value of its JSON is checked before it is used.

Each function takes a value of any type and returns it, or raises a ValueError that says what was expected.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Python and Arrow count in 64 bits.
MAX_COUNT = 2**63 - 1

_HASH = re.compile(r"[0-9a-f]{64}")
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_reserved(part: str) -> bool:
    """Whether a part of a path means something else to some operating system, or to git, than a file of that name."""
    return bool(_DEVICES.fullmatch(part)) or part.endswith(".") or part.lower().endswith((".git", ".lock"))


def file_path(value: Any) -> str:
    """Return a path below the version's folder: forward slashes, plain characters, no ``..``."""
    parts = text(value).split("/")
    if "\\" in value or value.startswith("/") or any(part in ("..", "") or ":" in part for part in parts):
        msg = f"path {value!r} leaves the version's folder"
        raise ValueError(msg)
    if not all(_PART.fullmatch(part) and not is_reserved(part) for part in parts):
        msg = f"path {value!r} is not of letters, digits, '_', '-' and '.', or is a reserved name"
        raise ValueError(msg)
    return value


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a file that a symbolic link puts outside of the folder."""
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        msg = f"{path} is a link that leaves the version's folder"
        raise ValueError(msg)


def text(value: Any) -> str:
    """Return a string without control characters, which a terminal would obey."""
    if not isinstance(value, str) or _CONTROL.search(value):
        msg = f"expected a string without control characters, got {_short(value)}"
        raise ValueError(msg)
    return value


def split(value: Any) -> str:
    """Return a split's name."""
    if not isinstance(value, str) or not _SPLIT.fullmatch(value):
        msg = f"expected a split's name of letters, digits and '_', got {_short(value)}"
        raise ValueError(msg)
    return value


def count(value: Any) -> int:
    """Return a number of things."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        msg = f"expected a count, got {_short(value)}"
        raise ValueError(msg)
    return value


def sha256(value: Any) -> str:
    """Return a SHA-256 in hexadecimal digits."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        msg = f"expected a SHA-256, got {_short(value)}"
        raise ValueError(msg)
    return value


def mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return a list of JSON objects."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        msg = f"expected a list of objects, got {_short(value)}"
        raise ValueError(msg)
    return tuple(value)


def statistics(value: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return statistics: split, column, then a count and lists of one number or null per element."""
    sizes: dict[str, int] = {}
    for columns in mappings(list(_object(value).values())):
        for column, row in columns.items():
            lists = {name: numbers for name, numbers in _object(row).items() if name != "count"}
            count(row.get("count"))
            size = sizes.setdefault(column, len(lists.get("mean") or ()))
            if not lists.keys() >= {"mean", "std", "min", "max"} or not all(_numbers(n, size) for n in lists.values()):
                msg = f"expected statistics of {size} elements of {column!r}, got {_short(row)}"
                raise ValueError(msg)
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"expected an object, got {_short(value)}"
        raise ValueError(msg)
    return value


def _numbers(value: Any, size: int) -> bool:
    """Whether a value is a list of so many finite numbers or nulls."""
    return (
        isinstance(value, list)
        and len(value) == size
        and all(item is None or (type(item) in (int, float) and abs(item) <= sys.float_info.max) for item in value)
    )


def _short(value: Any) -> str:
    return json.dumps(value, default=repr)[:80]
