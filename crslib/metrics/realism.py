"""How near simulated dialogues are to people's: who opens, how long, how often a question or an item comes.

Shares and means stand beside those of people; whole distributions have two distances to people's, and the distance
that people have to one another. Knows nothing of what is said.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed
from crslib.metrics.facts import Facts

MARGINALS = ("user_words", "recommender_words", "turns", "user_items", "recommender_items")
N_SPLITS = 200  # random splits of the human dialogues behind a floor


def parts(facts: Facts) -> pl.DataFrame:
    """Numerator and denominator of the means and shares per dialogue: (dialogue_id, metric, part, whole)."""
    turns = facts.turns
    per_turn = [
        turns.filter(pl.col("role") == role).select("dialogue_id", pl.lit(f"{role}_{name}").alias("metric"), value)
        for role in (USER, RECOMMENDER)
        for name, value in (
            ("words", pl.col("n_words").cast(pl.Float64).alias("value")),
            ("items", pl.col("n_items").cast(pl.Float64).alias("value")),
            ("questions", pl.col("asks").cast(pl.Float64).alias("value")),
        )
    ]
    per_dialogue = turns.group_by("dialogue_id").agg(
        pl.len().cast(pl.Float64).alias("turns"),
        (pl.col("role").sort_by("turn").first() == RECOMMENDER).cast(pl.Float64).alias("recommender_opens"),
    )
    noted = facts.reactions.drop_nulls("note_liked").select(
        "dialogue_id", pl.lit("liked_share").alias("metric"), pl.col("note_liked").cast(pl.Float64).alias("value")
    )
    values = pl.concat([*per_turn, per_dialogue.unpivot(index="dialogue_id", variable_name="metric"), noted])
    return (
        values.group_by("dialogue_id", "metric")
        .agg(pl.col("value").sum().alias("part"), pl.len().cast(pl.Float64).alias("whole"))
        .sort("dialogue_id", "metric")
    )


def observations(facts: Facts, marginal: str) -> pl.DataFrame:
    """The single observations of one of `MARGINALS`: (dialogue_id, value), a turn's or, for `turns`, a dialogue's."""
    if marginal == "turns":
        return facts.turns.group_by("dialogue_id").agg(pl.len().cast(pl.Int32).alias("value")).sort("dialogue_id")
    role, _, what = marginal.partition("_")
    return facts.turns.filter(pl.col("role") == role).select("dialogue_id", pl.col(f"n_{what}").alias("value"))


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest difference of two distribution functions. Histograms over 0, 1, 2, …: (k, v) against (v,) or (k, v)."""
    return np.abs(_distribution(a) - _distribution(b)).max(axis=-1)


def wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area between two distribution functions (first Wasserstein distance), in the unit of the values."""
    return np.abs(_distribution(a) - _distribution(b)).sum(axis=-1)


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "ks": kolmogorov_smirnov,
    "wasserstein": wasserstein,
}


def distances(facts: Facts, human: Facts, *, times: int, seed: int) -> dict[str, tuple[stats.Estimate, float, float]]:
    """`{marginal}_{distance}` → the run's distance to people, and people's to one another: mean and 95 % quantile.

    Observations are pooled; dialogues are what is resampled and drawn.
    """
    found = {}
    for marginal in MARGINALS:
        ours, theirs = observations(facts, marginal), observations(human, marginal)
        if ours.is_empty() or theirs.is_empty():
            continue
        n_values = max(ours["value"].max(), theirs["value"].max()) + 1
        run, people = _histograms(ours, n_values), _histograms(theirs, n_values)
        for name, distance in DISTANCES.items():
            found[f"{marginal}_{name}"] = against_people(run, people, distance, times=times, seed=seed)
    return found


def against_people(
    run: np.ndarray,
    people: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    times: int,
    seed: int,
) -> tuple[stats.Estimate, float, float]:
    """The distance of a run's histogram to people's, and people's to one another: mean and 95 % quantile.

    `run`, `people`: one row of counts per dialogue. People to one another: as many human dialogues as the run has (at
    most half of them), drawn at random, against the rest.
    """
    estimate = stats.bootstrap(
        lambda counts: distance(counts @ run, people.sum(axis=0)), len(run), times=times, seed=seed
    )
    drawn = splits(len(people), len(run), seed)
    floor = distance(drawn @ people, (1 - drawn) @ people)
    return estimate, float(floor.mean()), float(np.quantile(floor, stats.LEVEL))


def histogram(facts: Facts, human: Facts, marginal: str) -> pl.DataFrame:
    """One marginal for a chart: (source: simulated or people, value, share of the observations)."""
    frames = []
    for source, side in (("simulated", facts), ("people", human)):
        values = observations(side, marginal)
        frames.append(
            values.group_by("value")
            .agg(pl.len().alias("count"))
            .sort("value")
            .select(pl.lit(source).alias("source"), "value", (pl.col("count") / max(1, len(values))).alias("share"))
        )
    return pl.concat(frames)


def _histograms(values: pl.DataFrame, n_values: int) -> np.ndarray:
    """One row per dialogue with an observation, sorted: how often each value 0, 1, … occurs."""
    ids = values["dialogue_id"].unique().sort()
    row = values.join(pl.DataFrame({"dialogue_id": ids}).with_row_index("row"), on="dialogue_id", maintain_order="left")
    counts = np.zeros((len(ids), n_values))
    np.add.at(counts, (row["row"].to_numpy(), row["value"].to_numpy()), 1)
    return counts


def splits(n_people: int, n: int, seed: int) -> np.ndarray:
    """`N_SPLITS` draws of `n` people (at most half of them) against the rest: 0/1 array (splits, people)."""
    generator = np.random.default_rng(derive_seed(seed, "human splits", n_people, n))
    order = generator.random((N_SPLITS, n_people)).argsort(axis=1)
    return (order < max(1, min(n, n_people // 2))).astype(np.float64)


def _distribution(histogram: np.ndarray) -> np.ndarray:
    total = histogram.sum(axis=-1, keepdims=True)
    return np.cumsum(histogram, axis=-1) / np.where(total > 0, total, np.nan)
