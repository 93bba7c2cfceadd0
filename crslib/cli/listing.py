"""`crs runs`: the list of runs; which are removed, and what they are called."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crslib.cli.terminal import JSON_OR_OUTPUT, REPORTS, RUN, console, fail, print_table, visible, write_json
from crslib.errors import CrsError
from crslib.runs import LATEST, give_tag
from crslib.store import Run

if TYPE_CHECKING:
    import polars as pl

_SHOWN = 4  # differences from the defaults; the rest is in --json
_HASH = re.compile(r"[0-9a-f]{9,}")  # an id that says nothing: its beginning will do


@click.group(invoke_without_command=True)
@click.option("-n", "n", type=click.IntRange(1), help="Only the first N, by default the newest.")
@click.option("--sort", "by", default="started", show_default=True, help="Column to sort by, the largest or A first.")
@click.option(
    "-w", "--filter", "filters", multiple=True, metavar="NAME=VALUE",
    help="Only those with this value of a column or parameter; can be repeated.",
)  # fmt: skip
@JSON_OR_OUTPUT
@REPORTS
@click.pass_context
def runs(ctx: click.Context, n: int | None, by: str, filters: Sequence[str], file: Path | None, reports: Path) -> None:
    """Lists the runs, newest first; on stderr, what could not be read.

    Other commands take a run by its id, the beginning of one, its tag, as `latest`, or by its folder.

    hit: share of dialogues with a hit. reacts: share of reactions that agree with the private note. told: how often a
    classifier tells the user's turns from people's (0.5: by chance). dist-2: distinct-2 of the user. turns: of a
    dialogue. models: the user's / the recommender's where they differ. Then come metrics of your own.
    """
    if ctx.invoked_subcommand is not None:
        return
    from crslib.experiments.runs import listed, matching, ordered

    if not reports.is_dir():
        fail(f"there is no folder {reports}; give the folder of runs with --reports")
    all_runs = listed(reports, lambda sentence: click.echo(visible(sentence), err=True))
    frame = ordered(matching(all_runs, _wanted(filters)), by).head(n or all_runs.height)
    write_json(frame.to_dicts(), file)
    if file is None:
        names = dict(zip(all_runs["path"], _names(all_runs.to_dicts()), strict=True))
        _print(frame, names, (reports / LATEST).resolve())


def _wanted(filters: Sequence[str]) -> dict[str, str]:
    wanted = {}
    for word in filters:
        name, equals, value = word.partition("=")
        if not equals:
            raise CrsError(f"{word!r} is no filter; write name=value")
        wanted[name.strip()] = value
    return wanted


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each run a word that finds it among all `rows` (`crslib.runs.find`): its tag, the beginning of its id where
    that is a hash, its id, or else its folder."""
    given = Counter(word for row in rows for word in {row["tag"], row["run_id"]})

    def finds(word: str) -> bool:
        begun = sum(row["run_id"].startswith(word) for row in rows)
        return bool(word) and (given[word] == 1 if word in given else begun == 1)

    names = []
    for row in rows:
        run_id = row["run_id"]
        cut = [run_id[:length] for length in range(8, len(run_id))] if _HASH.fullmatch(run_id) else []
        names.append(next(filter(finds, [row["tag"], *cut, run_id]), row["path"]))
    return names


def _print(frame: "pl.DataFrame", names: Mapping[str, str], latest: Path) -> None:
    """The runs of `frame` as a table; where no terminal is too narrow for it, with the whole time and the folder.
    `names`: folder → a word for the run."""
    from crslib.experiments.runs import FIGURES, own_metrics
    from crslib.reporting import text

    if frame.is_empty():
        if console.is_terminal:
            console.print("no runs; make one with `crs run`")
        return
    wide = not console.is_terminal
    figures = {**FIGURES, **{name: name for name in own_metrics(frame) if frame[name].count()}}
    rows = [
        [
            names[row["path"]],
            row["started"] or "-" if wide else _time(row["started"]),
            _about(row, latest),
            " / ".join(dict.fromkeys(filter(None, (row["user"], row["recommender"])))),
            str(row["n_dialogues"]),
            *(text.number(row[name]) for name in figures),
            *([row["path"]] if wide else []),
        ]
        for row in frame.iter_rows(named=True)
    ]
    numbers = ["n", *figures.values()]
    heads = ["run", "started", "condition", "models", *numbers, *(["folder"] if wide else [])]
    print_table(heads, rows, numbers, whole=["run"])


def _time(started: str) -> str:
    """The day, or the time of one of today, here."""
    try:
        at = datetime.fromisoformat(started).astimezone()
    except ValueError:
        return started[:10]
    return f"{at:%H:%M}" if at.date() == datetime.now().astimezone().date() else f"{at:%d %b}"


def _about(row: dict[str, object], latest: Path) -> str:
    """Condition, what differs from the defaults, whether it is the latest, and the state where it is not success."""
    differs = [word for word in str(row["differs"]).split(", ") if not word.startswith("n_profiles=")]
    words = [str(row["condition"]), *differs[:_SHOWN], *["…"] * (len(differs) > _SHOWN)]
    is_latest = Path(str(row["path"])).resolve() == latest
    notes = ["latest"] * is_latest + [str(row["status"])] * (row["status"] != "success")
    return " ".join(filter(None, [*words, f"({', '.join(notes)})" if notes else ""]))


@runs.command("rm")
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=RUN)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@REPORTS
def remove(folders: Sequence[Path], yes: bool, reports: Path) -> None:
    """Removes runs, with their dialogues and reports. A run that is in use is not removed."""
    from crslib.experiments import runs as all_runs

    for folder in dict.fromkeys(folders):
        run = Run(folder)
        parts = [str(path) for path in all_runs.named_in(run, reports)]
        note = f" It is part of {', '.join(parts)}." if parts else ""
        n = all_runs.n_dialogues(run)
        if not yes and not click.confirm(f"{folder}: remove the run and its {n} dialogues?{note}"):
            console.print("kept", soft_wrap=True)
            continue
        said = all_runs.remove(run, reports)
        console.print(f"removed {folder}", soft_wrap=True)
        if said:
            console.print(said, soft_wrap=True)


@runs.command("tag")
@click.argument("folder", metavar="RUN", type=RUN)
@click.argument("name", required=False)
@click.option("--remove", is_flag=True, help="Take the tag from the run.")
@REPORTS
def tag_(folder: Path, name: str | None, remove: bool, reports: Path) -> None:
    """Names a run: every command then takes NAME for it."""
    if (name is None) != remove:
        fail("give a name, or --remove to take the one that the run has")
    run = Run(folder)
    if not run.info and not run.has("dialogues") and not (folder / "journal.jsonl").is_file():
        fail(f"{folder} is no run; `crs runs` lists them")
    give_tag(run, name or "", reports)
    console.print(f"{folder} is called {name}" if name else f"{folder} has no tag", soft_wrap=True)
