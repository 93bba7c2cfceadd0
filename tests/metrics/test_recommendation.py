"""Metrics of recommendation on two dialogues, by hand."""

import numpy as np
import polars as pl
import pytest

from crslib.metrics import facts, recommendation
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, table, talk

HOLDOUTS = [("p", "1", True), ("p", "5", True), ("p", "6", False), ("q", "2", True)]


@pytest.fixture
def holdouts() -> pl.DataFrame:
    return table("holdouts", [{"profile_id": p, "item_id": i, "rating": 4.0, "liked": k} for p, i, k in HOLDOUTS])


@pytest.fixture
def run() -> tuple[pl.DataFrame, pl.DataFrame]:
    return talk(
        {
            "p": [
                "U: I like [[Notting Hill (1999)]]",
                "R: [[Notting Hill (1999)]] is great. [[Ghost Film (1900)]]? [[The Matrix (1999)]]?",
                "U: no",
                "R: [[Heat (1995)]]? And again [[The Matrix (1999)]]",
                "U: what about [[King Kong (2005)]]",
                "R: [[King Kong (2005)]] and [[Up (2009)]]",
            ],
            "q": ["R: [[The Matrix (1999)]]!", "U: great movie"],
        }
    )


def test_recommended_items_leave_out_what_the_user_named_and_repeats(run: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    recommended = recommendation.recommended(facts(*run, MOVIES))
    assert recommended.drop("dialogue_id").rows() == [
        (1, 1, 1, "title: ghost film (1900)", False),
        (2, 1, 1, "2", True),
        (3, 3, 2, "1", True),
        (4, 5, 3, "6", True),
        (1, 0, 1, "2", True),
    ]


def test_recall_hits_and_first_turn(
    run: tuple[pl.DataFrame, pl.DataFrame], holdouts: pl.DataFrame, items: pl.DataFrame
) -> None:
    profiles = table("profiles", [{"profile_id": "p"}, {"profile_id": "q"}])
    parts = recommendation.parts(facts(*run, MOVIES), run[0], profiles, holdouts, items, MOVIES)
    # p: targets 1 and 5; ranks ghost, 2, 1, 6, so 1 has rank 3, and the user named 5 first. q: 2 at rank 1.
    assert share(parts, "recall_at_1") == pytest.approx((0 + 1) / 2)
    assert share(parts, "recall_at_3") == pytest.approx((0.5 + 1) / 2)
    assert share(parts, "recall_at_10") == pytest.approx((0.5 + 1) / 2)
    assert share(parts, "hits") == 1.0
    assert share(parts, "first_turn_hits") == 0.5
    assert share(parts, "attribute_match") is None
    assert share(parts, "preference_coverage") is None


def test_a_profile_without_liked_holdouts_has_no_recall(
    run: tuple[pl.DataFrame, pl.DataFrame], holdouts: pl.DataFrame, items: pl.DataFrame
) -> None:
    profiles = table("profiles", [{"profile_id": "p"}, {"profile_id": "q"}])
    parts = recommendation.parts(facts(*run, MOVIES), run[0], profiles, holdouts.filter(profile_id="q"), items, MOVIES)
    assert parts.filter(metric="recall_at_1")["dialogue_id"].to_list() == ["q"]


def test_hit_by_turn_counts_dialogues_that_have_ended(
    run: tuple[pl.DataFrame, pl.DataFrame], holdouts: pl.DataFrame
) -> None:
    curve = recommendation.hit_by_turn(facts(*run, MOVIES), run[0], holdouts, times=100, seed=0)
    assert curve["n_turn"].to_list() == [1, 2, 3]
    assert curve["value"].to_list() == [0.5, 1.0, 1.0]
    assert curve["high"].to_list() == [1.0, 1.0, 1.0]


def test_attribute_match_and_preference_coverage(
    run: tuple[pl.DataFrame, pl.DataFrame], holdouts: pl.DataFrame, items: pl.DataFrame
) -> None:
    profiles = table(
        "profiles",
        [
            {
                "profile_id": "p",
                "target_kinds": ["action", "comedy"],
                "target_decade": 1990,
                "target_person": "Al Pacino",
                "liked_kinds": ["action", "comedy", "family", "western"],
            },
            {"profile_id": "q", "liked_kinds": ["romance"]},
        ],
    )
    parts = recommendation.parts(facts(*run, MOVIES), run[0], profiles, holdouts, items, MOVIES)
    # The Matrix: action, 1990s, not the actor, not comedy: 2/4. Heat: 3/4. Up: no cast known, so 0 of 3.
    assert share(parts, "attribute_match") == pytest.approx((2 / 4 + 3 / 4 + 0 / 3) / 3)
    assert parts.filter(metric="attribute_match")["dialogue_id"].to_list() == ["p"]
    # p: action and family of four liked genres; q: romance never.
    assert share(parts, "preference_coverage") == pytest.approx((2 / 4 + 0) / 2)


def test_acceptance_repeats_and_validity(run: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    parts = recommendation.behaviour(facts(*run, MOVIES))
    # Recommender: 3 + 2 + 2 mentions and 1; The Matrix is named again in a later turn.
    assert share(parts, "repeats") == pytest.approx(1 / 8)
    assert share(parts, "recommender_validity") == pytest.approx(7 / 8)
    assert share(parts, "user_validity") == 1.0
    # Only "great movie" states liking or disliking, and it is liking.
    assert share(parts, "acceptance") == 1.0
    assert parts.filter(metric="acceptance")["dialogue_id"].to_list() == ["q"]


def test_twice_in_one_turn_is_no_repeat() -> None:
    parts = recommendation.behaviour(facts(*talk({"p": ["R: [[Heat (1995)]]! I mean [[Heat (1995)]]"]}), MOVIES))
    assert share(parts, "repeats") == 0


def test_gini() -> None:
    counts = np.array([[1.0, 1, 1, 1], [0, 0, 0, 9], [1, 3, 0, 0], [0, 0, 0, 0]])
    values = recommendation.gini(counts)
    assert values[:3] == pytest.approx([0.0, 0.0, 0.25])
    assert np.isnan(values[3])


def test_coverage(run: tuple[pl.DataFrame, pl.DataFrame], items: pl.DataFrame) -> None:
    estimate = recommendation.coverage(facts(*run, MOVIES), items, times=100, seed=0)
    assert estimate is not None
    assert estimate.value == pytest.approx(3 / 6)  # 1, 2 and 6


def test_popularity_ranks_items_by_dialogues(run: tuple[pl.DataFrame, pl.DataFrame], items: pl.DataFrame) -> None:
    ranked = recommendation.popularity(facts(*run, MOVIES), facts(*run, MOVIES), items).filter(source="simulated")
    assert ranked.select("rank", "name", "n", "share").rows() == [
        (1, "The Matrix (1999)", 2, 1.0),
        (2, "Heat (1995)", 1, 0.5),
        (3, "Up (2009)", 1, 0.5),
    ]
