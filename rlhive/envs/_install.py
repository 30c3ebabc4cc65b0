"""`rlhive setup`: install robohive and its simulation assets, and build a first environment with them.

Importing this module does nothing. :func:`require_robohive` checks what must be installed before an environment can be
built; it takes microseconds after the first call.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlhive.envs import _assets
from rlhive.envs._assets import ROBOHIVE_VERSION, AssetsRecord
from rlhive.errors import RoboHiveMissingError, SetupFailedError

logger = logging.getLogger(__name__)

#: First Python for which mujoco 3.1.3 has no wheel.
NO_WHEELS_FROM = (3, 13)

FIRST_ENV = "FK1_Knob1OnRandom-v4"

#: Family of environments → the id that setup builds to find out whether the family's assets are installed.
FAMILIES = {
    "Kitchen (FK1_*)": FIRST_ENV,
    "Franka appliances (franka_*)": "franka_slide_random-v3",
    "Franka reach, push, pick (Franka*)": "FrankaReachRandom-v0",
    "Franka with Robotiq or D'Manus hand (rpFranka*)": "rpFrankaRobotiqData-v0",
    "Trifinger": "TrifingerReachRandom-v0",
    "Baoding": "baoding-v1",
    "Adroit (door, hammer, pen, relocate)": "door-v1",
    "Fetch": "FetchReachRandom-v0",
    "D'Kitty": "DKittyWalkRandom-v0",
    "Myo (myo*, Myo*)": "myoHandReachRandom-v0",
}

#: Asset folders that the package index lacks.
GIT_FOLDERS = ("myo_sim/leg",)

#: Families that build with the assets from the package index but differ from RoboHive 0.7's.
DIFFERENT_WITH_PYPI_ASSETS = {"Fetch": "other dynamics than with RoboHive 0.7's own assets"}


@dataclass(frozen=True)
class Family:
    """A family of environments and whether it can be built.

    Attributes:
        name: Name of the family, with the pattern of its ids.
        env_name: The id that setup builds for the family.
        available: Whether that environment could be built.
        note: A remark or the command that makes the family available; empty if there is none.
    """

    name: str
    env_name: str
    available: bool
    note: str = ""


@dataclass(frozen=True)
class SetupReport:
    """Result of `rlhive setup`; ``str()`` formats it as lines of text.

    Attributes:
        installed: Requirements that this call installed; empty if all were installed before.
        robohive_version: Version of robohive.
        assets: Source of the assets, their hash and whether RLHive knows the hash.
        assets_path: Folder of the assets.
        observation_size: Length of the observation vector of the first environment.
        families: Families of environments, each with whether it can be built.
    """

    installed: tuple[str, ...]
    robohive_version: str
    assets: AssetsRecord
    assets_path: Path
    observation_size: int
    families: tuple[Family, ...] = field(default=())

    def __str__(self) -> str:
        hash_text = "a known hash" if self.assets.known else "a hash that RLHive does not know"
        lines = [
            f"robohive {self.robohive_version}, assets from {self.assets.source} with {hash_text}",
            f"built {FIRST_ENV}: {self.observation_size} numbers per observation",
        ]
        for family in self.families:
            mark = "yes" if family.available else "no "
            lines.append(f"  {mark} {family.name}" + (f": {family.note}" if family.note else ""))
        return "\n".join(lines)


def setup(assets: str | Path = "pypi", progress: bool = True) -> SetupReport:
    """Install RoboHive and its simulation assets into this Python environment; repeated calls change nothing.

    Setup installs the requirements of RLHive's ``robohive`` extra, then robohive 0.7.0 without its own dependencies
    (its h5py pin has no wheel), then the simulation assets, and builds one environment in a new process. The first run
    downloads about 100 MB and writes 170 MB. A repeated run takes seconds.

    Args:
        assets: "pypi" takes the assets from the package index, out of an older wheel of robohive (Myo, D'Kitty and
            Adroit stay unavailable). "git" clones RoboHive's own pinned repositories. Any other value is a folder with
            the assets, which is copied.
        progress: Show progress bars on stderr.

    Returns:
        The installed requirements and assets, and the families of environments that can be built.

    Raises:
        AssetsCorruptError: The fetched assets do not have the recorded hash.
        DiskFullError: No space is left. No partial files remain.
        SetupFailedError: There is no network, a folder has no assets or cannot be written, or the first environment
            failed.
    """
    _assets.resolve_source(assets)  # refuse a folder without assets before anything is installed
    with _setup_lock():
        installed = _install_robohive()
        package = package_folder()
        record = _assets.install_assets(package, assets, progress=progress)
    size, families = _probe_families(record)
    return SetupReport(
        installed=installed,
        robohive_version=ROBOHIVE_VERSION,
        assets=record,
        assets_path=package / "simhive",
        observation_size=size,
        families=families,
    )


def require_robohive(folders: Iterable[str] = ()) -> None:
    """Check that RoboHive and its assets are installed, at the cost of a few file look-ups and without an import.

    Args:
        folders: Asset folders that must be installed, for example "furniture_sim".

    Raises:
        RoboHiveMissingError: A part is not installed. The message names the command that installs it.
    """
    missing = [name for name in ("mujoco", "dm_control", "gymnasium") if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        msg = f"RoboHive needs {names}, not installed here. Type: pip install 'rlhive[robohive]' && rlhive setup"
        raise RoboHiveMissingError(msg)
    if importlib.util.find_spec("robohive") is None:
        msg = "RoboHive is not installed in this Python environment. Type: rlhive setup"
        raise RoboHiveMissingError(msg)
    marker = package_folder() / "simhive" / _assets.VERSION_FILE
    if not marker.is_file():
        msg = f"RoboHive has no simulation assets: expected them in {marker.parent}. Type: rlhive setup"
        raise RoboHiveMissingError(msg)
    for folder in folders:
        if not (marker.parent / folder).is_dir():
            command = "rlhive setup" + (" --assets git" if folder in GIT_FOLDERS else "")
            msg = f"RoboHive's assets lack {folder}: expected it in {marker.parent}. Type: {command}"
            raise RoboHiveMissingError(msg)


def package_folder() -> Path:
    """Return the folder of the robohive package without importing it: the import fails if the assets are missing.

    Raises:
        SetupFailedError: robohive is not on ``sys.path``.
    """
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("robohive")
    if spec is None or spec.origin is None:
        msg = "robohive was installed but is not on sys.path. Start a new Python process and run again."
        raise SetupFailedError(msg)
    return Path(spec.origin).parent


def _install_robohive() -> tuple[str, ...]:
    """Install the unsatisfied requirements of the ``robohive`` extra, then robohive without dependencies."""
    missing = _find_unsatisfied("rlhive")
    if missing:
        if sys.version_info >= NO_WHEELS_FROM and installed_version("mujoco") is None:
            python = ".".join(map(str, sys.version_info[:2]))
            msg = (
                f"RoboHive cannot be installed in Python {python}: the mujoco 3.1.3 that it needs has wheels for 3.11 "
                "and 3.12 only. Make an environment with one of these, for example: uv venv --python 3.12"
            )
            raise SetupFailedError(msg)
        _install_packages(missing)
    if installed_version("robohive") == ROBOHIVE_VERSION and importlib.util.find_spec("robohive") is not None:
        return tuple(missing)
    robohive = f"robohive=={ROBOHIVE_VERSION}"
    _install_packages(["--no-deps", robohive])
    importlib.invalidate_caches()
    return (*missing, robohive)


def _find_unsatisfied(distribution: str) -> list[str]:
    """Return the unsatisfied requirements of a distribution, those of its extra ``robohive`` included."""
    from packaging.requirements import Requirement

    unsatisfied = []
    for requirement in map(Requirement, importlib.metadata.requires(distribution) or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "robohive"}):
            continue
        version = installed_version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unsatisfied.append(f"{requirement.name}{requirement.specifier}")
    return unsatisfied


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install_packages(arguments: list[str]) -> None:
    """Install into this Python environment with uv if it is available (ten times faster), otherwise with pip."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *arguments]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    logger.info("installing %s", " ".join(arguments))
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        lines = [line.strip() for line in process.stderr.splitlines() if line.strip()] or ["no output"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        msg = f"{arguments[-1]} could not be installed: {reason}. Check the network and run again: rlhive setup"
        raise SetupFailedError(msg)


@contextmanager
def _setup_lock() -> Iterator[None]:
    """Hold the lock that admits one setup at a time per Python environment; a killed process releases it."""
    from filelock import FileLock, Timeout

    path = Path(sys.prefix) / ".rlhive-setup.lock"
    try:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another `rlhive setup` runs in %s; waiting for it to finish.", sys.prefix)
            lock.acquire()
    except OSError as error:
        msg = f"{path} could not be written: {error}. Use a writable Python environment (python -m venv)."
        raise SetupFailedError(msg) from error
    try:
        yield
    finally:
        lock.release()


def _probe_families(record: AssetsRecord) -> tuple[int, tuple[Family, ...]]:
    """Build the first environment and one per family in a new process, in which RoboHive is not imported yet.

    Returns:
        The length of the first environment's observation vector, and every family.
    """
    command = [sys.executable, "-m", "rlhive.envs._probe", *FAMILIES.values()]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    json_lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode or not json_lines:
        reason = (process.stderr.strip().splitlines() or ["no output"])[-1]
        msg = f"RoboHive is installed, but {FIRST_ENV} could not be built: {reason}. Try: rlhive setup --assets git"
        raise SetupFailedError(msg)
    sizes = json.loads(json_lines[-1])
    families = tuple(_describe_family(name, sizes[env_name] is not None, record) for name, env_name in FAMILIES.items())
    return sizes[FIRST_ENV], families


def _describe_family(name: str, available: bool, record: AssetsRecord) -> Family:
    has_all_assets = record.source != "pypi"
    if available:
        note = "" if has_all_assets else DIFFERENT_WITH_PYPI_ASSETS.get(name, "")
    else:
        note = "its assets do not fit" if has_all_assets else "needs rlhive setup --assets git"
    return Family(name, FAMILIES[name], available, note)
