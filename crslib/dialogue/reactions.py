"""What a user's words say about an item just recommended: seen or not, liked or not. Phrases, not a model.

Two questions, each answered with yes, with no or not at all. `seen`: the user has met the item, as the domain's verbs
have it (seen, read, played, been to); `liked` of an item not seen means: would like to meet it.
The phrases were written on ReDial's training dialogues, where they can be compared with the seekers' own answers; the
same comparison on its test set is the human value of the consistency metrics.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain, alternatives
from crslib.dialogue.utterances import RECOMMENDER, item_key
from crslib.dialogue.views import Turn

# In a phrase `a|b` are alternatives, `*` means up to three words, `~` up to three adverbs and similar words, `^`
# and `$` the ends of the clause.
_GOOD = (
    "good|great|awesome|amazing|excellent|funny|hilarious|fantastic|fun|wonderful|cute|brilliant|classic|perfect|"
    "beautiful|incredible|cool|nice|decent|entertaining|interesting|best"
)
_FAVOURITE = "favorite|favorites|favourite|favourites|fav|favs|fave|faves"
_ADVERBS = "really|quite|particularly|all|too|so|much|a|an|very|big|huge|that|as|usually|think|i|we|would|will|am|be"
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
_THIS, _OTHER = "[=] ", "[]"  # "it [=]" is the item asked about, "[]" another item
_RUN_ON = re.compile(r"(?<=\] )(?=(?:and |so )?i )")  # "i love [] i have not seen [=]": people leave out the full stop


def _compile(*phrases: str) -> re.Pattern[str]:
    special = {"*": r"(?:\w+ ){0,3}?", "~": rf"(?:(?:{_ADVERBS}) ){{0,3}}", "^": "^", "$": "$"}
    parts = ([special.get(word, f"(?:{word}) ") for word in phrase.split()] for phrase in phrases)
    return re.compile("|".join(("" if part[0] == "^" else r"\b") + "".join(part) for part in parts))


class _Phrases(NamedTuple):
    """What a domain's user says of "it"."""

    seen_before: re.Pattern[str]
    unseen: re.Pattern[str]
    seen: re.Pattern[str]
    disliked: re.Pattern[str]
    liked: re.Pattern[str]
    asks_if_seen: re.Pattern[str]


@cache
def _phrases(domain: Domain) -> _Phrases:
    meeting, words = domain.meeting, alternatives(domain.words)
    it = f"it|this|that|them|those|these|both|one|ones|{words}"
    do, done, past, forms, plans = (
        alternatives(verbs) for verbs in (meeting.do, meeting.done, meeting.past, meeting.forms, meeting.plans)
    )
    missed, met = alternatives((*meeting.forms, *meeting.missed)), alternatives((*meeting.do, *meeting.done))
    once_more = alternatives((*meeting.plans, *meeting.done, *meeting.doing))
    planned = (
        f"will|gonna|should|must|might|may * {plans}|look|add|give|put|consider",
        f"want|wanted|wanting|need|have|going|plan|planning|like|love|meaning|waiting to * {plans}|look|add",
        f"let|lets me|us {plans}",
        "my list",
        "looking forward",
    )
    return _Phrases(
        seen_before=_compile(
            f"{once_more} * again",
            *([alternatives(meeting.again)] if meeting.again else []),
            "in * while|years|ages|time|forever",
            "long time",
        ),
        unseen=_compile(
            f"not * {missed}|heard",
            f"never * {forms}|heard|got",
            "have|had not $",
            "have|had not yet|but|either",
            "not yet",
            "not|un familiar",
            "unfamiliar",
            "new to me",
            "what is|was|s it|that about",
            "how is|was it|that",
            "is it|that * good|funny|scary|new|old|worth",
            *planned,
        ),
        seen=_compile(
            f"have|had|already|just|has * {done}",
            f"i|we|just|already|actually|recently * {past} * {it}",
            f"^ {past}",
            f"{it} was|were",
            f"loved|liked|enjoyed|hated|remember|love * {it}",
            f"my|all|of * {_FAVOURITE}",
            f"{alternatives(meeting.done[:1])} {it}|all",
        ),
        disliked=_compile(
            f"not|never ~ like|liked|care|enjoy|love|want|interest|appeal|fan|into|interested|impressed|{_GOOD}",
            "not ~ my|for thing|type|style|kind|cup|taste|me|us|favorite",
            "hate|hated|dislike|disliked|terrible|awful|horrible|worst|boring|bored|stupid|dumb|sucked|overrated|lame|cheesy",
            "garbage|annoying|creepy|gory|dull|corny|meh|trash|disappointed|disappointing|disappointment",
            "too scary|gory|violent|long|slow|old|sad|much|dark|silly|childish|weird|serious|bloody|cheesy",
            "not get into",
            f"will|would|could|can not {do}",
            "no thank|thanks|interest",
            "will pass",
            f"rather not|{do}|have",
            "skip",
        ),
        liked=_compile(
            f"love|loved|like|liked|enjoy|enjoyed|adore|adored * {it}",
            f"my|all|of|a * {_FAVOURITE}",
            f"is|was|are|were|so|really|pretty|very|such|as|a|an|looks|sounds|seems|look|sound * {_GOOD}",
            f"^ {_GOOD}",
            f"{_GOOD} {words}|one|ones|choice|choices|suggestion|suggestions|idea|pick|recommendation",
            f"heard * {_GOOD}|things",
            "interested in",
            *planned,
        ),
        asks_if_seen=_compile(f"have|did|had you|u|ya|ever * {met}"),
    )


_YES, _NO = _compile("^ yes|yeah|yep|yup|yea|ya|sure|absolutely"), _compile("^ no|nope|nah")
_ASKS = _compile("^ is|was|are|does|do|did|have|has|what|who|how|would|which")
_IT = _compile("it|that|this")
_ALL = _compile("both|all|any|either|neither|none|those|them|these|each")


@dataclass(frozen=True)
class Reaction:
    """Whether an item was seen and liked, according to the user's words or to a note; None: not answered."""

    seen: bool | None
    liked: bool | None


@dataclass(frozen=True)
class Reply:
    """What the user answers about an item (`item_key`) that was just named: in words (`says`) and in the note on it.

    Without a note its two answers are None.
    """

    item: str
    says: Reaction
    note: Reaction

    @property
    def agrees(self) -> bool | None:
        """Whether words and note agree in everything that both answer; None where they answer nothing in common."""
        answers = ((self.note.seen, self.says.seen), (self.note.liked, self.says.liked))
        both = [noted == says for noted, says in answers if noted is not None and says is not None]
        return all(both) if both else None


# ── one item ────────────────────────────────────────────────────────────────────────────────────────────────────────


def react(question: str, reply: Turn, item: str, domain: Domain, *, alone: bool) -> Reaction:
    """What the turn `reply` (text, items) says about `item` (`item_key`), which the utterance `question` named.

    A clause that names the item counts. A clause that names no item counts if the question named this item only
    (`alone`), if the clause speaks of all items ("both", "any"), or of "it" after a clause that named this item alone.
    A clause that names another item does not count. Where the clauses that count contradict one another, the answer is
    None.
    """
    asked = any(_phrases(domain).asks_if_seen.search(clause) for clause in clauses(utterances.plain(question))[-1:])
    stand_ins = (
        (mention["start"], mention["end"], f" it {_THIS} " if item_key(mention) == item else f" {_OTHER} ")
        for mention in reply["items"]
    )
    seen: list[bool] = []
    liked: list[bool] = []
    said = clauses(utterances.replace_spans(reply["text"], stand_ins))
    latest = False  # whether the item is the only one of the last clause that named any
    for number, clause in enumerate(part for one in said for part in _statements(one)):
        if "[" in clause:
            latest = clause.count("[") == 1 and _THIS in clause
        if _OTHER in clause or not (alone or _THIS in clause or _ALL.search(clause) or (latest and _IT.search(clause))):
            continue
        clause = clause.replace(_THIS, "")
        if (answer := says_seen(clause, domain, answers=asked and number == 0)) is not None:
            seen.append(answer)
        if (answer := says_liked(clause, domain)) is not None:
            liked.append(answer)
    return Reaction(_agreed(seen), _agreed(liked))


def _statements(clause: str) -> list[str]:
    """A clause, or where it names the item asked about and others, its parts that begin with "I" after an item."""
    return _RUN_ON.split(clause) if _THIS in clause and _OTHER in clause else [clause]


def clauses(text: str) -> list[str]:
    """The clauses of a text as the phrases read them: lower-case words with a blank after each, contractions spelt out.

    "I haven't seen it, but I will" gives "i have not seen it " and "i will ".
    """
    text = text.lower().replace("’", "'")
    for pattern, expanded in _CONTRACTIONS:
        text = pattern.sub(expanded, text)
    spelt = (" ".join(re.findall(r"\w+|\[=?\]", clause)) for clause in _CLAUSE.split(text))
    return [f"{clause} " for clause in spelt if clause]


def says_seen(clause: str, domain: Domain, *, answers: bool = False) -> bool | None:
    """Whether a clause (of `clauses`) says that "it" was seen; `answers`: it answers "have you seen it?"."""
    phrases = _phrases(domain)
    if phrases.seen_before.search(clause):
        return True
    if phrases.unseen.search(clause):
        return False
    if phrases.seen.search(clause) or (answers and _YES.search(clause)):
        return True
    return False if answers and _NO.search(clause) else None


def says_liked(clause: str, domain: Domain) -> bool | None:
    """Whether a clause (of `clauses`) says that "it" was liked, or would be."""
    if _ASKS.search(clause):
        return None
    if _phrases(domain).disliked.search(clause):
        return False
    return True if _phrases(domain).liked.search(clause) else None


def _agreed(answers: list[bool]) -> bool | None:
    return answers[0] if len(set(answers)) == 1 else None


# ── words and notes ─────────────────────────────────────────────────────────────────────────────────────────────────


def replies(before: Turn, turn: Turn, domain: Domain) -> list[Reply]:
    """What the user's `turn` answers about each item that the recommender's turn `before` named, in that order.

    Rows of table `turns`; the user's has the notes. Empty where `before` is the user's.
    """
    if before["role"] != RECOMMENDER:
        return []
    items = list(dict.fromkeys(map(item_key, before["items"])))
    notes = {item_key(note): Reaction(note["seen"], note["liked"]) for note in turn["notes"]}
    return [
        Reply(
            item,
            react(before["text"], turn, item, domain, alone=len(items) == 1),
            notes.get(item, Reaction(None, None)),
        )
        for item in items
    ]


def later(turn: Turn, history: Sequence[Turn], domain: Domain) -> list[Reply]:
    """What the user's `turn` says about items on which it got a note before (the last one counts), where it names them
    again, in that order. `history`: the turns before."""
    noted = {item_key(note): Reaction(note["seen"], note["liked"]) for before in history for note in before["notes"]}
    new = set(map(item_key, turn["notes"]))
    named = dict.fromkeys(item for item in map(item_key, turn["items"]) if item in noted and item not in new)
    return [Reply(item, react("", turn, item, domain, alone=False), noted[item]) for item in named]


def reaction(turn: Turn, history: Sequence[Turn], domain: Domain) -> float | None:
    """How well the user's `turn` agrees with its notes on the items just named, 0 to 1; None without such a note.

    `history`: the turns before. A note answers up to two questions: seen, and liked (or interested). If the user's
    words contradict any answer, the figure is 0; else the mean over questions of 1 (words agree) and 0.5 (no answer in
    the words). So 0.5 is a reply that leaves everything open.
    """
    scores = []
    for reply in replies(history[-1], turn, domain) if history else ():
        for noted, says in ((reply.note.seen, reply.says.seen), (reply.note.liked, reply.says.liked)):
            if noted is not None:
                scores.append(0.5 if says is None else float(says == noted))
    if not scores or 0 in scores:
        return 0.0 if scores else None
    return sum(scores) / len(scores)


def fits(turn: Turn, history: Sequence[Turn], domain: Domain) -> bool:
    """Whether the user's reply contradicts none of its notes, new ones (see `reaction`) and earlier ones."""
    return reaction(turn, history, domain) != 0 and all(
        reply.agrees is not False for reply in later(turn, history, domain)
    )
