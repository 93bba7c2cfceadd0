"""The data folder: tables `items` and `ratings`, read and written together."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from crslib import schemas, store
from crslib.data import catalog
from crslib.dialogue import utterances
from crslib.errors import CrsError

# ── data of one's own ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Imported:
    """What was written, and what was left out because a more rated item has the same title and year."""

    items: int
    ratings: int
    users: int
    items_left_out: int
    ratings_left_out: int

    def __str__(self) -> str:
        text = f"{self.items:,} items, {self.ratings:,} ratings of {self.users:,} users"
        if self.items_left_out:
            text += f"; left out: {self.items_left_out:,} items with the title and year of a more rated one"
            text += f" and their {self.ratings_left_out:,} ratings"
        return text


def load(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `items` and `ratings` of a data folder. Raises `CrsError` when they are missing, damaged or at odds."""
    paths = [folder / "items.parquet", folder / "ratings.parquet"]
    if missing := [path for path in paths if not path.exists()]:
        raise CrsError(f"no data: {missing[0]} does not exist; run `crs data build` or `crs data import` first")
    items, ratings = (store.read_parquet(path, path.stem) for path in paths)
    unknown = ratings.join(items, on="item_id", how="anti", maintain_order="left")
    if unknown.height:
        raise CrsError(f"{paths[1]} rates item {unknown['item_id'][0]!r}, which {paths[0]} lacks; import both again")
    return items, ratings


def write(items: pl.DataFrame, ratings: pl.DataFrame, folder: Path) -> Imported:
    """Writes both tables into `folder`, or neither; of items with one title and year only the most rated one.

    Raises `CrsError` when the folder cannot be written.
    """
    counted = catalog.with_training_statistics(items, ratings)
    names = [utterances.mention(utterances.item_name(*row)) for row in counted.select("title", "year").iter_rows()]
    kept = (
        counted.with_columns(pl.Series("name", names))
        .sort("n_ratings", "item_id", descending=[True, False])
        .unique("name", keep="first", maintain_order=True)
        .drop("name")
        .sort("item_id")
    )
    told = ratings.join(kept, on="item_id", how="semi").sort("user_id", "item_id")
    # Both files or none: each takes its place only after both have been written whole.
    with store.writing(folder / "items.parquet") as first, store.writing(folder / "ratings.parquet") as second:
        for table, frame, path in (("items", kept, first), ("ratings", told, second)):
            schemas.check(frame, table).write_parquet(path, compression="zstd", statistics=False)
    return Imported(
        kept.height, told.height, told["user_id"].n_unique(), items.height - kept.height, ratings.height - told.height
    )
