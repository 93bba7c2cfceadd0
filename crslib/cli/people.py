"""`crs people`: people judge dialogues."""

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.terminal import REPORTS, console


@click.group()
def people() -> None:
    """People judge dialogues, blind and in pairs (needs no more than a browser)."""


@people.command("serve")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pairs", default=20, show_default=True, type=click.IntRange(1), help="Pairs, attention checks aside.")
@click.option(
    "--redial", type=click.Path(path_type=Path), help="ReDial's zip or folder: a real dialogue in every pair."
)
@click.option("--raters", multiple=True, metavar="NAME", help="Who may take part (repeat it); nobody named: everybody.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one lets others in: a token is made.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--token", default="", help="Token in the address, for another host; empty: one is drawn.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which pairs, sides and orders.")
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
    """A page on which people compare the dialogues of RUNS: run folders, one sweep's folder, or one study's.

    With --redial each stands beside a dialogue of two people (from ReDial's test set), and one run is enough.

    The same command goes on with the same study. Every answer is on disk before the next question shows.
    """
    from crslib.judging.study import find
    from crslib.web import server

    study = find(runs, pairs, seed, reports / "people", redial)
    console.print(f"votes go to {study.path}", soft_wrap=True, markup=False)
    token = token or ("" if server.is_loopback(host) else secrets.token_urlsafe(16))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(study, host, port, token, raters, lambda at: console.print(at, soft_wrap=True, markup=False))


STUDY = click.argument("study", type=click.Path(path_type=Path))
FORM = click.option(
    "--as",
    "form",
    type=click.Choice(["csv", "jsonl", "potato", "labelstudio"]),
    default="csv",
    show_default=True,
    help="csv, jsonl: tables; potato, labelstudio: files of these platforms.",
)


@people.command("report")
@STUDY
@click.option("--judge", type=click.Path(path_type=Path), help="Parquet of a judge's votes on the same runs.")
def people_report(study: Path, judge: Path | None) -> None:
    """What the votes of STUDY (its folder) say: who wins, how far raters agree; writes report.html there."""
    from crslib.judging.study import Study
    from crslib.reporting import study as reporting_study
    from crslib.store import read_parquet

    opened = Study(study)
    for line in reporting_study.lines(opened.votes()):
        console.print(line, soft_wrap=True, markup=False)
    path = reporting_study.write(opened, read_parquet(judge, "votes") if judge else None)
    console.print(str(path), soft_wrap=True, markup=False)


@people.command("export")
@STUDY
@FORM
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def people_export(study: Path, form: str, folder: Path) -> None:
    """Writes the pairs of STUDY, blind, for raters elsewhere; as csv and jsonl also its votes."""
    from crslib.judging import exchange
    from crslib.judging.study import Study

    for path in exchange.write(Study(study), form, folder):
        console.print(str(path), soft_wrap=True, markup=False)


@people.command("import")
@STUDY
@click.argument("votes", type=click.Path(path_type=Path))
@FORM
def people_import(study: Path, votes: Path, form: str) -> None:
    """Adds VOTES given elsewhere on the pairs of STUDY: a file, or potato's output folder. Each counts once."""
    from crslib.judging import exchange
    from crslib.judging.study import Study

    opened = Study(study)
    new = opened.take(exchange.read(opened, form, votes))
    console.print(f"{new} new votes in {study}", soft_wrap=True, markup=False)
