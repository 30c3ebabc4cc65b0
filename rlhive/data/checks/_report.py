"""List of the checks of a dataset version, and the report of their results."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"
PASSED, FAILED, WARNED, SKIPPED = "passed", "failed", "warned", "skipped"

#: Severity of each check, and what is true of a version that passes it.
CHECKS: dict[str, tuple[str, str]] = {
    "manifest": (ERROR, "rlhive.json is a manifest that this RLHive can read"),
    "files": (ERROR, "every file has the recorded size and SHA-256, and data/ has no other files"),
    "pages": (ERROR, "every Parquet page has its checksum and can be decoded"),
    "schema": (ERROR, "the columns on disk have the names, types and shapes of the manifest, and no nulls"),
    "counts": (ERROR, "episode ids are unique and increase; the manifest has the right number of episodes and rows"),
    "order": (ERROR, "the rows of an episode are contiguous and in step order, so next is the following row"),
    "content": (ERROR, "content hashes and fingerprint, recomputed from the rows, are the recorded ones"),
    "summary": (ERROR, "length, return, success and end in the episode table are those of the rows"),
    "ends": (ERROR, "an episode ends only in its last row, and not later than the horizon"),
    "nan": (ERROR, "no observation, action, reward or success is NaN"),
    "statistics": (ERROR, "count, minimum and maximum in the manifest are those of the rows"),
    "reward": (ERROR, "rewards are those that the environment computes for the next state"),
    "success": (ERROR, "success is what the environment's reward calls solved"),
    "timestamps": (ERROR, "timestamps rise within an episode, and their median step is that of the recorded rate"),
    "split_leak": (ERROR, "no episode is in two splits"),
    "duplicates": (WARNING, "no episode is in a split twice"),
    "near_duplicates": (WARNING, "no two episodes differ only by rounding, a little noise or a shifted start"),
    "final": (WARNING, "final observations are neither copies of the last row nor the next episode's first"),
    "horizon": (WARNING, "only the horizon truncates, and every episode ends"),
    "dropped_frames": (WARNING, "no step between two timestamps takes 1.5 periods of the rate or more"),
    "jitter": (WARNING, "95 % of the steps between timestamps are within a quarter of a period of it"),
    "nan_elsewhere": (WARNING, "no other value is NaN"),
    "infinite": (WARNING, "no value is infinite"),
    "constant": (WARNING, "every element of every column changes"),
    "saturated": (WARNING, "no element is at its minimum or maximum most of the time"),
}

#: Number of findings of a check that the report describes; the others are only counted.
MAX_FINDINGS = 10


@dataclass
class CheckResult:
    """Result of one check.

    Attributes:
        name: Name of the check.
        severity: "error" or "warning".
        promise: What is true of a version that passes.
        status: "passed", "failed" (an error), "warned" or "skipped".
        count: Number of findings.
        findings: Description of the first MAX_FINDINGS findings.
        note: Reason why the check was skipped, or what was measured.
    """

    name: str
    severity: str
    promise: str
    status: str = PASSED
    count: int = 0
    findings: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class CheckReport:
    """Results of all checks of a version.

    Attributes:
        path: The version's folder.
        results: Result of each check, by the check's name.
    """

    path: Path
    results: Mapping[str, CheckResult]

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings are allowed."""
        return not any(result.status == FAILED for result in self.results.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {"path": str(self.path), "ok": self.ok, "checks": [asdict(result) for result in self.results.values()]}


class ReportBuilder:
    """Collector of the findings of all checks."""

    def __init__(self) -> None:
        self._results = {name: CheckResult(name, severity, promise) for name, (severity, promise) in CHECKS.items()}

    def add(self, check: str, finding: str) -> None:
        """Count a finding of a check, and keep its description if it is one of the first MAX_FINDINGS."""
        result = self._results[check]
        result.count += 1
        result.status = FAILED if result.severity == ERROR else WARNED
        if len(result.findings) < MAX_FINDINGS:
            result.findings.append(finding)

    def skip(self, check: str, reason: str) -> None:
        """Mark a check as skipped unless it has findings already."""
        result = self._results[check]
        if result.status == PASSED:
            result.status = SKIPPED
            result.note = reason

    def note(self, check: str, text: str) -> None:
        """Set what the report says of a check that passes."""
        self._results[check].note = text

    def skip_remaining(self, reason: str, *, done: list[str]) -> None:
        """Mark every check as skipped that is not in ``done``."""
        for check in self._results:
            if check not in done:
                self.skip(check, reason)

    def build(self, path: Path) -> CheckReport:
        """Return the report of the version in a folder."""
        return CheckReport(path, self._results)
