"""How the metrics read utterances: one definition of a word for all of them. Knows nothing of dialogues."""

import re

import polars as pl

from crslib import chat

_WORD = r"\w+(?:'\w+)*"
_MENTION = r"\[\[([^\[\]]+)\]\]"
_PIECE = re.compile(_WORD + r"|[.!?\n]")


def words(text: str) -> list[str]:
    """The lower-case words of an utterance as people read it: runs of letters and digits, inner apostrophes kept.

    `I haven't seen [[Up (2009)]]!` has five: i, haven't, seen, up, 2009.
    """
    return re.findall(_WORD, chat.plain(text).lower().replace("’", "'"))


def n_words(text: str = "text") -> pl.Expr:
    """How many `words` column `text` has."""
    shown = pl.col(text).str.replace_all(_MENTION, "$1").str.to_lowercase().str.replace_all("’", "'")
    return shown.str.count_matches(_WORD).cast(pl.Int32)


def spaced(text: str) -> str:
    """The words between single blanks, in their own case, each sentence's end as a full stop: for finding phrases.

    A phrase is in a text when `spaced(phrase)` is in `spaced(text)`: whole words, whatever the punctuation.
    """
    return f" {' '.join(_piece(piece) for piece in _PIECE.findall(chat.plain(text).replace('’', chr(39))))} "


def _piece(piece: str) -> str:
    return "." if piece in "!?\n" else piece
