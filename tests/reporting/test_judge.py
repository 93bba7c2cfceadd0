"""Whether a judge can be relied on, from its figures."""

import polars as pl

from crslib.judging import verdicts
from crslib.reporting import judge


def controls(wins: float, flips: float, n: int = 40) -> pl.DataFrame:
    rows = [
        ("controls", "shuffled", "overall", name, value, value - 0.1, value + 0.1, n)
        for name, value in (("wins", wins), ("flips", flips))
    ]
    return pl.DataFrame(rows, schema=dict(verdicts.FIGURES), orient="row")


def test_trust_follows_from_the_figures() -> None:
    assert judge.trust(controls(0.9, 0.2))[0] == "This judge passes its controls."
    assert "no sign" in judge.trust(controls(0.55, 0.2))[0]
    head, wins, flips = judge.trust(controls(0.9, 0.45))  # its interval reaches a coin's 0.5
    assert "fails some" in head
    assert "shuffled 0.90 [0.80, 1.00]" in wins
    assert "shuffled 0.45 [0.35, 0.55]" in flips
    assert "It is unknown" in judge.trust(controls(0.9, 0.2).clear())[0]
    assert "It is unknown" not in judge.trust(controls(0.9, 0.2))[0]
