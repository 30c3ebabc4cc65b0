"""Scores of one episode."""

import numpy as np
import pytest

from rlhive.data.scores._measures import compute_jerk, measure_idle, measure_path, measure_saturation, take_moments


@pytest.mark.parametrize("rate", [1.0, 12.5, 100.0])
def test_the_jerk_of_a_cubic_is_its_third_derivative_at_any_rate(rate):
    time = np.arange(30)[:, None] / rate

    assert compute_jerk(np.concatenate([time**3, time**2], axis=1), rate) == pytest.approx(6 / np.sqrt(2))
    assert compute_jerk(4 * time**2 + time, rate) == pytest.approx(0, abs=1e-6)


def test_an_episode_that_is_too_short_has_no_jerk_and_no_idle_share():
    assert np.isnan(compute_jerk(np.zeros((3, 2)), 1.0))
    assert compute_jerk(np.zeros((4, 2)), 1.0) == 0
    assert np.isnan(measure_idle(np.zeros((1, 2)), np.zeros(2), np.ones(2)))


def test_idle_steps_are_those_in_which_no_dimension_of_the_command_changes():
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 10.0])
    commands = np.array([[0, 5], [0, 5], [0.001, 5.009], [0.1, 5], [0.1, 6]], float)

    assert measure_idle(commands, low, high) == 0.5


def test_the_path_counts_standard_deviations_and_leaves_out_what_never_changes():
    states = np.array([[0, 0, 7], [3, 0, 7], [3, 4, 7]], float)

    assert measure_path(states, np.array([1.0, 2.0, 0.0])) == pytest.approx((3 + 2) / np.sqrt(2))
    assert np.isnan(measure_path(states, np.zeros(3)))
    assert measure_path(np.array([[0.0], [np.nan], [1.0]]), np.ones(1)) == 0


def test_saturation_is_the_share_at_both_ends_of_the_dimensions_that_vary():
    low, high = np.array([-1.0, 0.0, 5.0]), np.array([1.0, 1.0, 5.0])
    actions = np.array([[1.0, 0.5, 5], [-0.9999, 0.5, 5], [0, 0.5, 5], [0.9, 1.0, 5]])

    assert measure_saturation(actions, low, high) == 3 / 8
    assert np.isnan(measure_saturation(actions[:, 2:], low[2:], high[2:]))


def test_moments_go_from_the_first_row_to_the_last():
    assert take_moments(np.arange(9), 5).tolist() == [0, 2, 4, 6, 8]
    assert take_moments(np.arange(2), 4).tolist() == [0, 0, 1, 1]
