"""Files at an address that fsspec opens, such as ``s3://bucket/prefix``: list, read, write, create, copy, remove.

Credentials and the repetition of failed requests are fsspec's. What is added here: a limit on the time of each request,
and one clear error for every refusal. This module knows no dataset and imports fsspec when it is needed.
"""

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from rlhive._text import printable
from rlhive.errors import (
    CorruptDatasetError,
    MissingExtraError,
    RLHiveError,
    StoreAccessDeniedError,
    StoreUnreachableError,
)

#: Seconds that one request may take, besides the time for the bytes of a file.
REQUEST_LIMIT_S = 120.0
#: The slowest connection over which files are transferred, in bytes/s.
SLOWEST_BYTES_PER_S = 20_000
#: Bytes of a file that are transferred at once.
PIECE_BYTES = 8 * 2**20
#: Requests that are sent at the same time.
NUM_THREADS = 16

#: Codes with which S3 refuses a conditional write: the file exists, or another process writes it at this moment.
_REFUSALS = ("PreconditionFailed", "ConditionalRequestConflict", "OperationAborted")
#: Seconds before each further attempt to create a file that was refused and is not to be seen.
_CREATE_DELAYS_S = (0.2, 1.0, 3.0)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ObjectStore:
    """The files under an address. Keys are relative to it, with forward slashes.

    Args:
        url: Address that fsspec opens, without a slash at its end.

    Raises:
        MissingExtraError: The package for addresses of this kind is not installed. By every method.
        StoreAccessDeniedError: There are no credentials, or they do not suffice. By every method.
        StoreUnreachableError: The store does not answer or is too busy, or has no such bucket. By every method.
    """

    def __init__(self, url: str):
        self.url = url

    def list_folder(self, key: str = "") -> dict[str, int | None]:
        """Return the names directly under a folder, in order: the size of each file in bytes, None for a folder.

        The result is empty if there is no such folder. The store's newest state is listed.
        """
        try:
            rows = self._call(key, "ls", self._path(key), detail=True)
        except FileNotFoundError:
            return {}
        names = {_base_name(row["name"]): None if row["type"] == "directory" else int(row["size"]) for row in rows}
        return dict(sorted((name, size) for name, size in names.items() if name))

    def list_files(self, key: str) -> dict[str, int]:
        """Return the size in bytes of every file under a folder, at any depth, by its key."""
        try:
            rows = self._call(key, "find", self._path(key), detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._path("")) + 1
        return {name[start:]: int(row["size"]) for name, row in sorted(rows.items())}

    def read(self, key: str, max_bytes: int) -> bytes | None:
        """Return the content of a small file; None if there is no such file.

        Raises:
            CorruptDatasetError: The file is larger than ``max_bytes``.
        """
        try:
            size = int(self._call(key, "info", self._path(key))["size"])
            if size > max_bytes:
                msg = f"{self.url}/{key}: expected at most {max_bytes} bytes, got {size}."
                raise CorruptDatasetError(msg)
            return self._call(key, "cat_file", self._path(key)) if size else b""
        except FileNotFoundError:
            return None

    def download(self, key: str, target: Path, size: int) -> None:
        """Write the content of a file of known size into a local one, in pieces."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for start in range(0, size, PIECE_BYTES):
                file.write(self.read_range(key, start, min(start + PIECE_BYTES, size)))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return some bytes of a file."""
        try:
            return self._call(
                key, "cat_file", self._path(key), start=start, end=stop, extra_s=(stop - start) / SLOWEST_BYTES_PER_S
            )
        except FileNotFoundError as error:
            msg = f"{self.url}/{key}: expected a file, the store has none."
            raise StoreUnreachableError(msg) from error

    def open(self, key: str, size: int) -> BinaryIO:
        """Return a file of known size to read from; each read is one request."""
        return cast(BinaryIO, RangeFile(functools.partial(self.read_range, key), size))

    def upload(self, source: Path, key: str) -> None:
        """Write a local file; one of that key is replaced. The store shows the old file or the complete new one."""
        self._make_folder(key)
        extra_s = source.stat().st_size / SLOWEST_BYTES_PER_S
        try:
            self._call(key, "put_file", str(source), self._path(key), extra_s=extra_s, **self._upload_options())
        except FileNotFoundError as error:
            raise self._missing_bucket_error() from error

    def _upload_options(self) -> dict[str, Any]:
        """Options that limit the memory of an upload: s3fs holds half a gigabyte of every file otherwise."""
        is_s3 = self.url.startswith(("s3://", "s3a://"))
        return {"chunksize": PIECE_BYTES, "max_concurrency": 2} if is_s3 else {}

    def create(self, key: str, content: bytes) -> bool:
        """Write a file unless there is one of that key; return whether it was written.

        Of several processes that create a key at once, one writes it, where the store has conditional writes: S3 and
        its kin, Google Cloud Storage, Azure. Elsewhere the check and the write are two steps.
        """
        self._make_folder(key)
        for delay_s in (*_CREATE_DELAYS_S, 0.0):
            # A look before each attempt, for servers that ignore the condition. Equal content is ours: the answer to an
            # earlier attempt was lost.
            has_content = self._has_content(key, content)
            if has_content is not None:
                return has_content
            if self._try_to_create(key, content):
                return True
            time.sleep(delay_s)
        msg = f"{self.url}/{key}: the store refuses to create it, and shows no such file. Run the same command again."
        raise StoreUnreachableError(msg)

    def copy(self, source: str, target: str) -> bool:
        """Copy a file inside the store, without a transfer to this machine; return whether there was one to copy."""
        self._make_folder(target)
        try:
            self._call(target, "cp_file", self._path(source), self._path(target))
        except FileNotFoundError:
            return False
        return True

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that do not exist are ignored."""

        def remove_one(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._call(key, "rm_file", self._path(key))

        in_parallel(remove_one, keys)

    def _try_to_create(self, key: str, content: bytes) -> bool:
        """Write a file that must not exist; return False if it does, or if another process writes it now."""
        try:
            self._call(key, "pipe_file", self._path(key), content, mode="create")
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise self._missing_bucket_error() from error
        except StoreUnreachableError as error:
            if _find_error_code(error) in _REFUSALS:
                return False
            raise
        return True

    def _has_content(self, key: str, content: bytes) -> bool | None:
        """Whether a file has some content; None if there is no such file."""
        try:
            stored = self.read(key, len(content))
        except CorruptDatasetError:  # larger
            return False
        return None if stored is None else stored == content

    @functools.cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path of the address in it."""
        import fsspec

        with self._translate_errors(""):
            files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")

    def _path(self, key: str) -> str:
        root = self._opened[1]
        return f"{root}/{key}" if key else root

    def _call(self, key: str, method: str, *arguments: Any, extra_s: float = 0.0, **options: Any) -> Any:
        """Call a method of the file system; it may take ``extra_s`` seconds more than REQUEST_LIMIT_S.

        The key is for the message of an error.

        Raises:
            FileNotFoundError: There is no such file.
            FileExistsError: A file that was to be created exists.
        """
        files = self._opened[0]
        if files.async_impl:
            options["timeout"] = REQUEST_LIMIT_S + extra_s
        with self._translate_errors(key):
            if method in ("ls", "find", "info"):
                files.invalidate_cache()
            return getattr(files, method)(*arguments, **options)

    def _make_folder(self, key: str) -> None:
        """Make the folder of a key on file systems that have real ones; no request is sent to an object store."""
        files = self._opened[0]
        if not files.async_impl:
            with self._translate_errors(key):
                files.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        """Raise one of RLHive's errors for every error of fsspec, except for files that are missing or exist."""
        try:
            yield
        except (RLHiveError, FileExistsError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not _lacks_bucket(error):
                raise
            raise self._make_error(key, error) from error

    def _make_error(self, key: str, error: Exception) -> RLHiveError:
        address = f"{self.url}/{key}" if key else self.url
        reason = printable(f"{type(error).__name__}: {error}")[:300]
        if isinstance(error, ImportError):
            scheme = self.url.partition(":")[0]
            extra = "pip install 'rlhive[s3]'" if scheme in ("s3", "s3a") else "Install fsspec's package for it."
            return MissingExtraError(f"{self.url}: expected a package for {scheme}://, got none ({reason}). {extra}")
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            msg = f"{address}: the store denies access ({reason}). fsspec's usual places give the credentials."
            return StoreAccessDeniedError(msg)
        if isinstance(error, FileNotFoundError):
            return self._missing_bucket_error()
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            msg = f"{address}: the store did not finish its answer in time ({reason}). Run the same command again."
            return StoreUnreachableError(msg)
        msg = f"{address}: the store does not answer as expected ({reason}). Check the address and the network."
        return StoreUnreachableError(msg)

    def _missing_bucket_error(self) -> RLHiveError:
        return StoreUnreachableError(
            f"{self.url}: the store has no such bucket. Check the address, or make the bucket."
        )


class RangeFile(io.RawIOBase):
    """A remote file, read in byte ranges.

    Args:
        fetch: Returns the bytes from a first one to a last one, exclusive.
        size: Size of the file in bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int):
        self._fetch, self._size = fetch, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        content = self._fetch(self._position, stop)
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        return self.read()


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return what a function gives for each item; requests are sent from several threads."""
    with ThreadPoolExecutor(NUM_THREADS, "rlhive-store") as pool:
        return list(pool.map(function, items))


def _base_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _lacks_bucket(error: BaseException) -> bool:
    """Whether the whole bucket is missing, and not only a file."""
    return _find_error_code(error) == "NoSuchBucket"


def _find_error_code(error: BaseException | None) -> str | None:
    """Return the code that S3 gave for an error; None where it gave none."""
    while error is not None:
        response = getattr(error, "response", None)  # of botocore
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return response["Error"].get("Code")
        error = error.__cause__
    return None
