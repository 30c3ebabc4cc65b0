"""Sources: what can become a version, and which episode goes to which split."""

import pytest
from hypothesis import given, settings, strategies as st
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlhive.data._schema import Schema
from rlhive.data.versions._source import VersionSource, assign_splits, partition_episodes, to_source
from rlhive.errors import SchemaMismatch
from tests.data.strategies import records, same, transitions


class Recording:
    """An object that becomes a version."""

    def __init__(self, source):
        self.source = source

    def as_source(self, schema=None):
        assert schema in (None, self.source.schema)
        return self.source


def test_a_source_and_an_object_with_a_source_are_taken_as_they_are():
    schema, episodes = records([2])
    source = VersionSource(schema, lambda: iter(episodes))

    assert to_source(source) is source
    assert to_source(Recording(source), schema) is source


def test_a_list_of_records_has_the_schema_of_the_first_and_can_list_its_ids():
    schema, episodes = records([2, 3])

    source = to_source(episodes)

    assert source.schema == schema
    assert list(source.ids()) == [3, 6]
    for _ in range(2):  # every pass starts again
        assert all(same(left, right) for left, right in zip(source.records(), episodes, strict=True))


@pytest.mark.parametrize("give_schema", [False, True])
def test_a_stream_of_records_loses_none_and_cannot_list_its_ids(give_schema):
    schema, episodes = records([2, 3])

    source = to_source(iter(episodes), schema if give_schema else None)

    assert source.schema == schema
    assert source.ids is None
    assert [record.episode for record in source.records()] == [3, 6]


def test_an_empty_list_needs_a_schema():
    schema, _ = records([1])

    assert list(to_source([], schema).records()) == []
    for nothing in ([], iter([])):
        with pytest.raises(SchemaMismatch, match=r"got no episode at all\. If it is empty, pass schema="):
            to_source(nothing)
    with pytest.raises(SchemaMismatch, match="got a str"):
        to_source(["path"])


def test_a_replay_buffer_has_its_episodes_in_one_split():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=4)
    for seed, length in enumerate((4, 7)):
        buffer.extend(transitions(length, seed))

    source = to_source(buffer)

    assert source.schema == Schema.from_tensordict(transitions(1, 0))
    assert [(record.episode, record.split, record.length) for record in source.records()] == [
        (0, "train", 4),
        (1, "train", 7),
    ]
    assert list(source.ids()) == [0, 1]


def test_named_splits_come_first_and_change_no_episode():
    _, episodes = records([2, 3])
    source = assign_splits(VersionSource(records([1])[0], lambda: iter(episodes), splits=("b", "a")), ["x", "a"])

    assert source.splits == ("x", "a", "b")
    assert [record.split for record in source.records()] == ["a", "b"]
    assert assign_splits(source, None) is source


def test_episodes_get_the_split_that_names_them():
    _, episodes = records([2, 3, 4])

    source = assign_splits(to_source(episodes), {"train": [9, 3], "test": [6], "empty": []})

    assert source.splits == ("train", "test", "empty")
    assert [(record.episode, record.split) for record in source.records()] == [(3, "train"), (6, "test"), (9, "train")]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [3]}, "expected every episode in a split, got 2 in none, 6 for example"),
        ({"train": [3, 6, 9, 12]}, "Split 'train': there is no episode 12"),
        ({"train": [3, 6], "test": [6, 9]}, "Episode 6: expected one split, got 'train' and 'test'"),
        ({"train": [3, 3, 6, 9]}, "Episode 3: expected one split, got 'train' and 'train'"),
        ({"train": 0.5, "test": 0.4}, r"shares .* sum to 1, got \{'train': 0\.5, 'test': 0\.4\} \(sum 0\.9\)"),
        ({"train": 0.9}, r"\(sum 0\.9\)"),
        ({"train": 1.2, "test": -0.2}, "expected shares that are non-negative"),
        ({"train": float("nan"), "test": 1.0}, r"\(sum nan\)"),
        ({"train": 1.0, "test": 1e-6}, r"\(sum 1\)"),
    ],
)
def test_splits_that_do_not_hold_every_episode_once_are_refused(splits, message):
    _, episodes = records([2, 3, 4])

    with pytest.raises(SchemaMismatch, match=message):
        assign_splits(to_source(episodes), splits)


def test_shares_and_ids_are_not_mixed():
    with pytest.raises(TypeError, match="expected shares only or ids only, got shares for train and ids for others"):
        partition_episodes([1, 2], {"train": 0.5, "test": [1]}, seed=0)


def test_no_split_at_all_is_refused():
    with pytest.raises(SchemaMismatch, match="expected at least one name"):
        partition_episodes([1, 2], {}, seed=0)


def test_a_stream_cannot_be_split_by_share():
    _, episodes = records([2])

    with pytest.raises(SchemaMismatch, match="got a stream"):
        assign_splits(to_source(iter(episodes)), {"train": 1.0})


@settings(max_examples=50, deadline=None)
@given(
    episode_ids=st.sets(st.integers(0, 10_000), max_size=60),
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 9),
)
def test_shares_partition_the_episodes(episode_ids, weights, seed):
    shares = {f"s{index}": weight / sum(weights) for index, weight in enumerate(weights)}

    splits = partition_episodes(sorted(episode_ids), shares, seed=seed)

    assert list(splits) == list(shares)
    assert sorted(episode for members in splits.values() for episode in members) == sorted(episode_ids)
    for name, members in splits.items():
        assert members == sorted(members)
        assert abs(len(members) - shares[name] * len(episode_ids)) <= 1


def test_the_split_of_an_episode_never_changes():
    """Published versions depend on it: another result here means that their splits cannot be made again."""
    splits = partition_episodes(range(10), {"train": 0.7, "test": 0.3}, seed=0)

    assert splits == {"train": [0, 1, 2, 4, 6, 7, 9], "test": [3, 5, 8]}
    assert partition_episodes(range(10), {"train": 0.7, "test": 0.3}, seed=1) != splits
