"""Conformance suites: pytest classes that a plugin's tests inherit."""

from typing import TYPE_CHECKING

from rlhive._extras import require_extra
from rlhive._lazy import attach

with require_extra("rlhive.testing needs pytest: pip install pytest"):
    import pytest

# A failed assertion shows the compared values, as in a test module.
pytest.register_assert_rewrite("rlhive.testing._comparison", "rlhive.testing._format_tests")

if TYPE_CHECKING:
    from rlhive.testing._comparison import ExpectedEpisode as ExpectedEpisode
    from rlhive.testing._format_tests import (
        FormatTests as FormatTests,
        WritableFormatTests as WritableFormatTests,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
