"""What a user's words say about an item just recommended: seen or not, liked or not. Phrases, no model.

Two questions, each answered yes, no or not at all. `liked` of an item not seen means: would like to see it. The
phrases were written on ReDial's training dialogues, where they can be held against the seekers' own answers; the same
comparison on its test set is the human value of the consistency metrics. Knows nothing of notes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER

# In a phrase `a|b` are alternatives, `*` stands for up to three words, `~` for up to three adverbs and the like, `^`
# and `$` for the ends of the clause.
_FILM = "it|this|that|them|those|these|both|one|ones|movie|movies|film|films"
_SEE = "see|watch|check|rent|catch|try"
_GOOD = (
    "good|great|awesome|amazing|excellent|funny|hilarious|fantastic|fun|wonderful|cute|brilliant|classic|perfect|"
    "beautiful|incredible|cool|nice|decent|entertaining|interesting|best"
)
_FAVOURITE = "favorite|favorites|favourite|favourites|fav|favs|fave|faves"
_ADVERBS = "really|quite|particularly|all|too|so|much|a|an|very|big|huge|that|as|usually|think|i|we|would|will|am|be"
_PLAN = (
    f"will|gonna|should|must|might|may * {_SEE}|look|add|give|put|consider",
    f"want|wanted|wanting|need|have|going|plan|planning|like|love|meaning|waiting to * {_SEE}|look|add",
    f"let|lets me|us {_SEE}",
    "my list",
    "looking forward",
)
_UNSEEN = (
    "not * see|seen|saw|watch|watched|heard|viewed|caught",
    "never * see|seen|saw|watch|watched|heard|got",
    "have|had not $",
    "have|had not yet|but|either",
    "not yet",
    "not|un familiar",
    "unfamiliar",
    "new to me",
    "what is|was|s it|that about",
    "how is|was it|that",
    "is it|that * good|funny|scary|new|old|worth",
    *_PLAN,
)
_SEEN_BEFORE = (
    f"{_SEE}|seen|watched|watching * again",
    "rewatch|rewatched|rewatching",
    "in * while|years|ages|time|forever",
    "long time",
)
_SEEN = (
    "have|had|already|just|has * seen|watched",
    f"i|we|just|already|actually|recently * saw|watched|seen * {_FILM}",
    "^ saw|seen|watched",
    f"{_FILM} was|were",
    f"loved|liked|enjoyed|hated|remember|love * {_FILM}",
    f"my|all|of * {_FAVOURITE}",
    f"seen {_FILM}|all",
)
_LIKED = (
    f"love|loved|like|liked|enjoy|enjoyed|adore|adored * {_FILM}",
    f"my|all|of|a * {_FAVOURITE}",
    f"is|was|are|were|so|really|pretty|very|such|as|a|an|looks|sounds|seems|look|sound * {_GOOD}",
    f"^ {_GOOD}",
    f"{_GOOD} movie|movies|film|films|one|ones|choice|choices|suggestion|suggestions|idea|pick|recommendation",
    f"heard * {_GOOD}|things",
    "interested in",
    *_PLAN,
)
_DISLIKED = (
    f"not|never ~ like|liked|care|enjoy|love|want|interest|appeal|fan|into|interested|impressed|{_GOOD}",
    "not ~ my|for thing|type|style|kind|cup|taste|me|us|favorite",
    "hate|hated|dislike|disliked|terrible|awful|horrible|worst|boring|bored|stupid|dumb|sucked|overrated|lame|cheesy",
    "garbage|annoying|creepy|gory|dull|corny|meh|trash|disappointed|disappointing|disappointment",
    "too scary|gory|violent|long|slow|old|sad|much|dark|silly|childish|weird|serious|bloody|cheesy",
    "not get into",
    "will|would|could|can not watch|see",
    "no thank|thanks|interest",
    "will pass",
    "rather not|see|watch|have",
    "skip",
)

_CONTRACTIONS = tuple(
    (re.compile(pattern), expanded)
    for pattern, expanded in (
        (r"\b(have|had|has|did|do|does|was|is|were|would|could|should|are)n ?'?t\b", r"\1 not"),
        (r"\bca ?n'?t\b", "can not"),
        (r"\bwo ?n'?t\b", "will not"),
        (r"\b(i|we|they|you)'?ve\b", r"\1 have"),
        (r"\b(i|we|they|you|it|that)'ll\b", r"\1 will"),
        (r"\bill\b", "i will"),
        (r"\b(i|we|they|you)'d\b", r"\1 would"),
        (r"\bi'?m\b", "i am"),
        (r"\b(it|that|this|what)'s\b|\b(it|that|what)s\b", r"\1\2 is"),
    )
)
_CLAUSE = re.compile(r"[.!?;\n]+|\b(?:but|although|though|however)\b")
_THIS, _OTHER = "[=] ", "[]"  # follow "it" for the item asked about; stand for another item


def _compile(*phrases: str) -> re.Pattern[str]:
    special = {"*": r"(?:\w+ ){0,3}?", "~": rf"(?:(?:{_ADVERBS}) ){{0,3}}", "^": "^", "$": "$"}
    parts = ([special.get(word, f"(?:{word}) ") for word in phrase.split()] for phrase in phrases)
    return re.compile("|".join(("" if part[0] == "^" else r"\b") + "".join(part) for part in parts))


_SAYS_SEEN_BEFORE, _SAYS_UNSEEN, _SAYS_SEEN = _compile(*_SEEN_BEFORE), _compile(*_UNSEEN), _compile(*_SEEN)
_SAYS_DISLIKED, _SAYS_LIKED = _compile(*_DISLIKED), _compile(*_LIKED)
_ASKS_IF_SEEN = _compile("have|did|had you|u|ya|ever * see|seen|watch|watched")
_YES, _NO = _compile("^ yes|yeah|yep|yup|yea|ya|sure|absolutely"), _compile("^ no|nope|nah")
_ASKS = _compile("^ is|was|are|does|do|did|have|has|what|who|how|would|which")
_ALL = _compile("both|all|any|either|neither|none|those|them|these|each")


@dataclass(frozen=True)
class Reaction:
    """What was said about one item; None: nothing that the phrases know."""

    seen: bool | None
    liked: bool | None


def react(question: str, reply: str, named: Sequence[tuple[int, int, bool]], alone: bool) -> Reaction:
    """What `reply` says about one item that the turn `question` named (format v1 both).

    `named`: spans of the items in the reply and whether each is that item; `alone`: the question named no other.
    Clauses that name the item count; if it is alone also those that name none; else those that name none but speak of
    all of them. Clauses that contradict one another decide nothing.
    """
    asked = any(_ASKS_IF_SEEN.search(clause) for clause in _clauses(utterances.plain(question))[-1:])
    for start, end, same in sorted(named, reverse=True):
        reply = f"{reply[:start]} {f'it {_THIS}' if same else _OTHER} {reply[end:]}"
    seen: list[bool] = []
    liked: list[bool] = []
    for number, clause in enumerate(_clauses(reply)):
        if _OTHER in clause or not (alone or _THIS in clause or _ALL.search(clause)):
            continue
        clause = clause.replace(_THIS, "")
        if (says := _seen(clause, answers=asked and number == 0)) is not None:
            seen.append(says)
        if (says := _liked(clause)) is not None:
            liked.append(says)
    return Reaction(_agreed(seen), _agreed(liked))


def _seen(clause: str, answers: bool) -> bool | None:
    if _SAYS_SEEN_BEFORE.search(clause):
        return True
    if _SAYS_UNSEEN.search(clause):
        return False
    if _SAYS_SEEN.search(clause) or (answers and _YES.search(clause)):
        return True
    return False if answers and _NO.search(clause) else None


def _liked(clause: str) -> bool | None:
    if _ASKS.search(clause):
        return None
    if _SAYS_DISLIKED.search(clause):
        return False
    return True if _SAYS_LIKED.search(clause) else None


def _clauses(text: str) -> list[str]:
    text = text.lower().replace("’", "'")
    for pattern, expanded in _CONTRACTIONS:
        text = pattern.sub(expanded, text)
    found = (" ".join(re.findall(r"\w+|\[=?\]", clause)) for clause in _CLAUSE.split(text))
    return [f"{clause} " for clause in found if clause]


def _agreed(said: list[bool]) -> bool | None:
    return said[0] if len(set(said)) == 1 else None


Turn = Mapping[str, Any]  # a row of table `turns`


# ── the user ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reaction(turn: Turn, said: Sequence[Turn]) -> float | None:
    """Whether the user speaks of the items just named as the notes have it. None without a note on them.

    Each note answers up to two questions: seen, and liked (or interested). An answer to the contrary makes it 0. Else
    it is the mean over questions of 1 (said as noted) and 0.5 (not said): 0.5 is a reply that leaves all open.
    """
    before = said[-1] if said else None
    if before is None or before["role"] != RECOMMENDER:
        return None
    heard = {_key(mention) for mention in before["items"]}
    scores = []
    for note in turn["notes"]:
        if (key := _key(note)) not in heard:
            continue
        named = [(mention["start"], mention["end"], _key(mention) == key) for mention in turn["items"]]
        says = react(before["text"], turn["text"], named, alone=len(heard) == 1)
        for known, told in ((note["seen"], says.seen), (note["liked"], says.liked)):
            if known is not None:
                scores.append(0.5 if told is None else float(told == known))
    return _lowest_or_mean(scores)


def fits(turn: Turn, said: Sequence[Turn]) -> bool:
    """Whether no answer in the user's reply is contrary to its notes."""
    return reaction(turn, said) != 0


def _key(mention: Mapping[str, Any]) -> str:
    """An item, or a title in no catalogue."""
    return mention["item_id"] or f"title: {mention['title'].lower()}"


def _lowest_or_mean(found: Sequence[float]) -> float | None:
    if not found or 0 in found:
        return 0.0 if found else None
    return sum(found) / len(found)
