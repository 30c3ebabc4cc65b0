"""What made a dataset or a checkpoint: versions, the user's repository, the environment and the policy."""

import hashlib
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("rlhive", "torch", "torchrl", "tensordict", "numpy", "pyarrow")


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package, and Python's."""
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


def git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the repository of the working directory, None outside of one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changed.strip())}


def describe_run(run: str = "", **known: Any) -> dict[str, Any]:
    """Return the provenance of a run that this process begins now, JSON-able.

    Args:
        run: Its id; a random one by default.
        **known: What decides its content (``env``, ``policy``, …); listed before the surroundings.
    """
    return {
        "run": run or uuid.uuid4().hex[:12],
        **known,
        "versions": installed_versions(*_PACKAGES),
        "git": git_state(),
        "command": sys.argv,
        "host": {"name": platform.node(), "platform": platform.platform(), "cores": os.cpu_count()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_env(env: Any) -> dict[str, Any]:
    """Return what identifies an environment.

    Args:
        env: Its id; what is known of it; an environment of RLHive, which says it all (arguments, horizon, versions,
            hash of the compiled model), wrapped in TorchRL's transforms or not; or any other, of which class and id
            are taken.
    """
    if isinstance(env, str):
        return {"env_name": env}
    if isinstance(env, Mapping):
        return dict(env)
    try:
        own = getattr(env, "provenance", None)
    except RecursionError:  # TorchRL's batch of environments that are not there yet cannot be asked
        env.start()
        own = getattr(env, "provenance", None)
    if callable(own):
        found = own()
        return dict(found) if isinstance(found, Mapping) else dict(found[0])  # a batch of environments asks each
    spec = getattr(getattr(env, "unwrapped", env), "spec", None)
    name = getattr(env, "env_name", None) or getattr(spec, "id", None) or type(env).__name__
    return {"env_name": str(name), "class": f"{type(env).__module__}.{type(env).__qualname__}"}


def describe_policy(policy: Any) -> dict[str, Any]:
    """Return what identifies a policy; its ``"name"`` is always there.

    Args:
        policy: Its name; the path of a checkpoint, whose files are hashed; what is known of it; a policy of RLHive with
            ``name`` and ``parameters()``; a network, whose ``state_dict()`` is hashed; or any callable.
    """
    if isinstance(policy, Path):
        files = sorted(path for path in policy.rglob("*") if path.is_file()) if policy.is_dir() else [policy]
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(policy.parent)}\0".encode() + path.read_bytes())
        return {"name": policy.name, "checkpoint": str(policy), "sha256": digest.hexdigest()}
    if isinstance(policy, str):
        return {"name": policy}
    if isinstance(policy, Mapping):
        return {"name": "", **policy}
    if hasattr(policy, "state_dict"):
        return {"name": type(policy).__name__, "sha256": _hash_of_state(policy.state_dict())}
    name = getattr(policy, "name", None) or getattr(policy, "__qualname__", type(policy).__name__)
    parameters = getattr(policy, "parameters", None)
    return {"name": str(name)} | ({"parameters": parameters()} if callable(parameters) else {})


def _hash_of_state(state: Mapping[str, Any]) -> str:
    import torch  # here alone: provenance is also asked for where no tensor is

    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if not hasattr(value, "detach"):
            digest.update(f"{name}\0{value!r}\0".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
