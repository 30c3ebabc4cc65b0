"""Prefetching: a thread gathers the same batches in the same order."""

import time

import pytest
import torch

from rlhive.data.replay import _prefetch
from rlhive.data.replay._prefetch import iter_gathered, num_batches_ahead, submit_gather
from rlhive.data.replay._storage import PackedStorage
from tests.data.replay.caches import assert_same, write_cache


@pytest.fixture
def storage(tmp_path):
    return PackedStorage(write_cache(tmp_path / "cache")[0])


def draw(storage, shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, len(storage), shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("num_batches", [1, 3, 16])
@pytest.mark.parametrize("shapes", [[(8,)] * 7, [(8,)] * 6 + [(3,)], [(4, 5)] * 5 + [(2, 5)], []], ids=str)
def test_batches_come_in_the_order_of_their_indices(storage, monkeypatch, num_batches, shapes):
    monkeypatch.setattr(_prefetch, "_MAX_BATCHES", num_batches)
    indices = draw(storage, shapes)

    batches = list(iter_gathered(storage, iter(indices), 8))

    assert len(batches) == len(indices)
    for batch, index in zip(batches, indices, strict=True):
        assert batch.shape == index.shape
        assert_same(batch, storage.get(index))


def test_gathers_of_different_duration_do_not_change_the_order(storage, monkeypatch):
    get_many, durations = PackedStorage.get_many, iter([0.05, 0.0, 0.03, 0.0])

    def get_many_slowly(self, index, batch_size):
        time.sleep(next(durations, 0.0))
        return get_many(self, index, batch_size)

    indices = draw(storage, [(4,)] * 8)
    expected = [storage.get(index) for index in indices]
    monkeypatch.setattr(PackedStorage, "get_many", get_many_slowly)
    monkeypatch.setattr(_prefetch, "_MAX_BATCHES", 2)

    for batch, wanted in zip(iter_gathered(storage, indices, 4), expected, strict=True):
        assert_same(batch, wanted)


def test_a_submitted_gather_returns_one_batch_per_index(storage):
    indices = draw(storage, [(6,), (6,), (2,)])

    for batch, index in zip(submit_gather(storage, indices).result(), indices, strict=True):
        assert_same(batch, storage.get(index))


def test_an_error_of_the_thread_is_raised_in_the_loop(storage):
    with pytest.raises(IndexError):
        list(iter_gathered(storage, [torch.tensor([0, len(storage)])], 2))


def test_the_number_of_batches_shrinks_with_their_size(storage):
    assert num_batches_ahead(storage, 1) == 16
    assert num_batches_ahead(storage, _prefetch._MAX_BYTES // storage.item_bytes // 2) == 2
    assert num_batches_ahead(storage, 10**9) == 1
