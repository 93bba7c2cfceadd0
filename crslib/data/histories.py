"""Rating histories: what of each is visible and what is hidden, and each person's own scale.

Knows ratings only: nothing of items, profiles or attributes.
"""

from collections.abc import Mapping
from typing import Any

import duckdb
import polars as pl

from crslib import schemas
from crslib.errors import CrsError

SD_FLOOR = 0.5  # one half-star step: below it a spread is noise, and z would blow it up


def query(sql: str, frames: Mapping[str, pl.DataFrame], params: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """The result of one DuckDB query over named frames; `$name` in `sql` stands for a value of `params`.

    One thread, so that float sums have the same last bits each time; `sql` has to say ORDER BY.
    """
    with duckdb.connect() as con:
        con.sql("SET threads = 1")
        for name, frame in frames.items():
            con.register(name, frame.to_arrow())
        return con.sql(sql, params=dict(params or {})).pl()


def split(ratings: pl.DataFrame, holdout_share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `ratings` in two parts, `(visible, hidden)`, both sorted by user and item.

    Hidden are, of a user's n ratings, the latest floor(n · holdout_share); a share below 1 leaves everyone something
    visible. Ratings of unknown time count as the earliest; among equal or unknown times a hash of user and item
    decides, never the order of the rows. A user's split depends on that user's ratings alone.

    Raises `CrsError` for a share outside 0 to 1, for a rating that is not a number, and for an item that a user rated
    twice (its later rating would be hidden and its earlier one not).
    """
    if not 0 < holdout_share < 1:
        raise CrsError(f"holdout_share = {holdout_share} is not between 0 and 1; 0.2 hides the latest fifth")
    ratings = schemas.check(ratings, "ratings").sort("user_id", "item_id")
    broken = ratings.filter(pl.col("rating").is_finite().not_().fill_null(True))
    if broken.height:
        user, item, rating, _ = broken.row(0)
        raise CrsError(f"the rating of item {item!r} by user {user!r} is {rating}; it must be a finite number")
    twice = ratings.filter(pl.struct("user_id", "item_id").is_duplicated())
    if twice.height:
        user, item, _, _ = twice.row(0)
        raise CrsError(f"user {user!r} rated item {item!r} more than once; keep one rating of each user and item")
    ranked = query(
        """
        SELECT *, row_number() OVER history AS place, count(*) OVER (PARTITION BY user_id) AS n
        FROM ratings
        WINDOW history AS (PARTITION BY user_id ORDER BY rated_at NULLS FIRST, md5(user_id || item_id), item_id)
        ORDER BY user_id, item_id
        """,
        {"ratings": ratings},
    )
    # 1e-9: 0.29 · 100 is 28.999… in floating point.
    n_hidden = (pl.col("n") * holdout_share + 1e-9).floor()
    hidden = pl.col("place") > pl.col("n") - n_hidden
    columns = list(schemas.TABLES["ratings"])
    return ranked.filter(~hidden).select(columns), ranked.filter(hidden).select(columns)


def scales(visible: pl.DataFrame) -> pl.DataFrame:
    """Each user's own scale from visible ratings: `user_id`, `n`, `mean`, `sd` (population), sorted by user."""
    return query(
        """
        SELECT user_id, count(*) AS n, avg(rating) AS mean, stddev_pop(rating) AS sd
        FROM visible GROUP BY user_id ORDER BY user_id
        """,
        {"visible": visible.sort("user_id", "item_id")},
    )


def standardise(ratings: pl.DataFrame, scales: pl.DataFrame) -> pl.DataFrame:
    """`ratings` with `z` = (rating - mean) / max(sd, 0.5) and `liked` on each user's own scale, sorted by user, item.

    `liked` is a rating at or above the user's mean; so where people only ever say one thing (implicit feedback),
    they like it. Ratings of users without a scale are left out.
    """
    return query(
        """
        SELECT ratings.*, (rating - mean) / greatest(sd, $floor) AS z, rating >= mean - 1e-9 AS liked
        FROM ratings JOIN scales USING (user_id) ORDER BY user_id, item_id
        """,
        {"ratings": ratings, "scales": scales},
        {"floor": SD_FLOOR},
    )
