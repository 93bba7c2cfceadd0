"""Numbers, intervals and tables as text."""

import polars as pl
import pytest

from crslib.reporting import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-1.234, "-1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (7, "7"),
        ("a", "a"),
        (None, ""),
    ],
)
def test_floats_have_three_significant_digits(value: object, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("ends", "form", "shown"),
    [
        ((0.5, 0.4, 0.6), "", "0.500 [0.400, 0.600]"),
        ((0.5, 0.4, 0.6), ".0%", "50% [40%, 60%]"),
        ((0.5, -0.4, 0.6), "+.2f", "+0.50 [-0.40, +0.60]"),
        ((0.5, None, None), ".2f", "0.50"),
        ((0.5, None, 0.6), ".2f", "0.50"),
        ((None, None, None), ".2f", "–"),
    ],
)
def test_an_estimate_has_an_interval_where_both_ends_are_known(
    ends: tuple[float | None, float | None, float | None], form: str, shown: str
) -> None:
    assert text.estimate(*ends, form=form) == shown


def test_no_cell_ends_its_column_or_row() -> None:
    assert text.markdown(("a", "b"), [("x|y", 1), ("two\nlines", "")]) == (
        "| a | b |\n|---|---|\n| x\\|y | 1 |\n| two lines |  |"
    )


def test_cells_of_a_frame() -> None:
    frame = pl.DataFrame({"a": [0.5, None], "b": ["x", "y"]})
    assert text.cells(frame) == [["0.500", "x"], ["", "y"]]
