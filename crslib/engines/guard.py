"""What no utterance does, whatever the model prefers: it does not repeat itself and is not cut inside a word or title.

A rule in place of a penalty: llama.cpp's DRY sampler makes every repeated run of tokens less likely, those that people
say too, and forbids none. The rule leaves people's language alone (`dialogue.repetition`).
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import add

from crslib.dialogue.repetition import ends_sentence, in_title, repeats
from crslib.dialogue.scripts import last_turn
from crslib.engines.base import Scope

ALLOWANCE = 24
"""Tokens beyond `max_tokens` within which a sentence may end."""

_SCRIPT: Scope = "turn of a script"


class Guard:
    """Follows one utterance, or a script turn by turn.

    `pieces`: the bytes of every token, empty for control tokens. `scope`: within what nothing is repeated, "utterance"
    (all of the text) or "turn of a script"; "off": repetitions are allowed.
    """

    def __init__(self, pieces: Sequence[bytes], scope: Scope) -> None:
        self._pieces, self._scope = pieces, scope
        self._raw = b""

    def follow(self, token: int) -> None:
        """Takes the next token of the utterance."""
        self._raw += self._pieces[token]

    def refuses(self, token: int, *, ends: bool) -> bool:
        """Whether the utterance so far must not go on with `token`; `ends`: that token ends it.

        What repeats itself already, because a constraint forced it, is free: refusing would not undo it.
        """
        if self._scope == "off":
            return False
        piece, before = self._pieces[token], self._part(_text(self._raw))
        may_end = ends or (self._scope == _SCRIPT and b"\n" in piece)
        if may_end and (in_title(before) or repeats(before)):
            return not repeats(before, ended=False)
        after = before if ends else self._part(_text(self._raw + piece))
        return repeats(after, ended=False) and not repeats(before, ended=False)

    def ends_sentence(self) -> bool:
        """Whether the utterance so far stops at the end of a sentence."""
        return ends_sentence(_text(self._raw))

    def whole(self, ids: Sequence[int]) -> int:
        """How many tokens of an utterance that was cut after `ids` to keep.

        Up to the last end of a sentence if that is in the second half, else up to the last whole word outside a title.
        Where nothing is whole, all of it, but for a title that it stops in.
        """
        pieces = [self._pieces[token] for token in ids]
        texts = [_text(raw) for raw in accumulate(pieces, add)]
        sentences = [n for n, text in enumerate(texts, 1) if ends_sentence(text) and not _goes_on(pieces[n : n + 1])]
        if sentences and 2 * sentences[-1] > len(ids):
            return sentences[-1]
        words = [n for n, text in enumerate(texts[:-1], 1) if pieces[n][:1].isspace() and not in_title(text)]
        alone = (n for n in reversed(words) if self._scope == "off" or not repeats(self._part(texts[n - 1])))
        return next(alone, 0 if texts and in_title(texts[-1]) else len(ids))

    def _part(self, text: str) -> str:
        return last_turn(text)[1] if self._scope == _SCRIPT else text


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _goes_on(following: Sequence[bytes]) -> bool:
    return bool(following) and _text(following[0])[:1].isalnum()
