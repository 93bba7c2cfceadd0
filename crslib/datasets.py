"""Items and ratings from files of one's own or MovieLens archives, and how they lie in a data folder.

Knows files, and nothing of profiles or dialogues. What is imported is checked row by row: a sentence
names the file, the data row (the first below the header is row 1) and the remedy. Nothing is written unless all of it
is right.
"""

import csv
import glob
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from crslib import catalog, chat, schemas, store
from crslib.errors import CrsError

_ARTICLE = r"The|A|An|La|Le|Les|L'|El|Los|Las|Il|Lo|I|Das|Der|Die|Un|Une|Una|Da|Det"
_PARENTHESIS = r"\((?:[^()]|\([^()]*\))*\)"
# The words of everyday talk (and of IMDb) for MovieLens genres; None for what is no genre.
_GENRES = {"children": "family", "children's": "family", "imax": None, "(no genres listed)": None, "unknown": None}


# ── words of MovieLens and IMDb ─────────────────────────────────────────────────────────────────────────────────────


def split_title(title: str) -> tuple[str, list[str]]:
    """A MovieLens title as its main title and the alternatives that follow in parentheses, all in natural order.

    `City of Lost Children, The (Cité des enfants perdus, La)` gives `The City of Lost Children` and
    `[La Cité des enfants perdus]`.
    """
    matched = re.fullmatch(rf"(.*?)((?: {_PARENTHESIS})*)", title.strip(), re.DOTALL)
    main, rest = matched.groups() if matched else (title, "")
    if not main or main.endswith(": Or"):  # "(500) Days of Summer", "Birdman: Or (The Unexpected Virtue …)"
        return _natural(title), []
    others = [re.sub(r"^a\.?k\.?a\.? ", "", each[1:-1].strip()) for each in re.findall(_PARENTHESIS, rest)]
    return _natural(main), [_natural(other) for other in others]


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
            names.append(chat.one_line(name))
    return list(dict.fromkeys(names))


def _natural(title: str) -> str:
    inverted = re.fullmatch(rf"(.+), ({_ARTICLE})", title.strip())
    if not inverted:
        return title.strip()
    return inverted[2] + ("" if inverted[2].endswith("'") else " ") + inverted[1]


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


def import_ratings(ratings: Path, items: Path | None, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from CSV (UTF-8) or Parquet files.

    `ratings` needs columns user_id, item_id and rating; rated_at is optional: seconds since 1970, or ISO times (UTC
    unless they say otherwise). `items` needs item_id and title; year, genres, directors, cast and imdb_id are optional;
    where there is no year, one at the end of the title, `Heat (1995)`, is it. Several values in a cell are separated
    by `|` or `,`, or are a Parquet list. Usual other names of columns (userId, movieId, timestamp) are known. Without
    `items` the items are read from the file of ratings.

    Of items with one title and year the most rated is kept: a mention could not tell them apart. Raises `CrsError`.
    """
    rated = _read(ratings, ratings)
    if items is None:
        remedy = "rename or add it, or give the items in a file of their own"
        described = _columns(rated, ratings, ("item_id", "title"), _ITEM_COLUMNS, remedy).unique(
            "item_id", keep="first", maintain_order=True
        )
    else:
        described = _columns(_read(items, items), items, ("item_id", "title"), _ITEM_COLUMNS)
    checked = _checked_items(described, items or ratings)
    rated = _columns(rated, ratings, ("user_id", "item_id", "rating"), ("rated_at",))
    return write(checked, _checked_ratings(rated, ratings, checked), folder)


def import_movielens(path: Path, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from a MovieLens archive, zipped or unpacked.

    Known are the layouts of ml-latest, ml-32m and their kin (`.csv`), ml-1m and ml-10m (`.dat`), and ml-100k
    (`u.data`). Raises `CrsError` when `path` is none of them.
    """
    with tempfile.TemporaryDirectory() as unpacked:
        found = _members(path, Path(unpacked))
        rated_in, described_in = next(layout for layout in _LAYOUTS if found.keys() >= set(layout))
        if rated_in == "ratings.csv":
            rated = _read(found[rated_in], path / rated_in)
            described = _read(found[described_in], path / described_in)
        else:
            rated = _read_fields(found[rated_in], path / rated_in, _FIELDS[rated_in])
            described = _read_fields(found[described_in], path / described_in, _FIELDS[described_in])
        if described_in == "u.item":
            flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _ML100K_GENRES]
            described = described.with_columns(pl.concat_str(flags, separator="|", ignore_nulls=True).alias("genres"))
        described = _columns(described, path / described_in, ("item_id", "title"), _ITEM_COLUMNS)
        if "links.csv" in found:
            label = path / "links.csv"
            links = _columns(_read(found["links.csv"], label), label, ("item_id", "imdb_id"), ())
            links = links.unique("item_id", keep="first", maintain_order=True)
            described = described.join(links, on="item_id", how="left", maintain_order="left")
        checked = _checked_items(described, path / described_in)
        checked = checked.with_columns(pl.Series("title", [split_title(title)[0] for title in checked["title"]]))
        rated = _columns(rated, path / rated_in, ("user_id", "item_id", "rating"), ("rated_at",))
        return write(checked, _checked_ratings(rated, path / rated_in, checked), folder)


def write(items: pl.DataFrame, ratings: pl.DataFrame, folder: Path) -> Imported:
    """Writes both tables into `folder`, or neither; of items with one title and year only the most rated one.

    Raises `CrsError` when the folder cannot be written.
    """
    counted = catalog.with_training_statistics(items, ratings)
    names = [chat.mention(chat.item_name(*row)) for row in counted.select("title", "year").iter_rows()]
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


# ── reading: every cell is text, so that a wrong one can be shown ─────────────────────────────────────────────────

_ITEM_COLUMNS = ("year", "genres", "directors", "cast", "imdb_id")
_OTHER_NAMES = {
    "actors": "cast",
    "director": "directors",
    "genre": "genres",
    "movieid": "item_id",
    "name": "title",
    "timestamp": "rated_at",
}
_LAYOUTS = (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item"))
_ML100K_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FIELDS = {
    "ratings.dat": ("::", ["user_id", "item_id", "rating", "rated_at"]),
    "movies.dat": ("::", ["item_id", "title", "genres"]),
    "u.data": ("\t", ["user_id", "item_id", "rating", "rated_at"]),
    "u.item": ("|", ["item_id", "title", "released", "video", "url", *_ML100K_GENRES]),
}
_LARGEST_MEMBER = 4 << 30  # bytes unpacked; the largest MovieLens file has 0.9 GB


def _read(path: Path, label: Path) -> pl.DataFrame:
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
        raise CrsError(f"{label} is not a readable Parquet file ({_line(error)}); export it again") from None
    return _read_csv(path, label, header, delimiter, quote='"', skip=1)


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


def _read_csv(
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
    return f"{place} cannot be read as CSV ({_line(message)}); export it again"


def _read_fields(path: Path, label: Path, fields: tuple[str, Sequence[str]]) -> pl.DataFrame:
    """A file without header or quotes, in UTF-8 or, as the older archives, Latin-1."""
    delimiter, names = fields
    try:
        path.read_text(encoding="utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return _read_csv(path, label, names, delimiter, quote="", skip=0, encoding=encoding)


def _members(path: Path, unpacked: Path) -> dict[str, Path]:
    """The known files of a MovieLens folder, or of an archive, copied to `unpacked` under their bare names."""
    wanted = [name for layout in _LAYOUTS for name in layout] + ["links.csv"]
    found: dict[str, Path] = {}
    if path.is_dir():
        for name in wanted:
            for file in (path / name, *sorted(path.glob(f"*/{name}"))):
                if file.is_file():
                    found.setdefault(name, file)
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.infolist(), key=lambda member: member.filename.count("/")):
                    name = member.filename.rpartition("/")[2]
                    if name not in wanted or name in found:
                        continue
                    if member.file_size > _LARGEST_MEMBER:
                        raise CrsError(
                            f"{name} in {path} is larger than MovieLens files are; unpack and check it yourself"
                        )
                    with archive.open(member) as packed, (unpacked / name).open("wb") as file:
                        shutil.copyfileobj(packed, file)
                    found[name] = unpacked / name
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise CrsError(f"{path} is not a whole ZIP archive ({_line(error)}); download it again") from None
        except OSError as error:
            raise CrsError(f"cannot unpack {path}: {error.strerror}; check the path and the free space") from None
    if not any(found.keys() >= set(layout) for layout in _LAYOUTS):
        layouts = ", or ".join(" and ".join(layout) for layout in _LAYOUTS)
        raise CrsError(f"{path} holds no MovieLens data; it needs {layouts}")
    return found


def _line(error: object) -> str:
    return " ".join(str(error).split())[:120]


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _columns(
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


def _checked_ratings(table: pl.DataFrame, label: Path, items: pl.DataFrame) -> pl.DataFrame:
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


def _checked_items(table: pl.DataFrame, label: Path) -> pl.DataFrame:
    for name in ("item_id", "title"):
        _refuse(table, label, pl.col(name).is_null(), f"{name} is missing; fill it in or delete the row")
    rows: list[dict[str, Any]] = []
    first: dict[str, int] = {}
    for number, cells in enumerate(table.iter_rows(named=True), start=1):
        item_id, title = cells["item_id"], chat.one_line(cells["title"])
        if (one := first.setdefault(item_id, number)) != number:
            raise CrsError(f"{label}, rows {one} and {number}: both are item {item_id!r}; keep one of the rows")
        given = cells.get("year")
        if given is not None and not re.fullmatch(r"[12]\d{3}(\.0+)?", given):
            raise CrsError(
                f"{label}, row {number}: year {given[:60]!r} is not a year such as 1999; correct or clear it"
            )
        bare, year = catalog.split_year(title)
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
