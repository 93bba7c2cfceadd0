"""Persons in the recommender's words: only those whom the catalogue has in the item at hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.dialogue.claims import awaited_persons, claims
from crslib.dialogue.credits import Credits
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines.base import Choice
from crslib.recommender.persons import PersonConstraint, Persons
from tests.support.domains import BOOKS, MOVIES

HEAT, UP = "[[Heat (1995)]]", "[[Up (2009)]]"
ROWS = [
    ("1", "Heat", 1995, ["crime"], ["Michael Mann"], ["Al Pacino", "Robert De Niro", "Val Kilmer"], [], None, 9, None),
    ("2", "Up", 2009, ["family"], ["Pete Docter"], ["Ed Asner"], [], None, 9, None),
    ("3", "Tron", 1982, ["sci-fi"], [], [], [], None, 9, None),
]
ITEMS = pl.DataFrame(ROWS, schema=dict(schemas.TABLES["items"]), orient="row")
CATALOG, CREDITS = Catalog(ITEMS, MOVIES), Credits.of(ITEMS, MOVIES)


class Bytes:
    """A vocabulary of bytes."""

    pieces = tuple(bytes((byte,)) for byte in range(256))

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Free:
    """Titles that nobody restricts."""

    never = np.array([7], np.int32)

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        return None

    def forced(self, ids: Sequence[int]) -> list[int]:
        return []


PERSONS = Persons(CREDITS, CATALOG.link, Bytes())


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "text": text, "items": CATALOG.link(text)}


ASKED = [turn(RECOMMENDER, f"Have you seen {HEAT}?"), turn(USER, "No, who is in it?")]
TOLD = [turn(RECOMMENDER, f"Have you seen {HEAT}?"), turn(USER, "No, I have not.")]


@pytest.mark.parametrize(
    ("history", "said", "expected"),
    [
        (TOLD, "It stars", "cast"),
        (TOLD, "It has a great", "cast"),
        (TOLD, "It stars Al Pacino and", "cast"),
        (TOLD, "It is directed by", "maker"),
        (TOLD, f"It is good. {UP} stars", "Ed Asner"),
        (TOLD, "The lead actor is", "cast"),
        (ASKED, "", "all"),  # the beginning of an answer
        (TOLD, "", None),
        (ASKED, "It is about", None),
        (TOLD, "I love", None),
        (TOLD, "[[Tron (1982)]] stars", "none"),  # the catalogue knows nobody of it
        ([], "It stars", None),  # nothing is at hand
        ([], "Do you like movies with", None),  # films in general
        ([turn(RECOMMENDER, "Seen [[Alien (1979)]]?"), turn(USER, "No")], "It stars", None),  # not in the catalogue
    ],
)
def test_where_a_statement_goes_on_with_a_person_it_is_one_of_the_catalogue(
    history: list[dict[str, Any]], said: str, expected: str | None
) -> None:
    cast, maker = ROWS[0][5], ROWS[0][4]
    names = {"cast": cast, "maker": maker, "all": [*cast, *maker], "none": [], None: None}.get(expected, [expected])
    assert awaited_persons(turn(RECOMMENDER, said), history, CREDITS) == names


def constraint(history: list[dict[str, Any]]) -> PersonConstraint:
    return PERSONS.constraint(RECOMMENDER, history, Free())


def may_follow(text: str, history: list[dict[str, Any]] = TOLD) -> str | None:
    """The letters that may follow; None: any but those of `never`."""
    choice = constraint(history).allowed(list(text.encode()))
    return None if choice is None else "".join(map(chr, choice.tokens.tolist()))


def forbidden(text: str, history: list[dict[str, Any]] = TOLD) -> set[str]:
    of_text = constraint(history)
    assert of_text.allowed(list(text.encode())) is None
    return set(map(chr, of_text.never.tolist()))


def test_a_name_is_begun_and_ended_as_the_catalogue_has_it() -> None:
    capitals = set(map(chr, PERSONS.capitals.tolist()))
    assert capitals == set("BCDEFGHJKLMNOPQRSTUVWXYZ"), "A and I are words that are no names"
    assert forbidden("It stars ") == capitals - set("RV") | {"\7"}
    assert forbidden("It is good. It is a ") == {"\7"}
    assert may_follow("It stars A") == "l"
    assert constraint(TOLD).forced(list(b"It stars R")) == list(b"obert De Niro")
    assert forbidden("It stars Robert De Niro.") == forbidden("It stars Robert De Niro and it") == {"\7"}
    assert forbidden("It stars Robert De Niro and ") == capitals - set("RV") | {"\7"}
    assert forbidden("It stars Robert De Niro") >= set("abcABC1"), "Niro does not become Niroa"
    assert constraint(ASKED).forced(list(b"M")) == list(b"ichael Mann")


def test_where_the_catalogue_knows_nobody_no_name_begins() -> None:
    assert forbidden("[[Tron (1982)]] stars ") == {*map(chr, PERSONS.capitals.tolist()), "\7"}


def test_a_name_that_is_none_or_a_title_is_not_offered() -> None:
    assert PERSONS.spelled(["", "[[Up (2009)]]", "Jo"], "by ") == [tuple(b"Jo")]
    assert PERSONS.spelled(["", "Jo"], "by") == [], "a byte is a token, so the blank comes first"


def test_titles_come_first() -> None:
    class Titles(Free):
        def allowed(self, ids: Sequence[int]) -> Choice | None:
            return Choice(np.array([ord("H")], np.int32), np.zeros(1, np.intp), np.zeros(1))

        def forced(self, ids: Sequence[int]) -> list[int]:
            return list(b"eat")

    both = PERSONS.constraint(RECOMMENDER, TOLD, Titles())
    choice = both.allowed(list(b"It stars in [["))
    assert choice is not None and choice.tokens.tolist() == [ord("H")]
    assert both.forced(list(b"[[H")) == list(b"eat")


def test_a_domain_without_cast_has_makers_only() -> None:
    rows = [("1", "Emma", 1815, ["classics"], ["Jane Austen"], [], [], None, 9, None)]
    items = pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]), orient="row")
    catalog = Catalog(items, BOOKS)
    books = Persons(Credits.of(items, BOOKS), catalog.link, Bytes())
    of_answer = books.constraint(RECOMMENDER, [{"role": USER, "text": "Tell me", "items": []}], Free())
    assert of_answer.forced(list(b"[[Emma (1815)]] is written by J")) == list(b"ane Austen")


@given(
    st.sampled_from([TOLD, ASKED]),
    st.sampled_from(["It stars", "It is directed by", "The lead actor is", f"{UP} stars", "It has a great"]),
    st.lists(st.integers(0, 255), max_size=40),
)
def test_no_choice_of_letters_states_a_person_that_is_not_in_it(
    history: list[dict[str, Any]], said: str, drawn: list[int]
) -> None:
    """A and I aside, which may be words. One call after the other is as one call with all."""
    ids = list(f"{said} ".encode())
    step = constraint(history)
    for number in drawn:
        if forced := step.forced(ids):
            ids += forced
            continue
        choice = step.allowed(ids)
        free = sorted(set(b"BCDEFGHJKLMNOPQRSTUVWXYZ abcdefgh,") - set(step.never.tolist()))
        tokens = free if choice is None else choice.tokens.tolist()
        assert (may_follow(bytes(ids).decode(), history) is None) == (choice is None)
        ids.append(tokens[number % len(tokens)])
    first = claims(turn(RECOMMENDER, bytes(ids).decode()), history, CREDITS)[:1]
    assert all(claim.true is not False for claim in first)


def test_the_user_and_what_is_hidden_are_no_arguments() -> None:
    """Only turns (role, text, items), the catalogue's facts and a vocabulary."""
    assert PersonConstraint.__init__.__annotations__.keys() == {"persons", "role", "turns", "titles", "return"}
    assert Persons.__init__.__annotations__.keys() == {"credits", "link", "vocabulary", "return"}
