"""Checkpoints: trained policies on disk, written whole or not at all, and never unpickled.

::

    <folder>/
      policy.pt          state_dict of the policy, read with weights_only
      curve.json         learning curve, one object per logged step
      checkpoint.json    metadata of the policy and its training data, with the hash of policy.pt; written last

The package lies below rlhive.sim_algos, so that collection and evaluation can load a policy without the training code.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torchrl.envs import EnvBase

from rlhive import keys
from rlhive.errors import CheckpointMismatchError, InvalidOptionError, StoreNotWritableError
from rlhive.normalization import Normalizer
from rlhive.policies._files import replace_file
from rlhive.policies._frozen import copy_values
from rlhive.policies._inputs import PolicyInputs, count_normalized
from rlhive.policies._networks import make_deployed_policy, make_network
from rlhive.policies._record import FORMAT_VERSION, read_record, require_network

CHECKPOINT_FILE = "checkpoint.json"
POLICY_FILE = "policy.pt"
CURVE_FILE = "curve.json"

#: Arguments that a checkpoint may pass to the environment that its policy acts in.
ENV_KWARGS = {"cameras", "depth", "from_pixels", "image_size", "obs_keys", "render_quality", "segmentation"}


def save_checkpoint(
    folder: str | Path, policy: TensorDictModule, record: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
) -> Path:
    """Write a checkpoint. An older one in the folder is first marked incomplete, then replaced.

    Args:
        folder: Folder of the checkpoint; created if it does not exist.
        policy: Result of :func:`make_deployed_policy`.
        record: Entries of ``checkpoint.json``, JSON-able. Loading needs ``env_name``, ``observation_dim``,
            ``action_dim`` and ``network``, and ``inputs`` and ``env_kwargs`` of a policy that reads other keys than
            ``observation``; the format version and the hash are added here.
        curve: Learning curve.

    Returns:
        The folder.

    Raises:
        StoreNotWritableError: The folder cannot be created or written.
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
    replace_file(folder / POLICY_FILE, weights.getvalue())
    replace_file(folder / CURVE_FILE, json.dumps(list(curve), indent=1).encode())
    replace_file(folder / CHECKPOINT_FILE, json.dumps(record, indent=2).encode())
    return folder


def check_writable(folder: str | Path) -> None:
    """Raise if a checkpoint cannot be written to a folder, before the training starts; creates nothing.

    Raises:
        StoreNotWritableError: The folder, or its nearest existing parent, cannot be written.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return
    expected = "a folder that can be written" if nearest.is_dir() else "a folder"
    msg = f"No checkpoint can be written to {folder}: expected {nearest} to be {expected}. Choose another output_dir."
    raise StoreNotWritableError(msg)


def read_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``checkpoint.json`` without loading the weights.

    Raises:
        CheckpointMismatchError: The folder holds no checkpoint, an incomplete one, or one of another format version.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        is_incomplete = (folder / POLICY_FILE).exists()
        got = f"an incomplete one ({POLICY_FILE} without {CHECKPOINT_FILE})" if is_incomplete else "none"
        msg = f"No checkpoint in {folder}: expected a folder with {CHECKPOINT_FILE}, got {got}. Train one: rlhive train"
        raise CheckpointMismatchError(msg)
    try:
        record = read_record(path)
        require_network(record)
    except (ValueError, OSError) as error:
        msg = f"{path} is not the metadata of a checkpoint: {error}"
        raise CheckpointMismatchError(msg) from error
    return record


def load_policy(folder: str | Path, *, env: EnvBase | None = None) -> TensorDictModule:
    """Load a trained policy.

    Args:
        folder: Folder of the checkpoint, with ``checkpoint.json`` and ``policy.pt``.
        env: Environment that the policy will act in, compared with the checkpoint's; None skips the comparison.

    Returns:
        A TorchRL module that writes ``action`` (float32 in [-1, 1]) from ``observation``, or from the keys that it was
        trained with, deterministic, with the attributes ``env_name`` and ``env_kwargs``.

    Raises:
        CheckpointMismatchError: The folder holds no complete checkpoint, the hash of its weights differs, or the policy
            was trained for another environment than ``env``.
    """
    folder = Path(folder)
    record = read_checkpoint(folder)
    if env is not None:
        check_env(record, env, context=folder)
    weights = _read_weights(folder, record)
    num_layers = len(record["network"].get("hidden_sizes", ()))
    policy = None if num_layers > len(weights) else _make_policy_without_memory(record, folder)
    if policy is None or _read_shapes(policy.state_dict()) != _read_shapes(weights):
        msg = f"{folder}: {POLICY_FILE} and {CHECKPOINT_FILE} do not describe the same network. Train the policy again."
        raise CheckpointMismatchError(msg)
    policy.to_empty(device="cpu")
    copy_values(policy, weights)
    return policy.requires_grad_(False)


def check_env(record: Mapping[str, Any], env: EnvBase, *, context: str | Path) -> None:
    """Raise if a checkpoint was trained for another environment.

    Args:
        record: Content of ``checkpoint.json``.
        env: Environment that the policy will act in.
        context: Address of the checkpoint for the error message.

    Raises:
        CheckpointMismatchError: The ``env_name`` or the size of observations or actions differs. A policy that learned
            from datasets of several environments, which ``mixed_envs`` of the checkpoint names, acts in each of them.
    """
    inputs = read_inputs(record, context=context)
    expected_entries = {"env_name": env.env_name, "action_dim": env.action_spec.shape[-1]}
    if env.env_name in _list_mixed_envs(record):
        del expected_entries["env_name"]
    if inputs is None:
        expected_entries["observation_dim"] = env.observation_spec[keys.OBSERVATION].shape[-1]
    else:
        _require_inputs(inputs, env, context=context)
    for name, expected in expected_entries.items():
        if record.get(name) != expected:
            msg = (
                f"Checkpoint {context} does not fit {env.env_name}: expected {name} {expected!r}, "
                f"got {record.get(name)!r}. Evaluate it on {record.get('env_name')!r}."
            )
            raise CheckpointMismatchError(msg)


def _list_mixed_envs(record: Mapping[str, Any]) -> list[str]:
    names = record.get("mixed_envs")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _require_inputs(inputs: PolicyInputs, env: EnvBase, *, context: str | Path) -> None:
    """Raise CheckpointMismatchError unless an environment returns what a policy reads."""
    specs = {keys.key_to_column(key): spec for key, spec in env.observation_spec.items(True, True)}
    for column, shape in inputs.shapes.items():
        got = tuple(specs[column].shape) if column in specs else None
        if got != shape:
            returned = "no such key" if got is None else f"shape {list(got)}"
            msg = (
                f"Checkpoint {context} does not fit {env.env_name}: its policy reads {column}, expected shape "
                f"{list(shape)}, got {returned}"
            )
            raise CheckpointMismatchError(msg)


def read_inputs(record: Mapping[str, Any], *, context: str | Path) -> PolicyInputs | None:
    """Return what the policy of a record reads; None if that is ``observation``.

    Raises:
        CheckpointMismatchError: The entry ``inputs`` is invalid.
    """
    if record.get("inputs") is None:
        return None
    try:
        return PolicyInputs.from_json(record["inputs"])
    except InvalidOptionError as error:
        msg = f"Checkpoint {context}: {error}"
        raise CheckpointMismatchError(msg) from error


def read_env_kwargs(record: Mapping[str, Any], *, context: str | Path) -> dict[str, Any]:
    """Return the arguments with which an environment returns what the policy of a record reads.

    A checkpoint can come from anyone, so only options of pictures and names of observations are accepted.

    Raises:
        CheckpointMismatchError: The entry ``env_kwargs`` has others.
    """
    env_kwargs = record.get("env_kwargs") or {}
    if not isinstance(env_kwargs, dict) or env_kwargs.keys() - ENV_KWARGS:
        msg = f"Checkpoint {context}: expected env_kwargs of {', '.join(sorted(ENV_KWARGS))}, got {env_kwargs!r:.200}"
        raise CheckpointMismatchError(msg)
    return env_kwargs


def _make_policy_without_memory(record: Mapping[str, Any], folder: Path) -> TensorDictModule:
    """Return the policy that a record describes on torch's meta device, whatever sizes the record declares."""
    inputs = read_inputs(record, context=folder)
    size = record["observation_dim"]
    with torch.device("meta"):
        try:
            num_normalized = size if inputs is None else count_normalized(inputs)
            actor = make_network(size, record["action_dim"], record["network"])
            return make_deployed_policy(
                Normalizer(torch.zeros(num_normalized), torch.ones(num_normalized)),
                actor,
                env_name=record["env_name"],
                inputs=inputs,
                env_kwargs=read_env_kwargs(record, context=folder),
            )
        except (TypeError, ValueError, LookupError, RuntimeError) as error:
            msg = f"{folder / CHECKPOINT_FILE} does not describe a network: {error}"
            raise CheckpointMismatchError(msg) from error


def _read_shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _read_weights(folder: Path, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state_dict in ``policy.pt``, after a comparison of its hash."""
    path = folder / POLICY_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"Checkpoint {folder} is incomplete: expected {POLICY_FILE}, got none. Train the policy again."
        raise CheckpointMismatchError(msg) from error
    hashes, actual = record.get("sha256"), hashlib.sha256(content).hexdigest()
    expected = hashes.get(POLICY_FILE) if isinstance(hashes, dict) else None
    if actual != expected:
        msg = f"{path} has changed since it was written: expected sha256 {expected!r:.80}, got {actual!r}"
        raise CheckpointMismatchError(msg)
    try:
        return _parse_weights(content)
    except Exception as error:  # torch.load documents no errors for damaged files
        msg = f"{path} holds no weights that can be read safely: expected a state_dict of tensors"
        raise CheckpointMismatchError(msg) from error


def _parse_weights(content: bytes) -> dict[str, torch.Tensor]:
    """Return a state_dict whose tensors take no more memory than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch's older format, a bare pickle, has no use here
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            msg = "expected entries without compression, which torch writes"
            raise ValueError(msg)
    weights = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    is_plain = all(
        value.device.type == "cpu" and value.layout == torch.strided and value.is_floating_point()
        for value in weights.values()
    )
    if not is_plain or sum(value.numel() * value.element_size() for value in weights.values()) > len(content):
        msg = "expected dense tensors of floating-point numbers that are stored in the file"
        raise ValueError(msg)
    return weights
