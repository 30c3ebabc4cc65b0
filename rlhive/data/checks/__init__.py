"""Checks of a dataset version: is it what its manifest says, and is it fit to learn from?"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.checks._check import run_checks as run_checks
    from rlhive.data.checks._report import (
        CHECKS as CHECKS,
        FAILED as FAILED,
        CheckReport as CheckReport,
        CheckResult as CheckResult,
    )
    from rlhive.data.checks._scan import RewardChecker as RewardChecker
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
