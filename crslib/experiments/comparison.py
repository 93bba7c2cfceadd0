"""The runs of a sweep side by side: which succeeded, their metrics as one frame and as charts, and what differs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from crslib import stats
from crslib.config import resolve
from crslib.metrics import CLAIMS, METRICS, evaluation, reference
from crslib.metrics.leakage import KINDS
from crslib.reporting import charts, text
from crslib.reporting.html import Dialogue, Figure
from crslib.store import Run, newest_sweep, read_sweep, written

DIFFERENCES = {
    "condition": pl.String,
    "metric": pl.String,
    "family": pl.String,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "n": pl.Int64,
    "better": pl.Boolean,
}


@dataclass(frozen=True)
class Sweep:
    """`conditions`: condition, one column per varied parameter, state, leaks, error, traceback (null without an error).
    `metrics`, `scores`: condition and the columns of these tables, of the conditions that succeeded. `runs`: these
    conditions' runs, by name."""

    path: Path
    conditions: pl.DataFrame
    metrics: pl.DataFrame
    scores: pl.DataFrame
    runs: Mapping[str, Run] = field(default_factory=dict)


def read(sweep_dir: str) -> Sweep:
    """The sweep in folder `sweep_dir`, or the newest below `reports/sweeps`. Raises `CrsError` when there is none."""
    path = Path(sweep_dir) if sweep_dir else newest_sweep()
    content, named = read_sweep(path)
    rows, frames, scores, runs = [], [], [], {}
    for condition, (label, run) in zip(content["conditions"], named, strict=True):
        info = run.info
        audit = info.get("audit")
        rows.append(
            {
                "condition": label,
                **{name: written(value) for name, value in condition["values"].items()},
                "state": condition["state"],
                "leaks": None if audit is None else sum(audit[kind.replace(" ", "_")] for kind in KINDS),
                "error": info.get("error"),
                "traceback": info.get("traceback"),
            }
        )
        if condition["state"] == "success":
            runs[label] = run
            frames.append(run.read("metrics").select(pl.lit(label).alias("condition"), pl.all()))
            scores.append(run.read("scores").select(pl.lit(label).alias("condition"), pl.all()))
    texts = dict.fromkeys(("condition", *content["axes"], "state", "error", "traceback"), pl.String)
    conditions = pl.DataFrame(rows, schema_overrides={**texts, "leaks": pl.Int64})
    metrics, values = (pl.concat(part) if part else pl.DataFrame() for part in (frames, scores))
    return Sweep(path, conditions, metrics, values, runs)


def human(sweep: Sweep, *, times: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Human dialogues as one more condition: the columns of `Sweep.metrics`, `condition` is "human".

    Metrics that are counted in human and simulated dialogues alike have an interval over human dialogues. A distance is
    that between two samples of human dialogues at the size of the first condition: their mean, with the floor (their
    95 % quantile) as upper end.
    """
    if not sweep.runs:
        return sweep.metrics.clear()
    first, run = next(iter(sweep.runs.items()))
    folder = run.info.get("parameters", {}).get("human", "data/human")
    estimates = evaluation.human_estimates(reference.read(resolve(folder)), times=times, seed=seed)
    rows = []
    for row in sweep.metrics.filter(pl.col("condition") == first).drop_nulls("human").iter_rows(named=True):
        estimate = estimates.get(row["metric"], stats.Estimate(row["human"], None, row["floor"], 0))
        ends = {"low": estimate.low, "high": estimate.high, "n": estimate.n}
        rows.append({**row, "condition": "human", "value": row["human"], **ends, "signature": None})
    return pl.DataFrame(rows, schema=sweep.metrics.schema)


def _with_human(sweep: Sweep) -> pl.DataFrame:
    return pl.concat([sweep.metrics, human(sweep)]) if sweep.runs else sweep.metrics


def figures(sweep: Sweep) -> list[Figure]:
    """One figure per family of metrics, with a chart for each metric of the runs that has `Metric.chart`."""
    families: dict[str, list[alt.Chart | alt.LayerChart]] = {}
    for name, metric in METRICS.items() if sweep.runs else ():
        rows = sweep.metrics.filter(metric=name)
        if metric.chart and rows.height:
            families.setdefault(metric.family, []).append(charts.conditions(rows).properties(title=metric.title))
    reading = "Points with their 95 % interval over dialogues; dashed: human dialogues."
    return [Figure(family.capitalize(), reading, charts.grid(drawn, columns=3)) for family, drawn in families.items()]


def table(sweep: Sweep, differences: pl.DataFrame) -> pl.DataFrame:
    """All metrics as text: family, metric (its title), better (its direction), a column per condition, and human.

    A cell is the value with its 95 % interval; ▲: the first condition is significantly better than this one, ▼: worse
    (see `differences`).
    """
    marks = {
        (row["condition"], row["metric"]): " ▲" if row["better"] else " ▼"
        for row in differences.drop_nulls("better").iter_rows(named=True)
    }
    cells: dict[str, dict[str, str]] = {}
    metrics = _with_human(sweep)
    for row in metrics.iter_rows(named=True):
        cell = text.estimate(row["value"], row["low"], row["high"]) + marks.get((row["condition"], row["metric"]), "")
        cells.setdefault(row["metric"], {})[row["condition"]] = cell
    names = [str(name) for name in metrics["condition"].unique(maintain_order=True)]
    rows = [
        {
            "family": metric.family,
            "metric": metric.title,
            "better": "" if metric.direction == "none" else metric.direction,
            **{name: cells[metric.name].get(name, "") for name in names},
        }
        for metric in METRICS.values()
        if metric.name in cells
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(("family", "metric", "better", *names), pl.String))


# ── example dialogues ──────────────────────────────────────────────────────────────────────────────────────


def quality(sweep: Sweep) -> pl.DataFrame:
    """How good each dialogue is, for choosing examples: condition, dialogue_id, quality (0 to 1).

    The mean, over the metrics of recommendation and consistency with a direction, of the dialogue's rank among all
    dialogues of all conditions (0 the worst, 1 the best, ties in the middle). Not a metric to report.
    """
    directed = {
        name: metric.direction == "lower"
        for name, metric in METRICS.items()
        if metric.family in ("recommendation", "consistency") and metric.direction in ("higher", "lower")
    }
    scores = sweep.scores.filter(pl.col("metric").is_in(list(directed)))
    sign = pl.when(pl.col("metric").replace_strict(directed, return_dtype=pl.Boolean)).then(-1.0).otherwise(1.0)
    place = ((pl.col("value") * sign).rank("average") - 0.5) / pl.len()
    return (
        scores.with_columns(place.over("metric").alias("place"))
        .group_by("condition", "dialogue_id")
        .agg(pl.col("place").mean().alias("quality"))
        .sort("condition", "dialogue_id")
    )


def extremes(sweep: Sweep) -> list[tuple[str, list[Dialogue]]]:
    """Each condition's best and worst dialogue by `quality`, with those of the other conditions of the same profile:
    (label, dialogues), that of the condition itself first."""
    if sweep.scores.is_empty():
        return []
    chosen = []
    ranked = quality(sweep)
    for name in sweep.runs:
        own = ranked.filter(pl.col("condition") == name).sort("quality", "dialogue_id")
        for which, row in (("best", -1), ("worst", 0)) if own.height > 1 else ():
            dialogue_id = own["dialogue_id"][row]
            order = [name, *(other for other in sweep.runs if other != name)]
            pages = [Dialogue(other, sweep.runs[other], dialogue_id) for other in order]
            chosen.append((f"{name}: its {which} dialogue ({dialogue_id})", pages))
    return chosen


# ── one condition against the others ────────────────────────────────────────────────────────────────────────────────


def differences(sweep: Sweep, *, times: int = 1000, seed: int = 0) -> pl.DataFrame:
    """The first condition that succeeded minus every other one, metric by metric: the columns of `DIFFERENCES`.

    Where a metric has a value per dialogue, dialogues of the same id (the same profile and copy) are paired: the mean
    of their differences with a bootstrap interval, and `p` of a sign-flip test, corrected for all such tests of the
    sweep (Holm). All dialogues have the same weight, so it need not be the difference of two pooled shares. Other
    metrics are of a whole run; their intervals are added as if independent, and `p` is null. `n`: pairs, or 0.
    `better`: by the metric's direction; null where it has none or the difference is not significant (p of 0.05 and
    more; without p, 0 in the interval).
    """
    if sweep.metrics.is_empty():
        return pl.DataFrame(schema=DIFFERENCES)
    first, *others = sweep.metrics["condition"].unique(maintain_order=True)
    values = {(c, m): part for (c, m), part in sweep.scores.group_by("condition", "metric")}
    whole = {(row["condition"], row["metric"]): row for row in sweep.metrics.iter_rows(named=True)}
    rows = []
    for other in others:
        for name, metric in METRICS.items():
            a, b = values.get((first, name)), values.get((other, name))
            if a is not None and b is not None:
                difference = _paired(a, b, times, seed)
            else:
                difference = _unpaired(whole.get((first, name)), whole.get((other, name)))
            if difference is not None:
                rows.append((other, name, metric.family, *difference, None))
    frame = pl.DataFrame(rows, schema=DIFFERENCES, orient="row")
    tested = frame["p"].is_not_null().arg_true()
    p = frame["p"].scatter(tested, stats.holm(frame["p"].drop_nulls().to_numpy())) if len(tested) else frame["p"]
    direction = pl.col("metric").replace_strict({name: metric.direction for name, metric in METRICS.items()})
    apart = (pl.col("low") > 0) | (pl.col("high") < 0)
    significant = pl.when(pl.col("p").is_null()).then(apart).otherwise(pl.col("p") < 0.05)
    good = (pl.col("difference") > 0) == (direction == "higher")
    better = pl.when(significant & direction.is_in(["higher", "lower"])).then(good)
    return frame.with_columns(p=p).with_columns(better=better)


def verdict(sweep: Sweep, differences: pl.DataFrame) -> list[str]:
    """Whether the paper's claims hold (see `Metric.claim`), a line per condition and claim: yes or no, mixed where
    significant differences contradict each other, open where there are none."""
    if differences.is_empty():
        return []
    first = sweep.metrics["condition"][0]
    lines = []
    for other in differences["condition"].unique(maintain_order=True):
        for claim in CLAIMS:
            names = [name for name, metric in METRICS.items() if metric.claim == claim]
            rows = differences.filter(pl.col("condition") == other, pl.col("metric").is_in(names))
            if rows.height:
                signs = set(rows["better"].drop_nulls())
                word = "open" if not signs else "mixed" if len(signs) == 2 else "yes" if True in signs else "no"
                evidence = ", ".join(_difference(row) for row in rows.iter_rows(named=True))
                lines.append(f"{first} {claim} than {other}: {word}; {evidence}")
    return lines


def record(sweep: Sweep) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """All metrics for other programs: condition (of human dialogues: "human") → metric → mean, low, high and n."""
    return {
        str(condition): {
            row["metric"]: {"mean": row["value"], "low": row["low"], "high": row["high"], "n": row["n"]}
            for row in part.iter_rows(named=True)
        }
        for (condition,), part in _with_human(sweep).group_by("condition", maintain_order=True)
    }


def _paired(one: pl.DataFrame, other: pl.DataFrame, times: int, seed: int) -> tuple[Any, ...] | None:
    both = one.join(other, on="dialogue_id", suffix="_other").sort("dialogue_id")
    a, b = both["value"].to_numpy(), both["value_other"].to_numpy()
    estimate = stats.paired_difference(a, b, times=times, seed=seed) if len(both) > 1 else None
    if estimate is None:
        return None
    p = stats.sign_flips(a - b, times=10 * times, seed=seed)
    return estimate.value, estimate.low, estimate.high, p, estimate.n


def _unpaired(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    if one is None or other is None:
        return None
    value = one["value"] - other["value"]
    if None in [row[end] for row in (one, other) for end in ("low", "high")]:
        return value, None, None, None, 0
    below = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    above = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return value, value - below, value + above, None, 0


def _difference(row: Mapping[str, Any]) -> str:
    shown = text.estimate(row["difference"], row["low"], row["high"], form="+.3f")
    return f"{METRICS[row['metric']].title} {shown}"
