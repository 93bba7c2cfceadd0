"""The field's classical baseline of a user: a stack of dialogue acts, worked off by rules and said from templates.

Schatzmann et al., Agenda-Based User Simulation for Bootstrapping a POMDP Dialogue System (NAACL 2007); Zhang and Balog,
Evaluating Conversational Recommender Systems via User Simulation (KDD 2020). The agenda follows from the view alone, so
nothing is kept between turns. Knows only what a `UserView` has: no catalogue, no model, no held-out item.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from crslib import yaml_files
from crslib.config import resolve
from crslib.dialogue import claims, lexicon, reactions, stances, utterances
from crslib.dialogue.acts import Tagger
from crslib.dialogue.domain import Domain, fill
from crslib.dialogue.reactions import Reaction
from crslib.dialogue.utterances import RECOMMENDER, USER, item_key, mention, one_line
from crslib.dialogue.views import NOTE_KINDS, Note, UserView
from crslib.errors import CrsError

PHRASES = resolve("data/prompts/agenda.yaml")
Phrases = Mapping[str, Sequence[str]]
"""Wordings of each act."""

# How many it takes until the user leaves: (number, share of users). People in ReDial speak 3 to 9 times (90 %), 5 times
# in the median, and accept about two items that they have not seen.
_ACCEPTED = ((1, 0.3), (2, 0.4), (3, 0.3))
_FAILURES = ((3, 0.4), (4, 0.3), (5, 0.3))  # turns in a row that name items, none of which the user likes
_PATIENCE = ((6, 0.2), (7, 0.25), (8, 0.25), (9, 0.2), (10, 0.1))  # own turns
WISH_TURNS = 3  # own turns in which the wish is told
_ALL_AT_ONCE, _ASKS, _TASTE = 0.4, 0.25, 0.3  # chances: whole wish in one turn; question about an item; a taste told
_AT_MOST = 3  # items of one turn that the user talks about

_READS: Mapping[str, Reaction] = {
    "seen_liked": Reaction(True, True),
    "seen_disliked": Reaction(True, False),
    "unseen_interested": Reaction(False, True),
    "unseen_uninterested": Reaction(False, False),
    "seen": Reaction(True, None),
    "unseen": Reaction(False, None),
}
"""What each act on an item says of it; all others say nothing of one."""
_PLACEHOLDER: Mapping[str, str] = {
    **dict.fromkeys(("greet", "open", "answered", "more", "another", "satisfied", "fed_up", "bye", "what_none"), ""),
    **dict.fromkeys(("ask_who", "ask_about"), ""),
    **dict.fromkeys(("wish", "wish_more", "wish_again"), "what"),
    **dict.fromkeys(("what_kind", "taste_kind"), "kind"),
    **dict.fromkeys(("loved", "disliked"), "title"),
    **dict.fromkeys((*_READS, "unknown", "repeated"), "it"),
}
"""The placeholder of each act's wordings; empty for none."""
_OPPOSITE = ((True, False), (False, True))
_GOODBYE = re.compile(r"\b(?:bye|goodbye|good night|take care|have a (?:good|great|nice|wonderful))\b")


@dataclass(frozen=True)
class Said:
    """What the user says, and whether it leaves with it."""

    text: str
    leaves: bool


# ── wordings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_phrases(domain: Domain, path: Path = PHRASES) -> Phrases:
    """The wordings of a YAML mapping of acts to lists, and those of a domain, which come first where both have an act.

    Raises `CrsError` when the file cannot be read, for an act that is missing, empty or unknown, for a wording without
    the act's placeholder or with another, and for one that says of an item something else than its act.
    """
    general = yaml_files.read_as(path, TypeAdapter(dict[str, list[str]]), "phrases of the agenda user")
    phrases: dict[str, Sequence[str]] = {**general, **domain.agenda}

    def where(act: str) -> str:
        return f"the domain {domain.name}" if act in domain.agenda else str(path)

    for act in (*_PLACEHOLDER, *phrases):
        if act not in _PLACEHOLDER:
            raise CrsError(f"{where(act)} has an unknown act {act!r}; known are {', '.join(_PLACEHOLDER)}")
        if not phrases.get(act):
            raise CrsError(f"{where(act)} has no wording for {act!r}, nor has the domain; give one or more")
        for wording in phrases[act]:
            if fault := _fault(wording, act, domain):
                raise CrsError(f"{where(act)}: {wording!r} of {act!r} {fault}")
    return phrases


def _fault(wording: str, act: str, domain: Domain) -> str:
    """What is wrong with a wording; empty where nothing is."""
    name = _PLACEHOLDER[act]
    if re.findall(r"{[^{}]*}", wording) != [f"{{{name}}}"] * bool(name) or wording.count("{") + wording.count("}") > 2:
        return f"needs {f'{{{name}}} once' if name else 'no placeholder'} and nothing else in braces"
    if not wording.strip() or utterances.clean(wording) != wording or "[" in wording:
        return "is not one line of text without brackets"
    if act.startswith("what_"):
        return ""
    if act.startswith("ask_"):
        asked = claims.questions({"text": wording, "items": []}, domain)
        return "" if asked == [act.removeprefix("ask_")] else "is not read as such a question; word it otherwise"
    expected = _READS.get(act, Reaction(None, None))
    asks = f"have you {domain.meeting.done[0]} it?"
    for it, alone, question in (("it", True, "it"), ("it", True, asks), (mention("x"), False, "it")):
        text = wording.replace(f"{{{name}}}", {"it": it, "title": mention("y")}.get(name, "x")) if name else wording
        items = [{"item_id": name, "title": name, "start": a, "end": b} for name, a, b in utterances.mentions(text)]
        says = reactions.react(question, {"text": text, "items": items}, "x", domain, alone=alone)
        if says != expected:
            return f"is read as {_in_words(says, domain)}, not as {_in_words(expected, domain)}; word it otherwise"
    return ""


def _in_words(reaction: Reaction, domain: Domain) -> str:
    return Note("", reaction.seen, reaction.liked).words(domain) or "nothing about an item"


# ── the dialogue so far ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Past:
    """What the user's own words so far come to. `accepted`: items not seen that it would like to see, by `item_key`;
    `failures`: how many of the recommender's turns in a row named items, none of them liked."""

    accepted: frozenset[str]
    failures: int


def _past(turns: Sequence[Mapping[str, Any]], domain: Domain) -> _Past:
    accepted: set[str] = set()
    failures = 0
    for before, turn in pairwise(turns):
        if before["role"] == RECOMMENDER and turn["role"] == USER and before["items"]:
            says = {reply.item: reply.says for reply in reactions.replies(before, {**turn, "notes": []}, domain)}
            accepted |= {item for item, reaction in says.items() if reaction.liked and not reaction.seen}
            failures = 0 if any(reaction.liked for reaction in says.values()) else failures + 1
    return _Past(frozenset(accepted), failures)


def _reached(limits: Iterable[tuple[int, float]], before: int, now: int, rng: random.Random) -> bool:
    """Whether a limit that was not reached at `before` is reached at `now`.

    To draw this at every step is the same as to draw the limit once before the dialogue: the agenda needs no memory.
    """
    left = sum(share for limit, share in limits if limit > before)
    reached = sum(share for limit, share in limits if before < limit <= now)
    return reached > 0 and rng.random() * left < reached


# ── the next turn ───────────────────────────────────────────────────────────────────────────────────────────────────


def say(view: UserView, seed: int, phrases: Phrases, tagger: Tagger) -> Said:
    """What the user says next: the same words for the same view and seed.

    Titles are those of its knowledge and of the dialogue. What it says of items agrees with its notes.
    """
    return _Turn(view, random.Random(seed), phrases, tagger).say()


class _Turn:
    """One turn of the user: the agenda is read off the view, worked off, and worded."""

    def __init__(self, view: UserView, rng: random.Random, phrases: Phrases, tagger: Tagger) -> None:
        self._view, self._rng, self._phrases = view, rng, phrases
        self._own = [turn for turn in view.turns if turn["role"] == USER]
        self._before = {item_key(item) for turn in view.turns[:-1] for item in turn["items"]}
        self._named = {item["title"].lower() for turn in view.turns for item in turn["items"]}
        self._used = " ".join(turn["text"].lower() for turn in self._own)
        self._heard = view.turns[-1] if view.turns and view.turns[-1]["role"] == RECOMMENDER else None
        self._items = {} if self._heard is None else _titles(self._heard)
        self._new = {key: title for key, title in self._items.items() if key not in self._before}
        self._asks = self._heard is not None and ("?" in self._heard["text"] or "request" in _acts(view, tagger))
        self._asked = bool(self._own) and bool(claims.questions(self._own[-1], view.domain))

    def say(self) -> Said:
        if self._heard is None and self._rng.random() < 0.25:
            return Said(self._word("greet"), False)
        about = self._about_items()
        next_acts, leaves = self._next()
        greeting = [self._word("greet")] if not self._own and not about and self._rng.random() < 0.6 else []
        text = _joined([*greeting, *about, *next_acts])
        if not self._agrees(text):  # a name in it reads like a judgement
            text = _joined(about or [self._word("another")])
        return Said(text, leaves)

    # what was named

    def _about_items(self) -> list[str]:
        """What the user says of the items just named; of one that was named before only if it is the only one."""
        said = []
        for title in list(self._new.values())[:_AT_MOST]:
            alone = len(self._items) == 1 and self._rng.random() < 0.7
            said.append(self._word(self._kind(title), it="it" if alone else mention(title)))
        if self._items and not self._new and not self._asked:
            said.append(self._word("repeated", it=mention(next(iter(self._items.values())))))
        elif self._asked and not self._new:
            said.append(self._word("answered"))
        return said

    def _kind(self, title: str) -> str:
        note = self._note(title)
        if note.liked is None:
            return {True: "seen", False: "unseen", None: "unknown"}[note.seen]
        return NOTE_KINDS[bool(note.seen), note.liked]

    def _note(self, title: str) -> Note:
        return next((note for note in self._view.notes if note.name == title), Note(title, None, None))

    # what is on the agenda

    def _next(self) -> tuple[list[str], bool]:
        """What follows, and whether the user leaves with it."""
        kinds = [self._kind(title) for title in list(self._new.values())[:_AT_MOST]]
        liked = any(kind in ("seen_liked", "unseen_interested") for kind in kinds)
        if self._own and not self._new and _GOODBYE.search(self._heard["text"].lower() if self._heard else ""):
            return [self._word("bye")], True
        if "unseen_interested" in kinds and not self._asked and self._rng.random() < _ASKS:
            return [self._word(self._rng.choice(("ask_who", "ask_about")))], False
        if end := self._end(kinds.count("unseen_interested"), liked):
            return [self._word(end)], True
        if wish := self._wish():
            return [wish], False
        if not self._new and (self._asks or not self._asked):
            return [self._answer()], False
        if self._rng.random() < _TASTE and (taste := self._taste()):
            return [taste, self._word("more" if liked else "another")], False
        return [self._word("more" if liked or self._asked else "another")], False

    def _end(self, n_accepted: int, liked: bool) -> str:
        """The act to leave with; empty: the user stays.

        Nobody leaves while an answer is owed: what was accepted with a question is counted a turn later.
        """
        past = _past(self._view.turns, self._view.domain)
        decided = _past(self._view.turns[:-2], self._view.domain).accepted if self._asked else past.accepted
        accepted = len(past.accepted) + n_accepted
        if _reached(_ACCEPTED, len(decided), accepted, self._rng):
            return "satisfied"
        failures = 0 if liked else past.failures + bool(self._items and not self._asked)
        fed_up = _reached(_FAILURES, past.failures, failures, self._rng)
        out_of_patience = _reached(_PATIENCE, len(self._own), len(self._own) + 1, self._rng)
        if fed_up or out_of_patience:
            return "satisfied" if accepted and not fed_up else "fed_up"
        return ""

    def _wish(self) -> str:
        """The next part of the wish, or all that is left of it, until it is told; empty afterwards."""
        told = [utterances.replace_mentions(turn["text"], " , ") for turn in self._own]
        left = [part for part, says in self._parts() if not any(says(text) for text in told)]
        if not left or len(self._own) >= WISH_TURNS:
            return ""
        last = len(self._own) == WISH_TURNS - 1
        parts = left if last or self._rng.random() < _ALL_AT_ONCE else left[:1]
        first = not any(self._word_of("what_none") in text for text in told)
        return self._word("wish" if first else "wish_more", what=self._what(parts))

    def _answer(self) -> str:
        """To a question or a statement about no new item."""
        parts = [part for part, _ in self._parts()]
        if (not parts or self._rng.random() < 0.5) and (taste := self._taste()):
            return taste
        if parts and self._rng.random() < 0.6:
            return self._word("wish_again", what=self._what(parts))
        return self._word("open")

    def _taste(self) -> str:
        """Something the user liked or did not like, twice in a dialogue at most; empty where nothing is left."""
        knowledge = self._view.knowledge
        told = sum(name.lower() in self._named for name in (*knowledge.loved, *knowledge.disliked))
        fresh = {
            act: [name for name in names if one_line(name) and name.lower() not in self._named]
            for act, names in (("loved", knowledge.loved), ("disliked", knowledge.disliked))
        }
        act = "disliked" if self._rng.random() < 0.15 else "loved"
        if fresh[act] and told < 2:
            return self._word(act, title=mention(one_line(self._rng.choice(fresh[act]))))
        kinds = [] if knowledge.wishes.kinds else self._summary_kinds()
        return self._word("taste_kind", kind=self._rng.choice(kinds)) if kinds and not told else ""

    def _summary_kinds(self) -> list[str]:
        """Kinds that the summary speaks of, but for those it refuses."""
        knowledge, domain = self._view.knowledge, self._view.domain
        summary = knowledge.summary
        for name in (*knowledge.loved, *knowledge.disliked):
            summary = summary.replace(name, " ")
        clauses = lexicon.clauses(summary)
        refused = {kind for words, sign in clauses if sign < 0 for kind in lexicon.kinds(words, domain)}
        return sorted({kind for words, sign in clauses if sign > 0 for kind in lexicon.kinds(words, domain)} - refused)

    # words

    def _parts(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """((kind, value), whether a text says it) of each part of the wish that has a name to say."""
        wishes = self._view.knowledge.wishes
        parts = [("kind", kind.lower()) for kind in wishes.kinds]
        parts += [("decade", str(wishes.decade))] if wishes.decade is not None else []
        parts += [(kind, name) for kind, name in (("person", wishes.person), ("maker", wishes.maker)) if name]
        parts += sorted(wishes.attributes)
        profile = {f"target_{kind}": getattr(wishes, kind) for kind in ("kinds", "decade", "person", "maker")}
        profile["target_attributes"] = [{"name": name, "value": value} for name, value in wishes.attributes]
        for (kind, value), (_, says) in zip(parts, stances.wishes(profile, self._view.domain), strict=True):
            if sayable := _outside_mentions(value):
                yield (kind, sayable), says

    def _what(self, parts: Sequence[tuple[str, str]]) -> str:
        """Parts of a wish as a noun phrase: kinds and noun, then the domain's phrases, as "… from the 1990s with …"."""
        kinds, wish = "/".join(value for kind, value in parts if kind == "kind"), self._view.domain.wish
        phrases = {"decade": wish.decade, "person": wish.person, "maker": wish.maker, **wish.attributes}
        words = [self._word_of("what_kind", kind=kinds) if kinds else self._word_of("what_none")]
        words += [fill(phrases.get(kind) or "{value}", value=value) for kind, value in parts if kind != "kind"]
        return " ".join(words)

    def _word_of(self, act: str, **values: str) -> str:
        return fill(self._phrases[act][0], **values)

    def _word(self, act: str, **values: str) -> str:
        """A wording of an act, one that was not used before if there is any left."""
        wordings = [fill(wording, **values) for wording in self._phrases[act]]
        fresh = [wording for wording in wordings if wording.lower() not in self._used]
        drawn = self._rng.choice(fresh or wordings)
        self._used += f" {drawn.lower()}"
        return drawn

    def _agrees(self, text: str) -> bool:
        """Whether the text contradicts none of the notes, as the project's own reader has it."""
        if self._heard is None:
            return True
        keys = {title.lower(): key for key, title in self._items.items()}
        mentioned = [
            {"item_id": keys.get(name.lower()), "title": name, "start": start, "end": end}
            for name, start, end in utterances.mentions(text)
        ]
        for key, title in self._items.items():
            note, turn = self._note(title), {"text": text, "items": mentioned}
            says = reactions.react(self._heard["text"], turn, key, self._view.domain, alone=len(self._items) == 1)
            if (says.seen, note.seen) in _OPPOSITE or (says.liked, note.liked) in _OPPOSITE:
                return False
        return True


def _titles(turn: Mapping[str, Any]) -> dict[str, str]:
    """The titles of the items that a turn names, by `item_key`."""
    titles: dict[str, str] = {}
    for item in turn["items"]:
        titles.setdefault(item_key(item), item["title"])
    return titles


def _acts(view: UserView, tagger: Tagger) -> list[str]:
    """The dialogue acts of the last turn."""
    rows = [("", number, turn["role"], turn["text"]) for number, turn in enumerate(view.turns)]
    schema = {"dialogue_id": pl.String, "turn": pl.Int32, "role": pl.String, "text": pl.String}
    tagged = tagger.tag(pl.DataFrame(rows, schema=schema, orient="row"))
    return tagged.filter(turn=len(rows) - 1)["act"].to_list()


def _outside_mentions(value: str) -> str:
    """A name as words of an utterance: on one line, and no mention of an item."""
    return one_line(value).replace("[", "(").replace("]", ")")


def _joined(parts: Sequence[str]) -> str:
    """Parts as sentences of one utterance; people do not put a full stop after the last."""
    return " ".join(part if part[-1] in ".!?" or part is parts[-1] else f"{part}." for part in parts)
