"""Simulation assets: fetched, checked against a recorded hash and put in place in one rename.

RoboHive looks for them in the folder ``simhive`` inside its package, and its wheel does not carry them:

    <robohive package>/
      simhive/                  the assets in use; appears and changes by rename only
        simhive-version         what RoboHive compares with its own version (no newline)
        rlhive-assets.json      where the tree came from and its hash: how a later setup finds damage
      simhive.partial/          a fetch in progress; removed at the end, or by the next setup
      simhive.old/              the previous tree while the new one takes its place
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from rlhive.errors import AssetsCorrupt, DiskFull, SetupFailed

ROBOHIVE_VERSION = "0.7.0"

# RoboHive's wheels carry the assets up to 0.5.0; later ones fetch them from git.
ASSETS_WHEEL = "robohive==0.5.0"
ASSETS_WHEEL_SHA256 = "76d53e45a06a428ea893585f300969089c2c97923ef75c0f0aa726afe7568415"
ASSETS_PREFIX = "robohive/simhive/"

#: Tree hash → source, of the trees that were checked by hand.
KNOWN_TREES = {"d0d22b88c13eadb2021b2409aeaa262d853cd813bceb46e00d903ded96660ccd": "pypi"}

#: RoboHive 0.7.0's own pins (its robohive_init), kept here so that what is trusted is recorded on our side.
REPOSITORIES = {
    "Adroit": ("https://github.com/vikashplus/Adroit.git", "2ef4b752e85782f84fa666fce10de5231cc5c917"),
    "furniture_sim": ("https://github.com/vikashplus/furniture_sim.git", "afb802750acb97f253b2f6fc6e915627d04fcf67"),
    "franka_sim": ("https://github.com/vikashplus/franka_sim.git", "82aaf3bebfa29e00133a6eebc7684e793c668fc1"),
    "scene_sim": ("https://github.com/vikashplus/scene_sim.git", "e2eb354dce9aa1797dda081ab2dedf734a8761e6"),
    "sawyer_sim": ("https://github.com/vikashplus/sawyer_sim.git", "affaf56d56be307538e5eed34f647586281762b2"),
    "fetch_sim": ("https://github.com/vikashplus/fetch_sim.git", "7f6d25ae8a6f5778379a48fa60c17d685075e64d"),
    "dmanus_sim": ("https://github.com/vikashplus/dmanus_sim.git", "b8531308fa34d2bd637d9df468455ae36e2ebcd3"),
    "YCB_sim": ("https://github.com/vikashplus/YCB_sim.git", "46edd9c361061c5d81a82f2511d4fbf76fead569"),
    "object_sim": ("https://github.com/vikashplus/object_sim.git", "ee0ff14a5369c277687a4636165c5b703bccbf84"),
    "trifinger_sim": ("https://github.com/vikashplus/trifinger_sim.git", "49e689ee8d18f5e506ba995aac99822b66700b2b"),
    "robel_sim": ("https://github.com/vikashplus/robel_sim.git", "4459db96edc359822356030e6223797e257ae4cc"),
    "robotiq_sim": ("https://github.com/vikashplus/robotiq_sim.git", "854d0bfb4e48b076e1d2aa4566c2e23bba17ebae"),
    "myo_sim": ("https://github.com/MyoHub/myo_sim.git", "5e462da71589fe42164af25ef3c4311231a0d6b2"),
}

VERSION_FILE = "simhive-version"
RECORD_FILE = "rlhive-assets.json"
_NOT_CONTENT = {VERSION_FILE, RECORD_FILE}


@dataclass(frozen=True)
class Record:
    """Where the assets in place came from.

    Attributes:
        source: "pypi", "git" or the folder that they were copied from.
        tree_hash: Hash of all files, as :func:`tree_hash` gives it.
        known: Whether this hash is one that RLHive recorded (never the case for a modified tree).
    """

    source: str
    tree_hash: str
    known: bool


def tree_hash(folder: Path) -> str:
    """Return the SHA-256 over the sorted (relative path, file's SHA-256) pairs of a folder, in hex.

    Left out are ``.git`` and the two files that mark the tree. Reads every byte: 0.3 s for the 170 MB of RoboHive.
    """
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in _files(folder)):
        with path.open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def verify(simhive: Path) -> Record | None:
    """Return the record of the assets in place, or None where they are absent, damaged or of unknown origin."""
    if not _has_version(simhive):
        return None
    try:
        record = Record(**json.loads((simhive / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        record = None
    found = tree_hash(simhive)
    if record is not None:
        return record if record.tree_hash == found else None
    if found in KNOWN_TREES:
        return Record(KNOWN_TREES[found], found, known=True)
    return Record("git", found, known=True) if _is_robohive_init_tree(simhive) else None


def place(package: Path, assets: str | Path, *, progress: bool = True) -> Record:
    """Make ``package/simhive`` a verified copy of the assets; does nothing where it is one already.

    May be interrupted anywhere and repeated: the tree in use changes by a rename. Callers hold a lock.

    Args:
        package: Folder of the robohive package.
        assets: "pypi", "git", or a folder that holds the assets. "pypi" is content with any verified tree.
        progress: Show progress bars on stderr.

    Raises:
        AssetsCorrupt: What was fetched does not have the recorded hash.
        DiskFull: No space left; the assets in place are as before.
        SetupFailed: The assets could not be fetched or written.
    """
    target, work = package / "simhive", package / "simhive.partial"
    source = source_of(assets)
    with _readable_errors(package):
        _clean_up(package)
        record = verify(target)
        if record is not None and _serves(record, source):
            return record
        work.mkdir()
        try:
            tree = _fetch(source, work, progress)
            record = _mark(tree, source)
            _swap(tree, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return record


def source_of(assets: str | Path) -> str:
    """Return "pypi", "git" or the absolute path of the asset tree that a folder holds.

    Raises:
        SetupFailed: The folder holds no assets.
    """
    if assets in ("pypi", "git"):
        return str(assets)
    folder = Path(assets).expanduser().resolve()
    for tree in (folder, folder / "simhive", folder / "robohive" / "simhive"):
        if any((tree / name).is_dir() for name in REPOSITORIES):
            return str(tree)
    msg = (
        f"No simulation assets in {folder}: expected a folder with furniture_sim, franka_sim and so on "
        f"(or one that holds it as simhive). Give 'pypi', 'git' or another folder."
    )
    raise SetupFailed(msg)


def _serves(record: Record, source: str) -> bool:
    """The default takes whatever is intact (git's tree holds more); an explicit wish is taken literally."""
    if source in ("pypi", "git"):
        return source in ("pypi", record.source)
    return record.tree_hash == tree_hash(Path(source))


def _fetch(source: str, work: Path, progress: bool) -> Path:
    tree = work / "simhive"
    if source == "pypi":
        _extract(_download_wheel(work, progress), tree, progress)
    elif source == "git":
        _clone(tree, progress)
    else:
        _copy(Path(source), tree, progress)
    return tree


def _mark(tree: Path, source: str) -> Record:
    """Check the tree, write the two marks and get everything onto the disk."""
    found = tree_hash(tree)
    if source == "pypi" and found not in KNOWN_TREES:
        msg = f"The assets unpacked from {ASSETS_WHEEL} are wrong: expected a known tree hash, got {found}. Run again."
        raise AssetsCorrupt(msg)
    record = Record(source, found, known=source == "git" or found in KNOWN_TREES)
    (tree / VERSION_FILE).write_text(ROBOHIVE_VERSION, encoding="utf-8")
    (tree / RECORD_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    # One sync for 1265 files is a hundred times cheaper than an fsync for each.
    if hasattr(os, "sync"):
        os.sync()
    return record


def _swap(tree: Path, target: Path) -> None:
    """Put the new tree in place; a tree that RLHive did not write is kept beside it."""
    old = target.with_name("simhive.old")
    if target.exists() or target.is_symlink():
        target.rename(old)
    tree.rename(target)
    if (old / RECORD_FILE).is_file():
        shutil.rmtree(old)
    elif old.exists() or old.is_symlink():
        old.rename(_free_name(target.with_name("simhive.replaced")))


def _clean_up(package: Path) -> None:
    """Remove what an interrupted setup left, and take back the old tree where the new one never arrived."""
    target, old = package / "simhive", package / "simhive.old"
    shutil.rmtree(package / "simhive.partial", ignore_errors=True)
    if not (old.exists() or old.is_symlink()):
        return
    if not target.exists():
        old.rename(target)
    elif (old / RECORD_FILE).is_file():
        shutil.rmtree(old)
    else:
        old.rename(_free_name(package / "simhive.replaced"))


def _free_name(path: Path) -> Path:
    names = (path if number == 0 else path.with_name(f"{path.name}-{number}") for number in range(10_000))
    return next(name for name in names if not name.exists())


def _download_wheel(work: Path, progress: bool) -> Path:
    """Fetch the wheel with pip, from whatever index pip is configured for, and check its hash."""
    temporary = work / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--progress-bar", "raw", "--dest", str(work), ASSETS_WHEEL]
    # pip's own temporary copy goes where an interrupted setup is cleaned up.
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    log = []
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
        _bytes_bar("download assets", progress) as bar,
    ):
        try:
            for line in process.stdout:
                if match := re.match(r"Progress (\d+) of (\d+)", line):
                    bar.total = int(match[2])
                    bar.update(int(match[1]) - bar.n)
                else:
                    log.append(line.strip())
        except BaseException:
            process.kill()
            raise
        wheels = list(work.glob("*.whl"))
        if wheels:  # out of pip's cache it comes without a report
            bar.total = wheels[0].stat().st_size
            bar.update(bar.total - bar.n)
    if not wheels:
        reasons = [line for line in log if line.startswith("ERROR")] or log[-1:] or ["no output"]
        msg = (
            f"The package index did not give {ASSETS_WHEEL}, which holds the assets: pip said {reasons[-1]!r}. "
            f"Check the network and run again, or give the assets as a folder: rlhive setup --assets DIR"
        )
        raise SetupFailed(msg)
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ASSETS_WHEEL_SHA256:
        msg = (
            f"{wheels[0].name} is not the recorded file: expected sha256 {ASSETS_WHEEL_SHA256}, got {found}. Run again."
        )
        raise AssetsCorrupt(msg)
    return wheels[0]


def _extract(wheel: Path, tree: Path, progress: bool) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = [e for e in archive.infolist() if e.filename.startswith(ASSETS_PREFIX) and not e.is_dir()]
        with _bytes_bar("unpack assets", progress, sum(entry.file_size for entry in entries)) as bar:
            for entry in entries:
                relative = PurePosixPath(entry.filename).relative_to(ASSETS_PREFIX)
                if ".." in relative.parts:
                    msg = f"{wheel.name}: {entry.filename!r} would leave the folder. Do not use this file."
                    raise AssetsCorrupt(msg)
                with archive.open(entry) as file:
                    _write(file, tree / relative, bar)


def _copy(source: Path, tree: Path, progress: bool) -> None:
    files = list(_files(source))
    with _bytes_bar("copy assets", progress, sum(path.stat().st_size for path in files)) as bar:
        for path in files:
            with path.open("rb") as file:
                _write(file, tree / path.relative_to(source), bar)


def _clone(tree: Path, progress: bool) -> None:
    """Fetch each repository at its commit, without history, and drop what only git needs."""
    if shutil.which("git") is None:
        msg = "git was not found: expected it on PATH for --assets git. Install git, or run: rlhive setup"
        raise SetupFailed(msg)
    for name, (url, commit) in tqdm(REPOSITORIES.items(), desc="clone assets", unit="repo", disable=not progress):
        folder = tree / name
        folder.mkdir(parents=True)
        _git(folder, "init", "--quiet")
        _git(folder, "-c", "protocol.version=2", "fetch", "--quiet", "--depth=1", url, commit)
        _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
        head = _git(folder, "rev-parse", "HEAD")
        if head != commit:
            msg = f"{url}: expected commit {commit}, got {head}. Run again."
            raise AssetsCorrupt(msg)
        shutil.rmtree(folder / ".git")


def _git(folder: Path, *arguments: str) -> str:
    # autocrlf would change the files' bytes, a prompt for credentials would wait for ever.
    command = ["git", "-C", str(folder), "-c", "core.autocrlf=false", *arguments]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        msg = f"git {arguments[-1]} failed for {folder.name}: {reason}. Check the network and run again."
        raise SetupFailed(msg)
    return done.stdout.strip()


def _is_robohive_init_tree(simhive: Path) -> bool:
    """Whether RoboHive's own robohive_init made it: checkouts of the pinned commits without changes."""
    if not all((simhive / name / ".git").exists() for name in REPOSITORIES):
        return False
    try:
        return all(
            _git(simhive / name, "rev-parse", "HEAD") == commit and not _git(simhive / name, "status", "--porcelain")
            for name, (_, commit) in REPOSITORIES.items()
        )
    except (SetupFailed, OSError):
        return False


def _has_version(simhive: Path) -> bool:
    try:
        return (simhive / VERSION_FILE).read_text(encoding="utf-8") == ROBOHIVE_VERSION
    except (OSError, UnicodeDecodeError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != ".git"]
        top = Path(root) == folder
        yield from (Path(root) / name for name in names if not (top and name in _NOT_CONTENT))


def _write(source: BinaryIO, path: Path, bar: tqdm) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for block in _blocks(source):
            file.write(block)
            bar.update(len(block))


def _blocks(file: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: file.read(1 << 20), b"")


def _bytes_bar(text: str, progress: bool, total: int | None = None) -> tqdm:
    return tqdm(desc=text, total=total, unit="B", unit_scale=True, disable=not progress)


@contextmanager
def _readable_errors(package: Path) -> Iterator[None]:
    try:
        yield
    except (SetupFailed, AssetsCorrupt):
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            msg = f"No space left for the assets in {package}: expected 450 MB free. Make room and run again."
            raise DiskFull(msg) from error
        msg = f"The assets in {package} could not be written: {error}. Make the folder writable and run again."
        raise SetupFailed(msg) from error
