"""`crs look`: the dialogues of runs in a browser."""

import contextlib
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.terminal import REPORTS, RUN, console, counting, fail, visible


@click.command()
@click.argument("runs", nargs=-1, type=RUN)
@click.option(
    "--replay",
    "n_replayed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Number of dialogues to replay, the first ones; seconds each.",
)
@click.option("--dialogue", "dialogue_ids", multiple=True, metavar="ID", help="Dialogue to replay; can be repeated.")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    show_default="reports/look.html",
    help="The file; any browser opens it, also offline.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Without RUNS; 0: any that is free."
)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Without RUNS: open the browser.")
@REPORTS
def look(
    runs: Sequence[Path],
    n_replayed: int,
    dialogue_ids: Sequence[str],
    to: Path | None,
    port: int,
    browser: bool,
    reports: Path,
) -> None:
    """Shows the dialogues of runs: searched, filtered, ordered, two side by side.

    Without RUNS, all runs below --reports, from a server that only this machine reaches; it ends with Ctrl-C. With RUNS
    (ids, their beginnings, tags, `latest`, folders, or the folder of one sweep), one file with these runs.

    Replayed dialogues are read again by their run's own models. For these the page also shows how likely each word was
    and which other titles the recommender could have named.
    """
    from crslib.runs import find_runs
    from crslib.web import viewer

    if not runs:
        if to or n_replayed or dialogue_ids:
            fail("--to, --replay and --dialogue are for a file; name the runs that it shows, such as `crs look latest`")
        _serve(reports, port, browser)
        return
    opened = list(find_runs(runs).values())
    with counting("dialogues") as progress:
        path = viewer.write(to or reports / "look.html", opened, n_replayed, dialogue_ids, progress)
    console.print(str(path), soft_wrap=True)


def _serve(reports: Path, port: int, browser: bool) -> None:
    from crslib.experiments.runs import FIGURES, listed
    from crslib.web import archive

    if not reports.is_dir():
        fail(f"there is no folder {reports}; give the folder of runs with --reports")

    def skipped(sentence: str) -> None:
        click.echo(visible(sentence), err=True)

    def ready(address: str) -> None:
        console.print(address, soft_wrap=True, markup=False)
        console.print("Ctrl-C ends it.")
        if browser:
            # A text browser is waited for, and waits for this server.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    with contextlib.suppress(KeyboardInterrupt):
        archive.serve(archive.Archive(lambda: listed(reports, skipped), FIGURES), port, ready)
