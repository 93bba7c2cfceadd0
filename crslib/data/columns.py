"""Which column of a file means what: the usual names of columns in public data sets, in one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crslib.errors import CrsError

# Names without case and punctuation, by meaning; the first group that a file has a column of counts, the others are
# ignored. Two columns of one group are an error.
NAMES: Mapping[str, Sequence[Sequence[str]]] = {
    "user_id": (("userid",), ("reviewerid", "user"), ("username",)),
    "item_id": (
        ("itemid", "movieid", "bookid", "artistid", "productid", "parentasin", "businessid"),
        ("asin", "isbn", "appid"),
        ("id",),
    ),
    "rating": (("rating",), ("bookrating", "overall", "stars")),
    "count": (("count", "weight", "plays", "playcount", "listens"), ("hours",)),
    "rated_at": (("ratedat", "timestamp"), ("unixreviewtime",), ("datetime", "dateadded"), ("date", "reviewtime")),
    "title": (
        ("title", "name"),
        ("movietitle", "booktitle", "producttitle", "artistname", "productname"),
        ("appname", "originaltitle"),
    ),
    "year": (
        ("year",),
        ("originalpublicationyear", "publicationyear", "yearofpublication", "releaseyear"),
        ("releasedate",),
    ),
    "kinds": (("kinds", "genres", "genre"), ("categories", "class", "category"), ("tags",)),
    "makers": (
        ("makers", "directors", "director"),
        ("authors", "author", "bookauthor"),
        ("developer", "artist", "store", "brand"),
    ),
    "people": (("people", "cast", "actors"),),
    "external_id": (("externalid", "imdbid"),),
}
OF_RATINGS = ("user_id", "item_id", "rating", "count", "rated_at")
OF_ITEMS = ("item_id", "title", "year", "kinds", "makers", "people", "external_id")


@dataclass(frozen=True)
class Selected:
    """`chosen`: name → column of the file; `attributes`: name → column, as asked for; `ignored`: all other columns."""

    chosen: Mapping[str, str]
    attributes: Mapping[str, str]
    ignored: Sequence[str]


def select(
    columns: Sequence[str],
    label: Path,
    names: Sequence[str],
    given: Mapping[str, str],
    needed: Sequence[str] = (),
    remedy: str = "rename the column that holds it, or say --column {name}=COLUMN",
) -> Selected:
    """The columns of a file that mean `names` (of `NAMES`). `given`: meaning → column, before all usual names; another
    meaning than those of `NAMES` is an attribute of the items.

    Raises `CrsError` when a `needed` one is missing (`remedy`: what to do then), and when two columns have one meaning.
    """
    spelled: dict[str, list[str]] = {}
    for column in columns:
        spelled.setdefault(re.sub(r"[^a-z0-9]", "", column.lower()), []).append(column)
    chosen: dict[str, str] = {}
    for name in names:
        if name in given and given[name] in columns:
            chosen[name] = given[name]
        elif name in columns:
            chosen[name] = name
        elif candidates := _first_group(spelled, NAMES[name], set(chosen.values()) | set(given.values())):
            if len(candidates) > 1:
                a, b = candidates[:2]
                raise CrsError(f"{label} has columns {a!r} and {b!r} for {name}; keep one of them, or give --column")
            chosen[name] = candidates[0]
    for name in needed:
        if name not in chosen:
            here = ", ".join(columns)[:200]
            raise CrsError(f"{label} has no column {name}; {remedy.format(name=name)} (columns here: {here})")
    attributes = {name: column for name, column in given.items() if name not in NAMES and column in columns}
    used = {*chosen.values(), *attributes.values()}
    return Selected(chosen, attributes, [column for column in columns if column not in used])


def _first_group(
    spelled: Mapping[str, Sequence[str]], groups: Sequence[Sequence[str]], taken: set[str]
) -> Sequence[str]:
    """The columns of the first group that has one, in the order of the file, without those `taken`."""
    for group in groups:
        if found := [column for key in spelled if key in group for column in spelled[key] if column not in taken]:
            return found
    return ()


def parse_given(assignments: Sequence[str]) -> dict[str, str]:
    """`item_id=book_id` and the like as meaning → column. Raises `CrsError` for another form, or a meaning twice."""
    given: dict[str, str] = {}
    for text in assignments:
        name, equals, column = text.partition("=")
        if not equals or not name.strip() or not column.strip():
            raise CrsError(f"--column {text!r} is not MEANING=COLUMN; for example --column item_id=book_id")
        if name.strip() in given:
            raise CrsError(f"--column gives {name.strip()!r} twice; keep one of them")
        given[name.strip()] = column.strip()
    return given
