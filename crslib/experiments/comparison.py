"""The runs of a sweep side by side: which succeeded, their metrics as one frame and as charts, and what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from crslib import schemas, stats
from crslib.config import resolve
from crslib.metrics import CLAIMS, METRICS, Metric, all_metrics, check_names, evaluation, reference
from crslib.metrics.leakage import IN_PROFILE, KINDS
from crslib.reporting import charts, text
from crslib.reporting.figure import Figure
from crslib.reporting.html import Dialogue, Verdict
from crslib.runs import newest_sweep, read_sweep, written
from crslib.store import Run

# Fewer dialogues claim nothing. A sign-flip test of n pairs has a p of at least 2 / 2^n, which Holm's correction of 500
# tests (100 metrics, five other conditions) raises above 0.05 up to n = 14; the error that a bootstrap estimates from a
# few dialogues is too small (by (n − 1) / n in variance, and by skewness), with 30 by some 2 %.
MIN_DIALOGUES = 30
LEVEL = 0.05
_DRAWS = 200  # draws of signs for each test: the least p after Holm's correction is then 1 / 200
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
    `metrics`, `scores`, `resamples`: condition and the columns of these tables, of the conditions that succeeded.
    `runs`: these conditions' runs, by name. `defined`: all metrics, with those of one's own that the runs have."""

    path: Path
    conditions: pl.DataFrame
    metrics: pl.DataFrame
    scores: pl.DataFrame
    resamples: pl.DataFrame
    runs: Mapping[str, Run] = field(default_factory=dict)
    defined: Mapping[str, Metric] = field(default_factory=lambda: METRICS)


def read(sweep_dir: str) -> Sweep:
    """The sweep in folder `sweep_dir`, or the newest below `reports/sweeps`.

    Raises `CrsError` when there is none, and for a run with a metric that is not defined.
    """
    path = Path(sweep_dir) if sweep_dir else newest_sweep()
    content, named = read_sweep(path)
    rows, runs = [], {}
    tables: dict[str, list[pl.DataFrame]] = {"metrics": [], "scores": [], "resamples": []}
    for condition, (label, run) in zip(content["conditions"], named, strict=True):
        info = run.outcome
        audit = info.get("audit")
        rows.append(
            {
                "condition": label,
                **{name: written(value) for name, value in condition["values"].items()},
                "state": condition["state"],
                "leaks": _leaks(audit),
                "error": info.get("error"),
                "traceback": info.get("traceback"),
            }
        )
        if condition["state"] == "success":
            runs[label] = run
            for name, frames in tables.items():
                frames.append(run.read(name).select(pl.lit(label).alias("condition"), pl.all()))
                names = frames[-1]["metric"].unique().sort()
                check_names(names, str(run.path / f"{name}.parquet"), all_metrics(run))
    texts = dict.fromkeys(("condition", *content["axes"], "state", "error", "traceback"), pl.String)
    conditions = pl.DataFrame(rows, schema_overrides={**texts, "leaks": pl.Int64})
    empty = {name: pl.DataFrame(schema={"condition": pl.String, **schemas.TABLES[name]}) for name in tables}
    joined = {name: pl.concat(frames) if frames else empty[name] for name, frames in tables.items()}
    return Sweep(path, conditions, **joined, runs=runs, defined=all_metrics(*runs.values()))


def _leaks(audit: Mapping[str, int | None] | None) -> int | None:
    """The findings of an audit; None where it read no prompts."""
    found = {kind: audit and audit.get(kind.replace(" ", "_")) for kind in KINDS}
    no_prompts = all(count is None for kind, count in found.items() if kind != IN_PROFILE)
    return None if no_prompts else sum(count or 0 for count in found.values())


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
    for name, metric in sweep.defined.items() if sweep.runs else ():
        rows = sweep.metrics.filter(metric=name)
        if metric.chart and rows.height:
            families.setdefault(metric.family, []).append(charts.conditions(rows).properties(title=metric.title))
    reading = "Points with their 95 % interval over dialogues; dashed: human dialogues."
    return [Figure(family.capitalize(), reading, charts.grid(drawn, columns=3)) for family, drawn in families.items()]


def table(sweep: Sweep, differences: pl.DataFrame) -> pl.DataFrame:
    """All metrics as text: family, metric (its title), better (its direction), a column per condition, and human.

    A cell is the value with its 95 % interval; ▲: the first condition is significantly better than this one (or closer
    to human dialogues, where that is better), ▼: worse (see `differences`).
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
        for metric in sweep.defined.values()
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
        for name, metric in sweep.defined.items()
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
    of their differences with a bootstrap interval. All dialogues have the same weight, so it need not be the difference
    of two pooled shares. Other metrics are of a whole run, and so are all where the two runs have no dialogue of the
    same id (dialogues that others made): the difference of the two values, with an interval from differences of
    resamples of dialogues, the same ones for both runs. `n`: dialogues (pairs, or of the smaller run).

    `p`: two-sided, corrected for all tests of the sweep (Holm), of metrics for which higher or lower is better: a
    sign-flip test where dialogues are paired, else `stats.shift` of the resamples; of metrics that are better the
    closer to human dialogues: `stats.shift` of the difference of the two distances to the human value. `p` is null
    without a direction, a human value or resamples, and with fewer than `MIN_DIALOGUES` dialogues. `better`: whether
    the first condition is the better one (or the closer one); null where p is null or `LEVEL` and more.
    """
    if sweep.metrics.is_empty():
        return pl.DataFrame(schema=DIFFERENCES)
    first, *others = sweep.metrics["condition"].unique(maintain_order=True)
    values = {(c, m): part for (c, m), part in sweep.scores.group_by("condition", "metric")}
    whole = {(row["condition"], row["metric"]): row for row in sweep.metrics.iter_rows(named=True)}
    drawn = {(c, m): np.array(v, dtype=float) for c, m, v in sweep.resamples.iter_rows()}
    rows: list[tuple[Any, ...]] = []
    p: list[float | None] = []
    signed: dict[int, np.ndarray] = {}  # row → differences of pairs for a sign-flip test
    for other in others:
        for name, metric in sweep.defined.items():
            keys = (first, name), (other, name)
            if any(key not in whole for key in keys):
                continue
            one, two = (whole[key] for key in keys)
            replicates = [drawn[key] for key in keys if key in drawn]
            if len(replicates) < 2 or len(replicates[0]) != len(replicates[1]):
                replicates = []
            pairs = _pairs(values[keys[0]], values[keys[1]]) if all(key in values for key in keys) else None
            pairs = None if pairs is None or not len(pairs) else pairs
            if pairs is None:
                estimate = _whole(one, two, replicates)
            elif (paired := stats.paired_difference(pairs, 0 * pairs, times=times, seed=seed)) and paired.n > 1:
                estimate = paired
            else:
                continue
            better, test = (estimate.value > 0) == (metric.direction == "higher"), None
            if estimate.n < MIN_DIALOGUES or metric.direction == "none":
                pass
            elif metric.direction == "human":
                if replicates and one["human"] is not None:
                    better, test = _nearer(one, two, *replicates)
            elif pairs is not None:
                signed[len(rows)] = pairs
            elif replicates:
                test = stats.shift(estimate.value, replicates[0] - replicates[1])
            rows.append((other, name, metric.family, estimate.value, estimate.low, estimate.high, estimate.n, better))
            p.append(test)
    for row, value in zip(signed, _sign_flips(list(signed.values()), seed), strict=True):
        p[row] = value
    corrected = pl.Series("p", p, dtype=pl.Float64)
    if len(tested := corrected.is_not_null().arg_true()):
        corrected = corrected.scatter(tested, stats.holm(corrected.drop_nulls().to_numpy()))
    columns = {name: dtype for name, dtype in DIFFERENCES.items() if name != "p"}
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(corrected)
    return frame.with_columns(pl.when(pl.col("p") < LEVEL).then("better").alias("better")).select(list(DIFFERENCES))


def verdict(sweep: Sweep, differences: pl.DataFrame) -> list[Verdict]:
    """Whether the paper's claims hold (see `Metric.claim`), one per condition and claim: yes or no, mixed where
    significant differences contradict each other, open where there are none, also because n is too small for any
    (`MIN_DIALOGUES`)."""
    if differences.is_empty():
        return []
    first = sweep.metrics["condition"][0]
    found = []
    for other in differences["condition"].unique(maintain_order=True):
        for claim in CLAIMS:
            names = [name for name, metric in METRICS.items() if metric.claim == claim]
            rows = differences.filter(pl.col("condition") == other, pl.col("metric").is_in(names))
            if rows.height:
                signs = set(rows["better"].drop_nulls())
                word = "mixed" if len(signs) == 2 else "yes" if True in signs else "no" if signs else "open"
                evidence = ", ".join(_difference(row) for row in rows.iter_rows(named=True))
                if (rows["n"] < MIN_DIALOGUES).all():
                    word, evidence = "open", f"n too small (below {MIN_DIALOGUES}); {evidence}"
                found.append(Verdict(word, f"{first} {claim} than {other}", evidence))
    return found


def record(sweep: Sweep) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """All metrics for other programs: condition (of human dialogues: "human") → metric → mean, low, high and n."""
    return {
        str(condition): {
            row["metric"]: {"mean": row["value"], "low": row["low"], "high": row["high"], "n": row["n"]}
            for row in part.iter_rows(named=True)
        }
        for (condition,), part in _with_human(sweep).group_by("condition", maintain_order=True)
    }


def _pairs(one: pl.DataFrame, other: pl.DataFrame) -> np.ndarray:
    """The differences of dialogues with the same id."""
    both = one.join(other, on="dialogue_id", suffix="_other").sort("dialogue_id")
    return both["value"].to_numpy() - both["value_other"].to_numpy()


def _whole(one: Mapping[str, Any], other: Mapping[str, Any], replicates: Sequence[np.ndarray]) -> stats.Estimate:
    value = one["value"] - other["value"]
    ends = stats.interval(replicates[0] - replicates[1], value) if replicates else (None, None)
    return stats.Estimate(value, *ends, min(one["n"] or 0, other["n"] or 0))


def _nearer(
    one: Mapping[str, Any], other: Mapping[str, Any], drawn: np.ndarray, drawn_other: np.ndarray
) -> tuple[bool, float | None]:
    """Whether the first of two values is the closer one to the human value, with the p-value of the difference of their
    distances. A distance has the sign of the whole sample in every resample: folded at 0 it would vary too little."""
    sides = [(row["value"] - row["human"], values) for row, values in ((one, drawn), (other, drawn_other))]
    difference = abs(sides[0][0]) - abs(sides[1][0])
    signs = [1.0 if apart >= 0 else -1.0 for apart, _ in sides]
    return difference < 0, stats.shift(difference, signs[0] * drawn - signs[1] * drawn_other)


def _sign_flips(pairs: Sequence[np.ndarray], seed: int) -> list[float]:
    """The p-values of sign-flip tests, with draws enough for a correction of all of them."""
    if not pairs:
        return []
    columns = np.zeros((max(map(len, pairs)), len(pairs)))
    for place, differences in enumerate(pairs):
        columns[: len(differences), place] = differences
    return [float(p) for p in stats.sign_flips(columns, times=max(10_000, _DRAWS * len(pairs)), seed=seed)]


def _difference(row: Mapping[str, Any]) -> str:
    shown = text.estimate(row["difference"], row["low"], row["high"], form="+.3f")
    return f"{METRICS[row['metric']].title} {shown}"
