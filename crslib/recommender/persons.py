"""Grounded decoding of persons: what somebody says of an item's people is what the catalogue says.

Where the next words can only be the name of somebody in an item at hand ("It stars …", "directed by …"), capitals begin
a name that the catalogue has there, or none. The reader of statements (`dialogue.claims`) says where that is, so the
same sentences are guided and measured. What it does not see beforehand ("… is in it") is not guided.

Sees the dialogue and facts of the items in it, nothing that either party knows alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from crslib.dialogue.claims import awaited_persons, no_names
from crslib.dialogue.credits import Credits
from crslib.dialogue.views import Turn
from crslib.engines.base import Choice, Constraint

Link = Callable[[str], list[dict[str, Any]]]
"""The items that a text names, as rows of `schemas.MENTION` (`data.catalog.Catalog.link`)."""


class Vocabulary(Protocol):
    """The part of an engine that spells."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """As `engines.base.Engine.pieces`."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...


class Persons:
    """The persons of one catalogue in the tokens of one vocabulary; built once, then shared by all utterances."""

    def __init__(self, credits: Credits, link: Link, vocabulary: Vocabulary) -> None:
        self.credits, self.link, self._encode = credits, link, vocabulary.encode
        self.pieces = vocabulary.pieces
        self._known: dict[str, tuple[int, ...]] = {}  # texts that were spelled before; at most twice the names
        ordinary = no_names(credits.domain)
        words = [piece.decode("utf-8", "ignore").strip() for piece in self.pieces]
        begins = [word[:1].isupper() and word.lower() not in ordinary for word in words]
        self.capitals = np.flatnonzero(begins).astype(np.int32)
        letters = [piece.decode("utf-8", "replace")[:1].isalnum() for piece in self.pieces]
        self.letters = np.flatnonzero(letters).astype(np.int32)  # go on with a word

    def constraint(self, role: str, turns: Sequence[Turn], titles: Constraint) -> "PersonConstraint":
        """The constraint of the utterance of `role` after `turns` (role, text, items), also to `titles`."""
        return PersonConstraint(self, role, turns, titles)

    def spelled(self, names: Sequence[str], after: str) -> list[tuple[int, ...]]:
        """The tokens of each of `names` that can follow the text `after`; one that is spelled with a blank of its own
        can follow once that is written. A name with brackets would be a title."""
        blank = "" if not after or after[-1].isspace() else " "
        spelled = (self._tokens(blank + name) for name in names if not {*"[]"} & {*name})
        return [tokens for tokens in spelled if tokens and self.pieces[tokens[0]].strip()]

    def _tokens(self, text: str) -> tuple[int, ...]:
        if text not in self._known:
            self._known[text] = tuple(self._encode(text))
        return self._known[text]


class PersonConstraint:
    """Restricts the names in one utterance to true ones (`engines.base.Constraint`), and its titles as `titles` does.

    A call whose ids extend those of the last call processes the new ids only.
    """

    never: np.ndarray
    """Tokens (int32) that may not be drawn where `allowed` returns None, for the ids of the last call."""

    def __init__(self, persons: Persons, role: str, turns: Sequence[Turn], titles: Constraint) -> None:
        self._persons, self._role, self._turns, self._titles = persons, role, turns, titles
        self._start()

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        """What may follow `ids` in a title or a name. None elsewhere: every token but those of `never`."""
        self._follow(ids)
        choice = self._titles.allowed(ids)
        self.never = self._titles.never
        if choice is not None:
            return choice
        if self._rests:
            tokens = np.array(sorted({rest[0] for rest in self._rests}), np.int32)
            return Choice(tokens, np.zeros(1, np.intp), np.zeros(1))
        if self._ended:
            self.never = np.concatenate([self.never, self._persons.letters])
        if self._awaited is not None:
            begin = np.array([name[0] for name in self._awaited], np.int32)
            capitals = self._persons.capitals
            self.never = np.concatenate([self.never, capitals[~np.isin(capitals, begin)]])
        return None

    def forced(self, ids: Sequence[int]) -> list[int]:
        """Tokens that must follow `ids`: the rest of a title, or of the only name that begins so."""
        self._follow(ids)
        return self._titles.forced(ids) or (list(self._rests[0]) if len(self._rests) == 1 else [])

    def _start(self) -> None:
        self._ids: list[int] = []
        self._text = b""
        self._rests: list[tuple[int, ...]] = []  # what may follow of the names that have begun
        self._ended = False  # whether the last token has ended one
        self._awaited = self._names()  # the spelled names that may begin here; None: any word may

    def _follow(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self._ids)]) != self._ids:
            self._start()
        for token in ids[len(self._ids) :]:
            begun = self._rests or self._awaited or []
            rests = sorted({name[1:] for name in begun if name[0] == token})
            self._ended = () in rests
            self._rests = [] if self._ended else rests
            self._ids.append(int(token))
            self._text += self._persons.pieces[token]
            self._awaited = None if self._rests else self._names()

    def _names(self) -> list[tuple[int, ...]] | None:
        text = self._text.decode("utf-8", "ignore")
        if text.rfind("[[") > text.rfind("]]"):  # within a title
            return None
        turn = {"role": self._role, "text": text, "items": self._persons.link(text)}
        names = awaited_persons(turn, self._turns, self._persons.credits)
        return None if names is None else self._persons.spelled(names, text)
