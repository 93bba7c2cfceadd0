"""`crs data`: catalogue, ratings, human dialogues and the statistics of them."""

from pathlib import Path

import click

from crslib.cli.terminal import console, counting, fail
from crslib.config import ROOT


@click.group()
def data() -> None:
    """Catalogue, ratings and human statistics."""


@data.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data", show_default="data")
def build(folder: Path) -> None:
    """Builds the built-in catalogue and ratings from the two packages that carry them."""
    from crslib.data import builtin

    builtin.build(folder)
    console.print(str(folder), soft_wrap=True)


@data.command("import")
@click.option(
    "--ratings", type=click.Path(path_type=Path), help="CSV or Parquet: user_id, item_id, rating[, rated_at]."
)
@click.option("--items", type=click.Path(path_type=Path), help="CSV or Parquet: item_id, title[, year, genres, …].")
@click.option("--movielens", type=click.Path(path_type=Path), help="A MovieLens zip or folder, instead of both.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the two tables.")
def import_(ratings: Path | None, items: Path | None, movielens: Path | None, folder: Path) -> None:
    """Brings your own ratings: then `crs run -p data=FOLDER`."""
    from crslib.data import imports
    from crslib.data.movielens import import_movielens

    if (ratings is None) == (movielens is None):
        fail("give either --ratings FILE (and --items FILE) or --movielens PATH")
    imported = import_movielens(movielens, folder) if movielens else imports.import_ratings(ratings, items, folder)
    console.print(f"{folder}: {imported}", soft_wrap=True, markup=False)


@data.command()
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def reference(redial: Path, folder: Path) -> None:
    """Counts the statistics of human dialogues that runs are held against (ReDial's test set; numbers only)."""
    from crslib.data.corpora import redial as corpus
    from crslib.metrics.reference import measure, write

    write(measure(corpus.read(redial, "test")), folder)
    console.print(str(folder), soft_wrap=True)


@data.command("acts")
@click.option("--iard", type=click.Path(path_type=Path), required=True, help="IARD's JSON file or its folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/acts", show_default="data/acts")
def acts_(iard: Path, folder: Path) -> None:
    """Learns the tagger of dialogue acts from IARD and says how right it is. Then make `crs data reference` again."""
    from crslib.experiments.benchmarks import acts

    console.print(acts.formatted(acts.build(iard, folder)), soft_wrap=True, markup=False)


@data.command("embeddings")
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def embeddings(redial: Path, folder: Path) -> None:
    """Reads human dialogues with the built-in model and keeps where they lie (ReDial's test set; numbers only)."""
    from crslib.data.corpora import frames
    from crslib.data.corpora import redial as corpus
    from crslib.metrics import embedding
    from crslib.metrics.reference import anonymous

    _, turns = frames(anonymous(corpus.read(redial, "test")))
    with embedding.reader() as reader, counting("texts") as progress:
        embedded = embedding.embed(turns, reader, progress)
    embedding.write(embedding.measure(embedded, embedding.source()), folder)
    console.print(str(folder), soft_wrap=True)


@data.command()
@click.argument("corpus", type=click.Choice(["redial", "inspired", "ccpe"]))
@click.option(
    "--path", type=click.Path(path_type=Path), help="The official file or folder at hand: checked and copied."
)
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/raw", show_default="data/raw")
def fetch(corpus: str, path: Path | None, folder: Path) -> None:
    """Downloads human dialogues from their authors, checked. Run again, it goes on where it was cut off."""
    from crslib.data.corpora import download

    with counting("bytes") as progress:
        found = download.fetch(corpus, folder, path, progress)
    known = download.CORPORA[corpus]
    console.print(f"{found}\nlicence: {known.licence}\ncite: {known.cite}", markup=False, soft_wrap=True)
