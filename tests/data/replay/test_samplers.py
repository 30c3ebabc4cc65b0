import pytest
import torch
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    PrioritizedSliceSampler,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StreamingSliceSampler,
    TensorDictReplayBuffer,
)

from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import EpisodesTooShortError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "cache")[0]


def make_buffer(cache, *, seed=0, batch_size=16, **kwargs):
    storage = PackedStorage(cache)
    return make_replay_buffer(
        storage,
        SamplingOptions(batch_size=batch_size, seed=seed, sampler=EpisodeSliceSampler(storage, slice_len=4, **kwargs)),
    )


def make_torchrl_buffer(cache, sampler, *, seed=0, batch_size=16):
    """TorchRL's own buffer, storage and sampler over the same transitions."""
    everything = PackedStorage(cache).get(slice(None)).contiguous()
    storage = LazyTensorStorage(len(everything))
    storage.set(range(len(everything)), everything)
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("ended", ["terminated", "truncated", "unfinished"])
@pytest.mark.parametrize(
    ("short", "arguments"),
    [("drop", {}), ("pad", {"strict_length": False, "pad_output": True}), ("shorter", {"strict_length": False})],
)
def test_slices_are_those_of_torchrls_sampler(tmp_path, short, arguments, ended):
    cache, _ = write_cache(tmp_path / "cache", ended=ended)
    got = make_buffer(cache, short=short)
    expected = make_torchrl_buffer(cache, SliceSampler(slice_len=4, traj_key="episode", **arguments))

    for _ in range(20):
        assert_same(got.sample(), expected.sample())


def test_short_episodes_are_dropped_padded_or_shorter(cache):
    drop, pad, shorter = (
        make_buffer(cache, short=short, batch_size=400).sample() for short in ("drop", "pad", "shorter")
    )
    ids = cache.episodes[:, 0]
    short = ids[1]  # the one episode of one transition

    assert not (drop["episode"] == short).any()
    assert len(drop) == len(pad) == 400 > len(shorter)
    assert set(ids.tolist()) == set(pad["episode"].tolist()) == set(shorter["episode"].tolist())
    padded = pad.reshape(-1, 4)
    mask = padded["collector", "mask"]
    assert (mask.sum(1) == torch.where(padded["episode"][:, 0] == short, 1, 4)).all()
    assert (padded["observation"] == padded["observation"][:, :1])[~mask.all(1)].all()
    assert len(shorter) == mask.sum()


@pytest.mark.parametrize("short", ["drop", "pad", "shorter"])
def test_an_episode_as_long_as_a_slice_is_sampled_whole(tmp_path, short):
    cache, made = write_cache(tmp_path / "cache", lengths=[4, 3])
    batch = make_buffer(cache, short=short, batch_size=80).sample()

    whole = batch[batch["episode"] == made[0].episode].reshape(-1, 4)
    assert len(whole) > 0
    assert (whole["index"].squeeze(-1) == torch.arange(4)).all()


@pytest.mark.parametrize("stock", [SliceSampler, SliceSamplerWithoutReplacement])
def test_stock_samplers_get_the_boundaries_and_read_no_more_than_their_slices(cache, stock, monkeypatch):
    read = []
    get = PackedStorage.get
    monkeypatch.setattr(PackedStorage, "get", lambda self, index: read.append(index) or get(self, index))
    buffer = make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, sampler=stock(slice_len=4), seed=0))
    batch = buffer.sample().reshape(-1, 4)

    assert all(isinstance(index, tuple) for index in read), "a whole column was read"
    assert (batch["episode"] == batch["episode"][:, :1]).all()
    assert (batch["next", "count"][:, :-1] == batch["count"][:, 1:]).all()


def test_prioritized_slices_begin_where_the_priority_is_and_stay_inside_an_episode(cache):
    storage = PackedStorage(cache)
    sampler = PrioritizedSliceSampler(max_capacity=len(storage), alpha=1.0, beta=1.0, slice_len=4, cache_values=True)
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=32, sampler=sampler, seed=0))
    priority = torch.full((len(storage),), 1e-9)
    priority[[2, 7, 9]] = 1.0  # 7 is the one-step episode, where no slice can begin
    buffer.update_priority(torch.arange(len(storage)), priority)
    everything = storage.get(slice(None))

    batch = buffer.sample().reshape(-1, 4)
    starts = batch["index"][:, 0, 0]

    assert set(starts.tolist()) == {2, 9}
    assert (batch["index"][..., 0] == starts.unsqueeze(1) + torch.arange(4)).all()
    assert (batch["episode"] == batch["episode"][:, :1]).all()
    assert (batch["next", "reward"] == everything["next", "reward"][batch["index"][..., 0]]).all()


def test_too_long_slices_are_an_error_that_names_the_longest_episode(cache):
    with pytest.raises(EpisodesTooShortError, match=f"got {max(LENGTHS)} at most"):
        EpisodeSliceSampler(PackedStorage(cache), slice_len=13)


def test_a_sampler_that_served_another_dataset_gets_this_ones_boundaries(tmp_path):
    sampler = SliceSampler(slice_len=4)
    for number, lengths in enumerate(([4, 9, 30], [20, 4, 4, 15])):
        cache, _ = write_cache(tmp_path / str(number), lengths=lengths)
        batch = make_replay_buffer(
            PackedStorage(cache), SamplingOptions(batch_size=400, sampler=sampler, seed=0)
        ).sample()
        assert (batch["episode"].reshape(-1, 4) == batch["episode"][::4].unsqueeze(1)).all()
        assert len(batch["episode"].unique()) == len(lengths)


def test_boundaries_that_the_user_gave_stay(cache):
    halves = torch.arange(sum(LENGTHS)) // 17  # not the episodes
    sampler = SliceSampler(slice_len=17, trajectories=halves, cache_values=True)
    batch = make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=34, sampler=sampler, seed=0)).sample()

    assert set(batch["index"][::17].flatten().tolist()) <= {0, 17}


def test_streamed_slices_stay_inside_an_episode(cache):
    sampler = StreamingSliceSampler(slice_len=4, traj_key="episode")
    buffer = make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, sampler=sampler, seed=0))
    for _ in range(3):
        batch = buffer.sample()
        index, ids = batch["index"].reshape(len(batch)), batch["episode"]
        follows = index[1:] == index[:-1] + 1
        assert follows.sum() >= len(batch) // 2
        assert (ids[1:] == ids[:-1])[follows & ~batch["next", "done"][:-1].squeeze(1)].all()
