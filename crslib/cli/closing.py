"""How a command that made a run ends: what came out, which run is the latest, what to do next, where the report is."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from crslib.cli.terminal import STDOUT, console, visible, write_json
from crslib.config import ROOT
from crslib.store import Run

LATEST = click.option(
    "--latest", is_flag=True, help="`latest` becomes this run, also if it has fewer than 8 dialogues."
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print only where the report is.")


def speaker(quiet: bool, file: Path | None) -> Callable[[str], None]:
    """What prints a line, or nothing for `quiet` and where JSON is printed."""
    return _silent if quiet or file == STDOUT else _say


def is_quiet(say: Callable[[str], None]) -> bool:
    """Whether `speaker` said that nothing is printed."""
    return say is _silent


def _say(text: str) -> None:
    console.print(visible(text), soft_wrap=True, markup=False)


def _silent(text: str) -> None:
    """Prints nothing."""


def close(
    run: Run,
    reports: Path,
    *,
    latest: bool,
    say: Callable[[str], None],
    file: Path | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Prints the end of a run, makes it the latest one (`experiments.runs.point_latest`), writes its record with `more`
    to `file`, and prints where the report is."""
    from crslib.experiments import ending
    from crslib.experiments.runs import point_latest

    kept = point_latest(reports, run, wanted=latest)
    for line in ending.lines(run):
        say(line)
    if kept:
        say(kept)
    name, where = run.run_id[:8] if kept else "latest", elsewhere(reports)
    say(f"\nnext: `crs look {name}{where}` shows its dialogues, `crs runs{where}` lists all runs; the report is")
    write_json({**ending.record(run), **(more or {})}, file)
    if file != STDOUT:
        console.print(str(run.path / "report.html"), soft_wrap=True)


def elsewhere(reports: Path) -> str:
    """` --reports X` for a command that shall find the same runs; empty for the default folder."""
    is_default = reports.resolve() == (ROOT / "reports").resolve()
    return "" if is_default else f" --reports {shlex.quote(str(reports))}"
