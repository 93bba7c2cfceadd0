"""Grounded decoding (DESIGN §6): the recommender names titles that exist, by the model and the item prior together.

Sees the dialogue and catalogue statistics of training ratings, nothing of the user.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines.base import Constraint, Engine
from crslib.recommender.prior import ItemPrior, Utterance
from crslib.recommender.trie import Titles


class Grounding:
    """Keeps the recommender to real titles: after `[[` it can only name an item of the catalogue that it has not yet
    recommended in the dialogue, the more likely the higher the item prior holds it (DESIGN §6). It sees the dialogue
    and catalogue statistics of training ratings, nothing of the user.
    """

    def __init__(self, items: pl.DataFrame, engine: Engine, prior: ItemPrior | None) -> None:
        """`items`: the table of the run, on which `prior` was fitted; without a prior all titles are equally likely."""
        items = items.sort("item_id")
        self._prior = prior
        self._rows = {item: row for row, item in enumerate(items["item_id"])}
        names = [utterances.item_name(*row) for row in items.select("title", "year").iter_rows()]
        self._titles = Titles(names, engine.pieces, engine.encode)

    def constraint(self, said: Sequence[Utterance], temperature: float) -> Constraint:
        """For the recommender's next utterance after what was `said` aloud: words and links, no private note.

        What the user named stays sayable, as likely as the likeliest other item: that is an answer, not a
        recommendation. The weights enter before the temperature; they are scaled so that it leaves them as they are.
        """
        recommended, named = (
            {item for utterance in said if utterance.role == role for item in utterance.items} & self._rows.keys()
            for role in (RECOMMENDER, USER)
        )
        prior = np.zeros(len(self._rows), np.float32)
        if self._prior is not None:
            prior = self._prior.log_prior(said, recommended | named)
            prior[[self._rows[item] for item in named]] = prior.max()
        out = [self._rows[item] for item in recommended]
        return self._titles.constraint(prior, out, weight=temperature or 1.0)
