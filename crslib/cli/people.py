"""`crs people`: studies in which people compare dialogues."""

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.terminal import REPORTS, RUN, console


@click.group()
def people() -> None:
    """Studies in which people compare dialogues, blind and in pairs. Raters need only a browser."""


@people.command("serve")
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option(
    "--pairs",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Pairs, without attention checks; fewer if there are no more.",
)
@click.option(
    "--redial",
    type=click.Path(path_type=Path),
    help="ReDial's zip or folder: every pair has a human dialogue on one side.",
)
@click.option("--raters", multiple=True, metavar="NAME", help="Who may take part; can be repeated. Default: everybody.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. Other hosts need a token (--token)."
)
@click.option(
    "--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one."
)
@click.option("--token", default="", help="Token that the address must contain. Default for other hosts: a random one.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides the pairs, their sides and orders."
)
@REPORTS
def people_serve(
    runs: Sequence[Path],
    pairs: int,
    redial: Path | None,
    raters: Sequence[str],
    host: str,
    port: int,
    token: str,
    seed: int,
    reports: Path,
) -> None:
    """Serves a page on which people compare the dialogues of RUNS: ids, tags or folders of runs, the folder of one
    sweep, or that of one study.

    With --redial each dialogue is compared with a human one from ReDial's test set, and one run is enough.

    The same command continues the same study. Every answer is on disk before the next question is shown.
    """
    from crslib.judging.pairs import n_pairs_of
    from crslib.judging.study import open_study
    from crslib.runs import find_runs
    from crslib.web import server

    if not (len(runs) == 1 and (runs[0] / "study.json").exists()):
        there = n_pairs_of(find_runs(runs), seed, redial)
        if 0 < there < pairs:
            console.print(f"{there} pairs instead of {pairs}: these runs have no more", soft_wrap=True)
            pairs = there
    study = open_study(runs, pairs, seed, reports / "people", redial)
    console.print(f"votes go to {study.path}", soft_wrap=True, markup=False)
    token = token or ("" if server.is_loopback(host) else secrets.token_urlsafe(16))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(
            study, host, port, token, raters, lambda address: console.print(address, soft_wrap=True, markup=False)
        )


STUDY = click.argument("study", type=click.Path(path_type=Path))
FORM = click.option(
    "--as",
    "form",
    type=click.Choice(["csv", "jsonl", "potato", "labelstudio"]),
    default="csv",
    show_default=True,
    help="csv, jsonl: tables; potato, labelstudio: the files of these platforms.",
)


@people.command("report")
@STUDY
@click.option(
    "--judge", type=click.Path(path_type=Path), help="Parquet file of a judging model's votes on the same runs."
)
def people_report(study: Path, judge: Path | None) -> None:
    """Prints the figures of STUDY (a study's folder), such as win rates and agreement, and writes report.html there."""
    from crslib.judging.study import Study
    from crslib.reporting import study as study_report
    from crslib.store import read_parquet

    opened = Study(study)
    for line in study_report.lines(opened.votes()):
        console.print(line, soft_wrap=True, markup=False)
    path = study_report.write(opened, read_parquet(judge, "votes") if judge else None)
    console.print(str(path), soft_wrap=True, markup=False)


@people.command("export")
@STUDY
@FORM
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def people_export(study: Path, form: str, folder: Path) -> None:
    """Writes the pairs of STUDY without their conditions for another platform; as csv or jsonl also its votes."""
    from crslib.judging import exchange
    from crslib.judging.study import Study

    for path in exchange.write(Study(study), form, folder):
        console.print(str(path), soft_wrap=True, markup=False)


@people.command("import")
@STUDY
@click.argument("votes", type=click.Path(path_type=Path))
@FORM
def people_import(study: Path, votes: Path, form: str) -> None:
    """Adds VOTES that were given elsewhere on the pairs of STUDY: a file, or potato's output folder.

    A vote that is imported twice counts once.
    """
    from crslib.judging import exchange
    from crslib.judging.study import Study

    opened = Study(study)
    new = opened.add(exchange.read(opened, form, votes))
    console.print(f"{new} new votes in {study}", soft_wrap=True, markup=False)
