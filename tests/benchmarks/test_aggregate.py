"""Statistics over tasks and seeds: by hand, and against their definitions written out."""

import numpy as np
import pytest

from benchmarks.offline_rl.aggregate import (
    improvement_interval,
    iqm,
    iqm_interval,
    performance_profile,
    probability_of_improvement,
)

SCORES = np.array([[10.0, 20.0, 30.0, 40.0], [50.0, 60.0, 70.0, 980.0]])


def test_the_interquartile_mean_leaves_out_a_quarter_of_all_runs_at_either_end() -> None:
    assert iqm(SCORES) == (30 + 40 + 50 + 60) / 4


def test_intervals_are_those_of_a_bootstrap_within_each_task() -> None:
    low, high = iqm_interval(SCORES)
    generator, means = np.random.default_rng(5), []
    for _ in range(4000):
        runs = np.sort(np.concatenate([generator.choice(row, 4) for row in SCORES]))
        means.append(runs[2:6].mean())
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(expected, abs=2.5)
    assert iqm_interval(SCORES) == (low, high)
    # Seeds never cross tasks: two tasks without spread have an interval without width.
    assert iqm_interval(np.array([[0.0, 0.0], [8.0, 8.0]])) == (4.0, 4.0)


def test_the_probability_of_improvement_counts_pairs_within_each_task() -> None:
    others = np.array([[20.0, 25.0, 5.0], [60.0, 60.0, 1000.0]])
    pairs = zip(SCORES, others, strict=True)
    wins = [np.mean([(a > b) + 0.5 * (a == b) for a in row for b in other]) for row, other in pairs]
    assert probability_of_improvement(SCORES, others) == pytest.approx(np.mean(wins))
    assert probability_of_improvement(SCORES, SCORES) == 0.5
    low, high = improvement_interval(SCORES, SCORES - 1000, num_resamples=200)
    assert (low, high) == (1.0, 1.0)
    low, high = improvement_interval(SCORES, others, num_resamples=500)
    assert low < np.mean(wins) < high


def test_a_profile_is_the_share_of_runs_above_each_score() -> None:
    share, low, high = performance_profile(SCORES, np.array([0.0, 30.0, 1000.0]))
    assert share.tolist() == [1.0, 5 / 8, 0.0]
    assert (low <= share).all()
    assert (share <= high).all()
    assert (low[0], high[2]) == (1.0, 0.0)


def test_the_definitions_are_those_that_rliable_computes() -> None:
    """Rliable's expressions: a trimmed mean of all runs, and Mann-Whitney's statistic per pair of runs of a task."""
    from scipy.stats import mannwhitneyu, trim_mean

    generator = np.random.default_rng(0)
    scores, others = generator.normal(0, 1, (5, 7)), generator.normal(0.5, 1, (5, 4)).round(1)
    scores = scores.round(1)  # ties

    assert iqm(scores) == pytest.approx(trim_mean(scores, proportiontocut=0.25, axis=None))
    statistics = [mannwhitneyu(a, b, alternative="greater").statistic for a, b in zip(scores, others, strict=True)]
    assert probability_of_improvement(scores, others) == pytest.approx(np.mean(statistics) / (7 * 4))
    share, _, _ = performance_profile(scores, np.array([0.0, 0.5]), num_resamples=10)
    assert share.tolist() == [np.mean(scores > 0.0), np.mean(scores > 0.5)]
