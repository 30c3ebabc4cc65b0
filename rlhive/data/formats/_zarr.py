"""zarr v2 stores of anyone, a folder or a .zip file, read row by row. The only module that imports numcodecs.

::

    .zgroup                               {"zarr_format": 2}
    <path>/.zarray                        shape, chunks, dtype, order, fill_value, compressor, filters
    <path>/0.0, <path>/1.0, …             the compressed chunks; one that is missing is all fill value

zarr's own package runs any codec that a store names, those that unpickle and those of plugins included. Here a store
chooses among compressions whose output is bounded by the size of a chunk.
"""

import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from rlhive._extras import require_extra
from rlhive.data._untrusted import parse_count
from rlhive.data.formats._memory_limits import MemoryBudget, require_memory
from rlhive.data.formats._source_files import list_source_files, require_source_file
from rlhive.data.formats._zip_files import open_zip, read_member
from rlhive.errors import SchemaMismatchError

_GROUP, _ARRAY = ".zgroup", ".zarray"
_MAX_METADATA_BYTES = 2**20
_MAX_CHUNKS = 10**6
#: What an incompressible chunk may be larger by.
_OVERHEAD_BYTES = 2**16
#: What a chunk raises that is damaged.
_CHUNK_DAMAGE = (
    ValueError,  # another length, of the content or in its header
    RuntimeError,  # Blosc
    zlib.error,  # zlib and gzip
    OSError,  # Zstandard and LZ4, in Arrow
)


class _Store(Protocol):
    """Files by their path in the store."""

    def list_files(self, name: str) -> list[str]:
        """Return the paths of the files of a name."""

    def measure(self, path: str) -> int | None:
        """Return the size of a file; None where there is none."""

    def read(self, path: str) -> bytes:
        """Return the content of a file."""


class ZarrArray:
    """An array of a store, ``[N, *shape]``.

    Args:
        store: The store.
        path: Path of the array in it.
        context: Address for messages.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        path: Path of the array in the store.
        context: Address for messages.

    Raises:
        SchemaMismatchError: Its metadata are malformed.
    """

    def __init__(self, store: _Store, path: str, context: str):
        self._store = store
        self.path = path
        self.context = f"{context}, {path}"
        content = _read_json_file(store, f"{path}/{_ARRAY}", self.context)
        try:
            self.shape = tuple(map(parse_count, content["shape"]))
            self._chunks = tuple(map(parse_count, content["chunks"]))
            self.dtype = np.dtype(content["dtype"]) if isinstance(content["dtype"], str) else np.dtype(object)
            self._order = {"C": "C", "F": "F"}[content["order"]]
            self._separator = {".": ".", "/": "/"}[content.get("dimension_separator", ".")]
            self._compressor = content["compressor"] and str(content["compressor"]["id"])
        except (KeyError, TypeError, ValueError, SyntaxError) as error:  # NumPy's of a dtype with a bracket
            msg = f"{self.context}: expected zarr's metadata of an array, got: {error!r}."
            raise SchemaMismatchError(msg) from error
        if not self.shape or len(self.shape) != len(self._chunks) or 0 in self._chunks:
            msg = f"{self.context}: expected an array in chunks, got {list(self.shape)} in {list(self._chunks)}."
            raise SchemaMismatchError(msg)
        self._filters = content.get("filters")
        self._fill_value = content.get("fill_value")
        self._last: tuple[str, np.ndarray] | None = None
        self.has_missing_chunks = False

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int, budget: MemoryBudget) -> np.ndarray:
        """Return the rows from ``start`` to before ``stop``; chunks that are missing are the fill value.

        Args:
            start: First row.
            stop: Row after the last.
            budget: Memory of the episode.

        Raises:
            SchemaMismatchError: The codec or dtype is not supported, a chunk is damaged, or the rows would take more
                memory than the files account for.
            MissingExtraError: numcodecs is not installed.
        """
        self._require_supported()
        grid = [range(start // self._chunks[0], -(-stop // self._chunks[0]))]
        grid += [range(-(-size // chunk)) for size, chunk in zip(self.shape[1:], self._chunks[1:], strict=True)]
        num_chunks = math.prod(len(part) or 1 for part in grid)  # one dimension of 0 does not hide a long one
        if num_chunks > _MAX_CHUNKS:
            msg = f"{self.context}: expected at most {_MAX_CHUNKS} chunks an episode, got {num_chunks}."
            raise SchemaMismatchError(msg)
        paths = {place: f"{self.path}/{self._separator.join(map(str, place))}" for place in itertools.product(*grid)}
        sizes = {place: self._store.measure(path) for place, path in paths.items()}
        shape = (stop - start, *self.shape[1:])
        budget.add(math.prod(shape) * self.dtype.itemsize, sum(size or 0 for size in sizes.values()))
        self.has_missing_chunks = None in sizes.values()
        rows = np.empty(shape, self.dtype)
        for place, path in paths.items():
            values = self._fill(path) if sizes[place] is None else self._read_chunk(path, sizes[place] or 0)
            inner = [slice(at * chunk, (at + 1) * chunk) for at, chunk in zip(place[1:], self._chunks[1:], strict=True)]
            first = place[0] * self._chunks[0]
            part = values[max(start - first, 0) : stop - first]
            target = rows[(slice(max(first - start, 0), first - start + self._chunks[0]), *inner)]
            target[...] = part[tuple(map(slice, target.shape))]
        return rows

    def _require_supported(self) -> None:
        problem = ""
        if self.dtype.kind not in "biuf":
            problem = f"values of dtype {self.dtype}; expected numbers"
        elif self._filters:
            problem = "filters; expected none"
        elif self._compressor and self._compressor not in _CODECS:
            problem = f"codec {self._compressor}; expected {', '.join(_CODECS)} or none"
        if problem:
            msg = f"{self.context}: not understood: {problem}. The option drop leaves the column out."
            raise SchemaMismatchError(msg)

    def _fill(self, path: str) -> np.ndarray:
        """Return a chunk that is missing, ``[*chunks]``, in the memory of one value."""
        value = self._fill_value
        try:
            if value is None:
                msg = "no fill value"
                raise ValueError(msg)
            return np.broadcast_to(np.full((), value, self.dtype), self._chunks)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"{self.context}: expected the chunk {path}, got none: {error}."
            raise SchemaMismatchError(msg) from error

    def _read_chunk(self, path: str, stored_bytes: int) -> np.ndarray:
        """Return a chunk, ``[*chunks]``; the last one is kept, since episodes share it."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        num_bytes = math.prod(self._chunks) * self.dtype.itemsize
        require_memory(num_bytes, stored_bytes, f"{self.context}, a chunk")
        if stored_bytes > 2 * num_bytes + _OVERHEAD_BYTES:
            msg = f"{self.context}: expected a chunk of at most {num_bytes} bytes at {path}, got {stored_bytes}."
            raise SchemaMismatchError(msg)
        content = self._store.read(path)
        try:
            decoded = _CODECS[self._compressor](content, num_bytes) if self._compressor else content
            values = np.frombuffer(decoded, self.dtype).reshape(self._chunks, order=self._order)  # type: ignore[call-overload]
        except _CHUNK_DAMAGE as error:
            msg = f"{self.context}: expected a chunk of {num_bytes} bytes at {path}, got: {error}."
            raise SchemaMismatchError(msg) from error
        self._last = path, values
        return values


@contextmanager
def open_zarr(source: Path) -> Iterator[Mapping[str, ZarrArray]]:
    """Open a store; the context manager gives its arrays by path.

    Raises:
        SchemaMismatchError: There is none, it is no zarr v2 store, or the metadata of an array are malformed.
    """
    if source.is_dir():
        yield _find_arrays(_FolderStore(source), str(source))
        return
    if not source.is_file():
        msg = f"{source}: expected a zarr store, a folder or a .zip file, got no such path."
        raise SchemaMismatchError(msg)
    with open_zip(source, "a zarr store in a .zip file") as archive:
        yield _find_arrays(_ZipStore(archive), str(source))


class _FolderStore:
    def __init__(self, root: Path):
        self._root = root

    def list_files(self, name: str) -> list[str]:
        files = list_source_files(self._root, f"**/{name}")
        return [file.relative_to(self._root).as_posix() for file in files]

    def measure(self, path: str) -> int | None:
        file = self._root / path
        return file.stat().st_size if file.exists() else None

    def read(self, path: str) -> bytes:
        return require_source_file(self._root, self._root / path).read_bytes()


class _ZipStore:
    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._members = {info.filename: info for info in archive.infolist()}

    def list_files(self, name: str) -> list[str]:
        return sorted(path for path in self._members if path.rpartition("/")[2] == name)

    def measure(self, path: str) -> int | None:
        info = self._members.get(path)
        return None if info is None else info.file_size

    def read(self, path: str) -> bytes:
        return read_member(self._archive, self._members[path])


def _find_arrays(store: _Store, context: str) -> dict[str, ZarrArray]:
    if store.measure(_GROUP) is None:
        actual = "zarr v3" if store.measure("zarr.json") is not None else "no .zgroup"
        msg = f"{context}: expected a zarr v2 store, got {actual}."
        raise SchemaMismatchError(msg)
    version = _read_json_file(store, _GROUP, context).get("zarr_format")
    if version != 2:
        msg = f"{context}, {_GROUP}: expected zarr_format 2, got {version!r}."
        raise SchemaMismatchError(msg)
    paths = [path.removesuffix(f"/{_ARRAY}") for path in store.list_files(_ARRAY)]
    return {path: ZarrArray(store, path, context) for path in paths}


def _read_json_file(store: _Store, path: str, context: str) -> dict[str, Any]:
    if (store.measure(path) or 0) > _MAX_METADATA_BYTES:
        msg = f"{context}, {path}: expected at most {_MAX_METADATA_BYTES} bytes of JSON, got more."
        raise SchemaMismatchError(msg)
    text = store.read(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{context}, {path}: expected JSON, got: {error}."
        raise SchemaMismatchError(msg) from error
    if not isinstance(content, dict):
        msg = f"{context}, {path}: expected a JSON object, got {type(content).__name__}."
        raise SchemaMismatchError(msg)
    return content


def _decode_blosc(content: bytes, num_bytes: int) -> bytes:
    with require_extra("Blosc, zarr's usual compression, needs numcodecs: pip install 'rlhive[formats]'"):
        from numcodecs import blosc
    declared, stored = (int.from_bytes(content[at : at + 4], "little") for at in (4, 12))
    if (declared, stored) != (num_bytes, len(content)):
        msg = f"a header of {stored} bytes that unpack to {declared}"
        raise ValueError(msg)
    return bytes(blosc.decompress(content))


def _decode_zlib(content: bytes, num_bytes: int, *, wbits: int = zlib.MAX_WBITS) -> bytes:
    stream = zlib.decompressobj(wbits)
    decoded = stream.decompress(content, num_bytes + 1)
    if not stream.eof or len(decoded) > num_bytes:
        msg = "a stream of another length"
        raise ValueError(msg)
    return decoded


def _decode_gzip(content: bytes, num_bytes: int) -> bytes:
    return _decode_zlib(content, num_bytes, wbits=zlib.MAX_WBITS | 16)


def _decode_zstd(content: bytes, num_bytes: int) -> bytes:
    return pa.Codec("zstd").decompress(content, decompressed_size=num_bytes, asbytes=True)


def _decode_lz4(content: bytes, num_bytes: int) -> bytes:
    if int.from_bytes(content[:4], "little") != num_bytes:
        msg = "a header of another size"
        raise ValueError(msg)
    return pa.Codec("lz4_raw").decompress(content[4:], decompressed_size=num_bytes, asbytes=True)


#: Decoders by zarr's name: the compressed content and the size of the chunk in, the chunk out.
_CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "blosc": _decode_blosc,
    "zlib": _decode_zlib,
    "gzip": _decode_gzip,
    "zstd": _decode_zstd,
    "lz4": _decode_lz4,
}
