"""Writing a memmap cache: the transitions of a version, episode by episode, into the files of :mod:`._layout`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rlhive.data import _store
from rlhive.data._dtypes import to_numpy_dtype
from rlhive.data._episodes import TERMINATED, TRUNCATED, Columns
from rlhive.data._ragged import make_rows
from rlhive.data._schema import Field, Schema
from rlhive.data.replay._frames import FrameWriter
from rlhive.data.replay._layout import (
    DONE_COLUMN,
    EPISODE_FIELD,
    FORMAT_VERSION,
    Block,
    ImageCache,
    build_blocks,
    build_index_block,
)
from rlhive.data.replay._ragged_rows import RaggedWriter
from rlhive.errors import CorruptDatasetError

#: Rows are written in chunks of at most this many bytes, whatever the size of the dataset or of the caller's batches.
CHUNK_BYTES = 16 * 2**20


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
            build_index_block(block) if block.name in self._videos else block for block in build_blocks(schema)
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
        columns = {**columns, DONE_COLUMN: columns[TERMINATED] | columns[TRUNCATED]}
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
            if item is EPISODE_FIELD:
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


def _link_videos(folder: Path, name: str, paths: Sequence[Path]) -> list[str]:
    """Give videos a second name in the cache; return the names."""
    names = [f"{name}-{index}.mp4" for index in range(len(paths))]
    for path, link in zip(paths, names, strict=True):
        _store.link_or_copy(path, folder / link)
    return names
