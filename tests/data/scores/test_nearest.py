"""Distances between episodes, compared with the search through all pairs."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from rlhive.data.scores import _nearest
from rlhive.data.scores._nearest import NUM_NEAREST, find_copies, measure_isolation


def search_all_isolations(moments):
    rows = moments.reshape(-1, moments.shape[2])
    owner = np.repeat(np.arange(len(moments)), moments.shape[1])
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    distances[owner[:, None] == owner] = np.inf
    return np.sort(distances, axis=1)[:, :NUM_NEAREST].mean(axis=1).reshape(moments.shape[:2]).mean(axis=1)


@pytest.mark.parametrize("block_rows", [_nearest._BLOCK_ROWS, 7])
def test_isolation_is_the_mean_distance_to_the_nearest_rows_of_other_episodes(monkeypatch, block_rows):
    monkeypatch.setattr(_nearest, "_BLOCK_ROWS", block_rows)
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


class ObservedTree(cKDTree):
    """A tree that keeps which rows it was asked for, the number of neighbours, and the distance to the farthest."""

    def __init__(self, rows):
        super().__init__(rows)
        self.asked, self.counts, self.radii = [], set(), []

    def query(self, rows, count):
        distances, indices = super().query(rows, count)
        self.asked.extend(rows)
        self.counts.add(count)
        self.radii.extend(distances[:, -1])
        return distances, indices

    def count_compared(self, num_queries=100):
        """Return with how many rows a query compares its row: those of leaves nearer than its farthest neighbour."""
        leaves = list(iterate_leaves(self.tree))
        low, high = (np.array([bound(leaf, axis=0) for leaf in leaves]) for bound in (np.min, np.max))
        sizes = np.array([len(leaf) for leaf in leaves])
        step = len(self.asked) // num_queries
        compared = [
            sizes[np.linalg.norm(np.maximum(0, np.maximum(low - row, row - high)), axis=1) <= radius].sum()
            for row, radius in zip(self.asked[::step], self.radii[::step], strict=True)
        ]
        return np.mean(compared)


def iterate_leaves(node):
    if node.split_dim == -1:
        yield node.data_points
    else:
        yield from iterate_leaves(node.lesser)
        yield from iterate_leaves(node.greater)


def make_moments(num_episodes, num_moments=16, width=12):
    """Smooth episodes that vary in three directions, as those of one task vary in few."""
    generator = np.random.default_rng(0)
    start, way = generator.normal(size=(2, num_episodes, 1, 3))
    noise = 0.1 * generator.normal(size=(num_episodes, num_moments, 3))
    positions = start + np.linspace(0, 3, num_moments)[:, None] * way + noise
    return (positions @ generator.normal(size=(3, width))).astype(np.float32)


@pytest.mark.parametrize(
    ("measure", "rows_of_an_episode", "most_neighbours", "growth"),
    [(measure_isolation, 16, NUM_NEAREST + 16, 1.2), (find_copies, 1, 9, 2.0)],
)
def test_a_row_is_compared_with_few_others(monkeypatch, measure, rows_of_an_episode, most_neighbours, growth):
    trees = []
    monkeypatch.setattr("scipy.spatial.cKDTree", lambda rows: trees.append(ObservedTree(rows)) or trees[-1])
    for num_episodes in (1_000, 4_000):
        measure(make_moments(num_episodes))

    assert [len(tree.asked) for tree in trees] == [1_000 * rows_of_an_episode, 4_000 * rows_of_an_episode]
    assert all(max(tree.counts) <= most_neighbours for tree in trees)
    few, many = (tree.count_compared() for tree in trees)
    assert many < growth * few  # of four times as many rows
    assert many < 0.1 * trees[1].n
