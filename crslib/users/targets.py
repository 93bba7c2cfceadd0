"""Target attributes: what a user looks for, drawn from held-out items or the visible taste, relaxed to `min_k`.

Knows attributes, never a title.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from crslib.data import catalog
from crslib.dialogue import utterances

N_STARS = 5  # a cast list names extras too; only its best-known actors are worth asking for


# ── attributes ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Target:
    """What a user looks for: any subset of these attributes, never a title."""

    kinds: tuple[str, ...] = ()
    decade: int | None = None
    person: str | None = None
    maker: str | None = None

    def __str__(self) -> str:
        """`{genre}/{genre} movie from the {decade}s with {actor} by {director}`; empty without attributes."""
        if self == Target():
            return ""
        parts = [
            "/".join(self.kinds),
            "movie",
            "" if self.decade is None else f"from the {self.decade}s",
            f"with {self.person}" if self.person else "",
            f"by {self.maker}" if self.maker else "",
        ]
        return utterances.one_line(" ".join(part for part in parts if part))

    def count(self, items: pl.DataFrame) -> int:
        """How many items of the catalogue match."""
        matching = catalog.matches(items, kinds=self.kinds, decade=self.decade, person=self.person, maker=self.maker)
        return int(matching.sum())


def relax(target: Target, min_k: int, matching: Callable[[Target], int]) -> tuple[Target, list[str]]:
    """`target` with attributes dropped until `matching` counts at least `min_k` items, and the kinds dropped.

    The most identifying are dropped first: maker, person, second kind, decade, kind. Only their kinds are returned:
    the values may be a held-out item's.
    """
    dropped = []
    while target != Target() and matching(target) < min_k:
        if target.maker:
            target, kind = replace(target, maker=None), "maker"
        elif target.person:
            target, kind = replace(target, person=None), "person"
        elif len(target.kinds) > 1:
            target, kind = replace(target, kinds=target.kinds[:-1]), "kind"
        elif target.decade is not None:
            target, kind = replace(target, decade=None), "decade"
        else:
            target, kind = replace(target, kinds=()), "kind"
        dropped.append(kind)
    return target, dropped


# (number of genres, further attribute) → per cent. What people ask for before a film is named, in the 2,814 of ReDial's
# 4,036 training dialogues in which they ask (`training.knowledge.Seekers.wanted`).
_SHAPES = {(1, ""): 70, (2, ""): 20, (1, "person"): 7, (1, "decade"): 2, (1, "maker"): 1}


def from_heldout(
    liked: pl.DataFrame, weight: Callable[[str], float], enough: Callable[[Target], bool], rng: random.Random
) -> Target:
    """Attributes that at least one held-out liked item has: those of the item whose genres are the most typical.

    A genre's weight is its count among these items times log(catalogue / items of that genre), so that "drama", half of
    any catalogue, is not every user's most typical genre. Ties are broken at random.
    """
    count = Counter(genre for genres in liked["kinds"] for genre in genres)
    typicality = {genre: (count[genre] * weight(genre), genre) for genre in count}
    n_genres, further = _shape(rng)

    def best(genres: Sequence[str]) -> list[str]:
        return sorted(genres, key=typicality.__getitem__, reverse=True)[:n_genres]

    draws = {item: rng.random() for item in liked["item_id"]}
    anchor = max(
        liked.iter_rows(named=True),
        key=lambda item: (sum(typicality[genre][0] for genre in best(item["kinds"])), draws[item["item_id"]]),
    )
    people = {"person": anchor["stars"], "maker": anchor["makers"]}
    return _target(best(anchor["kinds"]), further, anchor["decade"], people, enough, rng)


def from_taste(
    affinities: pl.DataFrame, liked_kinds: Sequence[str], enough: Callable[[Target], bool], rng: random.Random
) -> Target:
    """Attributes drawn from the visible taste; there may be no item that has all of them.

    Genres are drawn from the liked ones; a user without any gets the genre of highest affinity. A decade is drawn in
    proportion to the liked items, an actor or director among those of positive affinity.
    """
    ranked = affinities.sort("affinity", "name", descending=[True, False])
    n_genres, further = _shape(rng)

    def names(kind: str, *conditions: pl.Expr) -> list[str]:
        return ranked.filter(pl.col("trait") == kind, *conditions)["name"].to_list()

    genres = list(liked_kinds) or names("kind")[:1]
    drawn = rng.sample(genres, min(n_genres, len(genres)))
    decades = affinities.filter(pl.col("trait") == "decade", pl.col("n_liked") > 0)
    decade = int(rng.choices(decades["name"], weights=decades["n_liked"].to_list())[0]) if decades.height else None
    people = {kind: names(kind, pl.col("affinity") > 0)[:20] for kind in ("person", "maker")}
    return _target(drawn, further, decade, people, enough, rng)


def _shape(rng: random.Random) -> tuple[int, str]:
    return rng.choices(list(_SHAPES), weights=list(_SHAPES.values()))[0]


def _target(
    genres: Sequence[str],
    further: str,
    decade: int | None,
    people: Mapping[str, Sequence[str]],
    enough: Callable[[Target], bool],
    rng: random.Random,
) -> Target:
    """The attributes of a drawn shape.

    An actor or director with enough items for `min_k` is the only attribute: with a genre, hardly any item would match.
    Others come with genre and decade, so that these remain when relaxation drops the actor or director.
    """
    if candidates := people.get(further):
        alone = [Target(person=name) if further == "person" else Target(maker=name) for name in candidates]
        if sufficient := [target for target in alone if enough(target)][:N_STARS]:
            return rng.choice(sufficient)
        return replace(alone[0], kinds=tuple(genres), decade=decade)
    return Target(tuple(genres), decade if further or not genres else None)
