import numpy as np
import polars as pl
import pytest
from scipy import sparse

from crslib import schemas
from crslib.recommender.prior import (
    _PENALTY,
    DIALOGUES,
    FEATURES,
    JUST_NAMED,
    NAMED,
    ContraryPrior,
    ItemPrior,
    Utterance,
    _Regression,
)
from tests.support.domains import MOVIES


@pytest.fixture
def ratings() -> pl.DataFrame:
    """Two users: the first likes Heat and The Matrix, the second Notting Hill and Up."""
    rows = [("a", "1", 5.0), ("a", "2", 5.0), ("b", "3", 5.0), ("b", "6", 5.0)]
    return pl.DataFrame([(*row, None) for row in rows], schema=dict(schemas.TABLES["ratings"]), orient="row")


def test_prior_is_a_distribution_without_the_excluded(items: pl.DataFrame, ratings: pl.DataFrame) -> None:
    prior = ItemPrior.fit(items, ratings, MOVIES)
    log_prior = prior.log_prior([Utterance("user", "I like [[Heat (1995)]]", ["1"])], exclude=["1", "unknown"])
    assert log_prior.dtype == np.float32
    assert log_prior[prior.item_ids.index("1")] == -np.inf
    assert np.exp(log_prior).sum() == pytest.approx(1, abs=1e-5)


def test_a_contrary_prior_turns_taste_round_and_keeps_popularity(items: pl.DataFrame, ratings: pl.DataFrame) -> None:
    prior = ItemPrior.fit(items, ratings, MOVIES)
    contrary = ContraryPrior(prior)
    np.testing.assert_allclose(contrary.log_prior([]), prior.log_prior([]), atol=1e-5)
    turns = [Utterance("user", "A funny one please, like [[Notting Hill (1999)]], not an action film", ["3"])]
    taste = prior.log_prior(turns, ["3"]) - prior.log_prior([])
    turned = contrary.log_prior(turns, ["3"]) - prior.log_prior([])
    assert turned[2] == taste[2] == -np.inf
    others = [0, 1, 3, 4, 5]
    assert np.ptp(taste[others]) > 0.5
    np.testing.assert_array_equal(np.argsort(turned[others]), np.argsort(-taste[others]))
    assert np.ptp((turned + taste)[others]) < 1e-5  # as much as the other way
    assert np.exp(contrary.log_prior(turns, ["3"])).sum() == pytest.approx(1, abs=1e-5)
    assert np.isneginf(contrary.log_prior(turns, list("123456"))).all()


def test_row_order_changes_nothing(items: pl.DataFrame, ratings: pl.DataFrame) -> None:
    turns = [Utterance("user", "A funny one like [[Heat (1995)]] with Al Pacino from the 90s", ["1"])]
    original = ItemPrior.fit(items, ratings, MOVIES).log_prior(turns)
    reordered = ItemPrior.fit(items.reverse(), ratings.reverse(), MOVIES).log_prior(turns)
    assert original.tobytes() == reordered.tobytes()


@pytest.mark.parametrize(
    ("text", "item", "more"),
    [
        ("something funny", "3", True),
        ("no comedies please", "3", False),
        ("anything with Keanu Reeves?", "2", True),
        ("something for my kids", "6", True),
        ("a film of the nineties", "1", True),
    ],
)
def test_words_raise_or_lower_an_item(
    items: pl.DataFrame, ratings: pl.DataFrame, text: str, item: str, more: bool
) -> None:
    prior = ItemPrior.fit(items, ratings, MOVIES)
    row = prior.item_ids.index(item)
    before = prior.log_prior([])[row]
    after = prior.log_prior([Utterance("user", text)])[row]
    assert after > before if more else after < before


def test_the_users_answer_weighs_the_recommenders_items(items: pl.DataFrame, ratings: pl.DataFrame) -> None:
    prior = ItemPrior.fit(items, ratings, MOVIES)
    row = prior.item_ids.index("2")
    named = Utterance("recommender", "Have you seen [[Heat (1995)]]?", ["1"])
    liked = prior.log_prior([named, Utterance("user", "Yes, I loved it")], exclude=["1"])[row]
    hated = prior.log_prior([named, Utterance("user", "I hated it")], exclude=["1"])[row]
    assert liked > hated


def test_the_users_last_words_weigh_most(items: pl.DataFrame, ratings: pl.DataFrame) -> None:
    prior = ItemPrior.fit(items, ratings, MOVIES)
    first, last = Utterance("user", "something romantic"), Utterance("user", "an action film, then")
    rows = [prior.item_ids.index(item) for item in ("1", "3")]
    heat, hill = prior.log_prior([first, last])[rows] - prior.log_prior([last, first])[rows]
    assert heat > 0 > hill


def test_the_name_of_a_series_raises_its_films_but_not_a_persons() -> None:
    rows = [
        ("1", "Harry Potter and the Goblet of Fire", 2005, ["fantasy"], [], ["Daniel Radcliffe"]),
        ("2", "Saw", 2004, ["horror"], [], ["Monica Potter"]),
        ("3", "Con Air", 1997, ["action"], [], ["Monica Potter"]),
        ("4", "Patch Adams", 1998, ["comedy"], [], ["Monica Potter"]),
        ("5", "Scary Movie", 2000, ["comedy"], [], []),
    ]
    films = pl.DataFrame(
        [(*row, [], None, 0, None) for row in rows], schema=dict(schemas.TABLES["items"]), orient="row"
    )
    prior = ItemPrior.fit(films, pl.DataFrame([], schema=dict(schemas.TABLES["ratings"])), MOVIES)
    log_prior = prior.log_prior([Utterance("user", "any harry potter film?")])
    assert log_prior.argmax() == 0
    assert np.ptp(log_prior[1:]) == 0  # the actress of that name is not meant
    assert prior.log_prior([Utterance("user", "a scary movie")]).argmax() == 1  # a genre here, no title


def test_words_raise_the_items_that_users_of_the_same_words_mention(items: pl.DataFrame) -> None:
    """Six users say "submarine" and mention Up, six "desert" and mention The Matrix."""
    pairs = (
        [(f"s{n}", "6") for n in range(6)] + [(f"d{n}", "2") for n in range(6)] + [(f"x{n}", "1") for n in range(18)]
    )
    ratings = pl.DataFrame([(*p, 1.0, None) for p in pairs], schema=dict(schemas.TABLES["ratings"]), orient="row")
    texts = {"s": "a submarine please", "d": "set in a desert", "x": "whatever you say"}
    prior = ItemPrior.fit(items, ratings, MOVIES, {user: texts[user[0]] for user, _ in pairs})
    features = prior.features([Utterance("user", "I dream of a submarine")])
    rows = [prior.item_ids.index(item) for item in ("6", "2")]
    for name in ("words", "regression"):
        up, matrix = features[FEATURES.index(name)][rows]
        assert up > matrix
    up, matrix = prior.log_prior([Utterance("user", "I dream of a submarine")], weights=DIALOGUES)[rows]
    assert up > matrix


def test_items_mentioned_before_have_the_chances_of_repeats(items: pl.DataFrame) -> None:
    ratings = pl.DataFrame([], schema=dict(schemas.TABLES["ratings"]))
    prior = ItemPrior.fit(items, ratings, MOVIES)
    turns = [
        Utterance("recommender", "[[Heat (1995)]]", ["1"]),
        Utterance("user", "[[Up (2009)]]!", ["6", None]),
    ]
    rows = {item: row for row, item in enumerate(prior.item_ids)}
    chances = np.exp(prior.log_prior(turns))
    assert chances.sum() == pytest.approx(1, rel=1e-5)
    assert chances[[rows["1"], rows["6"]]] == pytest.approx([NAMED, JUST_NAMED], rel=1e-5)
    assert np.exp(prior.log_prior(turns, ["1"]))[rows["1"]] == 0
    others = [row for item, row in rows.items() if item not in ("1", "6")]
    without = prior.log_prior(turns, ["1", "6"])
    assert np.ptp(prior.log_prior(turns)[others] - without[others]) == pytest.approx(0, abs=1e-5)
    everything = [Utterance("user", "", prior.item_ids)]
    assert np.exp(prior.log_prior(everything)) == pytest.approx([1 / len(rows)] * len(rows), rel=1e-5)
    assert not np.isfinite(prior.log_prior(everything, prior.item_ids)).any()


def test_the_regression_is_ease_in_its_dual_form() -> None:
    """Against B_ij = -P_ij / P_jj with P = (X'X + λI)^-1 written out (Steck 2019, eq. 8)."""
    users = sparse.csr_array(np.array([[1, 1, 0, 0.3], [1, 0, 1, 0], [0, 1, 1, 0.3]]))
    inverse = np.linalg.inv(users.T @ users + _PENALTY * np.eye(4))
    weights = -inverse / np.diag(inverse)
    expected = 1.0 * weights[0] + 0.3 * weights[3]
    values = _Regression(users, 3)(np.array([0, 3]), np.array([1.0, 0.3]))
    assert values[1:] == pytest.approx(expected[1:3])
