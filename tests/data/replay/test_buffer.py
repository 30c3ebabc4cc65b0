import pickle
import random
import time

import pytest
import torch
from torchrl.data import (
    ImmutableDatasetWriter,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TensorDictReplayBuffer,
    TensorStorage,
)

from rlhive.data.replay import open_packed
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.errors import CheckpointMismatchError
from tests.data.replay.caches import assert_same
from tests.data.strategies import records

LENGTHS = [7, 1, 12, 5, 9]


@pytest.fixture
def packed(tmp_path):
    schema, made = records(LENGTHS)
    folder = export(made, "my/knob", version="1.0.0", schema=schema, license="mit", store=tmp_path)
    return open_packed(folder, Manifest.read(folder), store=tmp_path)


@pytest.fixture
def storage(packed):
    return PackedStorage(packed)


def test_same_seed_same_batches(packed):
    # A storage each: TorchRL hands a buffer's generator to its storage.
    one, two, other = (
        make_replay_buffer(PackedStorage(packed), SamplingOptions(batch_size=16, seed=seed)) for seed in (1, 1, 2)
    )
    batches = [[buffer.sample()["observation"] for _ in range(3)] for buffer in (one, two, other)]

    assert all((left == right).all() for left, right in zip(batches[0], batches[1], strict=True))
    assert any((left != right).any() for left, right in zip(batches[0], batches[2], strict=True))


@pytest.mark.parametrize("sampler", [RandomSampler, lambda: SamplerWithoutReplacement(drop_last=True)])
def test_batches_are_those_of_torchrls_own_buffer(packed, sampler):
    everything = PackedStorage(packed).get(slice(None)).contiguous()
    theirs = TensorDictReplayBuffer(
        storage=TensorStorage(everything),
        sampler=sampler(),
        writer=ImmutableDatasetWriter(),
        batch_size=8,
        generator=torch.Generator().manual_seed(3),
    )
    ours = make_replay_buffer(PackedStorage(packed), SamplingOptions(batch_size=8, sampler=sampler(), seed=3))

    for _ in range(10):
        assert_same(ours.sample(), theirs.sample())
    got, info = ours.sample(return_info=True)
    expected, their_info = theirs.sample(return_info=True)
    assert_same(got, expected)
    assert info.keys() == their_info.keys()
    assert (info["index"] == their_info["index"]).all()


@pytest.mark.parametrize("sampler", [RandomSampler, lambda: SamplerWithoutReplacement(drop_last=False)])
def test_a_loop_gives_the_batches_of_sample_and_loses_none_when_it_stops(packed, sampler, tmp_path):
    def buffer():
        return make_replay_buffer(PackedStorage(packed), SamplingOptions(batch_size=8, sampler=sampler(), seed=7))

    plain, looped, resumed = buffer(), buffer(), buffer()
    expected = [plain.sample() for _ in range(12)]
    got = [batch for _, batch in zip(range(2), looped, strict=False)]
    assert looped._batches_ahead, "nothing was drawn ahead: the test would prove nothing"
    looped.dumps(tmp_path / "checkpoint")
    got += [looped.sample()]
    got += [batch for _, batch in zip(range(1), looped, strict=False)]
    looped = pickle.loads(pickle.dumps(looped))
    got += [looped.sample() for _ in range(8)]

    for left, right in zip(got, expected, strict=True):
        assert_same(left, right)
    resumed.loads(tmp_path / "checkpoint")
    for right in expected[2:]:
        assert_same(resumed.sample(), right)


@pytest.mark.parametrize("kind", ["random", "without replacement", "slices", "prioritized", "transformed"])
def test_any_prefetch_gives_the_same_batches(packed, kind):
    def batches(prefetch):
        storage = PackedStorage(packed)
        sampler = {
            "without replacement": lambda: SamplerWithoutReplacement(drop_last=False),
            "slices": lambda: EpisodeSliceSampler(storage, slice_len=4),
            "prioritized": lambda: PrioritizedSampler(len(storage), alpha=0.7, beta=0.9),
        }.get(kind, RandomSampler)()
        transform = _slow_at_random if kind == "transformed" else None
        buffer = make_replay_buffer(
            storage, SamplingOptions(batch_size=8, sampler=sampler, prefetch=prefetch, seed=5, transform=transform)
        )
        return [buffer.sample() for _ in range(12)]

    plain = batches(None)
    for prefetch in (1, 4):
        for got, expected in zip(batches(prefetch), plain, strict=True):
            assert_same(got, expected)


def _slow_at_random(batch):
    time.sleep(random.random() / 200)
    return batch


@pytest.mark.parametrize("prefetch", [None, 3])
def test_an_epoch_ends_with_or_without_prefetch(storage, prefetch):
    sampler = SamplerWithoutReplacement(drop_last=True)
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=8, sampler=sampler, prefetch=prefetch, seed=0))

    for _ in range(2):
        seen = torch.cat([batch["index"] for batch in buffer])
        assert len(seen) == 32
        assert len(seen.unique()) == 32


def test_without_replacement_visits_every_transition_once(storage):
    buffer = make_replay_buffer(
        storage, SamplingOptions(batch_size=8, sampler=SamplerWithoutReplacement(drop_last=False), seed=0)
    )
    everything = storage.get(slice(None))["next", "reward"].flatten().tolist()

    visited = [reward for batch in buffer for reward in batch["next", "reward"].flatten().tolist()]

    assert sorted(visited[: len(everything)]) == sorted(everything)


@pytest.mark.parametrize("kind", [SliceSampler, SliceSamplerWithoutReplacement])
@pytest.mark.parametrize("how", ["traj_key", "trajectories"])
def test_slices_stay_inside_an_episode(storage, kind, how):
    arguments = {"traj_key": "episode"} if how == "traj_key" else {"trajectories": storage.trajectories()}
    if kind is SliceSampler:
        arguments["cache_values"] = True
    sampler = kind(slice_len=4, **arguments)
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=8, sampler=sampler, seed=0))
    for _ in range(20 if kind is SliceSampler else 2):
        batch = buffer.sample().reshape(-1, 4)
        assert (batch["episode"] == batch["episode"][:, :1]).all()
        assert (batch["next", "observation"][:, :-1] == batch["observation"][:, 1:]).all()


def test_prioritized_sampling_prefers_high_priorities(storage):
    sampler = PrioritizedSampler(max_capacity=len(storage), alpha=1.0, beta=1.0)
    buffer = make_replay_buffer(storage, SamplingOptions(batch_size=64, sampler=sampler, seed=0))
    priorities = torch.full((len(storage),), 1e-6)
    priorities[11] = 1.0
    buffer.update_priority(torch.arange(len(storage)), priorities)

    wanted = storage.get(11)["next", "reward"]
    assert (buffer.sample()["next", "reward"] == wanted).float().mean() > 0.95


def test_a_buffer_checkpoint_is_refused_for_other_content(storage, packed, tmp_path):
    make_replay_buffer(storage, SamplingOptions(batch_size=4, seed=0)).dumps(tmp_path / "checkpoint")
    make_replay_buffer(PackedStorage(packed), SamplingOptions(batch_size=4)).loads(tmp_path / "checkpoint")

    with pytest.raises(CheckpointMismatchError, match="expected"):
        make_replay_buffer(PackedStorage(packed, torch.tensor([0])), SamplingOptions(batch_size=4)).loads(
            tmp_path / "checkpoint"
        )
