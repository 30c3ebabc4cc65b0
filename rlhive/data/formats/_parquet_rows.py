"""Rows of foreign Parquet files, episode by episode, and the encoded pictures in them."""

from pathlib import Path

import pyarrow as pa

from rlhive.data.formats._foreign_parquet import read_foreign_batches
from rlhive.data.formats._memory_limits import require_memory
from rlhive.errors import CorruptDatasetError, SchemaMismatchError


class ParquetRows:
    """The rows of several Parquet files in order, any number at a time.

    Args:
        paths: The files.
    """

    def __init__(self, paths: list[Path]):
        self._batches = read_foreign_batches(paths)
        self._stored_bytes = sum(path.stat().st_size for path in paths)
        self._pending: list[pa.RecordBatch] = []

    def take(self, count: int, *, context: str) -> pa.Table:
        """Return the next rows; fewer at the end.

        Raises:
            SchemaMismatchError: They would take more memory than the files account for.
        """
        while sum(len(batch) for batch in self._pending) < count:
            batch = self._read_batch()
            if batch is None:
                break
            self._pending.append(batch)
            num_bytes = sum(batch.nbytes for batch in self._pending)
            require_memory(num_bytes, self._stored_bytes, context)
        tables = [pa.Table.from_batches([batch]) for batch in self._pending]
        if not tables:
            return pa.table({"episode_index": pa.array([], pa.int64())})
        # Files may differ in the dtype of a column.
        table = pa.concat_tables(tables, promote_options="permissive")
        self._pending = [batch for batch in table.slice(count).to_batches() if len(batch)]
        return table.slice(0, count)

    def _read_batch(self) -> pa.RecordBatch | None:
        """Return the next batch; None at the end.

        Raises:
            SchemaMismatchError: The file is whole, but Arrow cannot read a type in it.
            CorruptDatasetError: The file is damaged.
        """
        try:
            return next(self._batches, None)
        except CorruptDatasetError as error:
            if isinstance(error.__cause__, (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError)):
                message = f"{str(error).partition(': ')[0]}: not understood: {' '.join(str(error.__cause__).split())}."
                raise SchemaMismatchError(message) from error
            raise


def read_picture_contents(column: pa.ChunkedArray, context: str) -> list[bytes]:
    """Return the encoded pictures of a column of ``{"bytes", "path"}``, or of bytes alone."""
    contents = []
    for row, value in enumerate(column.to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            msg = f"{context}, row {row}: expected an encoded picture, got {column.type} without bytes."
            raise SchemaMismatchError(msg)
        contents.append(content)
    return contents
