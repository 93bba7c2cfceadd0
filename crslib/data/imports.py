"""Your own items and ratings as a data folder, checked row by row.

An error names the file, the row (row 1 is the first below the header) and the remedy; nothing is written then. Knows
nothing of profiles and dialogues.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from crslib import schemas
from crslib.data import text_tables
from crslib.data.tables import Imported, write
from crslib.data.titles import split_year
from crslib.dialogue import utterances
from crslib.errors import CrsError

# How files say that a cell has no value. "NA" counts in capitals only: Na is a name.
_PLACEHOLDER = re.compile(r"[-–—.?_*#]+|\\N|NA|N\.A\.?|#N/A|(?i:n/a|null|none|nan)")

_NO_PERSON = re.compile(r"\d+(st|nd|rd|th) |list of |art director|dialogue writer")

# IMDb's words for genres of MovieLens; None: not a genre.
_GENRES = {"children": "family", "children's": "family", "imax": None, "(no genres listed)": None, "unknown": None}


def is_placeholder(cell: str | None) -> bool:
    """Whether a cell, or one of several values in it, stands for no value: `-`, `\\N`, `N/A`, `null`."""
    return cell is not None and _PLACEHOLDER.fullmatch(cell.strip()) is not None


def split_genres(cell: str | None) -> list[str]:
    """Genres separated by `|` or `,` as sorted lower-case words: `Action|Children` is `[action, family]`."""
    words = (utterances.one_line(word).lower() for word in re.split(r"\||,", cell or "") if not is_placeholder(word))
    return sorted({genre for word in words if (genre := _GENRES.get(word, word))})


def split_names(cell: str | None) -> list[str]:
    """The names of persons in a cell, in order: separated by `|` if it has one, else by commas, where "Jr." and "III"
    belong to the name before. Titles of nobility, list pages and some other jobs are left out."""
    names: list[str] = []
    for name in (part.strip() for part in (cell or "").split("|" if "|" in (cell or "") else ",")):
        if names and re.fullmatch(r"[JS]r\.?|I{2,3}|IV", name):
            names[-1] += f", {name}" if name[0] in "JS" else f" {name}"
        elif name and not is_placeholder(name) and not _NO_PERSON.match(name):
            names.append(utterances.one_line(name))
    return list(dict.fromkeys(names))


def import_ratings(ratings: Path, items: Path | None, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from CSV (UTF-8) or Parquet files.

    `ratings` needs columns user_id, item_id and rating; rated_at is optional: seconds since 1970, or ISO times (UTC
    without a time zone). `items` needs item_id and title; year, kinds, makers, people and external_id are optional. The
    year may also be at the end of the title: `Heat (1995)`. Several values in a cell are separated by `|` or `,`, or
    are a Parquet list. Other usual names of columns (userId, movieId, timestamp) are known. Without `items` the items
    are read from the file of ratings.

    Placeholders like `-`, `\\N` and `N/A` are read as not given, and counted.

    Of items with the same title and year only the one with the most ratings is written, because a mention could mean
    either. Raises `CrsError` for the first error in the files.
    """
    rated = text_tables.read(ratings, ratings)
    if items is None:
        remedy = "rename or add it, or give the items in a file of their own"
        described = select_columns(rated, ratings, ("item_id", "title"), ITEM_COLUMNS, remedy).unique(
            "item_id", keep="first", maintain_order=True
        )
    else:
        described = select_columns(text_tables.read(items, items), items, ("item_id", "title"), ITEM_COLUMNS)
    parsed = parse_items(described, items or ratings)
    rated = select_columns(rated, ratings, ("user_id", "item_id", "rating"), ("rated_at",))
    written = write(parsed, parse_ratings(rated, ratings, parsed), folder)
    return replace(written, placeholders=_placeholders(described))


def _placeholders(items: pl.DataFrame) -> int:
    """The number of cells of `ITEM_COLUMNS` with a placeholder."""
    columns = [name for name in ITEM_COLUMNS if name in items.columns]
    cells = (cell for row in items.select(columns).iter_rows() for cell in row if cell)
    return sum(any(map(is_placeholder, re.split(r"\||,", cell))) for cell in cells)


ITEM_COLUMNS = ("year", "kinds", "makers", "people", "external_id")
_ALIASES = {
    "actors": "people",
    "cast": "people",
    "directors": "makers",
    "genres": "kinds",
    "imdbid": "external_id",
    "director": "makers",
    "genre": "kinds",
    "movieid": "item_id",
    "name": "title",
    "timestamp": "rated_at",
}


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def select_columns(
    table: pl.DataFrame,
    label: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    remedy: str = "rename the column that holds it, or add it",
) -> pl.DataFrame:
    """The columns of a table that are `needed` or `optional`, under these names; `_ALIASES` are renamed.

    Raises `CrsError` when a needed column is missing (`remedy`: what to do then), when two columns have one meaning,
    and for a table without rows.
    """
    name_of = {name.replace("_", ""): name for name in (*needed, *optional)}
    name_of |= {alias: name for alias, name in _ALIASES.items() if name in (*needed, *optional)}
    chosen: dict[str, str] = {}
    for column in table.columns:
        name = name_of.get(re.sub(r"[^a-z0-9]", "", column.lower()))
        if name is None:
            continue
        if name in chosen and column != name and chosen[name] != name:
            raise CrsError(f"{label} has columns {chosen[name]!r} and {column!r} for {name}; keep one of them")
        if chosen.get(name) != name:
            chosen[name] = column
    for name in needed:
        if name not in chosen:
            raise CrsError(f"{label} has no column {name}; {remedy} (columns here: {', '.join(table.columns)[:200]})")
    if not table.height:
        raise CrsError(f"{label} has no rows below its header; check that it is the right file")
    return table.select(pl.col(column).alias(name) for name, column in chosen.items())


def _refuse(table: pl.DataFrame, label: Path, bad: pl.Expr, sentence: str) -> None:
    """Raises `CrsError` for the first row in which `bad` is true. `sentence` may contain its cells: `{rating!r}`."""
    rows = table.with_row_index("row", offset=1).filter(bad).head(1)
    for row in rows.iter_rows(named=True):
        cells = {name: str(cell)[:60] for name, cell in row.items()}
        raise CrsError(f"{label}, row {row['row']}: " + sentence.format(**cells))


def parse_ratings(table: pl.DataFrame, label: Path, items: pl.DataFrame) -> pl.DataFrame:
    """Table `ratings` from text columns user_id, item_id, rating and perhaps rated_at.

    Raises `CrsError` for a missing or wrong value, an item that is not in `items`, and an item that a user rates twice.
    """
    for name in ("user_id", "item_id", "rating"):
        _refuse(table, label, pl.col(name).is_null(), f"{name} is missing; fill it in or delete the row")
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    wrong = rating.is_null() | rating.is_finite().not_()
    _refuse(table, label, wrong, "rating {rating!r} is not a finite number; correct it or delete the row")
    pair = pl.struct("user_id", "item_id")
    if not (is_first := table.select(pair.is_first_distinct()).to_series()).all():
        user, item = table.filter(~is_first).select("user_id", "item_id").row(0)
        same = (pl.col("user_id") == user) & (pl.col("item_id") == item)
        first, second = table.with_row_index("row", offset=1).filter(same)["row"].head(2)
        raise CrsError(
            f"{label}, rows {first} and {second}: user {user!r} rates item {item!r} twice; keep one of the rows"
        )
    unknown = pl.col("item_id").is_in(items["item_id"].implode()).not_()
    _refuse(table, label, unknown, "item {item_id!r} is not among the items; add it there or delete the row")
    if "rated_at" not in table.columns:
        table = table.with_columns(pl.lit(None, pl.String).alias("rated_at"))
    seconds = _seconds(table["rated_at"])
    wrong = pl.col("rated_at").is_not_null() & ~seconds.is_between(0, 1 << 32).fill_null(False)
    sentence = "rated_at {rated_at!r} is neither whole seconds since 1970 nor an ISO time; convert it or leave it empty"
    _refuse(table, label, wrong, sentence)
    return table.select("user_id", "item_id", rating, seconds.alias("rated_at"))


def _seconds(texts: pl.Series) -> pl.Series:
    """Seconds since 1970 from whole numbers or ISO times; null where a text is neither."""
    number = texts.cast(pl.Float64, strict=False)
    if number.null_count() == texts.null_count():
        return number.cast(pl.Int64, strict=False)
    with duckdb.connect() as con:
        con.sql("SET threads = 1")
        con.sql("SET TimeZone = 'UTC'")
        con.register("texts", pl.DataFrame({"text": texts}).with_row_index("row").to_arrow())
        iso = con.sql(
            """
            SELECT CASE WHEN regexp_matches(text, '^[0-9]{4}-') THEN epoch(TRY_CAST(text AS TIMESTAMPTZ)) END AS seconds
            FROM texts ORDER BY "row"
            """
        ).pl()["seconds"]
    return pl.select(pl.coalesce(number, iso)).to_series().cast(pl.Int64, strict=False)


def parse_items(table: pl.DataFrame, label: Path) -> pl.DataFrame:
    """Table `items`, without ratings, from text columns item_id, title and perhaps some of `ITEM_COLUMNS`.

    Raises `CrsError` for a missing or wrong value and for two rows with one id.
    """
    for name in ("item_id", "title"):
        _refuse(table, label, pl.col(name).is_null(), f"{name} is missing; fill it in or delete the row")
    rows: list[dict[str, Any]] = []
    row_of: dict[str, int] = {}
    for number, cells in enumerate(table.iter_rows(named=True), start=1):
        item_id, title = cells["item_id"], utterances.one_line(cells["title"])
        if (first := row_of.setdefault(item_id, number)) != number:
            raise CrsError(f"{label}, rows {first} and {number}: both are item {item_id!r}; keep one of the rows")
        given = {name: cell for name, cell in cells.items() if not is_placeholder(cell)}
        year_cell, imdb_id = given.get("year"), given.get("external_id")
        if year_cell is not None and not re.fullmatch(r"[12]\d{3}(\.0+)?", year_cell):
            raise CrsError(
                f"{label}, row {number}: year {year_cell[:60]!r} is not a year such as 1999; correct or clear it"
            )
        bare_title, year = split_year(title)
        if year_cell is not None and year != int(float(year_cell)):
            bare_title, year = title, int(float(year_cell))
        if not bare_title:
            raise CrsError(f"{label}, row {number}: the title holds no visible character; fill it in or delete the row")
        rows.append(
            {
                "item_id": item_id,
                "title": bare_title,
                "year": year,
                "kinds": split_genres(cells.get("kinds")),
                "makers": split_names(cells.get("makers")),
                "people": split_names(cells.get("people")),
                "attributes": [],
                "external_id": f"tt{imdb_id:0>7}" if imdb_id and imdb_id.isdigit() else imdb_id,
                "n_ratings": 0,
                "mean_rating": None,
            }
        )
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))
