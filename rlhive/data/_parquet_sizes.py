"""How much memory the pages and row groups of a Parquet file take, found before any of them is decoded.

The footer says how large a row group is, but a page says for itself how large it becomes, and readers allocate what it
says. Both are written by whoever wrote the file. The headers of pages are read here, a few dozen bytes each::

    PageHeader     1 type   2 uncompressed size   3 compressed size   5 | 7 | 8 header of the kind
    header         1 number of values   2 encoding (5, 7)   4 encoding (8)

They are structs in Thrift's compact protocol: a byte with the number and type of a field, then its value.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from rlhive.errors import CorruptDatasetError

#: Bytes of a page's header, statistics included, that are read at most.
_HEADER_BYTES = 2**16
_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
#: Types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
#: Size of a decoded value by physical type.
VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class GroupSize:
    """Memory that a row group takes.

    Attributes:
        num_rows: Number of rows.
        page_bytes: Size of the largest page of each column together: a reader holds one of each.
        row_bytes: Size of a row on average; of a repeated text, the size that it may have at most.
        stored_bytes: Size in the file.
    """

    num_rows: int
    page_bytes: int
    row_bytes: int
    stored_bytes: int


def measure_groups(path: Path, columns: list[str] | None = None) -> list[GroupSize]:
    """Return the size of each row group of a Parquet file, from its footer and the headers of its pages.

    Args:
        path: Path of the file.
        columns: The top-level columns to look at; all by default.

    Raises:
        CorruptDatasetError: A header is damaged, or lies outside of the file.
        OSError, ArrowException: The file has no readable footer.
    """
    metadata = pq.read_metadata(path)
    with path.open("rb") as file:
        return [
            _measure_group(file, path, metadata.row_group(index), columns) for index in range(metadata.num_row_groups)
        ]


def _measure_group(file: BinaryIO, path: Path, group: Any, columns: list[str] | None) -> GroupSize:
    page_bytes = row_bytes = stored_bytes = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if columns is not None and column.path_in_schema.split(".")[0] not in columns:
            continue
        pages = list(_read_pages(file, path, column))
        page_bytes += max((page.num_bytes for page in pages), default=0)
        row_bytes += -(-_count_decoded_bytes(pages, column.physical_type) // max(group.num_rows, 1))
        stored_bytes += column.total_compressed_size
    return GroupSize(group.num_rows, page_bytes, row_bytes, stored_bytes)


@dataclass(frozen=True)
class _Page:
    num_bytes: int
    num_values: int
    is_dictionary: bool
    shares_prefixes: bool


def _count_decoded_bytes(pages: list[_Page], physical_type: str) -> int:
    """Return the size of all values of a column, or a bound where pages repeat texts."""
    values = [page for page in pages if not page.is_dictionary]
    num_values = sum(page.num_values for page in values)
    if physical_type in VALUE_BYTES:
        return num_values * VALUE_BYTES[physical_type]
    # A value that is repeated may be as large as the whole page that holds it.
    repeated = [page.num_bytes for page in pages if page.is_dictionary or page.shares_prefixes]
    return sum(page.num_bytes for page in values) + num_values * max(repeated, default=0)


def _read_pages(file: BinaryIO, path: Path, column: Any) -> Iterator[_Page]:
    """Yield the pages of a column of a row group."""
    start = column.data_page_offset
    if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < start:
        start = column.dictionary_page_offset
    position, end = start, start + column.total_compressed_size
    num_values = 0
    while position < end and num_values < column.num_values:
        file.seek(position)
        try:
            header, num_read = _read_struct(file.read(_HEADER_BYTES), 0)
            kind, num_bytes, num_stored = header[1], header[2], header[3]
            details = next(header[field] for field in (5, 7, 8) if field in header)
            encoding = details[4 if 8 in header else 2]
            page = _Page(num_bytes, details[1], kind == _DICTIONARY_PAGE, encoding == _DELTA_BYTE_ARRAY)
            if min(num_bytes, num_stored, page.num_values) < 0:
                raise ValueError(num_bytes)
        except (LookupError, ValueError, TypeError, StopIteration, RecursionError, struct.error) as error:
            msg = f"{path}: expected a page of {column.path_in_schema!r} at byte {position}, got something else."
            raise CorruptDatasetError(msg) from error
        yield page
        num_values += 0 if page.is_dictionary else page.num_values
        position += num_read + num_stored


def _read_struct(content: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and the position after it."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := content[position]) != 0:
        position += 1
        if head >> 4:
            number += head >> 4
        else:
            number, position = _read_integer(content, position)
        fields[number], position = _read_value(content, position, head & 15)
    return fields, position + 1


def _read_value(content: bytes, position: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, position
    if kind == _BYTE:
        return content[position], position + 1
    if kind < _DOUBLE:
        return _read_integer(content, position)
    if kind == _DOUBLE:
        return struct.unpack_from("<d", content, position)[0], position + 8
    if kind == _BINARY:
        size, position = _read_unsigned(content, position)
        return None, position + size
    if kind in (_LIST, _SET):
        head, position = content[position], position + 1
        size = head >> 4
        if size == 15:
            size, position = _read_unsigned(content, position)
        for _ in range(size):
            is_flag = head & 15 in (_TRUE, _FALSE)  # a byte each inside a list
            _, position = _read_value(content, position, _BYTE if is_flag else head & 15)
        return None, position
    if kind == _STRUCT:
        return _read_struct(content, position)
    raise ValueError(kind)


def _read_integer(content: bytes, position: int) -> tuple[int, int]:
    value, position = _read_unsigned(content, position)
    return (value >> 1) ^ -(value & 1), position


def _read_unsigned(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
    raise ValueError(position)
