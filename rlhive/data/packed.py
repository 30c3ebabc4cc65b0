"""The memmap cache of a version: rows packed by dtype, each observation stored once.

::

    <folder>/
      layout.json       which field lies where; counts
      float64.bin, …    one row-major array per dtype, as wide as all its fields together
      rows.bin          int64, physical row of each transition
      episodes.bin      int64 per episode: id, index of its split, index of its first transition, length

    transition       0    1    2          3    4
    physical row     0    1    2    3     4    5    6
    observation      s_0  s_1  s_2  s_3   s_0  s_1  s_2      observed fields: the row below is "next"
    action           a_0  a_1  a_2  0     a_0  a_1  0        the other fields: zeros below an episode's end
    episode          7    7    7    7     8    8    8

Derived from one version and safe to delete. The folder appears under its name when it is complete.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlhive import keys
from rlhive.data.episodes import Columns
from rlhive.data.schema import Field, Schema
from rlhive.errors import CorruptDataset

FORMAT_VERSION = 1
_EPISODE = Field(keys.EPISODE, "int64", (), observed=False)


@dataclass(frozen=True)
class Place:
    """Where a field lies: in the columns ``[start, stop)`` of its dtype's block."""

    field: Field
    start: int
    stop: int


def places_of(schema: Schema) -> dict[str, list[Place]]:
    """Return the layout of every block, by dtype; observed fields come first."""
    blocks: dict[str, list[Place]] = {}
    for item in sorted((*schema.fields, _EPISODE), key=lambda item: (not item.observed, item.column)):
        block = blocks.setdefault(item.dtype, [])
        start = block[-1].stop if block else 0
        block.append(Place(item, start, start + item.width))
    return blocks


class PackedWriter:
    """Fill a new cache folder, transitions in order and in as many pieces as one likes.

    Args:
        folder: An empty folder.
        schema: Of the transitions.
        splits: Names of the splits.
        episodes: One row per episode in order: id, index of its split, length; int64 ``[num_episodes, 3]``.
    """

    def __init__(self, folder: Path, schema: Schema, splits: Sequence[str], episodes: np.ndarray):
        self._folder, self._schema, self._splits = folder, schema, list(splits)
        ids, split_codes, lengths = episodes.T
        first = np.cumsum(lengths) - lengths
        self._table = np.stack([ids, split_codes, first, lengths], axis=1).astype(np.int64)
        self._rows = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(np.arange(len(ids)), lengths)
        self._last = first + lengths + np.arange(len(ids))
        self._places = places_of(schema)
        self._num_rows = len(self._rows) + len(ids)
        self._blocks = {dtype: self._new_block(dtype) for dtype in self._places}
        self._written = 0
        self._put(_EPISODE, slice(None), np.repeat(ids, lengths + 1))

    def write(self, columns: Columns) -> None:
        """Add the next transitions, arrays ``[n, *shape]`` by column name."""
        count = len(next(iter(columns.values())))
        rows = self._rows[self._written : self._written + count]
        for item in self._schema.fields:
            self._put(item, rows, columns[item.column])
        self._written += count

    def finish(self, finals: Columns) -> None:
        """Add the final values of all episodes, ``[num_episodes, *shape]``, and the layout.

        Raises:
            CorruptDataset: Fewer or more transitions came than the episodes have.
        """
        if self._written != len(self._rows):
            msg = f"Expected {len(self._rows)} transitions in the shards, got {self._written}. Fetch the version again."
            raise CorruptDataset(msg)
        for item in self._schema.observed:
            self._put(item, self._last, finals[item.column])
        for block in self._blocks.values():
            if isinstance(block, np.memmap):
                block.flush()
        self._rows.tofile(self._folder / "rows.bin")
        self._table.tofile(self._folder / "episodes.bin")
        layout = {
            "format_version": FORMAT_VERSION,
            "schema": self._schema.to_json(),
            "splits": self._splits,
            "num_transitions": len(self._rows),
            "num_episodes": len(self._table),
        }
        (self._folder / "layout.json").write_text(json.dumps(layout), encoding="utf-8")

    def _new_block(self, dtype: str) -> np.ndarray:
        path, shape = self._folder / f"{dtype}.bin", (self._num_rows, self._places[dtype][-1].stop)
        if 0 in shape:  # a file of no bytes cannot be mapped
            path.touch()
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "w+", shape=shape)

    def _put(self, item: Field, rows: np.ndarray | slice, values: np.ndarray) -> None:
        place = next(place for place in self._places[item.dtype] if place.field.column == item.column)
        self._blocks[item.dtype][rows, place.start : place.stop] = values.reshape(-1, item.width)


class Packed:
    """An open cache. Reads no Parquet; the arrays are mapped when first touched, by all processes together.

    The mappings are private (copy on write): nothing that is written to them reaches the files.

    Args:
        folder: What a :class:`PackedWriter` filled.

    Raises:
        CorruptDataset: A file is missing or has another size than the layout says.

    Attributes:
        schema: Of the transitions.
        blocks: One tensor per dtype, ``[num_rows, width]``.
        places: The layout of each block.
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
        except (OSError, ValueError, KeyError) as error:
            msg = f"layout.json: {error!r}"
            raise self._damaged(msg) from error
        self.places: Mapping[str, list[Place]] = places_of(self.schema)
        self.blocks = {
            dtype: self._map(f"{dtype}.bin", dtype, (count + episodes, places[-1].stop))
            for dtype, places in self.places.items()
        }
        self.rows = self._map("rows.bin", "int64", (count,))
        self.episodes = self._map("episodes.bin", "int64", (episodes, 4))

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

    def _map(self, name: str, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        path, count, kind = self.folder / name, int(np.prod(shape)), getattr(torch, dtype)
        expected = count * kind.itemsize
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            msg = f"{name}: expected {expected} bytes, got {found if found >= 0 else 'no file'}"
            raise self._damaged(msg)
        if not count:
            return torch.empty(shape, dtype=kind)
        return torch.from_file(str(path), shared=False, size=count, dtype=kind).reshape(shape)

    def _damaged(self, problem: str) -> CorruptDataset:
        return CorruptDataset(f"Cache {self.folder} is damaged: {problem}. Delete the folder; it is made again.")
