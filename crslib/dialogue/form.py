"""How an utterance is written, whatever it says: length, punctuation, capitals, digits, function words."""

import re
from collections import Counter

from crslib.dialogue import lexicon, utterances

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_MARKS = tuple(".,!?'’\":;()-")
_HABITS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\.\.",
        r"!!|\?\?|\?!",
        r"[.!?]+",
        r"\bi\b",
        r"\bI\b",
        r"[.!?]\s+[a-z]",  # a sentence that begins small
        r"[a-z,] [A-Z][a-z]",  # a capital within a sentence
        r"\s[.,!?]",
        r"[.!?,][A-Za-z]",
        r"[0-9]",
        r"(.)\1\1",
        r"\b[A-Z]{2,}\b",
    )
)
_FUNCTION_WORDS = tuple(sorted(lexicon.FUNCTION_WORDS))


def features(text: str) -> list[float]:
    """What an utterance is like: counts and rates, always as many. Every title is one capitalised word.

    Words, their mean length and variety; punctuation marks and habits of writing, each a count; whether it begins with
    a capital and ends with a mark; shares of capitals; rates of function words. No word of content is read.
    """
    text = " ".join(utterances.replace_mentions(text, " Item ").split())
    spoken = [word.lower() for word in _WORD.findall(text)]
    n, letters = max(1, len(spoken)), max(1, len(text))
    counts = Counter(lexicon.tokens(text))
    return [
        float(len(spoken)),
        sum(map(len, spoken)) / n,
        sum(len(word) > 6 for word in spoken) / n,
        len(set(spoken)) / n,
        sum(char.isupper() for char in text) / letters,
        float(text[:1].isupper()),
        float(text[-1:] in ".!?"),
        *(float(text.count(mark)) for mark in _MARKS),
        *(float(len(habit.findall(text))) for habit in _HABITS),
        *(counts[word] / n for word in _FUNCTION_WORDS),
    ]
