"""Items and ratings from files of one's own or MovieLens archives, and how they lie in a data folder.

Knows files, and nothing of profiles or dialogues. What is imported is checked row by row: a sentence
names the file, the data row (the first below the header is row 1) and the remedy. Nothing is written unless all of it
is right.
"""

import csv
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from crslib import schemas
from crslib.data import titles
from crslib.data.tables import Imported, write
from crslib.dialogue import utterances
from crslib.errors import CrsError

# The words of everyday talk (and of IMDb) for MovieLens genres; None for what is no genre.
_GENRES = {"children": "family", "children's": "family", "imax": None, "(no genres listed)": None, "unknown": None}


def genre_words(listed: str | None) -> list[str]:
    """Genres separated by `|` or `,` as sorted lower-case words: `Action|Children` is `[action, family]`."""
    words = (word.strip().lower() for word in re.split(r"\||,", listed or ""))
    return sorted({genre for word in words if (genre := _GENRES.get(word, word))})


def people(listed: str | None) -> list[str]:
    """Names separated by `|`, or else by commas, in their order. Nobiliary titles and list pages are no names."""
    names: list[str] = []
    for name in (each.strip() for each in (listed or "").split("|" if "|" in (listed or "") else ",")):
        if names and re.fullmatch(r"[JS]r\.?|I{2,3}|IV", name):
            names[-1] += f", {name}" if name[0] in "JS" else f" {name}"
        elif name and not re.match(r"\d+(st|nd|rd|th) |list of |art director|dialogue writer", name):
            names.append(utterances.one_line(name))
    return list(dict.fromkeys(names))


def import_ratings(ratings: Path, items: Path | None, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from CSV (UTF-8) or Parquet files.

    `ratings` needs columns user_id, item_id and rating; rated_at is optional: seconds since 1970, or ISO times (UTC
    unless they say otherwise). `items` needs item_id and title; year, genres, directors, cast and imdb_id are optional;
    where there is no year, one at the end of the title, `Heat (1995)`, is it. Several values in a cell are separated
    by `|` or `,`, or are a Parquet list. Usual other names of columns (userId, movieId, timestamp) are known. Without
    `items` the items are read from the file of ratings.

    Of items with one title and year the most rated is kept: a mention could not tell them apart. Raises `CrsError`.
    """
    rated = read_table(ratings, ratings)
    if items is None:
        remedy = "rename or add it, or give the items in a file of their own"
        described = columns(rated, ratings, ("item_id", "title"), ITEM_COLUMNS, remedy).unique(
            "item_id", keep="first", maintain_order=True
        )
    else:
        described = columns(read_table(items, items), items, ("item_id", "title"), ITEM_COLUMNS)
    checked = checked_items(described, items or ratings)
    rated = columns(rated, ratings, ("user_id", "item_id", "rating"), ("rated_at",))
    return write(checked, checked_ratings(rated, ratings, checked), folder)


# ── reading: every cell is text, so that a wrong one can be shown ─────────────────────────────────────────────────

ITEM_COLUMNS = ("year", "genres", "directors", "cast", "imdb_id")
_OTHER_NAMES = {
    "actors": "cast",
    "director": "directors",
    "genre": "genres",
    "movieid": "item_id",
    "name": "title",
    "timestamp": "rated_at",
}


def read_table(path: Path, label: Path) -> pl.DataFrame:
    """A CSV or Parquet file as text columns, told apart by its first bytes. `label` is what people know it by."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        if not start.strip():
            raise CrsError(f"{label} is empty; it must hold a header and rows")
        if start.startswith(b"PAR1"):
            return _read_parquet(path)
        if start.startswith(b"PK\x03\x04"):
            raise CrsError(f"{label} is a ZIP archive, not CSV or Parquet; unpack it, or import it as MovieLens data")
        if b"\0" in start:
            raise CrsError(f"{label} is neither CSV text (UTF-8) nor Parquet; export it as one of them")
        with path.open("rb") as file:
            line = re.split(r"[\r\n]", file.readline(1 << 20).decode("utf-8-sig"))[0]
        delimiter = max(",;\t|", key=line.count)
        header = next(csv.reader([line], delimiter=delimiter))
        if not header:
            raise CrsError(f"{label} begins with an empty line; its first line must be the header")
    except OSError as error:
        raise CrsError(f"cannot read {label}: {error.strerror}; check the path") from None
    except (UnicodeDecodeError, csv.Error):
        raise CrsError(
            f"{label} does not begin with a header in UTF-8; save it as CSV in UTF-8 or as Parquet"
        ) from None
    except pl.exceptions.PolarsError as error:
        raise CrsError(f"{label} is not a readable Parquet file ({first_line(error)}); export it again") from None
    return read_csv(path, label, header, delimiter, quote='"', skip=1)


def _read_parquet(path: Path) -> pl.DataFrame:
    frame = pl.read_parquet(path, glob=False)
    texts = []
    for name, dtype in frame.schema.items():
        column = pl.col(name)
        if isinstance(dtype, pl.List):
            column = column.list.eval(pl.element().cast(pl.String)).list.join("|")
        elif isinstance(dtype, pl.Datetime):
            column = column.dt.epoch("s")
        elif dtype.is_float() and frame[name].is_finite().all() and (frame[name].drop_nulls() % 1 == 0).all():
            column = column.cast(pl.Int64)  # an id 7.0 beside missing ones is 7
        elif not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Date)):
            continue
        texts.append(column.cast(pl.String).str.strip_chars().replace("", None))
    return frame.select(texts)


def read_csv(
    path: Path, label: Path, header: Sequence[str], delimiter: str, quote: str, skip: int, encoding: str = "utf-8"
) -> pl.DataFrame:
    # Columns go by number, so that no header can disturb the query.
    columns = ", ".join(f"'{number}': 'VARCHAR'" for number in range(len(header)))
    query = f"""
        SELECT * FROM read_csv($path, auto_detect = false, columns = {{{columns}}}, delim = $delimiter, quote = $quote,
                               escape = $quote, header = false, skip = $skip, encoding = $encoding)
    """
    values = {"path": glob.escape(str(path)), "delimiter": delimiter, "quote": quote}
    try:
        with duckdb.connect() as con:
            con.sql("SET threads = 1")
            frame = con.sql(query, params={**values, "skip": skip, "encoding": encoding}).pl()
    except duckdb.Error as error:
        raise CrsError(_csv_sentence(label, str(error), len(header))) from None
    frame = frame.select(pl.all().str.strip_chars().replace("", None))
    names = [name.strip() or f"#{number}" for number, name in enumerate(header, start=1)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CrsError(f"{label} has two columns {twice!r}; rename one of them")
    return frame.rename(dict(zip(frame.columns, names, strict=True)))


def _csv_sentence(label: Path, message: str, width: int) -> str:
    where = re.search(r"Line: (\d+)", message)
    place = f"{label}, line {where[1]}" if where else str(label)
    if found := re.search(r"Found: (\d+)", message):
        return f"{place}: {found[1]} fields where the header has {width}; quote text that holds the separator"
    if "unterminated quote" in message:
        return f"{place}: a quoted field does not end as it should; close the quote, and double quotes inside the text"
    if "state machine" in message:
        return f"{place} ends its lines in different ways, or not as CSV does; save it again as CSV in UTF-8"
    if "unicode" in message.lower() or "utf-8" in message.lower():
        return f"{place}: this is not UTF-8 text; save the file in UTF-8"
    return f"{place} cannot be read as CSV ({first_line(message)}); export it again"


def first_line(error: object) -> str:
    return " ".join(str(error).split())[:120]


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(
    table: pl.DataFrame,
    label: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    remedy: str = "rename the column that holds it, or add it",
) -> pl.DataFrame:
    """The columns of a table that go by one of the known names, under the project's names."""
    known = {name.replace("_", ""): name for name in (*needed, *optional)}
    known |= {other: name for other, name in _OTHER_NAMES.items() if name in (*needed, *optional)}
    chosen: dict[str, str] = {}
    for column in table.columns:
        name = known.get(re.sub(r"[^a-z0-9]", "", column.lower()))
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
    """Raises `CrsError` for the first row in which `bad` holds; `sentence` may name its cells."""
    rows = table.with_row_index("row", offset=1).filter(bad).head(1)
    for row in rows.iter_rows(named=True):
        cells = {name: str(cell)[:60] for name, cell in row.items()}
        raise CrsError(f"{label}, row {row['row']}: " + sentence.format(**cells))


def checked_ratings(table: pl.DataFrame, label: Path, items: pl.DataFrame) -> pl.DataFrame:
    for name in ("user_id", "item_id", "rating"):
        _refuse(table, label, pl.col(name).is_null(), f"{name} is missing; fill it in or delete the row")
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    wrong = rating.is_null() | rating.is_finite().not_()
    _refuse(table, label, wrong, "rating {rating!r} is not a finite number; correct it or delete the row")
    pair = pl.struct("user_id", "item_id")
    if not (first := table.select(pair.is_first_distinct()).to_series()).all():
        user, item = table.filter(~first).select("user_id", "item_id").row(0)
        same = (pl.col("user_id") == user) & (pl.col("item_id") == item)
        one, two = table.with_row_index("row", offset=1).filter(same)["row"].head(2)
        raise CrsError(f"{label}, rows {one} and {two}: user {user!r} rates item {item!r} twice; keep one of the rows")
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
        con.register("texts", pl.DataFrame({"said": texts}).with_row_index("row").to_arrow())
        iso = con.sql(
            """
            SELECT CASE WHEN regexp_matches(said, '^[0-9]{4}-') THEN epoch(TRY_CAST(said AS TIMESTAMPTZ)) END AS seconds
            FROM texts ORDER BY "row"
            """
        ).pl()["seconds"]
    return pl.select(pl.coalesce(number, iso)).to_series().cast(pl.Int64, strict=False)


def checked_items(table: pl.DataFrame, label: Path) -> pl.DataFrame:
    for name in ("item_id", "title"):
        _refuse(table, label, pl.col(name).is_null(), f"{name} is missing; fill it in or delete the row")
    rows: list[dict[str, Any]] = []
    first: dict[str, int] = {}
    for number, cells in enumerate(table.iter_rows(named=True), start=1):
        item_id, title = cells["item_id"], utterances.one_line(cells["title"])
        if (one := first.setdefault(item_id, number)) != number:
            raise CrsError(f"{label}, rows {one} and {number}: both are item {item_id!r}; keep one of the rows")
        given = cells.get("year")
        if given is not None and not re.fullmatch(r"[12]\d{3}(\.0+)?", given):
            raise CrsError(
                f"{label}, row {number}: year {given[:60]!r} is not a year such as 1999; correct or clear it"
            )
        bare, year = titles.split_year(title)
        if given is not None and year != int(float(given)):
            bare, year = title, int(float(given))
        if not bare:
            raise CrsError(f"{label}, row {number}: the title holds no visible character; fill it in or delete the row")
        imdb_id = cells.get("imdb_id")
        rows.append(
            {
                "item_id": item_id,
                "title": bare,
                "year": year,
                "genres": genre_words(cells.get("genres")),
                "directors": people(cells.get("directors")),
                "cast": people(cells.get("cast")),
                "imdb_id": f"tt{imdb_id:0>7}" if imdb_id and imdb_id.isdigit() else imdb_id,
                "n_ratings": 0,
                "mean_rating": None,
            }
        )
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))
