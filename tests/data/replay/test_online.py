import numpy as np
import pytest
import torch
from torchrl.collectors import Collector, RandomPolicy
from torchrl.data import SliceSampler
from torchrl.envs import SerialEnv

from rlhive.data._episodes import pack
from rlhive.data._schema import Schema
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._layout import PackedCache, PackedCacheWriter
from rlhive.data.replay._online import extend
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.envs._toy import ToyEnv
from rlhive.errors import SchemaMismatchError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache
from tests.data.strategies import transitions

TOTAL = sum(LENGTHS)


@pytest.fixture
def storage(tmp_path):
    return PackedStorage(write_cache(tmp_path / "cache")[0])


def test_it_starts_with_every_transition_once_and_in_order(storage):
    online = extend(make_replay_buffer(storage, SamplingOptions(batch_size=4)), 50)

    assert len(online) == TOTAL
    assert_same(online[:].exclude("index"), storage.get(slice(None)))


def test_the_buffer_grows_and_the_dataset_does_not(storage, tmp_path):
    online = extend(storage, 50, batch_size=8, folder=tmp_path / "online", sampler=SliceSampler(slice_len=4))
    new = torch.cat([transitions(9, 50), transitions(5, 51)]).set("unknown", torch.zeros(14))

    online.extend(new)
    held = online[:]

    assert len(online) == TOTAL + 14
    assert len(storage) == TOTAL
    assert held["episode"][TOTAL:].tolist() == [16] * 9 + [17] * 5  # the dataset's largest id is 15
    assert_same(held[TOTAL:].exclude("index", "episode"), new.exclude("unknown"))
    assert "index" not in new, "the caller's TensorDict was written to"
    online.extend(transitions(9, 52))
    assert (online[:]["episode"] == 18).sum() == 9  # the oldest were overwritten
    batch = online.sample().reshape(-1, 4)
    assert (batch["episode"] == batch["episode"][:, :1]).all()


def test_trajectories_that_continue_in_the_next_call_keep_their_episode(storage):
    first, second = transitions(6, 50), transitions(8, 51)
    both = torch.stack([first[:4], second[:4]])
    by_ends, by_ids = extend(storage, 60), extend(storage, 60)

    for rows in (both, torch.stack([torch.cat([first[4:], transitions(2, 52)]), second[4:]])):
        by_ends.extend(rows)
    assert by_ends[:]["episode"][TOTAL:].tolist() == [16] * 4 + [17] * 4 + [16] * 2 + [18] * 2 + [17] * 4
    for rows, ids in ((both, [[0] * 4, [1] * 4]), (torch.stack([first[:2], second[:2]]), [[2] * 2, [1] * 2])):
        rows = rows.copy().set(("collector", "traj_ids"), torch.tensor(ids))
        by_ids.extend(rows)
    assert by_ids[:]["episode"][TOTAL:].tolist() == [16] * 4 + [17] * 4 + [18] * 2 + [17] * 2


def test_masked_rows_are_left_out(storage):
    online = extend(storage, 60)
    rows = transitions(6, 50).set(("collector", "mask"), torch.arange(6) < 4)

    online.extend(rows.unsqueeze(0))

    assert_same(online[:][TOTAL:].exclude("index", "episode"), rows[:4].exclude("collector"))


def test_transitions_that_do_not_fit_are_an_error_that_names_the_key(storage):
    online = extend(storage, 60)
    for wrong, says in (
        (transitions(3, 1).exclude("gripper"), "Key gripper: expected torch.int64 .1,. as in the dataset, got none"),
        (transitions(3, 1).set("action", torch.zeros(3, 2).double()), "Key action: .* got torch.float64"),
        (transitions(3, 1).set("action", torch.zeros(3, 5)), r"Key action: .* got torch.float32 \(5,\)"),
    ):
        with pytest.raises(SchemaMismatchError, match=says):
            online.extend(wrong)
    assert len(online) == TOTAL
    with pytest.raises(ValueError, match="capacity=33: expected at least 34"):
        extend(storage, 33)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_collectors_batches_are_accepted(tmp_path, num_envs):
    online = extend(PackedStorage(toy_cache(tmp_path / "toy")), 200)
    before = len(online)
    env = ToyEnv(seed=1) if num_envs == 1 else SerialEnv(num_envs, lambda: ToyEnv(seed=1))
    collector = Collector(env, RandomPolicy(env.action_spec), frames_per_batch=26, total_frames=78)

    given = []
    for batch in collector:
        given.append(batch.clone())
        online.extend(batch)
    collector.shutdown()
    got = online[:][before:]

    assert len(got) == 78
    for key in online._template.exclude("episode").keys(True, True):
        assert torch.equal(got[key], torch.cat([batch[key].flatten(0, batch.ndim - 1) for batch in given])), key
    trajectories = torch.cat([batch["collector", "traj_ids"].flatten() for batch in given])
    pairs = set(zip(trajectories.tolist(), got["episode"].tolist(), strict=True))
    assert len(pairs) == len({left for left, _ in pairs}) == len({right for _, right in pairs}) > num_envs
    assert not (got["episode"] == 0).any(), "the dataset's own episode"


def toy_cache(folder):
    """A cache of one episode of the toy environment."""
    rollout = ToyEnv(seed=0).rollout(20)
    schema = Schema.from_tensordict(rollout)
    columns, final = pack(rollout, schema, context="rollout")
    folder.mkdir()
    finals = {name: value[None] for name, value in final.items()}
    writer = PackedCacheWriter(folder, schema, ["a"], np.array([[0, 0, len(rollout)]]), finals)
    writer.write(columns)
    writer.finish()
    return PackedCache(folder)
