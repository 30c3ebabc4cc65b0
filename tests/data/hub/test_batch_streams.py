"""iter_batches(): ranks and workers share an epoch, the pool is bounded, and misuse is refused."""

import itertools
import json
import shutil
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils.data import DataLoader

from rlhive import RoboHiveDataset
from rlhive.data import _parquet
from rlhive.data._episodes import EpisodeRecord
from rlhive.data.hub import _stream_chunks
from rlhive.data.hub._batches import RowPool
from rlhive.data.replay._storage import identity_collate
from rlhive.data.versions._export import export
from rlhive.errors import CheckpointMismatchError, CorruptDatasetError, InvalidOptionError
from tests.data.strategies import records


def numbered(lengths, *, width=3, splits=("a", "b")):
    """Yield episodes whose rewards count the transitions of all of them, from 0."""
    first = 0
    for episode, length in enumerate(lengths):
        observation = np.arange(first, first + length + 1)[:, None] + np.linspace(0, 0.5, width)
        flags = np.zeros((length, 1), bool)
        columns = {
            "observation": observation[:-1],
            "next.reward": np.arange(first, first + length, dtype=np.float64)[:, None],
            "next.terminated": flags,
            "next.truncated": flags,
        }
        yield EpisodeRecord(episode, splits[episode % len(splits)], columns, {"observation": observation[-1]})
        first += length


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 episodes of 7 transitions and more in two splits, in 10 shards of several row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parquet, "ROW_GROUP_BYTES", 400)
        store = tmp_path_factory.mktemp("store")
        lengths = [7 + episode % 5 for episode in range(30)]
        return export(numbered(lengths), "my/steps", version="1.0.0", license="mit", store=store, shard_bytes=2000)


def rewards(batches):
    return [batch["next", "reward"].flatten().tolist() for batch in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(rewards(batches)))


def test_the_version_has_shards_and_row_groups(folder):
    paths = sorted(folder.glob("data/*.parquet"))
    assert len(paths) > 2 * _stream_chunks.SHARDS_PER_GROUP // 4
    assert max(len(_parquet.read_group_sizes(path)) for path in paths) > 1


@pytest.mark.parametrize("shuffle", [0, 100, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_batches_hold_each_transition_once(folder, shuffle, batch_size, prefetch):
    dataset = RoboHiveDataset(folder)
    options = {"shuffle": shuffle, "seed": 3, "prefetch": prefetch}

    batches = list(dataset.iter_batches(batch_size, **options))

    stored = dataset.as_tensordict(dtype=torch.float32)
    order = {value: row for row, value in enumerate(stored["next", "reward"].flatten().tolist())}
    assert sorted(flat(batches)) == sorted(order)
    assert (flat(batches) == list(order)) == (shuffle == 0)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert (torch.cat(batches) == stored[[order[value] for value in flat(batches)]]).all()
    assert rewards(batches) == rewards(dataset.iter_batches(batch_size, **options))
    dropped = rewards(dataset.iter_batches(batch_size, drop_last=True, **options))
    assert {len(batch) for batch in dropped} == {batch_size}
    assert len(dropped) == len(dataset) // batch_size


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 2, 3, 4, 8]), st.integers(8, 60), st.sampled_from([0, 60, 90, 1000]), st.booleans())
def test_ranks_have_transitions_of_their_own_and_together_all(folder, world_size, batch_size, shuffle, narrow):
    dataset = RoboHiveDataset(folder)
    dataset = dataset.filter(lambda row: row["episode"] % 3 != 1) if narrow else dataset
    options = {"shuffle": shuffle, "seed": 1, "world_size": world_size}

    ranks = [rewards(dataset.iter_batches(batch_size, rank=rank, **options)) for rank in range(world_size)]

    got = list(itertools.chain.from_iterable(itertools.chain.from_iterable(ranks)))
    assert sorted(got) == sorted(dataset.as_tensordict()["next", "reward"].flatten().tolist())
    for parts in zip(*ranks, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) in (batch_size, len(dataset) % batch_size)


def test_the_rank_is_that_of_torch_distributed(folder, monkeypatch):
    expected = rewards(RoboHiveDataset(folder).iter_batches(10, rank=2, world_size=3))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)

    assert rewards(RoboHiveDataset(folder).iter_batches(10)) == expected


def test_shards_of_all_splits_are_mixed_by_seed_and_epoch(folder):
    dataset = RoboHiveDataset(folder)
    stream = dataset.iter_batches(10, shuffle=60, seed=5)

    epochs = [flat(stream), flat(stream)]

    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert stream.epoch == 1
    for number, epoch in enumerate(epochs):
        again = dataset.iter_batches(10, shuffle=60, seed=5)
        again.set_epoch(number)
        assert flat(again) == epoch
    parts = {"a": set(flat(dataset["a"].iter_batches(10)))}
    shares = np.array([[value in parts["a"] for value in epoch[:60]] for epoch in epochs]).mean()
    assert 0.2 < shares < 0.8


def test_a_loop_goes_on_after_a_break(folder):
    stream = RoboHiveDataset(folder).iter_batches(10, shuffle=60, seed=5)
    whole = rewards(RoboHiveDataset(folder).iter_batches(10, shuffle=60, seed=5))

    first = rewards(itertools.islice(stream, 3))
    assert rewards([next(stream)]) == whole[3:4]
    assert first + whole[3:4] + rewards(stream) == whole
    assert len(stream) == len(whole)
    assert len(rewards(stream)) == len(whole)  # the next epoch


@pytest.mark.slow
def test_workers_of_any_dataloader_share_an_epoch(folder):
    stream = RoboHiveDataset(folder).iter_batches(10)
    options = {"collate_fn": identity_collate, "multiprocessing_context": "spawn"}

    batches = rewards(DataLoader(stream, batch_size=None, num_workers=2, **options))

    assert sorted(itertools.chain.from_iterable(batches)) == sorted(flat(stream))
    assert len(batches) == len(stream)


def test_the_first_batch_reads_the_footers_of_one_group(folder, monkeypatch):
    opened = []
    _read_chunks = _stream_chunks.StreamedVersion._read_chunks
    monkeypatch.setattr(_stream_chunks, "SHARDS_PER_GROUP", 2)
    monkeypatch.setattr(
        _stream_chunks.StreamedVersion, "_read_chunks", lambda *args: opened.append(1) or _read_chunks(*args)
    )

    next(RoboHiveDataset(folder).iter_batches(4, shuffle=8, seed=0, prefetch=0))

    assert len(opened) == 2


def test_memory_is_the_pool_and_some_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(_parquet, "ROW_GROUP_BYTES", 2**18)
    episodes = numbered([100] * 200, width=50, splits=("train",))
    folder = export(episodes, "my/wide", version="1.0.0", license="mit", store=tmp_path, shard_bytes=2**20)
    row_bytes, chunk_rows, pool, prefetch = 2 * 50 * 8, 2**18 // 400, 3000, 2
    stream = RoboHiveDataset(folder).iter_batches(100, shuffle=pool, seed=0, dtype=None, prefetch=prefetch)
    next(stream)
    tracemalloc.start()

    count = sum(len(batch) for batch in RoboHiveDataset(folder).iter_batches(100, shuffle=pool, seed=0, dtype=None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 20_000
    assert peak < 1.5 * row_bytes * (pool + 4 * 4 * chunk_rows)


def test_the_pool_keeps_its_memory():
    schema, _ = records([1])
    pool = RowPool(schema, 1000)
    before = {key: values.ctypes.data for key, values in pool._rows.items()}
    pool.take(np.arange(10))
    pool.move(np.array([999]), np.array([3]))
    assert {key: values.ctypes.data for key, values in pool._rows.items()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank=2, world_size=2: expected both, with 0 <= rank < world_size"),
        ({"rank": 1}, "rank=1, world_size=None: expected both"),
        ({"world_size": 11, "rank": 0}, "world_size=11: expected at most batch_size=10 ranks"),
        ({"world_size": 2, "rank": 0, "shuffle": 20}, "seed=None: expected a seed for 2 ranks"),
        ({"shuffle": 9}, "shuffle=9: expected a pool of at least the 10 transitions of a batch, or 0"),
        ({"shuffle": 3, "world_size": 3, "rank": 0, "seed": 0}, "at least the 4 transitions"),
    ],
)
def test_what_does_not_fit_is_a_sentence(folder, options, message):
    with pytest.raises(InvalidOptionError, match=message):
        RoboHiveDataset(folder).iter_batches(10, **options)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"shuffle": -1}, {"prefetch": 1.5}, {"shuffle": True}])
def test_numbers_are_checked(folder, options):
    with pytest.raises(ValueError, match="expected a whole number of"):
        RoboHiveDataset(folder).iter_batches(**options)


def test_a_pool_of_one_ranks_batch_is_enough(folder):
    batches = [
        batch
        for rank in range(3)
        for batch in RoboHiveDataset(folder).iter_batches(10, shuffle=4, seed=0, rank=rank, world_size=3)
    ]
    assert sorted(flat(batches)) == list(range(len(RoboHiveDataset(folder))))


def test_more_readers_than_transitions_give_empty_batches(tmp_path):
    schema, made = records([2], splits=("a",))
    folder = export(made, "my/tiny", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    sizes = [
        [len(batch) for batch in RoboHiveDataset(folder).iter_batches(8, rank=rank, world_size=3, shuffle=9, seed=0)]
        for rank in range(3)
    ]
    assert sizes == [[1], [1], [0]]


def test_an_empty_selection_has_no_batches(folder):
    nothing = RoboHiveDataset(folder).where("length > 1000")
    assert list(nothing.iter_batches(10)) == []
    assert list(nothing.iter_batches(10, shuffle=10, seed=0)) == []


def test_a_damaged_row_group_is_an_error_in_whatever_thread(folder, tmp_path):
    copy = tmp_path / "my/steps/1.0.0"
    shutil.copytree(folder, copy)
    path = sorted(copy.glob("data/*.parquet"))[0]
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    dataset = RoboHiveDataset(copy, streaming=True)
    for prefetch in (0, 3):
        with pytest.raises(CorruptDatasetError, match=path.name):
            list(dataset.iter_batches(10, shuffle=20, seed=0, prefetch=prefetch))


def test_a_state_belongs_to_all_ranks_and_goes_through_json(folder):
    states = []
    for rank in range(3):
        stream = RoboHiveDataset(folder).iter_batches(10, shuffle=60, seed=5, rank=rank, world_size=3)
        rewards(itertools.islice(stream, 4))
        states.append(json.loads(json.dumps(stream.state_dict())))

    assert states[0] == states[1] == states[2]
    assert states[0]["stages"] == [[3, 1, 4]]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_an_epoch_stopped_at_any_step_goes_on_with_any_number_of_ranks(folder, data):
    dataset = RoboHiveDataset(folder)
    batch_size = data.draw(st.integers(8, 60), "batch_size")
    shuffle = data.draw(st.sampled_from([0, 60, 90, 1000]), "shuffle")
    got, state = [], None
    while True:
        world_size = data.draw(st.sampled_from([1, 2, 3, 4, 8]), "world_size")
        streams = [
            dataset.iter_batches(batch_size, shuffle=shuffle, seed=1, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
        left = len(streams[0]) - (0 if state is None else sum(stage[-1] for stage in state["stages"]))
        count = data.draw(st.integers(1, left), "batches")
        for stream in streams:
            part = rewards(itertools.islice(stream, count))
            assert len(part) == count
            got += itertools.chain.from_iterable(part)
        state = json.loads(json.dumps(streams[-1].state_dict()))
        if count == left:
            break

    assert sorted(got) == list(range(len(dataset)))
    streams[0].load_state_dict(state)
    next(streams[0])
    assert streams[0].epoch == 1  # the state was that of an epoch's end


@pytest.mark.parametrize("shuffle", [0, 60])
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_same_readers_go_on_bit_for_bit(folder, shuffle, rank):
    def make():
        return RoboHiveDataset(folder).iter_batches(10, shuffle=shuffle, seed=5, rank=rank, world_size=2)

    whole = [list(stream) for stream in [make()] for _ in range(2)]
    for epoch, batches in enumerate(whole):
        for stop in range(len(batches)):
            stream = make()
            stream.set_epoch(epoch)
            list(itertools.islice(stream, stop))
            resumed = make()
            resumed.load_state_dict(stream.state_dict())
            rest = list(resumed)
            assert len(rest) == len(batches) - stop
            assert all((left == right).all() for left, right in zip(rest, batches[stop:], strict=True))


@pytest.mark.slow
def test_workers_share_epochs_and_go_on_from_a_state(folder):
    def make():
        return RoboHiveDataset(folder).iter_batches(10, shuffle=60, seed=5)

    loader = make().to_dataloader(2)
    epochs = [rewards(loader), rewards(loader)]
    stopped = make().to_dataloader(2)
    head = rewards(itertools.islice(stopped, 7))
    state = stopped.state_dict()

    everything = list(range(len(RoboHiveDataset(folder))))
    assert [sorted(itertools.chain.from_iterable(epoch)) for epoch in epochs] == [everything] * 2
    assert epochs[0] != epochs[1]
    assert loader.state_dict()["epoch"] == 1
    assert (head, state["stages"]) == (epochs[0][:7], [[1, 2, 7]])
    assert head + rewards(stopped) == epochs[0]
    resumed = make().to_dataloader(2)
    resumed.load_state_dict(state)
    assert rewards(resumed) == epochs[0][7:]
    alone = make()
    alone.load_state_dict(state)
    assert sorted(itertools.chain.from_iterable(head + rewards(alone))) == everything


def test_a_state_of_other_data_or_batches_is_refused(folder, tmp_path):
    dataset = RoboHiveDataset(folder)
    state = dataset.iter_batches(10, shuffle=60, seed=5).state_dict()
    schema, made = records([3], splits=("a",))
    other = export(made, "my/steps", version="2.0.0", schema=schema, license="mit", store=tmp_path)

    refusals = [
        (
            RoboHiveDataset(other).iter_batches(10, shuffle=60),
            "expected version='2.0.0', .* got version='1",
        ),
        (dataset["a"].iter_batches(10, shuffle=60), "expected .*episodes="),
        (dataset.iter_batches(11, shuffle=60), "expected batch_size=11; got batch_size=10"),
        (dataset.iter_batches(10), "expected shuffle=0; got shuffle=60"),
    ]
    for stream, message in refusals:
        with pytest.raises(CheckpointMismatchError, match=message):
            stream.load_state_dict(state)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"seed": None},
        {"seed": 1.0},
        {"epoch": -1},
        {"epoch": True},
        {"stages": None},
        {"stages": [[1, 1]]},
        {"stages": [[1, 1, "1"]]},
        {"stages": [[0, 1, 1]]},
        {"stages": [[11, 1, 1]]},
        {"stages": [[1, 0, 1]]},
        {"stages": [[1, 10**9, 1]]},
        {"stages": [[1, 1, -1]]},
        {"stages": [[1, 1, 10**6]]},
        {"stages": [[1, 1, 0]] * 10**4},
    ],
)
def test_a_broken_state_is_refused(folder, change):
    stream = RoboHiveDataset(folder).iter_batches(10, shuffle=60, seed=5)
    with pytest.raises(CheckpointMismatchError, match="State of a stream: expected"):
        stream.load_state_dict(stream.state_dict() | change)


def test_numbers_of_epochs_and_workers_are_checked(folder):
    stream = RoboHiveDataset(folder).iter_batches(10)
    with pytest.raises(ValueError, match="epoch=-1"):
        stream.set_epoch(-1)
    with pytest.raises(ValueError, match="num_workers=0"):
        stream.to_dataloader(0)


def test_a_seed_that_was_drawn_is_in_the_state(folder):
    first = RoboHiveDataset(folder).iter_batches(10, shuffle=60)
    head = rewards(itertools.islice(first, 2))
    second = RoboHiveDataset(folder).iter_batches(10, shuffle=60)
    second.load_state_dict(first.state_dict())

    assert rewards(first) == (rest := rewards(second))
    assert sorted(itertools.chain.from_iterable(head + rest)) == list(range(len(RoboHiveDataset(folder))))
