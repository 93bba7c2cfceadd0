"""The answers of a judging model as a page, and as sentences on how far it can be relied on.

The figures are those of `judging.verdicts`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from crslib.judging import verdicts
from crslib.reporting import html, text
from crslib.store import Run


@dataclass(frozen=True)
class JudgeReport:
    """The page and its content: `lines` state how far the judge can be relied on (`trust`), `figures` has the columns
    of `verdicts.FIGURES`. `seconds`: the time that all answers took."""

    path: Path
    lines: list[str]
    figures: pl.DataFrame
    n_answers: int
    seconds: float


def write(judged: Run, human: pl.DataFrame | None = None, studies: pl.DataFrame | None = None) -> JudgeReport:
    """Writes `report.html` into the folder that `rubrics.judge_runs` returned.

    `human`: people's votes (table `votes`) on the same runs, for the judge's agreement with them; without them those in
    `studies` that are on the judge's pairs and criteria, if any. Raises `CrsError` when `human` has none, or the folder
    cannot be written.
    """
    votes, controls, marks = tables = [judged.read(name) for name in ("votes", "controls", "marks")]
    if human is None and studies is not None:
        found = verdicts.shared(votes, studies)
        human = None if found.is_empty() else found
    figures = verdicts.figures(votes, controls, marks, human)
    n_asked = sum(map(len, tables))
    n_empty = sum(table[name].null_count() for table, name in zip(tables, ("choice", "choice", "mark"), strict=True))
    again = f"{n_empty} of {n_asked} questions have no usable answer; the same command asks them again."
    lines = [*trust(figures), *agreement(figures), *([again] if n_empty else [])]
    conditions = marks["condition"].unique(maintain_order=True)
    title = f"{votes['rater'][0]} judges {' and '.join(conditions)}"
    path = html.write_judged(judged.path / "report.html", title, lines, figures, verdicts.DEFINITIONS)
    seconds = sum(float(table["seconds"].sum()) for table in tables)
    return JudgeReport(path, lines, figures, n_asked, seconds)


def trust(figures: pl.DataFrame) -> list[str]:
    """Whether a judge can be relied on, in sentences, from its controls and its flips.

    It can if, with 95 % confidence, it prefers the intact dialogue to every kind of corrupted copy, and gives more than
    half of these pairs the same verdict in both orders. A coin would do neither.
    """
    wins = figures.filter(part="controls", figure="wins")
    flips = figures.filter(part="controls", figure="flips")
    if wins.is_empty():
        asked = not figures.filter(part="controls", figure="unanswered").is_empty()
        why = "none of its answers to the controls is usable" if asked else "it has answered no controls"
        return [f"It is unknown whether this judge can be relied on: {why}."]
    failed = wins.filter(~(pl.col("low") > verdicts.CHANCE).fill_null(False)).height
    inconsistent = flips.filter(~(pl.col("high") < verdicts.CHANCE).fill_null(False)).height
    if not failed and not inconsistent:
        head = "This judge passes its controls."
    elif failed == wins.height:
        head = "Do not rely on this judge: there is no sign that it distinguishes intact dialogues from corrupted ones."
    else:
        head = "Do not rely on this judge alone: it fails some of its controls."
    lines = [
        head,
        f"It prefers an intact dialogue to a corrupted copy: {_list(wins)} (chance: 0.5; {max(wins['n'])} dialogues).",
        f"Its verdict changes when the two dialogues change places: {_list(flips)} (a coin: 0.5).",
    ]
    averaged = figures.filter(part="controls", figure="wins_averaged")
    if not averaged.is_empty():
        lines.append(f"Averaged over both orders it prefers the intact one: {_list(averaged)} (chance: 0.5).")
    for row in figures.filter(part="pairs", criterion="overall", figure="flips").iter_rows(named=True):
        lines.append(
            f"Against condition {row['condition']} its verdict changes in {text.row_estimate(row)} of the pairs."
        )
    spread = figures.filter(part="marks", figure="spread")
    if not spread.is_empty():
        mean = float(np.mean(spread["value"].to_numpy()))
        lines.append(f"Its marks of 1 to 5 have a standard deviation of {mean:.2f} within a condition.")
    return lines


def agreement(figures: pl.DataFrame) -> list[str]:
    """What is known of a judge's agreement with people, in sentences: a line per criterion and other condition."""
    kappas = {
        (row["condition"], row["criterion"]): f", kappa {row['value']:.2f} ({row['n']} verdicts)"
        for row in figures.filter(part="people", figure="kappa").iter_rows(named=True)
    }
    lines = [
        f"Against condition {row['condition']} it agrees with people on {row['criterion']} in {text.row_estimate(row)} "
        f"of {row['n']} pairs{kappas.get((row['condition'], row['criterion']), '')}."
        for row in figures.filter(part="people", figure="agreement").iter_rows(named=True)
    ]
    return lines or [
        "Agreement with people: none known, because nobody has compared these pairs by its criteria; "
        "`crs people serve` asks people."
    ]


def _list(rows: pl.DataFrame) -> str:
    return ", ".join(f"{row['condition']} {text.row_estimate(row)}" for row in rows.iter_rows(named=True))
