"""Grounded decoding: between `[[` and `]]` only tokens that continue a title of a catalogue are allowed (DESIGN §6).

A title is written in the tokens that the tokenizer splits it into, and is drawn from a distribution over whole titles,

    P(title) ∝ weight(title) · P_model(title) ^ power

token by token. The titles that may still follow are divided into disjoint sets, one for each next token. What a set is
worth depends on tokens that nobody has read yet, so they are looked up in a table of the model without a dialogue:

    P(token) ∝ P_model(token) ^ power · Σ over titles that continue with it: weight · P_table(rest of title) ^ power

So no beginning is entered for the sake of titles that are excluded, or whose rest the model would hardly write: the
factors cancel along a title, and where the table is what the model says, P(title) is exact (a twisted proposal, Zhao et
al. 2024). The dialogue changes a rest less than it changes a beginning.

Spellings differ only at the end of a title (`)` `]]`, or `)]` `].` at the end of a sentence). There the model chooses
among all of them, at temperature 1; where another title goes on with the last token, that token comes alone. The model
also decides whether and where to mention a title. Knows titles, tokens with their bytes, weights and a table; nothing
of items, dialogues, models or how a token is drawn.
"""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, takewhile, zip_longest

import numpy as np

from crslib.dialogue import utterances
from crslib.engines.base import Choice
from crslib.errors import CrsError

_CLOSING = re.compile(rb"([^\[\]]*)\](?:\][^\[\]]*)?")  # the end of a title, and `]`, or `]]` and the text after it
_CLOSING_REST = re.compile(rb"\][^\[\]]*")  # the same after one `]`
_END = -1  # follows the last token of a title; sorts before all tokens
_SPAN = 700.0  # nats; exp(-700) is still a number, so an allowed title never loses its share to rounding


class Titles:
    """The titles of one catalogue in the tokens of one vocabulary; built once, then shared by all utterances.

    `names`: item names as `utterances.item_name` returns them, one per item; items of one name count as one title.
    `pieces`: the bytes of every token, empty for tokens that are no text. `encode`: the tokenizer. Raises `CrsError`
    for a name that cannot be read back from its mention or that the vocabulary cannot spell, and for a vocabulary
    without `[` or `]`.
    """

    def __init__(self, names: Sequence[str], pieces: Sequence[bytes], encode: Callable[[str], Sequence[int]]) -> None:
        self.pieces = pieces
        written = [_mentioned(name) for name in names]
        spelled = sorted((_spell(name, pieces, encode), name) for name in set(written))
        self.spellings = [spelling for spelling, _ in spelled]
        self.names = [name for _, name in spelled]
        self.rows = {name.encode(): row for row, (_, name) in enumerate(spelled)}
        self.row_of = np.array([self.rows[name.encode()] for name in written], np.intp)
        # tokens[depth, row]; titles with the same beginning are neighbours. Twice `_END` after the longest.
        columns = [*zip_longest(*self.spellings, fillvalue=_END), *[[_END] * len(spelled)] * 2]
        self.tokens = np.array(columns, np.int32)
        self.bracket = _where(pieces, lambda piece: piece == b"[")
        self.closing_rest = _where(pieces, lambda piece: bool(_CLOSING_REST.fullmatch(piece)))
        if not len(self.bracket) or b"]" not in pieces:
            raise CrsError("the model's vocabulary has no token `[` or `]`; use another model or do without grounding")
        closing: dict[bytes, list[int]] = {}
        for token, piece in enumerate(pieces):
            if b"]" in piece and (match := _CLOSING.fullmatch(piece)):
                closing.setdefault(match[1], []).append(token)
        # Tokens that close a mention in the place of a title's last token, or after it.
        arrays = {piece: np.array(tokens, np.int32) for piece, tokens in closing.items()}
        self.closing = {token: arrays[piece] for token, piece in enumerate(pieces) if piece and piece in arrays}
        self.closing[_END] = arrays[b""]
        # Forbidden outside a mention: tokens that open one and continue after `[[`; where no title is left, all tokens
        # that open one or may begin to.
        self.never = _where(pieces, lambda piece: b"[[" in piece[:-1])
        self.never_opening = _where(pieces, lambda piece: b"[[" in piece or piece.endswith(b"["))

    def constraint(
        self,
        log_weights: np.ndarray,
        excluded: Collection[int] = (),
        *,
        power: float = 1.0,
        table: np.ndarray | None = None,
    ) -> "TitleConstraint":
        """The constraint of one utterance to the titles.

        `log_weights`: of each of `names`, up to a constant; a name with -inf is never allowed. `excluded`: indexes of
        names that are not allowed. `power`: exponent of the model's probability; 0 leaves the choice to the weights.
        `table` (n_spellings, longest + 1): log-probability of each token of each of `spellings` without a dialogue;
        None: all tokens of a title but the next are certain. Raises `CrsError` for weights of another length or that
        are not numbers.
        """
        log_weights = np.array(log_weights, np.float64)
        if log_weights.shape != self.row_of.shape or np.isnan(log_weights).any() or (log_weights == np.inf).any():
            raise CrsError(
                f"the weights have shape {log_weights.shape} or are not numbers somewhere; "
                f"give a logarithm below infinity for each of the {len(self.row_of)} names"
            )
        by_row = np.full(len(self.spellings), -np.inf)
        np.logaddexp.at(by_row, self.row_of, log_weights)
        by_row[self.row_of[list(excluded)]] = -np.inf
        if table is None:
            table = np.zeros((len(self.spellings), len(self.tokens)))
        return TitleConstraint(self, by_row, power, table)


class TitleConstraint:
    """Restricts the mentions in one utterance to titles (`engines.base.Constraint`), each at most once.

    A call whose ids extend those of the last call processes the new ids only.
    """

    never: np.ndarray
    """Tokens (int32) that may not be drawn where `allowed` returns None, for the ids of the last call."""

    def __init__(self, titles: Titles, log_weights: np.ndarray, power: float, table: np.ndarray) -> None:
        """`log_weights` (n_spellings,), -inf where a title is not allowed; `power` and `table` as in `Titles`."""
        self._titles, self._initial, self._power, self._table = titles, log_weights, power, table
        self._start()

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        """What may follow the utterance `ids` inside a mention: sets of titles, each with its next token or tokens.

        None outside a mention: every token but those of `never` may follow. After a `[` only another `[` may follow, so
        that a bracket always opens a mention.
        """
        self._follow(ids)
        titles, lo, hi = self._titles, self._lo, self._hi
        if self._name is None:
            return _any_of(titles.bracket) if self._bracket and self._left.any() else None
        if self._name.endswith(b"]"):
            return _any_of(titles.closing_rest)
        here, after = titles.tokens[self._depth : self._depth + 2, lo:hi]
        rest = self._table[lo:hi, self._depth + 1 :].sum(axis=1)
        share = _shares(self._log_weights[lo:hi] + self._power * rest)
        starts = np.flatnonzero(np.concatenate(([True], here[1:] != here[:-1])))
        tokens, worth = here[starts], np.add.reduceat(share, starts)
        n_left = np.add.reduceat((share > 0).astype(np.int64), starts)
        sets = np.split(tokens, len(tokens))
        ended = tokens == _END
        # Tokens that close the mention of a title that has ended, and those that include the last token of the only
        # title that goes on with it.
        for index in np.flatnonzero(ended | ((n_left == 1) & (after[starts] == _END) & (share[starts] > 0))):
            if (closing := titles.closing.get(int(tokens[index]))) is not None:
                sets[index] = closing if ended[index] else np.append(closing, tokens[index])
        left = np.flatnonzero(worth > 0)
        sizes = [len(sets[index]) for index in left]
        return Choice(
            np.concatenate([sets[index] for index in left]).astype(np.int32),
            np.cumsum([0, *sizes[:-1]]),
            np.log(worth[left]),
            self._power,
        )

    def forced(self, ids: Sequence[int]) -> list[int]:
        """Tokens that must follow `ids` because the titles left agree in them; often [].

        They end where the model has a choice: how a mention is closed depends on how the sentence continues.
        """
        self._follow(ids)
        if self._name is None or self._name.endswith(b"]"):
            return []
        left = self._left[self._lo : self._hi]
        ends = self._lo + int(left.argmax()), self._hi - 1 - int(left[::-1].argmax())
        # What the first and the last title share, all titles between them share too.
        first, last = (self._titles.spellings[row][self._depth :] for row in ends)
        tokens = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        if len(tokens) == len(first) and tokens and tokens[-1] in self._titles.closing:
            tokens.pop()
        return tokens

    def open(self, ids: Sequence[int]) -> bool:
        """Whether `ids` stop inside a mention: an utterance that is cut there loses the title."""
        self._follow(ids)
        return self._name is not None

    def _start(self) -> None:
        self._ids: list[int] = []
        self._log_weights = self._initial.copy()
        self._bracket = False  # whether the text outside a mention ends with a `[`
        self._name: bytes | None = None  # the text since `[[`; None outside a mention
        self._lo, self._hi, self._depth = 0, 0, 0  # rows of the titles that begin with it, and its number of tokens
        self._restrict()

    @property
    def _left(self) -> np.ndarray:
        """Which titles are left."""
        return self._log_weights > -np.inf

    def _restrict(self) -> None:
        self.never = self._titles.never if self._left.any() else self._titles.never_opening

    def _follow(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self._ids)]) != self._ids:
            self._start()
        for token in ids[len(self._ids) :]:
            self._read(int(token))
            self._ids.append(int(token))

    def _read(self, token: int) -> None:
        titles, piece = self._titles, self._titles.pieces[token]
        after = b""  # what follows the first `]`
        if self._name is None:
            opened = (b"[" * self._bracket + piece).endswith(b"[[")
            self._bracket = piece.endswith(b"[")
            if not opened:
                return
            self._name, self._lo, self._hi, self._depth = b"", 0, len(titles.spellings), 0
        else:
            self._name += piece
            name, closing, after = self._name.partition(b"]")
            if closing:
                self._lo = titles.rows.get(name, self._hi)
                self._hi = self._lo + (name in titles.rows)
            else:
                here = titles.tokens[self._depth, self._lo : self._hi]
                start, stop = np.searchsorted(here, (token, token + 1))
                self._lo, self._hi, self._depth = self._lo + int(start), self._lo + int(stop), self._depth + 1
        if after.startswith(b"]"):
            self._log_weights[self._lo : self._hi] = -np.inf
            self._restrict()
        # Allowed tokens leave a mention only by closing it. Text from elsewhere may name no title that is left; then it
        # is no mention.
        if after or not self._left[self._lo : self._hi].any():
            self._name, self._bracket = None, piece.endswith(b"[")


def _mentioned(name: str) -> str:
    """A name as it is written between the brackets of its mention."""
    text = utterances.mention(name)
    if utterances.mentions(utterances.clean(text)) != [(text[2:-2], 0, len(text))]:
        raise CrsError(f"{name!r} cannot be mentioned; use item names without line breaks and outer blanks")
    return text[2:-2]


def _spell(name: str, pieces: Sequence[bytes], encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    """The tokens of a name after ` [[`; after a line break where the tokenizer joins it with the brackets (`['`)."""
    raw = name.encode()
    for before in (" [[", "\n"):
        tokens = tuple(encode(before + name))
        lengths = list(accumulate(len(pieces[token]) for token in reversed(tokens)))
        if len(raw) in lengths:
            spelling = tokens[-1 - lengths.index(len(raw)) :]
            if b"".join(pieces[token] for token in spelling) == raw:
                return spelling
    raise CrsError(f"the model's vocabulary cannot spell {name!r}; rename the item or use another model")


def _where(pieces: Sequence[bytes], holds: Callable[[bytes], bool]) -> np.ndarray:
    return np.array([token for token, piece in enumerate(pieces) if holds(piece)], np.int32)


def _any_of(tokens: np.ndarray) -> Choice:
    return Choice(tokens, np.zeros(1, np.intp), np.zeros(1))


def _shares(log_weights: np.ndarray) -> np.ndarray:
    """Numbers in the proportion of `log_weights`, 0 only for -inf."""
    below_top = log_weights - log_weights.max()
    return np.exp(np.maximum(below_top, -_SPAN), where=log_weights > -np.inf, out=np.zeros_like(log_weights))
