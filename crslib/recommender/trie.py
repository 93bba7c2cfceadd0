"""Grounded decoding: between `[[` and `]]` the next tokens are held to the titles of a catalogue (DESIGN §6).

A title is said in the tokens that the tokenizer writes it in, so the titles that may still follow split into disjoint
shares, one for each next token:

    P(token) ∝ P_model(token) · (mass of the titles that go on with it / mass of the titles here) ^ weight

Only where a title ends do spellings differ: `)` `]]`, but `)]` `].` at the end of a sentence; there the model has the
choice of all of them. Whether to mention anything, and where, stays the model's too. Knows titles, tokens with their
bytes, and a prior; nothing of items, dialogues, models or how a token is drawn.
"""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, takewhile, zip_longest

import numpy as np

from crslib.dialogue import utterances
from crslib.errors import CrsError

_CLOSING = re.compile(rb"([^\[\]]*)\](?:\][^\[\]]*)?")  # the end of a title, and `]`, or `]]` and what is said next
_CLOSING_REST = re.compile(rb"\][^\[\]]*")  # the same after one `]`
_END = -1  # stands behind the last token of a title; sorts before all tokens
_SPAN = 700.0  # nats; exp(-700) is still a number, so a title that may be said never loses its mass to rounding


class Titles:
    """The titles of one catalogue in the tokens of one vocabulary; built once, then shared by all utterances.

    `names`: item names as `chat.item_name` gives them, one per item; items of one name count as one title. `pieces`:
    the bytes of every token, empty for tokens that are no text. `encode`: the tokenizer. Raises `CrsError` for a name
    that would not come back from a mention, or that the vocabulary cannot spell, and for a vocabulary without `[`, `]`.
    """

    def __init__(self, names: Sequence[str], pieces: Sequence[bytes], encode: Callable[[str], Sequence[int]]) -> None:
        self.pieces = pieces
        said = [_said(name) for name in names]
        spelled = sorted((_spell(name, pieces, encode), name) for name in set(said))
        self.spellings = [spelling for spelling, _ in spelled]
        self.rows = {name.encode(): row for row, (_, name) in enumerate(spelled)}
        self.row_of = np.array([self.rows[name.encode()] for name in said], np.intp)
        # tokens[depth, row]; titles with the same beginning are neighbours. Twice `_END` behind the longest.
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
        # What may be said in the place of a title's last token, or behind it, to close the mention.
        arrays = {piece: np.array(tokens, np.int32) for piece, tokens in closing.items()}
        self.closing = {token: arrays[piece] for token, piece in enumerate(pieces) if piece and piece in arrays}
        self.closing[_END] = arrays[b""]
        # Outside a mention: tokens that open one and go on, or, where no title is left, all that lead to one.
        self.never = _where(pieces, lambda piece: b"[[" in piece[:-1])
        self.never_opening = _where(pieces, lambda piece: b"[[" in piece or piece.endswith(b"["))

    def constraint(
        self, log_prior: np.ndarray, excluded: Collection[int] = (), *, weight: float = 1.0
    ) -> "TitleConstraint":
        """What holds one utterance to the titles; see `TitleConstraint`.

        `log_prior`: log-mass of each of `names`, up to a constant; -inf is never said. `excluded`: indexes of names
        that are out. `weight`: exponent of the prior; 1 is the product, 0 leaves the choice of a title to the model.
        Raises `CrsError` for a prior of another length or that is not a number.
        """
        log_prior = np.array(log_prior, np.float64)
        if log_prior.shape != self.row_of.shape or np.isnan(log_prior).any() or (log_prior == np.inf).any():
            raise CrsError(
                f"the prior has shape {log_prior.shape} or is not a number somewhere; "
                f"give a log-mass below infinity for each of the {len(self.row_of)} names"
            )
        out = np.zeros(len(self.spellings), bool)
        out[self.row_of[list(excluded)]] = True
        log_prior[out[self.row_of]] = -np.inf
        below_top = log_prior - log_prior.max(initial=np.finfo(np.float64).min)
        mass = np.exp(np.maximum(below_top, -_SPAN), where=log_prior > -np.inf, out=np.zeros_like(log_prior))
        return TitleConstraint(self, np.bincount(self.row_of, mass, len(self.spellings)), weight)


class TitleConstraint:
    """Holds the mentions in one utterance to titles (`engines.base.Constraint`). A title is said once in an utterance.

    Drawn token by token at temperature 1 and without truncation, titles have the probability that the module's
    formula gives along their tokens. Calls with ids that go on from those of the last call cost the new ids only.
    """

    never: np.ndarray
    """Tokens (int32) that may not be drawn where `allowed` leaves the model free: as of the ids last asked about."""

    def __init__(self, titles: Titles, mass: np.ndarray, weight: float) -> None:
        self._titles, self._given, self._weight = titles, mass, weight
        self._start()

    def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Tokens (int32) that may follow the utterance `ids`, and log-weights (float32) to add to their logits.

        None outside a mention: free but for `never`. A bracket always opens a mention: `[` is followed by `[`.
        """
        self._follow(ids)
        titles, lo, hi = self._titles, self._lo, self._hi
        if self._said is None:
            return _equal(titles.bracket) if self._bracket and self._mass.any() else None
        if self._said.endswith(b"]"):
            return _equal(titles.closing_rest)
        here, mass = titles.tokens[self._depth, lo:hi], self._mass[lo:hi]
        starts = np.flatnonzero(np.concatenate(([True], here[1:] != here[:-1])))
        share = np.add.reduceat(mass, starts)
        total = share.sum()
        going_on = (share > 0) & (here[starts] != _END)
        tokens, shares = [here[starts[going_on]]], [share[going_on]]
        for start in starts[titles.tokens[self._depth + 1, lo + starts] == _END]:
            if mass[start] > 0 and (closing := titles.closing.get(int(here[start]))) is not None:
                tokens.append(closing)
                shares.append(np.full(len(closing), mass[start]))
        weights = self._weight * np.log(np.concatenate(shares) / total)
        return np.concatenate(tokens), weights.astype(np.float32)

    def forced(self, ids: Sequence[int]) -> list[int]:
        """Tokens that must follow `ids` because the titles left agree in them; often [].

        They go as far as the model has no choice: how a mention is closed says how the sentence goes on.
        """
        self._follow(ids)
        if self._said is None or self._said.endswith(b"]"):
            return []
        left = self._mass[self._lo : self._hi] > 0
        ends = self._lo + int(left.argmax()), self._hi - 1 - int(left[::-1].argmax())
        first, last = (self._titles.spellings[row][self._depth :] for row in ends)  # what they agree in, all between do
        tokens = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        if len(tokens) == len(first) and tokens and tokens[-1] in self._titles.closing:
            tokens.pop()
        return tokens

    def open(self, ids: Sequence[int]) -> bool:
        """Whether `ids` stop inside a mention: an utterance that is cut there loses the title."""
        self._follow(ids)
        return self._said is not None

    def _start(self) -> None:
        self._ids: list[int] = []
        self._mass = self._given.copy()
        self._bracket = False  # whether the text outside a mention ends with a `[`
        self._said: bytes | None = None  # since `[[`; None outside a mention
        self._lo, self._hi, self._depth = 0, 0, 0  # the titles that begin with it, and in how many tokens
        self._restrict()

    def _restrict(self) -> None:
        self.never = self._titles.never if self._mass.any() else self._titles.never_opening

    def _follow(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self._ids)]) != self._ids:
            self._start()
        for token in ids[len(self._ids) :]:
            self._read(int(token))
            self._ids.append(int(token))

    def _read(self, token: int) -> None:
        titles, piece = self._titles, self._titles.pieces[token]
        after = b""  # what follows the first `]`
        if self._said is None:
            opened = (b"[" * self._bracket + piece).endswith(b"[[")
            self._bracket = piece.endswith(b"[")
            if not opened:
                return
            self._said, self._lo, self._hi, self._depth = b"", 0, len(titles.spellings), 0
        else:
            self._said += piece
            name, closing, after = self._said.partition(b"]")
            if closing:
                self._lo = titles.rows.get(name, self._hi)
                self._hi = self._lo + (name in titles.rows)
            else:
                here = titles.tokens[self._depth, self._lo : self._hi]
                start, stop = np.searchsorted(here, (token, token + 1))
                self._lo, self._hi, self._depth = self._lo + int(start), self._lo + int(stop), self._depth + 1
        if after.startswith(b"]"):
            self._mass[self._lo : self._hi] = 0
            self._restrict()
        # No drawn token leads here but by closing; text from elsewhere may: a mention of no title left is no mention.
        if after or not self._mass[self._lo : self._hi].any():
            self._said, self._bracket = None, piece.endswith(b"[")


def _said(name: str) -> str:
    """A name as it stands between the brackets of its mention."""
    text = utterances.mention(name)
    if utterances.mentions(utterances.clean(text)) != [(text[2:-2], 0, len(text))]:
        raise CrsError(f"{name!r} cannot be mentioned; give item names without line breaks or blanks around")
    return text[2:-2]


def _spell(name: str, pieces: Sequence[bytes], encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    """The tokens of a name behind ` [[`; behind a line break where the tokenizer joins it with the brackets (`['`)."""
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


def _equal(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tokens, np.zeros(len(tokens), np.float32)
