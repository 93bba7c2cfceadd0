"""A study's votes as a page and as lines: it collects what `analysis` finds and says how to read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib.judging import analysis, verdicts
from crslib.judging.study import Study
from crslib.reporting import charts, html
from crslib.reporting.html import Figure, Table
from crslib.store import Run, write_parquet

_TOLD = (
    "Share of votes that take the human dialogue for the real one, no difference counted half: 0.5 where people cannot "
    "tell. Both have the same opener and number of turns; longer: what always taking the one with more words would get."
)
_LEAST_STRONG = 3  # conditions: of two, the win rate says it all


def write(study: Study, judged: pl.DataFrame | None = None) -> Path:
    """Writes `report.html` into the study's folder, and `votes.parquet` for others to read; returns the page's path.

    `judged`: a judge's votes (table `votes`) on the same runs. Raises `CrsError` when these are on other pairs.
    """
    votes = study.votes()
    write_parquet(votes, study.path / "votes.parquet")
    real = analysis.compared(votes)
    lead = f"{votes.height} votes of {votes['rater'].n_unique()} raters on {real['pair_id'].n_unique()} pairs, blind."
    return html.write_tables(
        study.path / "report.html", "People compare dialogues", lead, tables(study, votes, judged), figures(votes)
    )


def figures(votes: pl.DataFrame) -> list[Figure]:
    """The charts of these votes; none without votes."""
    told, wins, strengths = analysis.told(votes), analysis.wins(votes), analysis.strengths(votes)
    shown = []
    if told.height:
        reading = (
            "Share of votes for the human dialogue, by what stood beside it; at the dashed line people cannot tell."
        )
        shown.append(Figure("Which is real?", reading, charts.told(told)))
    if wins.height:
        reading = "Points with 95 % intervals over dialogues and raters; the dashed line is a coin's."
        shown.append(Figure("Who wins", reading, charts.win_rates(wins)))
    if strengths["condition"].n_unique() >= _LEAST_STRONG:
        reading = "Bradley–Terry with ties (Davidson); two that differ by d: odds of e^d for the higher one."
        shown.append(Figure("Strengths", reading, charts.strengths(strengths)))
    return shown


def tables(study: Study, votes: pl.DataFrame, judged: pl.DataFrame | None = None) -> list[Table]:
    """All figures of these votes, with a sentence each."""
    checked = [question.criterion for question in study.questions if question.check]
    found = [
        Table("Who wins", "Share of votes for a over b, ties counted half.", analysis.wins(votes)),
        Table("Strengths", "Log-odds with mean 0; ties is the model's ν.", analysis.strengths(votes)),
        Table(
            "Do raters agree?",
            "Krippendorff's alpha, ordinal: 1 as one, 0 as by chance. Needs two raters on a pair.",
            analysis.agreement(votes),
        ),
        Table(
            "Raters",
            "Attention checks passed, the same choice when a pair came again, agreement with each other rater per "
            "answer, share of left choices and of ties, median seconds. No vote is left out for them: judge yourself.",
            analysis.raters(votes, checked),
        ),
        Table(
            "How many pairs does it take?",
            "Pairs with one vote each at which a win rate is found in 80 % of studies (two-sided sign test, 5 %), with "
            "as many ties as here.",
            analysis.power(votes),
        ),
        Table(
            "Automatic metrics against people",
            "Kendall's tau of differences, pair by pair; same: share of the decided pairs (no tie) in which "
            "people prefer the higher value. "
            "The ten smallest p, which are not corrected: of so many tests some are small by chance.",
            analysis.with_metrics(votes, _scores(study)).sort("p", "metric", "criterion").head(10),
        ),
    ]
    if judged is not None:
        first = next(iter(study.info["runs"]))
        reading = f"Verdicts on {first} against the other; kappa 1: the same, 0: as by chance."
        found.insert(3, Table("A judge against people", reading, verdicts.agreement(judged, votes, first)))
    told = analysis.told(votes).join(analysis.longer(study.pairs), on="condition")
    return [Table("Which is real?", _TOLD, told), *found] if told.height else found


def _scores(study: Study) -> pl.DataFrame:
    """The scores of the study's runs, of those that are still where they were."""
    runs = [Run(Path(run["path"])) for run in study.info["runs"].values()]
    found = [run.read("scores") for run in runs if run.has("scores")]
    empty = {"run_id": pl.String, "dialogue_id": pl.String, "metric": pl.String, "value": pl.Float64}
    return pl.concat(found) if found else pl.DataFrame(schema=empty)


def lines(votes: pl.DataFrame) -> list[str]:
    """The main figures in words, one line each."""
    told = [
        f"human dialogues told from those of {row['condition']}: {_estimate(row)}, {row['ties']:.0%} ties, "
        f"{row['n']} pairs, {row['raters']} raters; 0.50 is chance"
        for row in analysis.told(votes).iter_rows(named=True)
    ]
    told += [
        f"{row['criterion']}: {row['a']} over {row['b']} {_estimate(row)}, {row['ties']:.0%} ties, "
        f"{row['n']} pairs, {row['raters']} raters"
        for row in analysis.wins(votes).iter_rows(named=True)
    ]
    told += [
        f"{row['criterion']}: alpha {_estimate(row)}, {row['n']} pairs"
        for row in analysis.agreement(votes).iter_rows(named=True)
        if row["value"] is not None
    ]
    return told or ["no votes yet"]


def _estimate(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{interval}"
