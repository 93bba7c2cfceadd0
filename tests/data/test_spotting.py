"""Titles outside brackets."""

import itertools
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from tests.data.test_catalog import films
from tests.support.domains import MOVIES
from tests.support.fuzz import tries

NAMED = films(
    ("1", "Titanic", 1997, 900),
    ("2", "Titanic", 1953, 5),
    ("3", "It", 2017, 900),
    ("4", "Up", 2009, 900),
    ("5", "Her", 2013, 900),
    ("6", "Big", 1988, 900),
    ("7", "Now and Then", 1995, 100),
    ("8", "The One", 2001, 100),
    ("9", "What If", 2013, 100),
    ("10", "The Notebook", 2004, 500),
    ("11", "Toy Story", 1995, 900),
    ("12", "Toy Story 2", 1999, 700),
    ("13", "The Silence of the Lambs", 1991, 800),
    ("14", "Frozen", 2013, 800),
    ("15", "Saw", 2004, 400),
    ("16", "Star Wars: Episode IV - A New Hope", 1977, 900),
    ("17", "Star Wars: Episode V - The Empire Strikes Back", 1980, 800),
    ("18", "The Lord of the Rings", 1978, 10),
    ("19", "The Lord of the Rings: The Fellowship of the Ring", 2001, 900),
    ("20", "Halloween", 1978, 300),
    ("21", "Taxi Driver", 1976, 400),
    ("22", "300", 2006, 300),
    ("23", "Black Panther", 2018, 800),
    ("24", "The Sixth Sense", 1999, 800),
    ("25", "Spider-Man", 2002, 500),
    ("26", "Moulin Rouge!", 2001, 300),
    ("27", "Jack", 1996, 20),
    ("28", "Lincoln", 2012, 300),
    ("29", "Batman", 1989, 300),
    ("30", "Batman Begins", 2005, 500),
    ("31", "Star Wars", 1977, 600),
    ("32", "Everything Else Users Rate", 1999, 100_000),
).with_columns(makers=pl.Series([["Lincoln Titanic"]] + [[]] * 31), people=pl.Series([["Jack Frozen", "Cher"]] * 32))


def spotted(text: str) -> list[tuple[str, str]]:
    return [(row["title"], row["item_id"]) for row in Catalog(NAMED, MOVIES).spot(text)]


@pytest.mark.parametrize(
    ("text", "title", "item_id"),
    [
        ("Have you seen Titanic?", "Titanic", "1"),
        ("I loved Titanic 1997 so much", "Titanic 1997", "1"),
        ("have you seen titanic (1953)?", "titanic (1953)", "2"),
        ("i liked it (2017) a lot", "it (2017)", "3"),
        ('My favorite is "Up" by far', "Up", "4"),
        ("We watched The Notebook again", "The Notebook", "10"),
        ("we watched the notebook 2004 again", "the notebook 2004", "10"),
        ("Have you seen Toy Story 2?", "Toy Story 2", "12"),
        ("toy story ii was great", "toy story ii", "12"),
        ("have you seen silence of the lambs", "silence of the lambs", "13"),
        ("I liked the Silense of the Lambs", "the Silense of the Lambs", "13"),
        ("My kids love Frozen", "Frozen", "14"),
        ("the empire strikes back was on", "the empire strikes back", "17"),
        ("I saw The Fellowship of the Ring.", "The Fellowship of the Ring", "19"),
        ("try halloween 1978", "halloween 1978", "20"),
        ("I love Taxi Driver", "Taxi Driver", "21"),
        ("black panther is amazing", "black panther", "23"),
        ("did you like spiderman (2002)?", "spiderman (2002)", "25"),
        ("We saw Titanic (1953", "Titanic (1953", "2"),  # cut off in the middle
        ("have you seen Moulin Rougue", "Moulin Rougue", "26"),
        ("Jack (1996) is sweet", "Jack (1996)", "27"),
        ("I saw Lincoln.", "Lincoln", "28"),
    ],
)
def test_titles_outside_brackets_are_spotted(text: str, title: str, item_id: str) -> None:
    assert spotted(text) == [(title, item_id)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It was great. I loved it! What's up?",
        "i told her it was big, now and then",
        "It is the one. What if we met her?",
        "THE ONE I SAW NOW AND THEN WAS BIG",
        "I saw 300 movies and they saw me",
        "the water had frozen",
        "he wrote it into the notebook",
        "he is a taxi driver in Paris",
        "it is about a black panther in a zoo",
        "Happy Halloween!",
        "Titanic 2010 is another film",
        "Toy Story 7 is coming",
        "We saw Frozen: Forever After",
        "have you seen batman",
        "movies like Star Wars or Batman",
        "have you seen Saw part 4",
        "I have seen all the Toy Story movies",
        "I love Star Wars",
        "have you seen Lord of the Rings",
        "I like Jack Black",
        "films by Lincoln Titanic or with jack frozen",
        "toy stories for my kids",
        "I see what you mean, up to you",
    ],
)
def test_ordinary_words_series_and_persons_are_not_spotted(text: str) -> None:
    assert spotted(text) == []


def test_links_in_and_outside_brackets_do_not_overlap() -> None:
    text = "I liked [[Titanic (1997)]] and The Notebook, but [[Toy Stori (1931)]] no. Have you seen Frozen?"
    catalog = Catalog(NAMED, MOVIES)
    linked = sorted([*catalog.link(text), *catalog.spot(text)], key=lambda row: row["start"])
    assert [(row["title"], row["item_id"]) for row in linked] == [
        ("Titanic (1997)", "1"),
        ("The Notebook", "10"),
        ("Toy Stori (1931)", None),
        ("Frozen", "14"),
    ]
    assert [row["title"] for row in catalog.link(text)] == ["Titanic (1997)", "Toy Stori (1931)"]


def test_an_empty_catalogue_spots_nothing() -> None:
    assert Catalog(NAMED.clear(), MOVIES).spot("Have you seen Titanic?") == []


PIECES = [
    *("Titanic", "titanic", "the notebook", "The", "Toy Story", "2", "II", "(1997)", "1997", "It", "I saw", "and", "."),
    *(
        "[[Titanic (1997)]]",
        "[[Up",
        "]]",
        "[[x]]",
        '"',
        "’",
        "silense of the lambs",
        "İ",
        "\x00",
        "ß",
        "Jack",
        "Frozen",
    ),
    *("Star Wars:", "A New Hope", "part", "Moulin", "Rouge!", "½", "(", ",", "is", "about", "e\u0301"),
]
UTTERANCES = st.lists(st.sampled_from(PIECES), max_size=14).flatmap(
    lambda pieces: st.sampled_from([" ".join(pieces), "".join(pieces)])
)


@settings(max_examples=tries(150))
@given(st.one_of(UTTERANCES, st.text(max_size=30)), st.randoms(use_true_random=False))
def test_spans_are_in_the_text_apart_and_independent_of_the_order_of_items(text: str, random: Random) -> None:
    rows = Catalog(NAMED, MOVIES).spot(text)
    spans = sorted(
        [(row["start"], row["end"]) for row in rows] + [(start, end) for _, start, end in utterances.mentions(text)]
    )
    for row in rows:
        assert 0 <= row["start"] < row["end"] <= len(text)
        assert text[row["start"] : row["end"]] == row["title"]
        assert row["item_id"] in set(NAMED["item_id"])
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    order = random.sample(range(NAMED.height), NAMED.height)
    assert Catalog(NAMED[order], MOVIES).spot(text) == rows
