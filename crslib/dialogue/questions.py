"""What a turn asks about an item: who made it or is in it, what it is about, when it is from. Phrases, not a model."""

import re
from collections.abc import Mapping
from functools import cache

from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain, alternatives
from crslib.dialogue.views import Turn

WHO, ABOUT, WHEN = "who", "about", "when"
ITEM, N_ITEMS = 0xE400, 0x300
"""Private-use characters that stand for the items of a turn, in order: the first, and how many there are."""
_IT = r"(?:it|that|this|they|those|these|[\ue400-\ue6ff])"


@cache
def _questions(domain: Domain) -> Mapping[str, re.Pattern[str]]:
    words = domain.questions
    kinds = "".join(f"|{kind}" for kind in words.kinds)
    phrases = {
        WHO: (
            (words.who_does, rf"who (?:all |else )?(?:{alternatives(words.who_does)})\b"),
            (True, rf"who(?: all| else)?(?: is| are| was| were|s)(?: \w+){{0,4}}? in (?:the|them|{_IT})"),
            (
                words.who_is,
                r"who(?: is| are| was| were|s) (?:(?:in )?the |all the )?(?:\w+ )?"
                rf"(?:{alternatives(words.who_is)})",
            ),
            (words.people, rf"(?:what|which) (?:{alternatives(words.people)})(?: \w+){{0,3}}? in\b"),
            (True, rf"any(?:one|body)? (?:famous|good|known|big)(?: \w+){{0,3}}? in {_IT}"),
            (True, rf"who made {_IT}"),
        ),
        ABOUT: (
            (
                True,
                rf"what(?: is| was| are|s)(?: {_IT})?(?: (?:{alternatives(('one', *words.here))}))?(?: \w+)? about\b",
            ),
            (True, rf"what (?:kind|type|sort|category{kinds})(?: of)?(?: \w+)? (?:is|was|are) {_IT}"),
            (True, rf"what(?: is| was|s) (?:the|its) (?:plot|story|premise|synopsis|storyline{kinds})\b"),
            (True, rf"tell me (?:\w+ ){{0,2}}about {_IT}"),
        ),
        WHEN: (
            (
                True,
                rf"when (?:was|were|did|is) {_IT}(?: \w+){{0,2}}? "
                rf"(?:{alternatives(('made', 'come out', 'came out', 'out', 'from', *words.made))})",
            ),
            (True, rf"how old (?:is|are|was) {_IT}"),
            (True, r"(?:what|which) year\b(?! old)"),
            (True, r"what decade (?:is|was)\b"),
        ),
    }
    return {
        kind: re.compile("|".join(rf"\b{pattern}" for given, pattern in some if given))
        for kind, some in phrases.items()
    }


def questions(turn: Turn, domain: Domain) -> list[str]:
    """What a turn asks about an item, in order: `who` is in it or made it, what it is `about`, `when` it is of."""
    return [
        kind
        for sentence in asking(turn, domain)
        for kind, pattern in _questions(domain).items()
        if pattern.search(sentence)
    ]


def asking(turn: Turn, domain: Domain) -> list[str]:
    """The sentences of a turn that ask about an item; an item is one character."""
    spans = [(item["start"], item["end"], f" {chr(ITEM + n)} ") for n, item in enumerate(turn["items"][:N_ITEMS])]
    text = utterances.plain(utterances.replace_spans(turn["text"], spans)).lower().replace("’", "'").replace("'", "")
    read = (" ".join(re.findall(r"[\ue400-\ue6ff]|[^\W_]+", part)) for part in re.split(r"[.!?;\n]+", text))
    return [part for part in read if any(pattern.search(part) for pattern in _questions(domain).values())]
