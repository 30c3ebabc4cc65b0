"""Text from outside as a terminal, a card and an error show it: nothing in it acts."""

import re
import unicodedata

import pytest
from hypothesis import given, strategies as st

from rlhive._text import escape_markdown, printable, to_inline_code
from rlhive.errors import RLHiveError

ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[31mowned", r"\x1b[2J\x1b[31mowned"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("a\ud800", r"a\ud800"),
        ("\U000e0041x", r"\U000e0041x"),
        ("line\nRoboHiveDataset fake\r\tx", "line RoboHiveDataset fake  x"),
        ("Ünal, 日本語, नमस्\u200dते, ❤\ufe0f", "Ünal, 日本語, नमस्\u200dते, ❤\ufe0f"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text, shown):
    assert printable(text) == shown


def test_an_error_shows_its_lines_and_no_escapes():
    assert str(RLHiveError("first\nsecond \x1b[2J\ud800")) == "first\nsecond \\x1b[2J\\ud800"
    assert str(RLHiveError()) == "RLHiveError"


@given(st.text(st.characters(), max_size=20))
def test_any_text_is_encodable_and_does_not_act(text):
    for shown in (printable(text), printable(text, multiline=True), escape_markdown(text), to_inline_code(text)):
        assert not ACTING.search(shown)
        shown.encode()
    assert not {unicodedata.category(character) for character in printable(text)} & {"Cc", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&lt;</b>", r"\<b\>\&lt;\</b\>"),
        ("[a](http://b) | `c`", r"\[a\](http://b) \| \`c\`"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("---", r"\---"),
        ("~~~\ncode", r"\~\~\~ code"),
        (":bomb: at 10:30", r"\:bomb: at 10:30"),
        ("plain (text), 3.5 m/s", "plain (text), 3.5 m/s"),
    ],
)
def test_markdown_shows_text_unchanged(text, shown):
    assert escape_markdown(text) == shown


def test_inline_code_does_not_end_early():
    assert to_inline_code("a`b|c\n\x1b") == r"`a'b¦c \x1b`"
