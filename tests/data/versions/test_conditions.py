"""Conditions on episodes: the episodes that they select, and the refusal of other syntax."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data.versions import _conditions
from rlhive.errors import InvalidExpressionError, RLHiveError
from tests.data.versions.test_selection import TABLE

TOKENS = ["success", "return", "length", "seed", "and", "or", "not", "in", "if", "==", ">", "~", "**", ".", ",", "1e9"]
TOKENS += ["(", ")", "[", "]", "'a'", "-40"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("success", [6, 9]),
        ("success and return > -40", [6, 9]),
        ("success and return > 0 or length == 5", [3, 9]),
        ("not success", [3, 12]),
        ("-40 < return <= 1.5", [6, 9]),
        ("split in ['b', 'c'] and not (length > 20)", [6]),
        ("split not in ('b',)", [3, 9]),
        ("seed is None", [6]),
        ("seed != None", [3, 9, 12]),
        ("seed < 100", [3, 9, 12]),
        ("return / length > -5", [6, 9, 12]),
        ("policy == 'return'", [12]),
        ('policy == "it\'s"', [9]),
        ("metadata.operator == 'A'", [3, 12]),
        ("metadata.n.k == 1", [3]),
        ("episode in [3, 12] and True", [3, 12]),
        ("  length*2 >= 40  ", [9, 12]),
        (pc.field("length") > 10, [9, 12]),
    ],
)
def test_a_condition_selects_episodes(condition, expected):
    assert _conditions.select_where(TABLE, condition) == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("__import__('os').system('true')", "Call is not part of the language"),
        ("(lambda: 1)()", "Call is not part"),
        ("success; 1", "expected something like"),
        ("", "expected something like"),
        ("sucess", "there is no column sucess. Columns are episode, split"),
        ("success.__class__", r"there is no column success.__class__"),
        ("length > 'x'", "cannot be computed"),
        ("split", "cannot be computed"),
        ("length is 3", "'is' compares with None only"),
        ("success in success", "after 'in' comes a list of constants"),
        ("length in [episode]", "after 'in' comes a list of constants"),
        ("length in [[1]]", "after 'in' comes a list of constants"),
        ("length in [1, 'x']", "cannot be computed"),
        ("length in [" + "9" * 30 + "]", "cannot be computed"),
        ("length == " + "9" * 30, "cannot be computed"),
        ("[1, 2] == length", "a list can stand only after 'in'"),
        ("2 ** 99999999999", "BinOp is not part"),
        ("f'{length}' == 'x'", "JoinedStr is not part"),
        ("not " * 3000 + "success", "nested too deeply|expected at most|expected something like"),
        ("(" * 500 + "success" + ")" * 500, "expected something like"),
        ("length > " + "9" * 5000, "expected something like|cannot be computed"),
    ],
)
def test_anything_else_is_refused(condition, message):
    with pytest.raises(InvalidExpressionError, match=message):
        _conditions.select_where(TABLE, condition)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(TOKENS)))
def test_any_text_selects_episodes_or_is_refused(tokens):
    try:
        episode_ids = _conditions.select_where(TABLE, " ".join(tokens))
    except RLHiveError:
        return
    assert set(episode_ids) <= {3, 6, 9, 12}


def test_only_the_columns_that_a_condition_names_are_needed():
    assert _conditions.find_referenced_columns("success and return > 3 or metadata.x == 1") == [
        "metadata",
        "return",
        "success",
    ]


UNKNOWN = TABLE.set_column(3, "return", pa.nulls(4, pa.float64())).set_column(4, "success", pa.nulls(4, pa.bool_()))


@pytest.mark.parametrize(
    ("condition", "unknown"),
    [
        ("success", "success was"),
        ("not success", "success was"),
        ("return > 1", "return was"),
        ("return > 1 or length > 5", "return was"),
        ("success and return / length > 1", "return and success were"),
        ("return in [1.0]", "return was"),
        (pc.field("return") > 1, "what it asks for was"),
        (~pc.field("success"), "what it asks for was"),
    ],
)
def test_a_condition_on_what_nobody_recorded_is_refused(condition, unknown):
    with pytest.raises(InvalidExpressionError, match=f"{unknown} not recorded for any of the 4 episodes"):
        _conditions.select_where(UNKNOWN, condition)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("success is None", [3, 6, 9, 12]),
        ("return != None or length > 10", [9, 12]),
        ("success is not None and success", []),
        ("length > 10", [9, 12]),
        (pc.field("return").is_null(), [3, 6, 9, 12]),
    ],
)
def test_a_condition_may_ask_whether_something_was_recorded(condition, expected):
    assert _conditions.select_where(UNKNOWN, condition) == expected
    assert _conditions.select_where(UNKNOWN.slice(0, 0), condition) == []


def test_a_mask_of_nulls_is_refused():
    with pytest.raises(InvalidExpressionError, match="what it asks for was not recorded for any of the 4 episodes"):
        _conditions.select_by_mask(UNKNOWN, pc.greater(UNKNOWN["return"], 1).combine_chunks(), "is_good")
    assert _conditions.select_by_mask(TABLE, pc.greater(TABLE["return"], 1).combine_chunks(), "is_good") == [9, 12]
