"""Transformers from checkpoints of anyone: any section ``network`` is refused or describes the weights beside it."""

import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict

from rlhive._threads import torch_threads
from rlhive.errors import CheckpointMismatchError
from rlhive.normalization import Normalizer
from rlhive.policies import load_policy, make_deployed_policy, make_network, read_checkpoint, save_checkpoint


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with torch_threads(1):
        yield


SIZES = {"context": 4, "num_layers": 2, "num_heads": 2, "width": 8, "dropout": 0.1}
NETWORK = {"kind": "transformer", **SIZES, "target_return": 3.0, "return_mean": 1.0, "return_std": 2.0}
RECORD = {"env_name": "ToyPoint-v0", "observation_dim": 2, "action_dim": 1, "network": NETWORK}
NUMBERS = st.integers() | st.floats() | st.integers(-1, 40) | st.sampled_from([10**400, 2**63, 1e308])
ANY_JSON = NUMBERS | st.none() | st.booleans() | st.text() | st.lists(NUMBERS) | st.dictionaries(st.text(), NUMBERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    network = make_network(2, 1, NETWORK)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy = make_deployed_policy(Normalizer(torch.zeros(2), torch.ones(2)), network, env_name="ToyPoint-v0")
    return save_checkpoint(tmp_path_factory.mktemp("saved"), policy, RECORD, [])


def act(policy) -> list[float]:
    policy.begin_episode(0)
    actions = []
    for step in range(6):
        row = TensorDict({"observation": torch.tensor([0.1 * step, -0.3])})
        actions.append(policy(row)["action"].item())
        policy.observe_reward(0.5)
    return actions


def load_changed(saved: Path, changes: dict[str, object]):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(saved / "policy.pt", folder)
        record = read_checkpoint(saved)
        Path(folder, "checkpoint.json").write_text(json.dumps({**record, "network": {**NETWORK, **changes}}))
        return load_policy(folder)


def load_or_refusal(saved: Path, changes: dict[str, object]):
    """Return the policy and an empty text, or None and the message of the refusal."""
    try:
        return load_changed(saved, changes), ""
    except CheckpointMismatchError as error:
        return None, str(error)


@settings(max_examples=int(os.environ.get("RLHIVE_FUZZ", "0")) or 25, deadline=None)
@given(st.sampled_from(sorted(NETWORK)), ANY_JSON)
def test_any_json_in_place_of_any_option_is_refused_or_describes_the_same_transformer(saved, name, value) -> None:
    policy, refusal = load_or_refusal(saved, {name: value})
    assert refusal.isprintable()
    if policy is None:
        return
    assert name in ("num_heads", "dropout", "target_return", "return_mean", "return_std") or value == NETWORK[name]
    assert all(abs(action) <= 1 for action in act(policy))


def test_declared_sizes_take_no_memory(saved) -> None:
    for changes in ({"width": 2**14}, {"context": 500, "width": 2**14}, {"num_layers": 100, "width": 2**14}):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointMismatchError, match="do not describe the same network"):
            load_changed(saved, changes)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_tiny_scale_of_returns_is_within_float32(saved) -> None:
    assert all(abs(action) <= 1 for action in act(load_changed(saved, {"return_std": 1e-130})))


def test_a_loaded_transformer_aims_at_the_return_of_its_record(saved) -> None:
    original = act(load_policy(saved))
    assert act(load_policy(saved)) == original
    assert act(load_changed(saved, {"target_return": 5.0})) != original
    # Only the standardised return is read: twice the distance to the mean over twice the scale is the same.
    changed = load_changed(saved, {"target_return": 5.0, "return_std": 4.0})
    row = TensorDict({"observation": torch.tensor([0.0, -0.3])})
    assert changed(row)["action"].item() == pytest.approx(original[0], rel=1e-5)
