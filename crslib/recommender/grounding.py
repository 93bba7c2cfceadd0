"""Grounded decoding (DESIGN §6): the recommender names real titles, chosen by model and item prior together.

Sees the dialogue and catalogue statistics of training ratings, nothing of the user. The user's titles are real too
(`RealTitles`); which one it names is its model's choice, where nobody says that some are likelier.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from crslib.data.catalog import item_names
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines.base import Choice, Constraint, Engine
from crslib.engines.loading import CACHE
from crslib.recommender.mixture import Mixture, token_table
from crslib.recommender.prior import ContraryPrior, ItemPrior, Utterance
from crslib.recommender.trie import TitleConstraint, Titles


class Grounding:
    """Restricts the recommender to real titles: after `[[` it can only name an item of the catalogue that it has not
    recommended yet in the dialogue. Which one is drawn from `mixture`, whatever the temperature of words.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        engine: Engine,
        prior: ItemPrior | ContraryPrior | None,
        mixture: Mixture,
        domain: Domain,
        cache: Path | None = CACHE,
    ) -> None:
        """`items`: the table of the run, on which `prior` was fitted; without a prior no item is likelier than another.

        The model reads all titles once, which takes half a minute if they are not in the folder `cache` yet. Raises
        `CrsError` for a model that cannot write a title, and for an engine without a model.
        """
        self._prior, self._mixture = prior, mixture
        self._names = item_names(items.sort("item_id"))
        self._rows: dict[str, int] = {item: row for row, item in enumerate(self._names)}
        self._titles = Titles(list(self._names.values()), engine.pieces, engine.encode)
        self._table: np.ndarray | None = None
        self._log_base = np.zeros(len(self._names))
        if mixture.model or mixture.base:  # else no word of the model's on titles counts
            self._table = token_table(engine, self._titles.names, self._titles.spellings, domain, cache)
            self._log_base = self._table.sum(axis=1)[self._titles.row_of]

    def constraint(self, history: Sequence[Utterance]) -> Constraint:
        """The constraint of the recommender's next utterance. `history`: the utterances so far and their linked items.

        An item that only the user named may be named again: that is an answer, not a recommendation.
        """
        weights = self._mixture.weights(self._log_prior(history), self._log_base)
        return self._titles.constraint(weights, power=self._mixture.model, table=self._table)

    def shares(self, history: Sequence[Utterance]) -> dict[str, float]:
        """The prior's log-probability of each title that may be named next, by name."""
        shares: dict[str, float] = {}
        log_prior = self._log_prior(history)
        log_prior = log_prior - np.logaddexp.reduce(log_prior)
        for name, share in zip(self._names.values(), log_prior.tolist(), strict=True):
            shares[name] = float(np.logaddexp(shares.get(name, -np.inf), share))
        return shares

    def _log_prior(self, history: Sequence[Utterance]) -> np.ndarray:
        """Log-mass (n_items,) of each item; -inf if it has been recommended."""
        recommended = {
            item for turn in history if turn.role == RECOMMENDER for item in turn.items if item in self._rows
        }
        if self._prior is not None:
            return self._prior.log_prior(history, recommended).astype(np.float64)
        log_prior = np.zeros(len(self._rows))
        log_prior[[self._rows[item] for item in recommended]] = -np.inf
        return log_prior


class RealTitles:
    """The titles of a catalogue in the tokens of one vocabulary, for a party of which nothing else is asked."""

    def __init__(
        self,
        items: pl.DataFrame,
        engine: Engine,
        domain: Domain,
        reader: Engine | None = None,
        cache: Path | None = CACHE,
    ) -> None:
        """`items`: the table of the run. `reader`: the model that says how titles go on where no dialogue is at hand
        (`mixture.token_table`), so that none is begun for the sake of one that may not be said; None: nobody does.
        Raises `CrsError` for a model that cannot write a title."""
        names = list(item_names(items.sort("item_id")).values())
        self._titles = Titles(names, engine.pieces, engine.encode)
        self._table: np.ndarray | None = None
        if reader is not None:
            self._table = token_table(reader, self._titles.names, self._titles.spellings, domain, cache)
            likely = np.exp(self._table.sum(axis=1))[self._titles.row_of]
            self._shares = likely / likely.sum()
        self._places = {name: place for place, name in enumerate(names)}

    def constraint(
        self,
        excluded: Collection[str] = (),
        likelier: Collection[str] = (),
        kept: Collection[str] = (),
        *,
        by: float = 0.0,
    ) -> Constraint:
        """The constraint of one utterance: any title but `excluded`, as likely as it is to the model.

        `likelier`: names that are e^`by` times as likely beside the others; without a reader they are not. `kept`:
        names that stay as likely as they are beside all others together, as far as the model without a dialogue tells.
        """
        weights = np.zeros(len(self._places))
        if by and self._table is not None:
            tilted = self._at(likelier)
            weights[tilted] = by
            weights[self._at(kept)] = np.log1p(np.expm1(by) * self._shares[tilted].sum())
        constraint = self._titles.constraint(weights, self._at(excluded), table=self._table)
        return AnyTitle(constraint) if self._table is None else constraint

    def _at(self, names: Collection[str]) -> list[int]:
        return [self._places[name] for name in names if name in self._places]


class AnyTitle:
    """Restricts mentions to titles (`engines.base.Constraint`) of which nobody knows how they go on: among the tokens
    that continue one, the model chooses as if there were no others, however many titles each leads to."""

    never: np.ndarray
    """Tokens (int32) that may not be drawn where `allowed` returns None, for the ids of the last call."""

    def __init__(self, titles: TitleConstraint) -> None:
        self._titles = titles

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        """As `TitleConstraint.allowed`, the sets of titles with equal weights."""
        choice = self._titles.allowed(ids)
        self.never = self._titles.never
        return None if choice is None else replace(choice, weights=np.zeros_like(choice.weights))

    def forced(self, ids: Sequence[int]) -> list[int]:
        """As `TitleConstraint.forced`."""
        return self._titles.forced(ids)
