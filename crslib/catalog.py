"""The items people talk about: their names, links from words to items, attributes. Knows nothing of users or files."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl
from rapidfuzz import fuzz, process

from crslib import chat
from crslib.errors import CrsError

# A misspelt title is this similar (rapidfuzz's ratio, 0 to 100) and its key this long. On ReDial's titles, with IMDb
# ids as truth, what shorter or less similar titles gain is mostly wrong; so it is in a year beside or without one.
FUZZY, FUZZY_LENGTH = 88, 10

_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "ı": "i"})
_ARTICLES = ("the", "a", "an")
_SPELLINGS = {
    "colour": "color",
    "colours": "colors",
    "doctor": "dr",
    "mister": "mr",
    "no": "number",
    "pt": "part",
    "versus": "vs",
    "vol": "volume",
}
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12"}
_AFTER_PART = {"i": "1", "v": "5", "x": "10"}
_COUNT = "one two three four five six seven eight nine ten eleven twelve thirteen"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNT.split(), start=1)} | _ROMAN
_PRESENTER = re.compile(
    r"(national lampoons?|dr seuss|bram stokers|tyler perrys|lee daniels|william shakespeares|(walt )?disneys|marvels"
    r"|monty pythons|cheech and chongs|jane austens|stephen kings|wes cravens|john carpenters)( presents)? (?=.)"
)


# ── titles ──────────────────────────────────────────────────────────────────────────────────────────────────────


def title_words(title: str) -> list[str]:
    """The words of a title without case, accents and punctuation; `&` is `and`, numbers are digits."""
    text = title.casefold().translate(_LETTERS).replace("&", " and ").replace("#", " number ")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", re.sub(r"['’‘`´]", "", text)):
        # A lone "i", "v" or "x" is a number only where one is expected: "Part V", not "V for Vendetta".
        if words and words[-1] in ("part", "volume", "episode", "chapter"):
            word = _AFTER_PART.get(word, word)
        words.append(_NUMBERS.get(word) or _SPELLINGS.get(word, word))
    if len(words) > 1 and re.search(r",\s*(the|a|an)\s*$", text):
        words.insert(0, words.pop())
    return words


def title_key(title: str) -> str:
    """What the spellings of one title have in common: its words as one, without a leading article and without whose
    title it is ("National Lampoon's"). A title without any letter or digit is its own key.
    """
    words = _PRESENTER.sub("", " ".join(title_words(title)), count=1).split()
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return "".join(words) or title.strip()


def title_parts(title: str) -> list[str]:
    """The keys of what stands between the colons and dashes of a title, where it says enough by itself.

    None for a title without them, or that ends in a later number of a series ("Hostel: Part III").
    """
    parts = [title_key(part) for part in re.split(r": | [-–—] | or: ", title)]
    if len(parts) < 2 or re.fullmatch(r"(part|episode|volume|chapter)([2-9]|1\d)", parts[-1]):
        return []
    return [part for part in parts if len(part) > 3 and not re.fullmatch(r"movie|(part|episode|volume)\d+", part)]


def split_year(name: str) -> tuple[str, int | None]:
    """`Title (1999)` as title and year; the text itself and None where it ends otherwise."""
    match = re.fullmatch(r"(.*\S)\s*\(\s*([12][0-9]{3})\s*\)\s*", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, None)


# ── tables of items ─────────────────────────────────────────────────────────────────────────────────────────────


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


# ── from words to items ─────────────────────────────────────────────────────────────────────────────────────────


class _Entry(NamedTuple):
    item_id: str
    year: int | None
    key: str
    words: tuple[str, ...]  # articles kept: what must agree when the year does not quite


class Catalog:
    """Items by name. Linking is exact first and cautious afterwards: a wrong link would count as a recommendation
    that nobody made, a missing one only as an unknown title.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        """`items`: table `items`. Of two items with one name, the more rated one is found by it."""
        self.items = items
        self._names: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        self._by_key: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._by_part: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._by_year: defaultdict[int | None, list[_Entry]] = defaultdict(list)
        self._found: dict[str, str | None] = {}
        # The most rated item first: every choice among equals takes the first.
        ranked = items.sort("n_ratings", "item_id", descending=[True, False]).select("item_id", "title", "year")
        for item_id, title, year in ranked.iter_rows():
            self._names[item_id] = chat.item_name(title, year)
            self._by_name.setdefault(self._names[item_id], item_id)
            entry = _Entry(item_id, year, title_key(title), tuple(title_words(title)))
            self._by_key[entry.key].append(entry)
            self._by_year[year].append(entry)
            for part in dict.fromkeys(title_parts(title)):
                self._by_part[part].append(entry)
        for item_id, name in self._names.items():
            self._by_name.setdefault(chat.mention(name)[2:-2], item_id)

    def name(self, item_id: str) -> str:
        """`Title (Year)`. Raises `CrsError` for an id that is not in the catalogue."""
        try:
            return self._names[item_id]
        except KeyError:
            raise CrsError(f"item {item_id!r} is not in the catalogue; use tables made from the same data") from None

    def find(self, name: str) -> str | None:
        """The item that `name`, the text inside a mention, speaks of; None when that is not sure.

        After the very name come, with a year: the title in another spelling; its words in a year beside it, if one
        item only has them; a part of the title, if one item only of the year has it; a misspelt title of that year.
        Without a year: the most rated item of that title, else the first film of a series of that name.
        """
        if name not in self._found:
            self._found[name] = self._by_name.get(name) or self._find(*split_year(name))
        return self._found[name]

    def link(self, text: str) -> list[dict[str, Any]]:
        """The mentions of an utterance as rows of `schemas.MENTION`. `title` is what was said, without brackets."""
        return [
            {"item_id": self.find(said), "title": said, "start": start, "end": end}
            for said, start, end in chat.mentions(text)
        ]

    def _find(self, title: str, year: int | None) -> str | None:
        key, words = title_key(title), tuple(title_words(title))
        same = self._by_key.get(key, [])
        if year is None:
            series = [entry for entry in self._by_part.get(key, []) if entry.key.startswith(key)]
            return _first(same or sorted(series, key=lambda entry: entry.year or 9999))
        if here := [entry for entry in same if entry.year == year]:
            return _first([entry for entry in here if entry.words == words] or here)
        if beside := [entry for entry in same if abs((entry.year or 0) - year) == 1 and entry.words == words]:
            return _only(beside)
        return _only(self._partly(title, key, year)) or _only(self._misspelt(key, year))

    def _partly(self, title: str, key: str, year: int) -> list[_Entry]:
        """Items of a year with a longer title ("Star Wars"), a shorter one, or two parts in common."""
        parts = title_parts(title)
        longer = self._by_part.get(key, [])
        shorter = [entry for part in parts for entry in self._by_key.get(part, [])]
        shared = [entry for part in parts for entry in self._by_part.get(part, [])]
        shared = [entry for entry in shared if shared.count(entry) > 1]
        return [entry for entry in (*longer, *shorter, *shared) if entry.year == year]

    def _misspelt(self, key: str, year: int) -> list[_Entry]:
        """The most similar titles of a year. Digits must agree: "Part 2" is no misspelt "Part 3"."""
        digits = re.findall(r"[0-9]", key)
        entries = [entry for entry in self._by_year.get(year, []) if re.findall(r"[0-9]", entry.key) == digits]
        if len(key) < FUZZY_LENGTH:
            return []
        close = process.extract(key, [entry.key for entry in entries], scorer=fuzz.ratio, score_cutoff=FUZZY, limit=3)
        return [entries[position] for _, score, position in close if score == close[0][1]]


def _first(entries: Sequence[_Entry]) -> str | None:
    return entries[0].item_id if entries else None


def _only(entries: Sequence[_Entry]) -> str | None:
    return entries[0].item_id if len({entry.item_id for entry in entries}) == 1 else None
