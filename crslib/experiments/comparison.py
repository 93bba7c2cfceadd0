"""The runs of a sweep side by side: which ended well, and their figures as one frame and as charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from crslib import stats
from crslib.config import resolve
from crslib.metrics import METRICS, evaluation, reference
from crslib.metrics.leakage import KINDS
from crslib.reporting import charts
from crslib.reporting.html import Dialogue, Figure, number
from crslib.store import Run, newest_sweep, read_sweep, written

SHOWN = (
    "hits",
    "recall_at_5",
    "attribute_match",
    "recommender_validity",
    "repeats",
    "acceptance",
    "reaction_consistency",
    "contradictions",
    "turns",
    "user_words",
    "recommender_words",
    "user_act_divergence",
    "recommender_act_divergence",
    "user_frechet",
    "recommender_frechet",
    "user_two_sample",
    "recommender_two_sample",
    "user_cross_entropy",
    "recommender_cross_entropy",
    "user_distinct_2",
    "recommender_distinct_2",
    "user_vendi",
    "recommender_vendi",
    "item_entropy",
    "gini",
    "guesswork_words",
    "target_named_by_user",
)


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
CLAIMS: Mapping[str, Sequence[str]] = {
    "is more diverse": (
        "user_distinct_2",
        "recommender_distinct_2",
        "user_self_bleu",
        "recommender_self_bleu",
        "user_vendi",
        "recommender_vendi",
        "item_entropy",
    ),
    "is nearer to people": (
        "user_words_wasserstein",
        "recommender_words_wasserstein",
        "turns_wasserstein",
        "user_act_divergence",
        "recommender_act_divergence",
        "user_frechet",
        "recommender_frechet",
        "user_two_sample",
        "recommender_two_sample",
    ),
    "recommends better": ("hits", "recall_at_5", "attribute_match", "repeats"),
    "is more consistent": ("reaction_consistency", "contradictions"),
    "gives away less": ("leaked_titles", "leaked_profiles", "target_named_by_user"),
}
"""What the paper says of independent simulators, and the metrics that speak of it."""


@dataclass(frozen=True)
class Sweep:
    """`conditions`: condition, one column per varied parameter, state, leaks, error, traceback (null where all is
    well). `metrics`, `scores`: condition and the columns of these tables, of the conditions that ended well. `runs`:
    these conditions' runs, by name."""

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
    return Sweep(path, conditions, *(pl.concat(found) if found else pl.DataFrame() for found in (frames, scores)), runs)


def people(sweep: Sweep, *, times: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Human dialogues as one more condition: the columns of `Sweep.metrics`, `condition` is "human".

    What is counted in people and simulations alike has an interval over human dialogues. A distance is that of people
    from people, at the size of the first condition: its mean, with the floor (their 95 % quantile) as upper end.
    """
    if not sweep.runs:
        return sweep.metrics.clear()
    first, run = next(iter(sweep.runs.items()))
    folder = run.info.get("parameters", {}).get("human", "data/human")
    known = evaluation.people(reference.read(resolve(folder)), times=times, seed=seed)
    rows = []
    for row in sweep.metrics.filter(pl.col("condition") == first).drop_nulls("human").iter_rows(named=True):
        found = known.get(row["metric"], stats.Estimate(row["human"], None, row["floor"], 0))
        ends = {"low": found.low, "high": found.high, "n": found.n}
        rows.append({**row, "condition": "human", "value": row["human"], **ends})
    return pl.DataFrame(rows, schema=sweep.metrics.schema)


def figures(sweep: Sweep) -> list[Figure]:
    """One figure per family of metrics: a chart for each metric of `SHOWN` that any condition has."""
    shown = [name for name in SHOWN if not sweep.metrics.is_empty() and sweep.metrics.filter(metric=name).height]
    families: dict[str, list[str]] = {}
    for name in shown:
        families.setdefault(METRICS[name].family, []).append(name)
    return [
        Figure(
            family.capitalize(),
            "Points with their 95 % interval over dialogues; dashed: people.",
            charts.beside([_chart(sweep, name) for name in names], columns=3),
        )
        for family, names in families.items()
    ]


def _chart(sweep: Sweep, name: str) -> alt.LayerChart:
    return charts.conditions(sweep.metrics.filter(metric=name)).properties(title=METRICS[name].title)


def table(sweep: Sweep, found: pl.DataFrame) -> pl.DataFrame:
    """All figures to read: family, metric (its title), better (its direction), a column per condition, and human.

    A cell is the value with its 95 % interval; ▲ says that the first condition is surely better than this one, ▼ worse
    (`found`: `differences`).
    """
    marks = {
        (row["condition"], row["metric"]): " ▲" if row["better"] else " ▼"
        for row in found.drop_nulls("better").iter_rows(named=True)
    }
    cells: dict[str, dict[str, str]] = {}
    everyone = pl.concat([sweep.metrics, people(sweep)]) if sweep.runs else sweep.metrics
    for row in everyone.iter_rows(named=True):
        ends = [end for end in (row["low"], row["high"]) if end is not None]
        interval = f" [{', '.join(map(number, ends))}]" if len(ends) == 2 else ""
        mark = marks.get((row["condition"], row["metric"]), "")
        cells.setdefault(row["metric"], {})[row["condition"]] = f"{number(row['value'])}{interval}{mark}"
    names = [str(name) for name in everyone["condition"].unique(maintain_order=True)]
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


# ── which dialogues to look at ──────────────────────────────────────────────────────────────────────────────────────


def quality(sweep: Sweep) -> pl.DataFrame:
    """How good each dialogue is, for choosing which to look at: condition, dialogue_id, quality (0 to 1).

    The mean, over the metrics of recommendation and consistency with a direction, of the dialogue's place among all
    dialogues of all conditions (0 the worst, 1 the best, ties in the middle). It is no figure to report.
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
    """Each condition's best and worst dialogue by `quality`, with what the other conditions made of the same person:
    what it is, and the dialogues, that of the condition itself first."""
    if sweep.scores.is_empty():
        return []
    chosen = []
    ranked = quality(sweep)
    for name in sweep.runs:
        mine = ranked.filter(pl.col("condition") == name).sort("quality", "dialogue_id")
        for which, row in (("best", -1), ("worst", 0)) if mine.height > 1 else ():
            dialogue_id = mine["dialogue_id"][row]
            order = [name, *(other for other in sweep.runs if other != name)]
            pages = [Dialogue(other, sweep.runs[other], dialogue_id) for other in order]
            chosen.append((f"{name}: its {which} dialogue ({dialogue_id})", pages))
    return chosen


# ── one condition against the others ────────────────────────────────────────────────────────────────────────────────


def differences(sweep: Sweep, *, times: int = 1000, seed: int = 0) -> pl.DataFrame:
    """The first condition that ended well minus every other one, metric by metric: the columns of `DIFFERENCES`.

    Where a metric has a value per dialogue, dialogues of the same id (the same person and copy) are paired: the mean of
    their differences with a bootstrap interval, and `p` of a sign-flip test, corrected for all such tests of the sweep
    (Holm). It weighs dialogues alike, so it need not be the difference of two pooled shares. Other metrics are of a
    whole run; their intervals are added as if independent, and `p` is null. `n`: pairs, or 0. `better`: by the metric's
    direction; null where it has none or the difference is not sure (p of 0.05 and more; without p, 0 in the interval).
    """
    if sweep.metrics.is_empty():
        return pl.DataFrame(schema=DIFFERENCES)
    first, *others = sweep.metrics["condition"].unique(maintain_order=True)
    values = {(c, m): part for (c, m), part in sweep.scores.group_by("condition", "metric")}
    whole = {(row["condition"], row["metric"]): row for row in sweep.metrics.iter_rows(named=True)}
    rows = []
    for other in others:
        for name, metric in METRICS.items():
            mine, theirs = values.get((first, name)), values.get((other, name))
            if mine is not None and theirs is not None:
                found = _paired(mine, theirs, times, seed)
            else:
                found = _unpaired(whole.get((first, name)), whole.get((other, name)))
            if found is not None:
                rows.append((other, name, metric.family, *found, None))
    frame = pl.DataFrame(rows, schema=DIFFERENCES, orient="row")
    tested = frame["p"].is_not_null().arg_true()
    p = frame["p"].scatter(tested, stats.holm(frame["p"].drop_nulls().to_numpy())) if len(tested) else frame["p"]
    direction = pl.col("metric").replace_strict({name: metric.direction for name, metric in METRICS.items()})
    sure = pl.when(pl.col("p").is_null()).then((pl.col("low") > 0) | (pl.col("high") < 0)).otherwise(pl.col("p") < 0.05)
    good = (pl.col("difference") > 0) == (direction == "higher")
    better = pl.when(sure & direction.is_in(["higher", "lower"])).then(good)
    return frame.with_columns(p=p).with_columns(better=better)


def verdict(sweep: Sweep, found: pl.DataFrame) -> list[str]:
    """What the figures say of the claim, in words: a line per claim and condition, made of `found` (`differences`)."""
    if found.is_empty():
        return []
    first = sweep.metrics["condition"][0]
    lines = []
    for other in found["condition"].unique(maintain_order=True):
        for claim, names in CLAIMS.items():
            rows = found.filter(pl.col("condition") == other, pl.col("metric").is_in(names))
            told = [_told(row) for row in rows.iter_rows(named=True)]
            if told:
                sure = set(rows["better"].drop_nulls())
                word = "open" if not sure else "mixed" if len(sure) == 2 else "yes" if True in sure else "no"
                lines.append(f"{first} {claim} than {other}: {word}; {', '.join(told)}")
    return lines


def record(sweep: Sweep) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """All figures for other programs: condition (people's is "human") → metric → mean, low, high and n."""
    everyone = pl.concat([sweep.metrics, people(sweep)]) if sweep.runs else sweep.metrics
    return {
        str(condition): {
            row["metric"]: {"mean": row["value"], "low": row["low"], "high": row["high"], "n": row["n"]}
            for row in part.iter_rows(named=True)
        }
        for (condition,), part in everyone.group_by("condition", maintain_order=True)
    }


def _paired(mine: pl.DataFrame, theirs: pl.DataFrame, times: int, seed: int) -> tuple[Any, ...] | None:
    both = mine.join(theirs, on="dialogue_id", suffix="_other").sort("dialogue_id")
    a, b = both["value"].to_numpy(), both["value_other"].to_numpy()
    estimate = stats.paired_difference(a, b, times=times, seed=seed) if len(both) > 1 else None
    if estimate is None:
        return None
    p = stats.sign_flips(a - b, times=10 * times, seed=seed)
    return estimate.value, estimate.low, estimate.high, p, estimate.n


def _unpaired(mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    if mine is None or theirs is None:
        return None
    value = mine["value"] - theirs["value"]
    ends = [row[end] for row in (mine, theirs) for end in ("low", "high")]
    if None in ends:
        return value, None, None, None, 0
    below = math.hypot(mine["value"] - mine["low"], theirs["high"] - theirs["value"])
    above = math.hypot(mine["high"] - mine["value"], theirs["value"] - theirs["low"])
    return value, value - below, value + above, None, 0


def _told(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{METRICS[row['metric']].title} {row['difference']:+.3f}{interval}"
