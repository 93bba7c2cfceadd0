"""What a user says of what its profile speaks of: for or against it, and of its wish. Patterns, not a model.

Knows nothing of held-out items.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crslib.dialogue import lexicon, reactions, utterances
from crslib.dialogue.domain import Domain
from crslib.dialogue.views import Wishes
from crslib.dialogue.words import words

_ABOUT_RECOMMENDER = re.compile(r"\b(?:you|your)\b")
_ITEM = re.compile(r"\bitem(\d+)x\b")


def statements(
    turn: Mapping[str, Any], profile: Mapping[str, Any], titles: Mapping[str, str], domain: Domain
) -> Iterator[tuple[str, str, bool]]:
    """What a user's turn says for or against items and kinds of the profile: (about, says, contradicts) of each.

    `turn`: a row of table `turns`; `profile`: columns `liked_kinds` … `disliked_items`; `titles`: item id to title.
    `about`: title or kind. `says`: `likes`, `dislikes` or, of an item only, `unseen`, as `reactions` reads the clause
    after "it" has replaced the item or kind. `contradicts`: whether the profile says otherwise. Clauses about "you"
    (the recommender) are left out.
    """
    loved, disliked = set(profile["loved_items"] or ()), set(profile["disliked_items"] or ())
    enjoyed, rejected = profile["liked_kinds"] or [], profile["disliked_kinds"] or []
    spans = [(item["start"], item["end"], f" item{number}x ") for number, item in enumerate(turn["items"])]
    for clause in reactions.clauses(utterances.plain(utterances.replace_spans(turn["text"], spans))):
        if _ABOUT_RECOMMENDER.search(clause):
            continue
        named = [turn["items"][int(number)] for number in _ITEM.findall(clause)]
        says = _says(_ITEM.sub("it", clause), domain) if named else None
        for item in named:
            if says and item["item_id"] in loved | disliked:
                expected = "likes" if item["item_id"] in loved else "dislikes"
                yield titles.get(item["item_id"], item["title"]), says, says != expected
        words = [] if named else lexicon.tokens(clause)
        for kind in [*enjoyed, *rejected]:
            if lexicon.asks_for(kind, words, domain):
                names = {*lexicon.kinds_of(domain), *lexicon.tokens(kind)}
                says = _says(" ".join("it" if word in names else word for word in words) + " ", domain)
                if says in ("likes", "dislikes"):
                    yield kind, says, (says == "likes") != (kind in enjoyed)


def _says(clause: str, domain: Domain) -> str | None:
    liked = reactions.says_liked(clause, domain)
    if liked is None:
        return "unseen" if reactions.says_seen(clause, domain) is False else None
    return "likes" if liked else "dislikes"


def serves_wish(item: Mapping[str, Any], wishes: Wishes, domain: Domain) -> bool | None:
    """Whether an item has a kind, the time, the person, the maker or a further attribute that its user looks for.

    `item`: row of table `items`. None where there is no wish, or where no kind of the item is known and no further
    attribute is looked for.
    """
    if wishes == Wishes() or not (item["kinds"] or wishes.attributes):
        return None
    dated = wishes.decade is not None and item["year"] is not None
    return (
        not set(wishes.kinds).isdisjoint(item["kinds"])
        or (dated and domain.period(item["year"]) == wishes.decade)
        or wishes.person in item["people"]
        or wishes.maker in item["makers"]
        or not pairs(item.get("attributes")).isdisjoint(wishes.attributes)
    )


def pairs(attributes: Iterable[Mapping[str, str]] | None) -> set[tuple[str, str]]:
    """Further attributes of a row as (name, value)."""
    return {(attribute["name"], attribute["value"]) for attribute in attributes or ()}


def wishes(profile: Mapping[str, Any], domain: Domain) -> Iterable[tuple[str, Callable[[str], bool]]]:
    """Each target attribute of a row of table `profiles`, and whether an utterance without titles says it."""
    for kind in profile.get("target_kinds") or ():
        yield kind, _names_kind(kind, domain)
    if (period := profile.get("target_decade")) is not None:
        name = f"{period}s" if domain.time.span == 10 else str(period)
        yield name, lambda text: period in lexicon.periods(text.lower(), domain)
    for person in (profile.get("target_person"), profile.get("target_maker")):
        if person:
            yield person, _names_person(person)
    for _, value in sorted(pairs(profile.get("target_attributes"))):
        yield value, _names_kind(value, domain)


def _names_kind(kind: str, domain: Domain) -> Callable[[str], bool]:
    if not lexicon.tokens(kind):
        return _stands_in(kind)
    return lambda text: any(lexicon.asks_for(kind, clause, domain) for clause, _ in lexicon.clauses(text))


def _names_person(person: str) -> Callable[[str], bool]:
    parts = words(person)
    if not parts:
        return _stands_in(person)
    # Persons are often called by their family name alone; a very short one may be another word.
    either = [" ".join(parts), *parts[-1:]] if len(parts[-1]) > 3 else [" ".join(parts)]
    name = re.compile(f" (?:{'|'.join(map(re.escape, either))})(?:'s)? ")
    return lambda text: name.search(f" {' '.join(words(text))} ") is not None


def _stands_in(name: str) -> Callable[[str], bool]:
    """For a name without a letter or digit, which only its own characters can say."""
    return lambda text: name.lower() in text.lower()
