"""What commands share: options, failure with a sentence, figures as JSON, and progress. Progress is drawn on a terminal
only; elsewhere it is a few lines or nothing.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Never

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crslib.config import ROOT
from crslib.files import writing
from crslib.store import Run

console = Console(highlight=False, markup=False)  # a path may have brackets
REPORTS = click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=ROOT / "reports",
    show_default="reports",
    help="Folder for runs and reports.",
)
PARAMETERS = click.option(
    "-p", "--parameter", "assignments", multiple=True, metavar="NAME=VALUE", help="Sets a parameter; can be repeated."
)
JSON = click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the figures to FILE, as JSON.")


def fail(sentence: str) -> Never:
    """Prints a sentence on standard error and exits with status 1."""
    click.echo(f"crs: {visible(sentence)}", err=True)
    sys.exit(1)


def visible(text: str) -> str:
    """`text` with a sign for each character that a terminal obeys or cannot show: escape sequences, lone surrogates."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def write_json(figures: Any, file: Path | None) -> None:
    """Writes figures as JSON, atomically; nothing without `file`. Raises `CrsError` when `file` cannot be written."""
    if file is not None:
        with writing(file) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function `(done, total)` that draws a progress bar labelled `what` on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class run_progress:
    """Shows a run's progress: a bar on a terminal, and a line for every notebook that ended. Entered, it is a function
    to call with a notebook's name before the notebook starts."""

    def __init__(self, run: Run) -> None:
        self._run, self._stop = run, threading.Event()
        self._stage, self._started = "", 0.0

    def __enter__(self) -> Callable[[str], None]:
        if console.is_terminal:
            threading.Thread(target=self._draw, daemon=True).start()
        return self._begin

    def __exit__(self, kind: object, *failure: object) -> None:
        if kind is None:
            self._end()
        self._stop.set()
        time.sleep(0.3 if console.is_terminal else 0)

    def _begin(self, stage: str) -> None:
        self._end()
        self._stage, self._started = stage, time.monotonic()

    def _end(self) -> None:
        if self._stage:
            console.print(f"{self._stage}  {time.monotonic() - self._started:.0f} s")
        self._stage = ""

    def _draw(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            while not self._stop.wait(0.2):
                done, total, what = self._run.reached
                if bar.tasks[0].description != (label := f"{self._stage} {what}"):
                    bar.reset(task, description=label)
                bar.update(task, completed=done, total=total or None)


class sweep_progress:
    """Shows the conditions of a sweep: a live table on a terminal, elsewhere a line for every change of a state.
    Entered, it is a function to call with the conditions."""

    def __enter__(self) -> Callable[[Sequence[Any]], None]:
        from rich.live import Live

        self._states: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        if self._live:
            self._live.start()
        return self._show

    def __exit__(self, *failure: object) -> None:
        if self._live:
            self._live.stop()

    def _show(self, conditions: Sequence[Any]) -> None:
        if self._live:
            self._live.update(_table(conditions))
            return
        for condition in conditions:
            if self._states.get(condition.plan.run_id) != condition.state:
                self._states[condition.plan.run_id] = condition.state
                line = f"{condition.plan.run_id} {condition.state} {dict(condition.given)}"
                console.print(line, markup=False, soft_wrap=True)


def _table(conditions: Sequence[Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("run", "condition", "state", "dialogues", "seconds")
    colours = {"waiting": "dim", "running": "yellow", "success": "green", "error": "red"}
    for condition in conditions:
        done, total, _ = condition.plan.run.reached
        values = ", ".join(f"{name}={value}" for name, value in condition.given.items())
        state = "computed before" if condition.reused else condition.state
        count = f"{done}/{total}" if total else ""
        seconds = f"{condition.seconds:.0f}" if condition.seconds else ""
        table.add_row(condition.plan.run_id, Text(values), Text(state, colours[condition.state]), count, seconds)
    return table
