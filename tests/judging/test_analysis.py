"""Figures from votes against counts by hand, against other libraries, or against simulated votes."""

import choix
import krippendorff
import numpy as np
import polars as pl
import pytest
from scipy import stats as distributions

from crslib import schemas
from crslib.judging import analysis

CRITERION = "flow"


def vote(
    pair: int, rater: str, choice: str, left: str = "a", right: str = "b", order: int = 0, **other: object
) -> dict:
    """One row of table `votes`; runs are called like their conditions."""
    row = dict.fromkeys(schemas.TABLES["votes"])
    for side, condition in (("left", left), ("right", right)):
        row |= {f"{side}_run": condition, f"{side}_condition": condition, f"{side}_dialogue": f"u{pair}.0"}
    row |= {"pair_id": f"p{pair}", "criterion": CRITERION, "rater": rater, "choice": choice, "order": order}
    return row | {"seconds": 2.0, "at": "2026-01-01T00:00:00+00:00"} | other


def frame(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["votes"]))


def simulated(rate: float, ties: float, n_pairs: int, raters: int, seed: int = 0, taste: float = 0.0) -> pl.DataFrame:
    """Votes of raters who see every pair on random sides. `ties`: share of ties; `rate`: share of the other votes for
    `a`; `taste`: probability that a rater shares the common opinion on a pair, else the rater has an own one."""
    draw = np.random.default_rng(seed)
    rows = []
    for pair in range(n_pairs):
        shared = draw.random() < rate
        for number in range(raters):
            a_wins = shared if draw.random() < taste else draw.random() < rate
            left, right = ("a", "b") if draw.random() < 0.5 else ("b", "a")
            choice = "tie" if draw.random() < ties else "left" if a_wins == (left == "a") else "right"
            rows.append(vote(pair, f"r{number}", choice, left, right, order=pair))
    return frame(*rows)


def test_win_rate_counts_ties_half_without_checks_and_second_showings() -> None:
    votes = frame(
        vote(1, "x", "left"),
        vote(2, "x", "right", "b", "a"),
        vote(3, "x", "tie"),
        vote(4, "x", "right"),
        vote(4, "x", "right", "b", "a", order=9),  # the same pair again
        vote(5, "x", "left", "a", "shuffled"),
        vote(6, "x", None),
    )
    (row,) = analysis.win_rates(votes).to_dicts()
    assert (row["a"], row["b"], row["value"], row["ties"]) == ("a", "b", 0.625, 0.25)
    assert (row["votes"], row["n"], row["raters"]) == (4, 4, 1)
    assert row["low"] < 0.625 < row["high"]


def test_a_condition_that_always_wins_gets_the_exact_bound() -> None:
    (row,) = analysis.win_rates(frame(*(vote(pair, "x", "left") for pair in range(10)))).to_dicts()
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.025 ** (1 / 10))


def test_no_votes_give_empty_figures() -> None:
    none = frame()
    for figures in (
        analysis.win_rates(none),
        analysis.strengths(none),
        analysis.agreement(none),
        analysis.raters(none, []),
    ):
        assert figures.is_empty()
    assert analysis.power(none)["pairs"][0] > 700


def test_known_preferences_are_recovered() -> None:
    votes = simulated(0.7, 0.2, 150, 3, taste=0.6)
    (row,) = analysis.win_rates(votes, times=300).to_dicts()
    assert row["low"] < 0.5 + 0.8 * 0.2 < row["high"]
    assert row["low"] > 0.5
    strong = analysis.strengths(votes, times=50).sort("condition")
    gap = strong["value"][0] - strong["value"][1]
    assert gap == pytest.approx(np.log(0.7 / 0.3), abs=0.25)
    assert strong["low"][0] > 0 > strong["high"][1]
    (alpha,) = analysis.agreement(votes, times=300).to_dicts()
    assert alpha["low"] > 0.1


def test_random_raters_win_half_and_do_not_agree() -> None:
    votes = simulated(0.5, 0.2, 150, 3, seed=1)
    (row,) = analysis.win_rates(votes, times=300).to_dicts()
    assert abs(row["value"] - 0.5) < 0.05
    assert row["low"] < 0.5 < row["high"]
    (alpha,) = analysis.agreement(votes, times=300).to_dicts()
    assert abs(alpha["value"]) < 0.1
    assert alpha["low"] < 0 < alpha["high"]


def test_without_ties_strengths_are_those_of_choix() -> None:
    draw = np.random.default_rng(3)
    won = draw.integers(0, 9, (4, 4)) * (1 - np.eye(4, dtype=int))
    won[0, 1:] = 0  # never wins
    data = [(i, j) for i in range(4) for j in range(4) for _ in range(won[i, j])]
    theta, nu = analysis.davidson(won, np.zeros((4, 4)), penalty=0.1)
    assert nu == 0
    assert theta == pytest.approx(choix.opt_pairwise(4, data, alpha=0.1), abs=1e-4)


def test_strengths_and_ties_come_back_from_expected_counts() -> None:
    theta, nu = np.array([0.8, -0.1, -0.7]), 0.6
    p = np.exp(theta)
    tie = nu * np.sqrt(p[:, None] * p)
    whole = p[:, None] + p + tie
    off = 1 - np.eye(3)
    fitted, ties = analysis.davidson(1000 * off * p[:, None] / whole, 1000 * np.triu(tie / whole, 1), penalty=0)
    assert fitted == pytest.approx(theta, abs=1e-3)
    assert ties == pytest.approx(nu, abs=1e-3)


def test_alpha_equals_that_of_the_library() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(-1, 2, (4, 30)).astype(float)
    scores[1] = np.where(draw.random(30) < 0.7, scores[0], scores[1])
    scores[draw.random(scores.shape) < 0.3] = np.nan
    counts = np.stack([(scores == value).sum(axis=0) for value in (-1, 0, 1)], axis=1)
    total = analysis.coincidences(counts[counts.sum(axis=1) > 1]).sum(axis=0)
    assert analysis.alpha(total) == pytest.approx(krippendorff.alpha(scores, level_of_measurement="ordinal"))


def test_alpha_does_not_depend_on_the_order_of_conditions() -> None:
    same = [vote(pair, rater, "left") for pair in range(8) for rater in "xy"]
    assert analysis.agreement(frame(*same))["value"].to_list() == [1.0]
    ties = [vote(pair, rater, "tie") for pair in range(8) for rater in "xy"]
    assert analysis.agreement(frame(*ties))["value"].to_list() == [None]


def test_raters_by_hand() -> None:
    votes = frame(
        vote(1, "x", "left", order=0),
        vote(2, "x", "tie", order=1, seconds=8.0),
        vote(3, "x", "left", "shuffled", "a", order=2),  # the corrupted copy
        vote(4, "x", "left", "a", "repeating", order=3),
        vote(4, "x", "right", "a", "repeating", order=4, criterion="real"),  # not a criterion of checks
        vote(1, "x", "right", "b", "a", order=5),  # a second time, the same dialogue
        vote(2, "x", "left", "b", "a", order=6),  # a second time, another one
        vote(1, "y", "left"),
        vote(2, "y", "right"),
    )
    x, y = analysis.raters(votes, [CRITERION]).to_dicts()
    assert (x["votes"], x["passed"], x["checks"], x["consistent"], x["repeats"]) == (7, 1, 2, 1, 2)
    assert (x["agrees"], x["left"], x["ties"], x["seconds"]) == (0.5, pytest.approx(4 / 6), pytest.approx(1 / 7), 2.0)
    assert (y["votes"], y["checks"], y["repeats"], y["agrees"]) == (2, None, None, 0.5)


@pytest.mark.parametrize(("rate", "roughly"), [(0.75, 35), (0.9, 12)])
def test_pairs_needed_reach_the_power_and_one_less_does_not(rate: float, roughly: int) -> None:
    def power(n: int) -> float:
        p = np.array([distributions.binomtest(k, n).pvalue for k in range(n + 1)])
        return float(distributions.binom.pmf(np.arange(n + 1), n, rate)[p <= 0.05].sum())

    n = analysis.pairs_needed(rate)
    assert n == pytest.approx(roughly, abs=2)
    assert power(n) >= 0.8 > power(n - 1)
    assert power(n + 1) >= 0.8
    assert analysis.pairs_needed(rate, ties=0.5) == 2 * n
    assert analysis.pairs_needed(0.6) == pytest.approx(199, rel=0.06)  # by the normal approximation


def test_agreement_of_metrics_with_people() -> None:
    people = [vote(1, "x", "left"), vote(2, "x", "left", "b", "a"), vote(3, "x", "tie"), vote(4, "x", "left")]
    values = {1: (9, 1), 2: (2, 4), 3: (1, 1), 4: (1, 3)}  # of a and b
    rows = [
        (run, f"u{pair}.0", "turns", float(v))
        for pair, both in values.items()
        for run, v in zip("ab", both, strict=True)
    ]
    scores = pl.DataFrame(rows, schema=dict(schemas.TABLES["scores"]), orient="row")
    (row,) = analysis.metric_agreement(frame(*people), scores).to_dicts()
    # differences a − b 8, −2, 0, −2 against preferences 1, −1, 0, 1
    assert (row["metric"], row["n"], row["decided"], row["same"]) == ("turns", 4, 3, pytest.approx(2 / 3))
    assert row["tau"] == pytest.approx(distributions.kendalltau([8, -2, 0, -2], [1, -1, 0, 1]).statistic)
