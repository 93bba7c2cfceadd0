"""A recommender of one's own in ten lines: the best-known film that nobody has named in the dialogue yet.

`crs run -p recommender_model=python:data/protocol/popular.py:reply`. It counts all ratings of `data/`.
"""

from pathlib import Path

import polars as pl

ITEMS = pl.read_parquet(Path(__file__).parents[1] / "items.parquet").sort("n_ratings", "item_id", descending=True)


def reply(turns: list[dict]) -> dict:
    """Words and the item that they name: the most rated one that is not in the turns before."""
    named = {item["item_id"] for turn in turns for item in turn["items"]}
    item_id, title = next(row for row in ITEMS.select("item_id", "title").iter_rows() if row[0] not in named)
    return {"text": f"Have you seen {title}?", "items": [item_id]}
