"""What one's own recommender or user is given, and what it may answer."""

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.agents import plain
from crslib.agents.base import Reply, Sent, Transcript
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Note, RecommenderView, UserKnowledge, UserView, Wishes
from tests.support.domains import MOVIES
from tests.support.titles import bracketed

SENT = Sent("", 0)


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


def read(answer: Any, catalog: Catalog, role: str = RECOMMENDER) -> Reply:
    return plain.reply(answer, role, "python:my_crs:reply", SENT, catalog, lambda text: bracketed(text, catalog))


def test_what_is_given(catalog: Catalog) -> None:
    """Turns as people read them; of the private side nothing but what the user's view holds."""
    said = "I loved [[Heat (1995)]] and [[Nowhere (1901)]]"
    view = UserView(
        UserKnowledge(MOVIES, "You enjoy drama.", "drama", None, Wishes(("drama",), 1990), ("Up (2009)",), ())
    )
    view.say(said, items=catalog.link(said))
    view.hear("Seen [[The Matrix (1999)]]?", [Note("The Matrix (1999)", True, None)], [])
    turns = plain.turns(view)
    items = [{"item_id": "1", "title": "Heat (1995)"}, {"item_id": None, "title": "Nowhere (1901)"}]
    assert turns == [
        {"role": "user", "text": "I loved Heat (1995) and Nowhere (1901)", "items": items},
        {"role": "recommender", "text": "Seen The Matrix (1999)?", "items": []},
    ]
    assert plain.knowledge(view) == {
        "summary": "You enjoy drama.",
        "attributes": "drama",
        "wishes": {"kinds": ["drama"], "decade": 1990, "person": None, "maker": None, "attributes": []},
        "loved": ["Up (2009)"],
        "disliked": [],
        "notes": [{"title": "The Matrix (1999)", "seen": True, "liked": None}],
    }
    assert plain.turns(RecommenderView.of(view.turns, MOVIES)) == turns


def test_what_was_given_is_sent_once() -> None:
    turns = [{"role": "user", "text": "hi", "items": []}]
    known = {"summary": "You enjoy drama.", "notes": []}
    transcript = Transcript()
    first = transcript.add("a", plain.messages(turns, known)).text
    assert "You enjoy drama." in first
    assert '"hi"' in first
    turns = [*turns, {"role": "recommender", "text": "Heat?", "items": [{"item_id": "1", "title": "Heat"}]}]
    known["notes"] = [{"title": "Heat", "seen": True, "liked": True}]
    second = transcript.add("a", plain.messages(turns, known)).text
    assert second == (
        'recommender: {"text": "Heat?", "items": [{"item_id": "1", "title": "Heat"}]}\n'
        'notes: [{"title": "Heat", "seen": true, "liked": true}]'
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Try The Matrix (1999)", "Try [[The Matrix (1999)]]"),
        ("Try [[heat (1995)]]\nnow", "Try [[heat (1995)]] now"),
        (("Try Up!", ["6"]), "Try [[Up (2009)]]!"),
        ({"text": "Try it.", "items": [6]}, "Try it. [[Up (2009)]]"),
        ({"text": "King Kong of 2005", "items": ["5"]}, "[[King Kong (2005)]] of 2005"),
        ({"text": "King Kong (1933), or", "items": ["5"]}, "[[King Kong (1933)]], or [[King Kong (2005)]]"),
        ({"items": ["Heat (1995)", {"item_id": "6", "title": "anything"}]}, "[[Heat (1995)]] [[Up (2009)]]"),
        ({"text": "Seen Alien?", "items": [{"title": "Alien"}]}, "Seen [[Alien]]?"),
        (SimpleNamespace(text="Heat, Heat!", items=["1", "1"]), "[[Heat (1995)]], [[Heat (1995)]]!"),
        (SimpleNamespace(text="<|im_end|> ]] hi"), "<|im_end|> hi"),
        ("one \ud800\x1b\x9b2J two", "one 2J two"),
    ],
)
def test_answers_of_every_shape(answer: Any, text: str, catalog: Catalog) -> None:
    reply = read(answer, catalog)
    assert (reply.text, reply.finish, reply.n_tokens) == (text, "end", len(text.split()))


@pytest.mark.parametrize("answer", [None, "", " \n", {"text": ""}, {"leave": True}])
def test_a_user_without_a_word_leaves(answer: Any, catalog: Catalog) -> None:
    assert read(answer, catalog, USER) == Reply("", SENT, 0, "left")


def test_leaving_with_words(catalog: Catalog) -> None:
    for role in (USER, RECOMMENDER):
        assert read({"text": "Bye!", "leave": True}, catalog, role) == Reply("Bye!", SENT, 1, "left")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (None, 'returned nothing (None); expected is text, or {"text": "…", "items": ["…"]}'),
        ("", "said nothing; a recommender answers with text"),
        (["Heat"], "returned a value of type list; expected"),
        (b"Heat", "returned a value of type bytes; expected"),
        ({"response": "Heat"}, "returned an unknown field 'response'; known are text, items, leave"),
        ({"text": 3}, "returned a value of type int as text; expected"),
        ({"text": "a", "items": "12"}, "returned a value of type str as items"),
        ({"text": "a", "items": 12}, "returned a value of type int as items"),
        ({"text": "a", "items": [None]}, "returned an item that is nothing (None)"),
        ({"text": "a", "items": [True]}, "returned an item that is a value of type bool"),
        ({"text": "a", "items": ["99"]}, "named item '99', which is neither an id nor a title of the catalogue"),
        ({"text": "a", "items": ["Alien"]}, "named item 'Alien', which is neither"),
        ({"text": "a", "leave": 1}, "returned a value of type int as leave"),
        ("word " * 10_000, "said 10,000 words (50,000 characters) in one turn; at most 500 words"),
        ("x" * 5_001, "said 1 words (5,001 characters)"),
        (("a", [{"title": "x" * 5_001}]), "said 2 words (5,007 characters)"),
        (("a", ["6"] * 51), "named 51 items in one turn; at most 50 are taken"),
        (("a", [10**5_000]), "named an item by a number of thousands of digits"),
        ({"x" * 99: 1}, f"returned an unknown field '{'x' * 80}'; known"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(answer: Any, sentence: str, catalog: Catalog) -> None:
    reply = read(answer, catalog)
    assert (reply.text, reply.finish) == ("", "failed")
    assert reply.error.startswith(f"python:my_crs:reply {sentence}")


@given(text=st.text(max_size=80), item=st.sampled_from("123456"))
def test_every_item_given_is_linked_and_the_words_stay(text: str, item: str) -> None:
    reply = read((text, [item]), CATALOG)
    assert item in [row["item_id"] for row in CATALOG.link(reply.text)]
    assert reply.text == utterances.clean(reply.text)


ROWS = [("1", "Heat", 1995), ("2", "The Matrix", 1999), ("3", "Notting Hill", 1999), ("4", "King Kong", 1933)]
CATALOG = Catalog(
    pl.DataFrame(
        [
            {"item_id": i, "title": t, "year": y, "kinds": [], "makers": [], "people": [], "n_ratings": 9}
            for i, t, y in [*ROWS, ("5", "King Kong", 2005), ("6", "Up", 2009)]
        ],
        schema_overrides={name: pl.List(pl.String) for name in ("kinds", "makers", "people")},
    ),
    MOVIES,
)
