"""Validation of a Croissant description by mlcroissant, the reference implementation, where it is installed."""

import importlib.util
import logging
from pathlib import Path

from rlhive._text import printable
from rlhive.errors import CheckFailedError

logger = logging.getLogger(__name__)


def validate_croissant(path: Path) -> bool:
    """Validate a Croissant file; return whether it was, which needs mlcroissant.

    Raises:
        CheckFailedError: mlcroissant finds an error.
    """
    if importlib.util.find_spec("mlcroissant") is None:
        logger.warning("%s was not validated: install mlcroissant, pip install 'rlhive[release]'", path.name)
        return False
    import mlcroissant  # 2 seconds, and pandas

    try:
        issues = mlcroissant.Dataset(path).metadata.issues
    except Exception as error:  # beside ValidationError, whatever its parsers raise
        msg = f"{path.name}: expected a description that mlcroissant accepts, got: {printable(error)[:1000]}"
        raise CheckFailedError(msg) from error
    for warning in sorted(issues.warnings):
        logger.warning("%s: mlcroissant: %s", path.name, printable(warning))
    return True
