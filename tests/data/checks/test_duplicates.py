"""Near-duplicates are found the same, however few codes are compared at once."""

import itertools

import numpy as np
import pytest

from rlhive.data.checks import _duplicates
from rlhive.data.checks._duplicates import MIN_CODES, SHARE, Pair, distinct, near_duplicates


def episodes_of_codes():
    """Return the codes of 60 episodes, drawn from so few that many are shared; some are copies of earlier ones."""
    generator = np.random.default_rng(0)
    pool = generator.integers(1, 2**64, 3_000, dtype=np.uint64)
    made = [generator.choice(pool, generator.integers(1, 120)) for _ in range(60)]
    made[7], made[20] = made[3][:50], np.concatenate([made[3], made[3][:9], np.zeros(4, np.uint64)])
    made[41], made[59] = made[40].copy(), np.zeros(3, np.uint64)
    return [distinct(part) for part in made]


def by_sets(codes):
    """Find the pairs the slow way: of those that have a code, in order, each with the next."""
    holders = {}
    for episode, part in enumerate(codes):
        for code in part.tolist():
            holders.setdefault(code, []).append(episode)
    shared = {}
    for held in holders.values():
        for pair in itertools.pairwise(held):
            shared[pair] = shared.get(pair, 0) + 1
    rows = [Pair(*pair, count, min(len(codes[pair[0]]), len(codes[pair[1]]))) for pair, count in shared.items()]
    return sorted(
        (row for row in rows if row.shared >= SHARE * row.codes and row.codes >= MIN_CODES),
        key=lambda row: (row.first, row.second),
    )


@pytest.mark.parametrize("block", [1, 100, 2**18])
def test_the_size_of_a_block_changes_nothing(block, monkeypatch):
    monkeypatch.setattr(_duplicates, "BLOCK_CODES", block)
    codes = episodes_of_codes()

    found = near_duplicates(codes)

    assert found == by_sets(codes)
    assert {(row.first, row.second) for row in found} >= {(3, 7), (40, 41)}


def test_no_episodes_and_no_codes_are_no_pairs():
    assert near_duplicates([]) == []
    assert near_duplicates([np.zeros(0, np.uint64)] * 3) == []
