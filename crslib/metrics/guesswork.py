"""How much the user's words reveal about the hidden items: how many guesses a reader of these words would need.

The reader is the item prior of `recommender.prior`, which guesses the catalogue's items in the order of its ranking.
Guesswork is log₂ of the rank of a hidden item, in bits: one bit less means half as many guesses (Massey, Guessing and
Entropy, ISIT 1994; in bits as in Bonneau, The Science of Guessing, S&P 2012). A mean rank or percentile would depend
mostly on the items with the worst ranks; a best or reciprocal rank would depend mostly on the few best ranks and on the
number of hidden items.

The words of a user who knows no hidden item should not save more guesses than its target attributes do. Knows nothing
of prompts, which `leakage` audits.
"""

from collections import defaultdict
from functools import cache
from itertools import groupby
from operator import itemgetter

import numpy as np
import polars as pl

from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import USER
from crslib.metrics.base import PARTS, Metric
from crslib.metrics.leakage import USER_FIRST, first_named
from crslib.recommender.prior import ItemPrior, Utterance

WORDS, ATTRIBUTES, NOTHING = "guesswork_words", "guesswork_attributes", "guesswork_nothing"
SAVED = "guesswork_saved"

_GIVEN = {
    WORDS: ("the user's words", "the user's utterances"),
    ATTRIBUTES: ("the target attributes", "the target attributes"),
    NOTHING: ("nothing", "no text, which is by popularity"),
}
_SOURCE = "Massey, Guessing and Entropy, ISIT 1994"
METRICS = (
    *(
        Metric(name, "leakage", f"Guesswork of a hidden item given {title}", "bits", "none",
            "Mean over dialogues of the mean log₂ rank of the held-out liked items in the catalogue, ranked by the "
            f"item prior given {text}. Items that the user links are left out of the ranking. A target that the user "
            "names before the recommender does has rank 1 given the words; one that the user names later is left out.",
            _SOURCE, chart=name == WORDS, needs="holdouts")
        for name, (title, text) in _GIVEN.items()
    ),
    Metric(SAVED, "leakage", "Guesswork that the user's words save over its attributes", "bits saved", "none",
        "Mean over dialogues of guesswork_attributes − guesswork_words: above 0 the words reveal more about the hidden "
        "items than the target attributes do.",
        _SOURCE, needs="holdouts"),
)  # fmt: skip


def parts(
    turns: pl.DataFrame,
    dialogues: pl.DataFrame,
    profiles: pl.DataFrame,
    targets: pl.DataFrame,
    items: pl.DataFrame,
    ratings: pl.DataFrame,
    domain: Domain,
) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole): the mean guesswork of a dialogue's targets given the user's utterances,
    its target attributes and nothing, and what the words save over the attributes (may be negative).

    `targets`: (dialogue_id, item_id); `ratings`: training ratings. Items that the user links are left out of the
    ranking. A target that the user names before the recommender does has rank 1 given the words; one that it
    names after the recommender is left out everywhere, and so are dialogues that have no other.
    """
    known = targets.join(items, on="item_id", how="semi")
    named = first_named(turns, known, items).filter(USER_FIRST | pl.col("user").is_null())
    if named.is_empty():
        return pl.DataFrame(schema=PARTS)
    prior = ItemPrior.fit(items, ratings, domain)
    place = {item_id: row for row, item_id in enumerate(prior.item_ids)}
    spoken: defaultdict[str, list[Utterance]] = defaultdict(list)
    for row in turns.filter(role=USER).sort("dialogue_id", "turn").iter_rows(named=True):
        spoken[row["dialogue_id"]].append(Utterance(USER, row["text"], [item["item_id"] for item in row["items"]]))
    wanted = dict(dialogues.join(profiles, on="profile_id").select("dialogue_id", "attributes").iter_rows())
    nothing = prior.log_prior([])

    @cache
    def given_attributes(attributes: str) -> np.ndarray:
        return prior.log_prior([Utterance(USER, attributes)])

    rows = []
    of_dialogues = groupby(named.select("dialogue_id", "item_id", "user").iter_rows(), key=itemgetter(0))
    for dialogue_id, targets_named in of_dialogues:
        _, item_ids, by_user = zip(*targets_named, strict=True)
        where = [place[item_id] for item_id in item_ids]
        linked = {item_id for turn in spoken[dialogue_id] for item_id in turn.items}
        excluded = sorted({place[item_id] for item_id in linked if item_id in place} - set(where))
        words = _bits(prior.log_prior(spoken[dialogue_id]), where, excluded)
        words[[turn is not None for turn in by_user]] = 0.0
        bits = {
            WORDS: words.mean(),
            ATTRIBUTES: _bits(given_attributes(wanted[dialogue_id] or ""), where, excluded).mean(),
            NOTHING: _bits(nothing, where, excluded).mean(),
        }
        bits[SAVED] = bits[ATTRIBUTES] - bits[WORDS]
        rows += [(dialogue_id, metric, value, 1.0) for metric, value in bits.items()]
    return pl.DataFrame(rows, schema=PARTS, orient="row").sort("dialogue_id", "metric")


def _bits(scores: np.ndarray, where: list[int], excluded: list[int]) -> np.ndarray:
    """log₂ of the ranks of the items `where`, the highest score first, equal ones with their mean rank; the items
    `excluded` take no rank."""
    left = scores.copy()
    left[excluded] = -np.inf
    own = left[where][:, None]
    return np.log2((left > own).sum(axis=1) + ((left == own).sum(axis=1) + 1) / 2)
