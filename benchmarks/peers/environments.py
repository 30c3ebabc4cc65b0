"""Which peers there are, and one pinned virtual environment for each.

    python -m benchmarks.peers.environments              # build those that are missing
    python -m benchmarks.peers.environments minari d3rlpy

They do not fit together: Minari wants numpy 2, RoboHive numpy 1; LeRobot wants an older torch. Files are hard-linked
from uv's cache, so a second environment with the same torch costs no disk.
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
    """Where a peer's room runs.

    Attributes:
        name: Of the environment's folder.
        requirements: Its pinned requirements; None where it runs in the environment of the project itself.
    """

    name: str
    requirements: Path | None

    @property
    def python(self) -> Path:
        """The interpreter; it need not be there yet."""
        return Path(sys.executable) if self.requirements is None else VENVS / self.name / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether the environment holds exactly what the requirements ask for."""
        return self.requirements is None or (_stamp(self.name).is_file() and _stamp(self.name).read_text() == self._key)

    @property
    def _key(self) -> str:
        return hashlib.sha256(self.requirements.read_bytes()).hexdigest()

    def install(self) -> float:
        """Build the environment unless it is there; return the seconds that took.

        Raises:
            subprocess.CalledProcessError: uv could not; its words are on standard error.
        """
        began = time.perf_counter()
        if self.installed:
            return 0.0
        uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
        folder = VENVS / self.name
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--link-mode", "hardlink", "--python", str(self.python)]
        subprocess.run([*install, "--requirement", str(self.requirements)], check=True, env=_without_own_path())
        _stamp(self.name).write_text(self._key)
        return time.perf_counter() - began


def _stamp(name: str) -> Path:
    return VENVS / name / "requirements.sha256"


def _without_own_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


_OWN = PeerEnvironment("", None)  # of the project itself, whose constraints pin TorchRL too
_MINARI, _LEROBOT, _D3RLPY, _CPPRB, _DATASETS, _TFDS = (
    PeerEnvironment(name, REQUIREMENTS / f"{name}.txt")
    for name in ("minari", "lerobot", "d3rlpy", "cpprb", "datasets", "tfds")
)

#: Room of a peer and where it runs, in the order of the tables.
PEERS = {
    "rlhive": _OWN,
    "torchrl": _OWN,
    "packed": _OWN,
    "numpy": _OWN,
    "cpprb": _CPPRB,
    "d3rlpy": _D3RLPY,
    "minari": _MINARI,
    "minari_arrow": _MINARI,
    "datasets": _DATASETS,
    "lerobot": _LEROBOT,
    "lerobot_images": _LEROBOT,
}

#: Those that take no part in a benchmark: their writers made test data.
WRITERS = {"tfds": _TFDS}


def main(peers: list[str]) -> None:
    """Build the environments of some peers, of all that a benchmark compares by default."""
    for peer in peers or PEERS:
        print(f"{peer:<14} {(PEERS | WRITERS)[peer].install():6.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
