"""Whether an utterance says something again and again, and where it may stop: what decoding guards (`engines.guard`).

Knows text in format v1, nothing of tokens.
"""

from crslib.dialogue.words import RUN, sentences

_IN_A_ROW = 3  # times that a word may be said in a row: people do say "no no no" and "love, love, love"
_STOPS = (".", "!", "?", ";")


def repeats(text: str, *, ended: bool = True) -> bool:
    """Whether an utterance has a sentence of two words or more twice, a run of `RUN` words twice, or a word in a row.

    As `words.repeats_itself`, but no run ends with a title, so that decoding never has to refuse one; a title counts as
    one word. The last sentence counts only if the utterance has `ended` or it has its full stop. Of the 26,864 turns
    that people sent as one message in ReDial's training dialogues, 12 repeat themselves, one of them by mistake.
    """
    split = sentences(text + "]]" if in_title(text) else text)
    flat = [word for sentence in split for word in sentence]
    whole = split if ended or ends_sentence(text) else split[:-1]
    long = [tuple(sentence) for sentence in whole if len(sentence) > 1]
    ends = (end for end in range(RUN, len(flat) + 1) if flat[end - 1][0].isalnum())
    runs = [tuple(flat[end - RUN : end]) for end in ends]
    rows = (set(flat[start : start + _IN_A_ROW + 1]) for start in range(len(flat) - _IN_A_ROW))
    return len(set(long)) < len(long) or len(set(runs)) < len(runs) or any(len(row) == 1 for row in rows)


def in_title(text: str) -> bool:
    """Whether the last line of `text` stops inside a title: `[[` is open."""
    return text.rfind("[[") > max(text.rfind("]]"), text.rfind("\n"))


def ends_sentence(text: str) -> bool:
    """Whether `text` stops at the end of a sentence."""
    return text.rstrip().endswith(_STOPS) and not in_title(text)
