"""Grounded decoding (DESIGN §6): the recommender names real titles, chosen by model and item prior together.

Sees the dialogue and catalogue statistics of training ratings, nothing of the user.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from crslib.data.catalog import item_names
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines.base import Constraint, Engine
from crslib.recommender.prior import ItemPrior, Utterance
from crslib.recommender.trie import Titles


class Grounding:
    """Restricts the recommender to real titles: after `[[` it can only name an item of the catalogue that it has not
    recommended yet in the dialogue; the higher the item's prior, the more likely it is named.
    """

    def __init__(self, items: pl.DataFrame, engine: Engine, prior: ItemPrior | None) -> None:
        """`items`: the table of the run, on which `prior` was fitted; without a prior all titles are equally likely."""
        items = items.sort("item_id")
        self._prior = prior
        self._rows: dict[str, int] = {item: row for row, item in enumerate(items["item_id"])}
        self._titles = Titles(list(item_names(items).values()), engine.pieces, engine.encode)

    def constraint(self, history: Sequence[Utterance], temperature: float) -> Constraint:
        """The constraint of the recommender's next utterance. `history`: the utterances so far and their linked items.

        An item that the user named may be named again, with the prior of the most likely other item: that is an
        answer, not a recommendation. The weights are added before the division by `temperature` and scaled up by it, so
        that the temperature does not change the prior.
        """
        recommended, named = (
            {item for turn in history if turn.role == role for item in turn.items if item in self._rows}
            for role in (RECOMMENDER, USER)
        )
        prior = np.zeros(len(self._rows), np.float32)
        if self._prior is not None:
            prior = self._prior.log_prior(history, recommended | named)
            prior[[self._rows[item] for item in named]] = prior.max()
        excluded = [self._rows[item] for item in recommended]
        return self._titles.constraint(prior, excluded, weight=temperature or 1.0)
