"""`crs data`: the catalogue, ratings, human dialogues and their statistics."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from crslib.cli.corpora import import_dialogues, of_people
from crslib.cli.terminal import JSON, console, fail, write_json
from crslib.config import ROOT
from crslib.data.source import NOT_STATED


@click.group()
def data() -> None:
    """Catalogue, ratings and human dialogues."""


@data.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data", show_default="data")
def build(folder: Path) -> None:
    """Builds the built-in catalogue and ratings from two packages (extra `data`)."""
    from crslib.data import builtin

    builtin.build(folder)
    console.print(str(folder), soft_wrap=True)


_PATH = click.Path(path_type=Path)
_DOMAIN = "domain.yaml"  # in a data folder whose domain is none of the shipped


def _no_rating(context: click.Context, parameter: click.Parameter, value: str | None) -> float | Literal["none"] | None:
    if value is None or value == "none":
        return None if value is None else "none"
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor none") from None


@data.command("import")
@click.option("--ratings", type=_PATH, help="Ratings: CSV, JSON lines, Parquet, RecBole's .inter; also .gz and .zst.")
@click.option("--items", type=_PATH, help="Items with their titles, in a file of any of these kinds.")
@click.option("--tags", type=_PATH, multiple=True, help="Items' tags; a second time: the tags' names.")
@click.option("--movielens", type=_PATH, help="A MovieLens zip or folder, instead of both files.")
@click.option("--to", "folder", type=_PATH, required=True, help="Folder for the two tables and source.json.")
@click.option(
    "--column",
    "assignments",
    multiple=True,
    metavar="MEANING=COLUMN",
    help="What a column means, such as item_id=book_id; publisher=Publisher keeps an attribute.",
)
@click.option(
    "--feedback",
    type=click.Choice(["marks", "counts", "presence"]),
    help="What a row says; default: as its columns do.",
)
@click.option("--no-rating", callback=_no_rating, metavar="NUMBER|none", help="The mark that means: not rated.")
@click.option("--duplicates", type=click.Choice(["last", "first", "mean"]), help="What stays of an item rated twice.")
@click.option("--domain", default="movies", show_default=True, help="What the items are: a name, or a file of words.")
@click.option("--name", default=NOT_STATED, show_default=True, help="The data set, for reports and cards.")
@click.option("--url", default=NOT_STATED, show_default=True, help="Where it is from.")
@click.option("--licence", default=NOT_STATED, show_default=True, help="Its licence.")
@click.option("--citation", default=NOT_STATED, show_default=True, help="What to cite.")
@JSON
def import_(
    ratings: Path | None,
    items: Path | None,
    tags: Sequence[Path],
    movielens: Path | None,
    folder: Path,
    assignments: Sequence[str],
    feedback: Literal["marks", "counts", "presence"] | None,
    no_rating: float | Literal["none"] | None,
    duplicates: Literal["last", "first", "mean"] | None,
    file: Path | None,
    **stated: str,
) -> None:
    """Imports your own ratings, or MovieLens', for `crs run -p data=FOLDER`."""
    from crslib.data import columns, imports
    from crslib.data.movielens import import_movielens
    from crslib.data.source import Source
    from crslib.dialogue import domain as domains

    words = Path(stated["domain"])
    if words.is_file():  # it goes into the folder, so that the data can be moved
        files = domains.read(str(words.resolve())).files
        stated["domain"] = _DOMAIN
    else:
        files = domains.read(stated["domain"]).files
    options = imports.Options(
        columns.parse_given(assignments), feedback, no_rating, duplicates, tags, Source.stated(**stated), files
    )
    if ratings and not movielens:
        imported = imports.import_ratings(ratings, items, folder, options)
    elif movielens and not (ratings or items or tags or assignments):
        imported = import_movielens(movielens, folder, options)
    elif movielens:
        fail("--movielens reads all files of the archive; leave --ratings, --items, --tags and --column out")
    else:
        fail("give either --ratings FILE (and --items FILE) or --movielens PATH")
    if words.is_file():
        shutil.copyfile(words, folder / _DOMAIN)
    console.print("\n".join([f"{folder}: {imported}", *imported.lines]), soft_wrap=True, markup=False)
    write_json(imported.record, file)


@data.command("acts")
@click.option("--iard", type=click.Path(path_type=Path), required=True, help="IARD's JSON file or its folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/acts", show_default="data/acts")
def acts_(iard: Path, folder: Path) -> None:
    """Trains the tagger of dialogue acts on IARD and prints its accuracy. Then run `crs data reference` again."""
    from crslib.experiments.benchmarks import acts

    console.print(acts.formatted(acts.build(iard, folder)), soft_wrap=True, markup=False)


@data.command()
@click.argument("corpus", type=click.Choice(["redial"]))
@click.option("--path", type=click.Path(path_type=Path), help="The official file, or its folder: checked and copied.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/raw", show_default="data/raw")
def fetch(corpus: str, path: Path | None, folder: Path) -> None:
    """Downloads human dialogues from their authors and checks them."""
    from crslib.data.corpora import download

    fetched = download.fetch(corpus, folder, path, progressbar=console.is_terminal)
    known = download.CORPORA[corpus]
    console.print(f"{fetched}\nlicence: {known.licence}\ncite: {known.cite}", markup=False, soft_wrap=True)


for command in (import_dialogues, *of_people):
    data.add_command(command)
