"""Values of the storage for every kind of index, key selection, device and copy."""

import io
import pickle

import pytest
import torch

from rlhive.data.replay import _layout
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._dataloader import make_dataloader
from rlhive.data.replay._gather import Window
from rlhive.data.replay._options import DataLoaderOptions, ReadOptions, SamplingOptions, make_storage
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import SchemaMismatchError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache

ALL = slice(None)


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "cache")[0]


@pytest.fixture
def storage(cache):
    return PackedStorage(cache)


@pytest.mark.parametrize(
    "index",
    [3, -1, slice(2, 9, 3), [4, 0, 4], range(5), torch.tensor([[1, 2], [3, 4]]), torch.arange(34) % 3 == 0],
    ids=str,
)
def test_every_kind_of_index_selects_as_on_a_tensordict(storage, index):
    everything = storage.get(slice(None))
    plain = list(index) if isinstance(index, range) else index

    got, expected = storage.get(index), everything[plain]

    assert got.shape == expected.shape
    assert_same(got, expected)


def test_an_index_out_of_range_is_an_error(storage):
    with pytest.raises(IndexError):
        storage.get(torch.tensor([34]))
    with pytest.raises(IndexError):
        storage.get(34)


def test_next_is_the_following_transition_inside_an_episode(storage):
    td = storage.get(slice(None))
    inside = td["episode"][:-1] == td["episode"][1:]

    assert inside.sum() == sum(LENGTHS) - len(LENGTHS)
    for key in ("observation", ("parts", "camera"), "success"):
        following = td[("next", key) if isinstance(key, str) else ("next", *key)][:-1][inside]
        assert (following == td[key][1:][inside]).all()
    assert (td["next", "done"] == (td["next", "terminated"] | td["next", "truncated"])).all()
    assert td["next", "done"].sum() == len(LENGTHS)


def test_a_batch_is_a_copy(storage):
    before = storage.get(slice(None)).clone()
    for index in (0, slice(0, 3), slice(None), torch.arange(4)):
        batch = storage.get(index)
        for key in list(batch.keys(True, True)):
            batch[key].zero_()
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=5))
    buffer[0:3]["observation"].fill_(7.0)

    assert (storage.get(slice(None)) == before).all()


def test_autograd_keeps_an_operation_in_place_to_one_tensor_of_a_batch(storage):
    batch = storage.get(slice(None))
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    before = batch["next", "observation"].clone()
    batch["observation"].mul_(scale).add_(1)

    assert batch["observation"].requires_grad
    assert not batch["next", "observation"].requires_grad
    assert not batch["next", "reward"].requires_grad
    assert (batch["next", "observation"] == before).all()
    batch["observation"].nan_to_num().sum().backward()
    assert scale.grad is not None


def test_a_write_is_refused(storage):
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=4))
    batch = buffer.sample()

    for write in (lambda: buffer.extend(batch), lambda: buffer.add(batch[0]), lambda: storage.set(0, batch[0])):
        with pytest.raises((TypeError, RuntimeError)):
            write()
    assert len(buffer) == sum(LENGTHS)


def test_selected_episodes_are_read_in_the_given_order(cache):
    storage = PackedStorage(cache, torch.tensor([4, 1]))
    td = storage.get(slice(None))

    ids = cache.episodes[:, 0]
    assert td["episode"].unique_consecutive().tolist() == [ids[4], ids[1]]
    assert len(storage) == cache.episodes[[4, 1], 3].sum()
    assert storage.trajectories().bincount().tolist() == cache.episodes[[4, 1], 3].tolist()


def test_a_pickle_holds_the_path_and_no_data(cache):
    storage = PackedStorage(cache, torch.tensor([0, 2]))
    content = pickle.dumps(storage)

    assert len(content) < 5_000
    assert (pickle.loads(content).get(slice(None)) == storage.get(slice(None))).all()


def test_selected_keys_come_with_the_flags_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_layout, "WIDE", 16)
    cache, _ = write_cache(tmp_path / "cache")
    everything = PackedStorage(cache).get(slice(None))
    storage = PackedStorage(cache, keys=[("parts", "half"), "action", ("next", "reward")])

    got = storage.get(torch.arange(34))

    flags = {"done", "terminated", "truncated"}
    assert set(got.keys(True, True)) == {
        *("action", "episode", ("next", "reward"), ("parts", "half"), ("next", "parts", "half")),
        *(flags | {("next", flag) for flag in flags}),
    }
    for key in got.keys(True, True):
        assert got[key].contiguous().numpy().tobytes() == everything[key].contiguous().numpy().tobytes(), key
    with pytest.raises(SchemaMismatchError, match="No field acton"):
        PackedStorage(cache, keys=["acton"])


def test_next_of_an_episodes_last_transition_is_its_own_final_observation(tmp_path):
    cache, made = write_cache(tmp_path / "cache")
    last = torch.tensor(LENGTHS).cumsum(0) - 1

    batch = PackedStorage(cache).get(last)

    for row, record in zip(batch, made, strict=True):
        for column, value in record.final.items():
            got = row[("next", *column.split("."))].contiguous().numpy()
            assert got.tobytes() == value.tobytes(), column


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_return_to_go_sums_the_rewards_from_a_transition_to_its_episodes_end(cache, gamma):
    batch = PackedStorage(cache, return_to_go=gamma).get(ALL)

    rewards = [chunk.flatten().tolist() for chunk in batch["next", "reward"].split(LENGTHS)]
    expected = [
        sum(reward * gamma**step for step, reward in enumerate(episode[start:]))
        for episode in rewards
        for start in range(len(episode))
    ]
    torch.testing.assert_close(batch["return_to_go"].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_n_step_stops_at_the_episodes_end(cache):
    """The sum has no reward of the following episode, and the next observation is the episode's final one."""
    plain = PackedStorage(cache).get(ALL)
    batch = PackedStorage(cache, window=Window(n_step=4, gamma=0.5)).get(ALL)

    row = 0
    for episode in plain.split(LENGTHS):
        rewards = episode["next", "reward"].flatten().tolist()
        for step in range(len(episode)):
            num_steps = min(4, len(episode) - step)
            expected = sum(reward * 0.5**power for power, reward in enumerate(rewards[step : step + 4]))
            assert batch["next", "reward"][row].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert batch["steps_to_next_obs"][row].item() == num_steps
            following = episode["next", "observation"][step + num_steps - 1]
            assert torch.equal(batch["next", "observation"][row], following)
            row += 1


def test_several_batches_from_one_gather_are_those_of_several_calls(cache):
    storage = PackedStorage(cache, window=Window(n_step=2), return_to_go=1.0)
    index = torch.randint(0, len(storage), (20,), generator=torch.Generator().manual_seed(0))

    for batch, part in zip(storage.get_many(index, 5), index.split(5), strict=True):
        assert_same(batch, storage.get(part))


def served(cache):
    """Whatever hands out transitions."""
    storage = PackedStorage(cache)
    window = PackedStorage(cache, window=Window(n_step=2, frame_stack=2), return_to_go=1.0)
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=8, seed=0))
    yield "sample", buffer.sample()
    yield "loop", next(iter(buffer))
    yield "slice", buffer[0:3]
    yield "slices", make_replay_buffer(window, SamplingOptions(batch_size=8, slice_len=4, seed=0)).sample()
    yield "everything", storage.read_all()
    yield "loader", next(iter(make_dataloader(storage, DataLoaderOptions(batch_size=8))))
    yield "in memory", PackedStorage(cache, resident=True).get(torch.arange(5))


def test_torch_saves_whatever_is_served(cache):
    for name, batch in served(cache):
        file = io.BytesIO()
        torch.save(batch, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert file.tell() < sum(leaf.nbytes for leaf in batch.values(True, True)) + 20_000, name
        for key in batch.keys(True, True):
            assert loaded[key].contiguous().numpy().tobytes() == batch[key].contiguous().numpy().tobytes(), (name, key)


def test_all_transitions_are_saved_once(cache):
    file = io.BytesIO()
    everything = PackedStorage(cache).read_all()
    torch.save(everything, file)

    assert file.tell() < sum(leaf.nbytes for leaf in everything.values(True, True)) + 20_000
    assert_same(everything, PackedStorage(cache).get(slice(None)))
    assert len(PackedStorage(cache, torch.tensor([], dtype=torch.int64)).read_all()) == 0


def test_shared_memory_leaves_the_other_tensors_of_a_batch_as_they_are(cache):
    for _, batch in served(cache):
        leaves = dict(batch.items(True, True))
        expected = {key: leaf.numpy(force=True).tobytes() for key, leaf in leaves.items()}
        for leaf in leaves.values():
            leaf.share_memory_()
            filler = [torch.full((size,), 7.0) for size in range(1, 400, 9)]  # takes memory that was freed
        assert {key: leaf.numpy(force=True).tobytes() for key, leaf in leaves.items()} == expected
        del filler


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slice_len": 4},
        {"slice_len": 4, "short_episodes": "pad"},
        {"n_step": 3, "frame_stack": 2},
        {"in_memory": True},
    ],
    ids=str,
)
def test_the_default_device_changes_nothing(cache, options):
    """ "meta" stands for a GPU: a tensor that is made there by mistake has no values."""
    read = {name: options[name] for name in options if name not in ("slice_len", "short_episodes")}
    sampling = {name: options[name] for name in options if name not in read}

    def batches():
        storage = make_storage(cache, torch.tensor([0, 2, 4], device="cpu"), ReadOptions(**read, return_to_go=True))
        buffer = make_replay_buffer(storage, SamplingOptions(batch_size=8, seed=0, **sampling))
        loader = make_dataloader(storage, DataLoaderOptions(batch_size=8, seed=0, slice_len=sampling.get("slice_len")))
        loader = loader.dataset  # torch's own loader draws a number on the default device
        return [buffer.sample(), *(batch for _, batch in zip(range(2), buffer, strict=False)), buffer[:5], *loader]

    expected = batches()
    torch.set_default_device("meta")
    try:
        got = batches()
    finally:
        torch.set_default_device(None)
    for left, right in zip(got, expected, strict=True):
        assert_same(left, right)


WINDOWS = {
    "pairs": Window(),
    "stack": Window(frame_stack=3),
    "n_step": Window(n_step=3),
    "normalize": Window(normalize={"observation": (torch.zeros(3, dtype=torch.float64), torch.ones(3))}),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_batch_takes_no_thread_but_the_callers(cache, count_new_threads, window):
    storage = PackedStorage(cache, window=window, return_to_go=0.9)
    index = torch.randint(len(storage), (20_000,))
    assert count_new_threads(lambda: storage.get(index)) == 0


def test_a_large_batch_has_the_values_of_small_ones(cache):
    for window in WINDOWS.values():
        storage = PackedStorage(cache, window=window)
        index = torch.randint(len(storage), (20_000,))
        assert_same(storage.get(index), torch.cat([storage.get(part) for part in index.split(100)]))
