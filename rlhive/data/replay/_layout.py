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
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch

from rlhive import keys
from rlhive.data import _store
from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns
from rlhive.data._ragged import make_rows
from rlhive.data._schema import Field, Schema
from rlhive.data.replay._checksums import damaged_cache_error
from rlhive.data.replay._frames import FrameFormat, FrameReader, FrameWriter, RowReader
from rlhive.data.replay._mapping import MappedFiles
from rlhive.data.replay._ragged_rows import RaggedRows, RaggedWriter
from rlhive.data.replay._video_rows import VideoRows
from rlhive.errors import CorruptDatasetError

FORMAT_VERSION = 3

#: How wide fields are stored: as mapped rows, compressed frame by frame, or not beside their videos; the last two are
#: decoded when they are read.
ImageCache = Literal["raw", "encoded", "none"]

#: A field of this many bytes per row gets a block of its own, so that a batch without it does not read it.
WIDE = 4096

#: Rows are written in chunks of at most this many bytes, whatever the size of the dataset or of the caller's batches.
CHUNK_BYTES = 16 * 2**20

_WORD = 8
_EPISODE = Field(keys.EPISODE, "int64", (), observed=False)
_DONE = keys.key_to_column(keys.NEXT_DONE)


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
    fields = [*schema.tensors, _EPISODE, *_derived_flags(schema)]
    wide = [item for item in fields if _field_bytes(item) >= WIDE]
    small = [item for item in fields if _field_bytes(item) < WIDE]
    small.sort(key=lambda item: (not item.observed, -to_numpy_dtype(item.dtype).itemsize, item.column))
    return _build_block("records", small), *(_build_block(f"wide-{index}", [item]) for index, item in enumerate(wide))


class PackedCacheWriter:
    """Fill a cache folder with transitions in order, in calls of any size.

    Memory: one chunk and the episode table.

    Args:
        folder: An empty folder, or that of an earlier build.
        schema: Schema of the transitions.
        splits: Names of the splits.
        episodes: One row per episode in order: id, index of its split, length (1 or more); int64 ``[E, 3]``.
        finals: Final values of all episodes, ``[E, *shape]`` by the column name of an observed field.
        image_cache: How to store wide fields.
        videos: For ``"none"``: the video files of each column that stays in them. Its values, in ``finals`` and in what
            is written, are the number of a file and of a frame in it, int64 ``[…, num_pictures, 2]``.
        num_written: Number of transitions that the folder holds already.

    Attributes:
        num_written: Number of transitions that were written.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        splits: Sequence[str],
        episodes: np.ndarray,
        finals: Columns,
        *,
        image_cache: ImageCache = "raw",
        videos: Mapping[str, Sequence[Path]] | None = None,
        num_written: int = 0,
    ):
        self._folder = folder
        self._schema = schema
        self._splits = list(splits)
        self._finals = finals
        ids, split_codes, lengths = episodes.T
        first = np.cumsum(lengths) - lengths
        self._table = np.stack([ids, split_codes, first, lengths], axis=1).astype(np.int64)
        self._num_transitions = int(lengths.sum())
        self.num_written = num_written
        # Transitions with which an episode starts, and the one with which one more episode would start.
        self._starts = np.append(first, self._num_transitions)
        # Physical rows of the first and of the final observation of every episode.
        self._first_rows = first + np.arange(len(ids))
        self._final_rows = self._first_rows + lengths
        self._videos = {
            block.name: _link_videos(folder, block.name, videos[block.fields[0].field.column])
            for block in build_blocks(schema)[1:]
            if videos and block.fields[0].field.column in videos
        }
        self._blocks = [
            _build_index_block(block) if block.name in self._videos else block for block in build_blocks(schema)
        ]
        self._encoded = [block.name for block in self._blocks[1:]] if image_cache == "encoded" else []
        self._rows_file = (folder / "rows.bin").open("ab")
        self._files = [self._open_block(block) for block in self._blocks]
        self._ragged = [RaggedWriter(folder, f"ragged-{index}") for index in range(len(schema.ragged))]

    def write(self, columns: Columns) -> None:
        """Add the next transitions, arrays ``[n, *shape]`` by column name.

        Raises:
            CorruptDatasetError: There are more transitions than the episodes have.
        """
        count = len(next(iter(columns.values())))
        if self.num_written + count > self._num_transitions:
            raise self._count_error(self.num_written + count)
        chunk = max(1, CHUNK_BYTES // max(block.row_bytes for block in self._blocks))
        for start in range(0, count, chunk):
            self._write_chunk({name: values[start : start + chunk] for name, values in columns.items()})

    def flush(self) -> list[str]:
        """Flush what was written to the disk; return the names of the files."""
        for file in self._open_files:
            file.flush()
            os.fsync(file.fileno())
        return [Path(file.name).name for file in self._open_files]

    def finish(self) -> None:
        """Write the tables and the layout.

        Raises:
            CorruptDatasetError: There were fewer transitions than the episodes have.
        """
        self.close()
        if self.num_written != self._num_transitions:
            raise self._count_error(self.num_written)
        # Not NumPy's tofile, whose errors do not say that the disk is full.
        (self._folder / "episodes.bin").write_bytes(self._table.data)
        layout = {
            "format_version": FORMAT_VERSION,
            "schema": self._schema.to_json(),
            "splits": self._splits,
            "num_transitions": self._num_transitions,
            "num_episodes": len(self._table),
            "encoded": self._encoded,
            "videos": self._videos,
        }
        (self._folder / "layout.json").write_text(json.dumps(layout), encoding="utf-8")

    def close(self) -> None:
        """Close the files; without :meth:`finish` the folder is no cache."""
        for file in self._open_files:
            file.close()

    @property
    def _open_files(self) -> list[BinaryIO]:
        files: list[BinaryIO] = [self._rows_file]
        for part in (*self._files, *self._ragged):
            files.extend(part.files if isinstance(part, FrameWriter | RaggedWriter) else [part])
        return files

    def _open_block(self, block: Block) -> BinaryIO | FrameWriter:
        if block.name in self._videos:
            return (self._folder / f"{block.name}.idx").open("ab")
        if block.name not in self._encoded:
            return (self._folder / f"{block.name}.bin").open("ab")
        first_row_of_each = np.repeat(self._first_rows, self._final_rows - self._first_rows + 1)
        return FrameWriter(self._folder, block.name, block.frame_format, first_row_of_each)

    def _write_chunk(self, columns: Columns) -> None:
        """Append the physical rows of these transitions, including the final rows of the episodes that they end."""
        start, stop = self.num_written, self.num_written + len(next(iter(columns.values())))
        if start == stop:
            return
        transitions = np.arange(start, stop + 1)
        physical_rows = transitions + np.searchsorted(self._starts, transitions, side="right") - 1
        self._rows_file.write(physical_rows[:-1].data)
        columns = {**columns, _DONE: columns[TERMINATED] | columns[TRUNCATED]}
        for block, file in zip(self._blocks, self._files, strict=True):
            rows = self._fill_rows(block, columns, physical_rows)
            if isinstance(file, FrameWriter):
                file.write(rows)
            else:
                file.write(rows.data)
        for item, ragged_file in zip(self._schema.ragged, self._ragged, strict=True):
            ragged_file.write(self._fill_ragged_rows(item, columns[item.column], physical_rows))
        self.num_written = stop

    def _fill_rows(self, block: Block, columns: Columns, physical_rows: np.ndarray) -> np.ndarray:
        """Return the rows of a block, uint8 ``[n, row_bytes]``.

        Args:
            block: The block.
            columns: Values of some transitions.
            physical_rows: Rows of these transitions, and the row of the transition that follows them.
        """
        first, stop = physical_rows[0], physical_rows[-1]
        ended = slice(*np.searchsorted(self._final_rows, [first, stop]))
        rows = np.zeros((stop - first, block.row_bytes), np.uint8)
        for layout in block.fields:
            item = layout.field
            target = rows[:, layout.start : layout.stop].view(to_numpy_dtype(item.dtype))
            if item is _EPISODE:
                episode = np.searchsorted(self._first_rows, np.arange(first, stop), side="right") - 1
                target[:, 0] = self._table[episode, 0]
            elif item.column in columns:
                target[physical_rows[:-1] - first] = columns[item.column].reshape(-1, item.width)
            if item.observed:
                target[self._final_rows[ended] - first] = self._finals[item.column][ended].reshape(-1, item.width)
        return rows

    def _fill_ragged_rows(self, item: Field, values: np.ndarray, physical_rows: np.ndarray) -> np.ndarray:
        """Return the rows of a ragged column as an object array; the arguments are those of :meth:`_fill_rows`."""
        first, stop = physical_rows[0], physical_rows[-1]
        rows = make_rows([np.empty((0, *item.shape[1:]), to_numpy_dtype(item.dtype))] * (stop - first))
        rows[physical_rows[:-1] - first] = values
        if item.observed:
            ended = slice(*np.searchsorted(self._final_rows, [first, stop]))
            rows[self._final_rows[ended] - first] = self._finals[item.column][ended]
        return rows

    def _count_error(self, count: int) -> CorruptDatasetError:
        return CorruptDatasetError(
            f"Expected {self._num_transitions} transitions in the shards, got {count}. Fetch the version again."
        )


class PackedCache:
    """An open cache. It reads no Parquet; the arrays are mapped, and the page cache is shared by all processes.

    The mappings are private (copy on write): a write to an array does not reach the files.

    Args:
        folder: Folder that a :class:`PackedCacheWriter` filled.

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


def _build_index_block(block: Block) -> Block:
    """Return the block of a video's index: for each picture of a row the number of its file and of its frame."""
    item = block.fields[0].field
    num_pictures = int(np.prod(item.shape[:-3]))
    return _build_block(block.name, [Field(item.column, "int64", (num_pictures, 2), item.observed)])


def _link_videos(folder: Path, name: str, paths: Sequence[Path]) -> list[str]:
    """Give videos a second name in the cache; return the names."""
    names = [f"{name}-{index}.mp4" for index in range(len(paths))]
    for path, link in zip(paths, names, strict=True):
        _store.link_or_copy(path, folder / link)
    return names


def _derived_flags(schema: Schema) -> Iterable[Field]:
    """Return the flags of TED that a version does not store: those of the root, always False, and next.done."""
    shape = schema[TERMINATED].shape
    return (Field(name, "bool", shape, observed=False) for name in (*keys.END_FLAGS, _DONE))


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
