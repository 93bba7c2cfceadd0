"""How close simulated dialogues are to human ones: who opens, how long turns are, how often they ask or name items.

Shares and means come with those of human dialogues. Distributions come with two distances to those of human dialogues,
and with a floor: a high quantile of the distances between two samples of human dialogues. Knows nothing of the words.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed
from crslib.metrics.base import WORDS, Metric, Result, parts_of, per_role
from crslib.metrics.facts import Facts

N_SPLITS = 200  # random splits of the human dialogues for a floor
FLOOR = (
    f"Observations of all dialogues are pooled. Human: mean over {N_SPLITS} draws of as many human dialogues as the "
    "run has (at most half of them) against the rest; floor: the 95 % quantile of these draws."
)
MARGINALS = {  # title and unit
    "user_words": ("words per user turn", "words"),
    "recommender_words": ("words per recommender turn", "words"),
    "turns": ("turns per dialogue", "turns"),
    "user_items": ("items per user turn", "items"),
    "recommender_items": ("items per recommender turn", "items"),
}


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest difference of two distribution functions. Histograms over 0, 1, 2, …: (k, v) against (v,) or (k, v)."""
    return np.abs(_distribution(a) - _distribution(b)).max(axis=-1)


def wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area between two distribution functions (first Wasserstein distance), in the unit of the values."""
    return np.abs(_distribution(a) - _distribution(b)).sum(axis=-1)


def _distribution(histogram: np.ndarray) -> np.ndarray:
    total = histogram.sum(axis=-1, keepdims=True)
    return np.cumsum(histogram, axis=-1) / np.where(total > 0, total, np.nan)


Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
DISTANCES: dict[str, tuple[Distance, str, str, str]] = {  # function, short title, definition, source
    "ks": (
        kolmogorov_smirnov,
        "KS",
        "Largest difference of the two distribution functions (Kolmogorov–Smirnov)",
        "Massey, The Kolmogorov–Smirnov Test for Goodness of Fit, JASA 1951",
    ),
    "wasserstein": (
        wasserstein,
        "Wasserstein",
        "Area between the two distribution functions (first Wasserstein distance)",
        "Ramdas et al., On Wasserstein Two-Sample Testing and Related Families, Entropy 2017",
    ),
}
_CLAIMED = ("user_words_wasserstein", "recommender_words_wasserstein", "turns_wasserstein")

METRICS = (
    *per_role(
        Metric("{role}_words", "realism", "Words per {role} turn", "words", "human",
            f"Σ words / Σ {{role}} turns. {WORDS}", settings="tok:words", chart=True)
    ),
    Metric("turns", "realism", "Turns per dialogue", "turns", "human",
        "Mean number of turns of both parties over dialogues that have any; turns without text do not count.",
        headline="turns per dialogue", chart=True),
    Metric("recommender_opens", "realism", "Recommender speaks first", "share", "human",
        "Share of dialogues whose first turn is the recommender's."),
    *per_role(
        Metric("{role}_questions", "realism", "Questions, {role}", "share", "human",
            "Share of the {role}'s turns with a question mark.")
    ),
    *per_role(
        Metric("{role}_items", "realism", "Items per {role} turn", "items", "human",
            "Σ item mentions / Σ {role} turns.")
    ),
    Metric("liked_share", "realism", "Recommendations liked by the notes", "share", "human",
        "Of the items named by the recommender (each once a turn) on which the user's note has an opinion, the share "
        "that is liked or, if not met yet, of interest."),
    *(
        Metric(f"{marginal}_{name}", "realism", f"{title[0].upper()}{title[1:]}: {short}",
            "distance" if name == "ks" else unit, "lower",
            f"{definition} of {title}, run against human dialogues. {FLOOR}", source, settings=f"splits:{N_SPLITS}",
            claim="is closer to human dialogues" if f"{marginal}_{name}" in _CLAIMED else None)
        for marginal, (title, unit) in MARGINALS.items()
        for name, (_, short, definition, source) in DISTANCES.items()
    ),
)  # fmt: skip


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
    return parts_of(pl.concat([*per_turn, per_dialogue.unpivot(index="dialogue_id", variable_name="metric"), noted]))


def observations(facts: Facts, marginal: str) -> pl.DataFrame:
    """The single observations of one of `MARGINALS`: (dialogue_id, value), a turn's or, for `turns`, a dialogue's."""
    if marginal == "turns":
        return facts.turns.group_by("dialogue_id").agg(pl.len().cast(pl.Int32).alias("value")).sort("dialogue_id")
    role, _, what = marginal.partition("_")
    return facts.turns.filter(pl.col("role") == role).select("dialogue_id", pl.col(f"n_{what}").alias("value"))


def distances(facts: Facts, human: Facts, *, times: int, seed: int) -> dict[str, Result]:
    """`{marginal}_{distance}` of a run to human dialogues.

    Observations are pooled; dialogues are resampled and drawn.
    """
    results = {}
    for marginal in MARGINALS:
        ours, theirs = observations(facts, marginal), observations(human, marginal)
        if ours.is_empty() or theirs.is_empty():
            continue
        n_values = pl.concat([ours, theirs]).select(pl.col("value").max()).item() + 1
        sides = _histograms(ours, n_values), _histograms(theirs, n_values)
        for name, (distance, *_) in DISTANCES.items():
            results[f"{marginal}_{name}"] = against_human(*sides, distance, times=times, seed=seed)
    return results


def against_human(run: np.ndarray, human: np.ndarray, distance: Distance, *, times: int, seed: int) -> Result:
    """The distance of a run's histogram to that of human dialogues, with a bootstrap interval over the run's dialogues.

    `run`, `human`: one row of counts per dialogue. The human value and the floor are the mean and the 95 % quantile of
    the distances of as many human dialogues as the run has (at most half of them), drawn at random, to the rest.
    """
    estimate = stats.bootstrap(
        lambda counts: distance(counts @ run, human.sum(axis=0)), len(run), times=times, seed=seed
    )
    drawn = splits(len(human), len(run), seed)
    between = distance(drawn @ human, (1 - drawn) @ human)
    return Result(estimate, float(between.mean()), float(np.quantile(between, stats.LEVEL)))


def histogram(facts: Facts, human: Facts, marginal: str) -> pl.DataFrame:
    """One marginal for a chart: (source: simulated or human, value, share of the observations)."""
    frames = []
    for source, side in (("simulated", facts), ("human", human)):
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


def splits(n_human: int, n: int, seed: int) -> np.ndarray:
    """`N_SPLITS` draws of `n` of the human dialogues (at most half) against the rest: 0/1 array (splits, dialogues)."""
    generator = np.random.default_rng(derive_seed(seed, "human splits", n_human, n))
    order = generator.random((N_SPLITS, n_human)).argsort(axis=1)
    return (order < max(1, min(n, n_human // 2))).astype(np.float64)
