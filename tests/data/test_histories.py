"""The hidden part of a rating history, and each user's own scale."""

import hashlib
import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib import schemas
from crslib.data import histories
from crslib.errors import CrsError
from tests.support.fuzz import tries


def ratings_of(*rows: tuple[str, str, float, int | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["ratings"]), orient="row")


def items_of(part: pl.DataFrame, user: str = "a") -> list[str]:
    return part.filter(pl.col("user_id") == user)["item_id"].to_list()


def test_the_latest_ratings_are_hidden() -> None:
    rows = [("a", f"i{number}", 3.0, 1000 - number) for number in range(10)]
    visible, hidden = histories.split(ratings_of(*rows), 0.2)
    assert items_of(hidden) == ["i0", "i1"]
    assert items_of(visible) == [f"i{number}" for number in range(2, 10)]


@pytest.mark.parametrize(
    ("n", "share", "n_hidden"),
    [(1, 0.9, 0), (4, 0.2, 0), (5, 0.2, 1), (9, 0.2, 1), (100, 0.29, 29), (3, 0.999, 2)],
)
def test_the_number_of_hidden_ratings_is_the_share_rounded_down(n: int, share: float, n_hidden: int) -> None:
    _, hidden = histories.split(ratings_of(*[("a", str(i), 1.0, i) for i in range(n)]), share)
    assert hidden.height == n_hidden


def test_ratings_of_unknown_time_count_as_the_earliest() -> None:
    _, hidden = histories.split(
        ratings_of(("a", "x", 1.0, None), ("a", "y", 1.0, -5), ("a", "z", 1.0, None), ("a", "w", 1.0, 7)), 0.5
    )
    assert items_of(hidden) == ["w", "y"]


def test_a_hash_of_user_and_item_breaks_ties() -> None:
    items = [str(number) for number in range(20)]
    _, hidden = histories.split(ratings_of(*[("a", item, 1.0, 99) for item in items]), 0.25)
    by_hash = sorted(items, key=lambda item: hashlib.md5(f"a{item}".encode()).hexdigest())
    assert set(items_of(hidden)) == set(by_hash[-5:])


HISTORIES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 30).map(str), st.floats(0, 10), st.none() | st.integers(0, 5)),
    min_size=1,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=tries(60))
@given(HISTORIES, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_the_split_is_a_partition_in_time_independent_of_order_and_other_users(rows, share, random) -> None:
    visible, hidden = histories.split(ratings_of(*rows), share)
    assert sorted(visible.rows() + hidden.rows(), key=str) == sorted(ratings_of(*rows).rows(), key=str)
    for user in {row[0] for row in rows}:
        early, late = visible.filter(pl.col("user_id") == user), hidden.filter(pl.col("user_id") == user)
        assert early.height >= 1
        latest_visible = early["rated_at"].fill_null(-1).max()
        assert all(latest_visible <= time for time in late["rated_at"].fill_null(-1))
    user = random.choice(rows)[0]
    alone = histories.split(ratings_of(*[row for row in rows if row[0] == user]), share)
    assert alone[1].equals(hidden.filter(pl.col("user_id") == user))
    random.shuffle(rows)
    again = histories.split(ratings_of(*rows), share)
    assert again[0].equals(visible) and again[1].equals(hidden)


@pytest.mark.parametrize(
    ("rows", "share", "words"),
    [
        ([("a", "x", 1.0, 1), ("a", "x", 2.0, 2)], 0.2, "user 'a' rated item 'x' more than once"),
        ([("a", "x", math.nan, 1)], 0.2, "by user 'a' is nan"),
        ([("a", "x", None, 1)], 0.2, "by user 'a' is None"),
        ([("a", "x", 1.0, 1)], 0.0, "holdout_share = 0.0"),
        ([("a", "x", 1.0, 1)], 1.0, "holdout_share = 1.0"),
    ],
)
def test_wrong_ratings_and_shares_are_refused(rows, share, words) -> None:
    with pytest.raises(CrsError, match=words):
        histories.split(ratings_of(*rows), share)


def test_z_and_liked_are_on_each_users_own_scale() -> None:
    visible = ratings_of(
        ("a", "x", 2.0, 1), ("a", "y", 4.0, 1), ("b", "x", 1.0, 1), ("b", "y", 9.0, 1), ("c", "x", 3.7, 1)
    )
    scales = histories.scales(visible)
    assert scales.rows() == [("a", 2, 3.0, 1.0), ("b", 2, 5.0, 4.0), ("c", 1, 3.7, 0.0)]
    judged = histories.standardise(ratings_of(("a", "z", 2.5, 2), ("b", "z", 7.0, 2), ("d", "z", 7.0, 2)), scales)
    assert judged.select("user_id", "z", "liked").rows() == [("a", -0.5, False), ("b", 0.5, True)]


def test_a_small_spread_does_not_give_large_z() -> None:
    visible = ratings_of(("a", "x", 3.9, 1), ("a", "y", 4.1, 1))
    z = histories.standardise(visible, histories.scales(visible))["z"].to_list()
    assert z == pytest.approx([-0.2, 0.2])


def test_equal_ratings_are_all_liked() -> None:
    visible = ratings_of(*[("a", str(number), 3.7, number) for number in range(3)])
    assert histories.standardise(visible, histories.scales(visible))["liked"].all()


def test_only_marks_have_a_z_below_zero() -> None:
    visible = ratings_of(("a", "x", 0.1, 1), ("a", "y", 1.0, 1))
    for kind, z in (("marks", [-0.9, 0.9]), ("counts", [0.0, 0.9])):
        table = histories.standardise(visible, histories.scales(visible), kind)
        assert table["z"].to_list() == pytest.approx(z)
        assert table["liked"].to_list() == [False, True]


def test_a_large_hidden_count_makes_no_visible_one_small() -> None:
    """As written, weights are relative to the user's largest count, hidden or not: ln(1 + n) / ln(1 + 1000)."""
    rows = [("u", item, math.log(1 + n) / math.log(1001), None) for item, n in (("a", 1), ("b", 10), ("c", 1000))]
    table = pl.DataFrame(rows, schema=dict(schemas.TABLES["ratings"]), orient="row")
    visible, hidden = histories.rescaled(table.head(2), table.tail(1))
    assert visible["rating"].to_list() == pytest.approx([math.log(2) / math.log(11), 1.0])
    assert hidden["rating"].to_list() == [1.0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), max_size=8), st.integers(1, 4))
def test_ratings_are_put_in_order_whatever_the_parts_in_which_that_is_looked_at(
    pairs: list[tuple[str, str]], part: int
) -> None:
    frame = pl.DataFrame([(*pair, 3.0, None) for pair in pairs], schema=dict(schemas.TABLES["ratings"]), orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "PART", part)
        assert histories.in_order(frame).rows() == sorted(frame.rows(), key=lambda row: row[:2])
