"""Conversation format v1 (DESIGN §4): how a dialogue looks to each party. The information barrier is in the types.

A `UserView` is built from what a user simulator may know. A `RecommenderView` gets utterances, facts of items that were
mentioned, and a `Style`, which holds no text of its own: no profile can reach it. Neither knows of held-out items.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from crslib.dialogue.domain import Domain, NoteWords, alternatives, fill
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER, one_line

Turn = Mapping[str, Any]  # role and text; a user's turn also `notes`, on the items that the turn before it named


# ── what the user privately knows ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Note:
    """What the user remembers or thinks of an item that was mentioned. None: nothing known in that respect."""

    name: str
    seen: bool | None
    liked: bool | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The note of a row of `turns.notes`."""
        return cls(row["title"], row["seen"], row["liked"])

    def words(self, domain: Domain) -> str:
        """`seen, liked`, `not seen, not interested`, … in the words of the domain; empty where nothing is known."""
        named: NoteWords = domain.notes
        seen = {True: named.met, False: named.unmet, None: ""}[self.seen]
        likings = (named.interested, named.uninterested) if self.seen is False else (named.liked, named.disliked)
        liked = {True: likings[0], False: likings[1], None: ""}[self.liked]
        return ", ".join(part for part in (seen, liked) if part)


NOTE_KINDS: Mapping[tuple[bool, bool], str] = {
    (True, True): "seen_liked",
    (True, False): "seen_disliked",
    (False, True): "unseen_interested",
    (False, False): "unseen_uninterested",
}


def note_words(domain: Domain) -> dict[str, str]:
    """Kind of note → its words in a view."""
    return {kind: Note("", *answers).words(domain) for answers, kind in NOTE_KINDS.items()}


def note_line(notes: Sequence[Note], domain: Domain) -> str:
    """`(Title (Year): seen, liked; …)`; empty without anything to say."""
    parts = [f"{note.name}: {words}" for note in notes if (words := note.words(domain))]
    return f"({'; '.join(parts)})" if parts else ""


def read_notes(line: str, domain: Domain) -> list[Note]:
    """The notes that `note_line` wrote as `line`; none for any other text."""
    answers = {
        Note("", seen, liked).words(domain): (seen, liked)
        for seen in (True, False, None)
        for liked in (True, False, None)
    }
    words = alternatives(filter(None, answers))
    parts = [*re.finditer(rf"(?P<name>.+?): (?P<words>{words})(?:; |$)", line[1:-1])]
    if f"({''.join(part[0] for part in parts)})" != line:
        return []
    return [Note(part["name"], *answers[part["words"]]) for part in parts]


@dataclass(frozen=True)
class Wishes:
    """The target attributes part by part, as `UserKnowledge.attributes` says them in words."""

    kinds: tuple[str, ...] = ()
    decade: int | None = None  # its first year, or the year, as the domain says time
    person: str | None = None
    maker: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()  # name and value of each

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> Self:
        """The wishes of a row of table `profiles`."""
        return cls(
            tuple(profile["target_kinds"] or ()),
            profile["target_decade"],
            profile["target_person"],
            profile["target_maker"],
            tuple((one["name"], one["value"]) for one in profile["target_attributes"] or ()),
        )


@dataclass(frozen=True)
class UserKnowledge:
    """All that a user simulator of a domain knows before the dialogue, and how it writes: texts and names, no item ids.

    `wishes`, `loved` and `disliked` (names of items, `Title (Year)`) are the facts behind the two texts, for users that
    read no language; nothing in them is missing from the texts. `unrelated`: those of `loved` that have nothing to do
    with the wishes (`stances.serves_wish`).
    """

    domain: Domain
    summary: str
    attributes: str
    style: Style | None = None
    wishes: Wishes = Wishes()
    loved: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    unrelated: tuple[str, ...] = ()

    def system(self) -> str:
        """The system message of the user's view."""
        lines = [self.domain.system.user]
        if self.summary:
            lines.append(f"About you: {one_line(self.summary)}")
        if self.attributes:
            lines.append(f"Looking for: {one_line(self.attributes)}")
        if self.style:
            lines.append(self.style.line)
        return "\n".join(lines)


# ── what the recommender looks up ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ItemFacts:
    """What the catalogue says of an item that was mentioned. Lists may be empty."""

    name: str
    kinds: tuple[str, ...]
    makers: tuple[str, ...]
    people: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()  # name and value of each

    def words(self, domain: Domain) -> str:
        """`crime/drama, by Francis Ford Coppola, with Marlon Brando, Al Pacino, James Caan`, in the domain's phrases.

        Further attributes are said where the domain has a phrase for them.
        """
        wish, makers, people = domain.wish, ", ".join(self.makers), ", ".join(self.people)
        parts = [
            "/".join(self.kinds),
            fill(wish.maker or "by {value}", value=makers) if makers else "",
            fill(wish.person or "with {value}", value=people) if people else "",
            *(fill(wish.attributes[name], value=value) for name, value in self.attributes if name in wish.attributes),
        ]
        return ", ".join(one_line(part) for part in parts if part)


Lookup = Mapping[str, ItemFacts]
"""Facts by item id."""


def facts_line(facts: Sequence[ItemFacts], domain: Domain) -> str:
    """`(Title (Year): crime/drama, by …, with …; …)`; empty without anything to say."""
    parts = [f"{one_line(item.name)}: {words}" for item in facts if (words := item.words(domain))]
    return f"({'; '.join(parts)})" if parts else ""


def looked_up(turns: Sequence[Turn], lookup: Lookup) -> list[ItemFacts]:
    """The facts that the recommender's view gets with the last of `turns`, one of the user's.

    They are of the items that were mentioned for the first time in it or in the recommender's turn before it.
    """
    before = {item["item_id"] for turn in turns[:-2] for item in turn["items"]}
    new = dict.fromkeys(item["item_id"] for turn in turns[-2:] for item in turn["items"])
    return [lookup[item_id] for item_id in new if item_id in lookup and item_id not in before]


# ── views ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Message:
    """One message of a view. `role` is system, user (the other party) or assistant (oneself).

    `ids` are the token ids that a model produced itself; they stay, because text need not tokenize back to them.
    """

    role: str
    text: str
    ids: tuple[int, ...] | None = None


class View:
    """A dialogue of a domain as one party sees it. All that an agent of this party gets.

    `messages`: as a model trained on the format reads it; `assistant` is the party itself, `user` the other one.
    `turns`: what both said, as rows with `role`, `text` and linked `items` (of `schemas.MENTION`), the latest last.
    """

    role = ""  # of the party whose view it is

    def __init__(self, system: str, domain: Domain) -> None:
        self.domain = domain
        self.messages = [Message("system", system)]
        self.turns: list[dict[str, Any]] = []

    def say(self, text: str, ids: Sequence[int] | None = None, items: Sequence[Mapping[str, Any]] = ()) -> None:
        """The party's own utterance, with its token ids where a model produced it, and its linked items."""
        self.messages.append(Message("assistant", text, None if ids is None else tuple(ids)))
        self.turns.append({"role": self.role, "text": text, "items": list(items)})

    def _hear(self, text: str, line: str, items: Sequence[Mapping[str, Any]]) -> None:
        """The other party's utterance, with a line that this party alone reads."""
        self.messages.append(Message("user", f"{text}\n{line}" if line else text))
        other = USER if self.role == RECOMMENDER else RECOMMENDER
        self.turns.append({"role": other, "text": text, "items": list(items)})


class RecommenderView(View):
    """Knows the dialogue, facts of the items mentioned in it, and how to write.

    `facts`: what the catalogue says of the items that were just mentioned, also part of the last message.
    """

    role = RECOMMENDER

    def __init__(self, domain: Domain, style: Style | None = None) -> None:
        system = domain.system.recommender
        super().__init__(f"{system}\n{style.line}" if style else system, domain)
        self.style = style
        self.facts: list[ItemFacts] = []

    @classmethod
    def of(
        cls, turns: Sequence[Turn], domain: Domain, lookup: Lookup | None = None, style: Style | None = None
    ) -> Self:
        """The recommender's view after `turns`: built from their roles, texts and, with a `lookup`, items alone."""
        view = cls(domain, style)
        for number, turn in enumerate(turns, start=1):
            view.follow(turn, looked_up(turns[:number], lookup) if lookup and turn["role"] == USER else ())
        return view

    def hear(self, text: str, facts: Sequence[ItemFacts] = (), items: Sequence[Mapping[str, Any]] = ()) -> None:
        """An utterance of the user with its linked items, and what the catalogue says of items just mentioned."""
        self._hear(text, facts_line(facts, self.domain), items)
        self.facts = list(facts)

    def follow(self, turn: Turn, facts: Sequence[ItemFacts] = ()) -> None:
        """The next turn of a dialogue."""
        if turn["role"] == RECOMMENDER:
            self.say(turn["text"], items=turn.get("items", ()))
        else:
            self.hear(turn["text"], facts, turn.get("items", ()))


class UserView(View):
    """Knows the dialogue, its own summary, target attributes and private notes.

    `notes`: what the user remembers or thinks of the items just named, also part of the last message.
    """

    role = USER

    def __init__(self, knowledge: UserKnowledge) -> None:
        super().__init__(knowledge.system(), knowledge.domain)
        self.knowledge = knowledge
        self.notes: list[Note] = []

    @classmethod
    def of(cls, turns: Sequence[Turn], knowledge: UserKnowledge) -> Self:
        """The user's view after `turns`, each reply read with its notes."""
        view = cls(knowledge)
        for _ in replay(turns, view):
            pass
        return view

    def hear(self, text: str, notes: Sequence[Note] = (), items: Sequence[Mapping[str, Any]] = ()) -> None:
        """An utterance of the recommender with its linked items, and what the user privately knows of them."""
        self._hear(text, note_line(notes, self.domain), items)
        self.notes = list(notes)

    def follow(self, turn: Turn, notes: Iterable[Mapping[str, Any]] = ()) -> None:
        """The next turn of a dialogue; `notes`: those of the user's turn after it."""
        if turn["role"] == USER:
            self.say(turn["text"], items=turn.get("items", ()))
        else:
            self.hear(turn["text"], [Note.of(note) for note in notes], turn.get("items", ()))


def replay(
    turns: Sequence[Turn], user: UserView, lookup: Lookup | None = None, style: Style | None = None
) -> Iterator[View]:
    """For each turn of a recorded dialogue, the view that its speaker had before it.

    `user`: the user's view before the first turn; `lookup` and `style` are the recommender's. The two views grow as the
    iterator advances: read each at once.
    """
    recommender = RecommenderView(user.domain, style)
    for number, turn in enumerate(turns):
        yield user if turn["role"] == USER else recommender
        following: Turn = turns[number + 1] if number + 1 < len(turns) else {}
        user.follow(turn, following.get("notes", ()))
        facts = looked_up(turns[: number + 1], lookup) if lookup and turn["role"] == USER else ()
        recommender.follow(turn, facts)
