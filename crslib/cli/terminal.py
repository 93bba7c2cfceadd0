"""What `crs` shows on a terminal: lines, bars and live tables, all of them quiet in logs; and the options that many
commands share.
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
from crslib.store import Run, writing

console = Console(highlight=False)
REPORTS = click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=ROOT / "reports",
    show_default="reports",
    help="Folder of runs.",
)
PARAMETERS = click.option(
    "-p", "--parameter", "assignments", multiple=True, metavar="NAME=VALUE", help="One parameter."
)
JSON = click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures to FILE too.")


def fail(sentence: str) -> Never:
    """Prints a sentence on standard error and exits with status 1."""
    click.echo(f"crs: {sentence}", err=True)
    sys.exit(1)


def keep(found: Any, file: Path | None) -> None:
    """Writes figures as JSON, whole or not at all; nowhere without `file`."""
    if file is not None:
        with writing(file) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function `(done, total)` that draws a bar on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
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


class watching:
    """Draws a run's progress on a terminal; elsewhere one line per notebook."""

    def __init__(self, watched: Run) -> None:
        self._run, self._stop = watched, threading.Event()
        self._stage, self._begun = "", 0.0

    def __enter__(self) -> Callable[[str], None]:
        if console.is_terminal:
            threading.Thread(target=self._draw, daemon=True).start()
        return self._tell

    def __exit__(self, kind: object, *failure: object) -> None:
        if kind is None:
            self._finished()
        self._stop.set()
        time.sleep(0.3 if console.is_terminal else 0)

    def _tell(self, stage: str) -> None:
        self._finished()
        self._stage, self._begun = stage, time.monotonic()

    def _finished(self) -> None:
        if self._stage:
            console.print(f"{self._stage}  {time.monotonic() - self._begun:.0f} s")
        self._stage = ""

    def _draw(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            while not self._stop.wait(0.2):
                done, total, what = self._run.reached
                if bar.tasks[0].description != (label := f"{self._stage} {what}"):
                    bar.reset(task, description=label)
                bar.update(task, completed=done, total=total or None)


class live_table:
    """Draws the conditions of a sweep as a live table; off a terminal, a line whenever one changes its state."""

    def __enter__(self) -> Callable[[Sequence[Any]], None]:
        from rich.live import Live

        self._said: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        if self._live:
            self._live.start()
        return self._show

    def __exit__(self, *failure: object) -> None:
        if self._live:
            self._live.stop()

    def _show(self, planned: Sequence[Any]) -> None:
        if self._live:
            self._live.update(_drawn(planned))
            return
        for condition in planned:
            if self._said.get(condition.plan.run_id) != condition.state:
                self._said[condition.plan.run_id] = condition.state
                line = f"{condition.plan.run_id} {condition.state} {dict(condition.given)}"
                console.print(line, markup=False, soft_wrap=True)


def _drawn(planned: Sequence[Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("run", "condition", "state", "dialogues", "seconds")
    colours = {"waiting": "dim", "running": "yellow", "success": "green", "error": "red"}
    for condition in planned:
        done, total, _ = condition.plan.run.reached
        values = ", ".join(f"{name}={value}" for name, value in condition.given.items())
        state = "found done" if condition.reused else condition.state
        count = f"{done}/{total}" if total else ""
        seconds = f"{condition.seconds:.0f}" if condition.seconds else ""
        table.add_row(condition.plan.run_id, Text(values), Text(state, colours[condition.state]), count, seconds)
    return table
