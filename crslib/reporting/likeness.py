"""Whether a metric of a run is like that of human dialogues, in words."""

from collections.abc import Mapping
from typing import Any

MIN_DIALOGUES = 30  # the interval of fewer is so wide that it holds the human value of almost any metric
LIKE, UNDECIDED = "like people", "undecided"
ABOVE, BELOW, APART = "above people", "below people", "unlike people"


def likeness(row: Mapping[str, Any]) -> str:
    """A row of table `metrics` against human dialogues, in words; empty where nothing can be said.

    A distance is like people where it is no larger than its floor, any other value where its 95 % interval holds that
    of human dialogues. Both prove nothing with fewer than `MIN_DIALOGUES` dialogues: `UNDECIDED`.
    """
    if row["human"] is None or (row["floor"] is None and row["low"] is None):
        return ""
    if row["floor"] is not None:
        verdict = LIKE if row["value"] <= row["floor"] else APART
    else:
        verdict = ABOVE if row["low"] > row["human"] else BELOW if row["high"] < row["human"] else LIKE
    return UNDECIDED if verdict == LIKE and row["n"] < MIN_DIALOGUES else verdict
