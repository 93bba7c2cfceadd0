"""Figures from people's votes: win rates, strengths, agreement and quality of raters, pairs needed.

Attention checks, and the second showing of a pair, count only for the quality of raters. Intervals resample dialogues
and raters independently, so that they hold for other dialogues and other raters (Owen, The pigeonhole bootstrap, 2007).
Knows neither studies nor pages nor runs; `verdicts` has the figures of judging models.
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
from crslib.judging.pairs import CHECKS, is_check
from crslib.judging.turing import HUMAN
from crslib.judging.verdicts import left_score

REAL = "real"
"""The criterion that asks which dialogue is a human one."""
TIMES = 1000
PENALTY = 0.01
_STEPS = 40
WIN_RATES = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
_FIGURE = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def comparisons(votes: pl.DataFrame) -> pl.DataFrame:
    """The votes that compare conditions, as seen from the condition that comes first in the alphabet.

    Columns pair_id, unit (id of the simulated dialogue: one per profile), criterion, rater, a, b (conditions) and
    score: 1 for a, 0 for a tie, -1 for b. Attention checks, missing answers and a rater's second answer to the same
    question, in the order of the rows (`Study.votes`), are left out.
    """
    mirrored = pl.col("left_condition") > pl.col("right_condition")
    return (
        votes.filter(~is_check(), pl.col("choice").is_not_null())
        .sort("rater", maintain_order=True)
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
            (left_score() * pl.when(mirrored).then(-1).otherwise(1)).alias("score"),
        )
    )


# ── who wins ──────────────────────────────────────────────────────────────────────────────────────────────────────


def win_rates(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """Win rate of condition `a` over `b`, ties counted half: a, b, criterion, value, low, high, ties (share), votes,
    n (dialogue ids) and raters."""
    rows = []
    for (a, b, criterion), part in comparisons(votes).group_by("a", "b", "criterion", maintain_order=True):
        units, raters, by_unit, by_rater = _resamples(part, times, seed)
        won, given = np.zeros((2, units.max() + 1, raters.max() + 1))
        np.add.at(won, (units, raters), (part["score"].to_numpy() + 1) / 2)
        np.add.at(given, (units, raters), 1)
        n_given = ((by_unit @ given) * by_rater).sum(axis=1)
        replicates = np.divide(
            ((by_unit @ won) * by_rater).sum(axis=1), n_given, out=np.full(times, np.nan), where=n_given > 0
        )
        rate = stats.share(won.sum(axis=1), given.sum(axis=1), replicates)
        ties = (part["score"] == 0).mean()
        rows.append((a, b, criterion, rate.value, rate.low, rate.high, ties, part.height, rate.n, given.shape[1]))
    names = dict.fromkeys(("a", "b", "criterion"), pl.String)
    counts = dict.fromkeys(("votes", "n", "raters"), pl.Int64)
    return pl.DataFrame(rows, schema={**names, **_FIGURE, "ties": pl.Float64, **counts}, orient="row").sort(*names)


def turing_test(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """How often people identify the human dialogue: condition (of the simulated one), value, low, high, ties, votes, n
    (dialogues of the condition), raters. `value`: share of votes for the human dialogue on criterion `REAL`, ties
    counted half; 0.5: people cannot distinguish the two.
    """
    rates = win_rates(votes.filter(criterion=REAL), times=times, seed=seed).filter(
        (pl.col("a") == HUMAN) | (pl.col("b") == HUMAN)
    )
    human_is_b = pl.col("b") == HUMAN  # then the rates are those of the simulated side
    return rates.select(
        pl.when(human_is_b).then("a").otherwise("b").alias("condition"),
        *[
            pl.when(human_is_b).then(1 - pl.col(mirrored)).otherwise(pl.col(name)).alias(name)
            for name, mirrored in (("value", "value"), ("low", "high"), ("high", "low"))
        ],
        "ties",
        "votes",
        "n",
        "raters",
    ).sort("condition")


def length_baseline(pairs: pl.DataFrame) -> pl.DataFrame:
    """The `value` of `turing_test` for a rater who always votes for the dialogue with more words: condition,
    length_baseline. `pairs`: the table; attention checks and pairs without a human dialogue are left out.
    """
    left, right = (
        pl.col(f"{side}_turns")
        .list.eval(pl.element().struct.field("text").str.split(" ").list.len())
        .list.sum()
        .cast(pl.Int64)
        for side in ("left", "right")
    )
    human_left = pl.col("left_condition") == HUMAN
    human_longer = (left - right).sign() * pl.when(human_left).then(1).otherwise(-1)
    return (
        pairs.filter(~is_check(), human_left | (pl.col("right_condition") == HUMAN))
        .group_by(pl.when(human_left).then("right_condition").otherwise("left_condition").alias("condition"))
        .agg(((human_longer + 1) / 2).mean().alias("length_baseline"))
        .sort("condition")
    )


def _resamples(votes: pl.DataFrame, times: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The number of each vote's unit and rater (votes,), and how often each unit and each rater is drawn in each
    resample (times, units) and (times, raters).

    A single rater is drawn in every resample: the interval then holds for this rater only.
    """
    units = votes["unit"].rank("dense").to_numpy().astype(np.int64) - 1
    raters = votes["rater"].rank("dense").to_numpy().astype(np.int64) - 1
    by_unit = stats.resamples(votes["unit"].n_unique(), times, derive_seed(seed, "units"))
    by_rater = stats.resamples(votes["rater"].n_unique(), times, derive_seed(seed, "raters"))
    return units, raters, by_unit, by_rater


def strengths(votes: pl.DataFrame, *, times: int = TIMES, seed: int = 0) -> pl.DataFrame:
    """The strength of each condition by criterion: criterion, condition, value, low, high, ties (the model's ν).

    `value` is a log-odds with mean 0 over conditions: apart from ties, a condition wins against one that is lower by d
    with odds e^d. See `davidson`.
    """
    rows = []
    for (criterion,), part in comparisons(votes).group_by("criterion", maintain_order=True):
        conditions = sorted({*part["a"], *part["b"]})
        number = {name: place for place, name in enumerate(conditions)}
        first, second = (np.array([number[name] for name in part[side]]) for side in "ab")
        score = part["score"].to_numpy()
        units, raters, by_unit, by_rater = _resamples(part, times, seed)
        weights = np.vstack([np.ones(part.height), by_unit[:, units] * by_rater[:, raters]])  # first the sample itself
        won, tied = np.zeros((2, times + 1, len(conditions), len(conditions)))
        winner, loser = np.where(score < 0, second, first), np.where(score < 0, first, second)
        draws = np.arange(times + 1)[:, None]
        np.add.at(won, (draws, winner, loser), weights * (score != 0))
        np.add.at(tied, (draws, winner, loser), weights * (score == 0))
        theta, nu = davidson(won, tied)
        for place, name in enumerate(conditions):
            rows.append((criterion, name, theta[0, place], *stats.interval(theta[1:, place]), nu[0]))
    names = dict.fromkeys(("criterion", "condition"), pl.String)
    return pl.DataFrame(rows, schema={**names, **_FIGURE, "ties": pl.Float64}, orient="row").sort(*names)


def davidson(won: np.ndarray, tied: np.ndarray, penalty: float = PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Bradley–Terry strengths with ties (Davidson, JASA 65, 1970): log-strengths θ (…, k) with mean 0, and ν (…).

    `won[…, i, j]`: times that i won over j; `tied[…, i, j]`: ties, in either triangle; leading axes are other data
    sets, fitted at once. With D = e^θi + e^θj + ν e^((θi+θj)/2), i wins with probability e^θi / D, and a tie has the
    probability of the last term / D. Without ties ν is 0: Bradley–Terry. `penalty` · Σ θ² keeps θ finite where a
    condition always won or always lost.
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

    Choices are ordinal (a, tie, b). Which condition is called a is arbitrary, so every pair enters both ways round;
    else raters who all prefer the same condition would use one value of the scale, and alpha would be undefined. 1:
    full agreement, 0: as by chance; null where all answers are ties. The interval resamples pairs.
    """
    rows = []
    for (criterion,), part in comparisons(votes).group_by("criterion", maintain_order=True):
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
        replicates = alpha(np.einsum("tu,uck->tck", stats.resamples(len(both), times, seed), both))
        defined = math.isfinite(value)
        interval = stats.interval(replicates) if defined else (None, None)
        rows.append((criterion, value if defined else None, *interval, len(both)))
    return pl.DataFrame(rows, schema={"criterion": pl.String, **_FIGURE, "n": pl.Int64}, orient="row").sort("criterion")


def coincidences(counts: np.ndarray) -> np.ndarray:
    """The coincidence matrix of every unit, (unit, c, k). `counts` (unit, value): how many raters gave each value."""
    raters = counts.sum(axis=1)[:, None, None]
    value_pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return value_pairs / (raters - 1)


def alpha(coincidence: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha for ordinal values from coincidences (…, c, k) (Krippendorff, Content Analysis, 2004, 11.3).

    Written out so that all resamples are one product, and because the library `krippendorff` is GPL; a test compares
    the two.
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
    """The quality of each rater: rater, votes, passed and checks (attention checks in the criteria `checked`),
    consistent and repeats (the same choice when a pair was shown again with exchanged sides), agrees (share of equal
    answers with each other rater), left (share of choices other than ties), ties (share), seconds (median per answer).
    Null where a rater was asked nothing of that kind."""
    answers = votes.filter(pl.col("choice").is_not_null())
    corrupted_right = pl.col("right_condition").is_in(CHECKS)
    intact = pl.when(corrupted_right).then(pl.lit("left")).otherwise(pl.lit("right"))
    checks = (
        answers.filter(is_check(), pl.col("criterion").is_in(list(checked)))
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
    repeats = (
        answers.filter(~is_check())
        .group_by("rater", "pair_id", "criterion")
        .agg(chosen.n_unique().alias("n_chosen"), pl.len().alias("times"))
        .filter(pl.col("times") > 1)
        .group_by("rater")
        .agg((pl.col("n_chosen") == 1).sum().alias("consistent"), pl.len().alias("repeats"))
    )
    scores = comparisons(votes)
    both = scores.join(scores, on=["pair_id", "criterion"], suffix="_other").filter(
        pl.col("rater") != pl.col("rater_other")
    )
    agrees = both.group_by("rater").agg((pl.col("score") == pl.col("score_other")).mean().alias("agrees"))
    return (
        answers.group_by("rater")
        .agg(
            pl.len().alias("votes"),
            (pl.col("choice").filter(pl.col("choice") != "tie") == "left").mean().alias("left"),
            (pl.col("choice") == "tie").mean().alias("ties"),
            pl.col("seconds").median(),
        )
        .join(checks, on="rater", how="left")
        .join(repeats, on="rater", how="left")
        .join(agrees, on="rater", how="left")
        .select("rater", "votes", "passed", "checks", "consistent", "repeats", "agrees", "left", "ties", "seconds")
        .sort("rater")
    )


# ── how many pairs are needed ─────────────────────────────────────────────────────────────────────────────────────


def pairs_needed(rate: float, *, ties: float = 0.0, power: float = 0.8, level: float = 0.05) -> int:
    """Pairs, one vote each, at which a two-sided exact sign test detects a win rate of `rate` with probability `power`.

    `rate` is among votes other than ties; `ties`: the share of ties. The exact test's power is not monotonic, so the
    result is the least number from which on the power never falls below `power` again.
    """
    normal = distributions.norm.isf(level / 2) * 0.5 + distributions.norm.isf(1 - power) * math.sqrt(rate * (1 - rate))
    n = np.arange(1, int(2 * (normal / (rate - 0.5)) ** 2) + 60)  # well beyond the normal approximation
    critical = distributions.binom.isf(level / 2, n, 0.5) + 1  # the fewest wins that are significant
    reached = distributions.binom.sf(critical - 1, n, rate) + distributions.binom.cdf(n - critical, n, rate)
    weak = np.flatnonzero(reached < power)
    return math.ceil((weak[-1] + 2) / (1 - ties))


def power(votes: pl.DataFrame, rates: Sequence[float] = WIN_RATES) -> pl.DataFrame:
    """Pairs needed to detect each win rate with probability 80 %, one vote each, with these votes' share of ties: rate,
    pairs."""
    score = comparisons(votes)["score"]
    ties = float((score == 0).sum()) / len(score) if (score != 0).any() else 0.0
    rows = [(rate, pairs_needed(rate, ties=ties)) for rate in rates]
    return pl.DataFrame(rows, schema={"rate": pl.Float64, "pairs": pl.Int64}, orient="row")


# ── metrics against people ─────────────────────────────────────────────────────────────────────────────────────────


def metric_agreement(votes: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Agreement of automatic metrics with people over pairs: metric, criterion, tau, p, same, decided, n.

    `scores`: table `scores` of the runs that were compared. `tau`: Kendall's, of the metric's difference between the
    two dialogues and people's mean preference; `p`: of the test that tau is 0, not corrected for the number of tests;
    `same`: share of the `decided` pairs (neither difference nor preference is 0) in which people prefer the dialogue
    with the higher value; `n`: all pairs.
    """
    preferences = (
        comparisons(votes).group_by("pair_id", "criterion", "a", "b").agg(pl.col("score").mean()).sort("pair_id")
    )
    ids = votes.select(
        "pair_id", *[f"{side}_{what}" for side in ("left", "right") for what in ("run", "condition", "dialogue")]
    ).unique("pair_id")
    mirrored = pl.col("left_condition") > pl.col("right_condition")
    both = ids.join(scores, left_on=["left_run", "left_dialogue"], right_on=["run_id", "dialogue_id"]).join(
        scores,
        left_on=["right_run", "right_dialogue", "metric"],
        right_on=["run_id", "dialogue_id", "metric"],
        suffix="_right",
    )
    differences = both.select(
        "pair_id",
        "metric",
        ((pl.col("value") - pl.col("value_right")) * pl.when(mirrored).then(-1).otherwise(1)).alias("difference"),
    )
    rows: list[tuple[Any, ...]] = []
    joined = preferences.join(differences, on="pair_id").sort("metric", "criterion", "pair_id")
    for (metric, criterion), part in joined.group_by("metric", "criterion", maintain_order=True):
        x, y = part["difference"].to_numpy(), part["score"].to_numpy()
        if len(set(x)) > 1 and len(set(y)) > 1:
            tau = distributions.kendalltau(x, y)
            decided = (x != 0) & (y != 0)
            same = float((np.sign(x) == np.sign(y))[decided].mean()) if decided.any() else None
            rows.append(
                (metric, criterion, float(tau.statistic), float(tau.pvalue), same, int(decided.sum()), part.height)
            )
    figures, counts = dict.fromkeys(("tau", "p", "same"), pl.Float64), dict.fromkeys(("decided", "n"), pl.Int64)
    return pl.DataFrame(rows, schema={"metric": pl.String, "criterion": pl.String, **figures, **counts}, orient="row")
