"""The results of a sweep over its axes: which value of a parameter gives which figures. What `04_sweep` shows."""

import altair as alt
import polars as pl

from crslib.experiments import comparison
from crslib.experiments.comparison import Sweep
from crslib.experiments.runs import FIGURES
from crslib.metrics import METRICS
from crslib.reporting import charts, text
from crslib.reporting.along import along
from crslib.reporting.html import Figure

_SHOWN = (*FIGURES, "recommender_validity", "facts_true")  # and is it true
_NO_AXES = ("condition", "state", "leaks", "error", "traceback")


def points(sweep: Sweep) -> pl.DataFrame:
    """The metrics of the conditions that succeeded, in the order of their places: a column per axis (numbers where all
    its values are), then metric, value, low, high, human."""
    axes = _axes(sweep)
    placed = sweep.conditions.filter(state="success").select("condition", *(_typed(sweep, name) for name in axes))
    figures = sweep.metrics.select("condition", "metric", "value", "low", "high", "human")
    return (
        placed.join(figures, on="condition", maintain_order="left_right")
        .drop("condition")
        .sort(axes, maintain_order=True)
    )


def _axes(sweep: Sweep) -> list[str]:
    return [name for name in sweep.conditions.columns if name not in _NO_AXES]


def _typed(sweep: Sweep, axis: str) -> pl.Expr:
    numbers = sweep.conditions[axis].cast(pl.Float64, strict=False)
    return pl.col(axis) if numbers.null_count() else pl.col(axis).cast(pl.Float64)


def _shown(sweep: Sweep) -> list[str]:
    measured = set(sweep.metrics["metric"])
    return [name for name in _SHOWN if name in measured]


def table(sweep: Sweep) -> pl.DataFrame:
    """A row per condition and one of people: a column per axis, then one per main metric, with its unit: value and
    95 % interval, as text."""
    axes, shown = _axes(sweep), _shown(sweep)
    rows: list[dict[str, str]] = []
    for place, part in points(sweep).group_by(axes, maintain_order=True):
        figures = {row["metric"]: text.estimate(row["value"], row["low"], row["high"]) for row in part.to_dicts()}
        rows.append({name: _written(value) for name, value in zip(axes, place, strict=True)} | figures)
    people = {
        row["metric"]: text.estimate(row["value"], row["low"], row["high"])
        for row in comparison.human(sweep).to_dicts()
    }
    if rows:
        rows.append({axes[0]: "people"} | people)
    heads = {name: f"{METRICS[name].title} ({METRICS[name].unit})" for name in shown}
    frame = pl.DataFrame(rows, schema=dict.fromkeys((*axes, *shown), pl.String))
    return frame.select(*axes, *(pl.col(name).alias(head) for name, head in heads.items())).fill_null("")


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def figures(sweep: Sweep) -> list[Figure]:
    """For each axis with two values or more a figure: a chart per main metric along it, a line per combination of
    the other axes."""
    placed, axes = points(sweep), _axes(sweep)
    drawn = []
    for axis in axes:
        if placed[axis].n_unique() < 2:
            continue
        others = [name for name in axes if name != axis]
        series = (
            pl.concat_str([pl.format("{} = {}", pl.lit(name), name) for name in others], separator=", ")
            if others
            else pl.lit("")
        )
        lines: list[alt.LayerChart | alt.Chart] = []
        for name in _shown(sweep):
            rows = placed.filter(metric=name).select(
                pl.col(axis).alias("x"), series.alias("series"), "value", "low", "high", "human"
            )
            title = f"{METRICS[name].title} ({METRICS[name].unit})"
            lines.append(along(rows.sort("series", "x"), axis).properties(title=title))
        reading = "Points with their 95 % interval over dialogues; dashed: human dialogues."
        drawn.append(Figure(f"Along {axis}", reading, charts.grid(lines, columns=3)))
    return drawn
