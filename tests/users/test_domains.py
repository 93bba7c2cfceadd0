"""Profiles in other domains than films: their words, further attributes, and a catalogue without kinds."""

import polars as pl
import pytest

from crslib.config import ProfileParameters
from crslib.data import catalog
from crslib.users import profiles
from crslib.users.targets import Target, relax
from tests.support.books import books, ratings
from tests.support.domains import BOOKS


@pytest.mark.parametrize("mode", ["heldout", "taste"])
def test_profiles_of_readers_speak_of_books(mode: str) -> None:
    built = profiles.build(books(), ratings(), ProfileParameters(n_profiles=30, min_k=4, target_mode=mode), BOOKS)
    text = " ".join([*built.profiles["summary"], *built.profiles["attributes"]])
    assert not [word for word in ("movie", "film", "seen", "watch") if word in text]
    assert "You enjoy " in text
    assert " books" in text
    assert all(attributes for attributes in built.profiles["attributes"])
    assert built.profiles["k_anonymity"].min() >= 4
    tags = built.profiles.filter(pl.col("target_attributes").list.len() > 0)
    assert tags.height
    assert all(text.startswith("book about ") for text in tags["attributes"])


@pytest.mark.parametrize("mode", ["heldout", "taste"])
def test_a_catalogue_without_kinds_gives_authors_decades_and_tags(mode: str) -> None:
    built = profiles.build(
        books(kinds=False), ratings(), ProfileParameters(n_profiles=30, min_k=4, target_mode=mode), BOOKS
    )
    people = built.profiles
    assert all(people["summary"])
    assert people["summary"].str.contains("You like books by ").any()
    assert people["attributes"].str.contains(r"^book (from the \d{4}s|by .+|about .+)$").all()
    assert people["attributes"].str.contains("by ").any()
    assert people["k_anonymity"].min() >= 4


def test_an_item_without_kinds_and_year_gives_its_author() -> None:
    bare = books(kinds=False).with_columns(pl.lit(None, pl.Int32).alias("year"))
    built = profiles.build(bare, ratings(), ProfileParameters(n_profiles=30, min_k=4), BOOKS)
    assert built.profiles["attributes"].str.contains(r"^book (by|about) .+$").all()


def test_further_attributes_are_counted_and_dropped_first() -> None:
    items = books()
    ships = catalog.matches(items, attributes=[("tag", "ships")])
    assert ships.sum() == 20
    target = Target(("fantasy",), attributes=(("tag", "ships"),))
    assert target.words(BOOKS) == "fantasy book about ships"
    assert target.count(items, BOOKS) == items.filter(ships, pl.col("kinds").list.contains("fantasy")).height
    assert relax(target, 1000, lambda one: one.count(items, BOOKS)) == (Target(), ["tag", "kind"])
