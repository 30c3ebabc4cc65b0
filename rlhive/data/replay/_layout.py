"""The memmap cache of a version: one record per row, so that a transition and its successor are one read.

::

    <folder>/
      layout.json       which field lies where; counts
      records.bin       row-major records of all small fields, the observed ones first
      wide-0.bin, …     one row-major block per field of WIDE bytes or more (pictures); where the cache is encoded,
                        wide-0.lz4 and wide-0.idx instead, see packed/frames
      rows.bin          int64, physical row of each transition
      episodes.bin      int64 per episode: id, index of its split, index of its first transition, length

    transition       0    1    2          3    4
    physical row     0    1    2    3     4    5    6
    observation      s_0  s_1  s_2  s_3   s_0  s_1  s_2      observed fields: the row below is "next"
    action           a_0  a_1  a_2  0     a_0  a_1  0        the other fields: zeros below an episode's end
    episode          7    7    7    7     8    8    8

    record of row t  │ observation │ … observed │ episode │ action │ next.reward │ … flags │ padding to 8 bytes │

A row and the row below lie next to each other in the file: reading on from the start of row t, to the end of what is
observed in the row below, gives ``observation``, ``action`` and ``("next", …)`` together. What TED derives (the root
flags, ``("next", "done")``) is stored as well, a byte each, so that a batch needs no arithmetic.

Derived from one version and safe to delete. The folder appears under its name when it is complete.
"""

import copy
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch

from rlhive import keys
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns
from rlhive.data._schema import Field, Schema
from rlhive.data.replay._frames import Form, Frames, FrameWriter
from rlhive.errors import CorruptDataset

FORMAT_VERSION = 3

#: How wide fields are kept: as rows that are mapped, or compressed frame by frame and decoded when they are read.
ImageCache = Literal["raw", "encoded"]

#: A field of this many bytes per row gets a block of its own: leaving it out of a batch then costs nothing.
WIDE = 4096

#: Rows are copied in pieces of this many bytes at most, whatever the size of a dataset or of its batches.
PIECE_BYTES = 16 * 2**20

_WORD = 8
_EPISODE = Field(keys.EPISODE, "int64", (), observed=False)
_DONE = keys.key_to_column(keys.NEXT_DONE)


@dataclass(frozen=True)
class Place:
    """Where a field lies: from byte ``start`` of its block's rows on."""

    field: Field
    start: int

    @property
    def stop(self) -> int:
        """The byte after its last one."""
        return self.start + self.field.width * np.dtype(self.field.dtype).itemsize


@dataclass(frozen=True)
class Block:
    """One file of rows: its name, its fields, and the bytes per row, a multiple of 8."""

    name: str
    places: tuple[Place, ...]
    row_bytes: int

    @property
    def form(self) -> Form:
        """Where the block is a wide field's own: the frames of its rows."""
        item = self.places[0].field
        return Form.of(item.shape, np.dtype(item.dtype).itemsize, self.row_bytes)

    @property
    def observed(self) -> bool:
        """Whether any of its fields has a twin below ``"next"``."""
        return any(place.field.observed for place in self.places)


def blocks_of(schema: Schema) -> tuple[Block, ...]:
    """Return the layout of every block; the records come first."""
    small, wide = [], []
    for item in (*schema.tensors, _EPISODE, *_derived(schema)):
        (wide if item.width * np.dtype(item.dtype).itemsize >= WIDE else small).append(item)
    small.sort(key=lambda item: (not item.observed, -np.dtype(item.dtype).itemsize, item.column))
    return (_block("records", small), *(_block(f"wide-{index}", [item]) for index, item in enumerate(wide)))


class PackedWriter:
    """Fill a new cache folder, transitions in order and in as many pieces as one likes.

    Memory: a piece and the table of the episodes; of pictures that are encoded also their index.

    Args:
        folder: An empty folder.
        schema: Of the transitions.
        splits: Names of the splits.
        episodes: One row per episode in order: id, index of its split, length (1 or more); int64 ``[E, 3]``.
        finals: Final values of all episodes, ``[E, *shape]`` by the column name of an observed field.
        image_cache: How wide fields are kept.
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
    ):
        self._folder, self._schema, self._splits, self._finals = folder, schema, list(splits), finals
        ids, split_codes, lengths = episodes.T
        first = np.cumsum(lengths) - lengths
        self._table = np.stack([ids, split_codes, first, lengths], axis=1).astype(np.int64)
        self._count = int(lengths.sum())
        self._starts = np.append(first, self._count)  # transitions; the last is where one more episode would begin
        self._begin = first + np.arange(len(ids))  # physical rows
        self._last = self._begin + lengths
        self._blocks = blocks_of(schema)
        self._encoded = [block.name for block in self._blocks[1:]] if image_cache == "encoded" else []
        begin = np.repeat(self._begin, lengths + 1) if self._encoded else np.zeros(0, np.int64)
        self._rows_file = (folder / "rows.bin").open("wb")
        self._files: list[BinaryIO | FrameWriter] = [
            FrameWriter(folder, block.name, block.form, begin)
            if block.name in self._encoded
            else (folder / f"{block.name}.bin").open("wb")
            for block in self._blocks
        ]
        self._written = 0

    def write(self, columns: Columns) -> None:
        """Add the next transitions, arrays ``[n, *shape]`` by column name.

        Raises:
            CorruptDataset: More transitions came than the episodes have.
        """
        count = len(next(iter(columns.values())))
        if self._written + count > self._count:
            raise self._miscounted(self._written + count)
        piece = max(1, PIECE_BYTES // max(block.row_bytes for block in self._blocks))
        for start in range(0, count, piece):
            self._write({name: values[start : start + piece] for name, values in columns.items()})

    def finish(self) -> None:
        """Write the tables and the layout.

        Raises:
            CorruptDataset: Fewer transitions came than the episodes have.
        """
        self.close()
        if self._written != self._count:
            raise self._miscounted(self._written)
        for file in self._files:
            if isinstance(file, FrameWriter):
                file.finish()
        # Not NumPy's tofile, whose errors do not say that the disk is full.
        (self._folder / "episodes.bin").write_bytes(self._table.data)
        layout = {
            "format_version": FORMAT_VERSION,
            "schema": self._schema.to_json(),
            "splits": self._splits,
            "num_transitions": self._count,
            "num_episodes": len(self._table),
            "encoded": self._encoded,
        }
        (self._folder / "layout.json").write_text(json.dumps(layout), encoding="utf-8")

    def close(self) -> None:
        """Close the files; what is in the folder stays half-written unless :meth:`finish` was called."""
        for file in (*self._files, self._rows_file):
            file.close()

    def _write(self, columns: Columns) -> None:
        """Append the physical rows of these transitions, the final rows of the episodes that they end included."""
        start, stop = self._written, self._written + len(next(iter(columns.values())))
        if start == stop:
            return
        transitions = np.arange(start, stop + 1)
        physical = transitions + np.searchsorted(self._starts, transitions, side="right") - 1
        self._rows_file.write(physical[:-1].data)
        first, behind = physical[0], physical[-1]
        columns = {**columns, _DONE: columns[TERMINATED] | columns[TRUNCATED]}
        here = physical[:-1] - first
        ended = slice(*np.searchsorted(self._last, [first, behind]))
        final = self._last[ended] - first
        for block, file in zip(self._blocks, self._files, strict=True):
            rows = np.zeros((behind - first, block.row_bytes), np.uint8)
            for place in block.places:
                item, target = place.field, rows[:, place.start : place.stop].view(place.field.dtype)
                if item is _EPISODE:
                    episode = np.searchsorted(self._begin, np.arange(first, behind), side="right") - 1
                    target[:, 0] = self._table[episode, 0]
                elif item.column in columns:
                    target[here] = columns[item.column].reshape(-1, item.width)
                if item.observed:
                    target[final] = self._finals[item.column][ended].reshape(-1, item.width)
            file.write(rows if isinstance(file, FrameWriter) else rows.data)
        self._written = stop

    def _miscounted(self, found: int) -> CorruptDataset:
        return CorruptDataset(
            f"Expected {self._count} transitions in the shards, got {found}. Fetch the version again."
        )


class Packed:
    """An open cache. Reads no Parquet; the arrays are mapped when first touched, by all processes together.

    The mappings are private (copy on write): nothing that is written to them reaches the files.

    Args:
        folder: What a :class:`PackedWriter` filled.

    Raises:
        CorruptDataset: A file is missing or has another size than the layout says.

    Attributes:
        schema: Of the transitions.
        blocks: The layout of each block, the records first.
        data: One int64 tensor per block, ``[num_rows, row_bytes // 8]``, or what decodes its rows.
        rows: int64 ``[num_transitions]``, physical row of each transition.
        episodes: int64 ``[num_episodes, 4]``: id, index of the split, first transition, length.
        splits: Names of the splits.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            layout = json.loads((self.folder / "layout.json").read_text(encoding="utf-8"))
            if layout["format_version"] != FORMAT_VERSION:
                raise ValueError(layout["format_version"])
            self.schema = Schema.from_json(layout["schema"])
            self.splits: list[str] = layout["splits"]
            count, episodes = layout["num_transitions"], layout["num_episodes"]
            encoded = set(layout.get("encoded", ()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            msg = f"layout.json: {error!r}"
            raise self._damaged(msg) from error
        self.blocks = blocks_of(self.schema)
        self.data = tuple(
            Frames(self.folder, block.name, block.form, count + episodes)
            if block.name in encoded
            else self._map(f"{block.name}.bin", (count + episodes, block.row_bytes // _WORD))
            for block in self.blocks
        )
        self.rows = self._map("rows.bin", (count,))
        self.episodes = self._map("episodes.bin", (episodes, 4))

    def __len__(self) -> int:
        return len(self.rows)

    def transitions_of(self, episodes: torch.Tensor) -> torch.Tensor:
        """Return the indices of all transitions of some episodes.

        Args:
            episodes: Positions in :attr:`episodes`, int64.

        Returns:
            int64, in the order of the episodes given.
        """
        chosen = self.episodes[episodes]
        first, length = chosen[:, 2], chosen[:, 3]
        offset = first - (length.cumsum(0) - length)
        return torch.arange(int(length.sum())) + torch.repeat_interleave(offset, length)

    def rows_of(self, episodes: torch.Tensor) -> torch.Tensor:
        """Return the physical rows of all transitions of some episodes; mapped where they lie one after the other."""
        if _consecutive(episodes):
            first, last = self.episodes[episodes[0]], self.episodes[episodes[-1]]
            return self.rows[int(first[2]) : int(last[2] + last[3])]
        return self.rows[self.transitions_of(episodes)]

    def resident(self, episodes: torch.Tensor, columns: Collection[str], device: torch.device) -> "Packed":
        """Return a copy of some episodes in a device's memory.

        Args:
            episodes: Positions in :attr:`episodes`, int64.
            columns: Fields to copy; a block that has none of them is left empty.
            device: Where to.
        """
        copied = copy.copy(self)
        table = self.episodes[episodes]
        length = table[:, 3]
        first = table[:, 2] + episodes
        offset = first - ((length + 1).cumsum(0) - (length + 1))
        whole = torch.arange(int((length + 1).sum())) + torch.repeat_interleave(offset, length + 1)
        chosen = slice(int(whole[0]), int(whole[-1]) + 1) if _consecutive(episodes) else whole
        copied.data = tuple(
            torch.empty(0, block.row_bytes // _WORD, dtype=torch.int64, device=device)
            if not any(place.field.column in columns for place in block.places)
            else data.take(whole).to(device)
            if isinstance(data, Frames)
            else data[chosen].to(device, copy=True)
            for block, data in zip(self.blocks, self.data, strict=True)
        )
        ends = torch.repeat_interleave(torch.arange(len(episodes)), length)
        copied.rows = (torch.arange(int(length.sum())) + ends).to(device)
        table = table.clone()
        table[:, 2] = length.cumsum(0) - length
        copied.episodes = table
        return copied

    def _map(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        path, count = self.folder / name, int(np.prod(shape))
        expected = count * _WORD
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            msg = f"{name}: expected {expected} bytes, got {found if found >= 0 else 'no file'}"
            raise self._damaged(msg)
        if not count:  # a file of no bytes cannot be mapped
            return torch.empty(shape, dtype=torch.int64)
        return torch.from_file(str(path), shared=False, size=count, dtype=torch.int64).reshape(shape)

    def _damaged(self, problem: str) -> CorruptDataset:
        return CorruptDataset(f"Cache {self.folder} is damaged: {problem}. Delete the folder; it is made again.")


def _derived(schema: Schema) -> Iterable[Field]:
    """The flags that TED has and a version does not store: False at the root, "either of them" below ``"next"``."""
    shape = schema[TERMINATED].shape
    return (Field(name, "bool", shape, observed=False) for name in (*keys.END_FLAGS, _DONE))


def _consecutive(episodes: torch.Tensor) -> bool:
    return len(episodes) > 0 and bool((episodes[1:] == episodes[:-1] + 1).all())


def _block(name: str, fields: Iterable[Field]) -> Block:
    places: list[Place] = []
    for item in fields:
        size = np.dtype(item.dtype).itemsize
        stop = places[-1].stop if places else 0
        places.append(Place(item, -(-stop // size) * size))
    return Block(name, tuple(places), -(-places[-1].stop // _WORD) * _WORD)
