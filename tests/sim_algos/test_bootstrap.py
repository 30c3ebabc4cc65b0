"""Intervals over seeds and episodes, against formulas and by hand."""

import numpy as np
import pytest

from rlhive.sim_algos._bootstrap import bootstrap_interval, difference_interval, interquartile_mean


def test_the_interval_of_normal_runs_has_the_variance_of_both_levels() -> None:
    generator = np.random.default_rng(1)
    means = generator.normal(0, 1, 40)
    runs = (means[:, None] + generator.normal(0, 2, (40, 50))).tolist()
    run_means = np.mean(runs, axis=1)
    # of a resample's mean: the variance between runs, and within runs, both as they were sampled
    variance = run_means.var() / 40 + np.mean(np.var(runs, axis=1)) / (40 * 50)

    low, high = bootstrap_interval(runs)

    assert (low + high) / 2 == pytest.approx(run_means.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.03)
    pooled = np.std(runs) / np.sqrt(40 * 50)
    assert high - low > 3 * 2 * 1.96 * pooled  # all episodes together would look three times as certain


def test_two_runs_of_equal_episodes_have_the_quantiles_of_the_four_resamples() -> None:
    # a resample of two runs is (0, 0), (0, 1), (1, 0) or (1, 1) with probability 1/4 each
    assert bootstrap_interval([[0.0] * 5, [1.0] * 5]) == (0.0, 1.0)
    assert bootstrap_interval([[0.25], [0.25, 0.25]]) == (0.25, 0.25)


def test_a_single_run_is_resampled_by_its_episodes() -> None:
    values = np.random.default_rng(2).normal(3, 1, 400)
    low, high = bootstrap_interval([values.tolist()])
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_runs_of_one_number_are_resampled_as_runs() -> None:
    values = np.random.default_rng(3).normal(0, 1, 30)
    low, high = bootstrap_interval([[value] for value in values])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(30), rel=0.05)


def test_runs_of_different_lengths_have_equal_weight_and_the_interval_is_the_same_again() -> None:
    runs = [[0.0], [1.0] * 1000]
    low, high = bootstrap_interval(runs, num_resamples=200)
    assert (low, high) == (0.0, 1.0)
    wide = [np.random.default_rng(4).normal(0, 1, 3000).tolist()]
    assert bootstrap_interval(wide, num_resamples=1000) == bootstrap_interval(wide, num_resamples=1000)


def test_the_variance_of_a_difference_is_the_sum_of_both() -> None:
    generator = np.random.default_rng(5)
    runs, others = (generator.normal(mean, 1, (30, 20)).tolist() for mean in (4, 1))

    low, high = difference_interval(runs, others)

    widths = [np.diff(bootstrap_interval(rows))[0] for rows in (runs, others)]
    assert high - low == pytest.approx(np.hypot(*widths), rel=0.03)
    assert (low + high) / 2 == pytest.approx(np.mean(runs) - np.mean(others), abs=0.01)
    assert difference_interval(others, runs) == pytest.approx((-high, -low), abs=0.02)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([5.0, 1.0, 0.0], 2.0), ([0, 1, 2, 99], 1.5), ([9, 1, 2, 3, -50], 2.0), (list(range(8)), 3.5)],
)
def test_the_interquartile_mean_is_rliables(values, expected) -> None:
    from scipy.stats import trim_mean

    assert interquartile_mean(values) == pytest.approx(expected)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))
