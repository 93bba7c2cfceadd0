"""What words say about items, in informal English: praise and blame, kinds, decades, refusals.

Word lists and patterns for talk, without statistics. All modules that need such words take them from here; only
`reactions` has phrases of its own, for a user's answer about one item. What changes from domain to domain is in the
`Domain` that the functions get. Knows nothing of catalogues and models.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain, alternatives

_SOME = frozenset(("something", "anything"))
_SPELLINGS = [
    (re.compile(r"\bsci(ence)?[ -]?fi(ction)?\b"), "scifi"),
    (re.compile(r"\brom[ -]?coms?\b"), "romantic comedy"),
    (re.compile(r"[’`]"), "'"),
]
_DECADES = {"fifties": 50, "sixties": 60, "seventies": 70, "eighties": 80, "nineties": 90}
_OLD = re.compile(r"\b(old|older|oldies?|classics?)\b")
_CLAUSE = re.compile(r"[.!?;,]+|\b(?:but|though|although|however)\b")
_TOKEN = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_SENTENCE = re.compile(r"[.!?;]+|\b(?:but|though|although|however)\b")
_NEGATOR = re.compile(
    r"\b(no|not|never|nothing|without|neither|nor|can't|cannot|cant|\w+n't|dont|didnt|doesnt|isnt|wasnt)\b"
)
_NO_NEGATION = re.compile(r"\b(not only|not just|no problem|no worries|why not|not sure|don't mind|dont mind)\b")
_REFUSAL = re.compile(r"\b(hate[sd]?|dislike[sd]?|except|avoid|tired of|sick of|scared of|less)\b")
_GOOD = re.compile(
    r"\b(love[sd]?|like[sd]?|enjoy(?:ed|s)?|favou?rites?|great|good|awesome|amazing|best|fan|excellent|fantastic"
    r"|wonderful|funny|hilarious|classic|perfect|fun|cool|interesting|interested)\b"
)
_BAD = re.compile(
    r"\b(hate[sd]?|dislike[sd]?|terrible|awful|boring|bored|worst|bad|stupid|horrible|overrated|disappoint\w*|sucked"
    r"|lame|dumb|ruined|meh)\b"
)
_YES = re.compile(
    r"^\W*(yes|yeah|yep|yup|sure|definitely|absolutely|of course|ok|okay|oh yes|i do|i did|i love|i have)\b"
)
_NO = re.compile(r"^\W*(no|nope|nah|not really|not a fan|i don't|i dont|i do not|i didn't|i hate)\b")


# Function words, and words that are frequent in talk about items. scikit-learn's list of stop words is not used: it has
# "bill", "fire" and "twelve", which are words of titles, and takes 90 MiB to import.
FUNCTION_WORDS = _TOKEN.findall(
    "a an the this that these those some any each every either neither both all few many much more most less least"
    " other others another such same one two three first last own enough several none"
    " i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers"
    " herself it its itself they them their theirs themselves who whom whose which what whatever whoever"
    " someone something somebody anyone anything anybody everyone everything everybody noone nothing nobody"
    " am is are was were be been being have has had having do does did doing done can could may might must shall should"
    " will would cannot cant couldnt hasnt isnt get got go going make made give put take say said seem seemed seems"
    " about above across after against along among around as at before behind below beneath beside between"
    " besides beyond by down during except for from in inside into of off on onto out over per since than through"
    " throughout till to together toward towards under until up upon via with within without"
    " and but or nor so yet if because although though while whereas whether unless however therefore thus hence"
    " no not never ever always often sometimes already still again almost also too very quite rather just only even"
    " else then there here now when where why how once perhaps maybe well back please further away elsewhere"
)
_FREQUENT_WORDS = _TOKEN.findall(
    "like liked likes love loved good great best really"
    " think know want looking look thing things time don't i'm it's kind heard recommend recommendation suggestion"
    " thanks thank hello yes haven't new old man men day night life story big little girl boy years"
)


@cache
def common(domain: Domain) -> frozenset[str]:
    """Words by which no item can be recognised."""
    return frozenset((*FUNCTION_WORDS, *_FREQUENT_WORDS, *domain.common))


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────


def tokens(text: str) -> list[str]:
    """The words of a text, lower-cased, in one spelling ("sci fi" and "science fiction" are "scifi")."""
    return _TOKEN.findall(_normalised(text))


def clauses(text: str) -> list[tuple[list[str], float]]:
    """The words of each clause outside mentions, with 1, or -1 where the clause has a negation or refusal."""
    rows = []
    for clause in _CLAUSE.split(_normalised(utterances.replace_mentions(text, " , "))):
        if words := _TOKEN.findall(clause):
            refused = _NEGATOR.search(_NO_NEGATION.sub(" ", clause)) or _REFUSAL.search(clause)
            rows.append((words, -1.0 if refused else 1.0))
    return rows


@cache
def kinds_of(domain: Domain) -> Mapping[str, Sequence[str]]:
    """The kinds of a domain by each word for them."""
    kinds: dict[str, list[str]] = {}
    for kind, names in domain.kinds.items():
        for name in names:
            kinds.setdefault(name.removesuffix("?"), []).append(kind)
    return kinds


@cache
def _judging(domain: Domain) -> frozenset[str]:
    """Words that judge an item more often than they ask for a kind."""
    return frozenset(name[:-1] for names in domain.kinds.values() for name in names if name.endswith("?"))


def kinds(words: Sequence[str], domain: Domain) -> list[str]:
    """The kinds that the words of a clause (see `tokens`) name, in order; a word may name two."""
    of_word = kinds_of(domain)
    return [kind for word in words for kind in of_word.get(word, ())]


@cache
def _name(kind: str) -> list[str]:
    return tokens(kind)


def asks_for(kind: str, words: Sequence[str], domain: Domain) -> bool:
    """Whether the words of a clause (see `tokens`) speak of items of `kind`: by its own name or a word for it.

    Stricter than `kinds`: a word that mostly judges an item ("it was funny") counts only in phrases like "funny" with
    the domain's noun, and "something funny".
    """
    name = _name(kind)
    if name and any(list(words[start : start + len(name)]) == name for start in range(len(words))):
        return True
    of_word, judging, nouns = kinds_of(domain), _judging(domain), {*domain.words, *domain.slang}
    return any(
        kind.lower() in of_word.get(word, ()) and (word not in judging or before in _SOME or after in nouns)
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
    )


@cache
def _times(domain: Domain) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What reads a decade, a year, and a wish for something new."""
    centuries, recent = "|".join(map(str, domain.time.centuries)), alternatives(domain.time.recent)
    return (
        re.compile(rf"\b(?:({centuries})?(\d)0'?s|({'|'.join(_DECADES)}))(?![a-z])"),
        re.compile(rf"\b(?:{centuries})\d\d\b"),
        re.compile(
            rf"\b(new|newer|newest|recent|recently|latest|this year|came out{f'|{recent}' if recent else ''})\b"
        ),
    )


def decades(text: str, domain: Domain, *, years: bool = False) -> list[int]:
    """The decades that are named: 1990 for "90s" and "nineties", 2010 for "10s"; with `years` also for "1994"."""
    decade_named, year_named, _ = _times(domain)
    named = []
    for match in decade_named.finditer(text):
        decade = _DECADES.get(match[3] or "") or int(match[2]) * 10
        named.append((int(match[1]) * 100 if match[1] else 1900 if decade >= 30 else 2000) + decade)
    return named + [int(year) // 10 * 10 for year in year_named.findall(text) if years]


def years(text: str, domain: Domain) -> list[int]:
    """The years that are named."""
    return [int(year) for year in _times(domain)[1].findall(text)]


def periods(text: str, domain: Domain) -> list[int]:
    """The times that are named, as `Domain.period` has them: decades, years or none."""
    return {10: decades(text, domain, years=True), 1: years(text, domain)}.get(domain.time.span, [])


def age(text: str, domain: Domain) -> set[str]:
    """`new`, `old` or both, where the words ask for it."""
    return {name for name, pattern in (("new", _times(domain)[2]), ("old", _OLD)) if pattern.search(text)}


# ── praise and blame ────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _not_met(domain: Domain) -> re.Pattern[str]:
    """What says that an item was not met, which is no judgement of it."""
    return re.compile(
        r"\b(?:have ?n[o']?t|has ?n[o']?t|never|not|did ?n[o']?t|havent|didnt)(?: \w+){0,2} "
        rf"(?:{alternatives((*domain.meeting.forms, 'heard'))})\b"
    )


def polarity(text: str, domain: Domain) -> int:
    """1 where `text` praises something, -1 where it criticises something, 0 where it does not judge.

    "not bad" is praise, "not a fan" is criticism, and "have not seen it" no judgement.
    """
    score = 0
    for clause in _CLAUSE.split(_not_met(domain).sub(" ", _normalised(text))):
        negated = bool(_NEGATOR.search(_NO_NEGATION.sub(" ", clause)))
        verdict = bool(_GOOD.search(clause)) - bool(_BAD.search(clause))
        score += -verdict if negated else verdict
    return (score > 0) - (score < 0)


def answer(text: str, domain: Domain) -> int:
    """The user's judgement, in a reply, of what the recommender has just named: 1, -1 or 0.

    The reply's `polarity`; where that is 0, a yes (1) or no (-1) at its beginning.
    """
    if verdict := polarity(text, domain):
        return verdict
    text = _not_met(domain).sub(" ", _normalised(text))
    return bool(_YES.search(text)) - bool(_NO.search(text))


def around(text: str, domain: Domain) -> list[int]:
    """The polarity of the sentence around each mention of `text`."""
    polarities = []
    for sentence in _SENTENCE.split(utterances.replace_mentions(text, "\ue000")):
        polarities += [polarity(sentence.replace("\ue000", " it "), domain)] * sentence.count("\ue000")
    return polarities


def _normalised(text: str) -> str:
    text = text.casefold()
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text
