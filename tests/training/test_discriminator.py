"""Fitting a discriminator: it knows a model by its words, on dialogues that it has not read, and is calibrated."""

import math
import random

import polars as pl
import pytest

from crslib.errors import CrsError
from crslib.training import discriminator

WORDS = ["hi", "yes", "no", "maybe", "sure", "thanks", "bye", "well", "okay", "cool"]


def said(share: float, n: int, seed: int, *, human: bool) -> list[tuple[str, str, bool]]:
    """Turns of three random words, of which `share` also say "great"."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        words = draw.choices(WORDS, k=3) + ["great"] * (draw.random() < share)
        rows.append((f"d{number % 40:02}", " ".join(words), human))
    return rows


def turns(people: float, model: float, n: int = 800) -> pl.DataFrame:
    rows = said(people, n, 1, human=True) + said(model, n // 2, 2, human=False)
    return pl.DataFrame(rows, schema=discriminator.SCHEMA, orient="row")


def test_the_odds_are_those_of_how_often_both_say_it() -> None:
    """People say it in a fifth of their turns, the model in four fifths: 1 to 4 with the word, 4 to 1 without."""
    judge = discriminator.fit(turns(0.2, 0.8))
    for text, ratio in (("yes no hi great", 1 / 4), ("yes no hi", 4)):
        assert judge.log_odds(text) == pytest.approx(math.log(ratio), abs=0.5)
    assert judge.about["accuracy"] == pytest.approx(0.8, abs=0.04)
    assert judge.about["log_loss"] < 0.6
    assert (judge.about["human_turns"], judge.about["model_turns"]) == (800, 400)


def test_the_same_words_give_even_odds() -> None:
    judge = discriminator.fit(turns(0.5, 0.5))
    assert judge.about["log_loss"] == pytest.approx(math.log(2), abs=0.02)
    assert judge.about["accuracy"] == pytest.approx(0.5, abs=0.06)


def test_the_order_of_turns_does_not_matter_and_rare_words_do_not_count() -> None:
    frame = turns(0.2, 0.8, 400)
    rare = pl.DataFrame([("d00", "my friend Zebulon", True)] * 4, schema=frame.schema, orient="row")
    whole = pl.concat([frame, rare])
    judge = discriminator.fit(whole)
    assert discriminator.fit(whole.reverse()) == judge
    assert not [feature for feature in judge.weights if "zebulon" in feature]
    assert "great" in judge.weights


def test_folds_are_of_whole_dialogues_and_equally_large() -> None:
    parts = discriminator.fold([f"d{number}" for number in range(10)] * 2)
    assert sorted(parts.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]


def test_too_few_dialogues_are_refused() -> None:
    frame = turns(0.2, 0.8)
    with pytest.raises(CrsError, match="in 4 dialogues; give more contexts"):
        discriminator.fit(frame.filter(pl.col("dialogue_id").is_in(["d00", "d01", "d02"])))
    with pytest.raises(CrsError, match="give more contexts"):
        discriminator.fit(frame.filter("human"))
    short = frame.with_columns(text=pl.int_range(pl.len()).cast(pl.String))
    with pytest.raises(CrsError, match="too few turns"):
        discriminator.fit(short)
