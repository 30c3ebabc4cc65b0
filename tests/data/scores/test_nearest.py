"""Distances between episodes, compared with the search through all pairs."""

import time

import numpy as np
import pytest

from rlhive.data.scores._nearest import NUM_NEAREST, find_copies, measure_isolation


def search_all_isolations(moments):
    rows = moments.reshape(-1, moments.shape[2])
    owner = np.repeat(np.arange(len(moments)), moments.shape[1])
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    distances[owner[:, None] == owner] = np.inf
    return np.sort(distances, axis=1)[:, :NUM_NEAREST].mean(axis=1).reshape(moments.shape[:2]).mean(axis=1)


def test_isolation_is_the_mean_distance_to_the_nearest_rows_of_other_episodes():
    moments = np.random.default_rng(0).normal(size=(12, 6, 5))

    assert measure_isolation(moments) == pytest.approx(search_all_isolations(moments))


def test_an_episodes_own_rows_do_not_support_it():
    moments = np.random.default_rng(0).normal(size=(10, 6, 5))
    moments[3] = 50.0  # far away, but its rows are all at one place

    assert measure_isolation(moments).argmax() == 3
    assert measure_isolation(moments)[3] > 100


def test_of_a_group_of_copies_all_but_the_first_are_marked():
    moments = np.random.default_rng(0).normal(size=(40, 8, 6))
    for copy, original in ((7, 2), (9, 2), (30, 2), (31, 12)):
        moments[copy] = moments[original] + 1e-3 * np.random.default_rng(copy).normal(size=(8, 6))

    distances, is_copy = find_copies(moments)

    assert np.flatnonzero(is_copy).tolist() == [7, 9, 30, 31]
    assert distances[[2, 7, 9, 12, 30, 31]].max() < 0.01
    assert np.delete(distances, [2, 7, 9, 12, 30, 31]).min() > 0.5


def test_a_single_episode_has_no_neighbour_and_no_episode_has_no_score():
    assert np.isnan(measure_isolation(np.zeros((1, 4, 2)))).all()
    assert np.isnan(find_copies(np.zeros((1, 4, 2)))[0]).all()
    assert find_copies(np.zeros((0, 4, 2)))[1].shape == (0,)


@pytest.mark.slow
def test_the_time_grows_like_the_number_of_episodes():
    seconds = []
    for count in (2_000, 8_000):
        moments = np.random.default_rng(0).normal(size=(count, 16, 12)).astype(np.float32)
        start = time.process_time()
        measure_isolation(moments)
        find_copies(moments)
        seconds.append(time.process_time() - start)

    assert seconds[1] < 8 * seconds[0]
