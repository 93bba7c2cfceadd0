"""The data folder: tables `items` and `ratings`, which are read and written together."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from crslib import schemas, store
from crslib.data import catalog
from crslib.dialogue import utterances
from crslib.errors import CrsError


@dataclass(frozen=True)
class Imported:
    """Numbers of rows written, and left out because an item with more ratings has the same title and year.

    `placeholders`: cells with a sign for no value (`-`, `N/A`), which was not taken for a name.
    """

    items: int
    ratings: int
    users: int
    items_left_out: int
    ratings_left_out: int
    placeholders: int = 0

    def __str__(self) -> str:
        text = f"{self.items:,} items, {self.ratings:,} ratings of {self.users:,} users"
        if self.items_left_out:
            text += f"; left out: {self.items_left_out:,} items with the title and year of one with more ratings"
            text += f" and their {self.ratings_left_out:,} ratings"
        if self.placeholders:
            text += f"; {self.placeholders:,} cells like '-' or 'N/A' read as not given"
        return text


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


def write(items: pl.DataFrame, ratings: pl.DataFrame, folder: Path) -> Imported:
    """Writes both tables into `folder`, or neither. Of items with the same title and year only the one with the most
    ratings is written, and its ratings; `n_ratings` and `mean_rating` are counted from `ratings`.

    Raises `CrsError` when the folder cannot be written.
    """
    counted = catalog.with_training_statistics(items, ratings)
    names = [utterances.mention(utterances.item_name(*row)) for row in counted.select("title", "year").iter_rows()]
    items_written = (
        counted.with_columns(pl.Series("name", names))
        .sort("n_ratings", "item_id", descending=[True, False])
        .unique("name", keep="first", maintain_order=True)
        .drop("name")
        .sort("item_id")
    )
    ratings_written = ratings.join(items_written, on="item_id", how="semi").sort("user_id", "item_id")
    # Both files or neither: each is moved into place only after both are complete.
    with store.writing(folder / "items.parquet") as first, store.writing(folder / "ratings.parquet") as second:
        for table, frame, path in (("items", items_written, first), ("ratings", ratings_written, second)):
            schemas.check(frame, table).write_parquet(path, compression="zstd", statistics=False)
    return Imported(
        items=items_written.height,
        ratings=ratings_written.height,
        users=ratings_written["user_id"].n_unique(),
        items_left_out=items.height - items_written.height,
        ratings_left_out=ratings.height - ratings_written.height,
    )
