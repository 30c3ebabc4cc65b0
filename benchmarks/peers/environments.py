"""The peers and their pinned virtual environments.

    python -m benchmarks.peers.environments              # build the missing ones
    python -m benchmarks.peers.environments minari d3rlpy

The libraries cannot share an environment: Minari requires numpy 2, RoboHive numpy 1, and LeRobot an older torch. Files
are hard links into uv's cache, so a second environment with the same torch takes no disk space.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENVS = ROOT / "benchmarks" / ".venvs"
REQUIREMENTS = Path(__file__).parent / "requirements"


class MissingPythonError(Exception):
    """This machine has no Python of a version, and none can be fetched."""


@dataclass(frozen=True)
class PeerEnvironment:
    """Virtual environment that runs a peer's adapter.

    Attributes:
        name: Name of the environment's folder.
        requirements: File of pinned requirements; None for the environment of this project.
        python_version: Version of Python, which uv finds or fetches; None for the one that runs.
    """

    name: str
    requirements: Path | None
    python_version: str | None = None

    @property
    def python(self) -> Path:
        """Path of the interpreter, which exists once the environment is installed."""
        return Path(sys.executable) if self.requirements is None else VENVS / self.name / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether the environment was built from the current requirements."""
        return self.requirements is None or (_stamp(self.name).is_file() and _stamp(self.name).read_text() == self._key)

    @property
    def _key(self) -> str:
        return hashlib.sha256(self.requirements.read_bytes()).hexdigest()

    def install(self) -> float:
        """Build the environment unless it is installed; return the build time in seconds.

        Raises:
            MissingPythonError: There is no such Python.
            subprocess.CalledProcessError: uv failed; standard error has its message.
        """
        start = time.perf_counter()
        if self.installed:
            return 0.0
        uv, folder = find_uv(), VENVS / self.name
        interpreter = sys.executable if self.python_version is None else find_python(self.python_version)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", interpreter, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--link-mode", "hardlink", "--python", str(self.python)]
        subprocess.run(
            [*install, "--requirement", str(self.requirements)], check=True, env=_environ_without_pythonpath()
        )
        _stamp(self.name).write_text(self._key)
        return time.perf_counter() - start


def find_uv() -> str:
    """Return uv's command: that of the environment variable UV, the one on PATH, or the Makefile's."""
    return os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")


def find_python(wanted: str) -> str:
    """Return an interpreter of a Python, such as "3.12": from PATH, pyenv, or the ones that uv has or can fetch.

    Raises:
        MissingPythonError: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{wanted}"), *sorted(map(str, pyenv.glob(f"versions/{wanted}.*/bin/python")))]
    for candidate in filter(None, candidates):
        # pyenv's shims are on PATH for every Python and fail for those that are not switched on.
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired, FileNotFoundError):
        for words in (["install", "--quiet", wanted], ["find", "--quiet", wanted]):
            ran = subprocess.run([find_uv(), "python", *words], capture_output=True, text=True, check=True, timeout=120)
        return ran.stdout.split("\n")[0]
    msg = f"no Python {wanted} on PATH or in pyenv, and uv could not fetch one"
    raise MissingPythonError(msg)


def _stamp(name: str) -> Path:
    return VENVS / name / "requirements.sha256"


def _environ_without_pythonpath() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


_PROJECT = PeerEnvironment("", None)  # its constraints pin TorchRL as well
_MINARI, _LEROBOT, _D3RLPY, _CPPRB, _DATASETS, _TFDS = (
    PeerEnvironment(name, REQUIREMENTS / f"{name}.txt")
    for name in ("minari", "lerobot", "d3rlpy", "cpprb", "datasets", "tfds")
)

#: Adapter of a peer → its environment, in the order of the tables.
PEERS = {
    "rlhive": _PROJECT,
    "torchrl": _PROJECT,
    "packed": _PROJECT,
    "numpy": _PROJECT,
    "cpprb": _CPPRB,
    "d3rlpy": _D3RLPY,
    "minari": _MINARI,
    "minari_arrow": _MINARI,
    "datasets": _DATASETS,
    "lerobot": _LEROBOT,
    "lerobot_images": _LEROBOT,
}

#: Adapter of the gradient steps of a library → its environment.
TRAINERS = {
    "updates.rlhive": _PROJECT,
    "updates.matmuls": _PROJECT,
    "updates.torchrl": _PROJECT,
    "updates.corl": _PROJECT,
    "updates.d3rlpy": _D3RLPY,
}

#: Environments that no benchmark uses: tests read and write with them, or their data were generated by them.
WRITERS = {"tfds": _TFDS, "lerobot06": PeerEnvironment("lerobot06", REQUIREMENTS / "lerobot06.txt", "3.12")}


def main(peers: list[str]) -> None:
    """Build the environments of the named peers; by default, of all peers of the benchmarks."""
    for peer in peers or PEERS:
        try:
            print(f"{peer:<14} {(PEERS | WRITERS)[peer].install():6.1f} s", flush=True)
        except MissingPythonError as error:
            print(f"{peer:<14} skipped: {error}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
