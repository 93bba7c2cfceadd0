import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from crslib import stats

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30).map(
    lambda pairs: np.array([(min(a, b), max(a, b)) for a, b in pairs], dtype=float)
)


def test_resamples_draw_every_row_n_times_and_repeat_with_the_seed() -> None:
    drawn = stats.resamples(7, 50, seed=3)
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert (drawn == stats.resamples(7, 50, seed=3)).all()
    assert (drawn != stats.resamples(7, 50, seed=4)).any()


def test_resamples_are_kept_in_half_the_memory_and_their_sums_do_not_overflow() -> None:
    drawn, halved = stats.resamples(7, 50, seed=3), stats.halves(9, 40, seed=0)
    assert (drawn.nbytes, halved.nbytes) == (4 * 50 * 7, 4 * 40 * 9)
    assert (drawn @ np.full(7, True)).tolist() == [7] * 50
    assert (drawn @ np.full(7, 10**12)).tolist() == [7 * 10**12] * 50
    assert (halved @ np.full(9, 0.5, dtype=np.float32)).dtype == np.float64  # as of int64


def test_halves_hold_half_of_the_dialogues_once() -> None:
    drawn = stats.halves(9, 40, seed=0)
    assert set(np.unique(drawn)) == {0, 1}
    assert (drawn.sum(axis=1) == 4).all()


def test_ratio_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    # 1 of 1 and 1 of 9: pooled 2/10, although the mean of the shares is 5/9.
    estimate = stats.ratio(np.array([1.0, 1.0]), np.array([1.0, 9.0]), times=200, seed=0)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.2)
    # Resamples hold the first twice (2/2), the second twice (2/18), or both (2/10).
    assert estimate.low == pytest.approx(1 / 9)
    assert estimate.high == pytest.approx(1.0)
    assert estimate.n == 2


def test_nothing_to_count_is_no_estimate_and_one_dialogue_has_no_interval() -> None:
    assert stats.ratio(np.zeros(3), np.zeros(3), times=100, seed=0) is None
    assert stats.ratio(np.array([1.0, 0.0]), np.array([4.0, 0.0]), times=100, seed=0) == stats.Estimate(
        0.25, None, None, 1
    )


@given(counts, st.randoms(use_true_random=False))
def test_order_of_dialogues_changes_nothing(pairs: np.ndarray, random: object) -> None:
    ids = [f"d{i:02d}" for i in range(len(pairs))]
    rows = pl.DataFrame(
        {"dialogue_id": ids, "metric": ["m"] * len(ids), "part": pairs[:, 0], "whole": pairs[:, 1]},
        schema_overrides={"metric": pl.String},
    )
    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = stats.ratios(rows, pl.Series(ids), times=100, seed=0)
    shuffled = stats.ratios(rows[order], pl.Series([ids[i] for i in order]), times=100, seed=0)
    assert straight == shuffled


@given(counts)
def test_interval_lies_within_the_shares_of_the_dialogues(pairs: np.ndarray) -> None:
    estimate = stats.ratio(pairs[:, 0], pairs[:, 1], times=100, seed=0)
    if estimate is None or estimate.low is None or estimate.high is None:
        return
    shares = [part / whole for part, whole in pairs if whole]
    if estimate.value in (0, 1) and min(shares) == max(shares):
        return  # all equal: see the test of the exact interval
    assert min(shares) - 1e-12 <= estimate.low <= estimate.high <= max(shares) + 1e-12


def test_ratios_equals_ratio_for_each_metric() -> None:
    rows = pl.DataFrame(
        {
            "dialogue_id": ["a", "b", "c", "a", "c"],
            "metric": ["x", "x", "x", "y", "y"],
            "part": [1.0, 0.0, 2.0, 1.0, 1.0],
            "whole": [2.0, 1.0, 2.0, 1.0, 3.0],
        }
    )
    estimates = stats.ratios(rows, pl.Series(["a", "b", "c"]), times=300, seed=1)
    assert estimates["x"] == stats.ratio(np.array([1.0, 0, 2]), np.array([2.0, 1, 2]), times=300, seed=1)
    # A dialogue without y is part of the resamples and adds nothing.
    assert estimates["y"] == stats.ratio(np.array([1.0, 0, 1]), np.array([1.0, 0, 3]), times=300, seed=1)
    assert estimates["y"].n == 2


def test_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sample = generator.exponential(1.0, size=60)
        estimate = stats.ratio(sample, np.ones(60), times=300, seed=trial)
        assert estimate is not None
        covered += estimate.low <= 1.0 <= estimate.high  # type: ignore[operator]
    assert 0.88 <= covered / 200 <= 0.98


def test_half_samples_have_the_spread_of_the_whole() -> None:
    values = np.random.default_rng(1).normal(size=80)
    means = stats.halves(80, 4000, seed=0) @ values / 40
    assert means.std() == pytest.approx(values.std(ddof=1) / math.sqrt(80), rel=0.05)


def test_centred_interval_surrounds_a_biased_statistic() -> None:
    # The number of different values is always smaller in a half: without the shift the interval would miss it.
    kinds = np.arange(40) % 25
    one_hot = np.eye(25)[kinds]
    estimate = stats.subsample(lambda drawn: (drawn @ one_hot > 0).sum(axis=1).astype(float), 40, times=200, seed=0)
    assert estimate.value == 25
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= 25 <= estimate.high


def test_undefined_replicates_are_left_out() -> None:
    assert stats.interval(np.array([np.nan, np.nan])) == (None, None)
    assert stats.interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)


def test_paired_difference_leaves_out_incomplete_pairs() -> None:
    estimate = stats.paired_difference(
        np.array([3.0, 5.0, np.nan, 4.0]), np.array([1.0, 3.0, 1.0, np.nan]), times=100, seed=0
    )
    assert estimate == stats.Estimate(2.0, 2.0, 2.0, 2)


def test_equal_dialogues_have_the_exact_interval_of_their_number() -> None:
    """Of 64 dialogues none: the share may still be up to 1 - 0.025^(1/64) = 5.6 %."""
    none = stats.ratio(np.zeros(64), np.ones(64), times=200, seed=0)
    every = stats.ratio(np.full(64, 3.0), np.full(64, 3.0), times=200, seed=0)
    assert none is not None
    assert every is not None
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.05602, abs=1e-4)
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - 0.05602, abs=1e-4)


def test_sign_flips_by_hand() -> None:
    p = stats.sign_flips(np.array([1.0, 1.0, 1.0, 1.0, 1.0]), times=20_000, seed=0)
    assert p == pytest.approx(2 / 32, abs=0.006)  # all plus or all minus
    assert stats.sign_flips(np.array([1.0, -1.0]), times=100, seed=0) == 1.0
    theirs = scipy_stats.permutation_test(
        (np.arange(-3.0, 9.0),), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert stats.sign_flips(np.arange(-3.0, 9.0), times=20_000, seed=0) == pytest.approx(theirs, abs=0.01)


def test_sign_flips_of_several_tests_are_those_of_each() -> None:
    """A pair that is undefined in one test counts there as 0, which no sign changes."""
    both = np.array([[1.0, 2.0], [1.0, -1.0], [1.0, 0.0], [1.0, 3.0]])
    together = stats.sign_flips(both, times=20_000, seed=0)
    assert together == pytest.approx([2 / 16, 0.5], abs=0.02)  # |2 − 1 + 3| = 4 or more: ±(2, ±1, 3): 4 of 8
    assert together[0] == stats.sign_flips(both[:, 0], times=20_000, seed=0)


def test_shift_by_hand() -> None:
    replicates = np.array([1.0, 3.0] * 500)  # standard deviation 1
    assert stats.shift(2.0, replicates) == pytest.approx(2 * scipy_stats.t.sf(2 / replicates.std(ddof=1), 999))
    assert stats.shift(2.0, np.array([np.nan, *replicates])) == stats.shift(-2.0, replicates)
    assert stats.shift(2.0, np.ones(9)) is None


def test_holm_by_hand() -> None:
    assert stats.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_intervals_of_pairs_with_few_differences() -> None:
    same = stats.paired_difference(np.ones(5), np.ones(5), times=100, seed=0)
    assert same == stats.Estimate(0.0, 0.0, 0.0, 5)
    one = stats.paired_difference(np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(4), times=2000, seed=0)
    assert one is not None
    assert (one.value, one.low, one.high) == (0.25, 0.0, 0.75)


def test_rank_correlation_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4, less their mean: the sum of products is 3, those of squares 4.5 and 5."""
    a, b = np.array([1.0, 2.0, 2.0, 9.0]), np.array([0.2, 0.1, 0.3, 7.0])
    estimate = stats.spearman(a, b, times=200, seed=0)
    assert estimate is not None
    assert estimate.value == pytest.approx(3 / np.sqrt(4.5 * 5))
    assert estimate.n == 4
    falling = stats.spearman(a, -a, times=200, seed=0)
    assert falling is not None
    assert (falling.value, falling.low, falling.high) == (pytest.approx(-1), pytest.approx(-1), pytest.approx(-1))
    assert stats.spearman(a, np.ones(4), times=200, seed=0) is None


def test_resamples_of_a_rank_correlation_do_not_depend_on_their_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20))
    whole = stats.spearman(a, b, times=100, seed=0)
    monkeypatch.setattr(stats, "_RANKED", 70)
    assert stats.spearman(a, b, times=100, seed=0) == whole
