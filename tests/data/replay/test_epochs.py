"""Epochs over several ranks: the same batches for any number of ranks, and after a restart on another number."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st

from rlhive.data.replay import _epochs
from rlhive.data.replay._dataloader import make_dataloader
from rlhive.data.replay._epochs import EpochBatches
from rlhive.data.replay._options import DataLoaderOptions
from rlhive.data.replay._order import RandomOrder
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import CheckpointMismatchError, InvalidOptionError
from tests.data.replay.caches import assert_same, write_cache

WORLD_SIZES = (1, 2, 3, 4, 8)


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    cache, _ = write_cache(tmp_path_factory.mktemp("epochs") / "cache")
    return PackedStorage(cache)


def make_ranks(storage, world_size, **options):
    """Return the loaders of all ranks."""
    options = {"seed": 5} | options
    return [
        make_dataloader(storage, DataLoaderOptions(rank=rank, world_size=world_size, **options))
        for rank in range(world_size)
    ]


def read(loaders, num_batches):
    """Return the next global batches of an epoch that begins or goes on, or fewer at its end, and leave it there."""
    iterators = [iter(loader) for loader in loaders]
    batches = []
    for _ in range(num_batches):
        parts = [next(iterator, None) for iterator in iterators]
        assert len({part is None for part in parts}) == 1, "the ranks have different numbers of batches"
        if parts[0] is None:
            break
        batches.append(torch.cat(parts))
    return batches


@settings(max_examples=20, deadline=None)
@given(
    batch_size=st.integers(8, 40),
    slice_len=st.sampled_from([None, 1, 4]),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    stops=st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_restarts_on_any_number_of_ranks_lose_nothing_and_repeat_nothing(
    storage, batch_size, slice_len, shuffle, drop_last, stops
):
    options = {"batch_size": batch_size, "slice_len": slice_len, "shuffle": shuffle, "drop_last": drop_last}
    [plain] = make_ranks(storage, 1, **options)
    expected = [batch for _ in range(len(stops) + 1) for batch in plain]

    got, state = [], None
    for world_size, num_batches in [*stops, (1, len(plain))]:
        loaders = make_ranks(storage, world_size, **options)
        for loader in loaders if state else ():
            loader.load_state_dict(json.loads(state))
        got += read(loaders, num_batches)
        [state] = {json.dumps(loader.state_dict()) for loader in loaders}
    assert len(got) <= len(expected)
    if len(plain):
        assert got  # whole epochs: the last part reads to the end of one
        assert len(got) % len(plain) == 0
    for batch, wanted in zip(got, expected, strict=False):
        assert_same(batch, wanted)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_an_epoch_holds_every_transition_once(storage, world_size):
    loaders = make_ranks(storage, world_size, batch_size=9)
    rewards = torch.cat([batch["next", "reward"] for batch in read(loaders, 100)]).flatten()
    assert sorted(rewards.tolist()) == sorted(storage.get(slice(None))["next", "reward"].flatten().tolist())


def test_parts_differ_by_one_item_at_most(storage):
    loaders = make_ranks(storage, 3, batch_size=8, drop_last=True)
    assert [[len(batch) for batch in loader] for loader in loaders] == [[3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2]]


@pytest.mark.parametrize("num_items", [10, 100_000_000_000])
def test_a_rank_computes_no_more_than_its_own_part(num_items, monkeypatch):
    computed = []

    class CountingOrder(RandomOrder):
        def items(self, positions):
            computed.append(len(positions))
            return super().items(positions)

    monkeypatch.setattr(_epochs, "RandomOrder", CountingOrder)
    monkeypatch.setattr(_epochs, "_BLOCK_ITEMS", 4)
    options = DataLoaderOptions(batch_size=8, seed=0, rank=1, world_size=4)
    batches = iter(EpochBatches({}, num_items, options))

    first = [next(batches), next(batches)]

    assert [len(batch) for batch in first] == ([2, 2] if num_items > 10 else [2, 1])
    assert sum(computed) <= 4


def test_epochs_have_unrelated_orders_and_a_state_at_the_end_of_one_leads_to_the_next(storage):
    [loader] = make_ranks(storage, 1, batch_size=8)
    epochs = [list(loader) for _ in range(3)]
    [resumed] = make_ranks(storage, 1, batch_size=8)
    assert len(list(resumed)) == 5
    [third] = make_ranks(storage, 1, batch_size=8)
    third.load_state_dict({**resumed.state_dict()})
    for got, wanted in zip(list(third), epochs[1], strict=True):
        assert_same(got, wanted)
    assert not torch.equal(epochs[1][0]["next", "reward"], epochs[2][0]["next", "reward"])


def test_a_loader_without_a_seed_resumes_too(storage):
    loader = make_dataloader(storage, DataLoaderOptions(batch_size=8))
    iterator = iter(loader)
    next(iterator)
    resumed = make_dataloader(storage, DataLoaderOptions(batch_size=8))
    resumed.load_state_dict(loader.state_dict())
    for got, wanted in zip(resumed, iterator, strict=True):
        assert_same(got, wanted)


@pytest.mark.slow
def test_batches_that_workers_have_read_ahead_are_not_lost(storage):
    [plain] = make_ranks(storage, 1, batch_size=4)
    expected = list(plain)
    [loader] = make_ranks(storage, 1, batch_size=4, num_workers=2)
    iterator = iter(loader)
    got = [next(iterator), next(iterator)]
    resumed = make_dataloader(storage, DataLoaderOptions(batch_size=4, seed=5, num_workers=1))
    resumed.load_state_dict(loader.state_dict())
    for batch, wanted in zip([*got, *resumed], expected, strict=True):
        assert_same(batch, wanted)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rank": 0}, "rank=0, world_size=None: expected both"),
        ({"world_size": 2}, "rank=None, world_size=2: expected both"),
        ({"rank": 2, "world_size": 2}, "rank=2, world_size=2: expected both, with 0 <= rank"),
        ({"rank": 0, "world_size": 9, "seed": 1}, "world_size=9: expected at most batch_size=8 ranks"),
        ({"rank": 0, "world_size": 2}, "seed=None: expected a seed for 2 ranks"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(storage, options, problem):
    with pytest.raises(InvalidOptionError, match=problem):
        make_dataloader(storage, DataLoaderOptions(batch_size=8, **options))


def test_a_state_of_other_batches_or_other_data_is_refused(storage, tmp_path):
    [loader] = make_ranks(storage, 1, batch_size=8)
    state = loader.state_dict()
    [other] = make_ranks(storage, 1, batch_size=4)
    with pytest.raises(CheckpointMismatchError, match="expected batch_size=4; got batch_size=8"):
        other.load_state_dict(state)
    cache, _ = write_cache(tmp_path / "other", lengths=[5, 6, 23])
    [other] = make_ranks(PackedStorage(cache), 1, batch_size=8)
    with pytest.raises(CheckpointMismatchError, match="expected data='other', episodes="):
        other.load_state_dict(state)
    with pytest.raises(CheckpointMismatchError, match="expected order='permuted by position'; got order=None"):
        loader.load_state_dict({name: value for name, value in state.items() if name != "order"})
    for damaged in ({"num_batches": 6}, {"epoch": "0"}, {"seed": None}):
        with pytest.raises(CheckpointMismatchError, match="expected seed, epoch and at most 5 num_batches"):
            loader.load_state_dict(state | damaged)
