"""Spoilt copies of dialogues."""

import pytest

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.judging.controls import REPEATING, SHUFFLED, STRANGER, spoil

TURNS = [((USER, RECOMMENDER)[n % 2], str(n)) for n in range(7)]
OTHER = [(USER, "a"), (RECOMMENDER, "b"), (USER, "c")]


def test_shuffled_keeps_what_was_said_and_who_said_it() -> None:
    copy = spoil(TURNS, SHUFFLED, 0)
    assert copy[0] == TURNS[-1]
    assert sorted(copy, key=TURNS.index) == TURNS
    assert copy == spoil(TURNS, SHUFFLED, 0) != spoil(TURNS, SHUFFLED, 1)


@pytest.mark.parametrize(("kind", "said"), [(STRANGER, "a1c3a5c"), (REPEATING, "0323436")])
def test_one_side_says_something_else(kind: str, said: str) -> None:
    assert spoil(TURNS, kind, 0, OTHER) == [(role, text) for (role, _), text in zip(TURNS, said, strict=True)]
