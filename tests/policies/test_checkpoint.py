"""Checkpoints: complete or absent, refused for another environment, never unpickled."""

import errno
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tensordict import TensorDict

from rlhive.errors import CheckpointMismatchError, StoreNotWritableError
from rlhive.policies import Normalizer, _checkpoint, make_actor, make_deployed_policy
from rlhive.policies._checkpoint import load_policy, read_checkpoint, save_checkpoint

NETWORK = {"hidden_sizes": [8, 8], "activation": "relu", "dropout": 0.5}
RECORD = {"env_name": "ToyPoint-v0", "observation_dim": 2, "action_dim": 1, "network": NETWORK}


def _policy(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        normalizer = Normalizer(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
        return make_deployed_policy(normalizer, make_actor(2, 1, NETWORK), env_name="ToyPoint-v0")


def _act(policy, *observation: float) -> torch.Tensor:
    return policy(TensorDict({"observation": torch.tensor(observation, dtype=torch.float64)}))["action"]


def test_a_policy_comes_back_bit_for_bit(tmp_path) -> None:
    policy = _policy()
    save_checkpoint(tmp_path / "a", policy, RECORD, [{"step": 1, "loss": 0.5}])
    loaded = load_policy(tmp_path / "a")
    action = _act(loaded, 0.3, 0.7)
    assert torch.equal(action, _act(policy, 0.3, 0.7))
    assert torch.equal(action, _act(loaded, 0.3, 0.7))  # no dropout
    assert action.dtype == torch.float32
    assert loaded.env_name == "ToyPoint-v0"
    assert json.loads((tmp_path / "a" / "curve.json").read_text()) == [{"step": 1, "loss": 0.5}]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["checkpoint.json", "curve.json", "policy.pt"]


OLD_CHECKPOINT = Path(__file__).parent / "checkpoint_v1"


def test_a_checkpoint_of_format_1_acts_as_when_it_was_written() -> None:
    policy = load_policy(OLD_CHECKPOINT)
    observations = [[5.0, 5.0, 1e6, 1.6], [0.3, 5.5, 1e6 + 1, 1.6000003], [-0.7, 4.0, 1e6 - 2, 2.0]]
    # an ordinary element, a constant one, one that varies by rounding errors alone, and one that hardly moved
    normalized = [
        [2.0, 0.0, 0.0, 0.0],
        [-0.3499999940395355, 0.5, 1.0, 0.30000001192092896],
        [-0.8500000238418579, -1.0, -2.0, 10.0],
    ]
    actions = [
        [-0.32986366748809814, -0.18887817859649658],
        [-0.30690839886665344, -0.2021864801645279],
        [-0.9305130243301392, -0.5471484661102295],
    ]
    assert policy.module[0](torch.tensor(observations, dtype=torch.float64)).tolist() == normalized
    for observation, action in zip(observations, actions, strict=True):
        assert _act(policy, *observation).tolist() == pytest.approx(action, rel=1e-6)  # BLAS differs between CPUs


@pytest.mark.parametrize("file", ["policy.pt", "curve.json", "checkpoint.json"])
def test_an_interrupted_save_leaves_nothing_that_loads(tmp_path, monkeypatch, file) -> None:
    save_checkpoint(tmp_path, _policy(0), RECORD, [])
    write = _checkpoint.replace_file

    def interrupt(path: Path, content: bytes) -> None:
        if path.name == file:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(_checkpoint, "replace_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, _policy(1), RECORD, [])
    with pytest.raises(CheckpointMismatchError, match="incomplete one"):
        load_policy(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, _policy(), RECORD, [])
    assert list(tmp_path.iterdir()) == []


def test_a_save_repeated_after_an_interrupt_is_complete(tmp_path) -> None:
    save_checkpoint(tmp_path, _policy(0), RECORD, [])
    (tmp_path / "checkpoint.json").unlink()
    save_checkpoint(tmp_path, _policy(1), RECORD, [])
    assert torch.equal(_act(load_policy(tmp_path), 0.3, 0.7), _act(_policy(1), 0.3, 0.7))


def test_an_incomplete_or_damaged_checkpoint_is_refused_with_a_reason(tmp_path) -> None:
    with pytest.raises(CheckpointMismatchError, match="got none"):
        load_policy(tmp_path / "absent")
    folder = save_checkpoint(tmp_path / "a", _policy(), RECORD, [])
    weights = (folder / "policy.pt").read_bytes()
    (folder / "policy.pt").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(CheckpointMismatchError, match=r"policy\.pt has changed since it was written: expected sha256"):
        load_policy(folder)
    (folder / "policy.pt").unlink()
    with pytest.raises(CheckpointMismatchError, match=r"incomplete: expected policy\.pt"):
        load_policy(folder)
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointMismatchError, match="is not the metadata of a checkpoint"):
        load_policy(folder)
    (folder / "checkpoint.json").write_text('{"format_version": 99}')
    with pytest.raises(CheckpointMismatchError, match="expected format_version 1, got 99"):
        load_policy(folder)


def test_metadata_of_another_network_is_refused(tmp_path) -> None:
    folder = save_checkpoint(tmp_path, _policy(), {**RECORD, "network": {**NETWORK, "hidden_sizes": [4]}}, [])
    with pytest.raises(CheckpointMismatchError, match="do not describe the same network"):
        load_policy(folder)


class _Payload:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_is_unpickled(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_checkpoint(tmp_path / "a", _policy(), RECORD, [])
    for content in (pickle.dumps(_Payload()), _torch_saved(_Payload())):
        (folder / "policy.pt").write_bytes(content)
        record = read_checkpoint(folder) | {"sha256": {"policy.pt": hashlib.sha256(content).hexdigest()}}
        (folder / "checkpoint.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointMismatchError, match="no weights that can be read safely"):
            load_policy(folder)
    assert not Path("unpickled").exists()


def _torch_saved(value: object, path: Path = Path("saved")) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\x1b[2J", 2**70])
)
ANY_JSON = st.recursive(
    SCALARS, lambda children: st.lists(children) | st.dictionaries(st.text(), children), max_leaves=8
)
FIELDS = ["env_name", "observation_dim", "action_dim", "network", "sha256", "format_version"]
FIELDS += ["network.hidden_sizes", "network.activation", "network.dropout", "sha256.policy.pt"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("saved"), _policy(), RECORD, [])


def replace_field(record: dict, field: str, value: object) -> str:
    name, _, inner = field.partition(".")
    return json.dumps({**record, name: {**record[name], inner: value} if inner else value})


def load_or_refusal(folder: str | Path):
    """Return the policy and an empty text, or None and the message of the refusal."""
    try:
        return load_policy(folder), ""
    except CheckpointMismatchError as error:
        return None, str(error)


@settings(max_examples=int(os.environ.get("RLHIVE_FUZZ", "0")) or 100, deadline=None)
@given(st.sampled_from(FIELDS), ANY_JSON)
def test_any_json_in_place_of_any_field_is_refused_or_describes_the_same_network(saved, field, value) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(saved / "policy.pt", folder)
        record = read_checkpoint(saved)
        Path(folder, "checkpoint.json").write_text(replace_field(record, field, value))
        policy, refusal = load_or_refusal(folder)
    assert refusal.isprintable()
    if policy is not None:
        assert field in ("env_name", "network.dropout", "network.activation") or value == RECORD.get(field)
        assert torch.equal(_act(policy, 0.3, 0.7), _act(_policy(), 0.3, 0.7)) or field == "network.activation"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "null",
        "\ufeff{}",
        "[" * 100_000,
        '{"format_version":1,"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=["empty", "number", "list", "null", "byte-order mark", "deep", "deep in an object"],
)
def test_a_record_that_is_no_object_is_refused(saved, tmp_path, text) -> None:
    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointMismatchError, match=r"checkpoint\.json is not the metadata of a checkpoint"):
        load_policy(tmp_path / "a")


def test_declared_sizes_take_no_memory(saved, tmp_path) -> None:
    shutil.copytree(saved, tmp_path / "a")
    record = read_checkpoint(saved)
    for field, value in [
        ("observation_dim", 10**8),
        ("network.hidden_sizes", [12_000, 12_000]),
        ("network.hidden_sizes", [1] * 10**6),
    ]:
        (tmp_path / "a" / "checkpoint.json").write_text(replace_field(record, field, value))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointMismatchError, match="do not describe the same network"):
            load_policy(tmp_path / "a")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def _compressed(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            copy.writestr(name, source.read(name))
    return target.getvalue()


def _write_weights(folder: Path, content: bytes) -> None:
    (folder / "policy.pt").write_bytes(content)
    hashes = {"policy.pt": hashlib.sha256(content).hexdigest()}
    (folder / "checkpoint.json").write_text(json.dumps(read_checkpoint(folder) | {"sha256": hashes}))


def test_weights_take_no_more_memory_than_their_file(tmp_path) -> None:
    folder = save_checkpoint(tmp_path / "a", _policy(), RECORD, [])
    state = torch.load(folder / "policy.pt", weights_only=True)
    repeated = state | {"module.0.mean": torch.zeros(1, dtype=torch.float64).expand(10**6)}
    for content in (
        _compressed((folder / "policy.pt").read_bytes()),
        _torch_saved(repeated, folder / "saved"),
        _torch_saved({name: value.to("meta") for name, value in state.items()}, folder / "saved"),
        _torch_saved({name: value.to_sparse() for name, value in state.items()}, folder / "saved"),
        _torch_saved([state], folder / "saved"),
    ):
        _write_weights(folder, content)
        with pytest.raises(CheckpointMismatchError, match="no weights that can be read safely"):
            load_policy(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritableError, match=r"expected .*file to be a folder"):
        save_checkpoint(tmp_path / "file" / "a", _policy(), RECORD, [])
