"""Action chunks: the actions that follow in the episode, masked after its end."""

import pickle

import pytest
import torch

from rlhive import RoboHiveDataset

LENGTH = 5


def expected_chunks(dataset: RoboHiveDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chunks of all transitions, put together episode by episode."""
    chunks, masks = [], []
    for episode in dataset.iter_episodes():
        actions = episode["action"].float()
        for step in range(len(actions)):
            indices = torch.arange(step, step + LENGTH)
            chunks.append(actions[indices.clamp_max(len(actions) - 1)])
            masks.append(indices < len(actions))
    return torch.stack(chunks), torch.stack(masks)


@pytest.mark.parametrize("options", [{}, {"n_step": 3}, {"frame_stack": 2}, {"in_memory": True}])
def test_a_chunk_holds_the_next_actions_of_the_episode(filled, options) -> None:
    dataset = RoboHiveDataset("toy_point", split="expert+random", store=filled)
    dataset = dataset.select(dataset.episodes["episode"].to_pylist()[1::3])
    rows = dataset.as_replay_buffer(action_chunk=LENGTH, **options)[:]
    chunks, mask = expected_chunks(dataset)
    assert rows["action_chunk"].equal(chunks)
    assert rows["action_chunk_mask"].equal(mask)
    assert rows["action_chunk"][:, 0].equal(rows["action"])
    plain = dataset.as_replay_buffer(**options)[:]
    for key in plain.keys(True, True):
        assert rows[key].equal(plain[key]), key


def test_a_batch_and_a_pickle_have_the_chunks_of_their_transitions(filled) -> None:
    dataset = RoboHiveDataset("toy_point", store=filled)
    buffer = dataset.as_replay_buffer(16, action_chunk=LENGTH, normalize=["action"], seed=0)
    batch = buffer.sample()
    restored = pickle.loads(pickle.dumps(buffer.storage))[batch["index"]]
    assert restored["action_chunk"].equal(batch["action_chunk"])
    numbers = dataset.statistics["action"]
    normalised = dataset.as_replay_buffer(action_chunk=LENGTH, normalize=["action"])[:]["action_chunk"]
    expected = (expected_chunks(dataset)[0].double() - torch.tensor(numbers["mean"])) / torch.tensor(numbers["std"])
    torch.testing.assert_close(normalised, expected.clamp(-10, 10).float(), rtol=1e-4, atol=1e-4)


def test_a_chunk_has_at_least_one_action(filled) -> None:
    dataset = RoboHiveDataset("toy_point", store=filled)
    with pytest.raises(ValueError, match="action_chunk"):
        dataset.as_replay_buffer(action_chunk=0)
