"""TorchRL's samplers, buffers and checkpoints over our storage: the values of TorchRL's own storage."""

import pytest
import torch
from torchrl.checkpoint import Checkpoint
from torchrl.data import (
    HERReplayBuffer,
    ImmutableDatasetWriter,
    LazyTensorStorage,
    OfflineToOnlineReplayBuffer,
    PrioritizedSampler,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    ReplayBufferEnsemble,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)
from torchrl.envs.transforms import CatFrames, Compose, MultiStepTransform, Reward2GoTransform

from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._gather import Window
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._samplers import EpisodeSliceSampler
from rlhive.data.replay._storage import PackedStorage
from tests.data.replay.caches import LENGTHS, assert_same, write_cache
from tests.data.strategies import transitions


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "cache")[0]


@pytest.fixture
def everything(cache):
    return PackedStorage(cache).get(slice(None)).contiguous()


def make_torchrl_storage(everything):
    """TorchRL's own storage of the same transitions."""
    storage = LazyTensorStorage(len(everything))
    storage.set(range(len(everything)), everything)
    return storage


def as_is(batch):
    """What a storage that gives whole batches needs of a stock buffer."""
    return batch


def generator():
    return torch.Generator().manual_seed(0)


def test_priorities_follow_update_tensordict_priority_as_in_torchrl(cache, everything):
    def buffer(storage, make):
        sampler = PrioritizedSampler(len(everything), alpha=0.7, beta=0.9)
        return make(storage, sampler)

    ours = buffer(
        PackedStorage(cache), lambda s, p: make_replay_buffer(s, SamplingOptions(batch_size=8, sampler=p, seed=0))
    )
    theirs = buffer(
        make_torchrl_storage(everything),
        lambda s, p: TensorDictReplayBuffer(
            storage=s, sampler=p, batch_size=8, writer=ImmutableDatasetWriter(), generator=generator()
        ),
    )
    for step in range(10):
        got, expected = ours.sample(), theirs.sample()
        assert_same(got, expected)
        for batch, rb in ((got, ours), (expected, theirs)):
            batch["td_error"] = torch.rand(8, generator=torch.Generator().manual_seed(step)) * 10
            rb.update_tensordict_priority(batch)


def test_the_prioritized_replay_buffer_class_takes_the_storage(cache, everything):
    arguments = {"alpha": 0.7, "beta": 0.9, "batch_size": 8, "collate_fn": as_is}
    ours = TensorDictPrioritizedReplayBuffer(storage=PackedStorage(cache), generator=generator(), **arguments)
    theirs = TensorDictPrioritizedReplayBuffer(
        storage=make_torchrl_storage(everything), generator=generator(), **arguments
    )
    for _ in range(3):
        assert_same(ours.sample(), theirs.sample())


def test_an_ensemble_mixes_two_choices_of_episodes(cache, everything):
    parts = [torch.tensor([0, 1]), torch.tensor([2, 3, 4])]
    ids = [set(cache.episodes[part, 0].tolist()) for part in parts]
    ensemble = ReplayBufferEnsemble(
        *(make_replay_buffer(PackedStorage(cache, part), SamplingOptions(batch_size=6, seed=0)) for part in parts),
        batch_size=12,
    )
    start = [0, sum(LENGTHS[:2])]
    for _ in range(5):
        batch = ensemble.sample()
        assert batch.shape == (2, 6)
        for rows in batch:
            member = next(number for number in (0, 1) if set(rows["episode"].tolist()) <= ids[number])
            index = start[member] + rows["index", "index"]
            assert torch.equal(rows["next", "reward"], everything["next", "reward"][index])


@pytest.mark.parametrize("strategy", ["final", "future", "episode", "random"])
def test_hindsight_goals_are_those_of_torchrls_own_storage(cache, everything, strategy):
    goal = ("parts", "half")

    def batches(storage):
        buffer = HERReplayBuffer(
            reward_fn=lambda td: td[goal].double().nan_to_num().sum(-1, keepdim=True),
            strategy=strategy,
            goal_key=goal,
            achieved_goal_key=goal,
            storage=storage,
            writer=ImmutableDatasetWriter(),
            collate_fn=as_is,
            batch_size=16,
            generator=generator(),
        )
        torch.manual_seed(1)
        return [buffer.sample() for _ in range(3)]

    for got, expected in zip(batches(PackedStorage(cache)), batches(make_torchrl_storage(everything)), strict=True):
        assert_same(got, expected)
        assert not torch.equal(got[goal], everything[goal][got["index"]]), "no goal was relabelled"


def test_offline_to_online_mixes_the_dataset_with_collected_transitions(cache, everything):
    # A plain ReplayBuffer: a TensorDictReplayBuffer's batches have an index, which those of the online part lack.
    offline = ReplayBuffer(storage=PackedStorage(cache), writer=ImmutableDatasetWriter(), collate_fn=as_is)
    buffer = OfflineToOnlineReplayBuffer(offline, offline_fraction=0.75, online_capacity=20, batch_size=8)
    new = transitions(9, 99).set("episode", torch.full((9,), 99))
    buffer.extend(new)

    batch = buffer.sample()
    assert (batch["episode"] == 99).sum() == 2
    old = batch[batch["episode"] != 99]
    rows = (everything["next", "reward"].unsqueeze(0) == old["next", "reward"].unsqueeze(1)).squeeze(-1).int().argmax(1)
    assert_same(old.select("observation", "action", "next"), everything[rows].select("observation", "action", "next"))


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("sampler", [RandomSampler, SamplerWithoutReplacement])
def test_sampling_continues_from_a_checkpoint(cache, tmp_path, sampler, prefetch):
    def buffer(seed):
        return make_replay_buffer(
            PackedStorage(cache), SamplingOptions(batch_size=4, sampler=sampler(), prefetch=prefetch, seed=seed)
        )

    made, dumped, checkpointed = buffer(0), buffer(1), buffer(2)
    for _ in range(3):
        made.sample()
    made.dumps(tmp_path / "dumps")
    Checkpoint(buffer=made).save(tmp_path / "checkpoint")
    dumped.loads(tmp_path / "dumps")
    assert Checkpoint(buffer=checkpointed).load(tmp_path / "checkpoint").loaded == {"buffer"}

    for _ in range(4):
        expected = made.sample()
        assert_same(dumped.sample(), expected)
        assert_same(checkpointed.sample(), expected)


@pytest.mark.parametrize("kind", ["slices", "stock slices", "slices once", "priorities", "priorities of slices"])
def test_sampling_continues_from_a_checkpoint_of_any_sampler(cache, tmp_path, kind):
    def buffer(seed):
        storage = PackedStorage(cache)
        prioritized = {"alpha": 0.7, "beta": 0.9, "max_capacity": len(storage)}
        sampler = {
            "slices": lambda: EpisodeSliceSampler(storage, slice_len=4),
            "stock slices": lambda: SliceSampler(slice_len=4),
            "slices once": lambda: SliceSamplerWithoutReplacement(slice_len=4),
            "priorities": lambda: PrioritizedSampler(**prioritized),
            "priorities of slices": lambda: PrioritizedSliceSampler(**prioritized, slice_len=4),
        }[kind]()
        return make_replay_buffer(storage, SamplingOptions(batch_size=8, sampler=sampler, seed=seed))

    made, dumped, checkpointed, fresh = buffer(0), buffer(1), buffer(2), buffer(0)
    made.sample()
    if kind.startswith("priorities"):
        made.update_priority(torch.arange(len(made)), torch.linspace(0.1, 9, len(made)))
    made.dumps(tmp_path / "dumps")
    Checkpoint(buffer=made).save(tmp_path / "checkpoint")
    dumped.loads(tmp_path / "dumps")
    Checkpoint(buffer=checkpointed).load(tmp_path / "checkpoint")

    expected = [made.sample() for _ in range(2)]
    for batch in expected:
        assert_same(dumped.sample(), batch)
        assert_same(checkpointed.sample(), batch)
    assert not torch.equal(fresh.sample()["index"], expected[0]["index"]), "a checkpoint that says nothing would do"


def test_cat_frames_as_a_transform_joins_the_rows_of_a_slice(cache):
    cat = CatFrames(2, dim=-1, in_keys=["observation"], padding="same")
    transform = Compose(
        lambda td: td.reshape(-1, 4).refine_names(None, "time"), cat, lambda td: td.rename(None, None).reshape(-1)
    )
    buffer = make_replay_buffer(
        PackedStorage(cache), SamplingOptions(batch_size=8, slice_len=4, transform=transform, seed=0)
    )
    plain = (
        make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, slice_len=4, seed=0))
        .sample()
        .reshape(2, 4)
    )

    before = torch.cat([plain["observation"][:, :1], plain["observation"][:, :-1]], 1)
    expected = torch.cat([before, plain["observation"]], -1)
    assert torch.equal(buffer.sample()["observation"], expected.reshape(8, -1))


def test_transforms_that_act_on_writing_are_taken_over(cache):
    """TorchRL applies these two in ``extend``; a dataset has none, and they would silently do nothing."""
    transform = Compose(
        MultiStepTransform(3, 0.9),
        Reward2GoTransform(torch.tensor(0.8, dtype=torch.float64), out_keys=["to_go"]),
        lambda td: td.set("two", td["action"] * 2),
    )
    got = make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, transform=transform, seed=0)).sample()

    window = PackedStorage(cache, window=Window(n_step=3, gamma=0.9), return_to_go=0.8)
    expected = make_replay_buffer(window, SamplingOptions(batch_size=8, seed=0)).sample()
    assert torch.equal(got["two"], 2 * got["action"])
    assert_same(got.exclude("two").rename_key_("to_go", "return_to_go"), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_batches_have_the_same_values(cache):
    got = make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, pin_memory=True, seed=0)).sample()
    assert got.is_pinned()
    assert_same(got, make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=8, seed=0)).sample())
