"""Caches of several versions as one: what a mixture samples from.

::

    records.bin of version 0      │ unused │ records.bin of version 1      │ unused │ …      one range of addresses
    rows 0 … n0 - 1               │        │ rows s1 … s1 + n1 - 1         │        │
"""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlhive.data.replay._frames import RowReader
from rlhive.data.replay._layout import PackedCache
from rlhive.data.replay._mapping import MappedFiles, map_side_by_side

_ROWS = "rows.bin"

#: Files begin with a page, which has so many int64 words. A row of any width that begins there has a whole number.
_ROW_STEP = mmap.PAGESIZE // 8


class JoinedCache(PackedCache):
    """Several caches of one layout as one, whose files lie side by side in memory; none is copied.

    One gather therefore reads rows of all of them, in the time in which it reads those of one.

    Args:
        caches: The caches; their fields have the same names, dtypes and shapes. Ragged fields are left out.
    """

    def __init__(self, caches: Sequence[PackedCache]):
        first = caches[0]
        self._caches = list(caches)
        self.folder = first.folder
        self.schema, self.splits, self.blocks, self.ragged = first.schema, first.splits, first.blocks, ()
        self.files = MappedFiles.join([cache.files for cache in caches], without=_ROWS)
        num_rows = [len(cache.rows) + len(cache.episodes) for cache in caches]
        sizes = [-(-count // _ROW_STEP) * _ROW_STEP for count in num_rows]
        starts = np.cumsum([0, *sizes]).tolist()
        self.data = tuple(self._join_block(number, starts) for number in range(len(self.blocks)))
        self.rows = torch.cat([cache.rows + start for cache, start in zip(caches, starts[:-1], strict=True)])
        self.episodes = torch.cat([cache.episodes for cache in caches])
        num_transitions = torch.tensor([len(cache.rows) for cache in caches], device="cpu")
        num_episodes = torch.tensor([len(cache.episodes) for cache in caches], device="cpu")
        self.episodes[:, 2] += torch.repeat_interleave(num_transitions.cumsum(0) - num_transitions, num_episodes)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return JoinedCache, (self._caches,)

    @property
    def content_key(self) -> str:
        """Names of the contents, in order."""
        return "+".join(cache.content_key for cache in self._caches)

    def _join_block(self, number: int, starts: Sequence[int]) -> torch.Tensor | RowReader:
        parts = [cache.data[number] for cache in self._caches]
        if any(isinstance(part, RowReader) for part in parts):
            return JoinedReader(parts, starts[:-1])
        block = self.blocks[number]
        paths = [cache.folder / f"{block.name}.bin" for cache in self._caches]
        words = [start * block.row_words for start in starts]
        return map_side_by_side(paths, words[:-1], words[-1]).view(-1, block.row_words)


class JoinedReader(RowReader):
    """Rows of several caches, some of which are decoded when they are read.

    Args:
        parts: Rows of each cache: a tensor ``[num_rows, row_bytes // 8]`` or a reader.
        starts: Number of the first row of each.
    """

    def __init__(self, parts: Sequence[torch.Tensor | RowReader], starts: Sequence[int]):
        self._parts = parts
        self._starts = torch.tensor(starts, device="cpu")

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows by their numbers, int64 ``[n, row_bytes // 8]`` in new memory."""
        owners = torch.searchsorted(self._starts, rows, right=True) - 1
        order = owners.argsort(stable=True)
        counts = torch.bincount(owners, minlength=len(self._parts)).tolist()
        numbers = torch.split((rows - self._starts[owners])[order], counts)
        pieces = [_take(part, local) for part, local in zip(self._parts, numbers, strict=True) if len(local)]
        return torch.cat(pieces)[order.argsort()] if pieces else _take(self._parts[0], rows)


def _take(part: torch.Tensor | RowReader, rows: torch.Tensor) -> torch.Tensor:
    return part.take(rows) if isinstance(part, RowReader) else part[rows]
