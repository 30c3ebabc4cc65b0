import pytest
import torch
from torchrl.data import OfflineToOnlineReplayBuffer, ReplayBuffer, RobotDatasetMetadata, SamplerWithoutReplacement
from torchrl.data.datasets import load_dataset

from rlhive import RoboHiveDataset, make_env


@pytest.fixture
def dataset(filled):
    return RoboHiveDataset("toy_point", split="expert")


def test_torchrls_load_dataset_opens_a_dataset(dataset):
    buffer = load_dataset("rlhive:toy_point", split="expert", version="1.0.0", batch_size=16, seed=3)

    assert isinstance(buffer, ReplayBuffer)
    expected = dataset.as_replay_buffer(16, seed=3).sample().exclude("episode", "index")
    assert (buffer.sample() == expected).all()
    assert len(buffer) == len(dataset)
    epoch = load_dataset(
        "rlhive:toy_point", split="expert", sampler=SamplerWithoutReplacement(), batch_size=160
    ).sample()
    assert sorted(epoch["index"].tolist()) == list(range(160))


def test_offline_to_online_replay_buffer_opens_a_dataset(dataset):
    buffer = OfflineToOnlineReplayBuffer(
        "rlhive:toy_point", online_capacity=100, offline_fraction=0.5, batch_size=8, split="expert"
    )
    offline = dataset.as_tensordict(dtype=torch.float32)
    # Rewards above 1000 mark the transitions that were collected online.
    online = make_env("toy_point").rollout(20, break_when_any_done=False)
    online["next", "reward"] += 1000
    buffer.extend(online)

    rewards = buffer.sample()["next", "reward"].flatten()

    assert (rewards > 500).sum() == 4
    assert set(rewards[rewards < 500].tolist()) <= set(offline["next", "reward"].flatten().tolist())


def test_robot_metadata_is_filled_from_the_manifest(dataset):
    metadata = dataset.robot_metadata
    actions = dataset.as_tensordict()["action"].float()

    assert metadata.dataset_id == "robohive/toy_point@1.0.0"
    assert (metadata.embodiment_id, metadata.license) == ("ToyPoint-v0", "apache-2.0")
    assert (metadata.action_dim, metadata.action_key, metadata.state_key) == (1, "action", "observation")
    assert metadata.camera_keys == ()
    assert metadata.source_url is None
    torch.testing.assert_close(metadata.action_mean, actions.mean(0))
    torch.testing.assert_close(metadata.action_std, actions.std(0, unbiased=False))
    torch.testing.assert_close(metadata.action_low, actions.amin(0))
    torch.testing.assert_close(metadata.action_high, actions.amax(0))
    assert (RobotDatasetMetadata.from_json(metadata.to_json()) == metadata).all()
