"""Two metrics of one's own: what they get, and what they may return.

`crs run -p metrics=python:data/protocol/own_metrics.py:thanks,early`, and so for `crs evaluate`. In the report they are
a family of their own, and comparisons have them beside all others.
"""

import polars as pl

from crslib.metrics import Frames, metric


def thanks(frames: Frames) -> pl.DataFrame:
    """Share of the user's turns that thank."""
    return frames.turns.filter(role="user").select("dialogue_id", value=pl.col("text").str.contains(r"(?i)\bthank"))


@metric("First title", unit="turns", direction="lower")
def early(frames: Frames) -> pl.DataFrame:
    """The number of turns before the recommender's first one that names an item; a dialogue without one has none."""
    named = frames.turns.filter(pl.col("items").list.len() > 0, role="recommender")
    return named.group_by("dialogue_id").agg(value=pl.col("turn").min())
