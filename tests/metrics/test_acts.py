"""Distributions of dialogue acts and their divergence, by hand and against scipy."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.spatial import distance

from crslib.dialogue import acts as tagger
from crslib.metrics import acts


def tags(**dialogues: list[str]) -> pl.DataFrame:
    """Dialogues of turns `U:act+act` and `R:act`, silent ones empty."""
    rows = [
        (dialogue_id, turn, {"U": "user", "R": "recommender"}[tagged[0]], act)
        for dialogue_id, turns in dialogues.items()
        for turn, tagged in enumerate(turns)
        if tagged
        for act in tagged[2:].split("+")
    ]
    return pl.DataFrame(rows, schema=tagger.SCHEMA, orient="row")


def test_jensen_shannon_by_hand_and_as_scipy() -> None:
    # p = (1, 0), q = (½, ½): m = (¾, ¼); ½·log₂(4/3) + ½·(½·log₂(2/3) + ½·log₂ 2) = 0.3113
    by_hand = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert acts.jensen_shannon(np.array([[3.0, 0.0]]), np.array([5.0, 5.0]))[0] == pytest.approx(by_hand)
    assert acts.jensen_shannon(np.array([2.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    assert acts.jensen_shannon(np.array([2.0, 2.0]), np.array([1.0, 1.0])) == 0
    assert np.isnan(acts.jensen_shannon(np.zeros(2), np.ones(2)))
    a, b = np.random.default_rng(0).random((2, 30))
    assert acts.jensen_shannon(a, b) == pytest.approx(distance.jensenshannon(a, b, base=2) ** 2)


def grams(frame: pl.DataFrame) -> dict[str, float]:
    return dict(frame.group_by("gram").agg(pl.col("weight").sum()).sort("gram").iter_rows())


def test_each_turn_and_each_two_successive_turns_have_weight_one() -> None:
    talk = tags(d=["U:a+b", "", "R:x", "U:b"], e=["R:x"])
    assert grams(acts.unigrams(talk)) == {"recommender: x": 2.0, "user: a": 0.5, "user: b": 1.5}
    # The silent turn does not count, and no pair goes from one dialogue into the next.
    assert grams(acts.bigrams(talk)) == {
        "recommender: x → user: b": 1.0,
        "user: a → recommender: x": 0.5,
        "user: b → recommender: x": 0.5,
    }
    assert acts.bigrams(talk).filter(role="user")["gram"].to_list() == ["recommender: x → user: b"]


def test_divergences_by_hand() -> None:
    run, human = tags(d=["U:a", "R:x"], e=["U:a"]), tags(p=["U:a", "R:x"], q=["U:b", "R:x"])
    results = acts.divergences(run, human, times=50, seed=0)
    values = {name: result.estimate.value for name, result in results.items()}
    half = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert values["user_act_divergence"] == pytest.approx(half)
    assert values["recommender_act_divergence"] == 0
    # Both: run a 2/3, x 1/3; human a ¼, b ¼, x ½.
    assert values["act_divergence"] == pytest.approx(
        distance.jensenshannon([2 / 3, 0, 1 / 3], [1 / 4, 1 / 4, 1 / 2], base=2) ** 2
    )
    # a → x against a → x and b → x, one half each; the user never speaks second.
    assert values["act_bigram_divergence"] == values["recommender_act_bigram_divergence"] == pytest.approx(half)
    assert "user_act_bigram_divergence" not in values


def test_human_against_human_dialogues_is_the_floor() -> None:
    generator = np.random.default_rng(0)

    def talks(n: int, often: float, prefix: str) -> pl.DataFrame:
        drawn = generator.random((n, 6)) < often
        return tags(**{f"{prefix}{i:03d}": [f"U:{'a' if one else 'b'}" for one in row] for i, row in enumerate(drawn)})

    human = talks(200, 0.5, "p")
    same = acts.divergences(talks(40, 0.5, "s"), human, times=100, seed=0)["act_divergence"]
    other = acts.divergences(talks(40, 0.9, "o"), human, times=100, seed=0)["act_divergence"]
    assert 0 < same.human < same.floor < 0.02
    assert same.estimate.value < same.floor < other.estimate.low
    assert other.human == same.human


def test_shares_of_turns() -> None:
    table = acts.shares(tags(d=["U:a+b", "U:b"], e=["U:b"]), tags(p=["U:a", "R:x"]), times=50, seed=0)
    shares = {row[:3]: row[3] for row in table.rows()}
    assert shares == {
        ("simulated", "user", "a"): pytest.approx(1 / 3),
        ("simulated", "user", "b"): 1.0,
        ("human", "user", "a"): 1.0,
        ("human", "user", "b"): 0.0,
        ("human", "recommender", "x"): 1.0,
    }
    assert table.filter(source="human", role="user")["act"].to_list() == ["a", "b"]


def test_order_of_rows_changes_nothing() -> None:
    run = tags(a=["U:a+b", "R:x", "U:b"], b=["R:y+x", "U:a"], c=["R:y", "U:b"])
    human = tags(p=["U:a", "R:x", "U:b"], q=["R:x+y", "U:b", "R:y"], r=["R:y", "U:a"])
    shuffled = run.sample(fraction=1, shuffle=True, seed=3)
    assert acts.divergences(run, human, times=50, seed=0) == acts.divergences(shuffled, human, times=50, seed=0)
    assert acts.shares(run, human, times=50, seed=0).equals(acts.shares(shuffled, human, times=50, seed=0))
