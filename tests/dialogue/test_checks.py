"""What an utterance must not do, by what its speaker knows."""

from typing import Any

import polars as pl
import pytest

from crslib.data.catalog import Catalog
from crslib.dialogue.checks import FALSE, SILENT, recommender_faults, user_faults
from crslib.dialogue.credits import Credits
from crslib.dialogue.stances import serves_wish
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Wishes
from tests.support.domains import MOVIES

NO_WISH = {f"target_{part}": None for part in ("kinds", "decade", "person", "maker", "attributes")}
PROFILE = NO_WISH | {
    "liked_kinds": ["comedy"],
    "disliked_kinds": ["horror"],
    "loved_items": ["1", "3"],
    "disliked_items": ["2"],
    "target_kinds": ["comedy"],
}


@pytest.fixture
def said(items: pl.DataFrame) -> Any:
    catalog = Catalog(items, MOVIES)

    def turn(role: str, text: str, *notes: dict[str, Any]) -> dict[str, Any]:
        return {"role": role, "text": text, "items": catalog.link(text), "notes": list(notes)}

    return turn


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("I loved [[Notting Hill (1999)]]", True),  # a comedy, as wished
        ("I loved [[Heat (1995)]]", False),  # nobody asked for crime
        ("I hated [[Notting Hill (1999)]]", False),
        ("I love horror movies", False),
        ("I love comedy movies but not horror", True),
        ("I loved [[The Matrix (1999)]]", False),
        ("Something with [[Up (2009)]]", True),  # not of the summary
        ("", True),
    ],
)
def test_a_user_agrees_with_its_summary_and_names_what_serves_its_wish(
    items: pl.DataFrame, said: Any, text: str, fits: bool
) -> None:
    rows = {row["item_id"]: row for row in items.iter_rows(named=True)}
    assert user_faults(said(USER, text), [], PROFILE, rows, MOVIES) == (0 if fits else FALSE)
    anything = PROFILE | NO_WISH
    if "Heat" in text:
        assert not user_faults(
            said(USER, text), [], anything, rows, MOVIES
        )  # no wish that it could have nothing to do with
        assert not user_faults(
            said(USER, text), [said(RECOMMENDER, "[[Heat (1995)]]?")], PROFILE, rows, MOVIES
        )  # it was asked


def test_a_user_who_is_asked_says_what_it_looks_for(items: pl.DataFrame, said: Any) -> None:
    rows = {row["item_id"]: row for row in items.iter_rows(named=True)}
    asked = [said(USER, "Hi"), said(RECOMMENDER, "Hello, what are you looking for?")]
    for history, text, fits in (
        (asked, "A comedy", True),
        (asked, "I am fine", False),
        ([said(RECOMMENDER, "Hello.")], "I am fine", True),  # nobody asked
        ([said(USER, "I would like a comedy"), asked[1]], "I am fine", True),  # it has said so
        ([said(RECOMMENDER, "[[Up (2009)]]?")], "I am fine", True),  # that can be answered
        ([said(USER, "Hi"), said(RECOMMENDER, "[[Up (2009)]]?")], "I am fine", False),  # its second utterance
        ([*asked, said(USER, "Hm"), said(RECOMMENDER, "[[Up (2009)]]?")], "I am fine", False),  # its third
        ([*asked, said(USER, "Hm"), said(RECOMMENDER, "Hm"), said(USER, "Hm")], "I am fine", True),  # it is late
    ):
        assert user_faults(said(USER, text), history, PROFILE, rows, MOVIES) == (0 if fits else SILENT)
    assert not user_faults(said(USER, "I am fine"), asked, PROFILE | NO_WISH, rows, MOVIES)
    lied = said(USER, "I hate comedy movies")
    assert user_faults(lied, asked, PROFILE, rows, MOVIES) == FALSE > SILENT, "worse than to leave the wish out"


def test_a_user_agrees_with_its_notes(items: pl.DataFrame, said: Any) -> None:
    rows = {row["item_id"]: row for row in items.iter_rows(named=True)}
    history = [said(RECOMMENDER, "Have you seen [[Up (2009)]]?")]
    note = {"item_id": "6", "title": "Up (2009)", "seen": False, "liked": True}
    assert not user_faults(said(USER, "No, I have not seen it", note), history, PROFILE, rows, MOVIES)
    assert user_faults(said(USER, "Yes, I have seen it", note), history, PROFILE, rows, MOVIES) == FALSE


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("It stars Al Pacino", True),
        ("It stars Tom Hanks", False),
        ("It was directed by Michael Mann", True),
        ("It came out in 1995", True),
        ("It came out in 2003", False),
        ("I hope you enjoy it", True),
        ("Then [[The Matrix (1999)]] with Keanu Reeves", True),
    ],
)
def test_a_recommender_states_no_false_fact(items: pl.DataFrame, said: Any, text: str, fits: bool) -> None:
    history = [said(RECOMMENDER, "Have you seen [[Heat (1995)]]?"), said(USER, "No, who is in it?")]
    faults = recommender_faults(said(RECOMMENDER, text), history, Credits.of(items, MOVIES))
    assert faults == (0 if fits else FALSE)


def test_what_serves_a_wish(items: pl.DataFrame) -> None:
    heat = items.row(0, named=True)
    for wish, serves in (
        (Wishes(), None),
        (Wishes(("crime", "comedy")), True),
        (Wishes(("comedy",)), False),
        (Wishes(("comedy",), 1990), True),
        (Wishes(person="Al Pacino"), True),
        (Wishes(maker="Pete Docter"), False),
        (Wishes(attributes=(("mood", "dark"),)), False),
    ):
        assert serves_wish(heat, wish, MOVIES) is serves
    assert serves_wish(heat | {"kinds": []}, Wishes(decade=1990), MOVIES) is None
    assert serves_wish(heat | {"year": None}, Wishes(decade=1990), MOVIES) is False
    dark = {"attributes": [{"name": "mood", "value": "dark"}]}
    assert serves_wish(heat | dark | {"kinds": []}, Wishes(attributes=(("mood", "dark"),)), MOVIES) is True
