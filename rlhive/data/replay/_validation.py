"""Checks of argument values; the errors name the argument, the expected and the given value."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from rlhive.errors import InvalidArgumentError, SchemaMismatchError


def require_integer(value: Any, minimum: int, argument: str) -> None:
    """Raise unless a value is an integer that is not smaller than a minimum.

    Raises:
        ValueError: The value is not an integer, or it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        msg = f"{argument}={value!r}: expected a whole number of {minimum} or more"
        raise ValueError(msg)


def require_key_list(value: Any, argument: str) -> None:
    """Raise if a string stands where a list of keys is expected: it would be iterated character by character.

    Raises:
        SchemaMismatchError: The value is a string.
    """
    if isinstance(value, str):
        msg = f"{argument}={value!r}: expected a list of keys, got a string. Write {argument}=[{value!r}]."
        raise SchemaMismatchError(msg)


def require_choice(value: Any, choices: Sequence[str], argument: str) -> None:
    """Raise unless a value is one of some strings.

    Raises:
        ValueError: The value is not one of them.
    """
    if value not in choices:
        *first, last = (repr(choice) for choice in choices)
        msg = f"{argument}={value!r}: expected {', '.join(first)} or {last}"
        raise ValueError(msg)


def require_priorities(priority: Any) -> None:
    """Raise unless every priority is finite and not negative.

    A prioritized sampler keeps sums of priorities: one NaN makes each of them NaN.

    Raises:
        InvalidArgumentError: Names the first priority that is not.
    """
    priorities = torch.as_tensor(priority).detach().reshape(-1)
    is_invalid = ~(priorities.isfinite() & (priorities >= 0))
    if is_invalid.any():
        position = int(is_invalid.nonzero()[0])
        got = f"{priorities[position].item()} at position {position} of {len(priorities)}"
        msg = f"Priorities: expected finite numbers of 0 or more, got {got}. No priority was set."
        raise InvalidArgumentError(msg)
