import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict
from torchrl.collectors import Collector, RandomPolicy
from torchrl.data import PrioritizedSampler, SliceSampler
from torchrl.envs import SerialEnv

from rlhive.data._episodes import pack
from rlhive.data._schema import Schema
from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._online import extend
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._packed_writer import PackedCacheWriter
from rlhive.data.replay._storage import PackedStorage
from rlhive.data.versions._export import export
from rlhive.data.versions._manifest import Manifest
from rlhive.data.versions._source import to_source
from rlhive.envs._toy import ToyEnv
from rlhive.errors import InvalidArgumentError, SchemaMismatchError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache
from tests.data.strategies import transitions

TOTAL = sum(LENGTHS)
NUM_EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "12"))


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
    for rows, ids in ((both, [[0] * 4, [1] * 4]), (torch.stack([first[:2], second[4:6]]), [[2] * 2, [1] * 2])):
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
        (transitions(3, 1).set("action", torch.zeros(3, 2).long()), "Key action: .* got torch.int64"),
        (transitions(3, 1).set("gripper", torch.zeros(3, 1)), "Key gripper: .* got torch.float32"),
        (transitions(3, 1).set("action", torch.zeros(3, 5)), r"Key action: .* got torch.float32 \(5,\)"),
    ):
        with pytest.raises(SchemaMismatchError, match=says):
            online.extend(wrong)
    assert len(online) == TOTAL
    with pytest.raises(ValueError, match="capacity=33: expected at least 34"):
        extend(storage, 33)


def test_floats_of_another_width_are_converted(storage):
    online = extend(storage, 60)
    action = torch.tensor([[0.1, 0.2]], dtype=torch.float64).expand(3, 2)
    index = online.extend(transitions(3, 1).set("action", action))
    assert online[index]["action"].equal(action.float())


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


def rollout_of(episode, start, count, *, end=None, ids=None):
    """Rows of an episode whose observations no other episode has: ``[count]``, done in its row ``end``."""
    steps = torch.arange(start, start + count + 1, dtype=torch.float64)
    observation = torch.stack([torch.full_like(steps, episode), steps], 1)
    flags = {name: torch.zeros(count, 1, dtype=torch.bool) for name in ("terminated", "truncated", "done")}
    success = torch.zeros(count, 1, dtype=torch.bool)
    after = {"observation": observation[1:], "success": success, "reward": torch.zeros(count, 1, dtype=torch.float64)}
    rows = TensorDict(
        {
            "observation": observation[:-1],
            "success": success,
            "action": torch.zeros(count, 1),
            **flags,
            "next": {**after, **{name: flag.clone() for name, flag in flags.items()}},
        },
        [count],
    )
    if end is not None and start <= end < start + count:
        rows["next", "truncated"][end - start] = rows["next", "done"][end - start] = True
    return rows if ids is None else rows.set(("collector", "traj_ids"), torch.full((count,), ids))


@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(
    data=st.data(),
    num_envs=st.integers(1, 3),
    with_ids=st.booleans(),
    capacity=st.sampled_from([20, 45, 400]),
)
def test_an_id_is_one_episode_whatever_comes(tmp_path_factory, data, num_envs, with_ids, capacity):
    folder = tmp_path_factory.mktemp("ids")
    storage = PackedStorage(toy_cache(folder / "toy"))
    online = extend(storage, capacity, sampler=SliceSampler(slice_len=3, strict_length=False), batch_size=60)
    episodes = itertools.count(1)
    running = [[next(episodes), 0] for _ in range(num_envs)]  # episode and step of each environment
    ids = dict.fromkeys(range(num_envs), 0) if with_ids else {}
    for number in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["go on", "go on", "end", "reset", "collector", "dumps", "state", "empty"]))
        if action == "dumps":
            online.dumps(folder / str(number))
            online = extend(storage, capacity, sampler=SliceSampler(slice_len=3, strict_length=False), batch_size=60)
            online.loads(folder / str(number))
        elif action == "state":
            state = online.state_dict()
            online = extend(storage, capacity, sampler=SliceSampler(slice_len=3, strict_length=False), batch_size=60)
            online.load_state_dict(state)
        elif action in ("reset", "collector"):  # a cut rollout; a new collector counts its trajectories from 0
            running = [[next(episodes), 0] for _ in range(num_envs)]
            ids = {env: ids[env] + num_envs if action == "reset" else 0 for env in ids}
        count = 0 if action == "empty" else data.draw(st.integers(1, 6))
        rows = []
        for env, (episode, step) in enumerate(running):
            end = step + count - 1 if action == "end" else None
            rows.append(rollout_of(episode, step, count, end=end, ids=ids.get(env)))
            running[env][1] += count
        online.extend(torch.stack(rows) if data.draw(st.booleans()) or num_envs > 1 else rows[0])
        if action == "end":
            running = [[next(episodes), 0] for _ in range(num_envs)]
            ids = {env: ids[env] + num_envs for env in ids}
    held = online[:]
    truth = held["observation"][:, 0].to(torch.int64)  # 0 for the dataset's episode
    pairs = set(zip(held["episode"].tolist(), truth.tolist(), strict=True))
    assert len(pairs) == len({given for given, _ in pairs}), "an id stands for two episodes"
    batch = online.sample()
    inside = ~batch["next", "truncated"].flatten()[:-1]
    follows = (batch["next", "observation"][:-1] == batch["observation"][1:]).all(1)
    assert follows[inside].all(), "a slice goes on with another episode"


def test_ids_of_the_rows_themselves_are_kept_where_they_are_new(tmp_path):
    online = extend(PackedStorage(toy_cache(tmp_path / "toy")), 200)
    own = [(1, 0, 7), (1, 3, 7), (2, 0, 0), (3, 0, 7), (4, 0, 5)]  # episode, first step, own id
    for episode, start, own_id in own:
        online.extend(rollout_of(episode, start, 3).set("episode", torch.full((3,), own_id)))

    assert online[:]["episode"][-15::3].tolist() == [7, 7, 8, 9, 10]


def test_an_empty_batch_is_accepted(tmp_path):
    online = extend(PackedStorage(toy_cache(tmp_path / "toy")), 200)
    rows, before = rollout_of(1, 0, 4), len(online)
    for empty in (rows[:0], rows[:0].unsqueeze(0), torch.stack([rows, rows])[:, :0], TensorDict({}, [0])):
        assert online.extend(empty).tolist() == []
    masked = rows.copy().set(("collector", "mask"), torch.zeros(4, dtype=torch.bool))
    assert online.extend(masked).tolist() == []

    assert len(online) == before
    assert online.extend(rows).tolist() == list(range(before, before + 4))
    assert online[:]["episode"][before:].tolist() == [1] * 4


def test_priorities_of_collected_rows_are_kept_and_checked(tmp_path):
    online = extend(PackedStorage(toy_cache(tmp_path / "toy")), 200, sampler=PrioritizedSampler(200, 1.0, 1.0))
    rows, before = rollout_of(1, 0, 4), len(online)
    with pytest.raises(InvalidArgumentError, match="got nan at position 1 of 4"):
        online.extend(rows.copy().set("td_error", torch.tensor([1.0, float("nan"), 1, 1])))
    with pytest.raises(InvalidArgumentError, match="got inf"):
        online.update_priority(torch.arange(2), torch.tensor([1.0, float("inf")]))
    assert len(online) == before
    online.update_priority(torch.arange(before), torch.full((before,), 1e-6))
    index = online.extend(rows.copy().set("td_error", torch.tensor([1e-6, 1e-6, 5.0, 1e-6])))

    assert (online.sample(64)["index"] == index[2]).float().mean() > 0.95


@pytest.mark.parametrize("is_full", [False, True])
def test_its_complete_episodes_are_exported(tmp_path, is_full):
    storage = PackedStorage(toy_cache(tmp_path / "toy"))
    capacity = len(storage) + 32 if is_full else 200
    online = extend(storage, capacity)
    for start in (0, 4, 8):
        online.extend(torch.stack([rollout_of(1, start, 4, end=11), rollout_of(2, start, 4, end=11)]))
    online.extend(rollout_of(3, 0, 8))
    if is_full:
        online.dumps(tmp_path / "checkpoint")
        online = extend(storage, capacity)
        online.loads(tmp_path / "checkpoint")
        online.extend(rollout_of(4, 0, 1))  # the dataset's episode loses its beginning

    folder = export(online, "my/online", version="1.0.0", license="mit", store=tmp_path / "store")

    records = list(to_source(online).records())
    assert Manifest.read(folder).num_episodes == len(records) == 4
    collected = [record for record in records if record.columns["observation"][0, 0] >= 1]
    lengths = {int(record.columns["observation"][0, 0]): record.length for record in collected}
    assert lengths == {1: 12, 2: 12, 3: 8} | ({4: 1} if is_full else {})
    for record in collected:
        assert record.columns["observation"][:, 1].tolist() == list(range(record.length))


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
