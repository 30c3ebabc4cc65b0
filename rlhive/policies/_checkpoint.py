"""A trained policy on disk: written whole or not at all, refused where it does not fit, never unpickled.

<folder>/
  policy.pt          state_dict of the policy, read with weights_only
  curve.json         learning curve, one object per logged step
  checkpoint.json    what the policy is and what it was trained on, with the hash of policy.pt; written last

It lies below the training so that whatever rolls policies out (evaluation, collection) can load one.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP

from rlhive import keys
from rlhive.errors import CheckpointMismatch, StoreNotWritable
from rlhive.normalization import Normalizer

FORMAT_VERSION = 1
CHECKPOINT_FILE = "checkpoint.json"
POLICY_FILE = "policy.pt"
CURVE_FILE = "curve.json"

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "elu": nn.ELU}


def make_mlp(num_inputs: int, num_outputs: int, network: Mapping[str, Any]) -> MLP:
    """Build the perceptron that a ``network`` section of a configuration describes.

    Args:
        num_inputs: Size of the last input dimension.
        num_outputs: Size of the last output dimension.
        network: ``hidden_sizes``, ``activation`` ("relu", "gelu", "tanh" or "elu") and ``dropout`` (probability
            after each hidden layer, 0 for none).

    Raises:
        ValueError: Unknown activation.
    """
    if network["activation"] not in _ACTIVATIONS:
        msg = f"network.activation: expected one of {', '.join(_ACTIVATIONS)}, got {network['activation']!r}."
        raise ValueError(msg)
    return MLP(
        in_features=num_inputs,
        out_features=num_outputs,
        num_cells=list(network["hidden_sizes"]),
        activation_class=_ACTIVATIONS[network["activation"]],
        dropout=float(network["dropout"]) or None,
    )


def make_actor(observation_dim: int, action_dim: int, network: Mapping[str, Any]) -> nn.Sequential:
    """Build the network from a normalised observation to the mean action in [-1, 1]."""
    return nn.Sequential(make_mlp(observation_dim, action_dim, network), nn.Tanh())


def make_deployed_policy(normalizer: Normalizer, actor: nn.Module, *, env_name: str) -> TensorDictModule:
    """Join a normaliser and an actor into the policy that is saved, loaded and rolled out.

    Returns:
        A TorchRL module from ``observation`` (any float dtype) to ``action`` (float32 in [-1, 1]), deterministic,
        in evaluation mode, with an attribute ``env_name``. It shares the actor's memory.
    """
    policy = TensorDictModule(
        nn.Sequential(normalizer, actor), in_keys=[keys.OBSERVATION], out_keys=[keys.ACTION]
    ).eval()
    policy.env_name = env_name
    return policy


def save_checkpoint(
    folder: str | Path, policy: TensorDictModule, record: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
) -> Path:
    """Write a checkpoint. An older one in the folder is first marked incomplete, then replaced.

    Args:
        folder: Made if absent.
        policy: What :func:`make_deployed_policy` returned.
        record: What ``checkpoint.json`` will hold, JSON-able; ``env_name``, ``observation_dim``, ``action_dim`` and
            ``network`` are needed to load it again. Format version and hash are added here.
        curve: Learning curve.

    Returns:
        The folder.

    Raises:
        StoreNotWritable: The folder cannot be made or written.
    """
    folder = Path(folder)
    weights = io.BytesIO()
    torch.save({name: value.cpu().clone() for name, value in policy.state_dict().items()}, weights)
    record = {
        "format_version": FORMAT_VERSION,
        **record,
        "sha256": {POLICY_FILE: hashlib.sha256(weights.getvalue()).hexdigest()},
    }
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    _write(folder / POLICY_FILE, weights.getvalue())
    _write(folder / CURVE_FILE, json.dumps(list(curve), indent=1).encode())
    _write(folder / CHECKPOINT_FILE, json.dumps(record, indent=2).encode())
    return folder


def check_writable(folder: str | Path) -> None:
    """Raise now, and not after the training, where a checkpoint could not be written; creates nothing.

    Raises:
        StoreNotWritable: The folder, or the nearest parent that exists, cannot be written.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "a folder that can be written" if nearest.is_dir() else "a folder"
        msg = f"No checkpoint can be written to {folder}: expected {nearest} to be {what}. Choose another output_dir."
        raise StoreNotWritable(msg)


def read_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Return what ``checkpoint.json`` says, without loading the weights.

    Raises:
        CheckpointMismatch: The folder holds no checkpoint, half of one, or one of another format.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        half = (folder / POLICY_FILE).exists()
        found = "a half-written one (weights, but no record)" if half else "none"
        msg = (
            f"No checkpoint in {folder}: expected a folder with {CHECKPOINT_FILE}, got {found}. Train one: rlhive train"
        )
        raise CheckpointMismatch(msg)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a checkpoint's record: expected JSON with a format_version. Train it again."
        raise CheckpointMismatch(msg) from error
    if version != FORMAT_VERSION:
        msg = f"{path}: expected format_version {FORMAT_VERSION}, got {version}. Open it with the RLHive that wrote it."
        raise CheckpointMismatch(msg)
    return record


def load_policy(folder: str | Path, *, env: EnvBase | None = None) -> TensorDictModule:
    """Load a trained policy.

    Args:
        folder: Where the training left ``checkpoint.json`` and ``policy.pt``.
        env: The environment that it is to be rolled out in; without it, only the checkpoint itself is checked.

    Returns:
        A TorchRL module that writes ``action`` (float32 in [-1, 1]) from ``observation``, deterministic, with an
        attribute ``env_name``.

    Raises:
        CheckpointMismatch: The folder holds no whole checkpoint, its weights are not those that were written, or it
            was trained for another environment than ``env``.
    """
    folder = Path(folder)
    record = read_checkpoint(folder)
    if env is not None:
        check_env(record, env, address=folder)
    state = _read_weights(folder, record)
    try:
        size = int(record["observation_dim"])
        actor = make_actor(size, int(record["action_dim"]), record["network"])
        policy = make_deployed_policy(
            Normalizer(torch.zeros(size), torch.ones(size)), actor, env_name=record["env_name"]
        )
        policy.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        msg = f"{folder}: {POLICY_FILE} and {CHECKPOINT_FILE} do not describe the same network. Train it again."
        raise CheckpointMismatch(msg) from error
    return policy.requires_grad_(False)


def check_env(record: Mapping[str, Any], env: EnvBase, *, address: str | Path) -> None:
    """Raise where a checkpoint's record is not of this environment.

    Raises:
        CheckpointMismatch: Another ``env_name``, observation or action size.
    """
    size = env.observation_spec[keys.OBSERVATION].shape[-1]
    facts = (
        ("env_name", env.env_name),
        ("observation_dim", size),
        ("action_dim", env.action_spec.shape[-1]),
    )
    for name, expected in facts:
        if record.get(name) != expected:
            msg = (
                f"Checkpoint {address} does not fit {env.env_name}: expected {name} {expected!r}, "
                f"got {record.get(name)!r}. Evaluate it on {record.get('env_name')!r}."
            )
            raise CheckpointMismatch(msg)


def _read_weights(folder: Path, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / POLICY_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"Checkpoint {folder} is half-written: expected {POLICY_FILE}, got none. Train it again."
        raise CheckpointMismatch(msg) from error
    expected, actual = record.get("sha256", {}).get(POLICY_FILE), hashlib.sha256(content).hexdigest()
    if actual != expected:
        msg = f"{path} is not what was written: expected sha256 {expected}, got {actual}. Train it again."
        raise CheckpointMismatch(msg)
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises whatever its reader meets
        msg = f"{path} holds no weights that can be read safely. Train it again."
        raise CheckpointMismatch(msg) from error


def _write(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: nobody ever sees half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's files are private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
