"""A table as text: aligned columns, a line under their names, never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

_BETWEEN = 2
"""Blanks between columns."""
_NARROW = 8
"""No column is folded to less, however narrow the terminal is."""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), width: int | None = None
) -> Iterator[str]:
    """The lines, names first; no blanks at their ends. With `width`, cells of the widest columns are folded to it."""
    most = [max(map(_width, cells)) for cells in zip(columns, *rows, strict=True)]
    if width is not None:
        most = _folded(most, width)
    numeric = [name in right for name in columns]
    yield from _lines(columns, most, numeric)
    yield "─" * (sum(most) + _BETWEEN * (len(most) - 1))
    for row in rows:
        yield from _lines(row, most, numeric)


def _folded(most: Sequence[int], width: int) -> list[int]:
    """The widths, of which the greatest are made smaller until all fit, or none can be."""
    free = width - _BETWEEN * (len(most) - 1)
    limit = max(most, default=0)
    while limit > _NARROW and sum(min(each, limit) for each in most) > free:
        limit -= 1
    return [min(each, limit) for each in most]


def _lines(row: Sequence[str], most: Sequence[int], numeric: Sequence[bool]) -> Iterator[str]:
    """One row, on as many lines as its highest cell takes."""
    cells = [_cell(cell, width) for cell, width in zip(row, most, strict=True)]
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        padded = (
            blank + part if to_right else part + blank
            for part, width, to_right in zip(parts, most, numeric, strict=True)
            for blank in (" " * (width - _width(part)),)
        )
        yield (" " * _BETWEEN).join(padded).rstrip()


def _cell(text: str, width: int) -> list[str]:
    """The lines of a cell: its own, and folded where one is too wide, between words if that helps."""
    if "\n" not in text and len(text) <= width and text.isascii():
        return [text]
    return [part for line in text.split("\n") for part in _fold(line, width)]


def _fold(line: str, width: int) -> list[str]:
    if _width(line) <= width:
        return [line]
    if line.isascii():
        return textwrap.wrap(line, width, break_on_hyphens=False)
    from rich.cells import chop_cells

    return chop_cells(line, width)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: its widest line, and two for many Asian characters."""
    if text.isascii() and "\n" not in text:
        return len(text)
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))
