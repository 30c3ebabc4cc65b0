"""Near-duplicates: their detection does not depend on the number of codes compared at once."""

import itertools
import tracemalloc

import numpy as np
import pytest

from rlhive.data._schema import Field, Schema
from rlhive.data._statistics import ColumnStatistics
from rlhive.data.checks import _duplicates
from rlhive.data.checks._duplicates import (
    MAX_ROWS,
    MIN_CODES,
    SHARE,
    NearDuplicate,
    Sketcher,
    find_near_duplicates,
    unique_codes,
)


def make_codes():
    """Return the codes of 60 episodes, drawn from so few that many are shared; some are copies of earlier ones."""
    generator = np.random.default_rng(0)
    pool = generator.integers(1, 2**64, 3_000, dtype=np.uint64)
    codes = [generator.choice(pool, generator.integers(1, 120)) for _ in range(60)]
    codes[7], codes[20] = codes[3][:50], np.concatenate([codes[3], codes[3][:9], np.zeros(4, np.uint64)])
    codes[41], codes[59] = codes[40].copy(), np.zeros(3, np.uint64)
    return [unique_codes(episode) for episode in codes]


def find_by_sets(codes):
    """Find the pairs the slow way: of the episodes that have a code, in order, each with the next."""
    episodes_of_code = {}
    for index, episode in enumerate(codes):
        for code in episode.tolist():
            episodes_of_code.setdefault(code, []).append(index)
    shared = {}
    for episodes in episodes_of_code.values():
        for pair in itertools.pairwise(episodes):
            shared[pair] = shared.get(pair, 0) + 1
    sizes = {(first, second): min(len(codes[first]), len(codes[second])) for first, second in shared}
    pairs = [NearDuplicate(*pair, count, sizes[pair]) for pair, count in shared.items()]
    return sorted(
        (pair for pair in pairs if pair.shared >= SHARE * pair.codes and pair.codes >= MIN_CODES),
        key=lambda pair: (pair.first, pair.second),
    )


@pytest.mark.parametrize("block_codes", [1, 100, 2**18])
def test_the_size_of_a_block_changes_nothing(block_codes, monkeypatch):
    monkeypatch.setattr(_duplicates, "BLOCK_CODES", block_codes)
    codes = make_codes()

    pairs = find_near_duplicates(codes)

    assert pairs == find_by_sets(codes)
    assert {(pair.first, pair.second) for pair in pairs} >= {(3, 7), (40, 41)}


def test_without_episodes_or_codes_there_are_no_pairs():
    assert find_near_duplicates([]) == []
    assert find_near_duplicates([np.zeros(0, np.uint64)] * 3) == []


def make_sketcher(num_rows):
    schema = Schema((Field("action", "float64", (2,), observed=False), Field("observation", "float64", (3,), True)))
    generator = np.random.default_rng(1)
    columns = {name: generator.normal(size=(200, width)) for name, width in (("action", 2), ("observation", 3))}
    statistics = {name: ColumnStatistics.from_rows(rows) for name, rows in columns.items()}
    return Sketcher(schema, statistics, num_rows), columns


def test_equal_rows_have_equal_codes_and_rows_with_a_nan_have_none():
    sketcher, columns = make_sketcher(200)
    columns["observation"][7] = columns["observation"][3]
    columns["action"][7] = columns["action"][3]
    columns["action"][9, 1] = np.nan

    codes = sketcher.compute_codes(columns)

    assert codes[7] == codes[3]
    assert codes[9] == 0
    assert len(np.unique(codes)) == 199  # all others differ


def test_rows_are_hashed_in_blocks_of_bounded_memory(monkeypatch):
    sketcher, columns = make_sketcher(200)
    expected = sketcher.compute_codes(columns)
    monkeypatch.setattr(_duplicates, "HASHED_ROWS", 7)
    assert (sketcher.compute_codes(columns) == expected).all()
    monkeypatch.undo()

    rows = {name: np.resize(array, (1_000_000, array.shape[1])) for name, array in columns.items()}
    tracemalloc.start()
    codes = sketcher.compute_codes(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (codes[:200] == expected).all()
    assert peak < codes.nbytes + 32 * 2**20  # 250 MB at once


def test_many_rows_are_sampled_reproducibly():
    sketcher, columns = make_sketcher(200)
    sampling, _ = make_sketcher(4 * MAX_ROWS)
    codes, sampled = sketcher.compute_codes(columns), sampling.compute_codes(columns)

    assert (sampled[sampled != 0] == codes[sampled != 0]).all()
    assert 20 < np.count_nonzero(sampled) < 80
