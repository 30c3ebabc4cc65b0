"""The card's picture: the returns of every split as an SVG, written by hand so that it needs no plotting library.

The same returns give the same bytes: a picture that depended on fonts or on a library's version would give every
export another file.
"""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

PICTURE_PATH = "returns.svg"
NUM_BINS = 60
_WIDTH, _ROW, _LEFT, _BASE = 720, 64, 150, 44
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")


def render_returns(returns: Mapping[str, Sequence[float]], title: str) -> str:
    """Return an SVG with one histogram of returns per split, all on one axis; a line marks each mean.

    Args:
        returns: Of the episodes of each split; values that are not finite are left out.
        title: Stands above.
    """
    finite = {split: np.asarray(values, float)[np.isfinite(values)] for split, values in returns.items()}
    values = np.concatenate([*finite.values(), np.zeros(0)])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    high = high if high > low else low + 1.0
    height = _BASE + _ROW * len(finite) + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for index, (split, own) in enumerate(finite.items()):
        parts += _histogram(split, own, low, high, _BASE + _ROW * index, _COLOURS[index % len(_COLOURS)])
    for place, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        at = _place(place, low, high)
        parts.append(
            f'<text x="{at:.1f}" y="{height - 8}" font-size="11" fill="#555" text-anchor="{anchor}">{place:.4g}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _histogram(split: str, values: np.ndarray, low: float, high: float, top: int, colour: str) -> list[str]:
    counts, _ = np.histogram(values, NUM_BINS, (low, high))
    bottom, room = top + _ROW - 14, _ROW - 20
    step = (_WIDTH - _LEFT - 20) / NUM_BINS
    parts = [
        f'<text x="12" y="{bottom - 14}" font-size="13" fill="#222">{escape(split)}</text>',
        f'<text x="12" y="{bottom}" font-size="11" fill="#555">{len(values)} episodes</text>',
        f'<line x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - 20}" y2="{bottom}" stroke="#bbb"/>',
    ]
    for bin_, count in enumerate(counts.tolist()):
        if count:
            tall = room * count / int(counts.max())
            x, y = _LEFT + step * bin_, bottom - tall
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" fill="{colour}"/>')
    if len(values):
        at = _place(float(values.mean()), low, high)
        parts.append(
            f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}" stroke="#222" stroke-dasharray="3 2"/>'
        )
    return parts


def _place(value: float, low: float, high: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 20) * (value - low) / (high - low)
