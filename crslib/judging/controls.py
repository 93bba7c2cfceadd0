"""Controls for judges: corrupted copies of a dialogue, which an attentive reader never prefers to the original.

A judging model is asked about all kinds of corruption (`rubrics`); people are asked about two of them (attention checks
in `pairs`). Knows neither judges nor pairs.
"""

from collections.abc import Sequence

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed

SHUFFLED, STRANGER, REPEATING = "shuffled", "another user's words", "repeating"
CORRUPTIONS = (SHUFFLED, STRANGER, REPEATING)
"""The kinds of corruption. A corrupted copy has its kind as its condition."""
Turns = Sequence[tuple[str, str]]
"""The turns of a dialogue in order: (role, text in format v1)."""


def corrupt(turns: Turns, kind: str, seed: int, other: Turns = ()) -> list[tuple[str, str]]:
    """A corrupted copy of a dialogue in which both parties speak.

    `SHUFFLED`: the last turn first, then all others in random order. `STRANGER`: the user's texts are replaced by those
    of the user in `other`, repeated from the start where they do not suffice. `REPEATING`: all texts of the recommender
    are replaced by its middle one. The copy equals the original where the original already has that form.
    """
    if kind == SHUFFLED:
        *others, last = enumerate(turns)
        shuffled = sorted(others, key=lambda numbered: derive_seed(seed, "shuffle", numbered[0], numbered[1][1]))
        return [turn for _, turn in [last, *shuffled]]
    if kind == STRANGER:
        texts = iter([text for role, text in other if role == USER] * len(turns))
        return [(role, next(texts) if role == USER else text) for role, text in turns]
    lines = [text for role, text in turns if role == RECOMMENDER]
    middle = lines[len(lines) // 2]
    return [(role, middle if role == RECOMMENDER else text) for role, text in turns]
