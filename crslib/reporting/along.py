"""A chart of a metric along a parameter of a sweep."""

from typing import Any

import altair as alt
import polars as pl

from crslib.reporting.charts import HUMAN, SIMULATED


def along(points: pl.DataFrame, axis: str) -> alt.LayerChart:
    """A metric over the values of parameter `axis`: x (a number, or text), series (the other parameters; empty: there
    are none), value, low, high, and human, the same for all: a dashed line. Whiskers are 95 % intervals."""
    numbers = points.schema["x"].is_numeric()
    scale = alt.Scale(zero=False, padding=14) if numbers else alt.Undefined
    x = alt.X(
        f"x:{'Q' if numbers else 'N'}", title=axis, sort=None, scale=scale, axis=alt.Axis(labelAngle=0, labelLimit=120)
    )
    colour: Any = alt.value(SIMULATED)
    if points["series"].n_unique() > 1:
        colour = alt.Color(
            "series:N", title=None, sort=None, legend=alt.Legend(orient="top", columns=1, labelLimit=300)
        )
    base = alt.Chart(points).encode(x=x, color=colour)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    whiskers = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=50, filled=True)).encode(y=y)
    people = alt.Chart(points.drop_nulls("human").head(1)).mark_rule(color=HUMAN, strokeDash=[4, 3]).encode(y="human:Q")
    return (people + whiskers + line).properties(width=260, height=170)
