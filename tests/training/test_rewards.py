"""Every rule by hand, on a small catalogue."""

from typing import Any

import polars as pl
import pytest

from crslib.data.catalog import Catalog
from crslib.dialogue import reactions
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.training import rewards
from tests.support.domains import MOVIES

HEAT = "Heat (1995)"
EMPTY: dict[str, Any] = {"liked_kinds": [], "disliked_kinds": [], "loved_items": [], "disliked_items": []}


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


def turn(catalog: Catalog, role: str, text: str, *notes: tuple[str, bool | None, bool | None]) -> dict[str, Any]:
    """A row of table `turns`; in a text `<Heat (1995)>` is a mention."""
    text = text.replace("<", "[[").replace(">", "]]")
    known = [
        {"item_id": catalog.find(name), "title": name, "seen": seen, "liked": liked} for name, seen, liked in notes
    ]
    return {"role": role, "text": text, "items": catalog.link(text), "notes": known, "finish": "end"}


@pytest.mark.parametrize(
    ("seen", "liked", "reply", "score"),
    [
        (True, False, "Yes I have seen it but I hated it", 1.0),
        (True, False, "Yes I have seen it", 0.75),
        (True, False, "Something else please", 0.5),
        (True, False, "I loved it", 0.0),
        (True, True, "I have not seen it", 0.0),
        (False, False, "I have not seen it, not my type", 1.0),
        (False, False, "I have not seen it. I will check it out", 0.0),
        (False, None, "I haven't seen it", 1.0),
    ],
)
def test_reaction_is_the_mean_over_what_the_note_knows(
    catalog: Catalog, seen: bool, liked: bool | None, reply: str, score: float
) -> None:
    asked = turn(catalog, RECOMMENDER, "Have you seen <Heat (1995)>?")
    assert reactions.reaction(turn(catalog, USER, reply, (HEAT, seen, liked)), [asked], MOVIES) == score


def test_reaction_is_none_without_notes_on_what_was_just_named(catalog: Catalog) -> None:
    asked, other = turn(catalog, RECOMMENDER, "<Up (2009)>?"), turn(catalog, USER, "Loved it", (HEAT, True, True))
    assert reactions.reaction(other, [asked], MOVIES) is None
    assert reactions.reaction(turn(catalog, USER, "Loved it"), [asked], MOVIES) is None
    assert reactions.reaction(other, [], MOVIES) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [("I love comedy movies", 1.0), ("I hate comedy movies", 0.0), ("I love <Heat (1995)>", 0.0), ("Hello", None)],
)
def test_agrees_with_summary(catalog: Catalog, text: str, score: float | None) -> None:
    profile = EMPTY | {"liked_kinds": ["comedy"], "disliked_items": ["1"]}
    assert rewards.agrees_with_summary(turn(catalog, USER, text), profile, MOVIES) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("I loved <Heat (1995)>", 1.0),
        ("I have not seen <Heat (1995)>", 0.0),
        ("I loved <No Such Film (1987)>", 0.0),
        ("I have not seen <Up (2009)>", None),
    ],
)
def test_no_unprompted_title(catalog: Catalog, text: str, score: float | None) -> None:
    assert (
        rewards.no_unprompted_title(turn(catalog, USER, text), [turn(catalog, RECOMMENDER, "<Up (2009)>?")], MOVIES)
        == score
    )


def test_a_title_is_no_repeat_if_it_is_new_or_the_user_asked_about_it(catalog: Catalog) -> None:
    once = turn(catalog, RECOMMENDER, "Try <Heat (1995)>")
    more = turn(catalog, RECOMMENDER, "So <Heat (1995)> or <Up (2009)>")
    assert rewards.no_repeat(more, [once, turn(catalog, USER, "Ok")]) == 0.0
    assert rewards.no_repeat(more, [once, turn(catalog, USER, "Who is in <Heat (1995)>?")]) == 1.0
    assert rewards.no_repeat(more, [turn(catalog, USER, "I like <Heat (1995)>")]) == 1.0
    assert rewards.no_repeat(turn(catalog, RECOMMENDER, "Bye"), [once]) is None


def test_title_exists(catalog: Catalog) -> None:
    assert rewards.title_exists(turn(catalog, RECOMMENDER, "<Heat (1995)> and <No Such Film (1987)>")) == 0.5
    assert rewards.title_exists(turn(catalog, RECOMMENDER, "Bye")) is None


@pytest.mark.parametrize(
    ("wish", "reply", "score"),
    [
        ("A comedy please", "<Heat (1995)>", 0.0),
        ("A comedy please", "<Notting Hill (1999)>", 1.0),
        ("A comedy please", "<Notting Hill (1999)> or <Heat (1995)>", 0.5),
        ("No romance please", "<Notting Hill (1999)>", 0.0),
        ("No romance please", "<Heat (1995)>", 1.0),
        ("I have not seen a comedy for long", "<Heat (1995)>", None),
        ("A comedy, unlike <Heat (1995)>", "<Heat (1995)> is none", None),
        ("Hello", "<Heat (1995)>", None),
    ],
)
def test_follows_genres_asked_for_and_refused(catalog: Catalog, wish: str, reply: str, score: float | None) -> None:
    genres = dict(catalog.items.select("item_id", "kinds").iter_rows())
    assert (
        rewards.follows_kinds(turn(catalog, RECOMMENDER, reply), [turn(catalog, USER, wish)], genres, MOVIES) == score
    )


def test_no_self_repetition(catalog: Catalog) -> None:
    history = [
        turn(catalog, USER, "I would like a good comedy"),
        turn(catalog, RECOMMENDER, "What is it that you like?"),
    ]
    assert rewards.no_self_repetition(turn(catalog, USER, "I would like a good comedy!"), history) == 0.0
    assert rewards.no_self_repetition(turn(catalog, USER, "What do you like best?"), history) == 1.0
    assert rewards.no_self_repetition(turn(catalog, USER, "a good comedy"), history) is None
    assert rewards.no_self_repetition(turn(catalog, USER, "I would like a good comedy"), history[1:]) is None


@pytest.mark.parametrize(
    ("raw", "finish", "score"),
    [("I like [[Up (2009)]]", "end", 1.0), ("I like", "max_tokens", 0.0), ("I [[Up", "end", 0.0), ("a\nb", "end", 0.0)],
)
def test_well_formed(raw: str, finish: str, score: float) -> None:
    assert rewards.well_formed(raw, finish) == score


def test_long_turns_break_a_rule_and_short_ones_earn_nothing(catalog: Catalog) -> None:
    assert [rewards.not_too_long(turn(catalog, USER, " ".join(["yes"] * n))) for n in (1, 30, 31)] == [1.0, 1.0, 0.0]
    assert rewards.not_too_long(turn(catalog, RECOMMENDER, " ".join(["yes"] * 31))) == 1.0


def test_total_is_the_cost_of_broken_rules() -> None:
    by_rule = dict.fromkeys(rewards.WEIGHTS[USER], 1.0)
    by_rule |= {"agrees_with_note": 0.5, "agrees_with_summary": None, "no_self_repetition": 0.0}
    assert rewards.total(by_rule, USER) == -(3 * 0.5 + 1)


def test_every_rule_of_a_role_is_scored(catalog: Catalog) -> None:
    for role in (USER, RECOMMENDER):
        by_rule = rewards.scores(turn(catalog, role, "Hi"), [], "Hi", profile=EMPTY, kinds={}, domain=MOVIES)
        assert set(by_rule) == set(rewards.WEIGHTS[role])
