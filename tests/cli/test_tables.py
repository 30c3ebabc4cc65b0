"""Tables as a terminal of 80 columns shows them: no line is longer, and no word is broken in two."""

import io
import os
import re

import pytest
from hypothesis import given, settings, strategies as st
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from rlhive.cli import _collect, _datasets, _diff, _hub, _tables, _terminal, _train
from rlhive.cli._tables import make_table, print_table
from rlhive.data.versions import Diff
from rlhive.rollouts import Evaluation
from tests.cli.conftest import invoke

NAME = "n" * 30 + "/" + "m" * 29
FOLDER = "/tmp/[a]b/[bold]x[/bold]"


def render(table, width=80):
    """Return the lines of a table as a console of some width prints it."""
    console = type(_terminal.out)(file=io.StringIO(), width=width, force_terminal=False)
    print_table(table, console=console)
    return console.file.getvalue().splitlines()


def build(headers, rows, *, no_wrap):
    table = make_table()
    for header in headers:
        table.add_column(header, no_wrap=no_wrap)
    for row in rows:
        table.add_row(*row)
    return table


def test_a_table_that_fits_keeps_its_form():
    lines = render(build(["policy", "success"], [["expert", "98 %"]], no_wrap=True))
    assert [line.split() for line in lines if line.strip()] == [
        ["policy", "success"],
        ["─" * 15],
        ["expert", "98", "%"],
    ]


def test_prose_wraps_between_words_and_numbers_do_not():
    table = Table("check", "", "says")
    table.add_row("hashes", Text("passed", style="green"), "[/] " * 40)
    table.add_row("files", "failed", "data/" + "x" * 40)
    lines = render(table)
    assert all(cell_len(line) <= 80 for line in lines)
    assert "\n".join(lines).count("[/]") == 40
    assert any("data/" + "x" * 40 in line for line in lines)
    lines = render(build(["return", "length"], [["-123456.7 to 123456.7"] * 2] * 2, no_wrap=True), width=48)
    assert sum("-123456.7 to 123456.7  -123456.7 to 123456.7" in line for line in lines) == 2


def test_a_table_that_cannot_fit_is_printed_row_by_row():
    path = f"{FOLDER}/{'p' * 80}"
    rows = [[NAME, "123,456,789", "two words", path], ["lab/knob", "1", "", "short"]]
    lines = render(build(["dataset", "steps", "last written", "recording"], rows, no_wrap=True))
    assert lines == [
        NAME,
        "  steps         123,456,789",
        "  last written  two words",
        "  recording",
        f"    {path}",
        "lab/knob",
        "  steps         1",
        "  last written  ",
        "  recording     short",
    ]


WORDS = st.text("abc0189/[]._-", min_size=1, max_size=50)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)


@settings(max_examples=60 * int(os.environ.get("RLHIVE_FUZZ", "1")), deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(20, 130), st.booleans())
def test_no_word_of_any_table_is_broken(data, num_columns, width, no_wrap):
    headers = data.draw(st.lists(st.text("ab ", max_size=12), min_size=num_columns, max_size=num_columns))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=num_columns, max_size=num_columns), min_size=1, max_size=3))
    lines = render(build(headers, rows, no_wrap=no_wrap), width)
    shown = " ".join(lines).split()
    assert not [word for row in rows for cell in row for word in cell.split() if word not in shown]
    for line in lines:  # only a word that is too long by itself makes a line too long
        assert cell_len(line.rstrip()) <= max(width, 24) or cell_len(max(line.split(), key=len)) > width - 30


def check_lines(text, *whole):
    """Compare: no line is longer than 80 cells unless it holds one of some texts, and each of these is in one line."""
    for line in text.splitlines():
        assert cell_len(line) <= 80 or any(word in line for word in whole), line
    for word in whole:
        assert any(word in line for line in text.splitlines()), word


@pytest.fixture
def printed(monkeypatch):
    """Return what the verbs print in a terminal of 80 columns."""
    console = type(_terminal.out)(file=io.StringIO(), width=80, force_terminal=False)
    for module in (_collect, _datasets, _diff, _hub, _tables, _train):
        if hasattr(module, "out"):
            monkeypatch.setattr(module, "out", console)
    monkeypatch.setattr(print_table, "__kwdefaults__", {"console": console})
    return console.file.getvalue


def make_evaluation(policy):
    return Evaluation(
        policy, "E-v0", 50, 0, 9, 0.5, (0.25, 0.75), (), -123456.7, (-134567.8, -112345.6), 97.0, (-99, 112)
    )


@pytest.mark.parametrize("policy", ["random", "outputs/bc/2026-11-28_10-00-00", f"{FOLDER}/{'p' * 90}"])
def test_evaluate_prints_every_number_in_one_piece(printed, policy):
    print_table(_train._make_evaluation_table([make_evaluation(policy), make_evaluation("expert")]))
    check_lines(printed(), policy, "-123456.7", "-134567.8 to -112345.6", "25% to 75%", "-99 to 112")


def test_recover_prints_every_recording_in_one_piece(printed):
    from pathlib import Path

    from rlhive.data.recording import RecordingSummary

    recording = "kitchen-20261128-abcdef1234567890"
    names = dict.fromkeys(RecordingSummary.__dataclass_fields__, 0)
    names |= {"name": NAME, "path": Path(recording), "num_transitions": 123_456_789, "in_use": True, "age_s": 90_000}
    _collect._list_recordings([RecordingSummary(**names)], False)
    check_lines(printed(), NAME, recording, "123,456,789", "1 day, 1:00:00 ago")


def test_diff_wraps_between_words(printed):
    shift = {"mean_shift_in_std": 0.5, "std_factor": [1.0, None], "extremes": True}
    versions = [{"name": NAME, "version": version, "fingerprint": version[0] * 64} for version in ("1.0.0", "2.0.0")]
    counts = {"num_episodes": 123_456_789, "num_transitions": 987_654_321}
    difference = Diff(
        *versions,
        columns={"added": {"[bold]x[/bold]": "float32 [1]"}, "dropped": {}, "changed": {}},
        comparable=True,
        related=False,
        num_same=3,
        added=list(range(100_000_000, 100_000_020)),
        dropped=[],
        changed=[],
        moved={},
        renumbered=[],
        splits={"expert": (counts, counts)},
        statistics={"observation.proprioception": shift},
        provenance={"description": ("[/]", "x")},
    )
    _diff._print_difference(difference)
    check_lines(
        printed(), f"{NAME} 1.0.0", f"{NAME} 2.0.0", "[bold]x[/bold]", "[/]", "123,456,789", "100000007", "1" * 16
    )


def test_the_verbs_that_list_fit(filled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for verb in ("list", "versions toy_point", "show toy_point --statistics", "check toy_point", "envs"):
        shown = invoke(*verb.split())
        assert shown.exit_code in (0, 1), shown.output
        # Paths and commands stay on one line, so that they can be copied.
        lines = [line for line in shown.stdout.splitlines() if str(filled) not in line and "simhive" not in line]
        too_long = [line for line in lines if cell_len(line) > 80]
        assert not too_long, verb
        assert "…" not in shown.stdout, verb
        assert not re.search(r"\w-$", shown.stdout, re.MULTILINE), verb
