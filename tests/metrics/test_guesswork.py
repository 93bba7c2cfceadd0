"""Ranks of hidden items given words, attributes and nothing, by hand."""

from math import log2
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from crslib.metrics import guesswork
from tests.support.domains import MOVIES
from tests.support.metrics_frames import table, talk

# One user likes Heat and The Matrix, another Notting Hill and Up, none the King Kongs: given nothing, four items share
# ranks 1 to 4.
RATINGS = table(
    "ratings",
    [{"user_id": u, "item_id": i, "rating": 5.0} for u, i in (("a", "1"), ("a", "2"), ("b", "3"), ("b", "6"))],
)


def bits(items: pl.DataFrame, wanted: str, targets: list[str], *utterances: str) -> dict[str, float]:
    """Metric → value of one dialogue whose user looks for `wanted`."""
    dialogues, turns = talk({"p": utterances})
    profiles = table("profiles", [{"profile_id": "p", "attributes": wanted}])
    hidden = pl.DataFrame([("p", t) for t in targets], schema=["dialogue_id", "item_id"], orient="row")
    parts = guesswork.parts(turns, dialogues, profiles, hidden, items, RATINGS, MOVIES)
    assert (parts["whole"] == 1).all()
    return {metric.removeprefix("guesswork_"): value for metric, value in parts.select("metric", "part").iter_rows()}


def test_ranks_by_hand(items: pl.DataFrame) -> None:
    """Something funny is Notting Hill alone; an action film of the 1990s is Heat or The Matrix, Notting Hill third."""
    values = bits(items, "action movie from the 1990s", ["3"], "R: [[Up (2009)]]?", "U: something funny")
    assert values == pytest.approx({"words": 0, "attributes": log2(3), "nothing": log2(2.5), "saved": log2(3)})


def test_several_targets_have_equal_weight_and_silence_is_nothing(items: pl.DataFrame) -> None:
    values = bits(items, "action movie", ["1", "4", "unknown"], "R: hello")
    nothing = (log2(2.5) + log2(5.5)) / 2
    assert values["words"] == values["nothing"] == pytest.approx(nothing)
    assert values["attributes"] == pytest.approx((log2(1.5) + log2(5.5)) / 2)
    assert values["saved"] == pytest.approx(log2(1.5 / 2.5) / 2)
    assert bits(items, "", ["1"], "U: hm")["attributes"] == pytest.approx(log2(2.5))


def test_items_that_the_user_links_take_no_rank(items: pl.DataFrame) -> None:
    """With The Matrix gone, Heat, Notting Hill and Up share three places."""
    assert bits(items, "", ["3"], "U: I saw [[The Matrix (1999)]]")["nothing"] == pytest.approx(1)


def test_a_target_that_the_user_names_first_has_rank_one(items: pl.DataFrame) -> None:
    values = bits(items, "comedy movie", ["1"], "U: I want [[Heat (1995)]]", "R: [[Heat (1995)]] it is")
    assert values == pytest.approx({"words": 0, "attributes": log2(3), "nothing": log2(2.5), "saved": log2(3)})
    assert bits(items, "", ["2"], "U: the matrx?")["words"] == 0  # misspelt, but near enough


def test_a_target_that_the_user_names_after_the_recommender_is_left_out(items: pl.DataFrame) -> None:
    talked = "R: [[Heat (1995)]]?", "U: Yes, [[Heat (1995)]] was great"
    assert bits(items, "comedy movie", ["1"], *talked) == {}
    assert bits(items, "comedy movie", ["1", "3"], *talked)["attributes"] == 0


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=12), st.randoms())
def test_ranks_are_scipys(values: list[int], random: Random) -> None:
    scores = np.array(values, dtype=np.float32)
    places = random.sample(range(len(values)), 3)
    left = scores.copy()
    left[places[2]] = -np.inf
    expected = np.log2(rankdata(-left)[places[:2]])
    assert np.array_equal(guesswork._bits(scores, places[:2], places[2:]), expected)
