"""The store: names, versions and paths of datasets, and atomic writes of folders and files.

A folder is built under a partial name beside its target, flushed to disk, and renamed. A reader of the target's name
sees no folder or the complete one. This module knows no file format.

An object store, such as ``s3://bucket/prefix``, has a mirror: a local folder of the same layout with what was fetched
from it, and with what is never sent to it: recordings, caches, scores, certificates. The mirror's name is the quoted
address, so that every path in it tells where its versions come from.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from rlhive.data import _untrusted
from rlhive.errors import DatasetExistsError, DiskFullError, InvalidNameError, InvalidOptionError, StoreNotWritableError

STORE_VARIABLE = "RLHIVE_DATASETS_PATH"
MIRRORS_VARIABLE = "RLHIVE_CACHE_PATH"
MIRROR_LIMIT_VARIABLE = "RLHIVE_CACHE_GB"
DEFAULT_NAMESPACE = "robohive"
PARTIAL_SUFFIX = ".partial-"
_RESUMABLE_SUFFIX = f"{PARTIAL_SUFFIX}resumable"
RELEASE_SUFFIX = ".release"
STREAM_SUFFIX = ".stream"
_FSYNC_THREADS = 8
_LONGEST_MIRROR_NAME = 200
_MIRROR_LIMIT_GB = 100.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def store_dir() -> Path:
    """Return the folder of all datasets: ``$RLHIVE_DATASETS_PATH``, or ``~/.rlhive/datasets``.

    For the address of an object store, its mirror in ``$RLHIVE_CACHE_PATH`` or ``~/.rlhive/stores``.

    Raises:
        InvalidNameError: The variable holds an address with a password, or one that is too long.
    """
    place = os.environ.get(STORE_VARIABLE)
    if place and "://" in place:
        return _mirror_dir(place)
    return Path(place or Path.home() / ".rlhive" / "datasets").expanduser()


def store_url(store: Path | None = None) -> str | None:
    """Return the address of the object store that a folder of all datasets mirrors; None for any other folder."""
    url = unquote((store or store_dir()).name)
    return url if "://" in url else None


def mirror_limit_bytes() -> float:
    """Return how many bytes of fetched versions all mirrors may hold together: ``$RLHIVE_CACHE_GB``, or 100 GB.

    Raises:
        InvalidOptionError: The variable is no positive number.
    """
    text = os.environ.get(MIRROR_LIMIT_VARIABLE) or str(_MIRROR_LIMIT_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = 0.0
    if not limit > 0:
        msg = f"{MIRROR_LIMIT_VARIABLE}={text!r}: expected a positive number of gigabytes, 50 for example."
        raise InvalidOptionError(msg)
    return limit


def describe_store(store: Path | None = None) -> str:
    """Return the address or the folder of the store, for messages."""
    return store_url(store) or str(store or store_dir())


def parse_name(name: str) -> tuple[str, str]:
    """Split a dataset name into namespace and name; the default namespace is ``robohive``.

    Raises:
        InvalidNameError: The name is not ``name`` or ``namespace/name`` of letters, digits, ``_``, ``-`` and ``.``.
    """
    parts = name.split("/")
    if len(parts) == 1:
        parts = [DEFAULT_NAMESPACE, *parts]
    if len(parts) != 2 or not all(_NAME.fullmatch(part) and not _is_reserved(part) for part in parts):
        msg = (
            f"Dataset name {name!r}: expected 'name' or 'namespace/name' of letters, digits, '_', '-' and '.'. Each "
            "part begins with a letter or digit and is no reserved word of an operating system, of git or of the Hub."
        )
        raise InvalidNameError(msg)
    return parts[0], parts[1]


def parse_version(version: str) -> tuple[int, int, int]:
    """Return (major, minor, patch).

    Raises:
        InvalidNameError: The version is not three numbers joined by dots.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        msg = f"Version {version!r}: expected MAJOR.MINOR.PATCH, such as '1.0.0'."
        raise InvalidNameError(msg)
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


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
    """Return the folder of a version, whether it exists or not."""
    namespace, dataset = parse_name(name)
    parse_version(version)
    return (store or store_dir()) / namespace / dataset / version


def release_dir(folder: Path) -> Path:
    """Return the folder beside a version's folder that holds its release, whether it exists or not."""
    return folder.with_name(f"{folder.name}{RELEASE_SUFFIX}")


def recording_dir(name: str, version: str, run: str, *, store: Path | None = None) -> Path:
    """Return the folder of a run's recording until it is committed as a version."""
    namespace, dataset = parse_name(name)
    return (store or store_dir()) / ".recordings" / namespace / dataset / f"{version}-{run}"


def memmap_dir(fingerprint: str, *, dtype: str | None = None, kind: str = "raw", store: Path | None = None) -> Path:
    """Return the folder of a version's packed memmap cache, which is derived from the version and safe to delete.

    Args:
        fingerprint: The version's fingerprint.
        dtype: Dtype of the floating-point fields, if it is not the stored one.
        kind: How the cache holds pictures.
        store: Folder of all datasets; the default store for None.
    """
    suffixes = [*([dtype] if dtype else []), *([kind] if kind != "raw" else [])]
    return (store or store_dir()) / ".cache" / ".".join([fingerprint, *suffixes])


def list_memmap_dirs(fingerprint: str, *, store: Path | None = None) -> list[Path]:
    """Return the caches of a fingerprint, whole or partial, without the partial suffix."""
    folder = (store or store_dir()) / ".cache"
    names = {path.name.partition(PARTIAL_SUFFIX)[0] for path in folder.glob(f"{fingerprint}*")}
    return [folder / name for name in sorted(names)]


def stream_dir(fingerprint: str, *, store: Path | None = None) -> Path:
    """Return the folder of the byte ranges that were streamed of a version; one of :func:`list_memmap_dirs`."""
    return (store or store_dir()) / ".cache" / f"{fingerprint}{STREAM_SUFFIX}"


def certificate_path(fingerprint: str, *, store: Path | None = None) -> Path:
    """Return the path of the replay certificate of a fingerprint; see :class:`rlhive.data.versions.Certificate`."""
    return (store or store_dir()) / ".certificates" / f"{fingerprint}.json"


@contextlib.contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; it becomes ``target`` when the block ends without an error.

    An error or an interrupt removes the partial folder. The partial folder of a killed process is removed by the next
    call for the same target.

    Args:
        target: Folder to create.

    Raises:
        DatasetExistsError: The target exists.
        StoreNotWritableError: The target's parent is not writable.
        DiskFullError: No space is left; the partial folder is removed.
    """
    with partial_dir(target) as partial:
        yield partial
        publish_dir(partial, target)


@contextlib.contextmanager
def partial_dir(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` under the target's lock; it is removed when the block ends.

    :func:`publish_dir` gives the folder its final name. For a target whose name is known beforehand, use
    :func:`atomic_dir`.

    Args:
        target: The name that is locked, and that the partial folder's name begins with.

    Raises:
        DatasetExistsError: The target exists.
        StoreNotWritableError: The target's parent is not writable.
        DiskFullError: No space is left.
    """
    with translate_disk_errors(target), locked(target):
        _require_absent(target)
        for stale in list_remains(target):
            shutil.rmtree(stale, ignore_errors=True)
        partial = _make_partial_path(target)
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def resumable_dir(target: Path, *, note: str) -> Iterator[Path]:
    """Yield a folder beside ``target``; it becomes ``target`` when the block ends without an error.

    The folder holds what an interrupted or killed process wrote into it, which the block has to check. Otherwise it is
    empty. An interrupt leaves it to the next call, an error removes it.

    Args:
        target: Folder to create.
        note: Name of the file in which the block notes its progress. An interrupt before the first note removes the
            folder.

    Raises:
        DatasetExistsError: The target exists.
        StoreNotWritableError: The target's parent is not writable.
        DiskFullError: No space is left; the partial folder is removed.
    """
    with translate_disk_errors(target), locked(target):
        _require_absent(target)
        partial = _resumable_path(target)
        for stale in list_remains(target):
            if stale != partial:
                shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(exist_ok=True)
        try:
            yield partial
            publish_dir(partial, target)
        except BaseException as error:
            if isinstance(error, Exception) or not (partial / note).exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise


def measure_resumable(target: Path) -> int:
    """Return the bytes that an interrupted or killed process left in the folder of :func:`resumable_dir`."""
    num_bytes = 0
    with contextlib.suppress(FileNotFoundError):  # another process may be at work there
        for path in _resumable_path(target).iterdir():
            num_bytes += path.stat().st_size
    return num_bytes


def publish_dir(partial: Path, target: Path) -> None:
    """Flush a folder to disk and rename it to ``target``, in the same parent.

    Raises:
        DatasetExistsError: The target exists.
    """
    _fsync_tree(partial)
    _require_absent(target)
    partial.rename(target)
    fsync_path(target.parent)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of ``target``; the operating system releases it when the process dies."""
    from filelock import FileLock

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
    """Translate the operating system's "read-only", "permission denied" and "no space" errors.

    Raises:
        StoreNotWritableError: ``target`` is not writable.
        DiskFullError: No space is left on the disk of ``target``.
    """
    try:
        yield
    except (StoreNotWritableError, DiskFullError):  # translated already, with the address of the file
        raise
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            msg = (
                f"{target} cannot be written ({os.strerror(error.errno)}). "
                f"Make its folder writable, or set {STORE_VARIABLE} to a folder that is."
            )
            raise StoreNotWritableError(msg) from error
        if error.errno in _NO_SPACE:
            msg = (
                f"No space left on the disk of {target}. What was committed before is intact. "
                f"Free some space, or set {STORE_VARIABLE} to a folder on another disk, and run the same command again."
            )
            raise DiskFullError(msg) from error
        raise


@contextlib.contextmanager
def replaced_dir(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; it takes the target's place when the block ends without an error.

    Until then the old folder stays. What killed processes left is removed afterwards.

    Args:
        target: Folder to create or to replace.

    Raises:
        StoreNotWritableError: The target's parent is not writable.
        DiskFullError: No space is left; the old folder stays.
    """
    with translate_disk_errors(target), locked(target):
        partial = _make_partial_path(target)
        partial.mkdir()
        try:
            yield partial
            _fsync_tree(partial)
            with contextlib.suppress(FileNotFoundError):
                target.rename(_make_partial_path(target))
            partial.rename(target)
            fsync_path(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _remove_remains(target)


def remove_dir(target: Path) -> None:
    """Remove a folder, and what killed processes left of it.

    The folder is renamed first, so that no reader sees half of it under its name.
    """
    with locked(target):
        with contextlib.suppress(FileNotFoundError):
            target.rename(_make_partial_path(target))
        _remove_remains(target)


def remove_remains(target: Path) -> None:
    """Remove what killed processes left of a folder, and not the folder itself."""
    with locked(target):
        _remove_remains(target)


def list_remains(target: Path) -> list[Path]:
    """Return the partial folders of a target: of a process that was killed, or, without its lock, of one that runs."""
    return sorted(target.parent.glob(f"{target.name}{PARTIAL_SUFFIX}*"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file durably; a reader sees the old content or the complete new content."""
    partial = _make_partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_path(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that nobody writes into a second name; copy it where the disk or the file system has no such links.

    Args:
        source: The file, or a symbolic link to it.
        target: The second name; a file of that name is replaced, and its folder is made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def memory_bytes() -> int:
    """Return the size of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(store: Path | None = None) -> int:
    """Return the free bytes on the disk of the store, whether the store's folder exists or not."""
    folder = (store or store_dir()).absolute()
    return shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free


def fsync_path(path: Path) -> None:
    """Flush a file's content, or the entries of a folder, so that they survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mirror_dir(url: str) -> Path:
    """Return the mirror of an object store."""
    url = url.rstrip("/")
    name = quote(url, safe="")
    if urlsplit(url).password or len(name) > _LONGEST_MIRROR_NAME:
        msg = (
            f"{STORE_VARIABLE}: expected an address of at most {_LONGEST_MIRROR_NAME} characters without a password, "
            "such as s3://bucket/prefix. Credentials are read where fsspec looks for them."
        )
        raise InvalidNameError(msg)
    mirrors = os.environ.get(MIRRORS_VARIABLE) or Path.home() / ".rlhive" / "stores"
    return Path(mirrors).expanduser() / name


def _make_partial_path(target: Path) -> Path:
    return target.with_name(f"{target.name}{PARTIAL_SUFFIX}{uuid.uuid4().hex[:8]}")


def _resumable_path(target: Path) -> Path:
    return target.with_name(f"{target.name}{_RESUMABLE_SUFFIX}")


def _remove_remains(target: Path) -> None:
    """Remove partial folders under the target's lock: without it a resumable one may be another process's."""
    for folder in list_remains(target):
        shutil.rmtree(folder, ignore_errors=True)


def _require_absent(target: Path) -> None:
    if target.exists():
        msg = f"{target}: expected no such folder, because a version is never overwritten. Use another version number."
        raise DatasetExistsError(msg)


def _fsync_tree(folder: Path) -> None:
    """Flush a folder and everything in it. Threads, because a disk serves several requests in the time of one."""
    with ThreadPoolExecutor(_FSYNC_THREADS, "rlhive-fsync") as pool:
        for _ in pool.map(fsync_path, (*folder.rglob("*"), folder)):
            pass


def _is_reserved(part: str) -> bool:
    """Whether the Hub refuses such a name, or some operating system cannot store a path of that name."""
    is_refused_by_hub = ".." in part or "--" in part or part.endswith("-")
    return is_refused_by_hub or PARTIAL_SUFFIX in part or _untrusted.is_reserved(part)
