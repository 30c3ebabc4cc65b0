"""Optional packages, which extras of RLHive install."""

import contextlib
from collections.abc import Iterator

from rlhive.errors import MissingExtraError


@contextlib.contextmanager
def require_extra(message: str) -> Iterator[None]:
    """Import an optional package in the block of a ``with`` statement.

    Args:
        message: What needs the package, and how to install it.

    Raises:
        MissingExtraError: The import failed; with the message.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(message) from error
