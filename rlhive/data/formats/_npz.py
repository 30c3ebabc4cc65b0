"""NumPy's .npz archives of anyone, read row by row: no array is unpickled.

NumPy's own reader holds an array in memory whole, and pictures of OGBench take gigabytes; here it reads the headers.
"""

import math
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as _numpy_format

from rlhive.data._untrusted import parse_count
from rlhive.data.formats._memory_limits import FREE_BYTES, require_memory
from rlhive.data.formats._zip_files import ZIP_DAMAGE, open_zip, require_compression
from rlhive.errors import SchemaMismatchError

_npy: Any = _numpy_format  # its functions have no types
_SUFFIX = ".npy"
_PIECE_BYTES = 2**20
#: What NumPy raises for a header that is no dictionary of literals.
_HEADER_DAMAGE = (
    SyntaxError,  # a dtype with an open bracket
    tokenize.TokenError,  # a header with an open bracket, parsed once more as one of Python 2
    TypeError,  # keys that cannot be sorted
)


@contextmanager
def open_npz(file: Path) -> Iterator[Mapping[str, "NpzArray"]]:
    """Open an archive; the context manager gives its arrays by name.

    Raises:
        SchemaMismatchError: The file does not exist, is no archive of arrays, or an array holds Python objects.
    """
    if not file.is_file():
        msg = f"{file}: expected a readable .npz file, got {'no regular file' if file.exists() else 'none'}."
        raise SchemaMismatchError(msg)
    with open_zip(file, "a readable .npz file") as archive:
        arrays = {
            info.filename.removesuffix(_SUFFIX): NpzArray(archive, info, f"{file}, {info.filename}")
            for info in archive.infolist()
            if info.filename.endswith(_SUFFIX)
        }
        try:
            yield arrays
        finally:
            for array in arrays.values():
                array.close()


class NpzArray:
    """An array of an archive, ``[N, *shape]``, whose rows are read in order.

    Args:
        archive: The archive.
        info: The array's entry in it.
        context: Address for messages.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        context: Address for messages.

    Raises:
        SchemaMismatchError: It holds Python objects, is stored column by column, or is damaged.
    """

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, context: str):
        self._archive = archive
        self._info = info
        self._file: IO[bytes] | None = None
        self._row = 0
        self.context = context
        require_compression(info, context)
        self.shape, self.dtype, self._header_bytes = self._read_header()
        if self._header_bytes + self.num_bytes != info.file_size:
            msg = (
                f"{context}: expected {self.num_bytes} bytes of {self.dtype} {list(self.shape)}, got {info.file_size}."
            )
            raise SchemaMismatchError(msg)

    @property
    def num_bytes(self) -> int:
        """Size of all values in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def count_bytes(self, num_rows: int) -> tuple[int, int]:
        """Return the size of some rows in memory, and their share of the file."""
        share = num_rows / max(1, len(self))
        return int(self.num_bytes * share), int(self._info.compress_size * share)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from ``start`` to before ``stop``; the file is read from its beginning where it is past them.

        Raises:
            SchemaMismatchError: They would take more memory than the file accounts for, or the file is damaged.
        """
        num_bytes, stored_bytes = self.count_bytes(stop - start)
        require_memory(num_bytes, stored_bytes, self.context)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            if self._file is None or start < self._row:
                self.close()
                self._file, self._row = self._archive.open(self._info), 0
                _skip(self._file, self._header_bytes)
            _skip(self._file, (start - self._row) * row_bytes)
            content = self._file.read((stop - start) * row_bytes)
            self._row = stop
            if stop == len(self):
                self._file.read(1)  # the checksum is compared at the end
        except ZIP_DAMAGE as error:
            raise self._describe_damage(error) from error
        if len(content) != (stop - start) * row_bytes:
            problem = f"{len(content)} bytes of rows {start} to {stop - 1}"
            raise self._describe_damage(problem)
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def close(self) -> None:
        """Close the file; the next rows open it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_header(self) -> tuple[tuple[int, ...], np.dtype, int]:
        try:
            with self._archive.open(self._info) as file:
                version = _npy.read_magic(file)
                read = _npy.read_array_header_1_0 if version == (1, 0) else _npy.read_array_header_2_0
                shape, is_column_major, dtype = read(file)
                num_bytes = file.tell()
            shape = tuple(map(parse_count, shape))
        except (*ZIP_DAMAGE, *_HEADER_DAMAGE) as error:
            raise self._describe_damage(error) from error
        if dtype.hasobject or not dtype.itemsize:
            actual = "Python objects, which are never unpickled" if dtype.hasobject else f"{dtype}, of no bytes"
            msg = f"{self.context}: expected numbers, got {actual}."
            raise SchemaMismatchError(msg)
        if is_column_major and len(shape) > 1:
            msg = f"{self.context}: expected rows one after another, got column-major order (fortran_order)."
            raise SchemaMismatchError(msg)
        if math.prod(shape[1:]) * dtype.itemsize > FREE_BYTES:
            msg = f"{self.context}: expected rows of at most {FREE_BYTES} bytes, got {dtype} {list(shape[1:])}."
            raise SchemaMismatchError(msg)
        return shape, dtype, num_bytes

    def _describe_damage(self, problem: Any) -> SchemaMismatchError:
        line = str(problem).partition("\n")[0].rstrip(".")  # the next lines of NumPy's advise to trust the file
        return SchemaMismatchError(f"{self.context}: expected a readable array, got: {line}.")


def _skip(file: IO[bytes], num_bytes: int) -> None:
    while num_bytes > 0:
        piece = len(file.read(min(num_bytes, _PIECE_BYTES)))
        if not piece:
            msg = f"the end {num_bytes} bytes too early"
            raise EOFError(msg)
        num_bytes -= piece
