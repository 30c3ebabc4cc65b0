"""Schemas of data, their comparison, and their JSON."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorStack, TensorDict

from rlhive.data._schema import MAX_WIDTH, Field, Schema, dtype_name, flatten_tensordict, is_stored
from rlhive.errors import SchemaMismatchError
from tests.data.strategies import transitions

ACTION = Field("action", "float32", (2,), observed=False)
OBSERVATION = Field("observation", "float64", (3,), observed=True)
SCHEMA = Schema((ACTION, OBSERVATION))


def test_the_schema_of_transitions_has_a_sorted_field_per_stored_column():
    schema = Schema.from_tensordict(transitions(4, 0), units={"action": "N m"})

    assert schema.fields == (
        Field("action", "float32", (2,), observed=False, unit="N m"),
        Field("count", "int32", (), observed=True),
        Field("gripper", "int64", (1,), observed=False),
        Field("next.reward", "float64", (1,), observed=False),
        Field("next.terminated", "bool", (1,), observed=False),
        Field("next.truncated", "bool", (1,), observed=False),
        Field("observation", "float64", (3,), observed=True),
        Field("parts.camera", "uint8", (2, 3, 3), observed=True),
        Field("parts.half", "float16", (2,), observed=True),
        Field("success", "bool", (1,), observed=True),
    )


def test_a_schema_lists_its_observed_and_its_tensor_fields():
    text = Field("instruction", "string", (), observed=False)
    schema = Schema((ACTION, text, OBSERVATION))

    assert schema.observed == (OBSERVATION,)
    assert schema.tensors == (ACTION, OBSERVATION)
    assert schema["instruction"] is text
    with pytest.raises(KeyError, match="velocity"):
        schema["velocity"]


def test_a_field_has_its_key_and_width():
    assert Field("parts.camera", "uint8", (2, 3, 3), observed=True).key == ("parts", "camera")
    assert ACTION.key == "action"
    assert [replace(ACTION, shape=shape).width for shape in ((), (1,), (2, 3, 3))] == [1, 1, 18]


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("observation", True),
        ("next.observation", False),  # the twin of a stored column
        ("next.reward", True),
        ("next.terminated", True),
        ("next.truncated", True),
        ("next.done", False),  # derived
        ("done", False),
        ("terminated", False),
        ("truncated", False),
        ("episode", False),
        ("step_count", False),
        ("next.step_count", False),
        ("parts.camera", True),
    ],
)
def test_twins_root_flags_index_columns_and_derived_columns_are_not_stored(column, stored):
    columns = dict.fromkeys([column, "observation", "next.observation", "terminated", "truncated"])

    assert is_stored(column, columns) == stored


def test_leaves_share_memory_with_the_tensordict_and_strings_become_object_arrays():
    td = TensorDict({"action": torch.arange(6.0).reshape(3, 2), "nested": {"text": NonTensorStack("a", "b", "c")}}, [3])

    arrays = flatten_tensordict(td, context="here")
    td["action"][1, 1] = 9

    assert arrays.keys() == {"action", "nested.text"}
    assert arrays["action"].tolist() == [[0, 1], [2, 9], [4, 5]]
    assert arrays["nested.text"].dtype == object
    assert arrays["nested.text"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("td", "message"),
    [
        (
            TensorDict({"a": torch.zeros(2, dtype=torch.complex64)}, [2]),
            "here: key a: expected a tensor of one of float64",
        ),
        (TensorDict({"a.b": torch.zeros(2)}, [2]), r"here: Key \('a\.b',\) cannot name a column"),
        (TensorDict({"a": NonTensorStack("x", 3)}, [2]), "here: key a: expected a tensor or a string per row, got 3"),
        (
            LazyStackedTensorDict(*(TensorDict({"a": torch.zeros(size)}, []) for size in (2, 3)), stack_dim=0),
            "here: expected one shape per key, got",
        ),
    ],
)
def test_a_key_that_cannot_be_a_column_is_an_error_that_names_it(td, message):
    with pytest.raises(SchemaMismatchError, match=message):
        flatten_tensordict(td, context="here")


def test_dtypes_have_numpys_names_and_object_is_string():
    assert dtype_name(np.dtype("<f4")) == "float32"
    assert dtype_name(np.dtype(object)) == "string"


def test_equal_fields_match_whatever_their_units():
    SCHEMA.require(Schema((replace(ACTION, unit="N"), OBSERVATION)), context="episode 7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((ACTION,), r"episode 7: key observation is missing: expected float64 \(3,\)\."),
        (
            (ACTION, OBSERVATION, replace(ACTION, column="gripper")),
            "episode 7: key gripper is not in the schema: expected only action, observation",
        ),
        (
            (replace(ACTION, shape=(3,)), OBSERVATION),
            r"episode 7: key action: expected float32 \(2,\), got float32 \(3,\)",
        ),
        (
            (replace(ACTION, shape=(2, 1)), OBSERVATION),
            r"episode 7: key action: expected float32 \(2,\), got float32 \(2, 1\)",
        ),
        (
            (replace(ACTION, dtype="float64"), OBSERVATION),
            r"episode 7: key action: expected float32 \(2,\), got float64 \(2,\)",
        ),
        (
            (replace(ACTION, observed=True), OBSERVATION),
            "episode 7: key action: expected no twin below 'next', got one",
        ),
        (
            (ACTION, replace(OBSERVATION, observed=False)),
            "episode 7: key observation: expected a twin below 'next', got none",
        ),
    ],
)
def test_the_first_difference_is_named(fields, message):
    with pytest.raises(SchemaMismatchError, match=message):
        SCHEMA.require(Schema(fields), context="episode 7")


def test_json_gives_back_the_schema_sorted():
    schema = Schema((replace(ACTION, unit="N m"), OBSERVATION))

    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(schema.to_json()[::-1]) == schema
    assert schema.to_json()[0] == {
        "column": "action",
        "dtype": "float32",
        "shape": [2],
        "observed": False,
        "unit": "N m",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "complex64"},
        {"dtype": None},
        {"shape": [-2]},
        {"shape": [3, -1]},
        {"dtype": "string", "shape": [-1]},
        {"shape": [True]},
        {"shape": [2.0]},
        {"shape": 3},
        {"shape": [MAX_WIDTH, 2]},
        {"shape": [1] * 33},
        {"dtype": "string", "shape": [2]},
        {"observed": "yes"},
        {"column": "episode"},
        {"column": "step_count"},
        {"column": "a..b"},
        {"column": "a\nb"},
        {"column": 3},
        {"unit": 3},
    ],
    ids=str,
)
def test_malformed_json_is_an_error(change):
    row = SCHEMA.to_json()[0]

    with pytest.raises(SchemaMismatchError, match="expected rows of column, dtype, shape, observed"):
        Schema.from_json([row | change])
    assert Schema.from_json([row]).fields == (ACTION,)


@pytest.mark.parametrize("key", ["column", "dtype", "shape", "observed"])
def test_json_without_a_key_is_an_error(key):
    row = SCHEMA.to_json()[0]
    del row[key]

    with pytest.raises(SchemaMismatchError, match=f"KeyError\\('{key}'\\)"):
        Schema.from_json([row])


def test_json_that_names_a_column_twice_is_an_error():
    with pytest.raises(SchemaMismatchError, match="expected each column once"):
        Schema.from_json([*SCHEMA.to_json(), SCHEMA.to_json()[0]])
