"""What a human dialogue's parties know: the summary, attributes and style that simulated ones would have.

Targets are the items that were to be found or, where the corpus does not say so, those that the recommender suggested
and the seeker liked or would like to see. A summary and attributes that the corpus has itself are taken, without the
sentences that name a target. Others are made here and do not depend on the targets: with other targets every letter
stays the same. The summary comes from the labels of the other items, in the words of `users.profiles`. The attributes
are what the seeker asks for before the recommender names an item. A seeker who asks for nothing has none, so that a
model learns to say what it looks for. (In a simulation the attributes are those of held-out items. Attributes of a
human dialogue's targets would give the user wishes that the seeker did not have when they asked.) The style of a
speaker is that of the same person in other dialogues.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl

from crslib.data import titles
from crslib.data.catalog import lookup
from crslib.data.corpora import Dialogue
from crslib.dialogue import lexicon, styles
from crslib.dialogue.domain import Domain
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import UserKnowledge, Wishes
from crslib.users.profiles import summarise
from crslib.users.targets import Target

N_LIKED_KINDS, N_LOVED, N_TARGET_KINDS = 3, 3, 2  # at most, as in a profile


def targets(dialogue: Dialogue) -> list[str]:
    """Ids of the items that were to be found or, where the corpus does not say so, of those that the recommender
    suggested and the seeker liked or would like to see, in dialogue order."""
    if dialogue.targets is not None:
        return list(dialogue.targets)
    return [item_id for item_id, item in dialogue.items.items() if item.suggested and item.liked]


class Seekers:
    """The knowledge of seekers, from dialogues and the facts of a corpus's items."""

    def __init__(self, items: pl.DataFrame, domain: Domain) -> None:
        """`items`: table `items`; an item that is not in it has no kinds, year, makers and people."""
        self._domain = domain
        self._facts = {row["item_id"]: row for row in items.iter_rows(named=True)}
        frequency = Counter(kind for row in self._facts.values() for kind in row["kinds"])
        self._rarity = {kind: math.log(len(self._facts) / n) for kind, n in frequency.items()}
        self._persons = _persons(items)

    def knowledge(self, dialogue: Dialogue) -> UserKnowledge:
        """The summary and attributes of the seeker in `dialogue`; either may be empty."""
        names = {item_id: item.name for item_id, item in dialogue.items.items()}
        hidden = [names[item_id] for item_id in targets(dialogue)]
        summary, attributes = (
            None if told is None else titles.without_titles(told, hidden)
            for told in (dialogue.summary, dialogue.attributes)
        )
        return UserKnowledge(
            self._domain,
            summarise(self.facts(dialogue), names, self._domain) if summary is None else summary,
            self.wanted(dialogue).words(self._domain) if attributes is None else attributes,
        )

    def facts(self, dialogue: Dialogue) -> dict[str, Any]:
        """The columns `liked_kinds` … `disliked_items` of table `profiles`, from labels of non-target items.

        Items that the seeker has not seen do not count. Loved are the first three liked items, disliked is the first
        item that was not liked. Liked kinds are up to three that at least half of the loved items have, most frequent
        first, then rarest in the corpus. A decade is liked with at least two loved items and half of them, a maker
        with at least two; a kind is disliked with at least two disliked items and no loved one.
        """
        labelled = [(item_id, item.liked) for item_id, item in _others(dialogue).items() if item.seen is not False]
        loved = [item_id for item_id, liked in labelled if liked]
        disliked = [item_id for item_id, liked in labelled if liked is False]
        kinds, disliked_kinds = self._traits(loved, "kinds"), self._traits(disliked, "kinds")
        typical = sorted(kinds, key=lambda kind: (-kinds[kind], -self._rarity[kind], kind))
        decades = Counter(year // 10 * 10 for item in loved if (year := self._facts.get(item, {}).get("year")))
        return {
            "liked_kinds": [kind for kind in typical if 2 * kinds[kind] >= len(loved)][:N_LIKED_KINDS],
            "liked_decade": next(iter(_frequent(decades, max(2, len(loved) / 2))), None),
            "loved_items": loved[:N_LOVED],
            "liked_makers": _frequent(self._traits(loved, "makers"), 2)[:1],
            "disliked_items": disliked[:1],
            "disliked_kinds": [kind for kind in _frequent(disliked_kinds, 2) if kind not in kinds][:1],
        }

    def wanted(self, dialogue: Dialogue) -> Target:
        """What the seeker asks for before the recommender names an item: kinds, a decade, a person, a maker."""
        kinds: dict[str, bool] = {}
        decades: list[int] = []
        persons: dict[str, str] = {}
        for turn in _before_items(dialogue):
            for words, sign in lexicon.clauses(turn):
                kinds.update(dict.fromkeys(lexicon.kinds(words, self._domain), sign > 0))
                if sign > 0:
                    decades += lexicon.decades(" ".join(words), self._domain)
                    persons.update(self._named(words))
        return Target(
            tuple(kind for kind, wanted in kinds.items() if wanted and kind in self._rarity)[:N_TARGET_KINDS],
            next(iter(decades), None),
            persons.get("person"),
            persons.get("maker"),
        )

    def wishes(self, dialogue: Dialogue) -> Wishes:
        """`wanted`, as a view has it."""
        wanted = self.wanted(dialogue)
        return Wishes(wanted.kinds, wanted.decade, wanted.person, wanted.maker, wanted.attributes)

    def _traits(self, item_ids: Sequence[str], column: str) -> Counter[str]:
        return Counter(trait for item in item_ids for trait in self._facts.get(item, {}).get(column, ()))

    def _named(self, words: Sequence[str]) -> dict[str, str]:
        grams = (" ".join(words[start : start + n]) for n in (2, 3) for start in range(len(words) - n + 1))
        return {kind: name for gram in grams if gram in self._persons for kind, name in (self._persons[gram],)}


class Writers:
    """How the persons of a corpus write."""

    def __init__(self, dialogues: Sequence[Dialogue]) -> None:
        self._texts: defaultdict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
        for dialogue in dialogues:
            for role in (USER, RECOMMENDER):
                texts = [turn.text for turn in dialogue.turns if turn.role == role]
                self._texts[_person(dialogue, role), role][dialogue.dialogue_id] = texts

    def style(self, dialogue: Dialogue, role: str) -> Style | None:
        """The style of the party `role` in the person's other dialogues in that role; None where these say too little.

        Nothing of `dialogue` itself is used, so the style says nothing of its words.
        """
        texts = self._texts[_person(dialogue, role), role]
        return Style.of([text for other, own in texts.items() if other != dialogue.dialogue_id for text in own])


def _person(dialogue: Dialogue, role: str) -> str:
    return dialogue.user if role == USER else dialogue.recommender


def styles_of(dialogues: Sequence[Dialogue]) -> pl.DataFrame:
    """Table `styles`: of both parties of every dialogue, where the person's other dialogues say enough."""
    writers = Writers(dialogues)
    pairs = [(role, writers.style(dialogue, role)) for dialogue in dialogues for role in (USER, RECOMMENDER)]
    return styles.count([(role, style) for role, style in pairs if style is not None])


class Knowledge:
    """All that the views of a corpus's dialogues hold besides the utterances and the seekers' answers."""

    def __init__(self, items: pl.DataFrame, dialogues: Sequence[Dialogue], domain: Domain) -> None:
        """`items`: table `items` of the corpus; `domain`: what it talks about. `dialogues`: those from which it is
        known how a person writes, best all of the corpus."""
        self.seekers, self.writers = Seekers(items, domain), Writers(dialogues)
        self.domain = domain
        self.lookup = lookup(items)


def _others(dialogue: Dialogue) -> dict[str, Any]:
    """The items of a dialogue without those that have a target's title, each title once.

    Titles are compared because ReDial may give one item several ids and years.
    """
    key = {item_id: titles.title_key(titles.split_year(item.name)[0]) for item_id, item in dialogue.items.items()}
    excluded = {key[item_id] for item_id in targets(dialogue)}
    first: dict[str, str] = {}
    for item_id in dialogue.items:
        if key[item_id] not in excluded:
            first.setdefault(key[item_id], item_id)
    return {item_id: dialogue.items[item_id] for item_id in first.values()}


def _before_items(dialogue: Dialogue) -> list[str]:
    """The seeker's turns before the recommender names an item."""
    texts = []
    for turn in dialogue.turns:
        if turn.role == RECOMMENDER and turn.mentions:
            break
        if turn.role == USER:
            texts.append(turn.text)
    return texts


def _frequent(counted: Counter[Any], least: float) -> list[Any]:
    """What was counted at least `least` times, most frequent first, then sorted."""
    return sorted((key for key, n in counted.items() if n >= least), key=lambda key: (-counted[key], key))


def _persons(items: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Full name as the lower-case words that a seeker types → (person or maker, whichever is more frequent; name)."""
    kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for makers, people in items.select("makers", "people").iter_rows():
        for kind, names in (("person", people), ("maker", makers)):
            for name in names:
                kinds[name][kind] += 1
    named = {}
    for name in sorted(kinds):
        words = lexicon.tokens(name)
        if len(words) in (2, 3):
            named[" ".join(words)] = (kinds[name].most_common(1)[0][0], name)
    return named
