"""Grounded decoding (DESIGN §6): the recommender names real titles, chosen by model and item prior together.

Sees the dialogue and catalogue statistics of training ratings, nothing of the user. The user's titles are real too
(`RealTitles`); which one it names is its model's choice, where nobody says that some are likelier.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from crslib.data.catalog import item_names
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines.base import Choice, Constraint, Engine
from crslib.engines.loading import CACHE
from crslib.errors import CrsError
from crslib.recommender.mixture import Mixture, token_table
from crslib.recommender.prior import ContraryPrior, ItemPrior, Utterance
from crslib.recommender.trie import TitleConstraint, Titles


class CatalogTitles:
    """The titles of a catalogue in the tokens of one vocabulary, and how they go on where no dialogue is at hand.

    Built once, then shared by all parties that speak in this vocabulary.

    - `names` (id → name of each item, sorted by id), `places` (name → place in `names`), `pieces` (the vocabulary's)
    - `titles`: which tokens may follow in a mention
    - `table`: what a model says of each token (`mixture.token_table`); None where none reads them
    """

    def __init__(
        self, items: pl.DataFrame, engine: Engine, domain: Domain, *, reads: bool = True, cache: Path | None = CACHE
    ) -> None:
        """`items`: the table of the run. `reads`: the engine's model reads all titles once, which takes half a minute
        if they are not in the folder `cache` yet. Raises `CrsError` for a model that cannot write a title, and where an
        engine without a model should read."""
        self.names: dict[str, str] = item_names(items.sort("item_id"))
        self.places = {name: place for place, name in enumerate(self.names.values())}
        self.pieces = engine.pieces
        self.titles = Titles(list(self.names.values()), engine.pieces, engine.encode)
        self.table: np.ndarray | None = None
        if reads:
            self.table = token_table(engine, self.titles.names, self.titles.spellings, domain, cache)

    @cached_property
    def log_likely(self) -> np.ndarray:
        """log P(title | no dialogue) of each name (float64, nats); 0 where no model reads them."""
        if self.table is None:
            return np.zeros(len(self.names))
        likely: np.ndarray = self.table.sum(axis=1)[self.titles.row_of]
        return likely


class Grounding:
    """Restricts the recommender to real titles: after `[[` it can only name an item of the catalogue that it has not
    recommended yet in the dialogue. Which one is drawn from `mixture`, whatever the temperature of words.
    """

    def __init__(self, titles: CatalogTitles, prior: ItemPrior | ContraryPrior | None, mixture: Mixture) -> None:
        """`titles`: of the items on which `prior` was fitted; without a prior no item is likelier than another. Raises
        `CrsError` where `mixture` has a model's reading count and no model reads them."""
        if titles.table is None and (mixture.model or mixture.base):
            raise CrsError(f"{mixture} needs titles that a model reads; read them, or set model and base to 0")
        self._of_catalog, self._prior, self._mixture = titles, prior, mixture
        self._rows: dict[str, int] = {item: row for row, item in enumerate(titles.names)}

    def constraint(self, history: Sequence[Utterance]) -> Constraint:
        """The constraint of the recommender's next utterance. `history`: the utterances so far and their linked items.

        An item that only the user named may be named again: that is an answer, not a recommendation.
        """
        known = self._of_catalog
        weights = self._mixture.weights(self._log_prior(history), known.log_likely)
        return known.titles.constraint(weights, power=self._mixture.model, table=known.table)

    def shares(self, history: Sequence[Utterance]) -> dict[str, float]:
        """The prior's log-probability of each title that may be named next, by name."""
        shares: dict[str, float] = {}
        log_prior = self._log_prior(history)
        log_prior = log_prior - np.logaddexp.reduce(log_prior)
        for name, share in zip(self._of_catalog.names.values(), log_prior.tolist(), strict=True):
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
    """Restricts a party of which nothing else is asked to real titles."""

    def __init__(self, titles: CatalogTitles) -> None:
        """Where a model reads `titles`, none is begun for the sake of one that may not be said."""
        self._of_catalog = titles
        likely = np.exp(titles.log_likely)
        self._shares = likely / likely.sum()

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
        known = self._of_catalog
        weights = np.zeros(len(known.names))
        if by and known.table is not None:
            tilted = self._at(likelier)
            weights[tilted] = by
            weights[self._at(kept)] = np.log1p(np.expm1(by) * self._shares[tilted].sum())
        constraint = known.titles.constraint(weights, self._at(excluded), table=known.table)
        return AnyTitle(constraint) if known.table is None else constraint

    def _at(self, names: Collection[str]) -> list[int]:
        places = self._of_catalog.places
        return [places[name] for name in names if name in places]


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
