"""Slices end where the sampler's own keys say, in each of the buffers that it serves: as in TorchRL's own buffer."""

import itertools

import pytest
import torch
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    PrioritizedSliceSampler,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TensorDictReplayBuffer,
)

from rlhive.data.replay import _buffer
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidOptionError, SchemaMismatchError
from tests.data.replay.caches import assert_same, write_cache

SUCCESS = ("next", "success")
COUNT = 34


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "cache")[0]


def buffer_of(cache, sampler, **options):
    return make_replay_buffer(PackedStorage(cache), SamplingOptions(sampler=sampler, seed=0, **options))


def torchrl_buffer(cache, sampler, batch_size):
    everything = PackedStorage(cache).read_all()
    storage = LazyTensorStorage(len(everything))
    storage.set(range(len(everything)), everything)
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("kind", [SliceSampler, SliceSamplerWithoutReplacement])
@pytest.mark.parametrize(
    "chosen",
    [
        {"end_key": SUCCESS},
        {"end_keys": [SUCCESS, ("next", "done")]},
        {"end_key": ("next", "done")},
        {"traj_key": "count"},
        {"traj_key": "episode", "end_key": SUCCESS},
    ],
    ids=str,
)
def test_a_samplers_own_keys_are_honoured_as_by_torchrl(cache, kind, chosen):
    def sampler():
        return kind(slice_len=4, strict_length=False, **chosen)

    got, expected = buffer_of(cache, sampler(), batch_size=16), torchrl_buffer(cache, sampler(), 16)
    for _ in range(10):
        assert_same(got.sample(), expected.sample())


@pytest.mark.parametrize(
    "chosen",
    [{"traj_key": "skill"}, {"end_key": ("next", "sucess")}, {"end_keys": [SUCCESS, "x"]}, {"traj_key": "a.b"}],
    ids=str,
)
def test_an_unknown_key_is_an_error_that_names_it(cache, chosen):
    with pytest.raises(SchemaMismatchError, match=r"expected keys of the dataset, got .*(skill|sucess|x|a\.b)"):
        buffer_of(cache, SliceSampler(slice_len=4, **chosen), batch_size=16)
    buffer = buffer_of(cache, SliceSampler(slice_len=4), batch_size=16)
    with pytest.raises(SchemaMismatchError, match="expected keys of the dataset"):
        buffer.set_sampler(SliceSampler(slice_len=4, **chosen))
    assert buffer.sample().shape == (16,)


def test_a_key_that_is_not_read_still_ends_slices(cache):
    sampler = SliceSampler(slice_len=2, end_key=SUCCESS, strict_length=False)
    storage = PackedStorage(cache, keys=["action"])
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=400, sampler=sampler, seed=0))
    batch, ends = buffer.sample(), PackedStorage(cache).read_key(SUCCESS).flatten()

    assert SUCCESS not in batch.keys(True)
    inside = ~batch["next", "truncated"].flatten()[:-1]
    assert not ends[batch["index"].flatten()[:-1][inside]].any()


@pytest.mark.parametrize("strict_length", [True, False])
def test_prioritized_slices_with_any_span_are_torchrls(cache, strict_length):
    def sampler(span, by):
        return PrioritizedSliceSampler(COUNT, alpha=0.7, beta=0.9, span=span, strict_length=strict_length, **by)

    for span, by in itertools.product([False, True, (0, 1), (0, 2)], [{"slice_len": 4}, {"num_slices": 4}]):
        buffers = buffer_of(cache, sampler(span, by), batch_size=16), torchrl_buffer(cache, sampler(span, by), 16)
        for buffer in buffers:
            buffer.update_priority(torch.arange(COUNT), torch.linspace(0.1, 5, COUNT))
        for _ in range(3):
            got, expected = (buffer.sample() for buffer in buffers)
            assert_same(got, expected)


@pytest.mark.parametrize("strict_length", [True, False])
def test_prioritized_slices_may_span_all_but_their_first_transition(cache, strict_length):
    """TorchRL finds no start at all, or the first transition of every trajectory only."""
    sampler = PrioritizedSliceSampler(COUNT, 0.7, 0.9, slice_len=4, span=(0, 3), strict_length=strict_length)
    buffer = buffer_of(cache, sampler, batch_size=400)
    buffer.update_priority(torch.arange(COUNT), torch.ones(COUNT))
    batch = buffer.sample()
    is_end = batch["next", "truncated"].flatten()

    starts = batch["index"].flatten()[torch.cat([torch.tensor([True]), is_end[:-1]])]
    assert set(starts.tolist()) == set(range(COUNT))
    assert (batch["episode"][1:] == batch["episode"][:-1])[~is_end[:-1]].all()
    with pytest.raises(InvalidOptionError, match="span=4: expected less than the 4"):
        buffer_of(cache, PrioritizedSliceSampler(COUNT, 0.7, 0.9, slice_len=4, span=(0, 4)), batch_size=16).sample()


@pytest.mark.parametrize("kind", ["stock", "stock once", "prioritized", "ours"])
def test_one_sampler_serves_several_buffers_each_with_its_own_boundaries(tmp_path, kind):
    lengths = ([20, 7, 13, 9, 20], [15, 20, 11])
    caches = [write_cache(tmp_path / str(number), lengths=item)[0] for number, item in enumerate(lengths)]
    sampler = {
        "stock": lambda: SliceSampler(slice_len=4),
        "stock once": lambda: SliceSamplerWithoutReplacement(slice_len=4),
        "prioritized": lambda: PrioritizedSliceSampler(69, alpha=1.0, beta=1.0, slice_len=4, cache_values=True),
        "ours": lambda: EpisodeSliceSampler(PackedStorage(caches[0]), slice_len=4),
    }[kind]()
    buffers = [buffer_of(cache, sampler, batch_size=12 if kind == "stock once" else 400) for cache in caches]
    stock = torchrl_buffer(caches[1], sampler, 12)
    if kind == "prioritized":
        buffers[0].update_priority(torch.arange(69), torch.ones(69))
    for buffer, cache in [*zip(buffers, caches, strict=True), (stock, caches[1])] * 2:
        batch = buffer.sample().reshape(-1, 4)
        assert (batch["index"][:, 1:] == batch["index"][:, :-1] + 1).all()
        assert (batch["episode"] == batch["episode"][:, :1]).all()
        assert set(batch["episode"].unique().tolist()) <= set(cache.episodes[:, 0].tolist())
        if len(batch) == 100 and kind != "prioritized":
            assert len(batch["episode"].unique()) == len(cache.episodes)


def test_a_sampler_keeps_nothing_of_a_dataset(cache):
    sampler = SliceSampler(slice_len=4)
    buffer = buffer_of(cache, sampler, batch_size=16)
    buffer.sample()

    assert not sampler._cache
    assert not sampler.cache_values
    assert buffer.can_sample(16)
    assert isinstance(buffer, _buffer.DatasetReplayBuffer)
