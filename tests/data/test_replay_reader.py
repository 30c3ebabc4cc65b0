import pytest
import torch
from torchrl.data import LazyTensorStorage, ListStorage, TensorDictReplayBuffer

from rlhive.data import _replay_reader
from rlhive.data._episode_builder import EpisodeBuilder
from rlhive.data._episodes import EpisodeInfo
from rlhive.data._replay_reader import is_replay_buffer, read_replay_buffer
from rlhive.data.recording import Recorder
from rlhive.data.versions import export
from rlhive.dataset import RoboHiveDataset
from tests.data.strategies import transitions


def make_buffer(storage, *parts):
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=2)
    for part in parts:
        buffer.extend(part)
    return buffer


def read(buffer, **options):
    return list(read_replay_buffer(buffer, EpisodeBuilder(**options), lambda env: EpisodeInfo(f"env {env}")))


def actions(records):
    return [record.columns["action"].tobytes() for record in records]


def expected(*parts):
    return [part["action"].numpy().tobytes() for part in parts]


def with_ids(td, trajectory_id):
    return td.clone().set(("collector", "traj_ids"), torch.full(td.shape, trajectory_id))


@pytest.mark.parametrize("chunk_rows", [1, 3, 10_000])
def test_episodes_are_read_oldest_first_whatever_the_chunks(chunk_rows, monkeypatch):
    monkeypatch.setattr(_replay_reader, "CHUNK_ROWS", chunk_rows)
    made = [transitions(length, length) for length in (4, 3, 5)]
    buffer = make_buffer(LazyTensorStorage(9), *made)

    records = read(buffer)

    # 12 rows were written to 9 places: three of the first episode's four rows are overwritten.
    assert actions(records) == expected(*made[1:])


def test_the_open_episode_at_the_end_is_read():
    made = [transitions(4, 0), transitions(3, 1, ended="unfinished")]

    records = read(make_buffer(LazyTensorStorage(20), *made), on_incomplete="truncated")

    assert actions(records) == expected(*made)
    assert [record.ended for record in records] == ["truncated", "truncated"]


def test_trajectories_of_a_list_storage_are_read():
    made = [transitions(length, length) for length in (4, 3)]
    buffer = TensorDictReplayBuffer(storage=ListStorage(10), batch_size=2)
    for td in made:
        buffer.add(td)

    assert actions(read(buffer)) == expected(*made)


def test_environments_in_a_separate_dimension_have_indices():
    made = torch.stack([transitions(4, seed) for seed in range(3)])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(30, ndim=2), batch_size=2)
    buffer.extend(made)

    records = read(buffer)

    assert actions(records) == expected(*made)
    assert [record.split for record in records] == ["env 0", "env 1", "env 2"]


def test_trajectories_that_may_have_lost_their_beginning_are_dropped(caplog):
    one, two, three = transitions(6, 1), transitions(6, 2), transitions(4, 3)
    parts = [with_ids(one[:3], 1), with_ids(two[:3], 2), with_ids(one[3:], 1), with_ids(two[3:], 2), with_ids(three, 3)]
    buffer = make_buffer(LazyTensorStorage(14), *parts)

    records = read(buffer)

    assert actions(records) == expected(three)
    assert caplog.messages[-1] == ("Replay buffer: dropped 2 episodes (10 transitions) whose beginning was overwritten")


def test_step_counts_show_which_beginnings_are_stored():
    made = [transitions(length, length) for length in (4, 3, 5)]
    for td in made:
        td["step_count"] = torch.arange(len(td)).unsqueeze(-1)
    buffer = make_buffer(LazyTensorStorage(8), *made)

    assert actions(read(buffer)) == expected(*made[1:])


def test_recorder_and_export_take_the_same_episodes_of_a_buffer(store):
    buffer = make_buffer(LazyTensorStorage(10), *[transitions(4, seed) for seed in range(3)])

    with Recorder("my/recorded") as recorder:
        recorder.extend(buffer)
    folders = [recorder.commit(license="mit"), export(buffer, "my/exported", license="mit")]

    tables = [RoboHiveDataset(folder).episodes for folder in folders]
    assert tables[0]["content_hash"].to_pylist() == tables[1]["content_hash"].to_pylist()
    assert tables[0]["length"].to_pylist() == [4, 4]
    assert RoboHiveDataset(folders[0]).fingerprint == RoboHiveDataset(folders[1]).fingerprint


def test_a_replay_buffer_is_distinguished_from_transitions():
    assert is_replay_buffer(make_buffer(LazyTensorStorage(4)))
    assert not is_replay_buffer(transitions(3, 0))
    assert not is_replay_buffer(torch.zeros(3))
    assert not is_replay_buffer([transitions(3, 0)])
