"""Compressed pictures and videos, decoded to arrays and back. The only module that imports Pillow and PyAV."""

import io
from pathlib import Path
from typing import Any

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


def decode_video_frames(path: Path, *, start_s: float, count: int, fps: float) -> np.ndarray:
    """Decode consecutive frames of a video.

    Args:
        path: File of the video.
        start_s: Time of the first frame in seconds; frames are ``1 / fps`` apart.
        count: Number of frames.
        fps: Frames per second.

    Returns:
        uint8 ``[count, H, W, 3]``, RGB.

    Raises:
        SchemaMismatchError: The video has fewer frames.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(_MISSING.format("av")) from error
    frames: list[Any] = []
    with av.open(str(path)) as container:
        if start_s > 0:
            container.seek(int(start_s * 1_000_000))  # to the key frame before the first frame; in microseconds
        for frame in container.decode(video=0):
            if frame.time > start_s - 0.5 / fps:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == count:
                return np.stack(frames)
    msg = f"{path}: expected {count} frames from {start_s:.3f} s on, got {len(frames)}."
    raise SchemaMismatchError(msg)
