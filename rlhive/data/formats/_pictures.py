"""Compressed pictures, decoded to arrays and back. The only module that imports Pillow."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhive._extras import require_extra
from rlhive.data.formats._memory_limits import FREE_BYTES, PICTURE_EXPANSION, MemoryBudget, format_bytes
from rlhive.data.formats._videos import decode_deep_png
from rlhive.errors import SchemaMismatchError

_LONGEST_GIF_MS = 600_000  # the format has 16 bits for hundredths of a second

_MISSING = "Compressed pictures need {}: pip install 'rlhive[formats]'"


def decode_picture(content: bytes, *, context: str) -> np.ndarray:
    """Decode a PNG or JPEG picture to the values that it shows.

    Args:
        content: Content of the file.
        context: Address for messages.

    Returns:
        uint8, or uint16 for 16 bits a channel: ``[H, W]`` for a grey picture, ``[H, W, 3]`` for a coloured one, also
        for one with a palette or in CMYK, ``[H, W, 2]`` and ``[H, W, 4]`` with an alpha channel.

    Raises:
        SchemaMismatchError: The content is no PNG or JPEG picture, or a damaged one.
        MissingExtraError: Pillow is not installed; or PyAV, for a coloured PNG of 16 bits.
    """
    with require_extra(_MISSING.format("pillow")):
        from PIL import Image
    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        _require_bounded_picture(picture)
        return decode_deep_png(content) if _has_deep_colour(content) else _to_shown_values(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on damage
        msg = f"{context}: expected a PNG or JPEG picture, got {len(content)} other bytes: {error}."
        raise SchemaMismatchError(msg) from error


def decode_pictures(contents: Iterable[bytes], *, context: str) -> list[np.ndarray]:
    """Decode the pictures of an episode as :func:`decode_picture` does.

    Raises:
        SchemaMismatchError: Also where they take more memory together than their encoded sizes account for.
    """
    pictures, budget = [], MemoryBudget(context)
    for content in contents:
        picture = decode_picture(content, context=context)
        budget.add(picture.nbytes, len(content), expansion=PICTURE_EXPANSION)
        pictures.append(picture)
    return pictures


def _require_bounded_picture(picture: Any) -> None:
    """Refuse a picture by the size that its header declares, before it is decoded."""
    num_bytes = picture.width * picture.height * len(picture.getbands()) * (2 if picture.mode.startswith("I") else 1)
    if num_bytes > FREE_BYTES:
        msg = f"{picture.width} by {picture.height} pixels, more than {format_bytes(FREE_BYTES)}"
        raise ValueError(msg)


def _to_shown_values(picture: Any) -> np.ndarray:
    """Return the values of a Pillow image, whatever its mode stores."""
    if picture.mode == "P":  # the values are places in the palette
        return np.asarray(picture.convert("RGBA" if "transparency" in picture.info else "RGB"))
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(picture.convert("RGB"))
    values = np.asarray(picture)
    is_deep = picture.mode.startswith("I")  # a grey PNG of 16 bits; some versions of Pillow widen it
    return values.astype(np.uint16) if is_deep else values


def _has_deep_colour(content: bytes) -> bool:
    """Return whether a PNG has 16 bits for each of several channels, of which Pillow drops half."""
    return (
        content[:8] == b"\x89PNG\r\n\x1a\n"
        and content[12:16] == b"IHDR"
        and content[24:25] == b"\x10"
        and (content[25:26] in (b"\x02", b"\x04", b"\x06"))
    )


def stack_pictures(pictures: Sequence[np.ndarray], *, context: str) -> np.ndarray:
    """Return pictures as one array; encoders write grey and opaque ones with fewer channels, which are filled up.

    Args:
        pictures: As :func:`decode_picture` returns them.
        context: Address for messages.

    Raises:
        SchemaMismatchError: They differ in size or in bits.
    """
    num_channels = max((picture.shape[2] if picture.ndim == 3 else 0 for picture in pictures), default=0)
    filled = [_fill_channels(picture, num_channels) for picture in pictures]
    kinds = {(picture.shape, picture.dtype.name) for picture in filled}
    if len(kinds) > 1:
        described = ", ".join(f"{dtype} {list(shape)}" for shape, dtype in sorted(kinds)[:4])
        msg = f"{context}: not understood: pictures of {described}. The option drop leaves the column out."
        raise SchemaMismatchError(msg)
    return np.stack(filled)


def _fill_channels(picture: np.ndarray, num_channels: int) -> np.ndarray:
    """Return a picture with more channels: grey in all colours, and opaque."""
    channels = picture.shape[2] if picture.ndim == 3 else 0
    if channels == num_channels:
        return picture
    parts = picture[:, :, None] if picture.ndim == 2 else picture
    opaque = np.full((*picture.shape[:2], 1), np.iinfo(picture.dtype).max, picture.dtype)
    colours, alpha = (parts[:, :, :-1], parts[:, :, -1:]) if channels in (2, 4) else (parts, opaque)
    if num_channels >= 3 and colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    return np.concatenate([colours, alpha], axis=2) if num_channels in (2, 4) else colours


def write_gif(path: Path, frames: Iterable[np.ndarray], *, fps: float) -> None:
    """Write an animation that repeats; the file appears when it is complete.

    Args:
        path: File of the animation; its folder exists.
        frames: Pictures uint8 ``[H, W, 3]``, RGB, all of one size; at least one. All are in memory at once.
        fps: Frames per second; GIF shows a picture for 10 minutes at most.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    with require_extra(_MISSING.format("pillow")):
        from PIL import Image
    first, *others = (Image.fromarray(frame) for frame in frames)
    partial = path.with_name(f".{path.name}.partial")
    try:
        first.save(
            partial, "GIF", save_all=True, append_images=others, duration=min(1000 / fps, _LONGEST_GIF_MS), loop=0
        )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def encode_jpeg(picture: np.ndarray, *, max_width: int, quality: int = 80) -> bytes:
    """Return a picture as a JPEG file, reduced to a width where it is wider.

    Args:
        picture: uint8 ``[H, W, 3]``, RGB, or ``[H, W]``, ``[H, W, 1]``, grey.
        max_width: Largest width in pixels.
        quality: From 1 to 95.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    with require_extra(_MISSING.format("pillow")):
        from PIL import Image
    image = Image.fromarray(picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture)
    if image.width > max_width:
        image = image.resize((max_width, max(1, round(image.height * max_width / image.width))))
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=quality)
    return content.getvalue()
