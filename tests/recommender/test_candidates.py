"""The items that a recommender is told of."""

import polars as pl
import pytest

from crslib import schemas
from crslib.data.catalog import item_names
from crslib.recommender.candidates import candidates
from crslib.recommender.prior import ContraryPrior, ItemPrior, Utterance
from tests.support.domains import MOVIES


@pytest.fixture
def prior(items: pl.DataFrame) -> ItemPrior:
    """Of two users: the first likes Heat and The Matrix, the second Notting Hill and Up."""
    rows = [("a", "1", 5.0), ("a", "2", 5.0), ("b", "3", 5.0), ("b", "6", 5.0)]
    ratings = pl.DataFrame([(*row, None) for row in rows], schema=dict(schemas.TABLES["ratings"]), orient="row")
    return ItemPrior.fit(items, ratings, MOVIES)


def test_the_likeliest_come_first_and_equal_ones_by_id(items: pl.DataFrame, prior: ItemPrior) -> None:
    names = item_names(items)
    before = candidates(prior, names, [])
    assert before == [
        *("Heat (1995)", "The Matrix (1999)", "Notting Hill (1999)", "Up (2009)"),  # one like each
        *("King Kong (1933)", "King Kong (2005)"),  # none
    ]
    asked = [Utterance("user", "A romance please, a comedy", [])]
    assert candidates(prior, names, asked)[0] == "Notting Hill (1999)"
    assert candidates(prior, dict(reversed(names.items())), asked) == candidates(prior, names, asked)
    assert candidates(prior, names, asked, n=2) == candidates(prior, names, asked)[:2]
    assert candidates(ContraryPrior(prior), names, asked)[0] != "Notting Hill (1999)"


def test_what_was_recommended_is_left_out_and_what_the_user_named_is_not(items: pl.DataFrame, prior: ItemPrior) -> None:
    names = item_names(items)
    history = [
        Utterance("user", "I like [[Up (2009)]]", ["6"]),
        Utterance("recommender", "[[Heat (1995)]], [[Fake (2031)]]?", ["1", None]),
        Utterance("user", "no", []),
    ]
    assert set(candidates(prior, names, history)) == set(names.values()) - {"Heat (1995)"}
    everything = [Utterance("recommender", "…", list(names))]
    assert candidates(prior, names, everything) == []
