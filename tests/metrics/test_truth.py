"""Shares of true statements and of answered questions."""

import polars as pl
import pytest

from crslib.dialogue.credits import Credits
from crslib.metrics import truth
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, talk


def test_statements_and_answers_by_hand(items: pl.DataFrame) -> None:
    """True: Al Pacino, 1995; false: Tom Hanks; not decidable: who is in Up. One question of four is without answer."""
    _, turns = talk(
        {
            "p": [
                "R: [[Heat (1995)]] stars Al Pacino",
                "U: Who else is in it? When was it made?",
                "R: It stars Tom Hanks and came out in 1995",
                "U: What is [[Up (2009)]] about? Who is in it?",
                "R: It is great.",
            ],
            "q": ["R: [[Up (2009)]] stars Tom Hanks", "U: who is in it?", "R: Tom Hanks"],
            "r": ["U: Who stars in [[Heat (1995)]]?"],  # nobody is left to answer
        }
    )
    parts = truth.parts(turns, Credits.of(items, MOVIES))
    assert share(parts, "facts_true") == pytest.approx(2 / 3)
    assert share(parts, "facts_decidable") == pytest.approx(3 / 5)
    assert share(parts, "questions_answered") == pytest.approx(3 / 5)
    assert share(parts, "true_answers") == pytest.approx(1 / 3)  # when; not who of Heat, nor who of Up in p
    assert truth.parts(turns.clear(), Credits.of(items, MOVIES)).is_empty()
