"""The items people talk about: their names, links from words to items, attributes. Knows nothing of users or files."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from rapidfuzz import fuzz, process

from crslib import chat
from crslib.errors import CrsError

# A misspelt title must be this similar (rapidfuzz's ratio, 0 to 100) and this long. Measured on ReDial's titles.
FUZZY, FUZZY_LENGTH = 88, 8

_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "ı": "i"})
_SPELLINGS = {"colour": "color", "colours": "colors", "no": "number", "pt": "part", "versus": "vs", "vol": "volume"}
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12"}
_AFTER_PART = {"i": "1", "v": "5", "x": "10"}
_COUNT = "zero one two three four five six seven eight nine ten eleven twelve thirteen".split()
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNT)} | _ROMAN
_PRESENTER = re.compile(
    r"(national lampoons?|dr seuss|bram stokers|tyler perrys|william shakespeares|(walt )?disneys|monty pythons|marvels"
    r"|cheech and chongs|jane austens|stephen kings|wes cravens|john carpenters)( presents)? (?=.)"
)


def title_key(title: str) -> str:
    """What spellings of one title have in common, as one word.

    Case, accents, punctuation, blanks, a leading article and whose title it is ("National Lampoon's") are gone, `&`
    is `and`, numbers are digits. A title without any letter or digit is its own key.
    """
    text = title.casefold().translate(_LETTERS).replace("&", " and ").replace("#", " number ")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", re.sub(r"['’‘`´]", "", text)):
        word = _SPELLINGS.get(word, word)
        # A lone "i", "v" or "x" is a number only where one is expected: "Part V", not "V for Vendetta".
        if words and words[-1] in ("part", "volume", "episode", "chapter"):
            word = _AFTER_PART.get(word, word)
        words.append(_NUMBERS.get(word, word))
    if len(words) > 1 and words[-1] in ("the", "a", "an") and re.search(r",\s*\w+\s*$", title):
        words.pop()
    if len(words) > 1 and words[0] in ("the", "a", "an"):
        words = words[1:]
    return _PRESENTER.sub("", " ".join(words), count=1).replace(" ", "") or title.strip()


def title_parts(title: str) -> list[str]:
    """The keys of what stands between the colons and dashes of a title that say enough alone; none without one."""
    parts = re.split(r": | [-–—] | or: ", title)
    keys = [title_key(part) for part in parts if len(parts) > 1]
    return [key for key in keys if len(key) > 3 and not re.fullmatch(r"(the)?movie|\w*(part|episode|volume)\d+", key)]


def split_year(name: str) -> tuple[str, int | None]:
    """`Title (1999)` as title and year; the text itself and None where it ends otherwise."""
    match = re.fullmatch(r"(.*\S)\s*\(\s*([12]\d{3})\s*\)\s*", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, None)


def matches(
    items: pl.DataFrame,
    *,
    genres: Sequence[str] = (),
    decade: int | None = None,
    actor: str | None = None,
    director: str | None = None,
) -> pl.Series:
    """Which rows of table `items` have all of `genres`, a year in `decade` (1990: 1990 to 1999), `actor` in the cast
    and `director` among the directors. A Boolean series, in order; an attribute that is not given excludes nothing.
    """
    conditions = [pl.col("genres").list.contains(genre) for genre in genres]
    if decade is not None:
        conditions.append(pl.col("year").is_between(decade, decade + 9).fill_null(False))
    if actor is not None:
        conditions.append(pl.col("cast").list.contains(actor))
    if director is not None:
        conditions.append(pl.col("directors").list.contains(director))
    met = pl.all_horizontal(pl.repeat(True, pl.len()), *conditions)
    return items.select(met.alias("matches")).to_series()


def with_training_statistics(items: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Table `items` with `n_ratings` and `mean_rating` counted from `ratings` alone (0 and null where unrated)."""
    counted = (
        ratings.sort("item_id", "user_id")
        .group_by("item_id", maintain_order=True)
        .agg(pl.len().cast(pl.Int32).alias("n_ratings"), pl.col("rating").mean().alias("mean_rating"))
    )
    return (
        items.drop("n_ratings", "mean_rating", strict=False)
        .join(counted, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("n_ratings").fill_null(0))
    )


class Catalog:
    """Items by name. Linking is exact first and cautious afterwards: a wrong link would count as a recommendation
    that nobody made, a missing one only as an unknown title.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        """`items`: table `items`. Of two items with one name, the more rated one is found by it."""
        self.items = items
        self._names: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        self._keys: defaultdict[str, list[_Known]] = defaultdict(list)
        self._parts: defaultdict[str, list[_Known]] = defaultdict(list)
        self._years: defaultdict[int | None, list[str]] = defaultdict(list)
        self._found: dict[str, str | None] = {}
        # The most rated item first: every later choice among equals takes the first.
        for known in (
            items.sort("n_ratings", "item_id", descending=[True, False]).select("item_id", "title", "year").iter_rows()
        ):
            item_id, title, year = known
            self._names[item_id] = name = chat.item_name(title, year)
            for spelling in (name, chat.mention(name)[2:-2]):
                self._by_name.setdefault(spelling, item_id)
            self._keys[title_key(title)].append((item_id, year))
