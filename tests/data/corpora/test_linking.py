"""Titles of a corpus as items of a catalogue."""

import polars as pl

from crslib.data.catalog import Catalog
from crslib.data.corpora import Item
from crslib.data.corpora.base import conversation
from crslib.data.corpora.linking import Titles, linked
from tests.support.domains import MOVIES

TALK = conversation(
    "d",
    [("user", "I like [[heat]] and Up (2009)"), ("recommender", "[[Heat (1995)]]? [[Nope (1901)]]")],
    items={"heat": Item("heat", None, True, None, ""), "Nope (1901)": Item("Nope (1901)", None, None, True, "")},
    targets=["Nope (1901)", "heat"],
)


def test_spellings_of_one_item_become_one(items: pl.DataFrame) -> None:
    one = linked(TALK, Catalog(items, MOVIES), spot=False)
    assert [turn.text for turn in one.turns] == [
        "I like [[Heat (1995)]] and Up (2009)",
        "[[Heat (1995)]]? [[Nope (1901)]]",
    ]
    assert one.items == {
        "1": Item("Heat (1995)", False, True, None, ""),
        "title: nope (1901)": Item("Nope (1901)", True, None, True, ""),
    }
    assert one.targets == ("title: nope (1901)", "1")
    for turn in one.turns:
        assert all(turn.text[m.start : m.end] == f"[[{m.name}]]" for m in turn.mentions)


def test_titles_outside_brackets_are_found_only_when_asked_for(items: pl.DataFrame) -> None:
    one = linked(TALK, Catalog(items, MOVIES), spot=True)
    assert one.turns[0].text == "I like [[Heat (1995)]] and [[Up (2009)]]"
    assert one.items["6"] == Item("Up (2009)", False, None, None, "")


def test_a_forms_answer_on_who_suggested_stays(items: pl.DataFrame) -> None:
    form = conversation(
        "d", [("user", "[[Heat (1995)]]")], items={"Heat (1995)": Item("Heat (1995)", True, None, None, "user")}
    )
    assert linked(form, Catalog(items, MOVIES), spot=False).items == {
        "1": Item("Heat (1995)", True, None, None, "user")
    }


def test_titles_are_counted_by_item(items: pl.DataFrame) -> None:
    counted = Titles.of([linked(TALK, Catalog(items, MOVIES), spot=True)], frozenset(items["item_id"]))
    assert counted == Titles(4, 3, 3, 2, ("Nope (1901)",))
