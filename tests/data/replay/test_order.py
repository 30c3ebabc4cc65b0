"""The random order of an epoch: a permutation, computed by position, and as random as a drawn one."""

import numpy as np
import pytest
import torch

from rlhive.data.replay import _order
from rlhive.data.replay._order import MAX_DRAWN, RandomOrder


@pytest.mark.parametrize("num_items", [0, 1, 7, MAX_DRAWN, MAX_DRAWN + 1, 70_000, 2**17, 300_007])
def test_every_item_comes_once(num_items):
    items = RandomOrder(num_items, 3).items(np.arange(num_items))

    assert items.dtype == np.int64
    np.testing.assert_array_equal(np.sort(items), np.arange(num_items))


@pytest.mark.parametrize("num_items", [5, 100_000])
def test_an_item_depends_on_its_position_alone(num_items):
    whole = RandomOrder(num_items, 3).items(np.arange(num_items))
    positions = np.array([4, 0, num_items - 1, 4])

    np.testing.assert_array_equal(RandomOrder(num_items, 3).items(positions), whole[positions])


def test_words_of_64_bits_permute_as_well():
    largest = 2**32 + 12_345  # more than words of 32 bits can count
    positions = np.arange(largest - 50_000, largest)
    items = RandomOrder(largest, 1).items(positions)
    assert len(np.unique(items)) == len(positions)
    assert items.min() >= 0
    assert items.max() < largest
    assert abs(items.mean() / largest - 0.5) < 0.01

    order = RandomOrder(2**32 + 1, 1)
    order._num_items, order._bits, order._base = 100_003, 8, np.uint64(-(-100_003 // 2**8))
    np.testing.assert_array_equal(np.sort(order.items(np.arange(100_003))), np.arange(100_003))


def test_a_small_order_is_torchs():
    expected = torch.randperm(1_000, generator=torch.Generator().manual_seed(9))

    np.testing.assert_array_equal(RandomOrder(1_000, 9).items(np.arange(1_000)), expected.numpy())


def test_positions_and_items_are_independent():
    """Statistics of permutations of 100,000 items, each near 0 with a deviation near 1 if they are random."""
    num_items, deviations = 100_000, []
    for seed in range(20):
        positions, items = np.arange(num_items), RandomOrder(num_items, seed).items(np.arange(num_items))
        for left, right in (
            (positions * 50 // num_items, items * 50 // num_items),
            (items[:-1] * 50 // num_items, items[1:] * 50 // num_items),
            (items[:-256] * 50 // num_items, items[256:] * 50 // num_items),
            (positions % 32, items % 32),
            (items[:-1] % 32, items[1:] % 32),
            ((items[256:] - items[:-256]) % num_items * 50 // num_items, positions[256:] % 50),
        ):
            deviations.append(chi_square_deviation(left, right))
    deviations = np.array(deviations).reshape(20, -1)

    assert abs(deviations.mean(0) * np.sqrt(20)).max() < 4.5
    assert deviations.std(0).max() < 2


def test_seeds_give_unrelated_orders():
    first, second = (RandomOrder(100_000, seed).items(np.arange(100_000)) for seed in (1, 2))

    assert (first == second).sum() < 10
    assert abs(chi_square_deviation(first * 50 // 100_000, second * 50 // 100_000)) < 4.5


def chi_square_deviation(left, right):
    """Return by how many standard deviations a table of two categories differs from that of independent ones."""
    table = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(table, (left, right), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return (((table - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_the_statistics_find_an_order_of_too_few_rounds(monkeypatch):
    monkeypatch.setattr(_order, "_NUM_ROUNDS", 2)

    with pytest.raises(AssertionError):
        test_positions_and_items_are_independent()
