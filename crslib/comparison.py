"""The runs of a sweep side by side: which ended well, and their figures as one frame and as charts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from crslib import charts, stats
from crslib.config import resolve
from crslib.errors import CrsError
from crslib.metrics import METRICS
from crslib.metrics.leakage import KINDS
from crslib.report import Figure
from crslib.store import Run

SHOWN = (
    "hits",
    "recommender_validity",
    "repeats",
    "acceptance",
    "reaction_consistency",
    "contradictions",
    "turns",
    "user_words",
    "recommender_words",
    "user_words_wasserstein",
    "user_distinct_2",
    "recommender_distinct_2",
    "item_entropy",
    "gini",
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
    "is more diverse": ("user_distinct_2", "recommender_distinct_2", "item_entropy", "user_self_bleu"),
    "is nearer to people": tuple(f"{name}_wasserstein" for name in ("user_words", "recommender_words", "turns")),
    "recommends better": ("hits", "recall_at_5", "attribute_match", "repeats"),
    "is more consistent": ("reaction_consistency", "contradictions"),
    "gives away less": ("leaked_titles", "target_named_by_user"),
}
"""What the paper says of independent simulators, and the metrics that speak of it."""


@dataclass(frozen=True)
class Sweep:
    """`conditions`: condition, one column per varied parameter, state, leaks, error, traceback (null where all is
    well). `metrics`, `scores`: condition and the columns of these tables, of the conditions that ended well."""

    path: Path
    conditions: pl.DataFrame
    metrics: pl.DataFrame
    scores: pl.DataFrame


def read(sweep_dir: str) -> Sweep:
    """The sweep in folder `sweep_dir`, or the newest below `reports/sweeps`. Raises `CrsError` when there is none."""
    path = Path(sweep_dir) if sweep_dir else _newest()
    try:
        content = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrsError(f"{path} holds no readable sweep.json ({error}); make one with `crs sweep GRID`") from None
    rows, frames, scores = [], [], []
    names = [condition["values"].get("condition") for condition in content["conditions"]]
    named = None not in names and len(set(names)) == len(names)
    for condition in content["conditions"]:
        label = ", ".join(f"{name}={_word(value)}" for name, value in condition["values"].items()) or "only condition"
        label = condition["values"]["condition"] if named else label
        run = Run(path / condition["path"])
        info = run.info
        audit = info.get("audit")
        rows.append(
            {
                "condition": label,
                **{name: _word(value) for name, value in condition["values"].items()},
                "state": condition["state"],
                "leaks": None if audit is None else sum(audit[kind.replace(" ", "_")] for kind in KINDS),
                "error": info.get("error"),
                "traceback": info.get("traceback"),
            }
        )
        if condition["state"] == "success":
            frames.append(run.read("metrics").select(pl.lit(label).alias("condition"), pl.all()))
            scores.append(run.read("scores").select(pl.lit(label).alias("condition"), pl.all()))
    texts = dict.fromkeys(("condition", *content["axes"], "state", "error", "traceback"), pl.String)
    conditions = pl.DataFrame(rows, schema_overrides={**texts, "leaks": pl.Int64})
    return Sweep(path, conditions, *(pl.concat(found) if found else pl.DataFrame() for found in (frames, scores)))


def _newest() -> Path:
    found = sorted(resolve("reports/sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CrsError("there is no sweep below reports/sweeps; make one with `crs sweep GRID`")
    return found[-1].parent


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "default" if value is None else str(value)


def figures(sweep: Sweep) -> list[Figure]:
    """One chart per metric of `SHOWN` that any condition has."""
    if sweep.metrics.is_empty():
        return []
    return [
        Figure(METRICS[name].title, METRICS[name].definition, charts.conditions(sweep.metrics.filter(metric=name)))
        for name in SHOWN
        if sweep.metrics.filter(metric=name).height
    ]


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
    """All figures for other programs: condition → metric → mean, low, high and n."""
    return {
        str(condition): {
            row["metric"]: {"mean": row["value"], "low": row["low"], "high": row["high"], "n": row["n"]}
            for row in part.iter_rows(named=True)
        }
        for (condition,), part in sweep.metrics.group_by("condition", maintain_order=True)
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
