"""What made a dataset or a checkpoint: versions and the state of the user's repository."""

import platform
import subprocess
from importlib import metadata
from typing import Any


def versions(*packages: str) -> dict[str, str]:
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
