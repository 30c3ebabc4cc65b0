"""Our buffer in TorchRL's OfflineToOnlineReplayBuffer: batches of both parts, with the keys that both have."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector, RandomPolicy
from torchrl.data import OfflineToOnlineReplayBuffer

from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._mixing import MixedBatch, select_common_keys
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.envs._toy import ToyEnv
from rlhive.errors import SchemaMismatchError
from tests.data.replay.test_online import rollout_of, toy_cache

pytestmark = pytest.mark.filterwarnings("ignore:Got conflicting batch_sizes")


@pytest.fixture
def storage(tmp_path):
    return PackedStorage(toy_cache(tmp_path / "toy"))


@pytest.mark.parametrize("how", ["rollout", "collector", "dataset"])
@pytest.mark.parametrize("prefetch", [None, 2])
def test_a_batch_has_the_share_of_either_part(storage, how, prefetch):
    offline = make_replay_buffer(storage, SamplingOptions(batch_size=16, seed=0, prefetch=prefetch))
    mixed = OfflineToOnlineReplayBuffer(offline, offline_fraction=0.75, online_capacity=60, batch_size=16)
    assert type(mixed.sample()) is TensorDict  # all of it from the dataset
    rows = rollout_of(7, 0, 26)
    if how == "collector":
        env = ToyEnv(seed=3)
        [rows] = Collector(env, RandomPolicy(env.action_spec), frames_per_batch=26, total_frames=26)
    elif how == "dataset":
        rows = rows.set("episode", torch.full((26,), 9))
    mixed.extend(rows.clone())

    everything = storage.read_all()
    for size in (16, 16, 4):
        batch = mixed.sample(size)
        share = size * 3 // 4
        assert type(batch) is TensorDict
        assert batch.shape == (size,)
        assert {"observation", "action", "success", "next"} <= set(batch.keys())
        assert ("episode" in batch) == (how == "dataset")
        for part, source in ((batch[:share], everything), (batch[share:], rows)):
            found = (part["observation"].unsqueeze(1) == source["observation"]).all(-1)
            assert found.any(1).all()
            index = found.int().argmax(1)
            assert torch.equal(part["next", "observation"], source["next", "observation"][index])
    assert type(offline.sample(4)) is TensorDict
    assert "index" in offline.sample(4)


def test_a_key_that_one_part_lacks_is_named(storage):
    offline = make_replay_buffer(storage, SamplingOptions(batch_size=16, seed=0))
    mixed = OfflineToOnlineReplayBuffer(offline, online_capacity=60, batch_size=16)
    mixed.extend(rollout_of(7, 0, 26).exclude(("next", "success")))

    with pytest.raises(SchemaMismatchError, match=r"Key next\.success: .* got none in what is collected"):
        mixed.sample()
    with pytest.raises(SchemaMismatchError, match=r"Key camera: .* got none in the dataset"):
        select_common_keys([TensorDict({}, [1]), TensorDict({"camera": torch.zeros(1)}, [1])])


def test_other_operations_see_a_tensordict():
    batch = MixedBatch({"a": torch.arange(4)}, [4])

    assert torch.equal(torch.stack([batch, batch])["a"], torch.stack([batch["a"]] * 2))
    assert isinstance(batch[1:], TensorDict)
