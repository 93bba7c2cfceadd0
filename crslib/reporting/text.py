"""Numbers, intervals and tables as text. Computes nothing."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import polars as pl


def number(value: Any) -> str:
    """A float with three significant digits; anything else as it is, None as no text."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def estimate(value: float | None, low: float | None, high: float | None, *, form: str = "") -> str:
    """`0.52 [0.41, 0.63]`; without an interval where an end is None, `–` where the value is None.

    `form`: a format specification such as `+.3f` or `.0%`; empty: `number`.
    """
    if value is None:
        return "–"
    shown = [number(one) if not form else format(one, form) for one in (value, low, high) if one is not None]
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def row_estimate(row: Mapping[str, Any]) -> str:
    """`estimate` of a row with columns value, low and high, with two decimals."""
    return estimate(row["value"], row["low"], row["high"], form=".2f")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; no text of a cell can end the cell or the row."""
    lines = [" | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in row) for row in (columns, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(columns) + "|", *(f"| {line} |" for line in lines[1:])])


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Rows of cells as lines in which the cells of a column stand below each other; those in `right` (places) at its
    right edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(range(len(row)), row, widths, strict=True)
        lines.append("  ".join(cell.rjust(n) if place in right else cell.ljust(n) for place, cell, n in cells).rstrip())
    return lines


def cells(frame: pl.DataFrame) -> list[list[str]]:
    """The cells of a frame as text, row by row."""
    return [[number(value) for value in row] for row in frame.iter_rows()]
