"""What the user's words give away of the hidden items: how long a stranger who hears nothing else would have to guess.

The stranger is the item prior of `ranking.py`, which goes down its ranking of the catalogue. Guesswork is log₂ of the
place at which it meets a hidden item, in bits: one bit less halves the guesses (Massey, Guessing and Entropy, ISIT
1994; in bits as in Bonneau, The Science of Guessing, S&P 2012). A mean place or percentile is ruled by the items that
nobody finds, a best or reciprocal place by the few that are found at once and by how many items there are to find.

A user who knows no hidden item should not save a stranger more than its target attributes would. Knows nothing of
prompts: what was fed to the models is `leakage`'s business.
"""

from collections import defaultdict
from functools import cache

import numpy as np
import polars as pl
from scipy.stats import rankdata

from crslib.dialogue.utterances import USER
from crslib.metrics.leakage import USER_FIRST, first_named
from crslib.recommender.prior import ItemPrior, Utterance

WORDS, ATTRIBUTES, NOTHING = "guesswork_words", "guesswork_attributes", "guesswork_nothing"
SAVED = "guesswork_saved"


def parts(
    turns: pl.DataFrame,
    dialogues: pl.DataFrame,
    profiles: pl.DataFrame,
    targets: pl.DataFrame,
    items: pl.DataFrame,
    ratings: pl.DataFrame,
) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole): the mean guesswork of a dialogue's targets after the user's utterances,
    after its target attributes, after nothing, and what the words save over the attributes (negative: nothing).

    `targets`: (dialogue_id, item_id); `ratings`: training ratings. What the user links is no guess any more. A target
    that it names before the recommender does is found at once by the words; one that it takes over from the recommender
    is left out everywhere, and so are dialogues that have no other.
    """
    schema = {"dialogue_id": pl.String, "metric": pl.String, "part": pl.Float64, "whole": pl.Float64}
    known = targets.join(items, on="item_id", how="semi")
    named = first_named(turns, known, items).filter(USER_FIRST | pl.col("user").is_null())
    if named.is_empty():
        return pl.DataFrame(schema=schema)
    prior = ItemPrior.fit(items, ratings)
    place = {item_id: row for row, item_id in enumerate(prior.item_ids)}
    said: defaultdict[str, list[Utterance]] = defaultdict(list)
    for row in turns.filter(role=USER).sort("dialogue_id", "turn").iter_rows(named=True):
        said[row["dialogue_id"]].append(Utterance(USER, row["text"], [item["item_id"] for item in row["items"]]))
    wanted = dict(dialogues.join(profiles, on="profile_id").select("dialogue_id", "attributes").iter_rows())
    nothing = prior.log_prior([])

    @cache
    def after(attributes: str) -> np.ndarray:
        return prior.log_prior([Utterance(USER, attributes)])

    rows = []
    for (dialogue_id,), mine in named.group_by("dialogue_id", maintain_order=True):
        where = [place[item_id] for item_id in mine["item_id"]]
        linked = {item_id for turn in said[dialogue_id] for item_id in turn.items}
        gone = sorted({place[item_id] for item_id in linked if item_id in place} - set(where))
        words = _bits(prior.log_prior(said[dialogue_id]), where, gone)
        words[mine["user"].is_not_null().to_numpy()] = 0.0
        found = {
            WORDS: words.mean(),
            ATTRIBUTES: _bits(after(wanted[dialogue_id] or ""), where, gone).mean(),
            NOTHING: _bits(nothing, where, gone).mean(),
        }
        found[SAVED] = found[ATTRIBUTES] - found[WORDS]
        rows += [(dialogue_id, metric, value, 1.0) for metric, value in found.items()]
    return pl.DataFrame(rows, schema=schema, orient="row").sort("dialogue_id", "metric")


def _bits(scores: np.ndarray, where: list[int], gone: list[int]) -> np.ndarray:
    """log₂ of the places of the items `where`, the highest score first and equal ones sharing their mean place; `gone`
    take none."""
    left = scores.copy()
    left[gone] = -np.inf
    return np.log2(rankdata(-left)[where])
