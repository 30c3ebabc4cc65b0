"""`rlhive setup`: robohive itself, its simulation assets, and a first environment to see that they work.

Nothing happens at import. What must be in place before an environment can be built is checked by
:func:`require_robohive`, which costs microseconds after the first call.
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

from filelock import FileLock, Timeout

from rlhive.envs import _assets as assets_room
from rlhive.envs._assets import ROBOHIVE_VERSION
from rlhive.errors import RoboHiveMissing, SetupFailed

logger = logging.getLogger(__name__)

FIRST_ENV = "FK1_Knob1OnRandom-v4"

#: Family of environments → one of its ids, which is built to see whether the family's assets are there.
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

#: Families that can be built with the assets of the package index but behave otherwise than RoboHive 0.7's.
DIFFERENT_WITH_PYPI_ASSETS = {"Fetch": "other dynamics than with RoboHive 0.7's own assets"}


@dataclass(frozen=True)
class Family:
    """Whether the environments of one family can be built.

    Attributes:
        name: What the family is.
        env_name: The id that stands for it.
        available: This environment was built.
        note: Empty, or what to know or to do.
    """

    name: str
    env_name: str
    available: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `rlhive setup` found or did; ``str()`` gives it as lines of text.

    Attributes:
        installed: Requirements that were installed now; empty where all were there.
        robohive_version: Version of robohive.
        assets: Where the assets come from, their hash and whether RLHive knows it.
        assets_path: Folder of the assets.
        observation_size: Length of the observation of the environment that was built to try.
        families: Which environments can be built.
    """

    installed: tuple[str, ...]
    robohive_version: str
    assets: assets_room.Record
    assets_path: Path
    observation_size: int
    families: tuple[Family, ...] = field(default=())

    def __str__(self) -> str:
        known = "a known hash" if self.assets.known else "a hash that RLHive does not know"
        lines = [
            f"robohive {self.robohive_version}, assets from {self.assets.source} with {known}",
            f"built {FIRST_ENV}: {self.observation_size} numbers per observation",
        ]
        for family in self.families:
            mark = "yes" if family.available else "no "
            lines.append(f"  {mark} {family.name}" + (f": {family.note}" if family.note else ""))
        return "\n".join(lines)


def setup(assets: str | Path = "pypi", progress: bool = True) -> Report:
    """Make RoboHive work in this Python environment. Repeat it freely: what is right is left alone.

    Installs robohive 0.7.0 without its dependencies (its h5py pin has no wheel) after those that RLHive's
    ``robohive`` extra lists, puts the simulation assets in place, and builds one environment in a new process.
    The first run downloads about 100 MB and writes 170 MB; a repeated one takes seconds.

    Args:
        assets: "pypi" takes the assets from the package index (they ride in an older wheel of robohive; Myo,
            D'Kitty and Adroit stay unavailable); "git" takes RoboHive's own pinned repositories; anything else
            is a folder that holds the assets, and is copied.
        progress: Show progress bars on stderr.

    Returns:
        What is installed and which families of environments can be built.

    Raises:
        AssetsCorrupt: The assets that came do not have the recorded hash.
        DiskFull: No space left; nothing half-written is left.
        SetupFailed: No network, a folder without assets or that cannot be written, or the environment failed.
    """
    assets_room.source_of(assets)
    with _only_one():
        installed = _install_robohive()
        package = package_folder()
        record = assets_room.place(package, assets, progress=progress)
    size, families = _try_in_new_process(record)
    return Report(
        installed=installed,
        robohive_version=ROBOHIVE_VERSION,
        assets=record,
        assets_path=package / "simhive",
        observation_size=size,
        families=families,
    )


def require_robohive(folders: Iterable[str] = ()) -> None:
    """Check, before an environment is built, that RoboHive and its assets are there.

    Costs a few file look-ups; loads nothing.

    Args:
        folders: Parts of the assets that must be there, for example "furniture_sim".

    Raises:
        RoboHiveMissing: Something is not installed; the message says what to type.
    """
    missing = [name for name in ("mujoco", "dm_control", "gymnasium") if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        msg = f"RoboHive needs {names}, not installed here. Type: pip install 'rlhive[robohive]' && rlhive setup"
        raise RoboHiveMissing(msg)
    if importlib.util.find_spec("robohive") is None:
        msg = "RoboHive is not installed in this Python environment. Type: rlhive setup"
        raise RoboHiveMissing(msg)
    marker = package_folder() / "simhive" / assets_room.VERSION_FILE
    if not marker.is_file():
        msg = f"RoboHive has no simulation assets: expected them in {marker.parent}. Type: rlhive setup"
        raise RoboHiveMissing(msg)
    for folder in folders:
        if not (marker.parent / folder).is_dir():
            msg = f"RoboHive's assets lack {folder}: expected it in {marker.parent}. Type: rlhive setup"
            raise RoboHiveMissing(msg)


def package_folder() -> Path:
    """Where robohive is, found without importing it (its import fails where the assets are missing)."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("robohive")
    if spec is None or spec.origin is None:
        msg = "robohive was installed but cannot be found: expected it on sys.path. Start a new Python and run again."
        raise SetupFailed(msg)
    return Path(spec.origin).parent


def _install_robohive() -> tuple[str, ...]:
    """Install what the ``robohive`` extra lists where it is unsatisfied, then robohive alone."""
    missing = _unsatisfied("rlhive")
    if missing:
        _install(missing)
    if _version("robohive") == ROBOHIVE_VERSION and importlib.util.find_spec("robohive") is not None:
        return tuple(missing)
    robohive = f"robohive=={ROBOHIVE_VERSION}"
    _install(["--no-deps", robohive])
    importlib.invalidate_caches()
    return (*missing, robohive)


def _unsatisfied(distribution: str) -> list[str]:
    """Return the requirements of a distribution, its extra ``robohive`` included, that this Python does not meet."""
    from packaging.requirements import Requirement

    unmet = []
    for requirement in map(Requirement, importlib.metadata.requires(distribution) or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "robohive"}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier}")
    return unmet


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(arguments: list[str]) -> None:
    """Install into this Python with uv where there is one (ten times faster), otherwise with pip."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *arguments]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    logger.info("installing %s", " ".join(arguments))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        msg = f"{arguments[-1]} could not be installed: {reason}. Check the network and run again: rlhive setup"
        raise SetupFailed(msg)


@contextmanager
def _only_one() -> Iterator[None]:
    """Let one setup at a time work on this Python environment; the lock of a killed one does not block."""
    path = Path(sys.prefix) / ".rlhive-setup.lock"
    try:
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another `rlhive setup` is at work on %s; waiting for it.", sys.prefix)
            lock.acquire()
    except OSError as error:
        msg = f"{path} could not be written: {error}. Use a Python environment of your own (python -m venv)."
        raise SetupFailed(msg) from error
    try:
        yield
    finally:
        lock.release()


def _try_in_new_process(record: assets_room.Record) -> tuple[int, tuple[Family, ...]]:
    """Build the first environment and then one per family, where nothing is imported yet."""
    command = [sys.executable, "-m", "rlhive.envs._probe", *FAMILIES.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not result:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        msg = f"Everything is in place, but {FIRST_ENV} could not be built: {reason}. Try: rlhive setup --assets git"
        raise SetupFailed(msg)
    sizes = json.loads(result[-1])
    return sizes[FIRST_ENV], tuple(_family(name, sizes[FAMILIES[name]] is not None, record) for name in FAMILIES)


def _family(name: str, built: bool, record: assets_room.Record) -> Family:
    complete = record.source != "pypi"
    if built:
        note = "" if complete else DIFFERENT_WITH_PYPI_ASSETS.get(name, "")
    else:
        note = "its assets do not fit" if complete else "needs rlhive setup --assets git"
    return Family(name, FAMILIES[name], built, note)
