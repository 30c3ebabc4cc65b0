"""The named checks of a dataset version, and the report that says what each of them found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"
PASSED, FAILED, WARNED, SKIPPED = "passed", "failed", "warned", "skipped"

#: Every check: its severity, and what holds when it passes.
CHECKS: dict[str, tuple[str, str]] = {
    "manifest": (ERROR, "rlhive.json is one that this RLHive reads"),
    "files": (ERROR, "every file has the recorded size and SHA-256, and data/ holds no other"),
    "pages": (ERROR, "every Parquet page has its checksum and can be decoded"),
    "schema": (ERROR, "the columns on disk have the names, types and shapes of the manifest, and no nulls"),
    "counts": (ERROR, "episode ids are unique and rising; episodes and rows are as many as the manifest says"),
    "order": (ERROR, "an episode's rows stand together, step by step, so that next is the row below"),
    "content": (ERROR, "content hashes and fingerprint, computed anew, are the recorded ones"),
    "summary": (ERROR, "length, return, success and end of the episode table are those of the rows"),
    "ends": (ERROR, "an episode ends at its last row only, and at the horizon at the latest"),
    "nan": (ERROR, "no value is NaN"),
    "statistics": (ERROR, "count, minimum and maximum of the manifest are those of the rows"),
    "reward": (ERROR, "rewards are those that the environment gives for the next state"),
    "success": (ERROR, "success is what the environment's reward calls solved"),
    "split_leak": (ERROR, "no episode stands in two splits"),
    "duplicates": (WARNING, "no episode stands in a split twice"),
    "near_duplicates": (WARNING, "no two episodes are alike but for rounding, a little noise or a shifted start"),
    "final": (WARNING, "final observations are neither copies of the last row nor the next episode's first"),
    "horizon": (WARNING, "only the horizon truncates, and every episode ends"),
    "infinite": (WARNING, "no value is infinite"),
    "constant": (WARNING, "every element of every column changes"),
    "saturated": (WARNING, "no element stands at its extreme value for most of the time"),
}

MAX_FINDINGS = 10


@dataclass
class CheckResult:
    """What one check found.

    Attributes:
        name: Of the check.
        severity: "error" or "warning".
        promise: What holds when it passes.
        status: "passed", "failed" (an error), "warned" or "skipped".
        count: Number of findings.
        findings: The first MAX_FINDINGS of them, in words.
        note: Why it was skipped.
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
    """What all checks found.

    Attributes:
        path: The version's folder.
        results: Of every check, by name.
    """

    path: Path
    results: Mapping[str, CheckResult]

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings are allowed."""
        return not any(outcome.status == FAILED for outcome in self.results.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {"path": str(self.path), "ok": self.ok, "checks": [asdict(row) for row in self.results.values()]}


class ReportBuilder:
    """Where the checks write down what they find."""

    def __init__(self) -> None:
        self._outcomes = {name: CheckResult(name, severity, promise) for name, (severity, promise) in CHECKS.items()}

    def add(self, name: str, finding: str) -> None:
        """Count a finding of a check; the first MAX_FINDINGS are kept in words."""
        outcome = self._outcomes[name]
        outcome.count += 1
        outcome.status = FAILED if outcome.severity == ERROR else WARNED
        if len(outcome.findings) < MAX_FINDINGS:
            outcome.findings.append(finding)

    def skip(self, name: str, why: str) -> None:
        """Say that a check could not be made; what it found before stays found."""
        outcome = self._outcomes[name]
        if outcome.status == PASSED:
            outcome.status, outcome.note = SKIPPED, why

    def stop(self, path: Path, why: str, *, seen: list[str]) -> CheckReport:
        """Skip every check that was not seen to, and return the report."""
        for name in self._outcomes:
            if name not in seen:
                self.skip(name, why)
        return self.report(path)

    def report(self, path: Path) -> CheckReport:
        """Return what was found so far."""
        return CheckReport(path, self._outcomes)
