"""What the catalogue knows of the persons and the year of its items, and how people write names.

Knows nothing of dialogues.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Self

import polars as pl
from rapidfuzz import fuzz

from crslib.dialogue.domain import Domain

CAST, MAKER, PERSON, YEAR = "people", "maker", "person", "year"  # kinds of facts; PERSON: in either role


@lru_cache(maxsize=1 << 16)
def name_key(name: str) -> str:
    """A person's name without case, accents, punctuation, "Jr." and initials in the middle: "samuel jackson"."""
    plain = unicodedata.normalize("NFKD", name.replace("’", "'")).lower().replace("'", "").replace(".", " ")
    words = re.findall(r"[^\W_]+", "".join(c for c in plain if not unicodedata.combining(c)))
    words = [word for word in words if word not in ("jr", "sr")]
    if len(words) > 2 and len(words[0]) == len(words[1]) == 1:  # "J. J." is "JJ"
        words[:2] = ["".join(words[:2])]
    return " ".join(word for place, word in enumerate(words) if not 0 < place < len(words) - 1 or len(word) > 1)


class Credits:
    """The facts of all items of a domain, and the names of all their persons.

    `facts`: item id → row with `year`, `makers` and `people` (table `items`).
    """

    def __init__(self, facts: Mapping[str, Mapping[str, Any]], domain: Domain) -> None:
        self.facts, self.domain = facts, domain
        self._keys: dict[str, tuple[list[str], list[str]]] = {}

    @classmethod
    def of(cls, items: pl.DataFrame, domain: Domain) -> Self:
        """The facts in table `items`."""
        rows = items.select("item_id", "year", "makers", "people").iter_rows(named=True)
        return cls({row["item_id"]: row for row in rows}, domain)

    @cached_property
    def persons(self) -> frozenset[str]:
        """The key of every name of two words or more."""
        names = {name for row in self.facts.values() for name in (*row["makers"], *row["people"])}
        return frozenset(key for key in map(name_key, names) if " " in key)

    @cached_property
    def somebody(self) -> str:
        """The key of one of `persons`, always the same; empty where there are none."""
        return min((key for key in self.persons if key.replace(" ", "").isalpha()), default="")

    def keys(self, item_id: str) -> tuple[list[str], list[str]]:
        """The keys of an item's cast and of its makers."""
        if item_id not in self._keys:
            row = self.facts[item_id]
            self._keys[item_id] = ([*map(name_key, row["people"])], [*map(name_key, row["makers"])])
        return self._keys[item_id]

    def has(self, item_id: str, kind: str, name: str) -> bool | None:
        """Whether a person is among an item's credits of `kind`; None where this cannot be decided."""
        cast, makers = self.keys(item_id)
        if kind == CAST:
            return self._among(name, cast) or (None if not cast or self._among(name, makers) else False)
        if kind == MAKER:
            return self._among(name, makers) if makers else None
        whole = makers and (cast or not self.domain.claims.people)  # a domain may speak of no people but makers
        return self._among(name, cast + makers) or (False if whole else None)

    def _among(self, name: str, credits: Sequence[str]) -> bool:
        """Whether a name is one of `credits`: in full, misspelt, or by its family name alone or with a first name of
        the same initial ("Leo DiCaprio") that no person of the catalogue has with it."""
        key = name_key(name)
        if key in credits:
            return True
        if key in self.persons:
            return False
        first, _, family = key.rpartition(" ")
        for credit in credits:
            own = credit.rpartition(" ")[2]
            if family == own and (not first or first[0] == credit[0]):
                return True
            if not first and len(family) > 4 and fuzz.ratio(family, own) >= 85:
                return True
            if first and fuzz.ratio(key, credit) >= 82:
                return True
        return False

    def same_year(self, item_id: str, value: str) -> bool | None:
        """Whether an item is of a year or decade; None where the catalogue has no year of it."""
        year = self.facts[item_id]["year"]
        if year is None:
            return None
        return year // 10 * 10 == int(value[:4]) if value.endswith("s") else year == int(value)
