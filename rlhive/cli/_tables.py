"""Tables of the verbs: they fit into the terminal's width, and no word, number or path in them is broken in two.

A table that is too wide wraps between the words of its cells; columns with ``no_wrap`` stay on one line. One that is
too wide even so is printed as a block of lines for each row.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from rlhive.cli._terminal import out

#: Wider than any terminal.
_UNBOUNDED = 10**6
#: Smallest width of wrapped text beside a label.
_MIN_WIDTH = 20


def make_table(**options: Any) -> Table:
    """Return a table without vertical lines; columns and rows are added to it."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, **options)


def print_table(table: Table, *, console: Console = out) -> None:
    """Print a table as wide as its content, wrapped between words, or row by row, whichever fits the console first."""
    columns = [_CellTexts(column, console) for column in table.columns]
    frame = console.measure(table, options=console.options.update_width(_UNBOUNDED)).maximum - sum(
        texts.natural_width(is_row=True) for texts in columns
    )
    widths = _distribute(console.width - frame, columns)
    if widths is None:
        for index in range(table.row_count):
            _print_row([(texts.header, texts.cells[index]) for texts in columns], console)
        return
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap = width, False
    console.print(table)


class _CellTexts:
    """The texts of a column as they are printed, and how many terminal cells they need."""

    def __init__(self, column: Column, console: Console) -> None:
        self.header, *self.cells = (_to_text(cell, console) for cell in (column.header, *column.cells))
        self._is_whole = column.no_wrap

    def natural_width(self, *, is_row: bool = False) -> int:
        """Return the width of the longest line; that of the header counts if it cannot be wrapped or ``is_row``."""
        cells = max((_longest(cell.plain.splitlines()) for cell in self.cells), default=0)
        whole_header = is_row or not self._is_whole
        return max(cells, _longest([self.header.plain] if whole_header else self.header.plain.split()))

    def smallest_width(self) -> int:
        """Return the smallest width that breaks no word, and no cell of a column that is not wrapped."""
        if self._is_whole:
            return self.natural_width()
        return max(_longest(text.plain.split()) for text in (self.header, *self.cells))


def _to_text(cell: Any, console: Console) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _distribute(available: int, columns: Sequence[_CellTexts]) -> list[int] | None:
    """Return a width for every column, together at most ``available``; None if words would have to be broken."""
    widths = [texts.smallest_width() for texts in columns]
    spare = available - sum(widths)
    if spare < 0:
        return None
    missing = [texts.natural_width(is_row=True) - width for texts, width in zip(columns, widths, strict=True)]
    for index in sorted(range(len(columns)), key=missing.__getitem__):  # narrow columns are completed first
        share = min(missing[index], spare)
        widths[index] += share
        spare -= share
    return widths


def _print_row(cells: Sequence[tuple[Text, Text]], console: Console) -> None:
    """Print a row as a block: its first cell and short ones without a label, and below that a line for each other."""
    (_, first), *others = cells
    while others and not others[0][0].plain and first.cell_len + 2 + others[0][1].cell_len <= console.width:
        first = Text.assemble(first, "  ", others.pop(0)[1])
    for heading in [first] if first.cell_len <= console.width else map(Text, _wrap(first.plain, console.width)):
        console.print(heading, soft_wrap=True, highlight=False)
    indent = max((label.cell_len for label, _ in others), default=0) + 4
    for label, cell in others:
        head = f"  {label.plain}".ljust(indent) if label.plain else "  "
        if (
            len(head) + max(_longest(cell.plain.split()), min(cell.cell_len, _MIN_WIDTH)) > console.width
            and label.plain
        ):
            console.print(head.rstrip(), soft_wrap=True, highlight=False)
            head = "    "
        for line in _wrap(cell.plain, console.width - len(head)):
            text = Text(line, style=cell.style) if line else Text()
            console.print(Text(head) + text, soft_wrap=True, highlight=False)
            head = " " * len(head)


def _wrap(text: str, width: int) -> list[str]:
    """Return lines that are wrapped between words; a word that is too long stays whole."""
    wrapper = textwrap.TextWrapper(max(width, _MIN_WIDTH), break_long_words=False, break_on_hyphens=False)
    return [line for part in text.splitlines() or [""] for line in wrapper.wrap(part) or [""]]
