import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data.versions import _selection
from rlhive.errors import InvalidExpression, RLHiveError, SchemaMismatch

TABLE = pa.table(
    {
        "episode": [3, 6, 9, 12],
        "split": ["a", "b", "a", "b"],
        "length": [5, 10, 20, 40],
        "return": [-50.0, -30.0, 1.5, 7.0],
        "success": [False, True, True, False],
        "seed": pa.array([0, None, 2, 3], pa.int64()),
        "policy": ["expert", "random", "it's", "return"],
        "metadata": ['{"operator": "A", "n": {"k": 1}}', '{"operator": "B"}', "{}", '{"operator": "A"}'],
    }
)

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
def test_a_condition_chooses_episodes(condition, expected):
    assert _selection.select_where(TABLE, condition) == expected


@pytest.mark.parametrize(
    ("condition", "says"),
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
        ("[1, 2] == length", "a list stands only after 'in'"),
        ("2 ** 99999999999", "BinOp is not part"),
        ("f'{length}' == 'x'", "JoinedStr is not part"),
        ("not " * 3000 + "success", "nested too deeply|expected at most|expected something like"),
        ("(" * 500 + "success" + ")" * 500, "expected something like"),
        ("length > " + "9" * 5000, "expected something like|cannot be computed"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(condition, says):
    with pytest.raises(InvalidExpression, match=says):
        _selection.select_where(TABLE, condition)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(TOKENS)))
def test_no_text_does_harm(tokens):
    try:
        chosen = _selection.select_where(TABLE, " ".join(tokens))
    except RLHiveError:
        return
    assert set(chosen) <= {3, 6, 9, 12}


def test_only_the_columns_that_a_condition_names_are_needed():
    assert _selection.find_referenced_columns("success and return > 3 or metadata.x == 1") == [
        "metadata",
        "return",
        "success",
    ]


def test_a_predicate_sees_the_row_with_its_metadata():
    assert _selection.select_by(TABLE, lambda row: row["metadata"].get("operator") == "A" and row["length"] > 5) == [12]


def test_restricted_rows_carry_their_new_split():
    table = _selection.apply_selection(TABLE, {"y": np.array([12]), "x": np.array([3, 9])})

    assert table["episode"].to_pylist() == [3, 9, 12]
    assert table["split"].to_pylist() == ["x", "x", "y"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_rows_and_positions_are_those_of_the_episodes(lengths, random):
    ids = np.array(random.sample(range(100), len(lengths)))
    rows = np.repeat(ids, lengths)
    chosen = np.array(sorted(random.sample(ids.tolist(), random.randint(0, len(ids)))), np.int64)
    found = _selection.locate_rows(rows, {"x": chosen[::2], "y": chosen[1::2]})

    expected = [row for own in (chosen[::2], chosen[1::2]) for e in own for row in np.flatnonzero(rows == e)]
    assert found.tolist() == expected
    assert ids[_selection.locate_episodes(ids, {"x": chosen})].tolist() == chosen.tolist()


def test_an_unknown_id_is_refused():
    with pytest.raises(SchemaMismatch, match="There is no episode 7"):
        _selection.require_episodes({"a": np.array([3])}, [3, 7])
