"""The peers and their pinned virtual environments.

    python -m benchmarks.peers.environments              # build the missing ones
    python -m benchmarks.peers.environments minari d3rlpy

The libraries cannot share an environment: Minari requires numpy 2, RoboHive numpy 1, and LeRobot an older torch. Files
are hard links into uv's cache, so a second environment with the same torch takes no disk space.
"""

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


@dataclass(frozen=True)
class PeerEnvironment:
    """Virtual environment that runs a peer's adapter.

    Attributes:
        name: Name of the environment's folder.
        requirements: File of pinned requirements; None for the environment of this project.
    """

    name: str
    requirements: Path | None

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
            subprocess.CalledProcessError: uv failed; standard error has its message.
        """
        start = time.perf_counter()
        if self.installed:
            return 0.0
        uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
        folder = VENVS / self.name
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--link-mode", "hardlink", "--python", str(self.python)]
        subprocess.run(
            [*install, "--requirement", str(self.requirements)], check=True, env=_environ_without_pythonpath()
        )
        _stamp(self.name).write_text(self._key)
        return time.perf_counter() - start


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

#: Environments that no benchmark uses; they generated test data.
WRITERS = {"tfds": _TFDS}


def main(peers: list[str]) -> None:
    """Build the environments of the named peers; by default, of all peers of the benchmarks."""
    for peer in peers or PEERS:
        print(f"{peer:<14} {(PEERS | WRITERS)[peer].install():6.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
