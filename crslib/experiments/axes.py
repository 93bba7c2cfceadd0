"""The results of a sweep over its axes: which value of a parameter gives which figures. What `04_sweep` shows."""

import altair as alt
import polars as pl

from crslib.errors import CrsError
from crslib.experiments import comparison
from crslib.experiments.comparison import Sweep
from crslib.experiments.runs import FIGURES
from crslib.metrics import METRICS
from crslib.reporting import charts, text
from crslib.reporting.along import along
from crslib.reporting.figure import Figure

_SHOWN = (*FIGURES, "recommender_validity", "facts_true")  # and is it true
_AXIS = "axis "  # before an axis that is a column of `points`: a parameter may be called `human`
_NO_AXES = ("condition", "state", "leaks", "error", "traceback")


def points(sweep: Sweep) -> pl.DataFrame:
    """The metrics of the conditions that succeeded, in the order of their places: condition, a column `axis NAME` per
    axis (numbers where all its values are), then metric, value, low, high, human. Raises `CrsError` without axes."""
    axes = _axes(sweep)
    placed = sweep.conditions.filter(state="success").select("condition", *(_typed(sweep, name) for name in axes))
    figures = sweep.metrics.select("condition", "metric", "value", "low", "high", "human")
    columns = [_AXIS + name for name in axes]
    return placed.join(figures, on="condition", maintain_order="left_right").sort(columns, maintain_order=True)


def _axes(sweep: Sweep) -> list[str]:
    """Raises `CrsError` where there is none: conditions that differ in their names only have no places."""
    if axes := [name for name in sweep.conditions.columns if name not in _NO_AXES]:
        return axes
    raise CrsError(f"{sweep.path} has no axes, its conditions have names only; look at it with 04_compare instead")


def _typed(sweep: Sweep, axis: str) -> pl.Expr:
    numbers = sweep.conditions[axis].cast(pl.Float64, strict=False)
    typed = pl.col(axis) if numbers.null_count() else pl.col(axis).cast(pl.Float64)
    return typed.alias(_AXIS + axis)


def _shown(sweep: Sweep) -> list[str]:
    measured = set(sweep.metrics["metric"])
    return [name for name in _SHOWN if name in measured]


def table(sweep: Sweep) -> pl.DataFrame:
    """A row per condition and one of people: a column per axis (its values as given), then one per main metric, with
    its unit: value and 95 % interval, as text. Errors are those of `points`."""
    axes, shown = _axes(sweep), _shown(sweep)
    rows: list[dict[str, str]] = []
    places = {row["condition"]: {name: row[name] for name in axes} for row in sweep.conditions.to_dicts()}
    for (condition,), part in points(sweep).group_by("condition", maintain_order=True):
        figures = {row["metric"]: text.estimate(row["value"], row["low"], row["high"]) for row in part.to_dicts()}
        rows.append(places[condition] | figures)
    people = {
        row["metric"]: text.estimate(row["value"], row["low"], row["high"])
        for row in comparison.human(sweep).to_dicts()
    }
    if rows:
        rows.append({axes[0]: "people"} | people)
    heads = {name: f"{METRICS[name].title} ({METRICS[name].unit})" for name in shown}
    frame = pl.DataFrame(rows, schema=dict.fromkeys((*axes, *shown), pl.String))
    return frame.select(*axes, *(pl.col(name).alias(head) for name, head in heads.items())).fill_null("")


def figures(sweep: Sweep) -> list[Figure]:
    """For each axis with two values or more a figure: a chart per main metric along it, a line per combination of
    the other axes. Errors are those of `points`."""
    placed, axes = points(sweep), _axes(sweep)
    drawn = []
    for axis in axes:
        if placed[_AXIS + axis].n_unique() < 2:
            continue
        others = [name for name in axes if name != axis]
        series = (
            pl.concat_str([pl.format("{} = {}", pl.lit(name), _AXIS + name) for name in others], separator=", ")
            if others
            else pl.lit("")
        )
        lines: list[alt.LayerChart | alt.Chart] = []
        for name in _shown(sweep):
            rows = placed.filter(metric=name).select(
                pl.col(_AXIS + axis).alias("x"), series.alias("series"), "value", "low", "high", "human"
            )
            title = f"{METRICS[name].title} ({METRICS[name].unit})"
            lines.append(along(rows.sort("series", "x"), axis).properties(title=title))
        reading = "Points with their 95 % interval over dialogues; dashed: human dialogues."
        drawn.append(Figure(f"Along {axis}", reading, charts.grid(lines, columns=3)))
    return drawn
