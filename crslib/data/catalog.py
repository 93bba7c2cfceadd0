"""The items people talk about: their names, links from words to items, attributes. Knows nothing of users or files."""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import polars as pl
from rapidfuzz import fuzz, process

from crslib.data.spotting import Spotter
from crslib.data.titles import FUZZY, FUZZY_LENGTH, Entry, split_year, title_key, title_parts, title_words
from crslib.dialogue import utterances
from crslib.errors import CrsError

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


class Catalog:
    """Items by name. Linking is exact first and cautious afterwards: a wrong link would count as a recommendation
    that nobody made, a missing one only as an unknown title.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        """`items`: table `items`. Of two items with one name, the more rated one is found by it."""
        self.items = items
        self._names: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        self._by_key: defaultdict[str, list[Entry]] = defaultdict(list)
        self._by_part: defaultdict[str, list[Entry]] = defaultdict(list)
        self._by_year: defaultdict[int | None, list[Entry]] = defaultdict(list)
        self._found: dict[str, str | None] = {}
        # The most rated item first: every choice among equals takes the first.
        ranked = items.sort("n_ratings", "item_id", descending=[True, False]).select("item_id", "title", "year")
        for item_id, title, year in ranked.iter_rows():
            self._names[item_id] = utterances.item_name(title, year)
            self._by_name.setdefault(self._names[item_id], item_id)
            entry = Entry(item_id, year, title_key(title), tuple(title_words(title)))
            self._by_key[entry.key].append(entry)
            self._by_year[year].append(entry)
            for part in dict.fromkeys(title_parts(title)):
                self._by_part[part].append(entry)
        for item_id, name in self._names.items():
            self._by_name.setdefault(utterances.mention(name)[2:-2], item_id)

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

    def link(self, text: str, *, unbracketed: bool = False) -> list[dict[str, Any]]:
        """The mentions of an utterance as rows of `schemas.MENTION`. `title` is what was said, without brackets.

        With `unbracketed`, those that `spot` finds outside brackets stand among them, in the order of the text.
        """
        rows = [
            {"item_id": self.find(said), "title": said, "start": start, "end": end}
            for said, start, end in utterances.mentions(text)
        ]
        return sorted([*rows, *self.spot(text)], key=lambda row: row["start"]) if unbracketed else rows

    def spot(self, text: str) -> list[dict[str, Any]]:
        """Items named outside brackets, as rows of `schemas.MENTION`: `text[start:end]` is `title`, a year beside it
        included. No two overlap, none touches a mention in brackets, all have an item.

        Cautious: a title counts when the odds that it is one, and not ordinary words, are at least e to the `SURE`.
        They grow with the rarity of its words (Zipf's law), the item's ratings, capitals, a year or quotation marks
        beside it and words that titles follow ("have you seen"). The longest match wins; people's names are matches
        too, of no item. A later number of a series, another year, or a series as a whole is no match.
        """
        return self._spotter.spot(text)

    @cached_property
    def _spotter(self) -> "Spotter":
        return Spotter(self.items, self._by_key, self._by_part)

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

    def _partly(self, title: str, key: str, year: int) -> list[Entry]:
        """Items of a year with a longer title ("Star Wars"), a shorter one, or two parts in common."""
        parts = title_parts(title)
        longer = self._by_part.get(key, [])
        shorter = [entry for part in parts for entry in self._by_key.get(part, [])]
        shared = [entry for part in parts for entry in self._by_part.get(part, [])]
        shared = [entry for entry in shared if shared.count(entry) > 1]
        return [entry for entry in (*longer, *shorter, *shared) if entry.year == year]

    def _misspelt(self, key: str, year: int) -> list[Entry]:
        """The most similar titles of a year. Digits must agree: "Part 2" is no misspelt "Part 3"."""
        digits = re.findall(r"[0-9]", key)
        entries = [entry for entry in self._by_year.get(year, []) if re.findall(r"[0-9]", entry.key) == digits]
        if len(key) < FUZZY_LENGTH:
            return []
        close = process.extract(key, [entry.key for entry in entries], scorer=fuzz.ratio, score_cutoff=FUZZY, limit=3)
        return [entries[position] for _, score, position in close if score == close[0][1]]


def _first(entries: Sequence[Entry]) -> str | None:
    return entries[0].item_id if entries else None


def _only(entries: Sequence[Entry]) -> str | None:
    return entries[0].item_id if len({entry.item_id for entry in entries}) == 1 else None
