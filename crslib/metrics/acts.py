"""What parties do with their turns, against people: shares of dialogue acts, and how far apart they are.

Acts of either side are read by the same tagger (`dialogue/acts.py`), whose errors are therefore on both sides; they are
not the same errors where words differ. Knows nothing of words.
"""

import numpy as np
import polars as pl
from scipy.special import rel_entr

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.realism import against_people

_KEYS = ["dialogue_id", "turn"]


def unigrams(acts: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, role, gram, weight): each turn weighs 1, parted evenly among its acts."""
    return acts.select("dialogue_id", "role", _gram(""), (1 / pl.len().over(_KEYS)).alias("weight"))


def bigrams(acts: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, role, gram, weight): each two turns in a row, of whichever parties, weigh 1, parted evenly among
    the pairs of an act of the first and an act of the second; `role` is that of the second.

    A dialogue's first and last turns have no partner beyond it; silent turns are none.
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


def divergences(
    acts: pl.DataFrame, human: pl.DataFrame, *, times: int, seed: int
) -> dict[str, tuple[stats.Estimate, float, float]]:
    """`[{role}_]{gram}_divergence` → the run's to people, and people's to one another: mean and 95 % quantile.

    `acts`, `human`: columns of `dialogue.acts.SCHEMA`. Without a role: of both parties, role and act together; with it:
    of its turns, or of its turns after the other's.
    """
    found = {}
    for name, grams in GRAMS.items():
        ours, theirs = grams(acts), grams(human)
        for role in ("", USER, RECOMMENDER):
            sides = [side.filter(role=role) if role else side for side in (ours, theirs)]
            if any(side.is_empty() for side in sides):
                continue
            run, people = histograms(*sides)
            measured = against_people(run, people, jensen_shannon, times=times, seed=seed)
            found[f"{role}_{name}_divergence".removeprefix("_")] = measured
    return found


def histograms(*sides: pl.DataFrame) -> list[np.ndarray]:
    """Per side one row per dialogue, one column per gram of any side, both sorted: the sum of its weights."""
    column = {gram: place for place, gram in enumerate(pl.concat(sides)["gram"].unique().sort())}
    counted = []
    for side in sides:
        ids = {dialogue_id: place for place, dialogue_id in enumerate(side["dialogue_id"].unique().sort())}
        found = np.zeros((len(ids), len(column)))
        ordered = side.sort("dialogue_id", "gram", "weight")
        rows, columns = (
            [table[key] for key in ordered[name]] for name, table in (("dialogue_id", ids), ("gram", column))
        )
        np.add.at(found, (rows, columns), ordered["weight"].to_numpy())
        counted.append(found)
    return counted


def shares(acts: pl.DataFrame, human: pl.DataFrame, *, times: int, seed: int) -> pl.DataFrame:
    """(source: simulated or people, role, act, share, low, high), sorted by people's share: of a role's turns, those
    with an act, with 95 % intervals over dialogues. A turn has several acts, so shares sum to more than 1."""
    known = pl.concat([acts, human]).select("role", "act").unique()
    rows = []
    for source, side in (("simulated", acts), ("people", human)):
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
        for name, found in stats.ratios(counted, side["dialogue_id"], times=times, seed=seed).items():
            rows.append((source, *name.split("|"), found.value, found.low, found.high))
    columns = {"source": pl.String, "role": pl.String, "act": pl.String}
    table = pl.DataFrame(rows, schema={**columns, **dict.fromkeys(("share", "low", "high"), pl.Float64)}, orient="row")
    people = table.filter(source="people").select("role", "act", order="share")
    ordered = table.join(people, on=["role", "act"], how="left").sort(
        ["source", "role", "order", "act"], descending=[True, True, True, False], nulls_last=True
    )
    return ordered.drop("order")
