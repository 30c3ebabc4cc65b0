"""Where datasets and derived files live, and how a folder appears complete or not at all.

Knows no format. A folder is built under a partial name beside its target, flushed to the disk and renamed;
whoever looks at the target's name sees nothing or everything.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from rlhive.data import _untrusted
from rlhive.errors import DatasetExists, DiskFull, InvalidName, StoreNotWritable

STORE_VARIABLE = "RLHIVE_DATASETS_PATH"
DEFAULT_NAMESPACE = "robohive"
PARTIAL_SUFFIX = ".partial-"
_FLUSHES = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")


def store_dir() -> Path:
    """Return the folder of all datasets: ``$RLHIVE_DATASETS_PATH``, or ``~/.rlhive/datasets``."""
    return Path(os.environ.get(STORE_VARIABLE) or Path.home() / ".rlhive" / "datasets").expanduser()


def parse_name(name: str) -> tuple[str, str]:
    """Split a dataset name into namespace and name; a bare one is in the ``robohive`` namespace.

    Raises:
        InvalidName: The name is not ``name`` or ``namespace/name`` of letters, digits, ``_``, ``-`` and ``.``.
    """
    parts = name.split("/")
    if len(parts) == 1:
        parts = [DEFAULT_NAMESPACE, *parts]
    if len(parts) != 2 or not all(_NAME.fullmatch(part) and not _reserved(part) for part in parts):
        msg = (
            f"Dataset name {name!r}: expected 'name' or 'namespace/name' of letters, digits, '_', '-' and '.', "
            "beginning with a letter or digit, and no reserved word. Choose another name."
        )
        raise InvalidName(msg)
    return parts[0], parts[1]


def parse_version(version: str) -> tuple[int, int, int]:
    """Return (major, minor, patch).

    Raises:
        InvalidName: The version is not three numbers joined by dots.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        msg = f"Version {version!r}: expected MAJOR.MINOR.PATCH such as '1.0.0'. Choose such a number."
        raise InvalidName(msg)
    return tuple(int(part) for part in match.groups())


def is_version(text: str) -> bool:
    """Whether a text is MAJOR.MINOR.PATCH."""
    return _VERSION.fullmatch(text) is not None


def as_path(name: str | Path) -> Path | None:
    """Return the absolute path of a Path or of a string that begins with ``/``, ``.`` or ``~``; None for a name."""
    if isinstance(name, Path) or name.startswith(("/", ".", "~")):
        return Path(name).expanduser().absolute()
    return None


def parse_splits(expression: str) -> list[str]:
    """Return the split names in ``"expert+random"``, in order."""
    return expression.split("+")


def version_dir(name: str, version: str, *, store: Path | None = None) -> Path:
    """Return the folder of a version, existing or not."""
    namespace, bare = parse_name(name)
    parse_version(version)
    return (store or store_dir()) / namespace / bare / version


def recording_dir(name: str, version: str, run: str, *, store: Path | None = None) -> Path:
    """Return the folder in which a run's recording grows until it is committed."""
    namespace, bare = parse_name(name)
    return (store or store_dir()) / ".recordings" / namespace / bare / f"{version}-{run}"


def memmap_dir(fingerprint: str, *, encoded: bool = False, store: Path | None = None) -> Path:
    """Return the folder of the packed memmap cache of a version, or of its encoded one; derived, safe to delete."""
    return (store or store_dir()) / ".cache" / (f"{fingerprint}.encoded" if encoded else fingerprint)


def certificate_path(fingerprint: str, *, store: Path | None = None) -> Path:
    """Return where the certificate of a content lies, see :mod:`rlhive.data.versions`."""
    return (store or store_dir()) / ".certificates" / f"{fingerprint}.json"


@contextlib.contextmanager
def atomic_dir(target: Path, *, settle: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes ``target`` when the block ends well.

    An error or an interrupt removes the partial folder; a killed process leaves one that the next call removes.

    Args:
        target: The folder to make.
        settle: Asked at the block's end for the name to take in the same parent, where only the content decides it;
            ``target`` is then a placeholder.

    Raises:
        DatasetExists: The target is there already.
        StoreNotWritable: Its parent cannot be written.
        DiskFull: No space is left; nothing is kept.
    """
    with translate_disk_errors(target), locked(target):
        _require_absent(target)
        for stale in target.parent.glob(f"{target.name}{PARTIAL_SUFFIX}*"):
            shutil.rmtree(stale, ignore_errors=True)
        partial = target.with_name(f"{target.name}{PARTIAL_SUFFIX}{uuid.uuid4().hex[:8]}")
        partial.mkdir()
        try:
            yield partial
            _fsync_tree(partial)
            final = settle() if settle is not None else target
            _require_absent(final)
            partial.rename(final)
            fsync_path(final.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of ``target``; the operating system frees it when its holder dies."""
    with translate_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def translate_disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's "read-only", "permission denied" and "no space" into sentences."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) and not _ours(error):
            msg = (
                f"{target} cannot be written ({os.strerror(number)}). "
                f"Make its folder writable, or set {STORE_VARIABLE} to one that is."
            )
            raise StoreNotWritable(msg) from error
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not _ours(error):
            msg = (
                f"No space left on the disk of {target}. What was committed before is intact; "
                f"free some space, or set {STORE_VARIABLE} to another disk, and run the same command again."
            )
            raise DiskFull(msg) from error
        raise


def remove_dir(target: Path) -> None:
    """Remove a folder; it is renamed first, so that nobody finds half of it under its name."""
    doomed = target.with_name(f"{target.name}{PARTIAL_SUFFIX}{uuid.uuid4().hex[:8]}")
    with locked(target), contextlib.suppress(FileNotFoundError):
        target.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file durably: whoever looks at its name sees the old content or the whole new one."""
    partial = path.with_name(f"{path.name}{PARTIAL_SUFFIX}{uuid.uuid4().hex[:8]}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_path(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def memory_bytes() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(store: Path | None = None) -> int:
    """Return the bytes that are free on the disk of the store, whether its folder exists or not."""
    folder = (store or store_dir()).absolute()
    return shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free


def fsync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_absent(target: Path) -> None:
    if target.exists():
        msg = f"{target}: expected no such folder, a version is never overwritten. Choose another version."
        raise DatasetExists(msg)


def _fsync_tree(folder: Path) -> None:
    """Make everything in a folder survive a power loss; a disk takes several requests at once in the time of one."""
    with ThreadPoolExecutor(_FLUSHES, "rlhive-flush") as pool:
        for _ in pool.map(fsync_path, (*folder.rglob("*"), folder)):
            pass


def _reserved(part: str) -> bool:
    """Whether the Hub refuses such a name, or a path cannot hold it on some operating system."""
    odd = ".." in part or "--" in part or part.endswith("-") or PARTIAL_SUFFIX in part
    return odd or _untrusted.is_reserved(part)


def _ours(error: OSError) -> bool:
    return isinstance(error, (StoreNotWritable, DiskFull))
