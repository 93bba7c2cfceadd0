"""What votes and marks come to: who wins, and how far the rater can be believed. Knows no dialogue and no judge.

Raters may be models or people. A rater that saw a pair in both orders has a verdict only where both agree, else it is
a tie (Zheng et al., Judging LLM-as-a-Judge, 2023). The pair is the unit of every interval.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

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
    "left": "share of choices, ties aside, that name the dialogue shown first; 0.5: no favour",
    "wins_averaged": "share of pairs in which the first condition has the higher probability on average over both "
    "orders: what a favour for one place leaves of the opinion",
    "unanswered": "share of questions without a usable answer",
    "mark": "mean mark, 1 to 5",
    "spread": "standard deviation of the marks over dialogues; 0 says nothing",
    "entropy": "bits of the rounded marks; 0: all the same, 2.32: all five alike often",
    "length": "rank correlation of mark and words of the dialogue",
    "agreement": "share of verdicts equal to a person's",
    "kappa": "Cohen's kappa with people; 0: as by chance, 1: the same",
}
CHANCE = 0.5
_TIMES = 1000


def verdicts(votes: pl.DataFrame, first: str) -> pl.DataFrame:
    """One row per rater, pair and criterion, as seen from condition `first` (votes without it are left out).

    Columns pair_id, criterion, rater, condition (the other one), `won` (1, 0 or ½), `preference` (mean over orders),
    `flipped`; these are null where an answer is missing, `flipped` also where one order only was shown.
    """
    left = pl.col("left_condition") == first
    sign = pl.when(left).then(1).otherwise(-1)
    side = pl.col("choice").replace_strict({"left": 1, "tie": 0, "right": -1}, return_dtype=pl.Int32)
    here = votes.filter(left != (pl.col("right_condition") == first)).with_columns(
        condition=pl.when(left).then("right_condition").otherwise("left_condition"),
        says=side * sign,
        leans=pl.col("preference") * sign,
        place=left,
    )
    complete, agreed = pl.col("says").null_count() == 0, pl.col("says").n_unique() == 1
    both = complete & (pl.col("place").n_unique() == 2)
    return (
        here.group_by("condition", "criterion", "rater", "pair_id")
        .agg(
            won=pl.when(complete).then(pl.when(agreed).then((pl.col("says").first() + 1) / 2).otherwise(CHANCE)),
            preference=pl.when(pl.col("leans").null_count() == 0).then(pl.col("leans").mean()),
            flipped=pl.when(both).then(~agreed),
        )
        .sort("condition", "criterion", "rater", "pair_id")
    )


def pairwise(votes: pl.DataFrame, first: str, part: str = "pairs", seed: int = 0) -> pl.DataFrame:
    """`wins`, `flips`, `left`, `wins_averaged` and `unanswered` per other condition and criterion, of one rater.

    The columns of `FIGURES`; a figure without a case is left out.
    """
    rows = []
    found = verdicts(votes, first)
    for (condition, criterion), part_of in found.group_by("condition", "criterion", maintain_order=True):
        shown = votes.filter(pl.col("pair_id").is_in(part_of["pair_id"].implode()), criterion=criterion).filter(
            pl.any_horizontal(pl.col("left_condition", "right_condition") == condition)
        )
        averaged = (part_of["preference"].sign() + 1) / 2
        for figure, values in (
            ("wins", part_of["won"]),
            ("flips", part_of["flipped"].cast(pl.Float64)),
            ("wins_averaged", averaged),
            ("left", _by_pair(shown.filter(pl.col("choice") != "tie"), pl.col("choice") == "left")),
            ("unanswered", _by_pair(shown, pl.col("choice").is_null())),
        ):
            rows += _row(part, condition, criterion, figure, values, seed)
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row")


def _by_pair(votes: pl.DataFrame, what: pl.Expr) -> pl.Series:
    return votes.group_by("pair_id").agg(share=what.mean()).sort("pair_id")["share"]


def _row(part: str, condition: object, criterion: object, figure: str, values: pl.Series, seed: int) -> list[tuple]:
    estimate = stats.mean(values.drop_nulls().to_numpy(), times=_TIMES, seed=seed)
    if estimate is None:
        return []
    return [(part, condition, criterion, figure, estimate.value, estimate.low, estimate.high, estimate.n)]


def rubric(marks: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """`mark`, `spread`, `entropy`, `length` and `unanswered` per condition and criterion: the columns of `FIGURES`."""
    rows = []
    for (condition, criterion), all_of in marks.group_by("condition", "criterion", maintain_order=True):
        given = all_of.drop_nulls("mark")
        rows += _row("marks", condition, criterion, "mark", given["mark"], seed)
        if given.height > 1:
            spread = given["mark"].std()
            counts = given["mark"].round().value_counts().sort("mark")["count"]
            together = spearmanr(given["mark"], given["n_words"]).statistic if spread else None
            for figure, value in (
                ("spread", spread),
                ("entropy", counts.entropy(base=2)),
                ("length", None if together is None or not np.isfinite(together) else float(together)),
            ):
                if value is not None:
                    rows.append(("marks", condition, criterion, figure, value, None, None, given.height))
        rows += _row("marks", condition, criterion, "unanswered", all_of["mark"].is_null().cast(pl.Float64), seed)
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row")


def agreement(votes: pl.DataFrame, people: pl.DataFrame, first: str, seed: int = 0) -> pl.DataFrame:
    """`agreement` and `kappa` of the verdicts in `votes` with those of `people` on the same pairs and criteria, each
    person's counted: the columns of `FIGURES`. Raises `CrsError` when the two have no pair in common."""
    of = ("condition", "criterion", "pair_id")
    both = (
        verdicts(votes, first).join(verdicts(people, first), on=of, suffix="_people").drop_nulls(["won", "won_people"])
    )
    if both.is_empty():
        raise CrsError("people's votes are on other pairs than the judge's; give votes on the same runs and criteria")
    rows = []
    for (condition, criterion), part in both.group_by("condition", "criterion", maintain_order=True):
        equal = part.group_by("pair_id").agg(equal=(pl.col("won") == pl.col("won_people")).mean()).sort("pair_id")
        rows += _row("people", condition, criterion, "agreement", equal["equal"], seed)
        answers = [(part[name] * 2).cast(pl.Int32).to_numpy() for name in ("won", "won_people")]
        if len(set(np.concatenate(answers))) > 1:  # else chance agrees always: kappa is undefined
            kappa = float(cohen_kappa_score(*answers))
            rows.append(("people", condition, criterion, "kappa", kappa, None, None, part.height))
    return pl.DataFrame(rows, schema=dict(FIGURES), orient="row").sort("condition", "criterion", "figure")


def figures(
    votes: pl.DataFrame, controls: pl.DataFrame, marks: pl.DataFrame, people: pl.DataFrame | None = None
) -> pl.DataFrame:
    """All figures of one judge, from the tables of these names and, where there are any, people's votes: the columns of
    `FIGURES`. The first condition is that of the first dialogue shown."""
    first = votes["left_condition"][0]
    parts = [pairwise(votes, first), pairwise(controls, first, "controls"), rubric(marks)]
    return pl.concat([*parts, agreement(votes, people, first)] if people is not None else parts)


def trust(figures: pl.DataFrame) -> list[str]:
    """Whether a judge can be relied on, in words, from its controls, its flips and its agreement with people.

    It can where, with 95 % confidence, it prefers the intact dialogue to every kind of spoilt copy, and keeps its
    verdict on more than half of them when the two change places: a coin does neither.
    """
    wins = figures.filter(part="controls", figure="wins")
    flips = figures.filter(part="controls", figure="flips")
    if wins.is_empty():
        return ["Nothing can be said of this judge's worth: it was not asked about spoilt dialogues."]
    blind = wins.filter(~(pl.col("low") > CHANCE).fill_null(False)).height
    unsteady = flips.filter(~(pl.col("high") < CHANCE).fill_null(False)).height
    if not blind and not unsteady:
        head = "This judge passes its controls."
    elif blind == wins.height:
        head = "Do not rely on this judge: there is no sign that it tells intact dialogues from spoilt ones."
    else:
        head = "Do not rely on this judge alone: it fails some of its controls."
    lines = [
        head,
        f"It prefers an intact dialogue to its spoilt copy: {_list(wins)} (chance: 0.5; {wins['n'].max()} dialogues).",
        f"Its verdict on them changes when the two change places: {_list(flips)} (a coin: 0.5).",
    ]
    averaged = figures.filter(part="controls", figure="wins_averaged")
    if not averaged.is_empty():
        lines.append(f"Averaged over both orders it leans to the intact one: {_list(averaged)} (chance: 0.5).")
    for row in figures.filter(part="pairs", criterion="overall", figure="flips").iter_rows(named=True):
        lines.append(f"Between the conditions, against {row['condition']}, it changes in {_told(row)} of the pairs.")
    spread = figures.filter(part="marks", figure="spread")
    if not spread.is_empty():
        lines.append(
            f"Its marks of 1 to 5 have a standard deviation of {spread['value'].mean():.2f} within a condition."
        )
    for row in figures.filter(figure="kappa").iter_rows(named=True):
        lines.append(f"Its kappa with people on {row['criterion']} is {row['value']:.2f} ({row['n']} verdicts).")
    return lines


def _list(rows: pl.DataFrame) -> str:
    return ", ".join(f"{row['condition']} {_told(row)}" for row in rows.iter_rows(named=True))


def _told(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{interval}"
