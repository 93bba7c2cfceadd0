"""The data folder: tables `items` and `ratings`, which are read and written together."""

from pathlib import Path

import polars as pl

from crslib import files, schemas, store
from crslib.data import catalog
from crslib.data.source import Source
from crslib.dialogue import domain, utterances
from crslib.dialogue.domain import Domain
from crslib.errors import CrsError


def load(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `items` and `ratings` of a data folder. Raises `CrsError` when one is missing or damaged, or an
    item of `ratings` is not in `items`."""
    paths = [folder / "items.parquet", folder / "ratings.parquet"]
    if missing := [path for path in paths if not path.exists()]:
        raise CrsError(f"no data: {missing[0]} does not exist; run `crs data build` or `crs data import` first")
    items, ratings = (store.read_parquet(path, path.stem) for path in paths)
    unknown = ratings.join(items, on="item_id", how="anti", maintain_order="left")
    if unknown.height:
        raise CrsError(f"{paths[1]} rates item {unknown['item_id'][0]!r}, which {paths[0]} lacks; import both again")
    return items, ratings


def domain_of(folder: Path, given: str = "auto") -> Domain:
    """The domain that `given` names, a shipped name or a file; "auto": the one that the data folder says it is of.

    Raises `CrsError` for a domain that cannot be read or has a fault.
    """
    if given != "auto":
        return domain.read(given)
    named = Source.read(folder).domain
    return domain.read(str(folder / named) if (folder / named).is_file() else named)


def write(items: pl.DataFrame, ratings: pl.DataFrame, folder: Path) -> None:
    """Writes both tables into `folder`, or neither. Of items with one name only the one with the most ratings is
    written (`without_namesakes`), and its ratings; `n_ratings` and `mean_rating` are counted from `ratings`.

    Raises `CrsError` when the folder cannot be written.
    """
    items_written = without_namesakes(catalog.with_training_statistics(items, ratings))
    ratings_written = ratings.join(items_written, on="item_id", how="semi").sort("user_id", "item_id")
    # Both files or neither: each is moved into place only after both are complete.
    with files.writing(folder / "items.parquet") as first, files.writing(folder / "ratings.parquet") as second:
        for table, frame, path in (("items", items_written, first), ("ratings", ratings_written, second)):
            schemas.check(frame, table).write_parquet(path, compression="zstd", statistics=False)


def without_namesakes(items: pl.DataFrame) -> pl.DataFrame:
    """The items, sorted by id, without those whose title and year an item with more `n_ratings` has: a mention could
    mean either."""
    names = [utterances.mention(utterances.item_name(*row)) for row in items.select("title", "year").iter_rows()]
    return (
        items.with_columns(pl.Series("name", names, dtype=pl.String))
        .sort("n_ratings", "item_id", descending=[True, False])
        .unique("name", keep="first", maintain_order=True)
        .drop("name")
        .sort("item_id")
    )
