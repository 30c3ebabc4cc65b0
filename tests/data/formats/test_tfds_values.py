"""Pictures, texts and numbers of TFDS's records whose files hold more than features.json says."""

import numpy as np
import pytest

from rlhive.data.formats._tfds import Feature
from rlhive.data.formats._tfds_values import read_feature
from tests.data.formats.odd_sources import encode, encode_palette

COLOURS = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)


class Record:
    """A record with one feature."""

    context = "record 0"

    def __init__(self, *, texts=(), numbers=()):
        self._texts, self._numbers = list(texts), np.array(numbers)

    def texts(self, name):
        return self._texts

    def numbers(self, name):
        return self._numbers


@pytest.mark.parametrize(
    ("content", "channels", "expected"),
    [
        (encode(COLOURS), 3, COLOURS[:, :, :3]),
        (encode(COLOURS), 4, COLOURS),
        (encode(COLOURS[:, :, 0]), 3, np.repeat(COLOURS[:, :, :1], 3, axis=2)),
        (encode(COLOURS[:, :, 0]), 1, COLOURS[:, :, :1]),
        (encode_palette([[0, 1]], [[9, 8, 7], [1, 2, 3]]), 3, np.array([[[9, 8, 7], [1, 2, 3]]])),
    ],
)
def test_a_picture_has_the_channels_that_tfds_decodes(content, channels, expected):
    feature = Feature("steps/observation/x", "picture", "uint8", (None, None, channels), "png", 1)
    (picture,) = read_feature(feature, Record(texts=[content]))
    np.testing.assert_array_equal(picture, expected)


def test_text_that_is_no_utf8_and_unsigned_numbers_are_kept():
    text = Feature("steps/x", "text", "string", (), "none", 1)
    assert read_feature(text, Record(texts=[b"a\xff", "é".encode()])).tolist() == ["a\\xff", "é"]
    number = Feature("steps/x", "tensor", "uint64", (), "none", 1)
    assert read_feature(number, Record(numbers=[0, 2**63 - 1])).tolist() == [0, 2**63 - 1]
    stored = Feature("steps/x", "tensor", "uint64", (2,), "bytes", 1)
    assert read_feature(stored, Record(texts=[np.array([1, 2], "<u8").tobytes()])).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="numbers up to 18446744073709551615"):
        read_feature(stored, Record(texts=[np.array([1, 2**64 - 1], "<u8").tobytes()]))
