"""Grounded decoding: between `[[` and `]]` only tokens that continue a title of a catalogue are allowed (DESIGN §6).

A title is written in the tokens that the tokenizer splits it into, so the titles that may still follow are divided into
disjoint sets, one for each next token:

    P(token) ∝ P_model(token) · (mass of the titles that continue with it / mass of the titles here) ^ weight

Spellings differ only at the end of a title (`)` `]]`, or `)]` `].` at the end of a sentence). There the model chooses
among all of them. The model also decides whether and where to mention a title. Knows titles, tokens with their
bytes, and a prior; nothing of items, dialogues, models or how a token is drawn.
"""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, takewhile, zip_longest

import numpy as np

from crslib.dialogue import utterances
from crslib.errors import CrsError

_CLOSING = re.compile(rb"([^\[\]]*)\](?:\][^\[\]]*)?")  # the end of a title, and `]`, or `]]` and the text after it
_CLOSING_REST = re.compile(rb"\][^\[\]]*")  # the same after one `]`
_END = -1  # follows the last token of a title; sorts before all tokens
_SPAN = 700.0  # nats; exp(-700) is still a number, so an allowed title never loses its mass to rounding


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
        self, log_prior: np.ndarray, excluded: Collection[int] = (), *, weight: float = 1.0
    ) -> "TitleConstraint":
        """The constraint of one utterance to the titles.

        `log_prior`: log-mass of each of `names`, up to a constant; a name with -inf is never allowed. `excluded`:
        indexes of names that are not allowed. `weight`: exponent of the prior; 1 is the product, 0 leaves the choice of
        a title to the model.
        Raises `CrsError` for a prior of another length or that is not a number.
        """
        log_prior = np.array(log_prior, np.float64)
        if log_prior.shape != self.row_of.shape or np.isnan(log_prior).any() or (log_prior == np.inf).any():
            raise CrsError(
                f"the prior has shape {log_prior.shape} or is not a number somewhere; "
                f"give a log-mass below infinity for each of the {len(self.row_of)} names"
            )
        is_excluded = np.zeros(len(self.spellings), bool)
        is_excluded[self.row_of[list(excluded)]] = True
        log_prior[is_excluded[self.row_of]] = -np.inf
        below_top = log_prior - log_prior.max(initial=np.finfo(np.float64).min)
        mass = np.exp(np.maximum(below_top, -_SPAN), where=log_prior > -np.inf, out=np.zeros_like(log_prior))
        return TitleConstraint(self, np.bincount(self.row_of, mass, len(self.spellings)), weight)


class TitleConstraint:
    """Restricts the mentions in one utterance to titles (`engines.base.Constraint`), each at most once.

    Where tokens are drawn at temperature 1 and without truncation, a title has the probability that the module's
    formula gives along its tokens. A call whose ids extend those of the last call processes the new ids only.
    """

    never: np.ndarray
    """Tokens (int32) that may not be drawn where `allowed` returns None, for the ids of the last call."""

    def __init__(self, titles: Titles, mass: np.ndarray, weight: float) -> None:
        self._titles, self._initial_mass, self._weight = titles, mass, weight
        self._start()

    def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Tokens (int32) that may follow the utterance `ids`, and log-weights (float32) to add to their logits.

        None outside a mention: every token but those of `never` may follow. After a `[` only another `[` may follow, so
        that a bracket always opens a mention.
        """
        self._follow(ids)
        titles, lo, hi = self._titles, self._lo, self._hi
        if self._name is None:
            return _equal(titles.bracket) if self._bracket and self._mass.any() else None
        if self._name.endswith(b"]"):
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

        They end where the model has a choice: how a mention is closed depends on how the sentence continues.
        """
        self._follow(ids)
        if self._name is None or self._name.endswith(b"]"):
            return []
        left = self._mass[self._lo : self._hi] > 0
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
        self._mass = self._initial_mass.copy()
        self._bracket = False  # whether the text outside a mention ends with a `[`
        self._name: bytes | None = None  # the text since `[[`; None outside a mention
        self._lo, self._hi, self._depth = 0, 0, 0  # rows of the titles that begin with it, and its number of tokens
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
            self._mass[self._lo : self._hi] = 0
            self._restrict()
        # Allowed tokens leave a mention only by closing it. Text from elsewhere may name no title that is left; then it
        # is no mention.
        if after or not self._mass[self._lo : self._hi].any():
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


def _equal(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tokens, np.zeros(len(tokens), np.float32)
