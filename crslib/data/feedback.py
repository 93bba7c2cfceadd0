"""Ratings of any size, in DuckDB: what is read, left out and counted, and how it is written.

A file is read once into a table of numbers, in which all else is counted; its text is read again only where a row has
to be named. Knows nothing of items but their ids.
"""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from crslib.data import numbers
from crslib.data.readers import Opened, Workspace
from crslib.data.source import Feedback
from crslib.errors import CrsError

Kind = Literal["marks", "counts", "presence"]
Duplicates = Literal["last", "first", "mean"]

IN_MEMORY = 16_000_000  # rows that are sorted in memory, which takes 60 bytes each, beside what DuckDB keeps of them
NUMBERS_IN_MEMORY = 40_000_000  # rows of a file of numbers, of which DuckDB keeps nothing
BATCHES = 8  # of DuckDB, of up to 122,880 rows each, in a row group of the written file
PART = BATCHES * 122_880  # rows of a row group that are sorted in memory
_ODD = -1
_BITS = 63  # of a number that is sorted
_DENSE = 1 << 24  # codes below it are looked up in a table
_LAST = 1 << 32  # of the seconds since 1970, in the year 2106
_NUMBER = "TRY_CAST(rating AS DOUBLE)"
_SCALED = """
    TRY_CAST(rated_at AS DOUBLE) / CASE WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e17 THEN 1e9
                                        WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e14 THEN 1e6
                                        WHEN TRY_CAST(rated_at AS DOUBLE) >= 1e11 THEN 1e3 ELSE 1 END
"""
# From a number of seconds, milli-, micro- or nanoseconds, an ISO time or a few written forms.
_SECONDS = f"""
    CASE WHEN regexp_matches(rated_at, '^[0-9]{{4}}-') THEN epoch(TRY_CAST(rated_at AS TIMESTAMPTZ))
         WHEN regexp_matches(rated_at, '^[A-Z0-9].*[0-9]{{4}}$') AND rated_at LIKE '% %'
         THEN epoch(TRY_STRPTIME(rated_at, ['%a %b %d %H:%M:%S %z %Y', '%m %d, %Y', '%B %d, %Y', '%b %d, %Y']))
         ELSE {_SCALED} END
"""


def _time(seconds: str) -> str:
    """The seconds since 1970 in rated_at; null: none, `_ODD`: what is there cannot be read."""
    return f"""
        CASE WHEN rated_at IS NULL THEN NULL
             WHEN TRY_CAST(rated_at AS BIGINT) BETWEEN 0 AND {_LAST} THEN TRY_CAST(rated_at AS BIGINT)
             WHEN ({seconds}) BETWEEN 0 AND {_LAST} THEN floor({seconds})::BIGINT ELSE {_ODD} END
    """


@dataclass(frozen=True)
class Written:
    """`items`: `item_id`, `n_ratings`, `mean_rating` of a written table of ratings, sorted by id; the number of its
    users, and of duplicates that were left out."""

    items: pl.DataFrame
    n_users: int
    n_again: int


class Ratings:
    """The rows of a file as table `rows` of the workspace: u, i, rating, rated_at (seconds; `_ODD` where a time is
    given that cannot be read), and tables `users` and `items`: code (u or i), id, place (its rank among the ids, which
    are text)."""

    def __init__(self, work: Workspace, opened: Opened, columns: Mapping[str, str], kind: Kind) -> None:
        """`columns`: user_id, item_id, rating and perhaps rated_at → column of the file.

        Raises `CrsError` for the first row in which a value is missing or no number, for a file without rows, and where
        no time at all can be read.
        """
        self.con, self._opened, self._columns, self._kind = work.con, opened, columns, kind
        self._has_text, self._most = False, IN_MEMORY
        if not self._load_plain() and not self._load_numbers():
            self._load_ids()
        self._check()

    def _load_plain(self) -> bool:
        """Loads `rows` of a file that can be read as numbers at once. False where it cannot."""
        without = ("rating",) if self._kind == "presence" else ()
        picked = {name: column for name, column in self._columns.items() if name not in without}
        if (frame := numbers.read(self._opened, picked)) is None:
            return False
        self._numbers, self._most = frame.to_arrow(), NUMBERS_IN_MEMORY  # DuckDB reads it where it lies
        self.con.register("numbers", self._numbers)
        value = "1.0::DOUBLE" if without else "rating"
        time = _time(_SCALED) if "rated_at" in picked else "NULL::BIGINT"
        self.con.sql(
            f"""
            CREATE OR REPLACE TEMP VIEW rows AS
            SELECT user_id AS u, item_id AS i, {value} AS rating, {time} AS rated_at, row FROM numbers
            """
        )
        self._code()
        self._rows = "rows"
        return True

    def _load_numbers(self) -> bool:
        """Loads `rows` of a file whose ids are whole numbers, as in most data sets: they are their own codes, and no
        text is kept. False where another id, mark or time is among them."""
        whole = "CASE WHEN {0}::BIGINT::VARCHAR = {0} THEN {0}::BIGINT ELSE error('007 is not 7') END"
        times = "rated_at::BIGINT" if "rated_at" in self._columns else "NULL::BIGINT"
        value = "1.0::DOUBLE" if self._kind == "presence" else "rating::DOUBLE"
        read = f"{whole.format('user_id')} AS u, {whole.format('item_id')} AS i, {value} AS rating, {times}"
        cells = self._opened.query(self._columns, trimmed=False)
        try:
            self.con.sql(
                f"""
                CREATE OR REPLACE TABLE rows AS SELECT u, i, rating, {_time(_SCALED)} AS rated_at
                FROM (SELECT {read} AS rated_at FROM ({cells}))
                """
            )
        except duckdb.Error:
            return False
        self._code()
        self._rows = "(SELECT *, rowid AS row FROM rows)"
        return True

    def _code(self) -> None:
        """Makes `users` and `items` of `rows` whose ids are numbers."""
        for name, code in (("users", "u"), ("items", "i")):
            self.con.sql(
                f"""
                CREATE OR REPLACE TABLE {name} AS
                SELECT code, code::VARCHAR AS id, row_number() OVER (ORDER BY code::VARCHAR) - 1 AS place
                FROM (SELECT DISTINCT {code} AS code FROM rows) ORDER BY place
                """
            )

    def _load_ids(self) -> None:
        """Loads `rows` of any file; the codes of its ids are their places."""
        self._load_text()
        for name, column in (("users", "user_id"), ("items", "item_id")):
            self.con.sql(
                f"""
                CREATE OR REPLACE TABLE {name} AS
                SELECT row_number() OVER (ORDER BY id) - 1 AS code, id, code AS place
                FROM (SELECT DISTINCT {column} AS id FROM text) WHERE id IS NOT NULL ORDER BY place
                """
            )
        value = "1.0::DOUBLE" if self._kind == "presence" else _NUMBER
        time = _time(_SECONDS) if "rated_at" in self._columns else "NULL::BIGINT"
        self.con.sql(
            f"""
            CREATE OR REPLACE TABLE rows AS
            SELECT users.code AS u, items.code AS i, {value} AS rating, {time} AS rated_at, text.rowid AS row
            FROM text LEFT JOIN users ON users.id = user_id LEFT JOIN items ON items.id = item_id
            """
        )
        self._rows = "rows"

    def _check(self) -> None:
        least = "rating < 0" if self._kind == "counts" else "false"
        n, n_bad, n_given, n_times = self.con.sql(
            f"""
            SELECT count(*), count(*) FILTER (u IS NULL OR i IS NULL OR rating IS NULL OR NOT isfinite(rating)
                                              OR {least}),
                   count(rated_at), count(*) FILTER (rated_at <> {_ODD}) FROM rows
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
        if not self._has_text:
            self._opened.load(self.con, self._columns, "text")
            self._has_text = True

    def says(self, no_rating: float | Literal["none"] | None) -> Feedback:
        """The kind of feedback; of marks with the lowest and highest but for the one that means "not rated".

        Raises `CrsError` where some are 0 beside marks from 1 on and nobody said what 0 means.
        """
        if self._kind != "marks":
            return Feedback(kind=self._kind)
        marks = self.con.sql("SELECT rating, count(*) FROM rows GROUP BY rating").fetchall()
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
            SELECT id AS item_id, n_ratings, n_odd FROM items JOIN (
                SELECT i AS code, count(*)::INTEGER AS n_ratings, count(*) FILTER (rated_at = {_ODD}) AS n_odd
                FROM rows WHERE {_rated(says)} GROUP BY i
            ) USING (code) ORDER BY item_id
            """
        ).pl()

    def write(self, known: pl.DataFrame, says: Feedback, duplicates: Duplicates | None, path: Path) -> Written:
        """Writes table `ratings` of the items in `known` (column `item_id`) to the Parquet file `path`, sorted by user
        and item.

        A count n becomes the weight log(1 + n) / log(1 + the user's greatest n), between 0 and 1: presence with weight.
        Of an item that a user has more than once `duplicates` says what stays: the last or the first (by time, then by
        row), or the mean rating with the last time; of presence the last. Raises `CrsError` where nothing says so.
        """
        self.con.register("known_items", known.select("item_id").to_arrow())
        known_codes = "SELECT code FROM items WHERE id IN (SELECT item_id FROM known_items)"
        kept = f"{_rated(says)} AND i IN ({known_codes})"
        rows = f"SELECT u, i, rating, nullif(rated_at, {_ODD}) AS rated_at FROM rows WHERE {kept}"
        written = self._write(_weighed(rows, says), path)
        if not written.n_again:
            return written
        if not duplicates and says.kind != "presence":
            raise CrsError(self._twice(kept))
        n_again = written.n_again
        written = self._write(_weighed(self._once(kept, duplicates or "last"), says), path)
        return Written(written.items, written.n_users, n_again)

    def _write(self, rows: str, path: Path) -> Written:
        """Writes the rows of a query of u, i, rating, rated_at to a Parquet file, and counts in them."""
        ids = self.con.cursor()  # a query of its own while the rows are read
        item_ids = _ids(ids, "items")
        n, total = np.zeros(len(item_ids), np.int64), np.zeros(len(item_ids))
        n_users = n_again = 0
        last = (-1, -1)
        text = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema({"user_id": text, "item_id": text, "rating": pa.float64(), "rated_at": pa.int64()}.items())
        packing = {"use_dictionary": ["user_id", "item_id", "rating"], "write_statistics": False, "store_schema": False}
        packing["column_encoding"] = {"rated_at": "DELTA_BINARY_PACKED"}
        with pq.ParquetWriter(path, schema, compression="zstd", **packing) as writer, ThreadPoolExecutor(1) as beside:
            writing: Future[None] | None = None  # of the part before, while the next one is made
            for table in self._sorted(rows):
                user, item, rating = (table[name].to_numpy() for name in ("user", "item", "rating"))
                same = user[1:] == user[:-1]
                n_users += int(np.count_nonzero(~same)) + int(user[0] != last[0])
                n_again += int(np.count_nonzero(same & (item[1:] == item[:-1]))) + int((user[0], item[0]) == last)
                last = (int(user[-1]), int(item[-1]))
                np.add.at(n, item, 1)
                np.add.at(total, item, rating)  # row by row: its last bits do not depend on the batches
                first, most = int(user[0]), int(user[-1])
                user_ids = _named(_ids(ids, "users", f"WHERE place BETWEEN {first} AND {most}"), user - first)
                columns = [user_ids, _named(item_ids, item), table["rating"], table["rated_at"]]
                if writing:
                    writing.result()
                writing = beside.submit(writer.write_table, pa.table(columns, schema=schema))
            if writing:
                writing.result()
        counted = {
            "item_id": pl.Series(item_ids),
            "n_ratings": n.astype(np.int32),
            "mean_rating": total / np.maximum(n, 1),
        }
        return Written(pl.DataFrame(counted).filter(pl.col("n_ratings") > 0), n_users, n_again)

    def _sorted(self, rows: str) -> Iterator[pa.Table]:
        """The rows of a query of u, i, rating, rated_at by user and item, in parts: user and item (places), rating and
        rated_at. In memory where they fit, which is faster."""
        users, items = (
            self.con.sql(f"SELECT code, place FROM {name} ORDER BY code").pl() for name in ("users", "items")
        )
        bits = [n.bit_length() for n in (len(users), len(items), self.n)]
        if self.n > self._most or sum(bits) > _BITS:
            found = self.con.sql(
                f"""
                SELECT users.place AS user, items.place AS item, rating, rated_at
                FROM ({rows}) JOIN users ON users.code = u JOIN items ON items.code = i ORDER BY user, item
                """
            ).to_arrow_reader()
            while batches := list(itertools.islice(found, BATCHES)):
                yield pa.Table.from_batches(batches).combine_chunks()
            return
        # User, item and row in one number: what is sorted is as small as it can be, and equal rows stay in order.
        _, of_items, of_rows = bits
        frame = self.con.sql(rows).pl()
        key = _places(users, frame["u"]) << (of_items + of_rows)
        key |= _places(items, frame["i"]) << of_rows
        key |= np.arange(len(frame))
        key = pl.Series(key).sort().to_numpy()
        frame = frame.select("rating", "rated_at")
        for start in range(0, len(key), PART):
            part = key[start : start + PART]
            user, item = part >> (of_items + of_rows), (part >> of_rows) & ((1 << of_items) - 1)
            values = frame.select(pl.all().gather(part & ((1 << of_rows) - 1)))
            yield pa.table({"user": user, "item": item, **{name: values[name].to_arrow() for name in values.columns}})

    def _once(self, kept: str, duplicates: Duplicates) -> str:
        """A query of the rows that are `kept`, each user and item once."""
        order = "ORDER BY rated_at NULLS FIRST, row"
        picked = {
            "last": f"last(rating {order}) AS rating, last(rated_at {order}) AS rated_at",
            "first": f"first(rating {order}) AS rating, first(rated_at {order}) AS rated_at",
            "mean": f"avg(rating {order}) AS rating, max(rated_at) AS rated_at",
        }[duplicates]
        rows = f"SELECT * REPLACE (nullif(rated_at, {_ODD}) AS rated_at) FROM {self._rows} WHERE {kept}"
        return f"SELECT u, i, {picked} FROM ({rows}) GROUP BY u, i"

    def _twice(self, kept: str) -> str:
        """The sentence for the first row whose user and item an earlier row has."""
        user, item, first, second = self.con.sql(
            f"""
            WITH twice AS (SELECT u, i, list_sort(list(row + 1)) AS rows FROM {self._rows} WHERE {kept}
                           GROUP BY u, i HAVING count(*) > 1)
            SELECT users.id, items.id, rows[1], rows[2]
            FROM twice JOIN users ON users.code = u JOIN items ON items.code = i ORDER BY rows[2] LIMIT 1
            """
        ).fetchall()[0]
        return (
            f"{self._opened.label}, rows {first} and {second}: user {user!r} rates item {item!r} twice; keep one of "
            "the rows, or say --duplicates last, first or mean"
        )


def _ids(con: duckdb.DuckDBPyConnection, table: str, where: str = "") -> pa.Array:
    """The ids in `users` or `items`, by place."""
    return con.sql(f"SELECT id FROM {table} {where} ORDER BY place").to_arrow_table()["id"].combine_chunks()


def _places(table: pl.DataFrame, codes: pl.Series) -> np.ndarray:
    """The place of each of `codes` in a table of code and place that is sorted by code."""
    code, place = table["code"].to_numpy(), table["place"].to_numpy()
    if len(code) and code[0] >= 0 and code[-1] < _DENSE:
        of = np.zeros(code[-1] + 1, np.int64)
        of[code] = place
        return of[codes.to_numpy()]
    return place[np.searchsorted(code, codes.to_numpy())]


def _named(ids: pa.Array, places: np.ndarray) -> pa.DictionaryArray:
    """The ids at `places`, as a dictionary that has no others."""
    used = np.zeros(len(ids), bool)
    used[places] = True
    codes = (np.cumsum(used) - 1).astype(np.int32)[places]
    return pa.DictionaryArray.from_arrays(codes, ids.take(np.flatnonzero(used)).cast(pa.string()))


def _weighed(rows: str, says: Feedback) -> str:
    """A query of `rows` in which counts are weights."""
    if says.kind != "counts":
        return rows
    weight = "ln(1 + rating) / ln(1 + max(rating) OVER (PARTITION BY u))"
    return f"SELECT u, i, {weight} AS rating, rated_at FROM ({rows})"


def _rated(says: Feedback) -> str:
    """The condition that a row says something."""
    if says.kind == "counts":
        return "rating > 0"
    return f"rating <> {says.none!r}" if says.none is not None else "true"
