"""Validation of untrusted JSON: a manifest can come from anyone, so every value is checked before it is used.

Each ``parse_*`` function takes a value of any type and returns it, or raises a ValueError that names what was expected.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhive._text import printable

#: Largest count: Arrow counts in 64 bits.
MAX_COUNT = 2**63 - 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
#: Control characters except tab and newline, the marks that reverse the direction of text, and surrogates.
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: Names of devices on Windows, with any extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_reserved(part: str) -> bool:
    """Whether a part of a path has a special meaning for an operating system or for git."""
    return bool(_DEVICE_NAME.fullmatch(part)) or part.endswith(".") or part.lower().endswith((".git", ".lock"))


def parse_file_path(value: Any) -> str:
    """Return a path relative to the version's folder: forward slashes, ASCII names, no ``..``."""
    path = parse_text(value)
    parts = path.split("/")
    if "\\" in path or path.startswith("/") or any(part in ("..", "") or ":" in part for part in parts):
        msg = f"path {path!r} leaves the version's folder"
        raise ValueError(msg)
    if not all(_PATH_PART.fullmatch(part) and not is_reserved(part) for part in parts):
        msg = f"path {path!r}: expected parts of letters, digits, '_', '-' and '.' that are not reserved names"
        raise ValueError(msg)
    return path


def require_inside(folder: Path, path: Path) -> None:
    """Raise ValueError if a symbolic link places a file outside of the folder."""
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        msg = f"{path} is a link that leaves the version's folder"
        raise ValueError(msg)


def parse_text(value: Any) -> str:
    """Return a string without control characters, which a terminal would interpret."""
    if not isinstance(value, str) or _CONTROL_CHARACTERS.search(value):
        msg = f"expected a string without control characters, got {_quote_json(value)}"
        raise ValueError(msg)
    return value


def escape_control_characters(text: str) -> str:
    """Return a string that :func:`parse_text` accepts, with the characters escaped that it would refuse."""
    return _CONTROL_CHARACTERS.sub(lambda match: printable(match[0]), text)


def parse_split_name(value: Any) -> str:
    """Return the name of a split."""
    if not isinstance(value, str) or not _SPLIT_NAME.fullmatch(value):
        msg = f"expected a split name of letters, digits and '_', got {_quote_json(value)}"
        raise ValueError(msg)
    return value


def parse_count(value: Any) -> int:
    """Return an integer between 0 and MAX_COUNT."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        msg = f"expected a count, got {_quote_json(value)}"
        raise ValueError(msg)
    return value


def parse_sha256(value: Any) -> str:
    """Return a SHA-256 in hexadecimal digits."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        msg = f"expected a SHA-256, got {_quote_json(value)}"
        raise ValueError(msg)
    return value


def parse_objects(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return a list of JSON objects as a tuple."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        msg = f"expected a list of objects, got {_quote_json(value)}"
        raise ValueError(msg)
    return tuple(value)


def parse_statistics(value: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the statistics of each column by split: a count, and lists with a number or null for each element."""
    sizes: dict[str, int] = {}
    for columns in parse_objects(list(_parse_object(value).values())):
        for column, row in columns.items():
            lists = {name: numbers for name, numbers in _parse_object(row).items() if name != "count"}
            parse_count(row.get("count"))
            size = sizes.setdefault(column, len(lists.get("mean") or ()))
            has_all = lists.keys() >= {"mean", "std", "min", "max"}
            if not has_all or not all(_is_number_list(numbers, size) for numbers in lists.values()):
                msg = f"expected statistics of {size} elements of {column!r}, got {_quote_json(row)}"
                raise ValueError(msg)
    return value


def _parse_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"expected an object, got {_quote_json(value)}"
        raise ValueError(msg)
    return value


def _is_number_list(value: Any, size: int) -> bool:
    """Whether a value is a list of ``size`` finite numbers or nulls."""
    return (
        isinstance(value, list)
        and len(value) == size
        and all(item is None or (type(item) in (int, float) and abs(item) <= sys.float_info.max) for item in value)
    )


def _quote_json(value: Any) -> str:
    """Return the first characters of a value's JSON for an error message."""
    return json.dumps(value, default=repr)[:80]
