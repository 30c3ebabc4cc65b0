"""Checks: whether a version is what its manifest says, and fit to learn from."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.checks._check import RewardChecker as RewardChecker, run_checks as run_checks
    from rlhive.data.checks._report import CHECKS as CHECKS, FAILED as FAILED, CheckReport as CheckReport
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
