"""Compressed chunks of HDF5 datasets: how much memory each unpacks to.

HDF5 inflates a chunk until its stream ends, however long that takes and whatever size the dataset declares.
"""

import math
import zlib
from typing import Any

from rlhive.data.formats._memory_limits import FREE_BYTES, format_bytes, require_memory
from rlhive.errors import SchemaMismatchError

_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _NBIT, _SCALE_OFFSET = 1, 2, 3, 4, 5, 6
#: No deflate stream unpacks to more than this multiple of its size.
_DEFLATE_EXPANSION = 1032
#: Bytes that are inflated at a time.
_PIECE_BYTES = 2**20


def require_bounded_chunks(dataset: Any, context: str) -> None:
    """Check the chunks of an ``h5py.Dataset`` before any is read.

    Raises:
        SchemaMismatchError: A chunk declares, or unpacks to, more than the file accounts for.
    """
    if not dataset.chunks:
        return
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    require_memory(chunk_bytes, dataset.id.get_storage_size(), f"{context}, a chunk")
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(index) for index in range(plist.get_nfilters())]
    kinds = [item[0] for item in filters]
    compressing = [kind for kind in kinds if kind not in (_SHUFFLE, _FLETCHER32, _NBIT, _SCALE_OFFSET)]
    if len(compressing) > 1:
        msg = f"{context}: expected one compression, got {len(compressing)} on top of one another."
        raise SchemaMismatchError(msg)
    for kind, _, values, *_ in filters:
        if kind in (_NBIT, _SCALE_OFFSET) and (len(values) < 3 or values[2] > math.prod(dataset.chunks)):
            msg = f"{context}: expected a filter for {math.prod(dataset.chunks)} numbers a chunk, got another."
            raise SchemaMismatchError(msg)
    if compressing and compressing[0] in (_DEFLATE, _SZIP):
        _require_bounded_streams(dataset, compressing[0], kinds, chunk_bytes, context)


def _require_bounded_streams(dataset: Any, kind: int, kinds: list[int], chunk_bytes: int, context: str) -> None:
    """Inflate, in pieces, every chunk that is large enough to unpack to more than the free bytes."""
    is_outermost = all(other == _FLETCHER32 for other in kinds[kinds.index(kind) + 1 :])
    threshold = FREE_BYTES // _DEFLATE_EXPANSION if kind == _DEFLATE else 0
    offsets: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda chunk: offsets.append(chunk.chunk_offset) if chunk.size > threshold else None)
    for offset in offsets:
        mask, content = dataset.id.read_direct_chunk(offset)
        if mask & 1 << kinds.index(kind):  # stored as it is
            continue
        if not is_outermost or not _is_within(content, kind, chunk_bytes):
            msg = (
                f"{context}, chunk at {list(offset)}: expected {format_bytes(chunk_bytes)}, got "
                f"{format_bytes(len(content))} that unpack to more."
            )
            raise SchemaMismatchError(msg)


def _is_within(content: bytes, kind: int, chunk_bytes: int) -> bool:
    """Return whether a compressed chunk unpacks to at most its size; a damaged one is left to HDF5 to refuse."""
    if kind == _SZIP:
        return int.from_bytes(content[:4], "little") <= chunk_bytes
    stream, total = zlib.decompressobj(), 0
    pending = content
    while pending and not stream.eof:
        try:
            total += len(stream.decompress(pending, _PIECE_BYTES))
        except zlib.error:
            return True
        if total > chunk_bytes:
            return False
        pending = stream.unconsumed_tail
    return True
