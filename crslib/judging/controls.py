"""Copies of a dialogue that nobody who reads it prefers: what a judge, be it a model or a person, must tell from it.

Knows nothing of who judges, and of pairs.
"""

from collections.abc import Sequence

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed

SHUFFLED, STRANGER, REPEATING = "shuffled", "another user's words", "repeating"
Turns = Sequence[tuple[str, str]]
"""(role, text in format v1), as they come."""


def spoil(turns: Turns, kind: str, seed: int, other: Turns = ()) -> list[tuple[str, str]]:
    """A spoilt copy of a dialogue in which both parties speak.

    `SHUFFLED`: all turns in another order, the last one first. `STRANGER`: the user says what the user of `other` says,
    from the start again where that is not enough. `REPEATING`: one line, the middle one of the recommender's, is all it
    ever says. A dialogue that is like this anyway comes back as it is.
    """
    if kind == SHUFFLED:
        *others, last = enumerate(turns)
        return [
            turn for _, turn in [last, *sorted(others, key=lambda it: derive_seed(seed, "shuffle", it[0], it[1][1]))]
        ]
    if kind == STRANGER:
        words = [text for role, text in other if role == USER]
        spoken = iter(words * len(turns))
        return [(role, next(spoken) if role == USER else text) for role, text in turns]
    lines = [text for role, text in turns if role == RECOMMENDER]
    line = lines[len(lines) // 2]
    return [(role, line if role == RECOMMENDER else text) for role, text in turns]
