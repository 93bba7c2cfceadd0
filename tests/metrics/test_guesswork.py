from math import log2

import polars as pl
import pytest

from crslib.metrics import guesswork
from tests.support.metrics_frames import table, talk

# Heat and The Matrix are liked by one person, Notting Hill and Up by another, the King Kongs by nobody: after nothing
# four items share places 1 to 4.
RATINGS = table(
    "ratings",
    [{"user_id": u, "item_id": i, "rating": 5.0} for u, i in (("a", "1"), ("a", "2"), ("b", "3"), ("b", "6"))],
)


def bits(items: pl.DataFrame, wanted: str, targets: list[str], *utterances: str) -> dict[str, float]:
    """Metric → value of one dialogue whose user looks for `wanted`."""
    dialogues, turns = talk({"p": utterances})
    profiles = table("profiles", [{"profile_id": "p", "attributes": wanted}])
    hidden = pl.DataFrame([("p", t) for t in targets], schema=["dialogue_id", "item_id"], orient="row")
    parts = guesswork.parts(turns, dialogues, profiles, hidden, items, RATINGS)
    assert (parts["whole"] == 1).all()
    return {metric.removeprefix("guesswork_"): value for metric, value in parts.select("metric", "part").iter_rows()}


def test_places_by_hand(items: pl.DataFrame) -> None:
    """Something funny is Notting Hill alone; an action film of the 1990s is Heat or The Matrix, Notting Hill third."""
    found = bits(items, "action movie from the 1990s", ["3"], "R: [[Up (2009)]]?", "U: something funny")
    assert found == pytest.approx({"words": 0, "attributes": log2(3), "nothing": log2(2.5), "saved": log2(3)})


def test_several_targets_count_alike_and_silence_is_nothing(items: pl.DataFrame) -> None:
    found = bits(items, "action movie", ["1", "4", "unknown"], "R: hello")
    nothing = (log2(2.5) + log2(5.5)) / 2
    assert found["words"] == found["nothing"] == pytest.approx(nothing)
    assert found["attributes"] == pytest.approx((log2(1.5) + log2(5.5)) / 2)
    assert found["saved"] == pytest.approx(log2(1.5 / 2.5) / 2)
    assert bits(items, "", ["1"], "U: hm")["attributes"] == pytest.approx(log2(2.5))


def test_what_the_user_links_takes_no_place(items: pl.DataFrame) -> None:
    """With The Matrix gone, Heat, Notting Hill and Up share three places."""
    assert bits(items, "", ["3"], "U: I saw [[The Matrix (1999)]]")["nothing"] == pytest.approx(1)


def test_a_target_that_the_user_brings_up_is_found_at_once(items: pl.DataFrame) -> None:
    found = bits(items, "comedy movie", ["1"], "U: I want [[Heat (1995)]]", "R: [[Heat (1995)]] it is")
    assert found == pytest.approx({"words": 0, "attributes": log2(3), "nothing": log2(2.5), "saved": log2(3)})
    assert bits(items, "", ["2"], "U: the matrx?")["words"] == 0  # misspelt, but near enough


def test_a_target_that_the_user_takes_over_is_left_out(items: pl.DataFrame) -> None:
    said = "R: [[Heat (1995)]]?", "U: Yes, [[Heat (1995)]] was great"
    assert bits(items, "comedy movie", ["1"], *said) == {}
    assert bits(items, "comedy movie", ["1", "3"], *said)["attributes"] == 0
