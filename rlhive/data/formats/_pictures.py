"""Compressed pictures, decoded to arrays and back. The only module that imports Pillow."""

import io

import numpy as np

from rlhive.errors import MissingExtraError, SchemaMismatchError

_MISSING = "Compressed pictures need {}: pip install 'rlhive[formats]'"


def decode_picture(content: bytes, *, context: str) -> np.ndarray:
    """Decode a PNG or JPEG picture.

    Args:
        content: Content of the file.
        context: Address for messages.

    Returns:
        uint8 ``[H, W, 3]``, ``[H, W]`` for a grey picture; uint16 for one of 16 bits.

    Raises:
        SchemaMismatchError: The content is no PNG or JPEG picture, or a damaged one.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(_MISSING.format("pillow")) from error
    try:
        return np.asarray(Image.open(io.BytesIO(content), formats=("PNG", "JPEG")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on damage
        msg = f"{context}: expected a PNG or JPEG picture, got {len(content)} other bytes: {error}."
        raise SchemaMismatchError(msg) from error


def encode_png(picture: np.ndarray) -> bytes:
    """Encode a picture, uint8 ``[H, W, 3]``, as PNG, which is lossless.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(_MISSING.format("pillow")) from error
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
