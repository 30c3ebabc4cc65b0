"""Pictures of every kind that PNG and JPEG have, against the values that they were made of."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rlhive.data.formats._pictures import decode_picture, stack_pictures
from rlhive.errors import SchemaMismatchError
from tests.data.formats.odd_sources import encode, encode_palette

GENERATOR = np.random.default_rng(0)
COLOURS = GENERATOR.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode_deep(values, colour_type):
    """Return a PNG of 16 bits a channel, written chunk by chunk."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("shape", "colour_type"), [((5, 7), 0), ((5, 7, 3), 2), ((5, 7, 2), 4), ((5, 7, 4), 6), ((1, 33, 3), 2)]
)
def test_sixteen_bits_a_channel_keep_all_of_them(shape, colour_type):
    values = GENERATOR.integers(0, 2**16, shape).astype(np.uint16)
    decoded = decode_picture(encode_deep(values, colour_type), context="x")
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, values)


def test_a_palette_gives_its_colours():
    indices, palette = [[0, 1], [2, 1]], np.array([[0, 9, 18], [200, 0, 1], [5, 6, 7]])
    np.testing.assert_array_equal(decode_picture(encode_palette(indices, palette), context="x"), palette[indices])


def test_a_transparent_palette_gives_its_alpha():
    image = Image.open(io.BytesIO(encode_palette([[0, 1]], [[10, 20, 30], [40, 50, 60]])))
    decoded = decode_picture(encode(image, transparency=1), context="x")
    assert decoded.tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_colour_and_alpha_are_what_was_written(mode):
    image = Image.fromarray(COLOURS).convert(mode)
    np.testing.assert_array_equal(decode_picture(encode(image), context="x"), np.asarray(image))


def test_two_colours_are_black_and_white():
    mask = GENERATOR.integers(0, 2, (9, 11)).astype(bool)
    np.testing.assert_array_equal(decode_picture(encode(Image.fromarray(mask)), context="x"), mask * np.uint8(255))


def test_cmyk_gives_the_colours_that_it_shows():
    colour = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    decoded = decode_picture(encode(Image.fromarray(colour).convert("CMYK"), kind="JPEG", quality=100), context="x")
    assert decoded.shape == (8, 8, 3)
    assert np.abs(decoded.astype(int) - colour).max() <= 2


def test_frames_that_an_encoder_wrote_with_fewer_channels_are_filled_up():
    grey, alpha = COLOURS[:, :, 0], np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2)
    stacked = stack_pictures([grey, COLOURS, alpha], context="x")
    np.testing.assert_array_equal(stacked[0], np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=2))
    np.testing.assert_array_equal(stacked[1], np.concatenate([COLOURS, np.full((5, 7, 1), 255, np.uint8)], axis=2))
    np.testing.assert_array_equal(stacked[2], alpha)
    assert stack_pictures([grey, grey], context="x").shape == (2, 5, 7)


def test_frames_of_different_sizes_or_bits_are_not_understood():
    with pytest.raises(SchemaMismatchError, match=r"not understood: pictures of uint8 \[4, 7, 3\], uint8 \[5, 7, 3\]"):
        stack_pictures([COLOURS, COLOURS[1:]], context="x")
    with pytest.raises(SchemaMismatchError, match="not understood: pictures of"):
        stack_pictures([COLOURS, COLOURS.astype(np.uint16)], context="x")


@pytest.mark.parametrize("size", [0, 10, 40, 90])
@pytest.mark.parametrize("kind", ["deep", "plain"])
def test_a_cut_picture_is_refused(kind, size):
    content = encode_deep(COLOURS.astype(np.uint16), 2) if kind == "deep" else encode(COLOURS)
    with pytest.raises(SchemaMismatchError, match="x: expected a PNG or JPEG picture"):
        decode_picture(content[:size], context="x")
