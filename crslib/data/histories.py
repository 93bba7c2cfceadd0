"""Rating histories: their visible and hidden part, and each user's own scale.

Knows ratings only, nothing of items, profiles or attributes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import polars as pl

from crslib import schemas
from crslib.errors import CrsError

PART = 2_000_000  # ratings that are split at a time
DISLIKED = -1.0  # z of at most this: what a summary and a note may call disliked
SD_FLOOR = 0.5  # one half-star step: a smaller spread is noise, which z would magnify


def query(sql: str, frames: Mapping[str, pl.DataFrame], params: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """The result of one DuckDB query over named frames; `$name` in `sql` is a value of `params`.

    One thread, so that the last bits of float sums are always the same. `sql` needs ORDER BY, or the order varies.
    """
    with duckdb.connect() as con:
        con.sql("SET threads = 1")
        for name, frame in frames.items():
            con.register(name, frame.to_arrow())
        return con.sql(sql, params=dict(params or {})).pl()


def split(ratings: pl.DataFrame, holdout_share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Table `ratings` in two parts, `(visible, hidden)`, both sorted by user and item.

    Of a user's n ratings the latest floor(n · holdout_share) are hidden; every user keeps a visible one. Ratings of
    unknown time count as the earliest; among equal or unknown times a hash of user and item decides, so that the order
    of the rows does not matter. A user's split depends on that user's ratings alone.

    Raises `CrsError` for a share outside 0 to 1, for a rating that is not a number, and for an item that a user rated
    twice (its later rating would be hidden and its earlier one not).
    """
    if not 0 < holdout_share < 1:
        raise CrsError(f"holdout_share = {holdout_share} is not between 0 and 1; 0.2 hides the latest fifth")
    ratings = in_order(schemas.check(ratings, "ratings"))
    parts = [_split(part, holdout_share) for part in by_users(ratings)]
    visible, hidden = (pl.concat(side) for side in zip(*parts, strict=True))
    return visible, hidden


def _split(ratings: pl.DataFrame, holdout_share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`split` of some users' ratings, sorted by user and item."""
    invalid = ratings.filter(pl.col("rating").is_finite().not_().fill_null(True))
    if invalid.height:
        user, item, rating, _ = invalid.row(0)
        raise CrsError(f"the rating of item {item!r} by user {user!r} is {rating}; it must be a finite number")
    duplicates = ratings.filter(pl.struct("user_id", "item_id").is_duplicated())
    if duplicates.height:
        user, item, _, _ = duplicates.row(0)
        raise CrsError(f"user {user!r} rated item {item!r} more than once; keep one rating of each user and item")
    ranked = query(
        """
        SELECT *, row_number() OVER history AS position, count(*) OVER (PARTITION BY user_id) AS n
        FROM ratings
        WINDOW history AS (PARTITION BY user_id ORDER BY rated_at NULLS FIRST, md5(user_id || item_id), item_id)
        ORDER BY user_id, item_id
        """,
        {"ratings": ratings},
    )
    # 1e-9: 0.29 · 100 is 28.999… in floating point.
    n_hidden = (pl.col("n") * holdout_share + 1e-9).floor()
    hidden = pl.col("position") > pl.col("n") - n_hidden
    columns = list(schemas.TABLES["ratings"])
    return ranked.filter(~hidden).select(columns), ranked.filter(hidden).select(columns)


def in_order(ratings: pl.DataFrame) -> pl.DataFrame:
    """Table `ratings` by user and item; the table itself, and no copy, where it is written so."""
    ordered = all(_ordered(ratings.slice(start, PART + 1)) for start in range(0, ratings.height, PART))
    return ratings if ordered else ratings.sort("user_id", "item_id")


def _ordered(ratings: pl.DataFrame) -> bool:
    first, second = ratings.slice(0, max(ratings.height - 1, 0)), ratings.slice(1)
    same = first["user_id"] == second["user_id"]
    return bool(((first["user_id"] < second["user_id"]) | (same & (first["item_id"] <= second["item_id"]))).all())


def by_users(ratings: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Parts of some `PART` rows of a table sorted by user, each with all rows of its users: what is done with one takes
    little memory. One part of a table without rows."""
    start = 0
    while start < ratings.height or not start:
        end = min(start + PART, ratings.height)
        if end < ratings.height:
            end = ratings["user_id"].slice(end).search_sorted(ratings["user_id"][end - 1], side="right") + end
        yield ratings.slice(start, end - start)
        if not ratings.height:
            return
        start = end


def rescaled(training: pl.DataFrame, hidden: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Weights of counts relative to the largest of the user's `training` rows alone, at most 1.

    `feedback.Ratings.write` has them relative to all rows, so a large hidden count would make the visible ones small.
    """
    most = training.group_by("user_id").agg(pl.col("rating").max().alias("most"))

    def of(rows: pl.DataFrame) -> pl.DataFrame:
        weight = (pl.col("rating") / pl.col("most").fill_null(1.0)).clip(upper_bound=1.0)
        joined = rows.join(most, on="user_id", how="left", maintain_order="left")
        return joined.with_columns(weight.alias("rating")).drop("most")

    return of(training), of(hidden)


def scales(visible: pl.DataFrame) -> pl.DataFrame:
    """Each user's own scale from visible ratings: `user_id`, `n`, `mean`, `sd` (population), sorted by user."""
    sql = """
        SELECT user_id, count(*) AS n, avg(rating) AS mean, stddev_pop(rating) AS sd
        FROM visible GROUP BY user_id ORDER BY user_id
        """
    return pl.concat(query(sql, {"visible": part}) for part in by_users(in_order(visible)))


def standardise(ratings: pl.DataFrame, scales: pl.DataFrame, kind: str = "marks") -> pl.DataFrame:
    """`ratings` with `z` = (rating - mean) / max(sd, 0.5) and `liked` on each user's own scale, sorted by user, item.

    `liked`: the rating is at or above the user's mean: of counts, whose ratings are weights, the upper part of the
    user's own; of presence all. `kind`: of `source.Feedback`; only a mark says that something is not liked, so for the
    others a z below 0 is 0. Ratings of users without a scale are left out.
    """
    table = query(
        """
        SELECT ratings.*, (rating - mean) / greatest(sd, $floor) AS z, rating >= mean - 1e-9 AS liked
        FROM ratings JOIN scales USING (user_id) ORDER BY user_id, item_id
        """,
        {"ratings": ratings, "scales": scales},
        {"floor": SD_FLOOR},
    )
    return table if kind == "marks" else table.with_columns(pl.col("z").clip(lower_bound=0.0))
