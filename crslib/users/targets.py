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
from crslib.dialogue.domain import Domain, Shape, fill

N_LEADING = 5  # a list of people names extras too; only the best-known are worth asking for


# ── attributes ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Target:
    """What a user looks for: any subset of these attributes, never a title. `decade`: its first year, or the year, as
    the domain says time; `attributes`: name and value of each further one."""

    kinds: tuple[str, ...] = ()
    decade: int | None = None
    person: str | None = None
    maker: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()

    def words(self, domain: Domain) -> str:
        """The attributes in the phrases of a domain, `crime/drama ITEM from the 1990s with … by …`; empty
        without attributes, and without those that the domain cannot ask for."""
        wish = domain.wish
        said = [
            *([fill(wish.decade, value=str(self.decade))] if wish.decade and self.decade is not None else []),
            *([fill(wish.person, value=self.person)] if wish.person and self.person else []),
            *([fill(wish.maker, value=self.maker)] if wish.maker and self.maker else []),
            *(fill(wish.attributes[name], value=value) for name, value in self.attributes if name in wish.attributes),
        ]
        if not (self.kinds or said):
            return ""
        of_kinds = fill(wish.kinds, values="/".join(self.kinds)) if self.kinds else domain.noun
        return utterances.one_line(" ".join([of_kinds, *said]))

    def count(self, items: pl.DataFrame, domain: Domain) -> int:
        """How many items of the catalogue match."""
        span = domain.time.span or 10
        return int(catalog.matches(items, **{field: getattr(self, field) for field in _FIELDS}, span=span).sum())


_FIELDS = ("kinds", "decade", "person", "maker", "attributes")


def relax(target: Target, min_k: int, matching: Callable[[Target], int]) -> tuple[Target, list[str]]:
    """`target` with attributes dropped until `matching` counts at least `min_k` items, and the kinds dropped.

    The most identifying are dropped first: further attributes, the last before the others, maker, person, second kind,
    decade, kind. Only the names of what was dropped are returned: the values may be a held-out item's.
    """
    dropped = []
    while target != Target() and matching(target) < min_k:
        if target.attributes:
            target, kind = replace(target, attributes=target.attributes[:-1]), target.attributes[-1][0]
        elif target.maker:
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


def from_heldout(
    liked: pl.DataFrame,
    weight: Callable[[str], float],
    enough: Callable[[Target], bool],
    domain: Domain,
    rng: random.Random,
) -> Target:
    """Attributes that at least one held-out liked item has: those of the item whose kinds are the most typical.

    A kind's weight is its count among these items times log(catalogue / items of that kind), so that "drama", half of
    some catalogues, is not every user's most typical kind. Ties are broken at random.
    """
    count = Counter(kind for kinds in liked["kinds"] for kind in kinds)
    typicality = {kind: (count[kind] * weight(kind), kind) for kind in count}
    shape = _shape(domain, rng)

    def best(kinds: Sequence[str]) -> list[str]:
        return sorted(kinds, key=typicality.__getitem__, reverse=True)[: shape.kinds]

    draws = {item: rng.random() for item in liked["item_id"]}
    anchor = max(
        liked.iter_rows(named=True),
        key=lambda item: (sum(typicality[kind][0] for kind in best(item["kinds"])), draws[item["item_id"]]),
    )
    named = {"person": anchor["best_known"], "maker": anchor["makers"]}
    named |= {
        name: [one["value"] for one in anchor["attributes"] or () if one["name"] == name] for name in domain.askable
    }
    return _target(best(anchor["kinds"]), shape, anchor["decade"], named, enough, domain, rng)


def from_taste(
    affinities: pl.DataFrame,
    liked_kinds: Sequence[str],
    enough: Callable[[Target], bool],
    domain: Domain,
    rng: random.Random,
) -> Target:
    """Attributes drawn from the visible taste; there may be no item that has all of them.

    Kinds are drawn from the liked ones; a user without any gets the kind of highest affinity. A decade is drawn in
    proportion to the liked items, a person, maker or further attribute among those of positive affinity.
    """
    ranked = affinities.sort("affinity", "name", descending=[True, False])
    shape = _shape(domain, rng)

    def names(trait: str, *conditions: pl.Expr) -> list[str]:
        return ranked.filter(pl.col("trait") == trait, *conditions)["name"].to_list()

    kinds = list(liked_kinds) or names("kind")[:1]
    drawn = rng.sample(kinds, min(shape.kinds, len(kinds)))
    decades = affinities.filter(pl.col("trait") == "decade", pl.col("n_liked") > 0)
    decade = int(rng.choices(decades["name"], weights=decades["n_liked"].to_list())[0]) if decades.height else None
    named = {trait: names(trait, pl.col("affinity") > 0)[:20] for trait in ("person", "maker")}
    named |= {name: names(further_trait(name), pl.col("affinity") > 0)[:20] for name in domain.askable}
    return _target(drawn, shape, decade, named, enough, domain, rng)


def further_trait(name: str) -> str:
    """How the affinity to a further attribute is called: apart from kind, decade, maker and person."""
    return f"attribute {name}"


def _shape(domain: Domain, rng: random.Random) -> Shape:
    """How many kinds a user asks for, and which further attribute, drawn as the domain has it."""
    shapes = domain.wish.shapes
    return rng.choices(shapes, weights=[shape.share for shape in shapes])[0]


def _target(
    kinds: Sequence[str],
    shape: Shape,
    decade: int | None,
    named: Mapping[str, Sequence[str]],
    enough: Callable[[Target], bool],
    domain: Domain,
    rng: random.Random,
) -> Target:
    """The attributes of a drawn shape. `named`: the candidates of each attribute that has a name, the best first.

    A named attribute with enough items for `min_k` is the only one: with a kind, hardly any item would match. Others
    come with kind and decade, so that these remain when relaxation drops them. Where an item has no kinds a decade
    takes their place, and where it has none either, the first named attribute with enough items.
    """
    decade = decade if domain.wish.decade else None
    if candidates := named.get(shape.further):
        alone = [_named(shape.further, name) for name in candidates]
        if sufficient := [target for target in alone if enough(target)][:N_LEADING]:
            return rng.choice(sufficient)
        return replace(alone[0], kinds=tuple(kinds), decade=decade)
    if not kinds and decade is None:
        askable = [name for name in ("maker", "person") if getattr(domain.wish, name)] + [*domain.wish.attributes]
        others = [_named(name, value) for name in askable for value in named.get(name, ())]
        return next(filter(enough, others), Target())
    return Target(tuple(kinds), decade if shape.further or not kinds else None)


def _named(attribute: str, value: str) -> Target:
    """The target of one attribute that has a name."""
    if attribute == "person":
        return Target(person=value)
    return Target(maker=value) if attribute == "maker" else Target(attributes=((attribute, value),))
