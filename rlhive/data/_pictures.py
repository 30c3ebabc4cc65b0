"""Pictures of a column as PNG and JPEG files in Parquet, and how the elements of a row form pictures.

PNG files are filtered but not compressed: Parquet's zstd does that, and also finds what a picture has in common with
those before it (decision 043). All storages are in :mod:`rlhive.data._picture_codecs`.

A picture is a row ``[H, W, channels]`` or ``[channels, H, W]`` of a column; in front of these there may be dimensions
of cameras, which become a list of pictures. Files of a version may come from anywhere: a picture is decoded only if its
header has the size and the kind that the schema says.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rlhive._threads import num_cores
from rlhive.data._picture_codecs import CODECS, PNG, RAW, find_channels
from rlhive.errors import CorruptDatasetError

#: Number of dimensions of a picture; those before it are of cameras.
PICTURE_DIMS = 3
#: Pictures of fewer pixels are stored raw by default.
MIN_PIXELS = 32 * 32
#: Pillow's mode of a picture by dtype and number of channels. Its PNG encoder has no mode for the others.
_MODES = {("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}
_THREADED = 8  # number of pictures from which threads are started

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PictureLayout:
    """How the elements of a row form pictures.

    Attributes:
        num_pictures: Number of pictures in a row.
        height: Height in pixels.
        width: Width in pixels.
        channels: Number of channels.
        is_channels_first: Whether a row is ``[…, channels, H, W]``; otherwise it is ``[…, H, W, channels]``.
        mode: Pillow's mode of the pictures.
    """

    num_pictures: int
    height: int
    width: int
    channels: int
    is_channels_first: bool
    mode: str

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of a picture, channels last."""
        return self.height, self.width, self.channels

    def to_pictures(self, rows: np.ndarray) -> np.ndarray:
        """Return rows ``[N, *shape]`` as pictures ``[N * num_pictures, H, W, channels]``."""
        if self.is_channels_first:
            return np.moveaxis(rows.reshape(-1, self.channels, self.height, self.width), 1, 3)
        return rows.reshape(-1, self.height, self.width, self.channels)


def find_layout(dtype: str, shape: Sequence[int]) -> PictureLayout | None:
    """Return how rows of a dtype and shape form pictures; None where they cannot be pictures."""
    channels_and_order = find_channels(CODECS[PNG], dtype, shape)
    if channels_and_order is None:
        return None
    channels, is_first = channels_and_order
    height, width = shape[-2:] if is_first else shape[-3:-1]
    num_pictures = math.prod(shape[:-PICTURE_DIMS])
    return PictureLayout(num_pictures, height, width, channels, is_first, _MODES[dtype, channels])


def choose_storage(dtype: str, shape: Sequence[int]) -> str:
    """Return the default storage of a column, which loses nothing: ``"png"`` for pictures of MIN_PIXELS or more."""
    layout = find_layout(dtype, shape)
    return PNG if layout is not None and layout.height * layout.width >= MIN_PIXELS else RAW


def encode_png(picture: np.ndarray, *, level: int = 0) -> bytes:
    """Encode a picture, uint8 ``[H, W, 1 to 4]`` or uint16 ``[H, W, 1]``, as PNG, which is lossless.

    Args:
        picture: The picture.
        level: zlib's level. At 0 the file is as large as the picture, and filtered, so that what compresses it
            afterwards does so well.
    """
    from PIL import Image

    buffer = io.BytesIO()
    values = picture[:, :, 0] if picture.shape[2] == 1 else picture
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def encode_jpeg_picture(picture: np.ndarray, *, quality: int) -> bytes:
    """Encode a picture, uint8 ``[H, W, 1 or 3]``, as JPEG, which loses a little.

    Args:
        picture: The picture.
        quality: libjpeg's quality, 1 to 100.
    """
    from PIL import Image

    buffer = io.BytesIO()
    values = picture[:, :, 0] if picture.shape[2] == 1 else picture
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def encode_rows(rows: np.ndarray, encode: Callable[[np.ndarray], bytes] = encode_png) -> list[bytes]:
    """Encode the pictures of rows ``[N, *shape]`` on all cores.

    Args:
        rows: The rows.
        encode: Encodes a picture; as PNG by default.

    Returns:
        ``N * num_pictures`` encoded pictures.
    """
    layout = find_layout(rows.dtype.name, rows.shape[1:])
    if layout is None:
        msg = f"expected rows of pictures, got {rows.dtype.name} {list(rows.shape[1:])}"
        raise ValueError(msg)
    return map_on_cores(encode, layout.to_pictures(rows))


def decode_rows(
    contents: Sequence[bytes], dtype: str, shape: Sequence[int], *, context: str, file_format: str = "PNG"
) -> np.ndarray:
    """Decode rows of PNG or JPEG pictures, on all cores.

    Args:
        contents: ``N * num_pictures`` encoded pictures.
        dtype: Dtype of the rows.
        shape: Shape of a row.
        context: Prefix of error messages.
        file_format: ``"PNG"`` or ``"JPEG"``; a picture of another format is not decoded.

    Returns:
        Rows ``[N, *shape]``, read-only, which own their memory.

    Raises:
        CorruptDatasetError: A picture is damaged, or has another size or other channels.
    """
    layout = find_layout(dtype, shape)
    if layout is None or len(contents) % layout.num_pictures:
        msg = f"{context}: expected rows of pictures {dtype} {list(shape)}, got {len(contents)} encoded pictures."
        raise CorruptDatasetError(msg)
    rows = np.empty((len(contents) // layout.num_pictures, *shape), dtype)
    pictures = layout.to_pictures(rows)

    def decode(index: int) -> None:
        pictures[index] = _decode_file(contents[index], layout, file_format, f"{context}, picture {index}")

    map_on_cores(decode, range(len(contents)))
    rows.flags.writeable = False  # as arrays of Arrow are, so that a record remembers its hash
    return rows


def _decode_file(content: bytes, layout: PictureLayout, file_format: str, context: str) -> np.ndarray:
    """Return the values ``[H, W, channels]`` of a file whose header fits the layout."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(content), formats=(file_format,))
        got = (picture.height, picture.width, _plain_mode(picture.mode))
        if got != (layout.height, layout.width, layout.mode):
            msg = f"{got[1]} x {got[0]} pixels of the kind {got[2]}"
            raise ValueError(msg)
        values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on damage
        expected = f"expected a {file_format} of {layout.width} x {layout.height} pixels of the kind {layout.mode}"
        msg = f"{context}: {expected}, got: {error}. Fetch or make the version again."
        raise CorruptDatasetError(msg) from error
    return values.reshape(layout.height, layout.width, layout.channels)


def _plain_mode(mode: str) -> str:
    """Return a mode without the byte order, in which versions of Pillow differ for 16 bits."""
    return "I;16" if mode.startswith("I;16") or mode == "I" else mode


def map_on_cores(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, min_items: int = _THREADED
) -> list[_Result]:
    """Return the results of a function for each item. Encoders and decoders run without the interpreter's lock.

    Args:
        function: The function.
        items: The items.
        min_items: Number of items from which threads are started.
    """
    items = list(items)
    if len(items) < min_items or num_cores() == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(num_cores(), "rlhive-pictures") as pool:
        return list(pool.map(function, items))
