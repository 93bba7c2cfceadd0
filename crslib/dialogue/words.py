"""How the metrics count words: one definition of a word for all of them. Knows nothing of dialogues."""

import re
from functools import lru_cache

import polars as pl

from crslib.dialogue import utterances

_WORD = r"\w+(?:'\w+)*"
_END = re.compile(r"[.!?;\n]+")
RUN = 4  # words in a row that an utterance has no reason to say twice
_PIECE = re.compile(r"\w+|[.!?\n]")


def words(text: str) -> list[str]:
    """The lower-case words of an utterance as people read it: runs of letters and digits, inner apostrophes included.

    `I haven't seen [[Up (2009)]]!` has five: i, haven't, seen, up, 2009.
    """
    return re.findall(_WORD, utterances.plain(text).lower().replace("’", "'"))


def n_words(text: str = "text") -> pl.Expr:
    """How many `words` column `text` has."""
    shown = pl.col(text).str.replace_all(utterances.MENTION.pattern, "$1").str.to_lowercase()
    return shown.str.replace_all("’", "'").str.count_matches(_WORD).cast(pl.Int32)


def sentences(text: str) -> list[list[str]]:
    """The lower-case words of each sentence of an utterance; a mention is one word."""
    parts = (part.lower().replace("’", "'") for part in _END.split(utterances.replace_mentions(text, _one_word)))
    return [tokens for part in parts if (tokens := re.findall(rf"\ue000[^\ue001]*\ue001|{_WORD}", part))]


def repeats_itself(text: str) -> bool:
    """Whether an utterance has a sentence of two words or more twice, or a run of `RUN` words, whatever is between."""
    split = sentences(text)
    long = [tuple(sentence) for sentence in split if len(sentence) > 1]
    flat = [word for sentence in split for word in sentence]
    runs = [tuple(flat[start : start + RUN]) for start in range(len(flat) - RUN + 1)]
    return len(set(long)) < len(long) or len(set(runs)) < len(runs)


def _one_word(name: str) -> str:
    return f" \ue000{_END.sub(' ', name)}\ue001 "


@lru_cache(maxsize=1 << 14)  # an audit reads the utterances of a dialogue again for each of its prompts
def spaced(text: str) -> str:
    """Words between single blanks, in their own case, with a full stop for the end of a sentence: to find phrases in.

    `spaced(phrase)` is in `spaced(text)` when the phrase is there in whole words, whatever the punctuation.
    Apostrophes separate words too, so that `Heat` is found in `Heat's`.
    """
    pieces = (piece if piece[0] not in "!?\n" else "." for piece in _PIECE.findall(utterances.plain(text)))
    return f" {' '.join(pieces)} "
