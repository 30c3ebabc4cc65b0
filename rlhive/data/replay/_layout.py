"""The memmap cache of a version: one record per row, so that a transition and its successor are one read.

::

    <folder>/
      layout.json       schema, splits and counts
      records.bin       row-major records of all small fields, the observed ones first
      wide-0.bin, …     one row-major block per field of WIDE bytes or more (pictures); in an encoded cache
                        wide-0.lz4 and wide-0.idx instead, see _frames.py; without one wide-0.idx and
                        wide-0-0.mp4, see _video_rows.py
      ragged-0.bin, …   the elements of a ragged field, and ragged-0.idx, see _ragged_rows.py
      rows.bin          int64, physical row of each transition
      episodes.bin      int64 per episode: id, index of its split, index of its first transition, length

    transition       0    1    2          3    4
    physical row     0    1    2    3     4    5    6
    observation      s_0  s_1  s_2  s_3   s_0  s_1  s_2      observed fields: the following row is "next"
    action           a_0  a_1  a_2  0     a_0  a_1  0        other fields: zeros in the row of the final observation
    episode          7    7    7    7     8    8    8

    record of row t  │ observation │ … observed │ episode │ action │ next.reward │ … flags │ padding to 8 bytes │

One read from the start of row t to the end of the observed fields of row t + 1 gives ``observation``, ``action`` and
``("next", …)`` together. What TED derives (the root flags, ``("next", "done")``) is stored as well, one byte each, so
that a batch needs no arithmetic.

The cache is derived from one version and safe to delete. Its folder gets its name when it is complete.
"""

import copy
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rlhive import keys
from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._episodes import TERMINATED
from rlhive.data._schema import Field, Schema
from rlhive.data.replay._checksums import damaged_cache_error
from rlhive.data.replay._frames import FrameFormat, FrameReader, RowReader
from rlhive.data.replay._mapping import MappedFiles
from rlhive.data.replay._ragged_rows import RaggedRows
from rlhive.data.replay._video_rows import VideoRows

FORMAT_VERSION = 3

#: How wide fields are stored: as mapped rows, compressed frame by frame, or not beside their videos; the last two are
#: decoded when they are read.
ImageCache = Literal["raw", "encoded", "none"]

#: A field of this many bytes per row gets a block of its own, so that a batch without it does not read it.
WIDE = 4096

#: What every cache holds beside the columns of a version.
EPISODE_FIELD = Field(keys.EPISODE, "int64", (), observed=False)
DONE_COLUMN = keys.key_to_column(keys.NEXT_DONE)

_WORD = 8


@dataclass(frozen=True)
class FieldLayout:
    """A field and the byte of its block's rows where it starts."""

    field: Field
    start: int

    @property
    def stop(self) -> int:
        """The byte after the field's last one."""
        return self.start + _field_bytes(self.field)


@dataclass(frozen=True)
class Block:
    """One file of rows: its name without a suffix, its fields, and the bytes per row, a multiple of 8."""

    name: str
    fields: tuple[FieldLayout, ...]
    row_bytes: int

    @property
    def frame_format(self) -> FrameFormat:
        """The frames of a row, for a block that holds one wide field."""
        item = self.fields[0].field
        return FrameFormat.from_shape(item.shape, to_numpy_dtype(item.dtype).itemsize, self.row_bytes)

    @property
    def row_words(self) -> int:
        """Int64 words per row."""
        return self.row_bytes // _WORD

    def holds_any(self, columns: Collection[str]) -> bool:
        """Return whether the block holds a field of one of these columns."""
        return any(layout.field.column in columns for layout in self.fields)


def build_blocks(schema: Schema) -> tuple[Block, ...]:
    """Return the layout of every block of a schema; the records come first."""
    fields = [*schema.tensors, EPISODE_FIELD, *_derived_flags(schema)]
    wide = [item for item in fields if _field_bytes(item) >= WIDE]
    small = [item for item in fields if _field_bytes(item) < WIDE]
    small.sort(key=lambda item: (not item.observed, -to_numpy_dtype(item.dtype).itemsize, item.column))
    return _build_block("records", small), *(_build_block(f"wide-{index}", [item]) for index, item in enumerate(wide))


def build_index_block(block: Block) -> Block:
    """Return the block of a video's index: for each picture of a row the number of its file and of its frame."""
    item = block.fields[0].field
    num_pictures = int(np.prod(item.shape[:-3]))
    return _build_block(block.name, [Field(item.column, "int64", (num_pictures, 2), item.observed)])


class PackedCache:
    """An open cache. It reads no Parquet; the arrays are mapped, and the page cache is shared by all processes.

    The mappings are private (copy on write): a write to an array does not reach the files.

    Args:
        folder: Folder that a :class:`~rlhive.data.replay._packed_writer.PackedCacheWriter` filled.

    Raises:
        CorruptDatasetError: A file is missing or has another size than the layout says.

    Attributes:
        folder: The folder.
        schema: Schema of the transitions.
        blocks: Layout of each block, the records first.
        data: Rows of each block: an int64 tensor ``[num_rows, row_bytes // 8]``, or the reader of encoded pictures.
        ragged: Rows of each ragged field.
        rows: int64 ``[num_transitions]``, physical row of each transition.
        episodes: int64 ``[num_episodes, 4]``: id, index of the split, first transition, length.
        splits: Names of the splits.
        files: The mapped files, to be checked before a read.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.files = MappedFiles(self.folder)
        try:
            layout = json.loads((self.folder / "layout.json").read_text(encoding="utf-8"))
            if layout["format_version"] != FORMAT_VERSION:
                raise ValueError(layout["format_version"])
            self.schema = Schema.from_json(layout["schema"])
            self.splits: list[str] = layout["splits"]
            num_transitions, num_episodes = layout["num_transitions"], layout["num_episodes"]
            encoded = set(layout.get("encoded", ()))
            videos: dict[str, list[str]] = layout.get("videos", {})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise damaged_cache_error(self.folder, f"layout.json: {error!r}") from error
        self.blocks = build_blocks(self.schema)
        num_rows = num_transitions + num_episodes
        self.data: tuple[torch.Tensor | RowReader, ...] = tuple(
            FrameReader(self.folder, block.name, block.frame_format, num_rows)
            if block.name in encoded
            else VideoRows(self.folder, block.name, block.fields[0].field, num_rows, videos[block.name])
            if block.name in videos
            else self._map(f"{block.name}.bin", (num_rows, block.row_words))
            for block in self.blocks
        )
        self.ragged = tuple(
            RaggedRows.open(f"ragged-{index}", item, num_rows, self._map)
            for index, item in enumerate(self.schema.ragged)
        )
        self.rows = self._map("rows.bin", (num_transitions,))
        self.episodes = self._map("episodes.bin", (num_episodes, 4), stays_mapped=False).clone()

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return PackedCache, (self.folder,)

    @property
    def content_key(self) -> str:
        """Name of the content; the raw and the encoded cache have the same one."""
        return self.folder.name.partition(".")[0]

    def transition_indices(self, episodes: torch.Tensor) -> torch.Tensor:
        """Return the indices of all transitions of some episodes.

        Args:
            episodes: Positions in :attr:`episodes`, int64.

        Returns:
            int64, in the order of ``episodes``.
        """
        table = self.episodes[episodes]
        return _concatenate_ranges(table[:, 2], table[:, 3])

    def transition_rows(self, episodes: torch.Tensor) -> torch.Tensor:
        """Return the physical rows of all transitions of some episodes; for consecutive episodes without a copy."""
        if _are_consecutive(episodes):
            first, last = self.episodes[episodes[0]], self.episodes[episodes[-1]]
            return self.rows[int(first[2]) : int(last[2] + last[3])]
        return self.rows[self.transition_indices(episodes)]

    def load(self, episodes: torch.Tensor, columns: Collection[str], device: torch.device) -> "PackedCache":
        """Return a copy of some episodes in the memory of a device.

        Args:
            episodes: Positions in :attr:`episodes`, int64.
            columns: Columns to copy; a block that holds none of them is left empty.
            device: Device of the copy.
        """
        table = self.episodes[episodes]
        length = table[:, 3]
        rows = _concatenate_ranges(self.rows[table[:, 2]], length + 1)
        is_one_piece = _are_consecutive(episodes) and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        selection = slice(int(rows[0]), int(rows[-1]) + 1) if is_one_piece else rows
        loaded = copy.copy(self)
        loaded.files = MappedFiles(self.folder)
        loaded.data = tuple(
            torch.empty(0, block.row_words, dtype=torch.int64, device=device)
            if not block.holds_any(columns)
            else data.take(rows).to(device)
            if isinstance(data, RowReader)
            else data[selection].to(device, copy=True)
            for block, data in zip(self.blocks, self.data, strict=True)
        )
        loaded.ragged = tuple(part.load(rows, device) if part.item.column in columns else part for part in self.ragged)
        # Before each transition lie the rows of the transitions before it and one final row per earlier episode.
        num_final_rows = torch.repeat_interleave(torch.arange(len(episodes), device="cpu"), length)
        loaded.rows = (torch.arange(int(length.sum()), device="cpu") + num_final_rows).to(device)
        loaded.episodes = table.clone()
        loaded.episodes[:, 2] = length.cumsum(0) - length
        return loaded

    def _map(
        self, name: str, shape: tuple[int, ...], *, stays_mapped: bool = True, dtype: torch.dtype = torch.int64
    ) -> torch.Tensor:
        path, count = self.folder / name, int(np.prod(shape))
        size = path.stat().st_size if path.is_file() else None
        if size != count * dtype.itemsize:
            problem = f"{name}: expected {count * dtype.itemsize} bytes, got {'no file' if size is None else size}"
            raise damaged_cache_error(self.folder, problem)
        if not count:  # an empty file cannot be mapped
            return torch.empty(shape, dtype=dtype, device="cpu")
        if stays_mapped:
            self.files.add(name)
        return torch.from_file(str(path), shared=False, size=count, dtype=dtype).reshape(shape)


def _derived_flags(schema: Schema) -> Iterable[Field]:
    """Return the flags of TED that a version does not store: those of the root, always False, and next.done."""
    shape = schema[TERMINATED].shape
    return (Field(name, "bool", shape, observed=False) for name in (*keys.END_FLAGS, DONE_COLUMN))


def _build_block(name: str, fields: Iterable[Field]) -> Block:
    """Return a block of some fields in order, each aligned to its dtype."""
    layouts: list[FieldLayout] = []
    for item in fields:
        itemsize = to_numpy_dtype(item.dtype).itemsize
        stop = layouts[-1].stop if layouts else 0
        layouts.append(FieldLayout(item, -(-stop // itemsize) * itemsize))
    return Block(name, tuple(layouts), -(-layouts[-1].stop // _WORD) * _WORD)


def _field_bytes(item: Field) -> int:
    return item.width * to_numpy_dtype(item.dtype).itemsize


def _concatenate_ranges(first: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return ``[first[0], first[0] + 1, … first[0] + length[0] - 1, first[1], …]``, int64."""
    offset = first - (length.cumsum(0) - length)
    return torch.arange(int(length.sum()), device="cpu") + torch.repeat_interleave(offset, length)


def _are_consecutive(episodes: torch.Tensor) -> bool:
    return len(episodes) > 0 and bool((episodes[1:] == episodes[:-1] + 1).all())
