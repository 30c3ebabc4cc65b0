"""Selections: the ids of the selected episodes, and the rows that belong to them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from rlhive.data.versions import _selection
from rlhive.errors import InvalidExpressionError, SchemaMismatchError

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


def test_a_predicate_sees_the_row_with_its_metadata():
    assert _selection.select_by(TABLE, lambda row: row["metadata"].get("operator") == "A" and row["length"] > 5) == [12]


def test_applied_selections_set_the_split():
    table = _selection.apply_selection(TABLE, {"y": np.array([12]), "x": np.array([3, 9])})

    assert table["episode"].to_pylist() == [3, 9, 12]
    assert table["split"].to_pylist() == ["x", "x", "y"]


def test_an_empty_selection_has_no_rows():
    for selection in ({}, {"x": np.empty(0, np.int64)}, {"x": np.array([99])}):
        assert len(_selection.apply_selection(TABLE, selection)) == 0


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 12), st.sampled_from("xyz")), st.lists(st.integers(0, 12), unique=True))
def test_rows_get_the_splits_of_their_episodes(split_of, episode_ids):
    members = {name: np.array(sorted(e for e, split in split_of.items() if split == name), np.int64) for name in "zxy"}
    table = pa.table(
        {
            "split": pa.array(["old"] * len(episode_ids), pa.string()),
            "episode": pa.array(sorted(episode_ids), pa.int64()),
        }
    )

    selected = _selection.apply_selection(table, members)

    expected = [(episode, split_of[episode]) for episode in sorted(episode_ids) if episode in split_of]
    assert [(row["episode"], row["split"]) for row in selected.to_pylist()] == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_rows_and_positions_are_those_of_the_episodes(lengths, random):
    ids = np.array(random.sample(range(100), len(lengths)))
    rows = np.repeat(ids, lengths)
    selected = np.array(sorted(random.sample(ids.tolist(), random.randint(0, len(ids)))), np.int64)
    positions = _selection.locate_rows(rows, {"x": selected[::2], "y": selected[1::2]})

    order = [*selected[::2], *selected[1::2]]
    assert positions.tolist() == [row for episode in order for row in np.flatnonzero(rows == episode)]
    assert ids[_selection.locate_episodes(ids, {"x": selected})].tolist() == selected.tolist()


def test_whole_splits_are_selected_in_the_order_asked_for():
    shuffled = TABLE.take([3, 2, 1, 0])

    selection = _selection.build_selection(shuffled, ["b", "none", "a"])

    assert {split: members.tolist() for split, members in selection.items()} == {"b": [6, 12], "none": [], "a": [3, 9]}
    assert list(selection) == ["b", "none", "a"]


def test_an_intersection_keeps_empty_splits():
    selection = _selection.intersect_selection({"b": np.array([6, 12]), "a": np.array([3, 9])}, [12, 6, 7])

    assert {split: members.tolist() for split, members in selection.items()} == {"b": [6, 12], "a": []}


def test_an_unknown_id_is_refused():
    with pytest.raises(SchemaMismatchError, match="There is no episode 7"):
        _selection.require_episodes({"a": np.array([3])}, [3, 7])


@pytest.mark.parametrize("predicate", [lambda row: row["return"] > 1, lambda row: row["success"]])
def test_a_predicate_of_what_nobody_recorded_is_refused(predicate):
    unknown = TABLE.set_column(3, "return", pa.nulls(4, pa.float64())).set_column(4, "success", pa.nulls(4, pa.bool_()))

    with pytest.raises(InvalidExpressionError, match=r"filter\(\): return and success of all 4 episodes are None"):
        _selection.select_by(unknown, predicate)
    assert _selection.select_by(unknown, lambda row: row["success"] is None) == [3, 6, 9, 12]
    with pytest.raises(TypeError, match="object is not callable"):  # a mistake that is the function's own
        _selection.select_by(TABLE, lambda row: row["return"](3))
