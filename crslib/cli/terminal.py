"""What commands share: options, runs by a word, failure with a sentence, figures as JSON, tables and progress. Progress
is drawn on a terminal only; elsewhere it is a few lines or nothing.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

import click
from click.shell_completion import CompletionItem
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crslib.cli.completion import complete
from crslib.config import ROOT
from crslib.files import writing
from crslib.runs import LATEST, find, scan
from crslib.store import Run

console = Console(highlight=False, markup=False)  # a path may have brackets
_FOLDER = "crslib.reports"  # where a command keeps the folder of runs, for `RUN`


def _keep_folder(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """The given folder of reports; by default that which a group before the command was given."""
    if ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.DEFAULT:
        value = ctx.meta.get(_FOLDER, value)
    ctx.meta[_FOLDER] = value
    return value


def _reports(**more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--reports",
        type=click.Path(path_type=Path),
        default=ROOT / "reports",
        show_default="reports",
        is_eager=True,  # runs are found in it
        callback=_keep_folder,
        help="Folder for runs and reports.",
        **more,
    )


REPORTS = _reports()
REPORTS_OF_RUNS = _reports(expose_value=False)
"""For commands that only find runs in it."""
PARAMETERS = click.option(
    "-p",
    "--parameter",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    shell_complete=complete,
    help="Sets a parameter; can be repeated.",
)
JSON = click.option(
    "--json", "file", type=click.Path(path_type=Path), help="Also write the figures to FILE, as JSON; -: to the output."
)
JSON_OR_OUTPUT = click.option(
    "--json",
    "file",
    is_flag=False,
    flag_value=Path("-"),
    type=click.Path(path_type=Path),
    help="Write JSON to FILE; without FILE print it, and nothing else.",
)
STDOUT = Path("-")


class _RunType(click.ParamType):
    """The folder of a run, given as an id, the beginning of one, a tag, `latest` or a path."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        return find(str(value), _folder(ctx)).path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        runs = scan(_folder(ctx), lambda sentence: None)
        known = {LATEST: "", **{found.tag or found.run_id: str(found) for found in runs}}
        words = [CompletionItem(word, help=about) for word, about in known.items() if word.startswith(incomplete)]
        return words or [CompletionItem(incomplete, type="dir")]


def _folder(ctx: click.Context | None) -> Path:
    return Path(ctx.meta.get(_FOLDER, ROOT / "reports")) if ctx else ROOT / "reports"


RUN = _RunType()


def fail(sentence: str) -> Never:
    """Prints a sentence on standard error and exits with status 1."""
    click.echo(f"crs: {visible(sentence)}", err=True)
    sys.exit(1)


def visible(text: str) -> str:
    """`text` with a sign for each character that a terminal obeys or cannot show: escape sequences, lone surrogates."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def write_json(figures: Any, file: Path | None) -> None:
    """Writes figures as JSON, atomically, or prints them where `file` is `-`; nothing without `file`. Raises `CrsError`
    when `file` cannot be written."""
    if file is None:
        return
    text = json.dumps(figures, indent=1) + "\n"
    if file == STDOUT:
        click.echo(text, nl=False)
        return
    with writing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """A table of texts: drawn on a terminal, elsewhere plain lines whose cells stand below each other. The columns in
    `numbers` are set to the right; neither their cells nor those in `whole` are broken."""
    rows = [[visible(cell).replace("\n", " ") for cell in row] for row in rows]
    if console.is_terminal:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for name in columns:
            is_number = name in numbers
            no_wrap = is_number or name in whole
            table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=no_wrap, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    from crslib.reporting.text import aligned

    for line in aligned([columns, *rows], [place for place, name in enumerate(columns) if name in numbers]):
        console.print(line, soft_wrap=True, markup=False)


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


STAGES = {
    "01_profiles": "profiles are built",
    "02_simulate": "dialogues",
    "02_baselines": "dialogues",
    "03_evaluate": "metrics are computed",
}


class run_progress:
    """Shows a run's progress: on a terminal a bar with dialogues, their rate and the time left of the whole run, and
    elsewhere a line for every notebook that ended. Entered, it is a function to call with a notebook's name before the
    notebook starts. `expected`: seconds of each notebook, by earlier runs. `width`: dialogues that talk at the same
    time."""

    def __init__(self, run: Run, expected: Mapping[str, float] | None = None, width: int = 1, quiet: bool = False):
        self._run, self._expected, self._width = run, expected or {}, width
        self._quiet, self._draws = quiet, console.is_terminal and not quiet
        self._stage, self._started = "", 0.0
        self._earlier, self._first = (0, 0, ""), 0  # what was reported before this notebook; done at its first report
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> Callable[[str], None]:
        if self._draws:
            self._thread.start()
        return self._begin

    def __exit__(self, kind: object, *failure: object) -> None:
        if kind is None:
            self._end()
        self._stop.set()
        if self._draws:
            self._thread.join()

    def _begin(self, stage: str) -> None:
        self._end()
        self._earlier, self._first = self._run.reached, -1
        self._stage, self._started = stage, time.monotonic()

    def _end(self) -> None:
        if self._stage and not self._quiet:
            console.print(f"{self._stage}  {time.monotonic() - self._started:.0f} s")
        self._stage = ""

    def _draw(self) -> None:
        about, says = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[says]}", markup=False)
        with Progress(about, BarColumn(bar_width=20), says, console=console, transient=True) as bar:
            task = bar.add_task("", total=None, says="")
            while not self._stop.wait(0.2):
                if not (stage := self._stage):
                    continue
                done, total, words = self.state(stage, time.monotonic() - self._started)
                if bar.tasks[0].description != STAGES.get(stage, stage):
                    bar.reset(task, description=STAGES.get(stage, stage))
                bar.update(task, completed=done, total=total or None, says=words)

    def state(self, stage: str, elapsed: float) -> tuple[int, int, str]:
        """(done, total, in words) of a notebook that runs for `elapsed` seconds."""
        from crslib.experiments.duration import rest, seconds_left

        reached = self._run.reached
        done, total, what = reached if reached != self._earlier else (0, 0, "")
        if total and self._first < 0:
            self._first = done  # they were finished before this call
        new, rate = done - max(self._first, 0), ""
        if what == "dialogues":
            left = seconds_left(new, total - max(self._first, 0), elapsed, self._expected.get(stage), self._width)
            rate = f"{60 * new / elapsed:.0f} a minute" if new and elapsed > 0 else ""
        else:
            left = self._expected[stage] - elapsed if self._expected.get(stage, 0) > elapsed else None
        left = None if left is None else left + rest(self._expected, stage)
        words = [f"{done}/{total}" if total else "", rate, _clock(elapsed), f"some {_clock(left)} left" if left else ""]
        return done, total, "  ".join(filter(None, words))


def _clock(seconds: float) -> str:
    """Minutes and seconds: `2:05`."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"


class sweep_progress:
    """Shows the conditions of a sweep while they run: a live table on a terminal, elsewhere a line for every change of
    a state. Entered, it is a function to call with the conditions. `names`: of the conditions, in their order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __enter__(self) -> Callable[[Sequence[Any]], None]:
        from rich.live import Live

        self._states: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        if self._live:
            self._live.start()
        return self._show

    def __exit__(self, *failure: object) -> None:
        if self._live:
            self._live.stop()

    def _show(self, conditions: Sequence[Any]) -> None:
        if self._live:
            self._live.update(_table(self._names, conditions))
            return
        for name, condition in zip(self._names, conditions, strict=True):
            if self._states.get(condition.plan.run_id) != condition.state:
                self._states[condition.plan.run_id] = condition.state
                console.print(visible(f"{condition.state:<8} {name}"), markup=False, soft_wrap=True)


def _table(names: Sequence[str], conditions: Sequence[Any]) -> Table:
    table = Table("condition", "state", "dialogues", "seconds", box=box.SIMPLE_HEAD, pad_edge=False)
    colours = {"waiting": "dim", "running": "yellow", "success": "green", "error": "red"}
    for name, condition in zip(names, conditions, strict=True):
        done, total, _ = condition.plan.run.reached
        state = "computed before" if condition.reused else condition.state
        count = f"{done}/{total}" if total else ""
        seconds = f"{condition.seconds:.0f}" if condition.seconds else ""
        table.add_row(Text(visible(name)), Text(state, colours[condition.state]), count, seconds)
    return table
