"""The look of all figures: the width of a paper's text column, small type, and colours that everybody tells apart.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; lines also differ by their
dashes. No display is needed, and matplotlib's global settings and backend stay as they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhive._extras import require_extra
from rlhive.errors import InvalidOptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's palette without black and yellow, which is too light for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
#: Four, so that with seven colours 28 lines differ.
DASHES = ("-", "--", "-.", ":")

#: Width of a text column of NeurIPS and CoRL in inches.
WIDTH = 5.5
FONT_SIZE = 8

#: File formats of a figure.
FIGURE_FORMATS = ("pdf", "png", "svg")


def require_matplotlib() -> None:
    """Raise MissingExtraError unless matplotlib is installed."""
    with require_extra("Figures need matplotlib: pip install 'rlhive[train]'"):
        import matplotlib  # noqa: F401


def make_figure(
    num_rows: int, num_columns: int, *, height: float, width: float = WIDTH, **kwargs: Any
) -> tuple["Figure", Any]:
    """Return a figure and its axes ``[num_rows, num_columns]``.

    Args:
        num_rows: Number of rows of axes.
        num_columns: Number of columns of axes.
        height: Height in inches.
        width: Width in inches.
        **kwargs: Arguments of matplotlib's ``Figure.subplots``.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no global state, and Agg draws it

    with mpl.rc_context({"font.size": FONT_SIZE, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(num_rows, num_columns, squeeze=False, **kwargs)
        for axis in axes.flat:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(width=0.6, labelsize=FONT_SIZE - 1)
            axis.grid(axis="both", color="0.92", linewidth=0.6)
            axis.set_axisbelow(True)
    return figure, axes


def save_figure(figure: "Figure | None", path: Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Write a figure, a PNG with 300 dots per inch; the text of PDF and SVG can be searched and edited.

    Args:
        figure: The figure; None removes the files of an earlier one.
        path: Path without a suffix.
        formats: File formats, out of :data:`FIGURE_FORMATS`.

    Returns:
        The files that were written.

    Raises:
        InvalidOptionError: A format is unknown.
    """
    unknown = [kind for kind in formats if kind not in FIGURE_FORMATS]
    if unknown:
        msg = f"format: expected some of {', '.join(FIGURE_FORMATS)}, got {unknown[0]!r}"
        raise InvalidOptionError(msg)
    files = [path.with_name(f"{path.name}.{kind}") for kind in formats]
    if figure is None:
        for file in files:
            file.unlink(missing_ok=True)
        return []
    import matplotlib as mpl

    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        for file in files:
            figure.savefig(file, dpi=300)
    return files
