"""What votes say: who wins and how surely, how far raters agree and can be trusted, how many pairs it takes.

Frames of votes in, frames of figures out. Attention checks count for their raters only, and so does a pair's second
showing. Intervals resample dialogues and raters, both at once, so that they hold for others of both (Owen, The
pigeonhole bootstrap, 2007). Knows no study, page or run.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from scipy import stats as distributions
from scipy.special import softmax

from crslib import stats
from crslib.identity import derive_seed
from crslib.judging.pairs import is_check
from crslib.judging.turing import HUMAN

REAL = "real"
"""The criterion that asks which dialogue is one of two people."""
TIMES = 1000
PENALTY = 0.01
_STEPS = 40
WIN_RATES = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
_FIGURE = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def compared(votes: pl.DataFrame) -> pl.DataFrame:
    """The votes that compare conditions, as seen from the condition that is first in the alphabet.

    Columns pair_id, unit (the simulated dialogue's id: one person's), criterion, rater, a, b (conditions) and score: 1
    for a, 0 for a tie, -1 for b. Without attention checks, answers that are missing, and a rater's second answer on the
    same.
    """
    flipped = pl.col("left_condition") > pl.col("right_condition")
    side = pl.col("choice").replace_strict({"left": 1, "tie": 0, "right": -1}, return_dtype=pl.Int32)
    return (
        votes.filter(~is_check(), pl.col("choice").is_not_null())
        .sort("rater", "order", "at", "pair_id", "criterion")
        .unique(["rater", "pair_id", "criterion"], keep="first", maintain_order=True)
        .select(
            "pair_id",
            pl.when(pl.col("left_condition") == HUMAN)
            .then("right_dialogue")
            .when(pl.col("right_condition") == HUMAN)
            .then("left_dialogue")
            .otherwise(pl.min_horizontal("left_dialogue", "right_dialogue"))
            .alias("unit"),
            "criterion",
            "rater",
            pl.min_horizontal("left_condition", "right_condition").alias("a"),
            pl.max_horizontal("left_condition", "right_condition").alias("b"),
            (side * pl.when(flipped).then(-1).otherwise(1)).alias("score"),
        )
    )


# ── who wins ──────────────────────────────────────────────────────────────────────────────────────────────────────


def wins(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """Win rate of condition `a` over `b`, ties counted half: a, b, criterion, value, low, high, ties (share), votes,
    n (dialogue ids) and raters."""
    rows = []
    for (a, b, criterion), part in compared(votes).group_by("a", "b", "criterion", maintain_order=True):
        units, raters, by_unit, by_rater = _drawn(part, times, seed)
        won, all_ = np.zeros((2, units.max() + 1, raters.max() + 1))
        np.add.at(won, (units, raters), (part["score"].to_numpy() + 1) / 2)
        np.add.at(all_, (units, raters), 1)
        whole = ((by_unit @ all_) * by_rater).sum(axis=1)
        replicates = np.divide(
            ((by_unit @ won) * by_rater).sum(axis=1), whole, out=np.full(times, np.nan), where=whole > 0
        )
        found = stats.share(won.sum(axis=1), all_.sum(axis=1), replicates)
        ties = (part["score"] == 0).mean()
        rows.append((a, b, criterion, found.value, found.low, found.high, ties, part.height, found.n, all_.shape[1]))
    names = dict.fromkeys(("a", "b", "criterion"), pl.String)
    counts = dict.fromkeys(("votes", "n", "raters"), pl.Int64)
    return pl.DataFrame(rows, schema={**names, **_FIGURE, "ties": pl.Float64, **counts}, orient="row").sort(*names)


def told(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """Share of votes that take the human dialogue for the real one, no difference counted half: condition (of the
    dialogue beside it), value, low, high, ties, votes, n (its dialogues), raters. 0.5: people cannot tell.
    """
    found = wins(votes.filter(criterion=REAL), times=times, seed=seed).filter(
        (pl.col("a") == HUMAN) | (pl.col("b") == HUMAN)
    )
    second = pl.col("b") == HUMAN  # then the figures are those of the other side
    return found.select(
        pl.when(second).then("a").otherwise("b").alias("condition"),
        *[
            pl.when(second).then(1 - pl.col(other)).otherwise(pl.col(name)).alias(name)
            for name, other in (("value", "value"), ("low", "high"), ("high", "low"))
        ],
        "ties",
        "votes",
        "n",
        "raters",
    ).sort("condition")


def longer(pairs: pl.DataFrame) -> pl.DataFrame:
    """What `told` would be for somebody who always takes the dialogue with more words for the real one: condition,
    longer. Table `pairs` in; attention checks and pairs without a human side do not count.
    """
    left, right = (
        pl.col(f"{side}_turns")
        .list.eval(pl.element().struct.field("text").str.split(" ").list.len())
        .list.sum()
        .cast(pl.Int64)
        for side in ("left", "right")
    )
    human_left = pl.col("left_condition") == HUMAN
    more = (left - right).sign() * pl.when(human_left).then(1).otherwise(-1)
    return (
        pairs.filter(~is_check(), human_left | (pl.col("right_condition") == HUMAN))
        .group_by(pl.when(human_left).then("right_condition").otherwise("left_condition").alias("condition"))
        .agg(((more + 1) / 2).mean().alias("longer"))
        .sort("condition")
    )


def _drawn(votes: pl.DataFrame, times: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The number of each vote's unit and rater, and how often each unit and each rater is drawn in each resample.

    A single rater is drawn always: the interval then is for this rater only.
    """
    units = votes["unit"].rank("dense").to_numpy().astype(np.int64) - 1
    raters = votes["rater"].rank("dense").to_numpy().astype(np.int64) - 1
    by_unit = stats.resamples(votes["unit"].n_unique(), times, derive_seed(seed, "units"))
    by_rater = stats.resamples(votes["rater"].n_unique(), times, derive_seed(seed, "raters"))
    return units, raters, by_unit, by_rater


def strengths(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """How strong each condition is by criterion: criterion, condition, value, low, high, ties (the model's ν).

    `value` is a log-odds with mean 0 over conditions: a condition wins against one that is lower by d with odds e^d,
    ties aside. See `davidson`.
    """
    rows = []
    for (criterion,), part in compared(votes).group_by("criterion", maintain_order=True):
        names = sorted({*part["a"], *part["b"]})
        number = {name: place for place, name in enumerate(names)}
        first, second = (np.array([number[name] for name in part[side]]) for side in "ab")
        score = part["score"].to_numpy()
        units, raters, by_unit, by_rater = _drawn(part, times, seed)
        weights = np.vstack([np.ones(part.height), by_unit[:, units] * by_rater[:, raters]])  # all as they are, first
        won, tied = np.zeros((2, times + 1, len(names), len(names)))
        winner, loser = np.where(score < 0, second, first), np.where(score < 0, first, second)
        draws = np.arange(times + 1)[:, None]
        np.add.at(won, (draws, winner, loser), weights * (score != 0))
        np.add.at(tied, (draws, winner, loser), weights * (score == 0))
        theta, nu = davidson(won, tied)
        for place, name in enumerate(names):
            rows.append((criterion, name, theta[0, place], *stats.interval(theta[1:, place]), nu[0]))
    names = dict.fromkeys(("criterion", "condition"), pl.String)
    return pl.DataFrame(rows, schema={**names, **_FIGURE, "ties": pl.Float64}, orient="row").sort(*names)


def davidson(won: np.ndarray, tied: np.ndarray, penalty: float = PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Bradley–Terry strengths with ties (Davidson, JASA 65, 1970): log-strengths θ (…, k) with mean 0, and ν (…).

    `won[…, i, j]`: times that i won over j; `tied[…, i, j]`: ties, in either triangle; leading axes are other data
    sets, fitted at once. With D = e^θi + e^θj + ν e^((θi+θj)/2) i wins with e^θi / D, and ties with the last term / D.
    Without ties ν is 0: Bradley–Terry. `penalty` · Σ θ² keeps θ finite where a condition won, or lost, always.
    """
    k = won.shape[-1]
    i, j = np.triu_indices(k, 1)
    counts = np.stack([won[..., i, j], won[..., j, i], tied[..., i, j] + tied[..., j, i]], axis=-1)
    both = np.eye(k + 1)[i] + np.eye(k + 1)[j]
    outcomes = np.stack([np.eye(k + 1)[i], np.eye(k + 1)[j], both / 2 + np.eye(k + 1)[k]], axis=1)  # (pair, outcome, x)
    ridge = np.append(np.full(k, max(2 * penalty, 1e-9)), 1e-9)  # ν is free; θ is known up to a constant only
    n = counts.sum(axis=-1, keepdims=True)
    x = np.zeros((*won.shape[:-2], k + 1))
    for _ in range(_STEPS):
        p = softmax(np.einsum("pox,...x->...po", outcomes, x), axis=-1) * n
        mean = np.einsum("...po,pox->...px", p, outcomes)
        slope = np.einsum("...po,pox->...x", counts - p, outcomes) - ridge * x
        spread = np.einsum("...po,pox,poy->...xy", p, outcomes, outcomes) + np.eye(k + 1) * ridge
        spread -= np.einsum("...px,...py->...xy", mean / np.maximum(n, 1e-9), mean)
        x = x + np.clip(np.linalg.solve(spread, slope[..., None])[..., 0], -1, 1)  # Newton; the likelihood is concave
    ties = counts[..., 2].sum(axis=-1)
    return x[..., :k] - x[..., :k].mean(axis=-1, keepdims=True), np.where(ties > 0, np.exp(x[..., k]), 0.0)


# ── how far raters agree ──────────────────────────────────────────────────────────────────────────────────────────


def agreement(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """Krippendorff's alpha by criterion, over pairs that two or more raters judged: criterion, value, low, high, n.

    Choices are ordinal (a, tie, b). Which of a pair is called a means nothing, so every pair enters both ways round: to
    prefer the same condition throughout is agreement, not a scale on which only one mark is used. 1: as one, 0: as by
    chance; null where all answers are ties. The interval resamples pairs.
    """
    rows = []
    for (criterion,), part in compared(votes).group_by("criterion", maintain_order=True):
        counts = (
            part.group_by("pair_id")
            .agg([(pl.col("score") == value).sum().alias(str(value)) for value in (-1, 0, 1)])
            .sort("pair_id")
            .select("-1", "0", "1")
            .to_numpy()
            .astype(float)
        )
        counts = counts[counts.sum(axis=1) > 1]
        if not len(counts):
            continue
        both = coincidences(counts) + coincidences(counts[:, ::-1])
        value = float(alpha(both.sum(axis=0)))
        drawn = stats.resamples(len(both), times, seed)
        replicates = alpha(np.einsum("tu,uck->tck", drawn, both))
        known = math.isfinite(value)
        rows.append(
            (criterion, value if known else None, *(stats.interval(replicates) if known else (None, None)), len(both))
        )
    return pl.DataFrame(rows, schema={"criterion": pl.String, **_FIGURE, "n": pl.Int64}, orient="row").sort("criterion")


def coincidences(counts: np.ndarray) -> np.ndarray:
    """For every unit (rows: how many raters gave it each value) the pairs of values that meet in it: (unit, c, k)."""
    raters = counts.sum(axis=1)[:, None, None]
    met = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return met / (raters - 1)


def alpha(coincidence: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha for ordinal values from coincidences (…, c, k) (Krippendorff, Content Analysis, 2004, 11.3).

    Written out because a resample then is a product, and the library (GPL) is not needed; tests hold it against that.
    """
    n = coincidence.sum(axis=-1)
    total = n.sum(axis=-1)
    k = n.shape[-1]
    distance = np.zeros(coincidence.shape)
    for c, d in combinations(range(k), 2):
        between = n[..., c : d + 1].sum(axis=-1) - (n[..., c] + n[..., d]) / 2
        distance[..., c, d] = distance[..., d, c] = between**2
    observed = (coincidence * distance).sum(axis=(-2, -1)) * (total - 1)
    expected = (n[..., :, None] * n[..., None, :] * distance).sum(axis=(-2, -1))
    return 1 - np.divide(observed, expected, out=np.full(np.shape(expected), np.nan), where=expected > 0)


def raters(votes: pl.DataFrame, checked: Sequence[str]) -> pl.DataFrame:
    """How each rater works: rater, votes, passed and checks (attention checks in the criteria `checked`), consistent
    and repeats (the same choice when a pair came again with its sides changed), agrees (with each other rater, per
    answer), left (of choices that are no tie), ties, seconds (median per answer). Null: nothing of that was asked."""
    made = votes.filter(pl.col("choice").is_not_null())
    spoilt_right = pl.col("right_condition").is_in(["shuffled", "repeating"])
    intact = pl.when(spoilt_right).then(pl.lit("left")).otherwise(pl.lit("right"))
    checks = (
        made.filter(is_check(), pl.col("criterion").is_in(list(checked)))
        .group_by("rater")
        .agg((pl.col("choice") == intact).sum().alias("passed"), pl.len().alias("checks"))
    )
    chosen = (
        pl.when(pl.col("choice") == "tie")
        .then(pl.lit("tie"))
        .when(pl.col("choice") == "left")
        .then(pl.format("{} {}", "left_run", "left_dialogue"))
        .otherwise(pl.format("{} {}", "right_run", "right_dialogue"))
    )
    again = (
        made.filter(~is_check())
        .group_by("rater", "pair_id", "criterion")
        .agg(chosen.n_unique().alias("kinds"), pl.len().alias("times"))
        .filter(pl.col("times") > 1)
        .group_by("rater")
        .agg((pl.col("kinds") == 1).sum().alias("consistent"), pl.len().alias("repeats"))
    )
    here = compared(votes)
    met = here.join(here, on=["pair_id", "criterion"], suffix="_other").filter(pl.col("rater") != pl.col("rater_other"))
    agrees = met.group_by("rater").agg((pl.col("score") == pl.col("score_other")).mean().alias("agrees"))
    return (
        made.group_by("rater")
        .agg(
            pl.len().alias("votes"),
            (pl.col("choice").filter(pl.col("choice") != "tie") == "left").mean().alias("left"),
            (pl.col("choice") == "tie").mean().alias("ties"),
            pl.col("seconds").median(),
        )
        .join(checks, on="rater", how="left")
        .join(again, on="rater", how="left")
        .join(agrees, on="rater", how="left")
        .select("rater", "votes", "passed", "checks", "consistent", "repeats", "agrees", "left", "ties", "seconds")
        .sort("rater")
    )


# ── how many pairs it takes ───────────────────────────────────────────────────────────────────────────────────────


def pairs_needed(rate: float, *, ties: float = 0.0, power: float = 0.8, level: float = 0.05) -> int:
    """Pairs, one vote each, at which a two-sided exact sign test finds a win rate of `rate` with probability `power`.

    `rate` is among votes that are no tie; `ties`: the share of votes that are. The least number from which on the power
    is never lower again, for the exact test's power goes up and down.
    """
    normal = distributions.norm.isf(level / 2) * 0.5 + distributions.norm.isf(1 - power) * math.sqrt(rate * (1 - rate))
    n = np.arange(1, int(2 * (normal / (rate - 0.5)) ** 2) + 60)  # well beyond what the normal distribution would have
    least = distributions.binom.isf(level / 2, n, 0.5) + 1  # the fewest wins that are too many by chance
    found = distributions.binom.sf(least - 1, n, rate) + distributions.binom.cdf(n - least, n, rate)
    weak = np.flatnonzero(found < power)
    return math.ceil((weak[-1] + 2) / (1 - ties))


def power(votes: pl.DataFrame, rates: Sequence[float] = WIN_RATES) -> pl.DataFrame:
    """Pairs that it takes to find a win rate at 80 %, one vote each, with the ties of these votes: rate, pairs."""
    here = compared(votes)
    ties = float((here["score"] == 0).mean()) if here.height and (here["score"] != 0).any() else 0.0
    rows = [(rate, pairs_needed(rate, ties=ties)) for rate in rates]
    return pl.DataFrame(rows, schema={"rate": pl.Float64, "pairs": pl.Int64}, orient="row")


# ── metrics against people ─────────────────────────────────────────────────────────────────────────────────────────


def _verdicts(votes: pl.DataFrame) -> pl.DataFrame:
    """The mean score of all raters by pair_id and criterion: above 0 for a, below for b."""
    return compared(votes).group_by("pair_id", "criterion", "a", "b").agg(pl.col("score").mean()).sort("pair_id")


def with_metrics(votes: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Automatic metrics against people, pair by pair: metric, criterion, tau, p, same, decided, n.

    `scores` are those of the runs that were compared (table `scores`). `tau` is Kendall's, of the metric's difference
    between the two dialogues and people's mean preference; `p` that it is 0 (not corrected for the many tests); `same`
    the share of the `decided` pairs (no tie on either side) in which people prefer the dialogue with the higher value;
    `n` pairs in all.
    """
    ids = votes.select(
        "pair_id", *[f"{side}_{what}" for side in ("left", "right") for what in ("run", "condition", "dialogue")]
    ).unique("pair_id")
    flipped = pl.col("left_condition") > pl.col("right_condition")
    both = ids.join(scores, left_on=["left_run", "left_dialogue"], right_on=["run_id", "dialogue_id"]).join(
        scores,
        left_on=["right_run", "right_dialogue", "metric"],
        right_on=["run_id", "dialogue_id", "metric"],
        suffix="_right",
    )
    differs = both.select(
        "pair_id",
        "metric",
        ((pl.col("value") - pl.col("value_right")) * pl.when(flipped).then(-1).otherwise(1)).alias("difference"),
    )
    rows: list[tuple[Any, ...]] = []
    met = _verdicts(votes).join(differs, on="pair_id").sort("metric", "criterion", "pair_id")
    for (metric, criterion), part in met.group_by("metric", "criterion", maintain_order=True):
        x, y = part["difference"].to_numpy(), part["score"].to_numpy()
        if len(set(x)) > 1 and len(set(y)) > 1:
            tau = distributions.kendalltau(x, y)
            sure = (x != 0) & (y != 0)
            same = float((np.sign(x) == np.sign(y))[sure].mean()) if sure.any() else None
            rows.append(
                (metric, criterion, float(tau.statistic), float(tau.pvalue), same, int(sure.sum()), part.height)
            )
    figures, counts = dict.fromkeys(("tau", "p", "same"), pl.Float64), dict.fromkeys(("decided", "n"), pl.Int64)
    return pl.DataFrame(rows, schema={"metric": pl.String, "criterion": pl.String, **figures, **counts}, orient="row")
