"""The ways in which the files of a version hold pictures: names, options, and which rows they can hold.

::

    name    options (default)              holds                       loses     in the version
    raw                                    any column                  nothing   one list of numbers per row
    png                                    uint8 1 to 4, uint16 1      nothing   a PNG file per picture, in Parquet
    jpeg    quality (90)                   uint8 1 or 3                a little  a JPEG file per picture, in Parquet
    ffv1                                   uint8 1, 3, 4, uint16 1     nothing   videos/, MP4
    av1     crf (30), gop (2), preset (10) uint8 3, even sides         a little  videos/, MP4
    h264    crf (23), gop (2), preset (5)  uint8 3, even sides         a little  videos/, MP4
    h265    crf (28), gop (2), preset (5)  uint8 3, even, 64 or more   a little  videos/, MP4

The numbers after a dtype are channels. ``"av1"`` stands for ``"av1:crf=30:gop=2:preset=10"``, ``"jpeg:80"`` for
``"jpeg:quality=80"``. ``crf`` is the encoder's constant quality, lower is better; ``gop`` the distance of two key
frames, from which reading has to begin; ``preset`` the encoder's effort, of which a higher number is faster for av1
and slower for h264 and h265.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhive.errors import InvalidOptionError

RAW = "raw"
PNG = "png"


@dataclass(frozen=True)
class PictureCodec:
    """One way to hold pictures.

    Attributes:
        name: Name of the storage.
        channels: Numbers of channels that it can hold, by dtype.
        is_lossy: Whether decoded pictures may differ from the encoded ones.
        is_video: Whether the pictures are in a video file; otherwise they are in Parquet.
        options: Default, smallest and largest value of each option.
        min_side: Smallest height and width in pixels.
    """

    name: str
    channels: Mapping[str, tuple[int, ...]]
    is_lossy: bool = False
    is_video: bool = False
    options: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    min_side: int = 1

    @property
    def has_even_sides(self) -> bool:
        """Whether height and width must be even: lossy videos have one colour for two by two pixels."""
        return self.is_lossy and self.is_video


_COLOUR: Mapping[str, tuple[int, ...]] = {"uint8": (3,)}


def _video_options(crf: tuple[int, int, int], preset: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Return the options of a lossy video."""
    return {"crf": crf, "gop": (2, 1, 1000), "preset": preset}


CODECS = {
    codec.name: codec
    for codec in (
        PictureCodec(PNG, {"uint8": (1, 2, 3, 4), "uint16": (1,)}),
        PictureCodec("jpeg", {"uint8": (1, 3)}, is_lossy=True, options={"quality": (90, 1, 100)}),
        PictureCodec("ffv1", {"uint8": (1, 3, 4), "uint16": (1,)}, is_video=True),
        PictureCodec("av1", _COLOUR, is_lossy=True, is_video=True, options=_video_options((30, 0, 63), (10, 0, 13))),
        PictureCodec("h264", _COLOUR, is_lossy=True, is_video=True, options=_video_options((23, 0, 51), (5, 0, 9))),
        # libx265 crashes on smaller pictures.
        PictureCodec(
            "h265", _COLOUR, is_lossy=True, is_video=True, options=_video_options((28, 0, 51), (5, 0, 9)), min_side=64
        ),
    )
}
STORAGES = (RAW, *CODECS)


@dataclass(frozen=True)
class PictureStorage:
    """A codec with its options.

    Attributes:
        codec: The codec; None for raw values.
        options: Value of every option of the codec, in the codec's order.
    """

    codec: PictureCodec | None
    options: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        if self.codec is None:
            return RAW
        return ":".join([self.codec.name, *(f"{name}={value}" for name, value in self.options)])

    @property
    def name(self) -> str:
        """Name of the codec, or ``"raw"``."""
        return RAW if self.codec is None else self.codec.name

    @property
    def is_lossy(self) -> bool:
        """Whether decoded pictures may differ from the encoded ones."""
        return self.codec is not None and self.codec.is_lossy

    @property
    def is_video(self) -> bool:
        """Whether the pictures are in video files."""
        return self.codec is not None and self.codec.is_video


@functools.lru_cache(maxsize=64)
def parse_storage(text: str) -> PictureStorage:
    """Return the storage that a text names.

    Args:
        text: ``"raw"``, a codec, or a codec with options, ``"av1:crf=20:gop=10"`` for example.

    Raises:
        InvalidOptionError: There is no such codec or option, or a value is out of its range.
    """
    name, *parts = text.split(":")
    if name == RAW and not parts:
        return PictureStorage(None)
    codec = CODECS.get(name)
    if codec is None:
        msg = f"expected one of {', '.join(STORAGES)}, got {text!r}"
        raise InvalidOptionError(msg)
    values = {option: default for option, (default, _, _) in codec.options.items()}
    for part in parts:
        option, equals, number = part.partition("=")
        if not equals and len(codec.options) == 1:  # jpeg:80
            option, number = next(iter(codec.options)), part
        values[option] = _parse_option(codec, option, number, text)
    return PictureStorage(codec, tuple(values.items()))


def require_storage(storage: Any, dtype: str, shape: Sequence[int], *, column: str) -> str:
    """Return the full name of a storage that a column of a dtype and shape can have.

    Raises:
        InvalidOptionError: There is no such storage, or it cannot hold the column.
    """
    try:
        parsed = parse_storage(str(storage))
        if parsed.codec is not None:
            _require_kind(parsed.codec, dtype, shape)
    except InvalidOptionError as error:
        msg = f"storage of {column}: {error}"
        raise InvalidOptionError(msg) from error
    return str(parsed)


def find_channels(codec: PictureCodec, dtype: str, shape: Sequence[int]) -> tuple[int, bool] | None:
    """Return the number of channels of a row's pictures and whether they come first; None for rows it cannot hold."""
    if len(shape) < 3 or min(shape) < 1:
        return None
    channels = codec.channels.get(dtype, ())
    # As the layout of all codecs together, so that a column's storage does not change how its rows are read.
    if shape[-1] in CODECS[PNG].channels.get(dtype, ()):
        return (shape[-1], False) if shape[-1] in channels else None
    return (shape[-3], True) if shape[-3] in channels else None


def _parse_option(codec: PictureCodec, option: str, number: str, text: str) -> int:
    if option not in codec.options:
        names = ", ".join(codec.options) or "none"
        msg = f"options of {codec.name}: expected {names}, got {option!r} in {text!r}"
        raise InvalidOptionError(msg)
    _, low, high = codec.options[option]
    if not (number.isascii() and number.isdigit() and len(number) < 6 and low <= int(number) <= high):
        msg = f"{option} of {codec.name}: expected a number from {low} to {high}, got {number!r}"
        raise InvalidOptionError(msg)
    return int(number)


def _require_kind(codec: PictureCodec, dtype: str, shape: Sequence[int]) -> None:
    channels_and_order = find_channels(codec, dtype, shape)
    if channels_and_order is not None:
        _, is_first = channels_and_order
        sides = shape[-2:] if is_first else shape[-3:-1]
        if min(sides) >= codec.min_side and not (codec.has_even_sides and any(side % 2 for side in sides)):
            return
    kinds = " or ".join(f"{kind} [H, W, {_list_numbers(numbers)}]" for kind, numbers in codec.channels.items())
    even = " with even H and W" if codec.has_even_sides else ""
    least = f" of {codec.min_side} or more" if codec.min_side > 1 else ""
    msg = f"{codec.name} holds pictures {kinds}{even}{least}, or with the channels first; got {dtype} {list(shape)}"
    raise InvalidOptionError(msg)


def _list_numbers(numbers: Sequence[int]) -> str:
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return " or ".join(map(str, numbers))
