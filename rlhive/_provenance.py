"""Provenance of datasets and checkpoints: package versions, git state, environment and policy."""

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
    """Return the installed version of each package, and the version of Python."""
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


def git_state() -> dict[str, Any] | None:
    """Return the commit and the dirty flag of the working directory's repository; None outside of a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes.strip())}


def describe_run(run: str = "", **inputs: Any) -> dict[str, Any]:
    """Return the provenance of a run that this process starts now, JSON-able.

    Args:
        run: Id of the run; random by default.
        **inputs: What determines the run's content (``env``, ``policy``, …). They come before the fields that
            describe the process and the machine.
    """
    return {
        "run": run or uuid.uuid4().hex[:12],
        **inputs,
        "versions": installed_versions(*_PACKAGES),
        "git": git_state(),
        "command": sys.argv,
        "host": {"name": platform.node(), "platform": platform.platform(), "cores": os.cpu_count()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_env(env: Any) -> dict[str, Any]:
    """Return the fields that identify an environment.

    Args:
        env: One of

            - an environment id;
            - a mapping, which is copied;
            - an environment with a ``provenance()`` method, as RLHive's have (arguments, horizon, versions, hash of
              the compiled model), also inside TorchRL transforms or a batched environment;
            - any other environment, of which the class and the id are recorded.
    """
    if isinstance(env, str):
        return {"env_name": env}
    if isinstance(env, Mapping):
        return dict(env)
    try:
        provenance = getattr(env, "provenance", None)
    except RecursionError:  # a batched TorchRL environment that is not started yet looks up attributes endlessly
        env.start()
        provenance = getattr(env, "provenance", None)
    if callable(provenance):
        fields = provenance()
        # A batched environment returns one mapping per environment.
        return dict(fields) if isinstance(fields, Mapping) else dict(fields[0])
    spec = getattr(getattr(env, "unwrapped", env), "spec", None)
    name = getattr(env, "env_name", None) or getattr(spec, "id", None) or type(env).__name__
    return {"env_name": str(name), "class": f"{type(env).__module__}.{type(env).__qualname__}"}


def describe_policy(policy: Any) -> dict[str, Any]:
    """Return the fields that identify a policy; ``"name"`` is always present.

    Args:
        policy: One of

            - the policy's name;
            - the path of a checkpoint, whose files are hashed;
            - a mapping, which is copied;
            - a network, whose ``state_dict()`` is hashed;
            - a policy of RLHive with ``name`` and ``parameters()``;
            - any other callable.
    """
    if isinstance(policy, Path):
        return {"name": policy.name, "checkpoint": str(policy), "sha256": _hash_files(policy)}
    if isinstance(policy, str):
        return {"name": policy}
    if isinstance(policy, Mapping):
        return {"name": "", **policy}
    if hasattr(policy, "state_dict"):
        return {"name": type(policy).__name__, "sha256": _hash_state_dict(policy.state_dict())}
    name = getattr(policy, "name", None) or getattr(policy, "__qualname__", type(policy).__name__)
    parameters = getattr(policy, "parameters", None)
    return {"name": str(name)} | ({"parameters": parameters()} if callable(parameters) else {})


def _hash_files(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder, with their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _hash_state_dict(state_dict: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of a network's parameters and buffers."""
    import torch  # not at the top: provenance is also recorded by processes that need no torch

    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value = state_dict[name]
        if not hasattr(value, "detach"):
            digest.update(f"{name}\0{value!r}\0".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
