"""The answers of a judging model as a page and as sentences. The figures are those of `judging.verdicts`."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from crslib.judging import verdicts
from crslib.reporting import html
from crslib.store import Run


@dataclass(frozen=True)
class JudgeReport:
    """The page and its content: `lines` say how far the judge can be relied on, `figures` has the columns of
    `verdicts.FIGURES`. `seconds`: the time that all answers took."""

    path: Path
    lines: list[str]
    figures: pl.DataFrame
    n_answers: int
    seconds: float


def write(judged: Run, human: pl.DataFrame | None = None) -> JudgeReport:
    """Writes `report.html` into the folder that `rubrics.judge_runs` returned.

    `human`: people's votes (table `votes`) on the same runs, for the judge's agreement with them. Raises `CrsError`
    when these are on other pairs, or the folder cannot be written.
    """
    votes, controls, marks = tables = [judged.read(name) for name in ("votes", "controls", "marks")]
    figures = verdicts.figures(votes, controls, marks, human)
    lines = verdicts.trust(figures)
    conditions = marks["condition"].unique(maintain_order=True)
    title = f"{votes['rater'][0]} judges {' and '.join(conditions)}"
    path = html.write_judged(judged.path / "report.html", title, lines, figures, verdicts.DEFINITIONS)
    seconds = sum(float(table["seconds"].sum()) for table in tables)
    return JudgeReport(path, lines, figures, sum(map(len, tables)), seconds)
