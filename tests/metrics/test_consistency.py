"""Reactions against notes, preferences against the summary, and target attributes in words."""

import polars as pl
import pytest

from crslib.metrics import consistency, facts
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, table, talk

ASK = "R: How about [[Heat (1995)]]?"


@pytest.fixture
def reactions() -> tuple[pl.DataFrame, pl.DataFrame]:
    heat = "Heat (1995)"
    return talk(
        {
            "a": [ASK, "U: I loved that movie!"],  # seen, liked: agrees
            "b": [ASK, "U: I have seen it, it was boring"],  # seen, liked: the liking contradicts
            "c": [ASK, "U: I haven't seen it"],  # seen, disliked: contradicts
            "d": [ASK, "U: hello there"],  # nothing to decide
            "e": [ASK, "U: not really my type of movie"],  # unseen, not interested: agrees
            "f": [ASK, "U: I loved that movie!"],  # no note at all
        },
        notes={
            ("a", 1): [(heat, True, True)],
            ("b", 1): [(heat, True, True)],
            ("c", 1): [(heat, True, False)],
            ("d", 1): [(heat, False, True)],
            ("e", 1): [(heat, False, False)],
        },
    )


def test_reactions_against_notes(reactions: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    parts = consistency.reaction_parts(facts(*reactions, MOVIES))
    assert share(parts, "reactions_decidable") == pytest.approx(4 / 5)
    assert share(parts, "reaction_consistency") == pytest.approx(2 / 4)
    assert share(parts, "consistency_seen_liked") == pytest.approx(1 / 2)
    assert share(parts, "consistency_seen_disliked") == 0
    assert share(parts, "consistency_unseen_uninterested") == 1
    assert share(parts, "consistency_unseen_interested") is None  # nothing decidable: absent, not 0


def test_the_table_of_reactions_has_shares_of_answers(reactions: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    counted = facts(*reactions, MOVIES)
    liked = consistency.reaction_table(counted, counted).filter(source="human", kind="seen_liked")
    assert liked.select("question", "answer", "count", "share").rows() == [
        ("liked", "no", 1, 0.5),
        ("liked", "yes", 1, 0.5),
        ("seen", "yes", 2, 1.0),
    ]
    unseen = consistency.reaction_table(counted, counted).filter(source="simulated", kind="unseen_interested")
    assert unseen["answer"].to_list() == ["not said", "not said"]


def test_later_statements_against_earlier_notes() -> None:
    talks = {
        "a": [ASK, "U: Great", "R: Ok", "U: I loved [[Heat (1995)]]. I haven't seen [[Up (2009)]]"],
        "b": [ASK, "U: Great", "R: Ok", "U: I haven't seen [[Heat (1995)]]", "R: Ok", "U: [[Heat (1995)]] ?"],
    }
    _, turns = talk(talks, notes={(name, 1): [("Heat (1995)", True, True)] for name in talks})
    parts = consistency.later_parts(turns, MOVIES)
    assert parts.select("dialogue_id", "part", "whole").rows() == [("a", 1, 1), ("b", 0, 1)]
    assert share(parts, "later_consistency") == 0.5


PROFILE = {
    "profile_id": "p",
    "liked_kinds": ["comedy", "sci-fi"],
    "disliked_kinds": ["horror"],
    "loved_items": ["1"],
    "disliked_items": ["6"],
    "target_kinds": ["sci-fi", "comedy"],
    "target_decade": 1990,
    "target_person": "Hugh Grant",
    "target_maker": "Roger Michell",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I love comedies", [("comedy", "likes", False)]),
        ("I don't like comedies", [("comedy", "dislikes", True)]),
        ("I hate horror, but I enjoy science fiction", [("horror", "dislikes", False), ("sci-fi", "likes", False)]),
        ("I really like scary movies", [("horror", "likes", True)]),
        ("Do you like horror?", []),
        ("Something with a horror house", []),
        ("I loved [[Heat (1995)]]", [("Heat", "likes", False)]),
        ("I didn't like [[Heat (1995)]]", [("Heat", "dislikes", True)]),
        ("I haven't seen [[Heat (1995)]]", [("Heat", "unseen", True)]),
        ("I enjoyed [[Up (2009)]]", [("Up", "likes", True)]),
        ("I love [[The Matrix (1999)]]", []),
        ("I love westerns", []),
    ],
)
def test_stated_preferences(items: pl.DataFrame, text: str, expected: list[tuple[str, str, bool]]) -> None:
    dialogues, turns = talk({"p": [f"U: {text}", "R: I love horror"]})
    statements = consistency.preferences(turns, dialogues, table("profiles", [PROFILE]), items, MOVIES)
    assert statements.select("about", "says", "contradicts").rows() == expected


def test_contradictions_and_attribute_coverage(items: pl.DataFrame) -> None:
    dialogues, turns = talk(
        {
            "p": ["U: I love comedies but I love horror", "R: ok", "U: Something from the 90s with Grant", "R: hm"],
            "p.1": ["U: [[Sci-Fi High (1999)]]?"],
            "q": ["U: I love comedies"],
        }
    )
    profiles = table("profiles", [PROFILE, {"profile_id": "q"}])
    parts = consistency.profile_parts(turns, dialogues, profiles, items, MOVIES)
    assert share(parts, "contradictions") == pytest.approx(1 / 2)
    # p says comedy, the decade and the actor of five; p.1 only names a title; q has no attributes.
    assert share(parts, "attribute_coverage") == pytest.approx((3 / 5 + 0) / 2)
    curve = consistency.coverage_by_turn(turns, dialogues, profiles, MOVIES, times=100, seed=0)
    assert curve["n_turn"].to_list() == [1, 2]
    assert curve["value"].to_list() == pytest.approx([(1 / 5) / 2, (3 / 5) / 2])


@pytest.mark.parametrize(
    ("attribute", "text", "expected"),
    [
        ({"target_decade": 1990}, "a 1990s movie", True),
        ({"target_decade": 1990}, "from the '90s", True),
        ({"target_decade": 1990}, "90's please", True),
        ({"target_decade": 1990}, "the Nineties", True),
        ({"target_decade": 1990}, "from 1994", True),
        ({"target_decade": 1990}, "from 2004", False),
        ({"target_decade": 1990}, "I am 90", False),
        ({"target_kinds": ["comedy"]}, "Something funny, please", True),
        ({"target_kinds": ["comedy"]}, "That one was funny", False),
        ({"target_kinds": ["comedy"]}, "No rom coms", True),
        ({"target_kinds": ["sci-fi"]}, "science fiction", True),
        ({"target_kinds": ["film-noir"]}, "a film noir", True),
        ({"target_kinds": ["road movie"]}, "I want a road movie", True),
        ({"target_kinds": ["road movie"]}, "a movie on the road", False),
        ({"target_kinds": ["horror"]}, "[[Horror Express (1972)]]?", False),
        ({"target_person": "Hugh Grant"}, "with Grant's smile", True),
        ({"target_person": "Hugh Grant"}, "I granted it", False),
    ],
)
def test_ways_to_say_an_attribute(attribute: dict[str, object], text: str, expected: bool) -> None:
    dialogues, turns = talk({"p": [f"U: {text}"]})
    profiles = table("profiles", [{"profile_id": "p", **attribute}])
    rows = consistency.attributes_said(turns, dialogues, profiles, MOVIES)
    assert (rows["n_turn"][0] is not None) == expected


def test_wishes_count_up_to_the_third_turn_of_the_user(items: pl.DataFrame) -> None:
    """One of two wishes by the third turn, the other in the fourth; a dialogue that ends early counts as it is."""
    dialogues, turns = talk(
        {
            "p": ["U: an action movie", "R: ok", "U: hm", "R: ok", "U: hm", "R: ok", "U: from the 90s"],
            "q": ["U: from the 90s"],
        }
    )
    wish = {"target_kinds": ["action"], "target_decade": 1990, "liked_kinds": [], "disliked_kinds": []}
    profiles = table("profiles", [{"profile_id": name, **wish} for name in "pq"])
    parts = consistency.profile_parts(turns, dialogues, profiles, items, MOVIES)
    assert share(parts, "wishes_said") == (1 / 2 + 1 / 2) / 2
    assert share(parts, "attribute_coverage") == (1 + 1 / 2) / 2


def test_own_items_that_go_with_the_wish(items: pl.DataFrame) -> None:
    """Of four films one was the recommender's idea; Heat shares the decade, Up and King Kong nothing."""
    dialogues, turns = talk(
        {
            "p": ["U: I love [[Heat (1995)]], [[Up (2009)]] and [[King Kong (1933)]]", "R: [[Notting Hill (1999)]]?"],
            "q": ["R: [[Up (2009)]]?", "U: I love [[Up (2009)]]"],  # not its own idea
            "r": ["U: I love [[Up (2009)]]"],  # has no wish
        }
    )
    profiles = table(
        "profiles",
        [
            {"profile_id": "p", "target_kinds": ["comedy"], "target_decade": 1990},
            {"profile_id": "q", "target_kinds": ["comedy"]},
            {"profile_id": "r"},
        ],
    )
    own = consistency.own_items(turns, dialogues, profiles, items, MOVIES)
    assert own.rows() == [("p", 0, "1", True), ("p", 0, "6", False), ("p", 0, "4", False)]
    assert share(consistency.profile_parts(turns, dialogues, profiles, items, MOVIES), "own_items_fit") == 1 / 3
