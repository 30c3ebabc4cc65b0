"""Video files: refusal of damaged ones, errors that name the frame, and packets that are read once."""

import hashlib

import numpy as np
import pytest

from rlhive.data import _video_encoding
from rlhive.data._encoded_pictures import encode_pictures
from rlhive.data._picture_codecs import parse_storage
from rlhive.data._pictures import find_layout
from rlhive.data._video_encoding import encode_clip
from rlhive.data._video_files import FrameDecoder, VideoFile
from rlhive.errors import CorruptDatasetError, MissingExtraError

av = pytest.importorskip("av")

SHAPE = (32, 40, 3)
LAYOUT = find_layout("uint8", SHAPE)


def encode(storage, shape=SHAPE, num_frames=6):
    rows = np.random.default_rng(0).integers(0, 255, (num_frames, *shape), np.uint8)
    return encode_clip(rows, find_layout("uint8", shape), parse_storage(storage))


def read_content(clip):
    with clip.video.open_source() as file:
        return file.read()


def overwrite(content, box, offset, new):
    """Change bytes of a box; the offset is from the end of its type."""
    start = content.rindex(box) + len(box) + offset
    return content[:start] + new + content[start + len(new) :]


def repeat_edit(content, count):
    """Return a video that plays its only edit many times."""
    start = content.index(b"elst") - 4
    size = int.from_bytes(content[start : start + 4], "big")
    edit = content[start + 16 : start + size]
    box = (16 + count * len(edit)).to_bytes(4, "big") + b"elst" + bytes(4) + count.to_bytes(4, "big") + count * edit
    longer = bytearray(content[:start] + box + content[start + size :])
    for kind in (b"moov", b"trak", b"edts"):
        head = longer.rindex(kind) - 4
        old_size = int.from_bytes(longer[head : head + 4], "big")
        longer[head : head + 4] = (old_size + len(box) - size).to_bytes(4, "big")
    return bytes(longer)


def read_parameter_sets(header):
    """Return the units of an avcC box: sizes and codecs of the frames that follow."""
    units, position = [], 5
    for mask in (31, 255):
        count, position = header[position] & mask, position + 1
        for _ in range(count):
            size = int.from_bytes(header[position : position + 2], "big")
            units.append(header[position + 2 : position + 2 + size])
            position += 2 + size
    return units


@pytest.mark.parametrize("storage", ["av1", "h264"])
def test_a_frame_that_is_larger_than_the_video_is_not_decoded(storage):
    small, large = encode(storage), encode(storage, (512, 512, 3))
    packet = large.packets()[0]
    if storage == "h264":  # an av1 packet names its size by itself
        units = read_parameter_sets(large.video.header)
        packet = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units) + packet
    decoder = FrameDecoder(small.video)

    with pytest.raises(av.FFmpegError):
        [decoder.decode(part) for part in (av.Packet(packet), None)]

    fitting = FrameDecoder(large.video)
    (picture,) = [*fitting.decode(av.Packet(packet)), *fitting.decode(None)]
    assert picture.width == 512


@pytest.mark.parametrize(
    ("box", "offset", "new", "message"),
    [
        (b"stsz", 8, b"\xff\xff\xff\xff", r"1 tracks of up to 4294967295 frames in \d+ bytes"),
        (b"stts", 8, b"\x7f\xff\xff\xff", r"1 tracks of up to 2147483647 frames in \d+ bytes"),
        (b"stss", 4, b"\x7f\xff\xff\xff", r"1 tracks of up to 2147483647 frames in \d+ bytes"),
        (b"elst", 4, b"\0\1\0\0", r"1 tracks of up to 393216 frames in \d+ bytes"),
        (b"stsz", -8, b"\0\0\0\x0c", r"a table b'stsz' of 4 bytes"),
        (b"stss", -8, b"\0\0\0\2", r"a box b'stss' of 2 bytes where"),
        (b"stss", -4, b"ctts", r"a box b'ctts' of"),
        (b"btrt", -4, b"trak", r"a box b'trak' of"),
        (b"ilst", -8, b"\0\0\0\0", r"a box b'ilst' of 0 bytes"),
    ],
)
def test_an_index_larger_than_the_file_is_refused_before_it_is_read(box, offset, new, message):
    content = overwrite(read_content(encode("h264")), box, offset, new)

    with pytest.raises(CorruptDatasetError, match=f"a.mp4: expected an MP4 file of one video, got {message}"):
        VideoFile(content, "a.mp4")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: overwrite(content, b"stco", 8, b"\x7f\xff\xff\xff"), "frames that lie outside of the file"),
        (lambda content: repeat_edit(content, 2), "frames that overlap"),
        (lambda content: repeat_edit(content, 10_000), r"1 tracks of up to 300000 frames in \d+ bytes"),
    ],
    ids=["outside", "overlap", "edits"],
)
def test_frames_lie_inside_of_the_file_and_once(spoil, message):
    content = read_content(encode("h264", num_frames=30))
    assert len(VideoFile(repeat_edit(content, 1), "a.mp4")) == 30

    with pytest.raises(CorruptDatasetError, match=f"a.mp4: expected an MP4 file of one video, got .*{message}"):
        VideoFile(spoil(content), "a.mp4")


def test_frames_before_the_first_key_frame_are_named():
    content = overwrite(read_content(encode("h264")), b"stss", 8, (2).to_bytes(4, "big"))
    video = VideoFile(content, "a.mp4")

    with pytest.raises(CorruptDatasetError, match=r"a.mp4, frame 0 of episode 3: .*got no key frame before it"):
        list(video.decode(0, 1, LAYOUT, context="episode 3"))


def test_a_packet_without_a_picture_is_named():
    clip = encode("av1")
    packet = clip.packets()[1]
    num_padding = len(packet) - 5
    size = bytes([num_padding & 127 | 128, num_padding >> 7])
    empty = b"\x12\x00\x7a" + size + bytes(num_padding - 1) + b"\x80"  # a delimiter, and padding
    video = VideoFile(read_content(clip).replace(packet, empty), "a.mp4")

    with pytest.raises(CorruptDatasetError, match=r"a.mp4, frame 1: expected a picture, got 1 pictures from 2 packets"):
        list(video.decode(0, 2, LAYOUT))


def test_an_encoder_that_is_missing_is_named(monkeypatch):
    _video_encoding._require_encoder.cache_clear()
    monkeypatch.setattr(av, "codecs_available", set())

    with pytest.raises(MissingExtraError, match="Storing pictures as h264 needs the encoder libx264"):
        encode("h264")


def test_a_hash_reads_every_packet_once(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 255, (6, *SHAPE), np.uint8)
    pictures = encode_pictures(rows[:5], rows[5], str(parse_storage("h264")))
    read, frames = VideoFile.read, []
    monkeypatch.setattr(
        VideoFile, "read", lambda video, first, stop: frames.extend(range(first, stop)) or read(video, first, stop)
    )

    for kind in ("row", "final"):
        pictures.update_hash(hashlib.sha256(), kind, "pixels")

    assert frames == list(range(6))
