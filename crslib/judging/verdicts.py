"""From the answers of a judging model to figures: who wins, and how consistent the judge is.

A pair that a rater saw in both orders is decided only if both answers agree, else it is a tie (Zheng et al., Judging
LLM-as-a-Judge, 2023). Intervals resample pairs. Knows neither dialogues nor judges; `analysis` has the figures of human
votes, `reporting.judge` the sentences on how far a judge can be relied on.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from crslib import stats
from crslib.errors import CrsError

FIGURES: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "part": pl.String,
    "condition": pl.String,
    "criterion": pl.String,
    "figure": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}
DEFINITIONS: Mapping[str, str] = {
    "wins": "share of pairs won by the first condition, ties count half; 0.5: neither is better",
    "flips": "share of pairs with another verdict when the two dialogues change places",
    "left": "share of choices other than ties for the dialogue shown first; 0.5: no preference for a place",
    "wins_averaged": "share of pairs in which the first condition has the higher probability, averaged over both "
    "orders, so that a preference for one place cancels out",
    "unanswered": "share of questions without a usable answer",
    "mark": "mean mark, 1 to 5",
    "spread": "standard deviation of the marks over dialogues; 0: the marks do not distinguish them",
    "entropy": "bits of the rounded marks; 0: all the same, 2.32: all five equally frequent",
    "length": "rank correlation of a dialogue's mark and number of words",
    "agreement": "share of verdicts equal to a person's",
    "kappa": "Cohen's kappa with people; 0: as by chance, 1: the same",
}
CHANCE = 0.5
_TIMES = 1000


def left_score() -> pl.Expr:
    """Column `choice` as a number: 1 for left, 0 for a tie, -1 for right, null without an answer."""
    return pl.col("choice").replace_strict({"left": 1, "tie": 0, "right": -1}, return_dtype=pl.Int32)


def verdicts(votes: pl.DataFrame, first: str) -> pl.DataFrame:
    """One row per rater, pair and criterion, as seen from condition `first` (votes without it are left out).

    Columns pair_id, criterion, rater, condition (the other one), `won` (1, 0 or ½), `preference` (mean over orders),
    `flipped` (whether the two orders got different verdicts); these are null where an answer is missing, `flipped` also
    where only one order was shown.
    """
    left = pl.col("left_condition") == first
    sign = pl.when(left).then(1).otherwise(-1)
    oriented = votes.filter(left != (pl.col("right_condition") == first)).with_columns(
        condition=pl.when(left).then("right_condition").otherwise("left_condition"),
        score=left_score() * sign,
        preference=pl.col("preference") * sign,
        is_left=left,
    )
    complete, agreed = pl.col("score").null_count() == 0, pl.col("score").n_unique() == 1
    both_orders = complete & (pl.col("is_left").n_unique() == 2)
    return (
        oriented.group_by("condition", "criterion", "rater", "pair_id")
        .agg(
            won=pl.when(complete).then(pl.when(agreed).then((pl.col("score").first() + 1) / 2).otherwise(CHANCE)),
            preference=pl.when(pl.col("preference").null_count() == 0).then(pl.col("preference").mean()),
            flipped=pl.when(both_orders).then(~agreed),
        )
        .sort("condition", "criterion", "rater", "pair_id")
    )


def pairwise(votes: pl.DataFrame, first: str, part: str = "pairs", seed: int = 0) -> pl.DataFrame:
    """`wins`, `flips`, `left`, `wins_averaged` and `unanswered` of one rater, per other condition and criterion.

    The columns of `FIGURES`; a figure that no pair contributes to is left out.
    """
    rows = []
    for (condition, criterion), own in verdicts(votes, first).group_by("condition", "criterion", maintain_order=True):
        shown = votes.filter(pl.col("pair_id").is_in(own["pair_id"].implode()), criterion=criterion).filter(
            pl.any_horizontal(pl.col("left_condition", "right_condition") == condition)
        )
        for figure, values in (
            ("wins", own["won"]),
            ("flips", own["flipped"].cast(pl.Float64)),
            ("wins_averaged", (own["preference"].sign() + 1) / 2),
            ("left", _by_pair(shown.filter(pl.col("choice") != "tie"), pl.col("choice") == "left")),
            ("unanswered", _by_pair(shown, pl.col("choice").is_null())),
        ):
            rows += _row(part, condition, criterion, figure, values, seed)
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row")


def _by_pair(votes: pl.DataFrame, condition: pl.Expr) -> pl.Series:
    """The share of a pair's votes that meet the condition."""
    return votes.group_by("pair_id").agg(share=condition.mean()).sort("pair_id")["share"]


def _row(part: str, condition: object, criterion: object, figure: str, values: pl.Series, seed: int) -> list[tuple]:
    estimate = stats.mean(values.drop_nulls().to_numpy(), times=_TIMES, seed=seed)
    if estimate is None:
        return []
    return [(part, condition, criterion, figure, estimate.value, estimate.low, estimate.high, estimate.n)]


def rubric(marks: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """`mark`, `spread`, `entropy`, `length` and `unanswered` per condition and criterion: the columns of `FIGURES`."""
    rows = []
    for (condition, criterion), own in marks.group_by("condition", "criterion", maintain_order=True):
        given = own.drop_nulls("mark")
        rows += _row("marks", condition, criterion, "mark", given["mark"], seed)
        if given.height > 1:
            spread = given["mark"].std()
            counts = given["mark"].round().value_counts().sort("mark")["count"]
            correlation = spearmanr(given["mark"], given["n_words"]).statistic if spread else None
            for figure, value in (
                ("spread", spread),
                ("entropy", counts.entropy(base=2)),
                ("length", None if correlation is None or not np.isfinite(correlation) else float(correlation)),
            ):
                if value is not None:
                    rows.append(("marks", condition, criterion, figure, value, None, None, given.height))
        rows += _row("marks", condition, criterion, "unanswered", own["mark"].is_null().cast(pl.Float64), seed)
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row")


def agreement(votes: pl.DataFrame, human: pl.DataFrame, first: str, seed: int = 0) -> pl.DataFrame:
    """`agreement` and `kappa` of the verdicts in `votes` with those in `human`, people's votes, on the same pairs and
    criteria: the columns of `FIGURES`. Each rater's verdict counts. Raises `CrsError` without a common pair."""
    from sklearn.metrics import cohen_kappa_score

    keys = ("condition", "criterion", "pair_id")
    both = (
        verdicts(votes, first).join(verdicts(human, first), on=keys, suffix="_human").drop_nulls(["won", "won_human"])
    )
    if both.is_empty():
        raise CrsError("people's votes are on other pairs than the judge's; give votes on the same runs and criteria")
    rows = []
    for (condition, criterion), part in both.group_by("condition", "criterion", maintain_order=True):
        equal = part.group_by("pair_id").agg(equal=(pl.col("won") == pl.col("won_human")).mean()).sort("pair_id")
        rows += _row("people", condition, criterion, "agreement", equal["equal"], seed)
        answers = [(part[name] * 2).cast(pl.Int32).to_numpy() for name in ("won", "won_human")]
        if len(set(np.concatenate(answers))) > 1:  # with a single answer chance agreement is 1 and kappa undefined
            kappa = float(cohen_kappa_score(*answers))
            rows.append(("people", condition, criterion, "kappa", kappa, None, None, part.height))
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row").sort("condition", "criterion", "figure")


def shared(votes: pl.DataFrame, human: pl.DataFrame) -> pl.DataFrame:
    """Of people's votes those on pairs and criteria for which the judge's `votes` have all answers. Conditions are
    named as in `votes`, because a study of more runs may name them otherwise."""
    asked = votes.group_by("pair_id", "criterion").agg(pl.col("choice").null_count() == 0).filter("choice")
    names = {
        run: name
        for side in ("left", "right")
        for run, name in votes.select(f"{side}_run", f"{side}_condition").iter_rows()
    }
    both = human.drop_nulls("choice").join(asked, on=("pair_id", "criterion"), how="semi", maintain_order="left")
    return both.with_columns(
        pl.col(f"{side}_run").replace_strict(names, return_dtype=pl.String).alias(f"{side}_condition")
        for side in ("left", "right")
    )


def figures(
    votes: pl.DataFrame, controls: pl.DataFrame, marks: pl.DataFrame, human: pl.DataFrame | None = None
) -> pl.DataFrame:
    """All figures of one judge from its tables `votes`, `controls` and `marks` and, if given, people's votes (table
    `votes`): the columns of `FIGURES`. The first condition is that of the dialogue shown first in the first vote."""
    first = votes["left_condition"][0]
    parts = [pairwise(votes, first), pairwise(controls, first, "controls"), rubric(marks)]
    return pl.concat([*parts, agreement(votes, human, first)] if human is not None else parts)
