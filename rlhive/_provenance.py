"""Provenance of datasets and checkpoints: package versions, git state, environment and policy.

It is published with the dataset. So the command line, the machine and absolute paths are recorded on request only, and
secrets never are.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rlhive._secrets import mask_arguments, mask_secrets
from rlhive.errors import InvalidOptionError

MINIMAL = "minimal"
FULL = "full"
#: Fields of a run that describe the machine and the command; with provenance="full" only.
MACHINE_FIELDS = ("command", "host")

#: An absolute path in text: below a folder that holds people's files, or the user's home or working directory.
_ROOTS = "home|Users|root|tmp|var|mnt|media|data|scratch|opt|srv|workspace|private|storage|net|lustre|gpfs|nfs|cluster"
_PATH = re.compile(rf"(?<![\w/.:~-])(?:file:///?|/(?:{_ROOTS})/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^\s\"'<>|;,()\[\]{{}}]*")

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


def describe_run(run: str = "", *, provenance: str = MINIMAL, **inputs: Any) -> dict[str, Any]:
    """Return the provenance of a run that this process starts now, JSON-able.

    Args:
        run: Id of the run; random by default.
        provenance: ``"full"`` also records the command line, the machine and absolute paths. ``"minimal"`` leaves them
            out, and of a path its last part stays.
        **inputs: What determines the run's content (``env``, ``policy``, …). They come before the fields that
            describe the process and the machine. Tokens and passwords are replaced by ``***``.

    Raises:
        InvalidOptionError: ``provenance`` is neither.
    """
    if provenance not in (MINIMAL, FULL):
        msg = f"provenance: expected {MINIMAL!r} or {FULL!r}, got {provenance!r}."
        raise InvalidOptionError(msg)
    is_full = provenance == FULL
    inputs = mask_secrets(inputs)
    machine = {
        "command": mask_arguments(sys.argv),
        "host": {"name": platform.node(), "platform": platform.platform(), "cores": os.cpu_count()},
    }
    return {
        "run": run or uuid.uuid4().hex[:12],
        **(inputs if is_full else shorten_paths(inputs)),
        "versions": installed_versions(*_PACKAGES),
        "git": git_state(),
        **(machine if is_full else {}),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def scrub_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a run without command, machine, absolute paths and secrets."""
    published_fields = {name: value for name, value in run.items() if name not in MACHINE_FIELDS}
    scrubbed: dict[str, Any] = shorten_paths(mask_secrets(published_fields))
    return scrubbed


def shorten_paths(value: Any) -> Any:
    """Return a JSON-able value in which the last part of every absolute path of a machine stands for the path."""
    if isinstance(value, str):
        return _shorten_text(value)
    if isinstance(value, Mapping):
        return {shorten_paths(name): shorten_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shorten_paths(item) for item in value]
    return value


def _shorten_text(text: str) -> str:
    is_path = os.path.lexists(text) if text.startswith("/") and "\0" not in text else False
    if is_path or (_PATH.match(text) and not re.search(r"[,;]\s|\n", text)):
        return _last_part(text)  # a path as a whole, which may hold spaces
    for folder in (Path.home(), Path.cwd()):
        if len(folder.parts) > 2:
            text = re.sub(rf"{re.escape(str(folder))}(?=/|\b)[^\s\"']*", lambda match: _last_part(match[0]), text)
    return _PATH.sub(lambda match: _last_part(match[0]), text)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


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
