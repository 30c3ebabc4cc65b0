"""The picture of the dataset card: histograms of the returns of every split, as SVG.

The SVG is written by hand, without a plotting library, so that the same returns give the same bytes.
"""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

PICTURE_PATH = "returns.svg"
NUM_BINS = 60

#: Returns are drawn after a multiplication by this power of two, so that neither differences nor sums overflow.
_SCALE = 2.0**-32

# In pixels.
_WIDTH = 720
_ROW_HEIGHT = 64
_LEFT_MARGIN = 150
_RIGHT_MARGIN = 20
_TITLE_HEIGHT = 44
_AXIS_HEIGHT = 26
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")


def render_returns(returns: Mapping[str, Sequence[float]], title: str) -> str:
    """Return an SVG with one histogram of returns per split, on a common axis. A dashed line marks each mean.

    Args:
        returns: Returns of the episodes of each split; values that are not finite are left out.
        title: Title of the picture.
    """
    finite = {split: np.asarray(values, float)[np.isfinite(values)] * _SCALE for split, values in returns.items()}
    low, high = _find_axis(np.concatenate([*finite.values(), np.zeros(0)]))
    height = _TITLE_HEIGHT + _ROW_HEIGHT * len(finite) + _AXIS_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for index, (split, split_returns) in enumerate(finite.items()):
        top = _TITLE_HEIGHT + _ROW_HEIGHT * index
        parts += _render_histogram(split, split_returns, low, high, top, _COLOURS[index % len(_COLOURS)])
    for tick, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        x, label = _to_pixels(tick, low, high), f"{tick / _SCALE:.4g}"
        parts.append(
            f'<text x="{x:.1f}" y="{height - 8}" font-size="11" fill="#555" text-anchor="{anchor}">{label}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _find_axis(values: np.ndarray) -> tuple[float, float]:
    """Return the two ends of the axis, far enough apart that each bin has a width in float64."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    smallest_width = 2.0**-40 * max(abs(low), abs(high))
    return low, max(high, low + smallest_width) if high > low else low + max(_SCALE, smallest_width)


def _render_histogram(split: str, values: np.ndarray, low: float, high: float, top: int, colour: str) -> list[str]:
    counts, _ = np.histogram(values, NUM_BINS, (low, high))
    bottom = top + _ROW_HEIGHT - 14
    max_bar_height = _ROW_HEIGHT - 20
    bar_width = (_WIDTH - _LEFT_MARGIN - _RIGHT_MARGIN) / NUM_BINS
    parts = [
        f'<text x="12" y="{bottom - 14}" font-size="13" fill="#222">{escape(split)}</text>',
        f'<text x="12" y="{bottom}" font-size="11" fill="#555">{len(values)} episodes</text>',
        f'<line x1="{_LEFT_MARGIN}" y1="{bottom}" x2="{_WIDTH - _RIGHT_MARGIN}" y2="{bottom}" stroke="#bbb"/>',
    ]
    for index, count in enumerate(counts.tolist()):
        if count:
            height = max_bar_height * count / int(counts.max())
            x, y = _LEFT_MARGIN + bar_width * index, bottom - height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar_width - 1:.1f}" height="{height:.1f}" fill="{colour}"/>'
            )
    if len(values):
        mean = float((values / len(values)).sum())  # a sum of the largest numbers is infinite
        x = _to_pixels(min(max(mean, low), high), low, high)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#222" stroke-dasharray="3 2"/>')
    return parts


def _to_pixels(value: float, low: float, high: float) -> float:
    """Return the horizontal position of a return."""
    return _LEFT_MARGIN + (_WIDTH - _LEFT_MARGIN - _RIGHT_MARGIN) * (value - low) / (high - low)
