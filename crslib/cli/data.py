"""`crs data`: the catalogue, ratings, human dialogues and their statistics."""

from pathlib import Path

import click

from crslib.cli.terminal import console, counting, fail
from crslib.config import ROOT


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


@data.command("import")
@click.option(
    "--ratings", type=click.Path(path_type=Path), help="CSV or Parquet: user_id, item_id, rating[, rated_at]."
)
@click.option("--items", type=click.Path(path_type=Path), help="CSV or Parquet: item_id, title[, year, genres, …].")
@click.option("--movielens", type=click.Path(path_type=Path), help="A MovieLens zip or folder, instead of both files.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the two tables.")
def import_(ratings: Path | None, items: Path | None, movielens: Path | None, folder: Path) -> None:
    """Imports your own ratings, or MovieLens', for `crs run -p data=FOLDER`."""
    from crslib.data import imports
    from crslib.data.movielens import import_movielens

    if ratings and not movielens:
        imported = imports.import_ratings(ratings, items, folder)
    elif movielens and not ratings:
        imported = import_movielens(movielens, folder)
    else:
        fail("give either --ratings FILE (and --items FILE) or --movielens PATH")
    console.print(f"{folder}: {imported}", soft_wrap=True, markup=False)


@data.command()
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def reference(redial: Path, folder: Path) -> None:
    """Writes the statistics of human dialogues that runs are compared with (ReDial's test set; numbers only)."""
    from crslib.data.corpora import redial as corpus
    from crslib.metrics.reference import measure, write

    write(measure(corpus.read(redial, "test")), folder)
    console.print(str(folder), soft_wrap=True)


@data.command("styles")
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or train .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def styles_(redial: Path, folder: Path) -> None:
    """Writes how often people write in which style (ReDial's training set; numbers only)."""
    from crslib.data.corpora import redial as corpus
    from crslib.store import write_parquet
    from crslib.training.knowledge import styles_of

    table = styles_of(corpus.read(redial, "train"))
    write_parquet(table, folder / "styles.parquet")
    console.print(f"{folder / 'styles.parquet'}: {table.height} styles", soft_wrap=True)


@data.command("acts")
@click.option("--iard", type=click.Path(path_type=Path), required=True, help="IARD's JSON file or its folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/acts", show_default="data/acts")
def acts_(iard: Path, folder: Path) -> None:
    """Trains the tagger of dialogue acts on IARD and prints its accuracy. Then run `crs data reference` again."""
    from crslib.experiments.benchmarks import acts

    console.print(acts.formatted(acts.build(iard, folder)), soft_wrap=True, markup=False)


@data.command("embeddings")
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def embeddings(redial: Path, folder: Path) -> None:
    """Writes the embeddings of human dialogues by the built-in model (ReDial's test set; numbers only)."""
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
@click.argument("corpus", type=click.Choice(["redial"]))
@click.option("--path", type=click.Path(path_type=Path), help="The official file, or its folder: checked and copied.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/raw", show_default="data/raw")
def fetch(corpus: str, path: Path | None, folder: Path) -> None:
    """Downloads human dialogues from their authors and checks them."""
    from crslib.data.corpora import download

    fetched = download.fetch(corpus, folder, path, progressbar=console.is_terminal)
    known = download.CORPORA[corpus]
    console.print(f"{fetched}\nlicence: {known.licence}\ncite: {known.cite}", markup=False, soft_wrap=True)
