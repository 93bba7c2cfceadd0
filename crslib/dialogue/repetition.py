"""Whether an utterance says something again and again, and where it may stop.

Knows text in format v1, nothing of tokens: decoding (`engines.guard`) and whoever counts loops share one definition.
"""

import re
from collections.abc import Iterator

_UNIT = re.compile(r"\[\[[^\[\]]*(?:\]\]|$)|\w+(?:'\w+)*|[.!?]")  # a title, a word, or the end of a sentence
_SENTENCE = 2  # units of the shortest sentence that counts: people do say "Bye. Bye."
# How often a run of words may follow itself, by its length. Of the 49,781 turns of ReDial's training dialogues 0.4 %
# say more, nearly all of them a message that was sent twice.
_OFTEN = {1: 3, 2: 2, 3: 2}
_LONG_RUN = 1  # a run of four words or more


def repeats(text: str, *, ended: bool = True, known: str = "") -> bool:
    """Whether an utterance says a sentence of two words or more twice, or a run of words on and on.

    A run of four words or more may not follow itself, one of two or three may be said twice and a single word three
    times ("no no no"). A title counts as one word, and no run ends with one, so that no title is ever the fault. The
    last sentence counts only if the utterance has `ended` or it has its full stop. `known`: a beginning of `text` that
    does not repeat itself, of which only what follows is examined.
    """
    units = _units(text)
    since = max(len(_units(known)) - 1, 0)
    return _says_a_sentence_twice(units, ended) or any(_run_ends_at(units, end) for end in range(since, len(units)))


def in_title(text: str) -> bool:
    """Whether the last line of `text` stops inside a title: `[[` is open."""
    return text.rfind("[[") > max(text.rfind("]]"), text.rfind("\n"))


def ends_sentence(text: str) -> bool:
    """Whether `text` stops at the end of a sentence."""
    return text.rstrip().endswith((".", "!", "?")) and not in_title(text)


def _units(text: str) -> list[str]:
    return _UNIT.findall(text.lower().replace("’", "'"))


def _says_a_sentence_twice(units: list[str], ended: bool) -> bool:
    seen: set[tuple[str, ...]] = set()
    for sentence in _sentences(units, ended):
        if len(sentence) >= _SENTENCE and sentence in seen:
            return True
        seen.add(sentence)
    return False


def _sentences(units: list[str], ended: bool) -> Iterator[tuple[str, ...]]:
    start = 0
    for place, unit in enumerate(units):
        if unit in ".!?":
            yield tuple(units[start:place])
            start = place + 1
    if ended:
        yield tuple(units[start:])


def _run_ends_at(units: list[str], end: int) -> bool:
    """Whether a run of words that ends with unit `end` follows itself too often."""
    if not units[end][0].isalnum():
        return False
    words = [unit for unit in units[: end + 1] if unit not in ".!?"]
    for length in range(1, len(words) // 2 + 1):
        run, often = words[-length:], _OFTEN.get(length, _LONG_RUN)
        times = next((n for n in range(1, often + 1) if words[-length * (n + 1) : -length * n] != run), often + 1)
        if times > often:
            return True
    return False
