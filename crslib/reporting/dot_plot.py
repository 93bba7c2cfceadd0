"""All metrics of a run against people, in one chart."""

import textwrap
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from crslib.metrics import METRICS, Metric
from crslib.reporting import text
from crslib.reporting.charts import GROUND, HUMAN, INK, LINE, SIMULATED, SOFT
from crslib.reporting.likeness import LIKE, likeness

_FARTHEST = 8.0  # times the human value; what is farther off stands at the edge
_TICKS = {0.125: "÷8", 0.25: "÷4", 0.5: "÷2", 1: "people", 2: "×2", 4: "×4", 8: "×8"}


def against_people(
    metrics: pl.DataFrame, narrow: bool = False, defined: Mapping[str, Metric] = METRICS
) -> alt.LayerChart:
    """All metrics of table `metrics` that human dialogues have too, as multiples of the human value, by family.

    A point is the value, filled where it is `LIKE` people (see `likeness`), with its 95 % interval; a tick the floor of
    a distance. What is more than eight times or less than an eighth of the human value stands at the edge as an arrow.
    Metrics whose human value is not above 0 have no multiples and are left out. `narrow`: for a phone, each title above
    its line. `defined`: all metrics, in order; another one stands last, under its name.
    """
    rows, titles, height = _lines(metrics, narrow, defined)
    left, right, width = (6, 200, 320) if narrow else (440, 790, 1040)
    scale = alt.Scale(type="log", base=2, domain=[1 / _FARTHEST, _FARTHEST], range=[left, right])
    is_people = "datum.value === 1"
    axis = alt.Axis(
        orient="top",
        values=list(_TICKS),
        labelExpr=f"{ {str(at): label for at, label in _TICKS.items()} }[datum.value]",
        labelColor=alt.condition(is_people, alt.value(INK), alt.value(SOFT)),
        gridColor=alt.condition(is_people, alt.value(HUMAN), alt.value(LINE)),
        domain=False,
        ticks=False,
        labelPadding=6,
    )
    x = {name: alt.X(f"{name}:Q", title=None, axis=axis, scale=scale) for name in ("one", "value", "low", "floor")}
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    shape = alt.Shape(
        "side:N",
        scale=alt.Scale(domain=["", "above", "below"], range=["circle", "triangle-right", "triangle-left"]),
        legend=None,
    )
    base = alt.Chart(rows).encode(y=y)
    distances = base.transform_filter("isValid(datum.floor)")
    words = alt.Chart(titles).encode(x=alt.value(0), y=y, text="title:N")
    letters: dict[str, Any] = {"align": "left", "fontSize": 12, "color": INK}
    figures = base.mark_text(align="right", fontSize=12)
    layers = [
        words.transform_filter("datum.heading").mark_text(**letters, fontWeight="bold"),
        words.transform_filter("!datum.heading").mark_text(**letters),
        distances.mark_rule(strokeWidth=9, opacity=0.3, color=HUMAN).encode(x=x["one"], x2="floor:Q"),
        distances.mark_tick(thickness=2, height=13, color=HUMAN).encode(x=x["floor"]),
        base.mark_rule(strokeWidth=2, color=SIMULATED).encode(x=x["low"], x2="high:Q"),
        base.mark_point(size=64, opacity=1, stroke=SIMULATED, strokeWidth=2).encode(
            x=x["value"],
            shape=shape,
            fill=alt.condition(f"datum.verdict === '{LIKE}'", alt.value(SIMULATED), alt.value(GROUND)),
        ),
        figures.encode(x=alt.value(width if narrow else 950), text="figures:N", color=alt.value(INK)),
    ]
    if not narrow:
        layers.append(figures.encode(x=alt.value(width), text="people:N", color=alt.value(SOFT)))
    head = alt.Chart(rows.head(1)).mark_text(align="right", fontSize=11, color=SOFT)
    heads = {"this run · people": width} if narrow else {"this run [95 %]": 950, "people": width}
    over = [head.encode(x=alt.value(at), y=alt.value(-11), text=alt.value(name)) for name, at in heads.items()]
    return alt.LayerChart(layer=[*layers, *over], width=width, height=height)


def _lines(
    metrics: pl.DataFrame, narrow: bool, defined: Mapping[str, Metric]
) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """The rows of `against_people`, its titles (title, y, heading), and its height; all places in pixels."""
    rows: list[dict[str, Any]] = []
    titles: list[tuple[str, float, bool]] = []
    order = {name: number for number, name in enumerate(defined)}
    drawn = metrics.filter(pl.col("human") > 0).sort(
        pl.col("metric").replace_strict(order, default=len(order)), maintain_order=True
    )
    y, line = 0.0, 16.0
    for (family,), part in drawn.group_by("family", maintain_order=True):
        titles.append((str(family).capitalize(), y + line / 2, True))
        y += line + 6
        for row in part.iter_rows(named=True):
            title = defined[row["metric"]].title if row["metric"] in defined else row["metric"]
            for part_of_title in textwrap.wrap(title, 46) if narrow else [title]:
                titles.append((part_of_title, y + line / 2, False))
                y += line if narrow else 0
            rows.append(_line(row, y + line / 2, narrow))
            y += line + 6
        y += line
    schema: dict[str, Any] = dict.fromkeys(("y", "one", "value", "low", "high", "floor"), pl.Float64)
    schema |= dict.fromkeys(("verdict", "side", "figures", "people"), pl.String)
    places = {"title": pl.String, "y": pl.Float64, "heading": pl.Boolean}
    return pl.DataFrame(rows, schema=schema), pl.DataFrame(titles, schema=places, orient="row"), max(y, line)


def _line(row: Mapping[str, Any], y: float, narrow: bool) -> dict[str, Any]:
    times, human = row["value"] / row["human"], text.number(row["human"])
    return {
        "y": y,
        "one": 1.0,
        **{name: _times(row[name], row["human"]) for name in ("value", "low", "high", "floor")},
        "verdict": likeness(row),
        "side": "above" if times > _FARTHEST else "below" if times < 1 / _FARTHEST else "",
        "figures": f"{text.number(row['value'])} · {human}"
        if narrow
        else text.estimate(row["value"], row["low"], row["high"]),
        "people": human,
    }


def _times(value: float | None, human: float) -> float | None:
    """A value as a multiple of the human one, within the ends of the axis."""
    return None if value is None else min(max(value / human, 1 / _FARTHEST), _FARTHEST)
