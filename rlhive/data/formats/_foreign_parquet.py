"""Parquet files of anyone, read in pieces of bounded size."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlhive.data._parquet_sizes import measure_groups
from rlhive.data.formats._memory_limits import require_memory
from rlhive.errors import CorruptDatasetError

_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 * 2**20
#: Memory of a value as a Python object.
_OBJECT_BYTES = 64


def read_foreign_batches(paths: Iterable[Path], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of several files in order, and verify page checksums where the files have them.

    Memory: 16 MB and a page of each column, or one row.

    Args:
        paths: The files.
        columns: The columns to read; all by default.

    Raises:
        SchemaMismatchError: A page or a row would take more memory than the file accounts for.
        CorruptDatasetError: A file is missing or damaged, or Arrow cannot read a type in it; the cause tells which.
    """
    for path in paths:
        try:
            yield from _read_file(path, columns)
        except (OSError, KeyError, pa.ArrowException) as error:
            if isinstance(error, (MemoryError, CorruptDatasetError)):
                raise
            reason = " ".join(str(error).split())
            msg = f"{path}: expected a readable Parquet file, got: {reason}."
            raise CorruptDatasetError(msg) from error


def _read_file(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    sizes = measure_groups(path, columns)
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True) as file:
        for group, size in enumerate(sizes):  # all at once, their pages would be read ahead
            require_memory(size.page_bytes, size.stored_bytes, f"{path}, the pages of row group {group}")
            require_memory(size.row_bytes, size.stored_bytes, f"{path}, a row of row group {group}")
            count = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, size.row_bytes)))
            yield from file.iter_batches(batch_size=count, row_groups=[group], columns=columns)


def read_foreign_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one file as a table.

    Raises:
        SchemaMismatchError, CorruptDatasetError: As :func:`read_foreign_batches`; the first also for all rows together.
    """
    batches, num_bytes, stored_bytes = [], 0, path.stat().st_size
    for batch in read_foreign_batches([path], columns):
        num_bytes += batch.nbytes + batch.num_rows * batch.num_columns * _OBJECT_BYTES
        require_memory(num_bytes, stored_bytes, str(path))
        batches.append(batch)
    if not batches:
        schema = pq.read_schema(path)
        return schema.empty_table().select(columns or schema.names)
    return pa.Table.from_batches(batches)
