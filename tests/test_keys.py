"""Nested keys become column names and back."""

import pytest

from rlhive.keys import column_to_key, key_to_column


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("observation", "observation"),
        (("next", "reward"), "next.reward"),
        (("next", "parts", "camera"), "next.parts.camera"),
        ("взгляд", "взгляд"),
        ("two words", "two words"),
    ],
)
def test_a_key_becomes_a_column_name_and_comes_back(key, column):
    assert key_to_column(key) == column
    assert column_to_key(column) == key


def test_a_tuple_of_one_string_is_the_string():
    assert column_to_key(key_to_column(("action",))) == "action"


@pytest.mark.parametrize("key", ["", (), ("a", ""), "a.b", ("a", "b.c"), "two\nlines", "\x1b[2J", "\u202eabc"])
def test_a_key_that_cannot_be_read_back_or_printed_is_refused(key):
    with pytest.raises(ValueError, match="cannot name a column: expected printable, non-empty parts without a dot"):
        key_to_column(key)
