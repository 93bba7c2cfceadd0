"""Tables and figures as a notebook's output: a title, what to read in it, charts, and the whole table, never cut.

Polars shows ten rows, eight columns and thirty letters of a text; a notebook that was executed by papermill is read
without anybody who could ask for the rest.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from crslib import stats
from crslib.reporting import text
from crslib.reporting.figure import Figure

if TYPE_CHECKING:
    import altair as alt

_CELL = "text-align: left; vertical-align: top; white-space: pre-wrap"


@dataclass(frozen=True)
class Section:
    """What a cell shows, in this order; what is empty is left out. `remarks`: sentences, such as what is missing and
    why. Texts of `table` are data, never markup."""

    title: str
    reading: str = ""
    figures: Sequence[Figure] = ()
    table: pl.DataFrame = field(default_factory=pl.DataFrame)
    remarks: Sequence[str] = ()

    def _repr_html_(self) -> str:
        parts = [f"<h3>{html.escape(self.title)}</h3>"]
        parts += [f"<p>{html.escape(line)}</p>" for line in (self.reading, *self.remarks) if line]
        if self.figures:
            from crslib.reporting import charts  # a second of imports, and most sections draw nothing
        for figure in self.figures:
            reading = f"<b>{html.escape(figure.title)}.</b> {html.escape(figure.reading)}" if figure.title else ""
            parts.append(
                f'<p>{reading}</p><div style="max-width: 100%; overflow-x: auto">{charts.svg(figure.chart)}</div>'
            )
        if self.table.height:
            parts.append(_table(self.table))
        return "\n".join(parts)

    def __repr__(self) -> str:
        lines = [self.title, *filter(None, (self.reading, *self.remarks)), *(f.title for f in self.figures if f.title)]
        return "\n".join(lines + [text.markdown(self.table.columns, text.cells(self.table))] * bool(self.table.height))


def table(
    frame: pl.DataFrame, title: str, reading: str = "", heads: Mapping[str, str] | None = None, most: int = 100
) -> Section:
    """A frame. `heads`: column → what stands above it, with its unit; with it only its columns are shown. Of more rows
    than `most` the first ones are shown, and the title says so. An empty frame is said to be empty."""
    columns = heads or {name: name for name in frame.columns}
    shown = frame.head(most).select(_plain(frame, name).alias(head) for name, head in columns.items())
    cut = f" (the first {most} of {frame.height:,} rows)" if frame.height > most else ""
    return Section(title + cut, reading, table=shown, remarks=() if frame.height else ("There is none.",))


def _plain(frame: pl.DataFrame, name: str) -> pl.Expr:
    """A column for people to read: lists of words as words."""
    if frame.schema[name] == pl.List(pl.String):
        return pl.col(name).list.join(", ")
    return pl.col(name)


def chart(drawn: "alt.TopLevelMixin", title: str, reading: str = "") -> Section:
    """A chart."""
    return Section(title, reading, [Figure("", "", drawn)])


def sentences(lines: Sequence[str], title: str, reading: str = "") -> Section:
    """Sentences; where there are none, that is said."""
    return Section(title, reading, remarks=lines or ("There is nothing to say.",))


def estimate(measured: stats.Estimate | None, title: str, reading: str = "", why: str = "") -> Section:
    """A value with its 95 % interval and the number behind it; without a value, `why` there is none."""
    if measured is None:
        return Section(title, reading, remarks=[f"Not measured: {why}."])
    value = text.estimate(measured.value, measured.low, measured.high)
    return Section(title, reading, remarks=[f"{value}, n = {measured.n:,}"])


def _table(frame: pl.DataFrame) -> str:
    numeric = [dtype.is_numeric() for dtype in frame.dtypes]
    styles = [_CELL if not number else _CELL.replace("left", "right") for number in numeric]
    heads = "".join(
        f'<th scope="col" style="{style}">{html.escape(name)}</th>'
        for name, style in zip(frame.columns, styles, strict=True)
    )
    rows = (
        "".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell, style in zip(row, styles, strict=True))
        for row in text.cells(frame)
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div style="max-width: 100%; overflow-x: auto"><table><thead><tr>{heads}</tr></thead>\n{body}</table></div>'
    )
