import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict

from rlhive import keys
from rlhive.data._episodes import EpisodeInfo, EpisodeRecord, flatten_tensordict, pack, pack_chunks, sum_exactly, unpack
from rlhive.data._schema import Schema
from rlhive.errors import SchemaMismatchError
from tests.data.strategies import endings, records, teleoperated_records, transitions


def equal(left: TensorDict, right: TensorDict) -> bool:
    """Bit for bit, on the keys of the left one."""
    return all(
        left[key].dtype == right[key].dtype and left[key].numpy().tobytes() == right[key].contiguous().numpy().tobytes()
        for key in left.keys(True, True)
    )


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 20), seed=st.integers(0, 2**20), ended=endings)
def test_unpack_is_the_inverse_of_pack(length, seed, ended):
    td = transitions(length, seed, ended=ended)
    schema = Schema.from_tensordict(td)

    columns, final = pack(td, schema, context="episode 4")
    back = unpack(columns, final, schema, episode=4)

    assert equal(td, back)
    assert (back[keys.EPISODE] == 4).all()
    record = EpisodeRecord(episode=4, split="a", columns=columns, final=final)
    assert record.ended == ended
    assert record.length == length


def test_packed_columns_do_not_alias_the_tensordict():
    td = transitions(3, 0)
    columns, final = pack(td, Schema.from_tensordict(td), context="here")
    before = columns["action"].copy(), final["observation"].copy()

    td["action"].zero_()
    td["next", "observation"].zero_()

    assert (columns["action"] == before[0]).all()
    assert (final["observation"] == before[1]).all()


def test_return_and_success_are_those_of_the_next_states():
    td = transitions(4, 0)
    td["next", "reward"] = torch.tensor([[1.0], [2.0], [4.0], [8.5]], dtype=torch.float64)
    for name in ("success", ("next", "success")):
        td[name] = torch.zeros(4, 1, dtype=torch.bool)
    td["success"][0] = True  # solved before any action: the start's merit, not the policy's
    columns, final = pack(td, Schema.from_tensordict(td), context="here")

    record = EpisodeRecord(episode=0, split="a", columns=columns, final=final)
    assert record.episode_return == 15.5
    assert not record.success

    final["success"] = np.array([True])
    assert record.success


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda td: td.pop("action"), "key action is missing"),
        (lambda td: td.set("extra", torch.zeros(5)), "key extra is not in the schema"),
        (lambda td: td.set("action", td["action"].double()), r"key action: expected float32 \(2,\), got float64"),
        (lambda td: td.set("action", td["action"][:, :1]), r"expected float32 \(2,\), got float32 \(1,\)"),
        (lambda td: td["action"].__setitem__((2, 0), float("nan")), "row 2: key action is NaN"),
        (lambda td: td["next", "observation"].__setitem__((4, 1), float("nan")), "key next.observation is NaN"),
        (lambda td: td["next", "observation"].__setitem__((1, 0), 77.0), "row 1: expected next.observation to be"),
        (
            lambda td: td["next", "terminated"].__setitem__(1, True),
            "row 1: expected an end flag only in the last row 4",
        ),
    ],
)
def test_a_broken_episode_is_refused_with_its_key_and_row(breaks, says):
    td = transitions(5, 3)
    schema = Schema.from_tensordict(td)
    breaks(td)

    with pytest.raises(SchemaMismatchError, match=rf"episode 9.*{says}"):
        pack(td, schema, context="episode 9")


def test_content_hash_sees_every_bit_and_only_the_content():
    _, (record,) = records([6])
    again = EpisodeRecord(episode=99, split="z", columns=dict(record.columns), final=dict(record.final), seed=5)
    assert again.content_hash() == record.content_hash()
    assert again.identity() != record.identity()

    for target in (again.columns, again.final):
        for name in list(target):
            flipped = target[name].copy()
            flipped.reshape(-1).view(np.uint8)[-1] ^= 1
            original, target[name] = target[name], flipped
            assert again.content_hash() != record.content_hash(), name
            target[name] = original
    assert again.content_hash() == record.content_hash()


def test_identity_sees_seed_state_policy_and_metadata():
    _, (record,) = records([2])
    changes = [{"seed": 17}, {"policy": "other"}, {"metadata": {}}, {"split": "c"}, {"start_state": {}}, {"episode": 1}]
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}

    assert EpisodeRecord(**(fields | {"run": "another"})).identity() == record.identity()
    for change in changes:
        assert EpisodeRecord(**(fields | change)).identity() != record.identity(), change


@given(st.lists(st.floats(allow_nan=False, width=64), max_size=20))
def test_a_sum_is_rounded_once_and_never_raises(values):
    total = sum_exactly(np.array(values))

    exact = sum(map(Fraction, values)) if all(map(math.isfinite, values)) else None
    if exact is None:
        assert total == np.sum(values) or math.isnan(np.sum(values))
    elif abs(exact) <= Fraction(np.finfo(float).max):
        assert total == float(exact)
    else:
        assert abs(total) >= np.finfo(float).max


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1e308, 1e308, -1e308], 1e308),  # math.fsum raises for the partial sum
        ([1e308, 1e308], math.inf),
        ([math.inf, 1.0], math.inf),
        ([1e16, 1.0, -1e16], 1.0),
    ],
)
def test_extreme_rewards_have_a_return(rewards, expected):
    assert sum_exactly(np.array(rewards)) == expected


def test_the_sum_of_infinities_of_both_signs_is_not_a_number():
    assert math.isnan(sum_exactly(np.array([math.inf, -math.inf])))


def test_metadata_beyond_a_mebibyte_is_refused_when_the_episode_is_added():
    options = {"split": "a", "policy": "", "context": "episode 3"}
    EpisodeInfo.create(metadata={"note": "x" * 1_000_000}, **options)
    with pytest.raises(SchemaMismatchError, match="episode 3, metadata: expected at most 1048576 bytes, got 11000"):
        EpisodeInfo.create(metadata={"note": "x" * 1_100_000}, **options)


def test_return_and_success_that_nobody_recorded_are_unknown():
    record = teleoperated_records([3])[0]

    assert record.episode_return is None
    assert record.success is None
    assert record.ended == "unfinished"


def test_the_success_of_steps_needs_no_final_value():
    record = teleoperated_records([3])[0]
    solved = np.array([[True], [False], [False]])

    assert replace(record, columns=record.columns | {"success": solved}).success
    assert replace(record, columns=record.columns | {"success": ~solved & solved}).success is False


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 9), data=st.data())
def test_an_episode_in_chunks_is_packed_as_one_in_one_piece(length, data):
    td = transitions(length, 0)
    schema, leaves = Schema.from_tensordict(td), flatten_tensordict(td, context="")
    ends = sorted({length, *data.draw(st.lists(st.integers(1, length), max_size=4))})
    chunks = [
        {name: array[start:stop] for name, array in leaves.items()}
        for start, stop in zip([0, *ends], ends, strict=False)
    ]

    columns, final = pack_chunks(chunks, schema, context="episode 0")

    expected = pack(td, schema, context="episode 0")
    for actual, wanted in zip((columns, final), expected, strict=True):
        assert actual.keys() == wanted.keys()
        for name, array in wanted.items():
            assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
            assert actual[name].tobytes() == array.tobytes()
    for row in range(length - 1):  # also where the row before is the last one of a chunk
        changed = td.clone()
        changed["next", "observation"][row, 0] = 77.0
        leaves = flatten_tensordict(changed, context="")
        chunks = [
            {name: array[start:stop] for name, array in leaves.items()}
            for start, stop in zip([0, *ends], ends, strict=False)
        ]
        with pytest.raises(SchemaMismatchError, match=f"row {row}: expected next.observation to be observation of row"):
            pack_chunks(chunks, schema, context="episode 0")
