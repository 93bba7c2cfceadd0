"""Means, shares and distances to human dialogues, by hand and against scipy."""

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from crslib.metrics import facts, realism
from crslib.metrics.facts import Facts
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, talk


def counted(*lengths: list[int]) -> Facts:
    """Dialogues of user turns with these numbers of words."""
    return facts(*talk({f"d{i}": [f"U: {'word ' * n}" for n in turns] for i, turns in enumerate(lengths)}), MOVIES)


def test_means_and_shares() -> None:
    parts = realism.parts(
        facts(
            *talk(
                {
                    "p": ["R: Hi! [[Up (2009)]]?", "U: Is it good?", "R: yes", "U: ok"],
                    "q": ["U: one two three four five"],
                },
                notes={("p", 1): [("Up (2009)", False, True)]},
            ),
            MOVIES,
        )
    )
    assert share(parts, "recommender_words") == pytest.approx((3 + 1) / 2)
    assert share(parts, "user_words") == pytest.approx((3 + 1 + 5) / 3)
    assert share(parts, "turns") == pytest.approx((4 + 1) / 2)
    assert share(parts, "recommender_opens") == 0.5
    assert share(parts, "recommender_questions") == 0.5
    assert share(parts, "user_questions") == pytest.approx(1 / 3)
    assert share(parts, "recommender_items") == 0.5
    assert share(parts, "user_items") == 0.0
    assert share(parts, "liked_share") == 1.0


def test_distances_are_scipys() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.poisson(7, 300), generator.poisson(9, 500)
    left, right = np.bincount(a, minlength=40), np.bincount(b, minlength=40)
    ks = realism.kolmogorov_smirnov(left[None, :], right)[0]
    wasserstein = realism.wasserstein(left[None, :], right)[0]
    assert ks == pytest.approx(scipy_stats.ks_2samp(a, b).statistic)
    assert wasserstein == pytest.approx(scipy_stats.wasserstein_distance(a, b))


def test_distances_by_hand() -> None:
    # Words 1, 1, 3 against 1, 3, 3: the distribution functions differ by 1/3 at 1 and at 2.
    results = realism.distances(counted([1, 1], [3]), counted([1, 3], [3]), times=100, seed=0)
    assert results["user_words_ks"].estimate.value == pytest.approx(1 / 3)
    assert results["user_words_wasserstein"].estimate.value == pytest.approx(2 / 3)
    assert results["user_words_wasserstein"].estimate.n == 2
    assert "recommender_words_ks" not in results
    # Turns 2, 1 against 2, 1: equal.
    assert results["turns_ks"].estimate.value == 0


def test_human_against_human_dialogues_is_the_floor() -> None:
    human = counted(*[[length] for length in np.random.default_rng(0).poisson(10, 200).tolist()])
    sample = counted(*[[length] for length in np.random.default_rng(1).poisson(10, 40).tolist()])
    longer = counted(*[[length] for length in np.random.default_rng(2).poisson(20, 40).tolist()])
    same = realism.distances(sample, human, times=100, seed=0)["user_words_ks"]
    assert same.human is not None and same.floor is not None
    assert 0 < same.human < same.floor < 0.3
    assert same.estimate.value < same.floor
    other = realism.distances(longer, human, times=100, seed=0)["user_words_ks"]
    assert other.estimate.low is not None
    assert other.estimate.low > same.floor
    # The floor depends on the human dialogues, the number of dialogues and the seed only.
    assert (other.human, other.floor) == (same.human, same.floor)
    few = realism.distances(counted([10], [12], [9], [11]), human, times=100, seed=0)["user_words_ks"]
    assert few.human is not None
    assert few.human > same.human


def test_the_interval_holds_the_distance() -> None:
    human = counted(*[[n] for n in range(1, 31)])
    estimate = realism.distances(human, human, times=200, seed=0)["user_words_wasserstein"].estimate
    assert estimate.value == 0
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= 0 < estimate.high


def test_histogram_of_both_sides() -> None:
    frame = realism.histogram(counted([1, 1], [3]), counted([2]), "user_words")
    assert frame.rows() == [
        ("simulated", 1, pytest.approx(2 / 3)),
        ("simulated", 3, pytest.approx(1 / 3)),
        ("human", 2, 1.0),
    ]


def test_order_of_dialogues_changes_nothing() -> None:
    human = counted(*[[n % 7 + 1, n % 3 + 1] for n in range(30)])
    run = counted([1, 2], [5], [3, 3, 9])
    shuffled = Facts(run.dialogue_ids, run.turns.sample(fraction=1, shuffle=True, seed=1), run.mentions, run.reactions)
    assert isinstance(shuffled.turns, pl.DataFrame)
    assert realism.distances(run, human, times=100, seed=0) == realism.distances(shuffled, human, times=100, seed=0)
