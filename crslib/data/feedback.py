"""Ratings of any size, in DuckDB: what is read, left out and counted, and how it is written.

A file is read once into a sorted Parquet file, in which all else is counted. Only where a row has to be named, or a
user has an item twice, is it read again. Knows nothing of items but their ids.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from crslib.data.readers import Opened, Workspace, literal
from crslib.data.source import Feedback
from crslib.errors import CrsError

Kind = Literal["marks", "counts", "presence"]
Duplicates = Literal["last", "first", "mean"]

_ODD = -1
_ORDER = "ORDER BY user_id, item_id"
_LAST = 1 << 32  # of the seconds since 1970, in the year 2106
_NUMBER = "TRY_CAST(rating AS DOUBLE)"
# From a number of seconds, milli-, micro- or nanoseconds, an ISO time or a few written forms.
_SECONDS = """
    CASE WHEN regexp_matches(rated_at, '^[0-9]{4}-') THEN epoch(TRY_CAST(rated_at AS TIMESTAMPTZ))
         WHEN regexp_matches(rated_at, '^[A-Z0-9].*[0-9]{4}$') AND rated_at LIKE '% %'
         THEN epoch(TRY_STRPTIME(rated_at, ['%a %b %d %H:%M:%S %z %Y', '%m %d, %Y', '%B %d, %Y', '%b %d, %Y']))
         ELSE TRY_CAST(rated_at AS DOUBLE) / CASE WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e17 THEN 1e9
                                                  WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e14 THEN 1e6
                                                  WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e11 THEN 1e3 ELSE 1 END END
"""
_TIME = f"""
    CASE WHEN TRY_CAST(rated_at AS BIGINT) BETWEEN 0 AND {_LAST} THEN TRY_CAST(rated_at AS BIGINT)
         WHEN ({_SECONDS}) BETWEEN 0 AND {_LAST} THEN floor({_SECONDS})::BIGINT END
"""


class Ratings:
    """The rows of a file as a sorted Parquet file in the workspace: user_id, item_id, rating, rated_at (seconds; `_ODD`
    where a time is given that cannot be read)."""

    def __init__(self, work: Workspace, opened: Opened, columns: Mapping[str, str], kind: Kind) -> None:
        """`columns`: user_id, item_id, rating and perhaps rated_at → column of the file.

        Raises `CrsError` for the first row in which a value is missing or no number, for a file without rows, and where
        no time at all can be read.
        """
        self.con, self._opened, self._columns, self._kind = work.con, opened, columns, kind
        self._path = work.folder / "ratings.parquet"
        to = f"TO {literal(str(self._path))} (FORMAT parquet, COMPRESSION zstd)"
        opened.run(self.con, columns, lambda rows: f"COPY ({self._typed(rows, odd=_ODD)} {_ORDER}) {to}")
        self._rows = f"read_parquet({literal(str(self._path))})"
        self._check()

    def _check(self) -> None:
        least = "rating < 0" if self._kind == "counts" else "false"
        n, n_bad, n_given, n_times = self.con.sql(
            f"""
            SELECT count(*), count(*) FILTER (user_id IS NULL OR item_id IS NULL OR rating IS NULL
                                              OR NOT isfinite(rating) OR {least}),
                   count(rated_at), count(*) FILTER (rated_at <> {_ODD}) FROM {self._rows}
            """
        ).fetchall()[0]
        self.n = n
        if not n:
            raise CrsError(f"{self._opened.label} has no rows below its header; check that it is the right file")
        if n_bad:
            raise self._first_wrong()
        if n_given and not n_times:
            row, cell = self._first("rated_at IS NOT NULL", "rated_at")
            raise CrsError(
                f"{self._opened.label}, row {row}: rated_at {cell!r} is neither seconds since 1970 nor an ISO time, "
                "and no other row has one; convert the column or leave it out"
            )

    def _first_wrong(self) -> CrsError:
        wrong = {"user_id": "user_id IS NULL", "item_id": "item_id IS NULL"}
        if self._kind != "presence":
            wrong |= {"rating": f"rating IS NULL OR {_NUMBER} IS NULL OR NOT isfinite({_NUMBER})"}
        if self._kind == "counts":
            wrong["rating"] += f" OR {_NUMBER} < 0"
        for name, condition in wrong.items():
            row, cell = self._first(condition, name)
            if row and cell is None:
                return CrsError(f"{self._opened.label}, row {row}: {name} is missing; fill it in or delete the row")
            if row:
                break
        what = "a count" if self._kind == "counts" else "a finite number"
        place = f"{self._opened.label}, row {row}"
        return CrsError(f"{place}: {name} {cell!r} is not {what}; correct it or delete the row")

    def _first(self, condition: str, name: str) -> tuple[int, str | None]:
        """The number of the first row that meets a condition (0: none), and the beginning of its cell of column
        `name`."""
        self._load_text()
        found = self.con.sql(f"SELECT rowid + 1, {name} FROM text WHERE {condition} ORDER BY rowid LIMIT 1").fetchall()
        row, cell = found[0] if found else (0, None)
        return row, cell and cell[:60]

    def _load_text(self) -> None:
        """Table `text`: the rows of the file as they are, in its order."""
        self._opened.load(self.con, self._columns, "text")

    def says(self, no_rating: float | Literal["none"] | None) -> Feedback:
        """The kind of feedback; of marks with the lowest and highest but for the one that means "not rated".

        Raises `CrsError` where some are 0 beside marks from 1 on and nobody said what 0 means.
        """
        if self._kind != "marks":
            return Feedback(kind=self._kind)
        marks = self.con.sql(f"SELECT rating, count(*) FROM {self._rows} GROUP BY rating").fetchall()
        number = dict(marks)
        rated = sorted(mark for mark in number if mark != no_rating)
        label = self._opened.label
        if not rated:
            raise CrsError(
                f"{label}: every rating is {no_rating:g}, which --no-rating leaves out; leave that option out"
            )
        if no_rating is None and rated[0] == 0 and rated[-1] >= 3 and rated[1] >= 1:
            raise CrsError(
                f"{label}: {number[0]:,} of {self.n:,} ratings are 0, beside ratings from {rated[1]:g} to "
                f"{rated[-1]:g}; say --no-rating 0 where 0 means not rated, or --no-rating none where 0 is a mark"
            )
        none = None if no_rating == "none" else no_rating
        return Feedback(kind="marks", low=rated[0], high=rated[-1], none=none)

    def per_item(self, says: Feedback) -> pl.DataFrame:
        """`item_id`, `n_ratings`, `n_odd` (times that are given and cannot be read) of the rows that say something."""
        return self.con.sql(
            f"""
            SELECT item_id, count(*)::INTEGER AS n_ratings, count(*) FILTER (rated_at = {_ODD}) AS n_odd
            FROM {self._rows} WHERE {_rated(says)} GROUP BY item_id ORDER BY item_id
            """
        ).pl()

    def write(self, known: pl.DataFrame, says: Feedback, duplicates: Duplicates | None, path: Path) -> int:
        """Writes table `ratings` of the items in `known` (column `item_id`) to the Parquet file `path`, sorted by user
        and item; returns the number of duplicates left out.

        A count n becomes the weight log(1 + n) / log(1 + the user's greatest n), between 0 and 1: presence with weight.
        Of an item that a user has more than once `duplicates` says what stays: the last or the first (by time, then by
        row), or the mean rating with the last time; of presence the last. Raises `CrsError` where nothing says so.
        """
        self.con.register("known_items", known.select("item_id").to_arrow())
        kept = f"{_rated(says)} AND item_id IN (SELECT item_id FROM known_items)"
        rows = f"SELECT user_id, item_id, rating, nullif(rated_at, {_ODD}) AS rated_at FROM {self._rows}"
        if int(known["n_ratings"].sum()) == self.n and not known["n_odd"].sum():
            shutil.copyfile(self._path, path)
        else:
            self._copy(f"{rows} WHERE {kept} {_ORDER}", path)
        written = f"read_parquet({literal(str(path))})"
        again = "user_id = lag(user_id) OVER () AND item_id = lag(item_id) OVER ()"
        (n_again,) = self.con.sql(
            f"SELECT count(*) FILTER (again) FROM (SELECT {again} AS again FROM {written})"
        ).fetchall()[0]
        if n_again and not duplicates and says.kind != "presence":
            raise CrsError(self._twice(kept))
        rows = self._once(kept, duplicates or "last") if n_again else f"{rows} WHERE {kept}"
        if says.kind == "counts":
            weight = "ln(1 + rating) / ln(1 + max(rating) OVER (PARTITION BY user_id))"
            rows = f"SELECT user_id, item_id, {weight} AS rating, rated_at FROM ({rows})"
        if n_again or says.kind == "counts":
            self._copy(f"{rows} {_ORDER}", path)
        return int(n_again)

    def _copy(self, query: str, path: Path) -> None:
        self.con.sql(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)")

    def _typed(self, rows: str, odd: int | None = None) -> str:
        """A query of `rows`, which are text, as values. `odd`: for times that cannot be read."""
        value = "1.0::DOUBLE" if self._kind == "presence" else _NUMBER
        time = f"CASE WHEN rated_at IS NOT NULL THEN coalesce({_TIME}, {'NULL' if odd is None else odd}) END"
        time = time if "rated_at" in self._columns else "NULL::BIGINT"
        return f"SELECT * REPLACE ({value} AS rating, {time} AS rated_at) FROM ({self._with_time(rows)})"

    def _with_time(self, rows: str) -> str:
        return rows if "rated_at" in self._columns else f"SELECT *, NULL::VARCHAR AS rated_at FROM ({rows})"

    def _once(self, kept: str, duplicates: Duplicates) -> str:
        """A query of the rows that are `kept`, each user and item once."""
        self._load_text()
        rows = self._typed("SELECT *, rowid AS row FROM text")
        order = "ORDER BY rated_at NULLS FIRST, row"
        picked = {
            "last": f"last(rating {order}) AS rating, last(rated_at {order}) AS rated_at",
            "first": f"first(rating {order}) AS rating, first(rated_at {order}) AS rated_at",
            "mean": f"avg(rating {order}) AS rating, max(rated_at) AS rated_at",
        }[duplicates]
        return f"SELECT user_id, item_id, {picked} FROM ({rows}) WHERE {kept} GROUP BY user_id, item_id"

    def _twice(self, kept: str) -> str:
        """The sentence for the first row whose user and item an earlier row has."""
        self._load_text()
        rows = self._typed("SELECT *, rowid + 1 AS row FROM text")
        user, item, first, second = self.con.sql(
            f"""
            WITH twice AS (SELECT user_id, item_id, list_sort(list(row)) AS rows FROM ({rows}) WHERE {kept}
                           GROUP BY user_id, item_id HAVING count(*) > 1)
            SELECT user_id, item_id, rows[1], rows[2] FROM twice ORDER BY rows[2] LIMIT 1
            """
        ).fetchall()[0]
        return (
            f"{self._opened.label}, rows {first} and {second}: user {user!r} rates item {item!r} twice; keep one of "
            "the rows, or say --duplicates last, first or mean"
        )

    def statistics(self, path: Path) -> tuple[pl.DataFrame, int]:
        """`item_id`, `n_ratings`, `mean_rating` of a written table of ratings, and the number of its users."""
        rows = f"read_parquet({literal(str(path))})"
        self.con.sql("SET threads = 1")  # the last bits of float sums are always the same
        means = self.con.sql(
            f"""
            SELECT item_id, count(*)::INTEGER AS n_ratings, avg(rating) AS mean_rating
            FROM {rows} GROUP BY item_id ORDER BY item_id
            """
        ).pl()
        self.con.sql("RESET threads")
        (n_users,) = self.con.sql(f"SELECT count(DISTINCT user_id) FROM {rows}").fetchall()[0]
        return means, n_users


def _rated(says: Feedback) -> str:
    """The condition that a row says something."""
    if says.kind == "counts":
        return "rating > 0"
    return f"rating <> {says.none!r}" if says.none is not None else "true"
