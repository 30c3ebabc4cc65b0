"""The report counts every finding, describes the first ten, and has the JSON keys that `rlhive check --json` prints."""

import json
from pathlib import Path

from rlhive.data.checks._report import CHECKS, ReportBuilder


def test_all_findings_are_counted_and_the_first_ten_described():
    builder = ReportBuilder()
    for row in range(13):
        builder.add("nan", f"row {row}")

    result = builder.build(Path("folder")).results["nan"]

    assert (result.status, result.count) == ("failed", 13)
    assert result.findings == [f"row {row}" for row in range(10)]


def test_an_error_fails_the_report_and_a_warning_does_not():
    builder = ReportBuilder()
    builder.add("constant", "a goal")
    assert builder.build(Path("folder")).results["constant"].status == "warned"
    assert builder.build(Path("folder")).ok

    builder.add("order", "row 3")
    assert builder.build(Path("folder")).results["order"].status == "failed"
    assert not builder.build(Path("folder")).ok


def test_a_check_with_findings_is_not_skipped():
    builder = ReportBuilder()
    builder.add("reward", "row 3")
    builder.skip("reward", "no simulator")
    builder.skip_remaining("the manifest cannot be read", done=["manifest"])

    results = builder.build(Path("folder")).results

    assert (results["reward"].status, results["reward"].note) == ("failed", "")
    assert (results["nan"].status, results["nan"].note) == ("skipped", "the manifest cannot be read")
    assert results["manifest"].status == "passed"


def test_the_json_has_a_row_per_check():
    builder = ReportBuilder()
    builder.add("nan", "row 3")

    content = json.loads(json.dumps(builder.build(Path("folder")).to_json()))

    assert content.keys() == {"path", "ok", "checks"}
    assert (content["path"], content["ok"]) == ("folder", False)
    assert [row["name"] for row in content["checks"]] == list(CHECKS)
    assert next(row for row in content["checks"] if row["name"] == "nan") == {
        "name": "nan",
        "severity": "error",
        "promise": "no observation, action, reward or success is NaN",
        "status": "failed",
        "count": 1,
        "findings": ["row 3"],
        "note": "",
    }
