"""`crs look`: the dialogues of runs in a browser."""

from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.terminal import console, counting
from crslib.config import ROOT
from crslib.store import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
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
    default=ROOT / "reports/look.html",
    show_default="reports/look.html",
    help="The file; any browser opens it, also offline.",
)
def look(runs: Sequence[Path], n_replayed: int, dialogue_ids: Sequence[str], to: Path) -> None:
    """Writes a page that shows the dialogues of RUNS (folders): filtered, ordered, two runs side by side.

    Replayed dialogues are read again by their run's own models. For these the page also shows how likely each word was
    and which other titles the recommender could have named.
    """
    from crslib.web import viewer

    with counting("dialogues") as progress:
        path = viewer.write(to, [Run(path.resolve()) for path in runs], n_replayed, dialogue_ids, progress)
    console.print(str(path), soft_wrap=True)
