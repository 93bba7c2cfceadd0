"""Tables of items, and the catalogue that links names in utterances to items. Knows nothing of users or files."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process

from crslib.data import histories
from crslib.data.spotting import Spotter
from crslib.data.titles import (
    MIN_FUZZY_LENGTH,
    MIN_SIMILARITY,
    Entry,
    split_year,
    title_key,
    title_parts,
    title_words,
)
from crslib.dialogue import utterances
from crslib.dialogue.credits import Credits
from crslib.dialogue.domain import Domain
from crslib.dialogue.views import ItemFacts
from crslib.errors import CrsError

# Titles as models and people mark them when they do not write `[[Title (Year)]]`.
_OPEN, _CLOSE = r"(?:[*_]{1,3}|[\"“‘'«`])", r"(?:[*_]{1,3}|[\"”’'»`])"
_YEAR = r"\((?:18|19|20)[0-9]{2}\)"
_YEAR_OUTSIDE = re.compile(rf"\[\[([^\[\]()]+)\]\]\s*({_YEAR})")  # [[Heat]] (1995)
_SINGLE = re.compile(rf"(?<!\[)\[([^\[\]]+?)\s*(?:\]\s*({_YEAR})|({_YEAR})\])(?!\])")  # [Heat](1995), [Heat (1995)]
_DATED = re.compile(rf"(?<!\w){_OPEN}(?=\S)([^*_\"“”«»`\[\]]{{1,80}}?)(?<=\S){_CLOSE}\s*({_YEAR})")  # **Heat** (1995)
_EMPHASIS = re.compile(r"(?<![\w*_])([*_]{1,3})(?=\S)([^*_]+)(?<=\S)(\1)(?![\w*_])")
_CAPITAL, _SMALL = r"[A-Z0-9][\w'’&:/-]*", r"(?:of|the|and|a|an|in|on|to|for|from|with|at|by|or|vs)"
_UNKNOWN = re.compile(
    r"(?P<mention>\[\[[^\[\]]+\]\])"
    rf"|(?<![\w'’])(?P<title>{_CAPITAL}(?:\s+(?:{_SMALL}\s+){{0,3}}{_CAPITAL}){{0,9}})\s*(?P<year>{_YEAR})"
)
_AROUND = re.compile(rf"(?<!\w){_OPEN}(\[\[[^\[\]]+\]\][,.;!?]?){_CLOSE}(?!\w)")

N_KINDS, N_MAKERS, N_LEADING = 3, 1, 3  # at most, in the facts that a recommender looks up


def matches(
    items: pl.DataFrame,
    *,
    kinds: Sequence[str] = (),
    decade: int | None = None,
    span: int = 10,
    person: str | None = None,
    maker: str | None = None,
    attributes: Sequence[tuple[str, str]] = (),
) -> pl.Series:
    """Which rows of table `items` have all of `kinds`, a year in `decade` (1990: 1990 to 1999, or as many years as
    `span`), `person` among the people, `maker` among the makers and all further `attributes` (name, value). A Boolean
    series, in order; an attribute that is not given excludes nothing.
    """
    conditions = [pl.col("kinds").list.contains(kind) for kind in kinds]
    if decade is not None:
        conditions.append(pl.col("year").is_between(decade, decade + span - 1).fill_null(False))
    if person is not None:
        conditions.append(pl.col("people").list.contains(person))
    if maker is not None:
        conditions.append(pl.col("makers").list.contains(maker))
    for name, value in attributes:
        one = pl.struct(pl.lit(name).alias("name"), pl.lit(value).alias("value"))
        conditions.append(pl.col("attributes").list.contains(one).fill_null(False))
    met = pl.all_horizontal(pl.repeat(True, pl.len()), *conditions)
    return items.select(met.alias("matches")).to_series()


def item_row(item_id: str, title: str, year: int | None, **known: Any) -> dict[str, Any]:
    """A row of table `items`, by nobody rated: the columns `known`, all others empty."""
    empty: dict[str, Any] = {"kinds": [], "makers": [], "people": [], "attributes": []}
    rest = {"external_id": None, "n_ratings": 0, "mean_rating": None}
    return {"item_id": item_id, "title": title, "year": year, **empty, **rest, **known}


def with_training_statistics(items: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Table `items` with `n_ratings` and `mean_rating` counted from `ratings` alone (0 and null where unrated)."""
    ids = items["item_id"].unique(maintain_order=True)
    n, total = np.zeros(len(ids), np.int32), np.zeros(len(ids))
    for part in histories.by_users(histories.in_order(ratings)):  # a sum's last bits depend on its order
        item = part["item_id"].cast(pl.Enum(ids), strict=False).to_physical()
        known = part.select(item.alias("item"), "rating").drop_nulls("item")
        np.add.at(n, known["item"].to_numpy(), 1)
        np.add.at(total, known["item"].to_numpy(), known["rating"].to_numpy())
    mean = pl.when(pl.col("n_ratings") > 0).then(pl.col("mean_rating"))
    counted = pl.DataFrame({"item_id": ids, "n_ratings": n, "mean_rating": total / np.maximum(n, 1)}).with_columns(mean)
    return (
        items.drop("n_ratings", "mean_rating", strict=False)
        .join(counted, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("n_ratings").fill_null(0))
    )


def item_names(items: pl.DataFrame) -> dict[str, str]:
    """`Title (Year)` of every item of table `items`, by its id, in the order of the rows."""
    rows = items.select("item_id", "title", "year").iter_rows()
    return {item_id: utterances.item_name(title, year) for item_id, title, year in rows}


def lookup(items: pl.DataFrame) -> dict[str, ItemFacts]:
    """What a recommender may say of each item of table `items`: kinds, makers, leading people and further attributes,
    a few of each.

    A list of people that names extras too is in no order: of more than `N_LEADING` those lead whose items have the most
    ratings.
    """
    fame: Counter[str] = Counter()
    for people, n_ratings in items.select("people", "n_ratings").iter_rows():
        fame.update(dict.fromkeys(people, n_ratings or 0))
    names = item_names(items)
    return {
        item_id: ItemFacts(
            names[item_id],
            tuple(kinds[:N_KINDS]),
            tuple(makers[:N_MAKERS]),
            tuple(_leading(people, fame)),
            tuple((one["name"], one["value"]) for one in (attributes or ())[:N_KINDS]),
        )
        for item_id, kinds, makers, people, attributes in items.select(
            "item_id", "kinds", "makers", "people", "attributes"
        ).iter_rows()
    }


def _leading(people: Sequence[str], fame: Mapping[str, int]) -> list[str]:
    ranked = sorted(people, key=lambda person: (-fame[person], person)) if len(people) > N_LEADING else people
    return list(ranked[:N_LEADING])


class Catalog:
    """Items by name. Linking prefers precision: a wrong link invents a recommendation, a missing link only
    counts as an unknown title.
    """

    def __init__(self, items: pl.DataFrame, domain: Domain) -> None:
        """`items`: table `items`. A name that several items have means the one with the most ratings. `domain`: the
        words around titles."""
        self.items, self.domain = items, domain
        self._names: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        self._by_key: defaultdict[str, list[Entry]] = defaultdict(list)
        self._by_part: defaultdict[str, list[Entry]] = defaultdict(list)
        self._by_year: defaultdict[int | None, list[Entry]] = defaultdict(list)
        self._cache: dict[str, str | None] = {}  # results of `find`
        # Sorted by ratings, so that the first of several equal entries is the one with the most.
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

    @cached_property
    def lookup(self) -> dict[str, ItemFacts]:
        """`lookup` of the items."""
        return lookup(self.items)

    @cached_property
    def credits(self) -> Credits:
        """What the items say of their persons and years."""
        return Credits.of(self.items, self.domain)

    def name(self, item_id: str) -> str:
        """`Title (Year)`. Raises `CrsError` for an id that is not in the catalogue."""
        try:
            return self._names[item_id]
        except KeyError:
            raise CrsError(f"item {item_id!r} is not in the catalogue; use tables of the same data") from None

    def find(self, name: str) -> str | None:
        """The item with `name`, the text inside a mention; None where that is uncertain.

        An exact name comes first. Then, with a year: the title in another spelling; its exact words one year earlier or
        later, a part of the title, or a misspelt title of that year, each only if it fits exactly one item. Without a
        year: the item of that title with the most ratings, else the first item of a series of that name.
        """
        if name not in self._cache:
            self._cache[name] = self._by_name.get(name) or self._match(*split_year(name))
        return self._cache[name]

    def link(self, text: str) -> list[dict[str, Any]]:
        """The mentions of an utterance as rows of `schemas.MENTION`; `title` is the text inside the brackets."""
        return [
            {"item_id": self.find(name), "title": name, "start": start, "end": end}
            for name, start, end in utterances.mentions(text)
        ]

    def spot(self, text: str) -> list[dict[str, Any]]:
        """Items named outside brackets, as rows of `schemas.MENTION`: `text[start:end]` is `title`, which includes a
        year after it. Spans overlap neither each other nor mentions in brackets. Every row has an item.

        A title is a match when the log odds that it is one, and not ordinary words, are at least `spotting.SURE`. They
        grow with the rarity of its words (Zipf's law), the item's ratings, capitals, a year or quotation marks around
        it and words before it ("have you seen"). The longest match wins; a person's name is a match without an item. A
        later number of a series, another year and the name of a whole series do not match.
        """
        return self._spotter.spot(text)

    def bracketed(self, text: str) -> str:
        """One line that a person or a model wrote, with its titles in `[[…]]`; written brackets stay.

        Titles that `spot` finds are written as in the catalogue; quotation marks and emphasis (`*Heat*`, `**Heat**`)
        show a title and go. What has a year in parentheses is a title of nobody's, if it is marked or has capitals:
        `[[Title (Year)]]`, without an item.
        """
        text = _YEAR_OUTSIDE.sub(
            r"[[\1 \2]]", _SINGLE.sub(lambda match: _mention(match[1], match[2] or match[3]), text)
        )
        text = _DATED.sub(lambda match: self._named(match[1], match[2]), text)
        # The spotter reads emphasis as quotation marks. As many characters, so spans are the same.
        quoted = _EMPHASIS.sub(lambda match: '"' * len(match[1]) + match[2] + '"' * len(match[3]), text)
        spans = (
            (item["start"], item["end"], utterances.mention(self.name(item["item_id"]))) for item in self.spot(quoted)
        )
        text = utterances.replace_spans(text, spans)
        text = _UNKNOWN.sub(lambda match: match["mention"] or _mention(match["title"], match["year"]), text)
        return _AROUND.sub(r"\1", text)

    def _named(self, title: str, year: str) -> str:
        """`[[Title (Year)]]` of a marked title with its year, as in the catalogue where it is one of it."""
        item_id = self.find(f"{title.strip()} {year}")
        return utterances.mention(self.name(item_id)) if item_id else _mention(title, year)

    @cached_property
    def _spotter(self) -> Spotter:
        return Spotter(self.items, self.domain, self._by_key, self._by_part)

    def _match(self, title: str, year: int | None) -> str | None:
        key, words = title_key(title), tuple(title_words(title))
        same_key = self._by_key.get(key, [])
        if year is None:
            series = [entry for entry in self._by_part.get(key, []) if entry.key.startswith(key)]
            return _first(same_key or sorted(series, key=lambda entry: entry.year or 9999))
        if same_year := [entry for entry in same_key if entry.year == year]:
            return _first([entry for entry in same_year if entry.words == words] or same_year)
        if near := [entry for entry in same_key if abs((entry.year or 0) - year) == 1 and entry.words == words]:
            return _only(near)
        return _only(self._partial(title, key, year)) or _only(self._misspelt(key, year))

    def _partial(self, title: str, key: str, year: int) -> list[Entry]:
        """Items of a year whose title is longer ("Star Wars"), shorter, or has two parts in common with `title`."""
        parts = title_parts(title)
        longer = self._by_part.get(key, [])
        shorter = [entry for part in parts for entry in self._by_key.get(part, [])]
        shared = [entry for part in parts for entry in self._by_part.get(part, [])]
        shared = [entry for entry in shared if shared.count(entry) > 1]
        return [entry for entry in (*longer, *shorter, *shared) if entry.year == year]

    def _misspelt(self, key: str, year: int) -> list[Entry]:
        """The items of a year with the most similar titles. Digits must agree: "Part 2" is not a misspelt "Part 3"."""
        digits = re.findall(r"[0-9]", key)
        entries = [entry for entry in self._by_year.get(year, []) if re.findall(r"[0-9]", entry.key) == digits]
        if len(key) < MIN_FUZZY_LENGTH:
            return []
        keys = [entry.key for entry in entries]
        similar = process.extract(key, keys, scorer=fuzz.ratio, score_cutoff=MIN_SIMILARITY, limit=3)
        return [entries[position] for _, score, position in similar if score == similar[0][1]]


def _mention(title: str, year: str) -> str:
    return utterances.mention(f"{title.strip()} {year}")


def _first(entries: Sequence[Entry]) -> str | None:
    return entries[0].item_id if entries else None


def _only(entries: Sequence[Entry]) -> str | None:
    """The item of all `entries`; None where they are of several items or there are none."""
    return entries[0].item_id if len({entry.item_id for entry in entries}) == 1 else None
