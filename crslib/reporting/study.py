"""The votes of a study as a page and as lines.

The figures are those of `judging.analysis`, each with a sentence on how to read it.
"""

from pathlib import Path

import polars as pl

from crslib.files import write_parquet
from crslib.judging import analysis, verdicts
from crslib.judging.study import Study
from crslib.reporting import charts, html, text
from crslib.reporting.figure import Figure
from crslib.reporting.html import Table
from crslib.schemas import empty
from crslib.store import Run

_TURING_TEST = (
    "Share of votes for the human dialogue, ties counted half; 0.5: people cannot distinguish the two. Both dialogues "
    "of a pair have the same opener and number of turns. length_baseline: the share for always choosing the one with "
    "more words."
)
_N_STRENGTHS = 3  # least number of conditions: with two, the win rate says the same


def write(study: Study, judge_votes: pl.DataFrame | None = None) -> Path:
    """Writes `report.html` and `votes.parquet` into the study's folder; returns the path of the page.

    `judge_votes`: votes of a judging model (table `votes`) on the same runs. Raises `CrsError` when these are on other
    pairs.
    """
    votes = study.votes()
    write_parquet(votes, study.path / "votes.parquet")
    n_pairs = analysis.comparisons(votes)["pair_id"].n_unique()
    lead = f"{votes.height} votes of {votes['rater'].n_unique()} raters on {n_pairs} pairs, blind."
    return html.write_tables(
        study.path / "report.html", "People compare dialogues", lead, tables(study, votes, judge_votes), figures(votes)
    )


def figures(votes: pl.DataFrame) -> list[Figure]:
    """The charts of these votes (table `votes`); none without votes."""
    turing_test, win_rates = analysis.turing_test(votes), analysis.win_rates(votes)
    strengths = analysis.strengths(votes)
    shown = []
    if turing_test.height:
        reading = (
            "Share of votes for the human dialogue, by the condition of the other one; at the dashed line people "
            "cannot distinguish the two."
        )
        shown.append(Figure("Which is real?", reading, charts.turing_test(turing_test)))
    if win_rates.height:
        reading = "Win rates with 95 % intervals over dialogues and raters; at the dashed line neither is preferred."
        shown.append(Figure("Who wins", reading, charts.win_rates(win_rates)))
    if strengths["condition"].n_unique() >= _N_STRENGTHS:
        reading = "Bradley–Terry with ties (Davidson): of two that differ by d, the higher one wins with odds e^d."
        shown.append(Figure("Strengths", reading, charts.strengths(strengths)))
    return shown


def tables(study: Study, votes: pl.DataFrame, judge_votes: pl.DataFrame | None = None) -> list[Table]:
    """All figures of these votes as tables, with a sentence each on how to read them."""
    checked = [question.criterion for question in study.questions if question.check]
    shown = [
        Table("Who wins", "Share of votes for a over b, ties counted half.", analysis.win_rates(votes)),
        Table("Strengths", "Log-odds with mean 0; ties: the model's parameter ν.", analysis.strengths(votes)),
        Table(
            "Do raters agree?",
            "Krippendorff's alpha, ordinal: 1 full agreement, 0 as by chance. Needs two raters on a pair.",
            analysis.agreement(votes),
        ),
        Table(
            "Raters",
            "Attention checks passed, the same choice when a pair was shown again, agreement with each other rater per "
            "answer, share of left choices and of ties, median seconds. No vote is left out because of these figures.",
            analysis.raters(votes, checked),
        ),
        Table(
            "How many pairs does it take?",
            "Number of pairs, with one vote each, at which 80 % of studies detect a win rate (two-sided sign test, "
            "5 %), with the share of ties in these votes.",
            analysis.power(votes),
        ),
        Table(
            "Automatic metrics against people",
            "tau: Kendall's, of a metric's difference and people's preference over pairs; same: share of the decided "
            "pairs (no tie) in which people prefer the higher value. The ten smallest p, not corrected: of so many "
            "tests some are small by chance.",
            analysis.metric_agreement(votes, _scores(study)).sort("p", "metric", "criterion").head(10),
        ),
    ]
    if judge_votes is not None:
        first = next(iter(study.info["runs"]))
        reading = f"Verdicts on {first} against the other; kappa 1: the same, 0: as by chance."
        shown.insert(3, Table("A judge against people", reading, verdicts.agreement(judge_votes, votes, first)))
    turing_test = analysis.turing_test(votes).join(analysis.length_baseline(study.pairs), on="condition")
    return [Table("Which is real?", _TURING_TEST, turing_test), *shown] if turing_test.height else shown


def _scores(study: Study) -> pl.DataFrame:
    """Table `scores` of the study's runs; runs that were moved or not evaluated are left out."""
    runs = [Run(Path(run["path"])) for run in study.info["runs"].values()]
    return pl.concat([empty("scores"), *(run.read("scores") for run in runs if run.has("scores"))])


def lines(votes: pl.DataFrame) -> list[str]:
    """The main figures of these votes (table `votes`) in words, one line each."""
    shown = [
        f"human dialogues identified against {row['condition']}: {text.row_estimate(row)}, {row['ties']:.0%} ties, "
        f"{row['n']} pairs, {row['raters']} raters; 0.50 is chance"
        for row in analysis.turing_test(votes).iter_rows(named=True)
    ]
    shown += [
        f"{row['criterion']}: {row['a']} over {row['b']} {text.row_estimate(row)}, {row['ties']:.0%} ties, "
        f"{row['n']} pairs, {row['raters']} raters"
        for row in analysis.win_rates(votes).iter_rows(named=True)
    ]
    shown += [
        f"{row['criterion']}: alpha {text.row_estimate(row)}, {row['n']} pairs"
        for row in analysis.agreement(votes).iter_rows(named=True)
        if row["value"] is not None
    ]
    return shown or ["no votes yet"]
