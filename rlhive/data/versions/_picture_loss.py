"""What lossy encoding took from pictures: their peak signal-to-noise ratio (PSNR) and structural similarity (SSIM)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhive.data._pictures import PictureLayout

#: PSNR of pictures that came out equal, in dB: that of half a rounding error, since infinity is no JSON.
_MAX_PSNR = 100.0
_RANGE = 255.0
#: Share of red, green and blue in the luma of ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
#: Wang et al.: constants for even areas, the side to which pictures are reduced, and a Gaussian window of 11 pixels.
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_REDUCED_SIDE = 256
_WINDOW = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
_WINDOW = (_WINDOW / _WINDOW.sum()).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PictureErrors:
    """What some pictures lost, ``[N]`` each.

    Attributes:
        mean_squared: Mean squared error of each picture.
        similarity: SSIM of each picture.
    """

    mean_squared: np.ndarray
    similarity: np.ndarray


@dataclass
class PictureLoss:
    """What the pictures of a column lost.

    Attributes:
        errors: The errors, episode by episode.
    """

    errors: list[PictureErrors] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return number of pictures, PSNR in dB and SSIM of all pictures, and those of the worst one."""
        mean_squared = np.concatenate([errors.mean_squared for errors in self.errors])
        similarity = np.concatenate([errors.similarity for errors in self.errors])
        return {
            "num_pictures": len(mean_squared),
            "psnr": _to_psnr(float(mean_squared.mean())),
            "min_psnr": _to_psnr(float(mean_squared.max())),
            "ssim": round(float(similarity.mean()), 4),
            "min_ssim": round(float(similarity.min()), 4),
        }


def compare_pictures(
    originals: Iterable[np.ndarray], decoded: Iterable[np.ndarray], layout: PictureLayout
) -> PictureErrors:
    """Compare rows with what was decoded for them.

    Args:
        originals: Rows ``[*shape]`` of pictures, uint8.
        decoded: As many rows.
        layout: Layout of the pictures.
    """
    # Row by row: stacking them would copy all pictures.
    pairs = [
        pair
        for rows in zip(originals, decoded, strict=True)
        for pair in zip(*(layout.to_pictures(row[None]) for row in rows), strict=True)
    ]
    mean_squared = np.array([_mean_squared(*pair) for pair in pairs])
    return PictureErrors(mean_squared, np.array([compute_ssim(*pair) for pair in pairs]))


def compute_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Return the mean structural similarity of two pictures, 1.0 for equal ones.

    As Wang et al. (2004) and their code: luma, a Gaussian window of 11 pixels with a standard deviation of 1.5, and
    pictures whose shorter side has 384 pixels or more reduced to about 256. Windows lie inside the picture; where none
    fits, the picture is continued by its mirror image.

    Args:
        original: uint8 ``[H, W, channels]`` with 1 or 3 channels.
        decoded: The same shape.
    """
    before, after = _to_luma(original), _to_luma(decoded)
    # One map at a time stays in the processor's cache.
    maps = (before, after, np.square(before) + np.square(after), before * after)
    mean_before, mean_after, mean_squares, mean_product = (_average_windows(values) for values in maps)
    product = mean_before * mean_after
    squares = np.square(mean_before) + np.square(mean_after)
    variances, covariance = mean_squares - squares, mean_product - product
    similarity = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return float(similarity.mean(dtype=np.float64))


def _mean_squared(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean squared error of two uint8 arrays."""
    distances = np.maximum(before, after) - np.minimum(before, after)
    return float(np.square(distances, dtype=np.uint16).mean())


def _to_luma(picture: np.ndarray) -> np.ndarray:
    """Return the luma, float32 ``[H, W]``, of large pictures as means of blocks."""
    size = max(1, math.floor(min(picture.shape[:2]) / _REDUCED_SIDE + 0.5))
    height, width = (side // size for side in picture.shape[:2])
    blocks = picture[: height * size, : width * size].reshape(height, size, width, -1)
    rows = blocks.sum(axis=1, dtype=np.uint16).astype(np.float32)  # holds 256 rows: sides of 65,536 pixels
    shares = _LUMA if picture.shape[2] == len(_LUMA) else np.ones(1, np.float32)
    return rows @ np.tile(shares / np.float32(size**2), size)


def _average_windows(values: np.ndarray) -> np.ndarray:
    """Return the weighted mean of every window; where none fits, of the picture with its mirror image around it."""
    if min(values.shape) < _WINDOW.size:
        values = np.pad(values, _WINDOW.size // 2, mode="symmetric")
    return _blur(_blur(values, axis=0), axis=1)


def _blur(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Return the weighted means of all windows along an axis, which gets 10 elements shorter."""
    rows = np.moveaxis(values, axis, 0)
    num_windows, last = len(rows) - _WINDOW.size + 1, _WINDOW.size - 1
    means = rows[last // 2 : last // 2 + num_windows] * _WINDOW[last // 2]
    for offset in range(last // 2):  # the window is symmetric
        pairs = rows[offset : offset + num_windows] + rows[last - offset : last - offset + num_windows]
        means += pairs * _WINDOW[offset]
    return np.moveaxis(means, 0, axis)


def _to_psnr(mean_squared_error: float) -> float:
    if not mean_squared_error:
        return _MAX_PSNR
    return round(min(10 * math.log10(_RANGE**2 / mean_squared_error), _MAX_PSNR), 2)
