"""Ragged columns in the packed cache: the elements of all physical rows one after the other, and where each row begins.

::

    ragged-0.bin    [num_elements, *inner]    a final row holds the final value of an observed field, others nothing
    ragged-0.idx    int64 [num_rows + 1]      first element of each row, and the number of elements
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._ragged import join_rows
from rlhive.data._schema import Field


class RaggedWriter:
    """Writes the rows of one ragged column in order.

    Args:
        folder: Folder of the cache; rows are appended to those of an earlier build.
        name: Name of the files without a suffix.
    """

    def __init__(self, folder: Path, name: str):
        self._values = (folder / f"{name}.bin").open("ab")
        self._offsets = (folder / f"{name}.idx").open("ab")
        self._num_elements = 0
        if self._offsets.tell():
            self._num_elements = int(np.fromfile(folder / f"{name}.idx", np.int64)[-1])
        else:
            self._offsets.write(np.zeros(1, np.int64).tobytes())

    def write(self, rows: np.ndarray) -> None:
        """Add rows, an object array of arrays."""
        joined, lengths = join_rows(rows)
        self._values.write(np.ascontiguousarray(joined).tobytes())
        self._offsets.write((self._num_elements + lengths.cumsum()).tobytes())
        self._num_elements += len(joined)

    @property
    def files(self) -> tuple[BinaryIO, ...]:
        """The open files."""
        return self._values, self._offsets


class RaggedRows:
    """The rows of one ragged column, mapped or in the memory of a device.

    Args:
        item: The column's field.
        values: The elements as bytes, uint8 ``[num_elements, bytes of an element]``.
        offsets: First element of each row, and the number of elements, int64.
    """

    def __init__(self, item: Field, values: torch.Tensor, offsets: torch.Tensor):
        self.item = item
        self._values = values
        self._offsets = offsets

    @classmethod
    def open(cls, name: str, item: Field, num_rows: int, open_file: Callable[..., torch.Tensor]) -> "RaggedRows":
        """Return the rows in the files of a cache; ``open_file`` maps a file of a name, a shape and a dtype."""
        offsets = open_file(f"{name}.idx", (num_rows + 1,))
        element_bytes = math.prod(item.shape[1:]) * to_numpy_dtype(item.dtype).itemsize
        return cls(item, open_file(f"{name}.bin", (int(offsets[-1]), element_bytes), dtype=torch.uint8), offsets)

    @property
    def mean_bytes(self) -> int:
        """Mean size of a row."""
        return self._values.numel() // max(1, len(self._offsets) - 1)

    def load(self, rows: torch.Tensor, device: torch.device) -> "RaggedRows":
        """Return a copy of some rows in the memory of a device."""
        values, offsets = self._take(rows)
        return RaggedRows(self.item, values.to(device), offsets.to(device))

    def gather(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return some rows as a nested tensor of layout jagged, which owns its memory."""
        values, offsets = self._take(rows)
        elements = values.view(-1).view(getattr(torch, self.item.dtype)).view(-1, *self.item.shape[1:])
        return torch.nested.nested_tensor_from_jagged(elements.to(device), offsets.to(device))

    def _take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, stop = self._offsets[rows], self._offsets[rows + 1]
        parts = [self._values[start:end] for start, end in zip(first.tolist(), stop.tolist(), strict=True)]
        values = torch.cat(parts) if parts else self._values[:0].clone()
        return values, torch.cat([first.new_zeros(1), (stop - first).cumsum(0)])
