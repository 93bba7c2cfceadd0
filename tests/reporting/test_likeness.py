"""What is said of a metric beside people's, by hand."""

import pytest

from crslib.reporting.likeness import ABOVE, APART, BELOW, LIKE, UNDECIDED, likeness


@pytest.mark.parametrize(
    ("value", "low", "high", "human", "floor", "n", "verdict"),
    [
        (12.0, 11.0, 13.0, 11.7, None, 30, LIKE),
        (12.0, 11.0, 13.0, 11.0, None, 30, LIKE),  # at an end of the interval
        (12.0, 11.0, 13.0, 11.7, None, 29, UNDECIDED),
        (12.0, 11.0, 13.0, 10.9, None, 64, ABOVE),
        (12.0, 11.0, 13.0, 13.1, None, 64, BELOW),
        (12.0, 11.0, 13.0, 13.1, None, 5, BELOW),  # few dialogues can show a difference
        (0.2, 0.1, 0.4, 0.1, 0.2, 64, LIKE),
        (0.2, 0.1, 0.4, 0.1, 0.2, 8, UNDECIDED),
        (0.3, 0.1, 0.4, 0.1, 0.2, 64, APART),  # its interval holds the human value and the floor
        (0.3, None, None, 0.1, None, 64, ""),
        (0.3, 0.1, 0.4, None, None, 64, ""),
    ],
)
def test_likeness(
    value: float, low: float | None, high: float | None, human: float | None, floor: float | None, n: int, verdict: str
) -> None:
    row = {"value": value, "low": low, "high": high, "human": human, "floor": floor, "n": n}
    assert likeness(row) == verdict
