"""Steps and episodes as plain dicts: dtypes, shapes and values of every kind, and one sentence for what cannot be."""

import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict

from rlhive import Recorder, RoboHiveDataset
from rlhive.data.recording._plain_data import to_transition, to_transitions
from rlhive.errors import SchemaMismatchError

EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "25"))
STATES = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)


def step(row, **changes):
    """Return a step as a robot's loop has it."""
    return {
        "observation": STATES[row],
        "depth": {"wrist": np.full((2, 3), 1000 * row + 65, np.uint16)},
        "action": STATES[row + 1] - STATES[row],
        "instruction": "turn the knob",
        "gripper": np.float16(row),
        "attempt": row,
        "next": {
            "observation": STATES[row + 1],
            "depth": {"wrist": np.full((2, 3), 1000 * (row + 1) + 65, np.uint16)},
            "reward": 0.1 * row,
            "terminated": row == 2,
            "truncated": False,
        },
        **changes,
    }


def record(store, **changes):
    with Recorder("lab/plain", policy="operator", store=store) as recorder:
        for row in range(3):
            recorder.step(step(row, **changes))
    return RoboHiveDataset(recorder.commit(license="mit"), store=store)


def test_a_loop_of_dicts_is_recorded_with_its_dtypes_and_values(tmp_path):
    dataset = record(tmp_path)
    described = {field.column: (field.dtype, field.shape, field.observed) for field in dataset.schema.fields}
    assert described == {
        "observation": ("float32", (7,), True),
        "depth.wrist": ("uint16", (2, 3), True),
        "action": ("float32", (7,), False),
        "instruction": ("string", (), False),
        "gripper": ("float16", (1,), False),
        "attempt": ("int64", (1,), False),
        "next.reward": ("float64", (1,), False),
        "next.terminated": ("bool", (1,), False),
        "next.truncated": ("bool", (1,), False),
    }
    (episode,) = dataset.iter_episodes()
    np.testing.assert_array_equal(episode["observation"].numpy(), STATES[:3])
    np.testing.assert_array_equal(episode["next", "observation"].numpy(), STATES[1:])
    assert episode["depth", "wrist"][:, 0, 0].tolist() == [65, 1065, 2065]
    assert episode["next", "reward"].flatten().tolist() == [0.1 * row for row in range(3)]
    assert episode["attempt"].flatten().tolist() == [0, 1, 2]
    assert list(episode["instruction"]) == ["turn the knob"] * 3
    assert dataset.episodes["ended"].to_pylist() == ["terminated"]


def test_a_dict_is_recorded_as_the_tensordict_that_it_stands_for(tmp_path):
    """The sentence of the documentation, and the same episode by TensorDicts: one content hash."""
    plain = record(tmp_path / "plain")
    with Recorder("lab/plain", policy="operator", store=tmp_path / "tensors") as recorder:
        for row in range(3):
            values = step(row)
            after = values["next"]
            after |= {name: [after[name]] for name in ("terminated", "truncated")}
            after["reward"] = torch.tensor([after["reward"]], dtype=torch.float64)
            values |= {"gripper": values["gripper"][None], "attempt": [values["attempt"]]}
            recorder.step(TensorDict(values, []))
    tensors = RoboHiveDataset(recorder.commit(license="mit"), store=tmp_path / "tensors")
    assert plain.episodes["content_hash"].to_pylist() == tensors.episodes["content_hash"].to_pylist()


def test_arrays_of_a_whole_episode_are_recorded_as_its_steps(tmp_path):
    dataset = record(tmp_path)
    steps = [step(row) for row in range(3)]
    after = [row["next"] for row in steps]
    arrays = {
        "observation": STATES[:3],
        "depth": {"wrist": np.stack([row["depth"]["wrist"] for row in steps])},
        "action": np.stack([row["action"] for row in steps]),
        "instruction": ["turn the knob"] * 3,
        "gripper": np.arange(3, dtype=np.float16),
        "attempt": np.arange(3),
        "next": {
            "observation": STATES[1:],
            "depth": {"wrist": np.stack([row["depth"]["wrist"] for row in after])},
            "reward": np.array([0.1 * row for row in range(3)]),
            "terminated": np.array([False, False, True]),
            "truncated": np.zeros(3, bool),
        },
    }
    hashes = dataset.episodes["content_hash"].to_pylist()
    for method in ("add_episode", "extend"):
        with Recorder(f"lab/{method.replace('_', '-')}", store=tmp_path) as recorder:
            getattr(recorder, method)(arrays)
        assert RoboHiveDataset(recorder.commit(license="mit")).episodes["content_hash"].to_pylist() == hashes


def test_arrays_that_torch_cannot_share_are_copied():
    frozen = np.arange(6.0)
    frozen.flags.writeable = False
    big_endian, reversed_rows = np.arange(3, dtype=">u4"), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[..., ::-1]
    made = to_transition({"a": frozen, "b": big_endian, "c": reversed_rows, "d": np.array(2.5, np.float32)}, "here")
    assert made["a"].tolist() == frozen.tolist()
    assert made["b"].dtype == torch.uint32
    assert made["b"].tolist() == [0, 1, 2]
    assert made["c"].tolist() == reversed_rows.tolist()
    assert (made["d"].dtype, made["d"].tolist()) == (torch.float32, [2.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0.1, 0.2]}, "key x: expected a NumPy array, a number, a bool, a text or a dict of these, got list"),
        ({"x": None}, "key x: expected a NumPy array, .* got NoneType: leave the key out of every step"),
        ({"x": b"raw"}, "key x: .* got bytes: value.decode"),
        ({"x": {"y": object()}}, "key x.y: .* got object"),
        ({"x": 1j}, "key x: .* got complex: numpy.array"),
        ({"x": 2**63}, "key x: expected an int64, got 9223372036854775808"),
        ({"x": np.zeros(2, np.uint64)}, "key x: expected one of .*, got uint64 numbers. Convert it to int64"),
        ({"x": np.zeros(2, np.complex128)}, "key x: .* got complex128 numbers. Convert it to float64"),
        ({"x": np.array(["a", "b"])}, "key x: .* got an array of str"),
        ({"x": np.array([None])}, "key x: .* got an array of object"),
        ({"x": np.datetime64("2026-01-01")}, "key x: .* got an array of datetime64"),
        ({3: 1.0}, "key 3: expected a string, got int"),
        ({"a.b": 1.0}, "Key .*a.b.* cannot name a column"),
        ({"next": {"terminated": 1}}, "key next.terminated: expected bool, got int64"),
        ({"next": {"terminated": 0.0, "done": True}}, "key next.terminated: expected bool, got float64"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_sentence_and_nothing_is(changes, message, tmp_path):
    with Recorder("lab/plain", store=tmp_path) as recorder:
        with pytest.raises(SchemaMismatchError, match=message) as raised:
            recorder.step({**step(0), **changes})
        assert "\n" not in str(raised.value)
        assert str(recorder.path) in str(raised.value)
        assert recorder.num_open == 0
        for row in range(3):
            recorder.step(step(row))
        assert recorder.num_episodes == 1


def test_a_step_of_another_dtype_is_refused_with_key_and_dtypes(tmp_path):
    with Recorder("lab/plain", store=tmp_path) as recorder:
        recorder.step(step(0))
        recorder.step(step(1, attempt=1.0))
        with pytest.raises(
            SchemaMismatchError, match=re.escape("key attempt changes inside the episode: expected int64")
        ):
            recorder.step(step(2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"observation": np.zeros((3, 2)), "action": np.zeros((2, 2))}, "'observation' 3, 'action' 2"),
        ({}, "expected a TensorDict or a dict of arrays .*, got a dict without any"),
        ({"observation": 1.0}, "got a dict without any"),
        ({"observation": np.zeros((3, 2)), "x": 1.0}, "expected an array .* or a list of T texts or arrays, got float"),
    ],
)
def test_arrays_without_common_rows_are_refused(arrays, message):
    with pytest.raises(SchemaMismatchError, match=message):
        to_transitions(arrays, "here")


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=2),
    st.builds(
        lambda dtype, shape: np.zeros(shape, dtype),
        st.sampled_from(
            ["?", "b", "B", "h", ">H", "I", "q", "Q", "e", ">f", "d", "g", "F", "D", "S3", "U2", "O", "M8[s]", "V3"]
        ),
        st.sampled_from([(), (1,), (2, 3), (0,)]),
    ),
)
dicts = st.recursive(
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), values, max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(content=dicts)
def test_any_dict_is_a_transition_or_one_sentence(content):
    for convert in (to_transition, to_transitions):
        message = "here: "
        try:
            assert isinstance(convert(content, "here"), TensorDict)
        except SchemaMismatchError as error:
            message = str(error)
        assert message.startswith("here: ")
        assert "\n" not in message
