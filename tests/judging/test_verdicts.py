"""Figures of a judge against counts by hand."""

import polars as pl
import pytest

from crslib import schemas
from crslib.errors import CrsError
from crslib.judging import verdicts

X, Y = "x", "y"


def votes(*rows: tuple[str, str, str | None], rater: str = "judge", preference: float | None = None) -> pl.DataFrame:
    """(pair, condition shown left, choice); the other side is the other of X and Y."""
    table = []
    for order, (pair, left, choice) in enumerate(rows):
        right = Y if left == X else X
        row = dict.fromkeys(schemas.TABLES["votes"]) | {"pair_id": pair, "criterion": "flow", "rater": rater}
        row |= {"left_condition": left, "right_condition": right, "choice": choice, "order": order}
        table.append(row | {"preference": preference})
    return pl.DataFrame(table, schema=dict(schemas.TABLES["votes"]))


def values(figures: pl.DataFrame) -> dict[str, float]:
    return dict(figures.select("figure", "value").iter_rows())


def test_a_judge_that_always_chooses_left() -> None:
    shown = [(pair, left, "left") for pair in "abcd" for left in (X, Y)]
    figures = verdicts.pairwise(votes(*shown, preference=0.3), X)
    assert values(figures) == {"wins": 0.5, "flips": 1, "left": 1, "wins_averaged": 0.5, "unanswered": 0}
    assert set(figures["n"]) == {4}


def test_a_judge_that_always_chooses_the_same_condition() -> None:
    shown = [(pair, left, "left" if left == X else "right") for pair in "abcd" for left in (X, Y)]
    figures = verdicts.pairwise(votes(*shown), X)
    assert values(figures) == {"wins": 1, "flips": 0, "left": 0.5, "unanswered": 0}
    wins = figures.row(by_predicate=pl.col("figure") == "wins", named=True)
    assert (wins["low"], wins["high"]) == (pytest.approx(0.025 ** (1 / 4)), 1)
    assert values(verdicts.pairwise(votes(*shown), Y))["wins"] == 0


def test_verdicts_pair_by_pair() -> None:
    shown = votes(
        ("a", X, "left"), ("a", Y, "right"),  # x both times
        ("b", X, "tie"), ("b", Y, "tie"),
        ("c", X, "left"), ("c", Y, "tie"),  # different: a tie, and flipped
        ("d", X, "right"), ("d", Y, None),  # one answer is missing: no verdict
        ("e", Y, "left"),  # a person sees one order only
    )  # fmt: skip
    table = verdicts.verdicts(shown, X)
    assert table.select("pair_id", "won", "flipped").rows() == [
        ("a", 1.0, False), ("b", 0.5, False), ("c", 0.5, True), ("d", None, None), ("e", 0.0, None),
    ]  # fmt: skip
    figures = values(verdicts.pairwise(shown, X))
    assert figures["wins"] == (1 + 0.5 + 0.5 + 0) / 4
    assert figures["flips"] == pytest.approx(1 / 3)
    assert figures["left"] == (0.5 + 1 + 0 + 1) / 4  # pairs a, c, d, e; b has ties only
    assert figures["unanswered"] == (0 + 0 + 0 + 0.5 + 0) / 5


def test_averaging_both_orders_cancels_a_preference_for_a_place() -> None:
    leaning = [("a", X, 0.9), ("a", Y, 0.7), ("b", X, 0.2), ("b", Y, 0.6)]
    shown = pl.concat([votes((pair, left, "left"), preference=p) for pair, left, p in leaning])
    table = verdicts.verdicts(shown, X)
    assert table["preference"].to_list() == [pytest.approx(0.1), pytest.approx(-0.2)]
    assert values(verdicts.pairwise(shown, X))["wins_averaged"] == 0.5


def test_marks() -> None:
    rows = [("x", str(n), mark, n) for n, mark in enumerate((1.0, 2.0, 2.0, 5.0, None))]
    rows += [("y", str(n), 3.0, n) for n in range(4)]
    blank = dict.fromkeys(schemas.TABLES["marks"]) | {"criterion": "flow"}
    table = [blank | dict(zip(("condition", "dialogue_id", "mark", "n_words"), row, strict=True)) for row in rows]
    figures = verdicts.rubric(pl.DataFrame(table, schema=dict(schemas.TABLES["marks"])))
    x, y = (values(figures.filter(condition=condition)) for condition in "xy")
    assert x["mark"] == 2.5
    assert x["spread"] == pytest.approx(3**0.5)  # deviations -1.5, -.5, -.5, 2.5: 9 / 3
    assert x["entropy"] == pytest.approx(1.5)
    assert x["length"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)  # ranks 1, 2.5, 2.5, 4 with 1, 2, 3, 4
    assert x["unanswered"] == 0.2
    assert y == {"mark": 3, "spread": 0, "entropy": 0, "unanswered": 0}


def test_agreement_with_people() -> None:
    judge = votes(("a", X, "left"), ("b", X, "left"), ("c", X, "right"), ("d", X, "right"))
    # People see other sides, so the same opinion is another choice.
    human = votes(
        ("a", Y, "right"), ("b", X, "right"), ("c", X, "right"), ("d", Y, "left"), ("z", X, "left"), rater="p"
    )
    figures = values(verdicts.agreement(judge, human, X))
    assert figures["agreement"] == 0.75
    # The judge chooses x in 2 of 4 pairs, the person in 1 of 4: chance agreement is 1/2·1/4 + 1/2·3/4 = 1/2.
    assert figures["kappa"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    with pytest.raises(CrsError, match="other pairs"):
        verdicts.agreement(judge, votes(("z", X, "left")), X)
