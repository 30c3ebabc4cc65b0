import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from rlhive.data._transition_batch import TransitionBatch, describe_difference
from rlhive.errors import SchemaMismatchError
from tests.data.strategies import teleoperated, transitions


def to_batch(td, **options):
    return TransitionBatch.from_tensordict(td, context="batch", **options)


def test_leading_dimensions_become_environments():
    td = torch.stack([torch.stack([transitions(4, 2 * row + col) for col in range(2)]) for row in range(3)])

    batch = to_batch(td)

    assert (batch.num_envs, batch.num_steps) == (6, 4)
    assert batch.rows["parts.camera"].shape == (6, 4, 2, 3, 3)
    assert (batch.rows["action"][3] == td["action"][1, 1].numpy()).all()
    assert (batch.chunk(3, 1, 3)["action"] == td["action"][1, 1, 1:3].numpy()).all()


def test_rows_share_the_memory_of_the_tensordict():
    td = transitions(4, 0)
    batch = to_batch(td)
    td["action"][2, 1] = 77.0

    assert batch.rows["action"][0, 2, 1] == 77.0


def test_bookkeeping_is_read_and_not_a_column():
    td = transitions(4, 0)
    td["collector"] = td.select().set("traj_ids", torch.tensor([3, 3, -1, -1]))
    td["collector", "mask"] = torch.tensor([True, False, True, True])
    td["is_init"] = torch.tensor([[False], [True], [False], [False]])
    td["_internal"] = torch.zeros(4)
    td["next", "_internal"] = torch.zeros(4)

    batch = to_batch(td)

    assert batch.trajectory_ids.tolist() == [[3, 3, -1, -1]]
    assert batch.valid.tolist() == [[True, False, False, False]], "rows that a preempted collector did not fill"
    assert batch.starts.tolist() == [[False, True, False, False]]
    assert not {name for name in batch.rows if name.startswith(("collector", "is_init", "_", "next._"))}


def test_a_step_count_takes_precedence_over_is_init():
    td = transitions(3, 0)
    td["is_init"] = torch.ones(3, 1, dtype=torch.bool)
    td["step_count"] = torch.tensor([[0], [1], [0]])

    assert to_batch(td).starts.tolist() == [[True, False, True]]


def test_done_without_termination_is_truncation():
    td = transitions(3, 0)
    del td["next", "truncated"]

    batch = to_batch(td)

    assert batch.rows["next.truncated"][0, :, 0].tolist() == [False, False, True]
    assert batch.ends.tolist() == [[False, False, True]]


def test_keys_to_drop_are_dropped_below_next_too():
    batch = to_batch(transitions(3, 0), drop=("count",))

    assert not {"count", "next.count"} & batch.rows.keys()
    assert "count" not in batch.observed


def test_continuity_compares_every_observed_column():
    td = transitions(5, 0)
    td["parts", "camera"][3, 0, 0, 0] ^= 1

    assert to_batch(td).is_continuous(0).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("td", "says"),
    [
        (transitions(3, 0)[0], r"batch: expected batch size \[\.\.\., time\], got \[\]"),
        ({"action": 1}, "batch: expected a TensorDict of TED transitions, got a dict"),
        (transitions(3, 0).exclude(("next", "terminated")), "batch: key next.terminated is missing"),
    ],
)
def test_a_tensordict_that_is_not_a_batch_is_refused(td, says):
    with pytest.raises(SchemaMismatchError, match=says):
        to_batch(td)


def test_differences_of_chunks_are_named():
    chunk = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2)}

    assert describe_difference(chunk, {"a": np.ones((5, 3), np.float32), "b": np.ones(5)}) == ""
    assert describe_difference(chunk, {"a": chunk["a"]}).endswith(
        "key b changes inside the episode: expected float64 (), got no such key"
    )
    assert describe_difference(chunk, chunk | {"a": np.zeros((2, 4), np.float32)}).endswith(
        "expected float32 (3,), got float32 (4,)"
    )


@settings(max_examples=20 * int(os.environ.get("RLHIVE_FUZZ", "1")), deadline=None)
@given(st.sets(st.sampled_from(["terminated", "truncated", "done"])), st.sampled_from(["truncated", "terminated", ""]))
def test_flags_that_nobody_recorded_are_not_set(missing, ended):
    td = transitions(3, 0, ended=ended or "unfinished")
    for flag in missing:
        del td["next", flag]
    terminated = ended == "terminated" and "terminated" not in missing
    truncated = ended == "truncated" and "truncated" not in missing
    is_done = "done" not in missing and bool(ended)
    if "truncated" in missing and "terminated" not in missing and is_done and not terminated:
        truncated = True  # done, and not by the end of the task
    if is_done and ("terminated" in missing):
        with pytest.raises(SchemaMismatchError, match=r"key next\.terminated is missing where next\.done is set"):
            to_batch(td)
        return

    rows = to_batch(td).rows

    assert rows["next.terminated"][0].tolist() == [[False], [False], [terminated]]
    assert rows["next.truncated"][0].tolist() == [[False], [False], [truncated]]


def test_transitions_without_any_next_key_are_taken():
    td = teleoperated(4, 0).exclude("next")

    batch = to_batch(td)

    assert sorted(batch.rows) == ["action", "next.terminated", "next.truncated", "observation"]
    assert not batch.ends.any()
