"""Dialogue acts of simulated and human turns: their shares, and the divergence of their distributions.

The same tagger (`dialogue.acts`) labels both and makes errors on both, not necessarily equally many. Knows nothing of
words.
"""

import numpy as np
import polars as pl
from scipy.special import rel_entr

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.base import Metric, Result, per_role
from crslib.metrics.realism import FLOOR, N_SPLITS, against_human

_KEYS = ["dialogue_id", "turn"]


def unigrams(acts: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, role, gram, weight): each turn has weight 1, divided evenly among its acts."""
    return acts.select("dialogue_id", "role", _gram(""), (1 / pl.len().over(_KEYS)).alias("weight"))


def bigrams(acts: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, role, gram, weight): each two successive turns of a dialogue, of either party, have weight 1,
    divided evenly among the pairs of an act of the first and an act of the second; `role` is that of the second.

    Turns without text do not count.
    """
    placed = acts.with_columns(pl.col("turn").rank("dense").over("dialogue_id").cast(pl.Int64).alias("place"))
    before = placed.select("dialogue_id", pl.col("place") + 1, pl.col("role").alias("role_before"), act_before="act")
    pairs = placed.join(before, on=["dialogue_id", "place"])
    return pairs.select("dialogue_id", "role", _gram("_before"), (1 / pl.len().over(_KEYS)).alias("weight"))


def _gram(before: str) -> pl.Expr:
    own = pl.format("{}: {}", "role", "act")
    return (pl.format("{}: {} → {}", "role_before", "act_before", own) if before else own).alias("gram")


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jensen–Shannon divergence in bits, 0 to 1, of histograms: (k, v) against (v,) or (k, v); NaN for an empty one.

    ½ KL(p‖m) + ½ KL(q‖m) with m = ½(p + q) (Lin, Divergence Measures Based on the Shannon Entropy, 1991, eq. 5.1).
    """
    p, q = (side / np.where((total := side.sum(axis=-1, keepdims=True)) > 0, total, np.nan) for side in (a, b))
    middle = (p + q) / 2
    return (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / (2 * np.log(2))


GRAMS = {"act": unigrams, "act_bigram": bigrams}


def _metrics(name: str, title: str, unit: str, weights: str, of_role: str) -> list[Metric]:
    """Divergences of one kind of gram, over both parties together and over each."""

    def metric(prefix: str, scope: str, whose: str, *, claimed: bool) -> Metric:
        return Metric(f"{prefix}{name}_divergence", "realism", f"{title}, {scope}: Jensen–Shannon", "bits", "lower",
            f"Jensen–Shannon divergence (base 2) of the distributions of {unit} in the run and in human dialogues, "
            f"over {whose}. {weights} Acts: 12 of users, 6 of recommenders, labelled on both sides by the tagger of "
            f"data/acts, where its accuracy is stated. {FLOOR}",
            "acts: Cai and Chen, UMAP 2020; divergence: Lin, IEEE Transactions on Information Theory 1991",
            settings=f"splits:{N_SPLITS}", chart=claimed,
            claim="is closer to human dialogues" if claimed else None)  # fmt: skip

    return [
        metric("", "both", "the turns of both parties, with the role as a part of the act", claimed=False),
        *per_role(metric("{role}_", "{role}", f"{{role}} turns{of_role}", claimed=name == "act")),
    ]


METRICS = (
    *_metrics("act", "Dialogue acts", "acts", "Each turn has weight 1, divided evenly among its acts.", ""),
    *_metrics(
        "act_bigram",
        "Dialogue acts in a row",
        "pairs of an act and an act of the next turn",
        "Each two successive turns have weight 1, divided evenly among their pairs.",
        " as the second of the two turns",
    ),
)


def divergences(acts: pl.DataFrame, human: pl.DataFrame, *, times: int, seed: int) -> dict[str, Result]:
    """`[{role}_]{gram}_divergence` of a run from human dialogues.

    `acts`, `human`: columns of `dialogue.acts.SCHEMA`. Without a role: of both parties, with the role as a part of the
    act; with a role: of its turns or, for bigrams, of pairs whose second turn is its own.
    """
    results = {}
    for name, grams in GRAMS.items():
        ours, theirs = grams(acts), grams(human)
        for role in ("", USER, RECOMMENDER):
            sides = [side.filter(role=role) if role else side for side in (ours, theirs)]
            if any(side.is_empty() for side in sides):
                continue
            run, reference = histograms(*sides)
            result = against_human(run, reference, jensen_shannon, times=times, seed=seed)
            results[f"{role}_{name}_divergence".removeprefix("_")] = result
    return results


def histograms(*sides: pl.DataFrame) -> list[np.ndarray]:
    """Per side one row per dialogue, one column per gram of any side, both sorted: the sum of its weights."""
    column = {gram: place for place, gram in enumerate(pl.concat(sides)["gram"].unique().sort())}
    weights = []
    for side in sides:
        ids = {dialogue_id: place for place, dialogue_id in enumerate(side["dialogue_id"].unique().sort())}
        sums = np.zeros((len(ids), len(column)))
        ordered = side.sort("dialogue_id", "gram", "weight")
        rows, columns = (
            [table[key] for key in ordered[name]] for name, table in (("dialogue_id", ids), ("gram", column))
        )
        np.add.at(sums, (rows, columns), ordered["weight"].to_numpy())
        weights.append(sums)
    return weights


def shares(acts: pl.DataFrame, human: pl.DataFrame, *, times: int, seed: int) -> pl.DataFrame:
    """(source: simulated or human, role, act, share, low, high), sorted by the human share: the share of a role's turns
    with an act, with 95 % intervals over dialogues. A turn may have several acts, so shares sum to more than 1."""
    known = pl.concat([acts, human]).select("role", "act").unique()
    rows = []
    for source, side in (("simulated", acts), ("human", human)):
        whole = side.unique(["dialogue_id", "turn"]).group_by("dialogue_id", "role").len("whole")
        part = side.group_by("dialogue_id", "role", "act").len("part")
        counted = (
            whole.join(known, on="role")
            .join(part, on=["dialogue_id", "role", "act"], how="left")
            .select(
                "dialogue_id", pl.format("{}|{}", "role", "act").alias("metric"), pl.col("part").fill_null(0), "whole"
            )
            .sort("dialogue_id", "metric")
        )
        for name, estimate in stats.ratios(counted, side["dialogue_id"], times=times, seed=seed).items():
            rows.append((source, *name.split("|"), estimate.value, estimate.low, estimate.high))
    columns = {"source": pl.String, "role": pl.String, "act": pl.String}
    table = pl.DataFrame(rows, schema={**columns, **dict.fromkeys(("share", "low", "high"), pl.Float64)}, orient="row")
    of_human = table.filter(source="human").select("role", "act", order="share")
    ordered = table.join(of_human, on=["role", "act"], how="left").sort(
        ["source", "role", "order", "act"], descending=[True, True, True, False], nulls_last=True
    )
    return ordered.drop("order")
