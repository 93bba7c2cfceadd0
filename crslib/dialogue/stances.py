"""What a user says of what its profile speaks of: for or against it, and of its wish. Patterns, not a model.

Knows nothing of held-out items.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from crslib.dialogue import lexicon, reactions, utterances
from crslib.dialogue.words import words

_ABOUT_RECOMMENDER = re.compile(r"\b(?:you|your)\b")
_ITEM = re.compile(r"\bitem(\d+)x\b")


def statements(
    turn: Mapping[str, Any], profile: Mapping[str, Any], titles: Mapping[str, str]
) -> Iterator[tuple[str, str, bool]]:
    """What a user's turn says for or against items and genres of the profile: (about, says, contradicts) of each.

    `turn`: a row of table `turns`; `profile`: columns `liked_kinds` … `disliked_items`; `titles`: item id to title.
    `about`: title or genre. `says`: `likes`, `dislikes` or, of an item only, `unseen`, as `reactions` reads the clause
    after "it" has replaced the item or genre. `contradicts`: whether the profile says otherwise. Clauses about "you"
    (the recommender) are left out.
    """
    loved, disliked = set(profile["loved_items"] or ()), set(profile["disliked_items"] or ())
    enjoyed, rejected = profile["liked_kinds"] or [], profile["disliked_kinds"] or []
    spans = [(item["start"], item["end"], f" item{number}x ") for number, item in enumerate(turn["items"])]
    for clause in reactions.clauses(utterances.plain(utterances.replace_spans(turn["text"], spans))):
        if _ABOUT_RECOMMENDER.search(clause):
            continue
        named = [turn["items"][int(number)] for number in _ITEM.findall(clause)]
        says = _says(_ITEM.sub("it", clause)) if named else None
        for item in named:
            if says and item["item_id"] in loved | disliked:
                expected = "likes" if item["item_id"] in loved else "dislikes"
                yield titles.get(item["item_id"], item["title"]), says, says != expected
        words = [] if named else lexicon.tokens(clause)
        for genre in [*enjoyed, *rejected]:
            if lexicon.asks_for(genre, words):
                names = {*lexicon.GENRES_OF, *lexicon.tokens(genre)}
                says = _says(" ".join("it" if word in names else word for word in words) + " ")
                if says in ("likes", "dislikes"):
                    yield genre, says, (says == "likes") != (genre in enjoyed)


def _says(clause: str) -> str | None:
    liked = reactions.says_liked(clause)
    if liked is None:
        return "unseen" if reactions.says_seen(clause) is False else None
    return "likes" if liked else "dislikes"


def serves_wish(item: Mapping[str, Any], profile: Mapping[str, Any]) -> bool | None:
    """Whether an item has a genre, the decade, the actor or the director that its user looks for.

    `item`: row of table `items`; `profile`: columns `target_kinds` … `target_maker`. None where there is no wish,
    or no genre of the item is known.
    """
    genres, decade = set(profile["target_kinds"] or ()), profile["target_decade"]
    actor, director = profile["target_person"], profile["target_maker"]
    if not item["kinds"] or not (genres or decade is not None or actor or director):
        return None
    of_decade = decade is not None and item["year"] is not None and item["year"] // 10 * 10 == decade
    return bool(genres & set(item["kinds"]) or of_decade or actor in item["people"] or director in item["makers"])


def wishes(profile: Mapping[str, Any]) -> Iterable[tuple[str, Callable[[str], bool]]]:
    """Each target attribute of a row of table `profiles`, and whether an utterance without titles says it."""
    for genre in profile.get("target_kinds") or ():
        yield genre, _names_genre(genre)
    if (decade := profile.get("target_decade")) is not None:
        yield f"{decade}s", lambda text: decade in lexicon.decades(text.lower(), years=True)
    for person in (profile.get("target_person"), profile.get("target_maker")):
        if person:
            yield person, _names_person(person)


def _names_genre(genre: str) -> Callable[[str], bool]:
    if not lexicon.tokens(genre):
        return _stands_in(genre)
    return lambda text: any(lexicon.asks_for(genre, clause) for clause, _ in lexicon.clauses(text))


def _names_person(person: str) -> Callable[[str], bool]:
    parts = words(person)
    if not parts:
        return _stands_in(person)
    # Actors are often called by their family name alone; a very short one may be another word.
    either = [" ".join(parts), *parts[-1:]] if len(parts[-1]) > 3 else [" ".join(parts)]
    name = re.compile(f" (?:{'|'.join(map(re.escape, either))})(?:'s)? ")
    return lambda text: name.search(f" {' '.join(words(text))} ") is not None


def _stands_in(name: str) -> Callable[[str], bool]:
    """For a name without a letter or digit, which only its own characters can say."""
    return lambda text: name.lower() in text.lower()
