"""The picture of the card: bars, axis and mean are those of the returns, and the same returns give the same bytes."""

import math
from xml.etree import ElementTree

import numpy as np
from hypothesis import example, given, strategies as st

from rlhive.data.versions._picture import NUM_BINS, render_returns

RETURNS = {"expert": [3.0, 4.0, 4.1], "random <&>": [1.0, 1.0], "none": [], "odd": [float("nan"), float("inf")]}
AXIS_LEFT, AXIS_RIGHT = 150, 700  # in pixels


def find(svg, tag):
    return [item for item in ElementTree.fromstring(svg).iter() if item.tag.endswith(tag)]


def find_texts(svg):
    return [item.text for item in find(svg, "text")]


def test_the_same_returns_give_the_same_bytes():
    assert render_returns(RETURNS, "a <b>") == render_returns(dict(RETURNS), "a <b>")


def test_each_bin_with_a_return_has_a_bar_and_the_fullest_is_the_highest():
    _, *bars = find(render_returns(RETURNS, ""), "rect")

    assert len(bars) == 4  # 1, 3, 4 and 4.1 are in bins of their own
    assert max(float(bar.get("height")) for bar in bars) == 44.0


def test_the_height_of_a_bar_is_proportional_to_its_count():
    _, *bars = find(render_returns({"a": [0.0, 1.0, 1.0, 1.0, 2.0, 2.0]}, ""), "rect")

    assert [float(bar.get("height")) for bar in bars] == [round(44 * count / 3, 1) for count in (1, 3, 2)]
    width = (AXIS_RIGHT - AXIS_LEFT) / NUM_BINS
    assert [round((float(bar.get("x")) - AXIS_LEFT) / width) for bar in bars] == [0, NUM_BINS // 2, NUM_BINS - 1]


def test_title_splits_counts_and_axis_are_labelled():
    texts = find_texts(render_returns(RETURNS, "a <b>"))

    assert texts == [
        "a <b>",
        *("expert", "3 episodes", "random <&>", "2 episodes", "none", "0 episodes", "odd", "0 episodes"),
        *("1", "2.55", "4.1"),
    ]


def test_a_dashed_line_marks_the_mean_of_each_split():
    returns = {"a": [0.0, 1.0, 4.0], "b": [10.0], "c": []}
    dashed = [line for line in find(render_returns(returns, ""), "line") if line.get("stroke-dasharray")]

    expected = [AXIS_LEFT + (AXIS_RIGHT - AXIS_LEFT) * np.mean(values) / 10 for values in ([0, 1, 4], [10])]
    np.testing.assert_allclose([float(line.get("x1")) for line in dashed], expected, atol=0.05)


def test_a_picture_without_returns_has_an_axis_from_0_to_1():
    assert find_texts(render_returns({}, "empty")) == ["empty", "0", "0.5", "1"]


def test_equal_returns_are_in_the_first_bin():
    assert find_texts(render_returns({"a": [5.0, 5.0]}, ""))[-3:] == ["5", "5.5", "6"]
    _, bar = find(render_returns({"a": [5.0, 5.0]}, ""), "rect")
    assert float(bar.get("x")) == AXIS_LEFT


EXTREMES = [-1.79e308, -1e308, -1e16, -5e-324, 0.0, 5e-324, 1.0, np.nextafter(1.0, 2), 1e16, 1e16 + 2, 1e305, 1.79e308]


@given(st.lists(st.sampled_from(EXTREMES) | st.floats(), max_size=8))
@example([-1.79e308] * 5)  # their sum is infinite
def test_any_returns_are_drawn_within_the_axis(returns):
    svg = render_returns({"a": returns}, "")

    num_finite = sum(map(math.isfinite, returns))
    assert f"{num_finite} episodes" in find_texts(svg)
    _, *bars = find(svg, "rect")
    assert bool(bars) == bool(num_finite)
    for bar in bars:
        assert AXIS_LEFT <= float(bar.get("x")) <= AXIS_RIGHT
    for mark in find(svg, "line")[1:]:
        assert AXIS_LEFT <= float(mark.get("x1")) <= AXIS_RIGHT
