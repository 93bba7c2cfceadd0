"""Which items a recommender may choose from, for models that are told titles in words: the best of the item prior."""

from collections.abc import Mapping, Sequence

import numpy as np

from crslib.dialogue.utterances import RECOMMENDER
from crslib.recommender.prior import ContraryPrior, ItemPrior, Utterance


def candidates(
    prior: ItemPrior | ContraryPrior, names: Mapping[str, str], history: Sequence[Utterance], n: int = 20
) -> list[str]:
    """The names of the `n` items that `prior` finds likeliest after `history`, the best first; equal ones by id.

    `names`: of all items that `prior` was fitted on, by id. Those that were recommended already are left out. Fewer
    where fewer are left.
    """
    item_ids = sorted(names)  # the rows of a prior
    recommended = {item for turn in history if turn.role == RECOMMENDER for item in turn.items if item is not None}
    log_prior = prior.log_prior(history, recommended)
    best = np.argsort(-log_prior, kind="stable")[:n]
    return [names[item_ids[row]] for row in best if np.isfinite(log_prior[row])]
