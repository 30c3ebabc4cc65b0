"""Arrow files of anyone: the size of every record batch is known before it is decompressed.

A batch that is not compressed is mapped from the file and takes no memory. Of a compressed one, each buffer begins with
its size as int64; where the buffers are, the batch's metadata say, a FlatBuffers message::

    Message      2 header
    RecordBatch  0 number of rows   2 buffers: offset and length, int64 each   3 compression, absent if there is none
"""

import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from rlhive.data.formats._memory_limits import require_memory
from rlhive.errors import SchemaMismatchError

_MAGIC = b"ARROW1\0\0"
#: Memory of a value as a Python object.
_OBJECT_BYTES = 64


def read_foreign_arrow(path: Path) -> pa.Table:
    """Return the rows of a file in Arrow's file format.

    Raises:
        SchemaMismatchError: The file is no such file or is damaged, or would take more memory than it accounts for.
    """
    try:
        with pa.memory_map(str(path)) as file:
            return _read_batches(path, file.read_buffer())
    except (OSError, pa.ArrowException, struct.error, IndexError) as error:
        if isinstance(error, MemoryError):
            raise
        msg = f"{path}: expected a readable Arrow file, got: {' '.join(str(error).split())}."
        raise SchemaMismatchError(msg) from error


def _read_batches(path: Path, content: pa.Buffer) -> pa.Table:
    if content[: len(_MAGIC)].to_pybytes() != _MAGIC:
        msg = f"{path}: expected a file in Arrow's file format, got another."
        raise SchemaMismatchError(msg)
    # The messages are read in their order: the offsets at the end of the file might name others.
    messages = pa.ipc.MessageReader.open_stream(content[len(_MAGIC) :])
    schema = pa.ipc.read_schema(messages.read_next_message())
    batches = []
    num_bytes = 0
    for message in messages:
        if message.type != "record batch":
            msg = f"{path}: expected rows, got a message of the kind {message.type}."
            raise SchemaMismatchError(msg)
        num_rows, unpacked = _measure_batch(message)
        num_bytes += unpacked + num_rows * len(schema) * _OBJECT_BYTES
        require_memory(num_bytes, content.size, str(path))
        batches.append(pa.ipc.read_record_batch(message, schema))
    return pa.Table.from_batches(batches, schema)


def _measure_batch(message: pa.ipc.Message) -> tuple[int, int]:
    """Return the number of rows of a batch, and the bytes that decompression allocates."""
    metadata, body = message.metadata.to_pybytes(), message.body
    header = _follow(metadata, _find_field(metadata, _follow(metadata, 0), 2))
    length = _find_field(metadata, header, 0)
    num_rows = struct.unpack_from("<q", metadata, length)[0] if length else 0
    buffers = _find_field(metadata, header, 2)
    if not buffers or not _find_field(metadata, header, 3):
        return num_rows, 0
    vector = _follow(metadata, buffers)
    unpacked = 0
    for index in range(struct.unpack_from("<I", metadata, vector)[0]):
        offset, size = struct.unpack_from("<qq", metadata, vector + 4 + 16 * index)
        if size >= 8:  # -1 stands for a buffer that is stored as it is
            unpacked += max(0, struct.unpack("<q", body[offset : offset + 8].to_pybytes())[0])
    return num_rows, unpacked


def _follow(content: bytes, position: int) -> int:
    return position + struct.unpack_from("<I", content, position)[0]


def _find_field(content: bytes, table: int, number: int) -> int:
    """Return the position of a table's field; 0 where the table lacks it."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", content, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", content, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0
