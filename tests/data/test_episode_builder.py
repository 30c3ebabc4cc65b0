import logging

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlhive.data._episode_builder import _MAX_CHUNKS, EpisodeBuilder
from rlhive.data._episodes import EpisodeInfo, EpisodeRecord, pack
from rlhive.data._schema import Schema
from rlhive.errors import SchemaMismatchError
from tests.data.strategies import transitions


def content_hash(td):
    columns, final = pack(td, Schema.from_tensordict(td), context="expected")
    return EpisodeRecord(0, "train", columns, final).content_hash()


def hashes(records):
    return [record.content_hash() for record in records]


def info_by_env(env_index):
    return EpisodeInfo(f"env {env_index}")


def with_ids(td, trajectory_id):
    return td.clone().set(("collector", "traj_ids"), torch.full(td.shape, trajectory_id))


def add(builder, td):
    return list(builder.add_batch(td, info_by_env))


@pytest.mark.parametrize("size", [1, 2, 4, 10])
def test_chunks_of_an_environment_are_joined(size):
    whole = transitions(10, 0)
    builder = EpisodeBuilder()

    built = [record for part in whole.split(size) for record in add(builder, part)]

    assert hashes(built) == [content_hash(whole)]
    assert built[0].split == "env 0"
    assert builder.num_open == 0


def test_chunks_of_a_trajectory_are_joined_whichever_environment_they_come_from():
    one, two = transitions(6, 0), transitions(6, 1)
    builder = EpisodeBuilder()

    assert add(builder, torch.stack([with_ids(one[:3], 7), with_ids(two[:3], 8)])) == []
    built = add(builder, torch.stack([with_ids(two[3:], 8), with_ids(one[3:], 7)]))

    assert hashes(built) == [content_hash(two), content_hash(one)]


def test_a_chunk_that_does_not_continue_the_observations_begins_a_new_episode():
    one, two = transitions(6, 0), transitions(6, 1)
    builder = EpisodeBuilder()

    assert add(builder, one[:3]) == []
    (cut,) = add(builder, two[:3])
    (whole,) = add(builder, two[3:])

    assert cut.content_hash() == content_hash(one[:3])
    assert cut.ended == "unfinished"
    assert whole.content_hash() == content_hash(two)


def test_the_sign_of_zero_separates_chunks():
    whole = transitions(4, 0)
    for name in ("observation", ("next", "observation")):
        whole[name] = torch.zeros(4, 3, dtype=torch.float64)
    builder = EpisodeBuilder()
    add(builder, whole[:2])
    whole["observation"][2] = -0.0

    (cut,) = list(add(builder, whole[2:3]))

    assert cut.length == 2
    assert builder.num_open == 1


def test_a_trajectory_id_of_two_collectors_does_not_mix_their_episodes(caplog):
    one, two = transitions(6, 0), transitions(6, 1)
    builder = EpisodeBuilder()

    with caplog.at_level(logging.WARNING):
        for td in (one[:3], two[:3]):
            assert add(builder, with_ids(td, 5)) == []
    assert builder.num_open == 2
    built = [record for td in (one[3:], two[3:]) for record in add(builder, with_ids(td, 5))]

    assert hashes(built) == [content_hash(one), content_hash(two)]
    assert caplog.messages == ["Trajectory 5: observations are not continuous; treated as a new episode"]


def test_ended_trajectories_leave_nothing_behind():
    builder = EpisodeBuilder()
    for trajectory_id in range(5):
        td = with_ids(transitions(4, trajectory_id), trajectory_id)
        add(builder, td[:2])
        add(builder, td[2:])

    assert builder._open._open == {}


@pytest.mark.parametrize(("on_incomplete", "expected"), [("unfinished", [False, False]), ("truncated", [False, True])])
def test_an_incomplete_episode_is_kept_or_marked_truncated(on_incomplete, expected):
    td = transitions(2, 0, ended="unfinished")
    builder = EpisodeBuilder(on_incomplete=on_incomplete)
    add(builder, td)

    (record,) = builder.end_episodes()

    assert record.columns["next.truncated"][:, 0].tolist() == expected
    assert not td["next", "truncated"].any()


def test_the_open_episode_of_one_environment_is_ended():
    builder = EpisodeBuilder()
    add(builder, torch.stack([transitions(3, seed, ended="unfinished") for seed in range(3)]))

    (record,) = builder.end_episodes(1)

    assert record.split == "env 1"
    assert builder.num_open == 2
    assert [record.split for record in builder.end_episodes()] == ["env 0", "env 2"]
    assert list(builder.end_episodes()) == []


def test_an_episode_that_does_not_fit_is_reported_after_the_others():
    td = torch.stack([transitions(4, seed) for seed in range(4)])
    for env in (1, 2):
        td["action"][env, env, 0] = float("nan")
    builder = EpisodeBuilder()
    built = []

    with pytest.raises(SchemaMismatchError, match="episode 1, row 1: key action is NaN"):
        built.extend(builder.add_batch(td, info_by_env))

    assert [record.split for record in built] == ["env 0", "env 3"]


def test_a_refused_episode_does_not_fix_the_schema():
    def refuse(record, schema, context):
        if record.length == 3:
            raise SchemaMismatchError(context)

    builder = EpisodeBuilder(accept=refuse, context="number {}".format)
    with pytest.raises(SchemaMismatchError, match="number 0"):
        add(builder, transitions(3, 0))
    assert builder.schema is None

    other = transitions(4, 0).exclude("gripper")
    assert len(add(builder, other)) == 1
    assert builder.schema == Schema.from_tensordict(other)
    with pytest.raises(SchemaMismatchError, match="number 1: key gripper is not in the schema"):
        add(builder, transitions(4, 1))


def test_a_column_that_changes_in_a_later_episode_is_refused():
    builder = EpisodeBuilder()
    add(builder, transitions(3, 0))
    add(builder, transitions(3, 1))
    changed = transitions(3, 2)
    changed["action"] = changed["action"].double()

    with pytest.raises(SchemaMismatchError, match=r"episode 2: key action: expected float32 \(2,\), got float64"):
        add(builder, changed)


def test_records_own_read_only_memory():
    td = transitions(4, 0)
    expected = content_hash(td)
    (record,) = add(EpisodeBuilder(), td)
    td.zero_()

    assert record.content_hash() == expected
    assert not any(array.flags.writeable for array in (*record.columns.values(), *record.final.values()))


def test_an_episode_of_many_steps_is_kept_in_few_chunks():
    whole = transitions(3 * _MAX_CHUNKS, 0)
    builder = EpisodeBuilder()
    most = 0
    for step in whole[:-1]:
        list(builder.add_step(step, info_by_env, first_env=2))
        most = max(most, len(builder._open._open["env", 2][0][1].chunks.chunks))

    (record,) = builder.add_step(whole[-1], info_by_env, first_env=2)

    assert most == _MAX_CHUNKS
    assert record.content_hash() == content_hash(whole)
    assert record.split == "env 2"


@pytest.mark.parametrize("shape", [(0,), (2, 3)])
def test_one_episode_has_one_dimension_and_a_row(shape):
    td = torch.stack([transitions(3, 0)] * 2) if len(shape) == 2 else transitions(3, 0)[:0]

    with pytest.raises(SchemaMismatchError, match=r"episode 0: expected one episode, batch size \[T\] with T >= 1"):
        EpisodeBuilder().add_episode(td, EpisodeInfo("train"))


def test_the_simulator_state_of_the_first_row_is_the_start_state():
    td = transitions(4, 0)
    td["state"] = TensorDict({"qpos": torch.arange(8, dtype=torch.float64).reshape(4, 2)}, [4])
    builder = EpisodeBuilder(drop=("state",))
    add(builder, td[:2])

    (record,) = add(builder, td[2:])
    (given,) = builder.add_episode(td, EpisodeInfo("train", start_state={"qpos": np.array([7.0, 7.0])}))

    assert record.start_state["qpos"].tolist() == [0.0, 1.0]
    assert given.start_state["qpos"].tolist() == [7.0, 7.0]
    assert "state.qpos" not in record.columns


def test_rows_with_discontinuities_are_split_there():
    one, two = transitions(4, 0, ended="unfinished"), transitions(3, 1)
    builder = EpisodeBuilder()
    batch = builder.to_batch(torch.cat([one, two]))

    built = list(builder.add_batches([batch], info_by_env, has_discontinuities=True))

    assert hashes(built) == [content_hash(one), content_hash(two)]
    with pytest.raises(SchemaMismatchError, match="row 3: expected next"):
        list(EpisodeBuilder().add_batches([batch], info_by_env))


def test_padding_is_left_out():
    long, short = transitions(5, 0), transitions(2, 1)
    padded = torch.stack([long, torch.cat([short, torch.zeros_like(long[:3])])])
    padded["collector", "mask"] = torch.arange(5) < torch.tensor([[5], [2]])

    built = add(EpisodeBuilder(), padded)

    assert hashes(built) == [content_hash(long), content_hash(short)]


def test_the_memory_of_a_batch_may_be_overwritten_after_the_call():
    whole = transitions(6, 0)
    part = whole[:3].clone()
    builder = EpisodeBuilder()
    add(builder, part)
    part.zero_()

    (record,) = add(builder, whole[3:])

    assert record.content_hash() == content_hash(whole)
