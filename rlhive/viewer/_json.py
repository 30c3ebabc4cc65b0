"""Values of a dataset as JSON that a browser reads without loss or surprise.

JSON has no NaN and no infinity, and a browser's numbers are exact only up to 2**53. Such values become text. Text of a
dataset can come from anyone: it is shortened, and characters that a browser would act on are escaped.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhive._text import printable

#: Longest text of a dataset on the page.
MAX_TEXT = 300
#: Significant digits of a number in a chart.
_DIGITS = 6
_MAX_DEPTH = 12
_MAX_ITEMS = 500


def encode_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def to_cell(value: Any) -> Any:
    """Return a value of the episode table: None, a bool, a number or a text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return shorten(value)


def to_tree(value: Any, *, depth: int = 0) -> Any:
    """Return nested provenance with bounded depth, width and texts."""
    if depth == _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        items = list(value.items())
        tree = {shorten(name): to_tree(item, depth=depth + 1) for name, item in items[:_MAX_ITEMS]}
        return tree | ({"…": f"{len(items) - _MAX_ITEMS} more"} if len(items) > _MAX_ITEMS else {})
    if isinstance(value, (list, tuple)):
        omitted = [f"… {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [to_tree(item, depth=depth + 1) for item in value[:_MAX_ITEMS]] + omitted
    return to_cell(value)


def to_series(values: np.ndarray) -> list[float | None]:
    """Return numbers ``[T]`` with six significant digits; None where one is not finite."""
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]


def shorten(text: object, limit: int = MAX_TEXT) -> str:
    """Return printable text of at most ``limit`` characters."""
    shown = printable(str(text)[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
