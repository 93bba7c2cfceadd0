"""Corrupted copies of dialogues."""

import pytest

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.judging.controls import REPEATING, SHUFFLED, STRANGER, corrupt

TURNS = [((USER, RECOMMENDER)[n % 2], str(n)) for n in range(7)]
OTHER = [(USER, "a"), (RECOMMENDER, "b"), (USER, "c")]


def test_a_shuffled_copy_has_the_same_turns_in_another_order() -> None:
    copy = corrupt(TURNS, SHUFFLED, 0)
    assert copy[0] == TURNS[-1]
    assert sorted(copy, key=TURNS.index) == TURNS
    assert copy == corrupt(TURNS, SHUFFLED, 0) != corrupt(TURNS, SHUFFLED, 1)


@pytest.mark.parametrize(("kind", "texts"), [(STRANGER, "a1c3a5c"), (REPEATING, "0323436")])
def test_one_party_has_other_texts(kind: str, texts: str) -> None:
    assert corrupt(TURNS, kind, 0, OTHER) == [(role, text) for (role, _), text in zip(TURNS, texts, strict=True)]
