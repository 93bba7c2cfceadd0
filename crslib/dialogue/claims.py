"""What a turn states of an item's persons and year, whether it is so by the catalogue, and what it asks about an item.

Rules and phrases, not a model; written on ReDial's training dialogues. A statement that the phrases do not recognise is
not read; one that the catalogue cannot decide has no truth. Knows nothing of metrics and models.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from crslib.dialogue import lexicon, utterances
from crslib.dialogue.credits import CAST, MAKER, PERSON, YEAR, Credits, name_key
from crslib.dialogue.domain import Domain, alternatives
from crslib.dialogue.questions import ITEM, N_ITEMS, WHEN, WHO, asking, questions
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import Turn

MIN_CONTENT = 3  # words of content that answer what an item is about
_REACH = 4  # turns back to an item that is still at hand


class Claim(NamedTuple):
    """A statement that item `item_id` has a person (`kind` cast, maker or, in either role, person) or a year.

    `value`: the name as written, a year ("1999") or a decade ("1990s"). `true`: by the catalogue; None where it has no
    such facts of the item, or has the person among its makers where the statement is that it is in it.
    """

    item_id: str
    kind: str
    value: str
    true: bool | None


# ── sentences as the phrases read them ──────────────────────────────────────────────────────────────────────────────

# In a sentence as read, one private-use character stands for a name, an item or a year. Such characters are in no text.
_NAME, _ITEM, _TIME = 0xE100, ITEM, ITEM + N_ITEMS
_N, _I, _Y = (f"[{chr(start)}-{chr(start + 0x2FF)}]" for start in (_NAME, _ITEM, _TIME))
_SENTENCE = re.compile(r"(?<!\b[A-Z])(?<!\bJr)(?<!\bSr)(?<!\bMr)(?<!\bDr)(?<!\bSt)([.!?;\n]+)")
_TOKEN = re.compile(r"[\ue400-\ue6ff]|[^\W_]+(?:['’`-][^\W_]+)*|[,&]")
_PARTICLES = frozenset(
    re.findall(
        r"\w+",
        "de da del der di du la le van von bin mc st al el ben",
    )
)
_INTERJECTIONS = frozenset(
    re.findall(
        r"\w+",
        "yes yeah yep oh ok okay sure hi hey lol haha wow awesome im its thats theres hes shes youll youd",
    )
)


@cache
def no_names(domain: Domain) -> frozenset[str]:
    """Words that are no names, whatever their capitals."""
    return frozenset((*lexicon.common(domain), *_INTERJECTIONS, *domain.claims.no_names))


class _Sentence(NamedTuple):
    text: str  # lower-case words between blanks; names, items and years as one character each
    names: list[tuple[str, bool]]  # a name as written, and whether it is sure to be one
    years: list[str]
    asks: bool


def _sentences(text: str, items: Sequence[Mapping[str, Any]], near: Iterable[str], credits: Credits) -> list[_Sentence]:
    spans = [(item["start"], item["end"], f" {chr(_ITEM + place)} ") for place, item in enumerate(items)]
    parts = _SENTENCE.split(utterances.plain(utterances.replace_spans(text, spans[: _TIME - _ITEM])))
    family = {key.rpartition(" ")[2] for key in near}
    family = {name for name in family if len(name) > 3 and name not in no_names(credits.domain)}
    return [
        _read(part, "?" in mark, family, credits) for part, mark in zip(parts[::2], [*parts[1::2], ""], strict=True)
    ]


def _read(text: str, asks: bool, family: set[str], credits: Credits) -> _Sentence:
    tokens = _TOKEN.findall(text.replace("’", "'"))
    read: list[str] = []
    names: list[tuple[str, bool]] = []
    years: list[str] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if (length := _name(tokens, place, family, credits)) and len(names) < _ITEM - _NAME:
            name = re.sub(r"'s?$", "", " ".join(tokens[place : place + length]))
            read.append(chr(_NAME + len(names)))
            names.append((name, length > 1))
            place += length
            continue
        if (time := _time(token, credits.domain)) and len(years) < 0x2FF:
            read.append(chr(_TIME + len(years)))
            years.append(time)
        else:
            read.append(token.lower().replace("'", "").replace("-", " "))
        place += 1
    return _Sentence(" ".join(read), names, years, asks)


def _name(tokens: Sequence[str], place: int, family: set[str], credits: Credits) -> int:
    """How many tokens from `place` on are a person's name: one in the catalogue, words with capitals, or the family
    name of a person of an item at hand; 0 for none."""
    run = [re.sub(r"'s?$", "", token) for token in tokens[place : place + 4]]
    end = next((n for n, token in enumerate(run) if not token[0].isalpha()), len(run))
    no_name = no_names(credits.domain)
    for length in range(end, 1, -1):
        words = run[:length]
        if name_key(" ".join(words)) in credits.persons and not all(word.lower() in no_name for word in words):
            return length
    length = 0
    while length < end and (_capital(run[length], no_name) or (length and run[length].lower() in _PARTICLES)):
        length += 1
    if length and run[length - 1].lower() in _PARTICLES:
        length -= 1
    # A name of the catalogue within the words with capitals begins later: leave what stands before it.
    for start in range(1, length):
        if any(name_key(" ".join(run[start:stop])) in credits.persons for stop in range(start + 2, end + 1)):
            return start if start > 1 else 0
    if length:
        return length
    return int(bool(end) and name_key(run[0]) in family)


def _capital(token: str, no_name: Container[str]) -> bool:
    return token[0].isupper() and not (token.isupper() and len(token) > 3) and token.lower() not in no_name


def _time(token: str, domain: Domain) -> str:
    if lexicon.years(token, domain) and len(token) == 4:
        return token
    decades = lexicon.decades(token.lower(), domain)
    return f"{decades[0]}s" if decades else ""


# ── phrases ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_L = rf"({_N}(?:(?: ,)?(?: and| &| with| as well as| along with)? {_N})*)"
_ANY = r"(?:\w+ ){0,2}?"
_BE = r"(?:is|are|was|were)"


@cache
def _phrases(domain: Domain) -> Sequence[tuple[str, re.Pattern[str], bool]]:
    """Kind, phrase, and whether it takes words with capitals that are no name in the catalogue."""
    words = domain.claims
    here = f"(?:it|this|that|there|both|{_I}|the (?:{alternatives(words.here)}))"
    work = f"(?:{alternatives(words.works)})s?"
    stars, people, makers = (f"(?:{alternatives(some)})" for some in (words.stars, words.people, words.maker))
    has_people = bool(words.people)
    # A phrase without words of the domain is left out.
    phrases = (
        (MAKER, words.made, rf"\b(?:{alternatives(words.made)})(?: and \w+)? by {_ANY}{_L}", True),
        (MAKER, words.maker, rf"\b{makers}(?: (?:of|for|in|on) {here})? (?:{_BE}|include) {_ANY}{_L}", True),
        (MAKER, words.makes, rf"{_L} (?:{alternatives(words.makes)}|{_BE} the {makers})\b", True),
        (CAST, words.played, rf"\b(?:{alternatives(words.played)}) by {_ANY}{_L}", True),
        (CAST, words.stars, rf"\b{stars} {_ANY}{_L}", True),
        (CAST, words.features, rf"\b(?:{alternatives(words.features)}) {_ANY}{_L}", True),
        (
            CAST,
            has_people,
            rf"\b{people}(?: (?:in|of|for) {here})? (?:{_BE}|includes?|including|of|has|goes to) {_ANY}{_L}",
            True,
        ),
        (CAST, words.stars, rf"{_L} (?:also |both |all ){{0,2}}(?:{stars}|{_BE} {stars})\b", True),
        (
            CAST,
            words.person,
            rf"{_L} {_BE} (?:also )?(?:the|a) (?:\w+ ){{0,2}}?(?:{alternatives(words.person)})\b",
            True,
        ),
        (CAST, has_people, rf"{_L}(?: ,)?(?: {_BE}(?: \w+){{0,3}}?)? in {here}", True),
        (CAST, words.plays, rf"{_L} (?:{alternatives(words.plays)})\b", False),
        (PERSON, True, rf"{_I} (?:is |was )?(?:with|by) {_L}", True),
        (
            CAST,
            has_people,
            rf"\b(?<!along )(?:with|w|has|have|had|got|includes?) (?:the |a |an |both |young |great |funny )*{_L}",
            False,
        ),
        (CAST if has_people else MAKER, True, rf"^(?:yes |no )?(?:its|it is|it was) {_L}", False),
        (
            PERSON,
            True,
            rf"\b(?:by|from) (?:{''.join(f'{word} |' for word in words.maker[:1])}the |the great )?{_L}",
            False,
        ),
        (PERSON, True, rf"\b(?:a|an|another|old|classic|great|good|best) {_L} {work}\b", False),
        (YEAR, True, rf"\b(?:came|come|comes) out {_ANY}{_ANY}({_Y})", True),
        (YEAR, words.released, rf"\b(?:{alternatives(words.released)}) (?:\w+ ){{0,3}}?({_Y})", True),
        (YEAR, True, rf"\bfrom (?:way |back |in |the |early |late |mid |year ){{0,4}}({_Y})", True),
        (
            YEAR,
            True,
            rf"\b(?:an?|the|another|old|classic|good|great|late|early|mid) ({_Y}) (?:\w+ ){{0,2}}?{work}\b",
            True,
        ),
        (
            YEAR,
            True,
            rf"^(?:\w+ )?(?:{_I}|it|that|this) {_BE} (?:in |around |about |the |early |late ){{0,3}}({_Y})",
            True,
        ),
        (
            YEAR,
            True,
            rf"^(?:i think |maybe )?(?:its|thats) (?:in |around |about |the |early |late ){{0,3}}({_Y})",
            True,
        ),
    )
    return tuple((kind, re.compile(pattern), sure) for kind, given, pattern, sure in phrases if given)


_ANSWERS_WHO = re.compile(
    rf"^(?:(?:yes|yeah|um|well|oh|i|think|believe|its|it|is|was|thats|that|would|be|both|the|great|with|has) )*{_L}"
)
_ANSWERS_WHEN = re.compile(rf"({_Y})")
_NOT_SURE = re.compile(r"\bnot (?:sure|only|just|too sure)\b")
_NEGATED = re.compile(
    r"\b(?:not|no|without|isnt|doesnt|dont|never|nor|wasnt|instead of|rather than|arent|werent|replaced?)\b"
)


@cache
def _general(domain: Domain) -> re.Pattern[str]:
    """Words that, without an item in the sentence, make it speak of items in general."""
    return re.compile(
        r"\b(?:if you|do you|did you|are you|would you|have you|can you|you (?:like|love|want|prefer)|favou?rites?"
        rf"|fan of|{alternatives((domain.plural, domain.labels))}|stuff|anything|something|any|other|others|another"
        r"|more|i (?:love|like|prefer))\b"
    )


@cache
def _other_work(domain: Domain) -> re.Pattern[str]:
    """Words that make a name that of somebody else's work."""
    words = domain.claims.other_work
    return re.compile(rf"\b(?:{alternatives(words)})\b" if words else r"(?!)")


_MEETINGS = frozenset(
    re.findall(
        r"\w+",
        "meeting meets meet met along interview agree deal deals love married fight fights talks do",
    )
)
_SETTING = re.compile(r"\b(?:set|takes? place|took place|about|remake of|original|trivia|born|ago|since|music)\b")


# ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def claims(turn: Turn, history: Sequence[Turn], credits: Credits) -> list[Claim]:
    """The persons and years that `turn` states of items at hand, in order.

    `turn`, `history` (the turns before): role, text, items. At hand is the item that the phrase itself names; else the
    last one before it in the sentence, the next one in the sentence, the last one of the turn so far; else the item
    that a question before is about, or those of the last turn with any. Of several at hand the one of which the
    statement is true counts. Questions and what is denied state nothing.
    """
    stated: dict[tuple[str, bool, str], Claim] = {}
    for kind, value, items in _statements(turn, history, credits):
        if claim := _decided(kind, value, [item for item in items if item in credits.facts], credits):
            stated.setdefault((claim.item_id, kind == YEAR, value), claim)
    return list(stated.values())


def awaited_persons(turn: Turn, history: Sequence[Turn], credits: Credits) -> list[str] | None:
    """The persons of whom a true statement could go on where the words of `turn` stop; none: the catalogue has none.

    None where a name there would state nothing of an item at hand that the catalogue lists.
    """
    if not turn["items"] and not any(earlier["items"] for earlier in history[-_REACH:]):
        return None  # nothing is at hand
    said = turn["text"]
    blank = "" if not said or said[-1].isspace() else " "
    stated = list(_statements({**turn, "text": f"{said}{blank}{credits.somebody}"}, history, credits))
    if not stated or stated[-1][1] != credits.somebody:
        return None
    kind, _, items = stated[-1]
    rows = [credits.facts[item] for item in items if item in credits.facts]
    columns = {CAST: ("people",), MAKER: ("makers",)}.get(kind, ("people", "makers"))
    return list(dict.fromkeys(name for row in rows for column in columns for name in row[column])) if rows else None


def _statements(turn: Turn, history: Sequence[Turn], credits: Credits) -> Iterator[tuple[str, str, list[str]]]:
    """(kind, value, items at hand) of every name and year that a turn states; there may be no item."""
    before = _at_hand(history, credits.domain)
    ids = [item["item_id"] for item in turn["items"]]
    near = {key for item in {*ids, *before} if item in credits.facts for keys in credits.keys(item) for key in keys}
    asked = questions(history[-1], credits.domain) if history and history[-1]["role"] == USER else []
    for sentence in _sentences(turn["text"], turn["items"], near, credits):
        yield from _of_sentence(sentence, ids, before, asked, credits)
        if named := [ids[ord(char) - _ITEM] for char in sentence.text if _ITEM <= ord(char) < _TIME]:
            before = [item for item in named[-1:] if item is not None]


def _decided(kind: str, value: str, items: Sequence[str], credits: Credits) -> Claim | None:
    truths = [
        (item, credits.same_year(item, value) if kind == YEAR else credits.has(item, kind, value)) for item in items
    ]
    if not truths:
        return None
    # Of several items the one of which it is true; else one of which it may be true.
    item, true = max(reversed(truths), key=lambda pair: {True: 2, None: 1, False: 0}[pair[1]])
    return Claim(item, kind, value, true)


def _of_sentence(
    sentence: _Sentence, ids: Sequence[str | None], before: Sequence[str], asked: Sequence[str], credits: Credits
) -> Iterator[tuple[str, str, list[str]]]:
    """What the phrases read in a sentence."""
    text = _NOT_SURE.sub("maybe", sentence.text)
    phrases = list(_phrases(credits.domain))
    general, other_work = _general(credits.domain), _other_work(credits.domain)
    if WHO in asked:
        phrases.append((PERSON, _ANSWERS_WHO, True))
    if WHEN in asked and not _ITEMS.search(text):
        phrases.append((YEAR, _ANSWERS_WHEN, True))
    used: set[str] = set()
    for kind, pattern, sure in phrases:
        for match in pattern.finditer(text):
            before_it, phrase = text[: match.start()], match[0]
            attached = re.search(rf"{_I} (?:, |is |was )?(?:an? |the |that )?$", before_it) or _ITEMS.search(phrase)
            if not attached and (sentence.asks or (general.search(before_it) and not _ITEMS.search(text))):
                continue
            if _NEGATED.search(" ".join(before_it.split()[-4:])) or _NEGATED.search(phrase):
                continue
            if (_SETTING if kind == YEAR else other_work).search(" ".join(before_it.split()[-5:]) + " " + phrase):
                continue
            # "Double Indemnity with …": a title that is not linked, or "a meeting with …".
            title = re.search(rf"({_N}) $", before_it)
            if title and not _is_person(sentence.names[ord(title[1]) - _NAME][0], [*before, *ids], credits):
                continue
            if before_it.split()[-1:] and before_it.split()[-1] in _MEETINGS:
                continue
            items = list(before) if pattern is _ANSWERS_WHO else _items(text, match, ids, before)
            for char in re.findall(_Y if kind == YEAR else _N, match[1]):
                if char in used:
                    continue
                if kind == YEAR:
                    used.add(char)
                    yield kind, sentence.years[ord(char) - _TIME], items
                    continue
                name, several = sentence.names[ord(char) - _NAME]
                if _is_person(name, items, credits) or (sure and several):
                    used.add(char)
                    yield kind, name, items


_ITEMS, _PRONOUN = re.compile(_I), re.compile(r"\b(?:it|its|this|that|thats)\b")


def _is_person(name: str, items: Iterable[str | None], credits: Credits) -> bool:
    """Whether a name is in the catalogue, or means somebody of one of `items`."""
    if name_key(name) in credits.persons:
        return True
    return any(item in credits.facts and credits.has(item, PERSON, name) is True for item in items if item)


def _items(text: str, match: re.Match[str], ids: Sequence[str | None], before: Sequence[str]) -> list[str]:
    """The items at hand for a phrase in a sentence."""
    inside = _ITEMS.search(match[0])
    following = re.match(rf"(?: \w+){{0,4}}? (?:in|called|named|titled|is|was) ({_I})", text[match.end() :])
    earlier = _ITEMS.findall(text[: match.start()])
    # "It stars … if you like [[X]]" is not about X.
    later = [] if before and _PRONOUN.search(text[: match.end()]) else _ITEMS.findall(text[match.end() :])
    char = inside[0] if inside else following[1] if following else (earlier[-1:] or later[:1] or [""])[0]
    if not char:
        return list(before)
    item = ids[ord(char) - _ITEM]
    return [] if item is None else [item]


def _at_hand(history: Sequence[Turn], domain: Domain) -> list[str]:
    """The items that a turn after `history` speaks of when it names none: the one in a question about an item, else
    all of the last turn that names any, up to `_REACH` turns back."""
    for turn in reversed(history[-_REACH:]):
        if turn["items"]:
            ids = [item["item_id"] for item in turn["items"] if item["item_id"] is not None]
            if turn is history[-1] and turn["role"] == USER:
                for sentence in asking(turn, domain):
                    if named := _ITEMS.findall(sentence):
                        item = turn["items"][ord(named[-1]) - _ITEM]["item_id"]
                        return [] if item is None else [item]
            return list(dict.fromkeys(ids))
    return []


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def answers(kind: str, turn: Turn, history: Sequence[Turn], credits: Credits) -> bool:
    """Whether a turn answers a question of `kind`, the last turn of `history`, right or wrong.

    `who`: it states a person. `when`: it has a year or decade outside mentions. `about`: its
    sentences without a question mark name a kind or have `MIN_CONTENT` words that are not function words or frequent
    in talk about items (`lexicon.common`).
    """
    if kind == WHO:
        return any(stated != YEAR for stated, _, _ in _statements(turn, history, credits))
    text = utterances.replace_mentions(turn["text"], " , ")
    if kind == WHEN:
        return bool(lexicon.decades(text.lower(), credits.domain, years=True))
    parts = _SENTENCE.split(text)
    said = " . ".join(part for part, mark in zip(parts[::2], [*parts[1::2], ""], strict=True) if "?" not in mark)
    content = {word for word in lexicon.tokens(said) if word not in lexicon.common(credits.domain)}
    clauses = [words for words, _ in lexicon.clauses(said)]
    domain = credits.domain
    return len(content) >= MIN_CONTENT or any(
        lexicon.asks_for(k, words, domain) for k in domain.kinds for words in clauses
    )
