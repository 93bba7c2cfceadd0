"""Your own items and ratings as a data folder: which columns are understood, what is left out, and what is refused.

An error names the file, the row (row 1 is the first below the header) and the remedy; nothing is written then. Knows
nothing of profiles and dialogues.
"""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from crslib import files, schemas
from crslib.data import cells, columns, feedback, readers
from crslib.data.source import UNKNOWN, Feedback, Source
from crslib.data.tables import without_namesakes
from crslib.data.tags import with_tags
from crslib.data.titles import split_year
from crslib.dialogue import domain, utterances
from crslib.dialogue.domain import ItemFiles
from crslib.errors import CrsError


@dataclass(frozen=True)
class Options:
    """What an import is told. `columns`: meaning → column, before the usual names; another meaning becomes an attribute
    of the items. `kind`: of `Feedback`; None: what the columns say. `no_rating`: the mark that means "not rated", or
    "none". `duplicates`: as of `feedback.write`. `tags`: files of tags (`tags.with_tags`). `source`: as stated.
    `files`: how items are read; None: as the domain of `source` says, which is then a shipped one."""

    columns: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["marks", "counts", "presence"] | None = None
    no_rating: float | Literal["none"] | None = None
    duplicates: feedback.Duplicates | None = None
    tags: Sequence[Path] = ()
    source: Source = UNKNOWN
    files: ItemFiles | None = None


DEFAULT = Options()


@dataclass(frozen=True)
class Imported:
    """Numbers of rows written, and what was left out of the files, in rows unless said otherwise.

    `items_left_out`: items with the title and year of one with more ratings; `ratings_left_out`: their ratings.
    `placeholders`: cells with a sign for no value (`-`, `N/A`). `duplicates`: further rows of a user and item.
    `unknown_items`: ids that no item has, `of_unknown_items`: their ratings. `not_rated`: rows of the mark or count
    that says nothing. `odd_times`, `odd_years`: cells read as not given. `lines`: how the files were understood.
    """

    items: int
    ratings: int
    users: int
    items_left_out: int = 0
    ratings_left_out: int = 0
    placeholders: int = 0
    duplicates: int = 0
    unknown_items: int = 0
    of_unknown_items: int = 0
    not_rated: int = 0
    odd_times: int = 0
    odd_years: int = 0
    lines: Sequence[str] = ()

    def __str__(self) -> str:
        text = f"{self.items:,} items, {self.ratings:,} ratings of {self.users:,} users"
        if self.items_left_out:
            text += f"; left out: {self.items_left_out:,} items with the title and year of one with more ratings"
            text += f" and their {self.ratings_left_out:,} ratings"
        if self.of_unknown_items:
            text += (
                f"; left out: {self.of_unknown_items:,} ratings of {self.unknown_items:,} items that are not described"
            )
        if self.not_rated:
            text += f"; left out: {self.not_rated:,} rows that rate nothing"
        if self.duplicates:
            text += f"; left out: {self.duplicates:,} further rows of a user and item"
        if self.odd_times:
            text += f"; {self.odd_times:,} times that cannot be read or lie outside 1970 to 2106 are left empty"
        if self.odd_years:
            text += f"; {self.odd_years:,} years outside 1000 to 2999 are left empty"
        if self.placeholders:
            text += f"; {self.placeholders:,} cells like '-' or 'N/A' read as not given"
        return text

    @property
    def record(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**asdict(self), "lines": list(self.lines)}


def import_ratings(ratings: Path, items: Path | None, folder: Path, options: Options = DEFAULT) -> Imported:
    """Writes `items.parquet`, `ratings.parquet` and `source.json` into `folder` from files of any kind that
    `readers.open_file` knows.

    `ratings` needs columns that mean user_id, item_id and rating (or a count); rated_at is optional: seconds or
    milliseconds since 1970, or ISO times (UTC without a time zone). `items` needs item_id and title; year, kinds,
    makers, people and external_id are optional. The usual names of columns are in `columns.NAMES`. The year may also be
    at the end of the title: `Heat (1995)`. Several values in a cell are separated by `|`, `;` or `,`, or are a list.
    Without `items` the items are read from the file of ratings.

    Left out and counted are ratings of items that are not described, placeholders like `-` and `N/A`, impossible times
    and years, and what `options` says. Of items with the same title and year only the one with the most ratings is
    written, because a mention could mean either. Raises `CrsError` for the first error in the files.
    """
    with readers.workspace() as work:
        rated = readers.open_file(work, ratings, ratings)
        if items is None:
            remedy = "rename or add it, or give the items in a file of their own"
            described, table = rated, _chosen_items(rated, options, remedy)
        else:
            described = readers.open_file(work, items, items)
            table = _chosen_items(described, options)
        keep, extra = with_tags(work, described, table.chosen, options.tags)
        described.load(
            work.con, {**table.chosen, **{f"+{n}": c for n, c in table.attributes.items()}, **keep}, "described"
        )
        frame = readers.text_of(work.con, "described")
        if items is None:
            frame = frame.unique("item_id", keep="first", maintain_order=True)
        lines = _understood(described, table) if items is not None else []
        return store_tables(work, rated, frame, described, extra(frame), folder, options, lines)


def _chosen_items(opened: readers.Opened, options: Options, remedy: str = "") -> columns.Selected:
    given = {"remedy": remedy} if remedy else {}
    return columns.select(
        opened.columns, opened.label, columns.OF_ITEMS, options.columns, ("item_id", "title"), **given
    )


def store_tables(
    work: readers.Workspace,
    rated: readers.Opened,
    described: pl.DataFrame,
    opened_items: readers.Opened,
    tags: Mapping[str, Sequence[str]],
    folder: Path,
    options: Options,
    lines: Sequence[str],
) -> Imported:
    """Writes the data folder from a file of ratings and `described`, the items as text (`parse_items`).

    Raises `CrsError` for the first error in them.
    """
    chosen = columns.select(rated.columns, rated.label, columns.OF_RATINGS, options.columns, ("user_id", "item_id"))
    kind = _kind(rated, chosen, options)
    mark = chosen.chosen.get("count" if kind == "counts" else "rating", chosen.chosen["user_id"])
    picked = {name: chosen.chosen[name] for name in ("user_id", "item_id")} | {"rating": mark}
    picked |= {"rated_at": chosen.chosen["rated_at"]} if "rated_at" in chosen.chosen else {}
    with ThreadPoolExecutor(1) as beside:  # the items are Python's work, the ratings that of libraries
        reading = beside.submit(feedback.Ratings, work, rated, picked, kind)
        parsed, odd_years = parse_items(described, opened_items, options, tags)
    rows = reading.result()
    says = rows.says(options.no_rating)
    counted = rows.per_item(says)
    known = counted.join(parsed, on="item_id", how="semi", maintain_order="left")
    if not known.height:
        raise _nothing_known(rated, opened_items, counted)
    items = parsed.drop("n_ratings").join(counted, on="item_id", how="left", maintain_order="left")
    written = without_namesakes(items.with_columns(pl.col("n_ratings").fill_null(0)).drop("n_odd"))
    kept = known.join(written, on="item_id", how="semi", maintain_order="left")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(files.writing(folder / "items.parquet"))
        second = stack.enter_context(files.writing(folder / "ratings.parquet"))
        rated_as = rows.write(kept, says, options.duplicates, second)
        table = written.drop("n_ratings", "mean_rating").join(
            rated_as.items, on="item_id", how="left", maintain_order="left"
        )
        table = schemas.check(
            table.with_columns(pl.col("n_ratings").fill_null(0)).select(list(schemas.TABLES["items"])), "items"
        )
        table.write_parquet(first, compression="zstd", statistics=False)
        options.source.model_copy(update={"feedback": says}).write(folder)
    unknown = counted.join(parsed, on="item_id", how="anti")
    given = [name for name in columns.OF_ITEMS[2:] if name in described.columns]
    return Imported(
        items=table.height,
        ratings=int(rated_as.items["n_ratings"].sum()),
        users=rated_as.n_users,
        items_left_out=parsed.height - written.height,
        ratings_left_out=int(known["n_ratings"].sum()) - int(kept["n_ratings"].sum()),
        placeholders=sum(cells.n_placeholders(described[name].to_list()) for name in given),
        duplicates=rated_as.n_again,
        unknown_items=unknown.height,
        of_unknown_items=int(unknown["n_ratings"].sum()),
        not_rated=rows.n - int(counted["n_ratings"].sum()),
        odd_times=int(kept["n_odd"].sum()),
        odd_years=odd_years,
        lines=[*_understood(rated, chosen, mark, says), *lines],
    )


def _kind(rated: readers.Opened, chosen: columns.Selected, options: Options) -> Literal["marks", "counts", "presence"]:
    """The kind of feedback: as told, else marks where there is a column of ratings and counts where there is one of
    counts."""
    kind = options.kind or ("marks" if "rating" in chosen.chosen else "counts" if "count" in chosen.chosen else None)
    needed = {"marks": "rating", "counts": "count"}.get(kind or "marks")
    if kind == "presence" or needed in chosen.chosen:
        return kind or "marks"
    here = ", ".join(rated.columns)[:200]
    raise CrsError(
        f"{rated.label} has no column {needed}; rename the column that holds it, say --column {needed}=COLUMN, or say "
        f"--feedback presence where a row only says that somebody chose an item (columns here: {here})"
    )


def _nothing_known(rated: readers.Opened, described: readers.Opened, counted: pl.DataFrame) -> CrsError:
    example = counted["item_id"][0] if counted.height else ""
    return CrsError(
        f"{rated.label}: none of its {counted.height:,} rated items (such as {example[:60]!r}) is among the items of "
        f"{described.label}; give files with the same ids, or say --column item_id=COLUMN"
    )


def _understood(
    opened: readers.Opened, chosen: columns.Selected, mark: str = "", says: Feedback | None = None
) -> list[str]:
    """How a file was read, in lines."""
    pairs = [f"{name} from {column}" for name, column in (*chosen.chosen.items(), *chosen.attributes.items())]
    lines = [f"{opened.label}: {', '.join(pairs)}", *(f"{opened.label}: {remark}" for remark in opened.remarks)]
    if says:
        scale = f" from {says.low:g} to {says.high:g}" if says.low is not None and says.high is not None else ""
        meant = {"marks": f"marks{scale}", "counts": f"counts in {mark}", "presence": "presence only"}[says.kind]
        lines.append(f"{opened.label}: read as {meant}")
    if chosen.ignored:
        lines.append(f"{opened.label}: not used: {', '.join(chosen.ignored)[:300]} (--column NAME=COLUMN keeps one)")
    return lines


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_items(
    table: pl.DataFrame, opened: readers.Opened, options: Options, tags: Mapping[str, Sequence[str]]
) -> tuple[pl.DataFrame, int]:
    """Table `items`, without ratings, from text columns item_id, title and perhaps others of `columns.OF_ITEMS`, and
    the number of years that are left empty. A column `+name` is attribute `name`. `tags`: item id → its tags, which are
    its kinds where no item has any, else attributes.

    Raises `CrsError` for a missing or wrong value and for two rows with one id.
    """
    label = opened.label
    if not table.height:
        raise CrsError(f"{label} has no rows below its header; check that it is the right file")
    for name in ("item_id", "title"):
        missing = table.with_row_index("row", offset=1).filter(pl.col(name).is_null())
        if missing.height:
            raise CrsError(f"{label}, row {missing['row'][0]}: {name} is missing; fill it in or delete the row")
    files = options.files or domain.read(options.source.domain).files
    spaced = {name for name in ("kinds",) if opened.typed.get(_column(opened, name, options)) == "token_seq"}
    kinds_of = cache(lambda cell: cells.split_kinds(cell, files.kinds))
    further = [name for name in table.columns if name.startswith("+")]
    for name in {"year", "external_id", *further} & set(table.columns):
        signs = [cell for cell in table[name].drop_nulls().unique() if cells.is_placeholder(cell)]
        table = table.with_columns(pl.when(pl.col(name).is_in(signs).not_()).then(pl.col(name)).alias(name))
    tags_are_kinds = "kinds" not in table.columns or not table["kinds"].drop_nulls().len()
    rows: list[dict[str, Any]] = []
    row_of: dict[str, int] = {}
    n_odd = 0
    for number, row in enumerate(table.iter_rows(named=True), start=1):
        item_id = row["item_id"]
        if (first := row_of.setdefault(item_id, number)) != number:
            raise CrsError(f"{label}, rows {first} and {number}: both are item {item_id!r}; keep one of the rows")
        title, year, attributes = utterances.one_line(cells.unescaped(row["title"])), None, []
        if files.series:
            title, series = cells.split_series(title)
            attributes += [("series", series)] if series else []
        bare_title, titled = split_year(title)
        if (cell := row.get("year")) is not None:
            year, understood = cells.parse_year(cell)
            if not understood:
                raise CrsError(
                    f"{label}, row {number}: year {cell[:60]!r} is not a year such as 1999; correct or clear it"
                )
            n_odd += year is None
        if year is not None and year != titled:
            bare_title = title
        if not bare_title:
            raise CrsError(f"{label}, row {number}: the title holds no visible character; fill it in or delete the row")
        kinds = row.get("kinds")
        if kinds and spaced and not set("|;,") & set(kinds):
            kinds = kinds.replace(" ", "|")
        own = tags.get(item_id, ())
        attributes += [
            (name[1:], utterances.one_line(value))
            for name in further
            for value in cells.values(row[name])
            if not cells.is_placeholder(value) and value.strip()
        ]
        attributes += [] if tags_are_kinds else [("tag", tag) for tag in own]
        rows.append(
            {
                "item_id": item_id,
                "title": bare_title,
                "year": titled if year is None else year,
                "kinds": sorted(own) if tags_are_kinds and own else kinds_of(kinds),
                "makers": cells.split_names(row.get("makers")),
                "people": cells.split_names(row.get("people")),
                "attributes": [{"name": name, "value": value} for name, value in dict.fromkeys(attributes)],
                "external_id": files.identified(row.get("external_id")),
                "n_ratings": 0,
                "mean_rating": None,
            }
        )
    # Nested columns by Arrow, which takes a third of the time.
    items = pa.Table.from_pylist(rows, schema=schemas.empty("items").to_arrow().schema)
    return schemas.check(pl.DataFrame(items), "items"), n_odd


def _column(opened: readers.Opened, name: str, options: Options) -> str:
    """The column of a file that means `name`; empty without one."""
    return columns.select(opened.columns, opened.label, columns.OF_ITEMS, options.columns).chosen.get(name, "")
