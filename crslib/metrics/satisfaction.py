"""What people said of dialogues, and which metrics go with it. Needs labels, which come with stored dialogues."""

import numpy as np
import polars as pl

from crslib import schemas, stats
from crslib.metrics.base import Metric, Result, Results
from crslib.store import Run

NAME = "human_satisfaction"
MIN_DIALOGUES = 30  # with fewer the interval of a rank correlation is wider than 0.7, and says next to nothing

METRICS = (
    Metric(NAME, "satisfaction", "Satisfaction stated by people", "points", "none",
        "Mean over dialogues of the label `satisfaction` in their file: that of the dialogue, else the mean of those "
        "of its turns. Points are of the file's own scale: compare files of one scale only."),
)  # fmt: skip


def read(run: Run) -> pl.DataFrame:
    """Table `labels` of a run; without rows where it has none."""
    return run.read("labels") if run.has("labels") else schemas.empty("labels")


def evaluate(labels: pl.DataFrame, *, times: int, seed: int) -> Results:
    """`human_satisfaction`, of the dialogues in table `labels`."""
    labelled = labels.filter(label="satisfaction")
    if labelled.is_empty():
        return Results({}, missing="no labels of people's satisfaction; they come with a file of `crs evaluate`")
    whole = pl.col("value").filter(pl.col("turn").is_null()).mean()
    parts = (
        labelled.group_by("dialogue_id")
        .agg(pl.coalesce(whole, pl.col("value").mean()).alias("part"))
        .select("dialogue_id", pl.lit(NAME).alias("metric"), "part", pl.lit(1.0).alias("whole"))
        .sort("dialogue_id")
    )
    estimate = stats.mean(parts["part"].to_numpy(), times=times, seed=seed)
    assert estimate is not None
    return Results({NAME: Result(estimate)}, parts)


def correlations(scores: pl.DataFrame, *, times: int, seed: int) -> pl.DataFrame:
    """How satisfaction goes with every other metric of table `scores`: table `correlations`, the strongest first.

    Spearman's rank correlation over the dialogues that have both, with its 95 % bootstrap interval. Metrics with fewer
    than `MIN_DIALOGUES` of them, or with one value for all, have no row.
    """
    labelled = scores.filter(metric=NAME).select("dialogue_id", satisfaction="value")
    both = scores.filter(pl.col("metric") != NAME).join(labelled, on="dialogue_id").sort("metric", "dialogue_id")
    rows = []
    for (metric,), part in both.group_by("metric", maintain_order=True):
        if part.height >= MIN_DIALOGUES:
            values, satisfaction = (part[name].to_numpy().astype(np.float64) for name in ("value", "satisfaction"))
            estimate = stats.spearman(values, satisfaction, times=times, seed=seed)
            if estimate is not None:
                rows.append((metric, estimate.value, estimate.low, estimate.high, estimate.n))
    table = pl.DataFrame(rows, schema=dict(schemas.TABLES["correlations"]), orient="row")
    return table.sort(pl.col("value").abs(), "metric", descending=[True, False])


def verdict(scores: pl.DataFrame, table: pl.DataFrame) -> str:
    """Whether metrics could be correlated with satisfaction (`correlations`), in a sentence; empty without labels."""
    n = scores.filter(metric=NAME).height
    if not n:
        return ""
    if n < MIN_DIALOGUES:
        return f"satisfaction: {n} dialogues have a label, and a correlation with metrics needs {MIN_DIALOGUES}"
    if table.is_empty():
        return f"satisfaction: {n} dialogues have a label, all the same or of too few dialogues with a metric"
    clear = table.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    return (
        f"satisfaction: {n} dialogues have a label; of {table.height} metrics {clear} are correlated with it (the 95 % "
        "interval excludes 0), and one in 20 would be by chance"
    )
