"""Which episodes stand out from their split."""

import numpy as np
import pytest

from rlhive.data.scores._outliers import find_outliers


def find(scores, *, duplicate=(), solved=(), splits=None):
    count = len(next(iter(scores.values())))
    masks = [np.isin(np.arange(count), list(marked)) for marked in (duplicate, solved)]
    found = find_outliers(scores, *masks, np.array(splits or ["train"] * count))
    return {index: names for index, names in enumerate(found) if names}


def test_an_episode_stands_out_far_above_the_median_of_its_own_split():
    jerk = np.array([*np.linspace(10, 20, 20), 90, *np.linspace(100, 200, 20), 900])

    assert find({"jerk": jerk}, splits=["smooth"] * 21 + ["rough"] * 21) == {20: "jerk", 41: "jerk"}


def test_four_spreads_of_the_upper_half_are_allowed():
    idle = np.array([*np.arange(21) / 50, 0.86, 0.88])
    spread = (0.33 - 0.22) / 0.6745  # upper quartile minus median

    assert 0.86 < 0.22 + 4 * spread < 0.88
    assert find({"idle": idle}) == {22: "idle"}


@pytest.mark.parametrize(
    ("score", "usual", "floor"),
    [
        ("jerk", 10.0, 10.0),
        ("idle", 0.1, 0.25),
        ("saturation", 0.1, 0.05),
        ("path_length", 3.0, 3.0),
        ("distance_to_goal", 0.2, 0.2),
        ("isolation", 0.1, 0.05 + 0.05),
    ],
)
def test_of_episodes_that_are_nearly_the_same_none_stands_out_by_less_than_the_floor(score, usual, floor):
    scores = np.array([usual] * 18 + [usual + 0.99 * floor, usual + 1.01 * floor])

    assert find({score: scores}) == {19: score}


def test_a_small_split_and_unknown_scores_have_no_outliers():
    assert find({"jerk": np.array([1.0] * 6 + [99.0])}) == {}
    assert find({"jerk": np.full(20, np.nan)}) == {}


def test_a_solved_episode_is_not_blamed_for_where_it_ends():
    distance = np.array([0.01] * 18 + [0.9, 0.9])

    assert find({"distance_to_goal": distance}, solved=[18]) == {19: "distance_to_goal"}


def test_all_reasons_are_named():
    scores = {"jerk": np.array([1.0] * 19 + [9.0]), "idle": np.array([0.0] * 19 + [0.9])}

    assert find(scores, duplicate=[3, 19]) == {3: "duplicate", 19: "jerk, idle, duplicate"}
