"""The boxes of an MP4 file, compared with those that a version's videos have before FFmpeg reads any."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

_Boxes = dict[bytes, Any]
_ENTRY: _Boxes = {key: {} for key in (b"avcC", b"hvcC", b"av1C", b"glbl", b"pasp", b"fiel", b"colr", b"btrt")}
_TABLES: _Boxes = {
    b"stsd": dict.fromkeys((b"avc1", b"hev1", b"av01", b"FFV1"), _ENTRY),
    **{key: {} for key in (b"stts", b"stss", b"stsc", b"stsz", b"stco", b"co64")},
}
_TRACK: _Boxes = {
    b"tkhd": {},
    b"edts": {b"elst": {}},
    b"mdia": {b"mdhd": {}, b"hdlr": {}, b"minf": {b"vmhd": {}, b"dinf": {b"dref": {}}, b"stbl": _TABLES}},
}
#: The boxes of an MP4 file that is opened, and those inside of them; no others.
_FILE: _Boxes = {
    **{key: {} for key in (b"ftyp", b"free", b"mdat")},
    b"moov": {b"mvhd": {}, b"trak": _TRACK, b"udta": {b"meta": {b"hdlr": {}, b"ilst": {b"\xa9too": {}}}}},
}
#: Bytes in front of the boxes inside of a box.
_SKIPPED = {b"stsd": 8, b"meta": 4, **dict.fromkeys((b"avc1", b"hev1", b"av01", b"FFV1"), 78)}
#: Where the tables have the number of their entries, in bytes after the box's head.
_COUNT_OFFSETS = {b"stsz": 8, **dict.fromkeys((b"stts", b"stss", b"stsc", b"stco", b"co64", b"elst"), 4)}
#: Head of a box, and entry of the table of times.
_BOX, _STTS = struct.Struct(">I4s"), struct.Struct(">II")


def require_usual_boxes(file: BinaryIO, num_bytes: int) -> None:
    """Raise ValueError unless an MP4 file holds the usual boxes only, and no table has more entries than it has bytes.

    FFmpeg reads dozens of other boxes, in any place, allocates what the tables say, and repeats all frames for each
    edit (``elst``).
    """
    num_tracks, counts = 0, {b"elst": 1}
    for kind, start, stop in _iterate_boxes(file, 0, num_bytes, _FILE):
        num_tracks += kind == b"trak"
        if kind in _COUNT_OFFSETS:
            counts[kind] = max(counts.get(kind, 0), _count_entries(file, kind, start, stop))
    num_edits = counts.pop(b"elst")
    num_frames = max(counts.values(), default=0) * num_edits
    if num_tracks > 1 or num_frames > num_bytes:
        msg = f"{num_tracks} tracks of up to {num_frames} frames in {num_bytes} bytes"
        raise ValueError(msg)


def _count_entries(file: BinaryIO, kind: bytes, start: int, stop: int) -> int:
    """Return the number of entries that a table says it has; for the table of times that of its frames."""
    head = _COUNT_OFFSETS[kind] + 4
    if stop - start < head:
        msg = f"a table {kind!r} of {stop - start} bytes"
        raise ValueError(msg)
    file.seek(start + head - 4)
    count = int.from_bytes(file.read(4), "big")
    if kind != b"stts":
        return count
    entries = file.read(stop - start - head)
    return max(count, sum(frames for frames, _ in _STTS.iter_unpack(entries[: len(entries) // 8 * 8])))


def _iterate_boxes(file: BinaryIO, start: int, stop: int, tree: _Boxes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, first byte and the byte after the last of each box of an MP4 file, and of those inside."""
    while start < stop:
        file.seek(start)
        content = file.read(_BOX.size)
        size, kind = _BOX.unpack(content) if len(content) == _BOX.size else (0, b"")
        head = _BOX.size
        if size == 1 and kind == b"mdat":  # more than 4 GB: the size is in the next 8 bytes
            size, head = int.from_bytes(file.read(8), "big"), 16
        end = start + size
        if kind not in tree or end < start + head or end > stop:
            msg = f"a box {kind!r} of {size} bytes where {stop - start} are left"
            raise ValueError(msg)
        yield kind, start + head, end
        if tree[kind]:
            yield from _iterate_boxes(file, start + head + _SKIPPED.get(kind, 0), end, tree[kind])
        start = end
