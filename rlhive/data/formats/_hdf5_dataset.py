"""A dataset of a foreign HDF5 file: its values lie in the file itself, and their size is known before they are read."""

import itertools
import math
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from rlhive.data.formats._hdf5_chunks import require_bounded_chunks
from rlhive.data.formats._memory_limits import FREE_BYTES, require_memory
from rlhive.errors import SchemaMismatchError

if TYPE_CHECKING:
    from rlhive.data.formats._hdf5 import Hdf5File

#: HDF5's number of the layout of a virtual dataset.
_VIRTUAL = 3


class Hdf5Dataset:
    """A dataset whose values lie in its own file; ``[rows]`` and ``np.asarray`` read them as in h5py.

    Args:
        h5: The ``h5py.Dataset``.
        file: The file.

    Attributes:
        name: Its path in the file.
        context: Address for messages.
        shape: Its shape.
        dtype: Its dtype.

    Raises:
        SchemaMismatchError: The values lie in another file, or a chunk unpacks to more than its size.
    """

    def __init__(self, h5: Any, file: "Hdf5File"):
        self._h5 = h5
        self._file = file
        self.name = str(h5.name)
        self.context = f"{file.path}, {self.name}"
        self._sources = self._find_sources()
        self.shape: tuple[int, ...] = h5.shape or ()
        self.dtype: np.dtype = h5.dtype
        require_bounded_chunks(h5, self.context)

    @property
    def num_bytes(self) -> int:
        """Size of all values in memory; a text counts as a pointer."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Size of the values in the file; values that were never written take none."""
        num_bytes = self._h5.id.get_storage_size() + sum(source.stored_bytes for source in self._sources)
        return min(num_bytes, self._file.num_bytes)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """Read rows: all with ``()``, one with an integer, some with a slice.

        Raises:
            SchemaMismatchError: They would take more memory than the file accounts for.
        """
        share = self._count_rows(rows) / max(1, self._count_rows(()))
        require_memory(int(self.num_bytes * share), int(self.stored_bytes * share), self.context)
        return self._read_objects(rows) if self.dtype.hasobject else self._h5[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[()], dtype)

    def _count_rows(self, rows: Any) -> int:
        """Return the number of rows of a selection, or of all where the selection is of another kind."""
        num_rows = self.shape[0] if self.shape else 1
        if isinstance(rows, slice) and self.shape:
            return len(range(*rows.indices(num_rows)))
        return 1 if isinstance(rows, SupportsIndex) else num_rows

    def _read_objects(self, rows: Any) -> Any:
        """Read texts in pieces: each may be any text of the file, all of them the same one."""
        if not self.shape:
            return self._h5[rows]
        selected = range(self.shape[0])[rows] if isinstance(rows, int | slice) else range(self.shape[0])
        inner = self.shape[1:]
        if isinstance(selected, int):
            return self._read_objects(slice(selected, selected + 1))[0]
        values = np.empty((len(selected), *inner), object)
        total = 0
        piece = max(1, FREE_BYTES // max(1, self._file.num_bytes)) if not inner else 1
        for start in range(0, len(selected), piece):
            for index in itertools.product(*map(range, inner)):
                part = selected[start : start + piece]
                texts = self._h5[(slice(part.start, part.stop, part.step), *index)]
                total += sum(len(text) if hasattr(text, "__len__") else 1 for text in texts)
                require_memory(total, self._file.num_bytes, self.context, expansion=1)
                values[(slice(start, start + piece), *index)] = texts
        return values

    def _find_sources(self) -> "list[Hdf5Dataset]":
        """Return the datasets of which a virtual one is composed, after checking that all values lie in this file."""
        plist = self._h5.id.get_create_plist()
        if plist.get_external_count():
            file = plist.get_external(0)[0].decode("utf-8", "replace")
            raise refuse_reference(self.context, f"values stored in {file!r}")
        if plist.get_layout() != _VIRTUAL:
            return []
        indices = range(plist.get_virtual_count())
        names = sorted({(plist.get_virtual_filename(index), plist.get_virtual_dsetname(index)) for index in indices})
        sources = [self._file.find_source(name) if file == "." and "%" not in name else None for file, name in names]
        if None in sources:
            files = ", ".join(sorted({repr(file) for file, _ in names})[:5])
            raise refuse_reference(self.context, f"a virtual dataset of {files}")
        return [source for source in sources if source is not None]


def refuse_reference(context: str, reference: str) -> SchemaMismatchError:
    """Return the error for an object whose values lie in another file."""
    return SchemaMismatchError(
        f"{context}: expected values inside the file, got {reference}. Other files are not read; copy the values "
        "into this one."
    )
