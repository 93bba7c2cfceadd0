"""Intervals over dialogues by resampling. Knows nothing of what was measured.

The dialogue is the unit: its turns are not independent of one another. Statistics that count repetition (entropy,
distinct-n, duplicates) would be biased in a resample with replacement, where whole dialogues occur twice; they are
resampled by halves drawn without replacement, whose spread is that of the whole (Politis, Romano and Wolf, Subsampling,
1999: m = n/2 of n leaves the variance S²/m·(1−m/n) = S²/n).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import polars as pl

from crslib.identity import derive_seed

LEVEL = 0.95
_SIGNS = 10_000  # rows of signs at once
_RANKED = 1_000_000  # values ranked at once


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (None: there is none) and the number of dialogues it is estimated from.

    `replicates`: the values of the resamples behind the interval. The resamples depend on the number of dialogues and
    the seed only, so replicates of two sets of the same dialogues are paired.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    replicates: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def record(self) -> dict[str, float | int | None]:
        """Value, interval and number for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@lru_cache(maxsize=2)  # of 50,000 dialogues each takes seconds and 200 MB, and many metrics need the same
def resamples(n: int, times: int, seed: int) -> np.ndarray:
    """How often each of `n` dialogues is drawn in each resample with replacement: int32 (times, n), rows sum to n."""
    generator = np.random.default_rng(derive_seed(seed, "resamples", n))
    return _kept(generator.multinomial(n, np.full(n, 1 / n), size=times))


@lru_cache(maxsize=1)
def halves(n: int, times: int, seed: int) -> np.ndarray:
    """Random halves of `n` dialogues: 0/1 array (times, n), int32, with n // 2 ones a row."""
    generator = np.random.default_rng(derive_seed(seed, "halves", n))
    order = generator.random((times, n)).argsort(axis=1)
    return _kept(order < n // 2)


def _kept(drawn: np.ndarray) -> np.ndarray:
    drawn = drawn.astype(np.int32)  # half the memory; of smaller integers sums would overflow
    drawn.flags.writeable = False
    return drawn


def interval(replicates: np.ndarray, centre: float | None = None) -> tuple[float | None, float | None]:
    """The middle 95 % of the replicates, undefined ones (NaN) left out; (None, None) when all are undefined.

    `centre`: shift the replicates to this mean first. A distance or an entropy of a resample is biased (a distance is
    never negative, a resample has fewer items); the shift removes that bias and keeps the spread.
    """
    defined = replicates[np.isfinite(replicates)]
    if not len(defined):
        return None, None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    if centre is None:
        return float(low), float(high)
    shift = centre - defined.mean()
    return float(min(low + shift, centre)), float(max(high + shift, centre))


def ratio(part: np.ndarray, whole: np.ndarray, *, times: int, seed: int) -> Estimate | None:
    """Σ part / Σ whole over dialogues, a mean where `whole` is 1; None when there is nothing to count.

    Each resample draws dialogues and divides their sums, so dialogues have the same weights as in the value itself.
    """
    if whole.sum() <= 0:
        return None
    drawn = resamples(len(whole), times, seed)
    return share(part, whole, _divide(drawn @ part, drawn @ whole))


def share(part: np.ndarray, whole: np.ndarray, replicates: np.ndarray) -> Estimate:
    """Σ part / Σ whole over dialogues with the interval of given replicates, or an exact one where all are 0 or 1."""
    value, n = float(part.sum() / whole.sum()), int((whole > 0).sum())
    low, high = interval(replicates) if n > 1 else (None, None)
    # Where no dialogue differs from another, a bootstrap interval has no width; the exact binomial bound over dialogues
    # has (Clopper and Pearson 1934).
    bound = 1 - 0.025 ** (1 / n)
    if n > 1 and not part.any():
        high = bound
    elif n > 1 and np.array_equal(part, whole):
        low = 1 - bound
    return Estimate(value, low, high, n, replicates)


def mean(values: np.ndarray, *, times: int, seed: int) -> Estimate | None:
    """Mean of one value per dialogue (or person); None without any."""
    return ratio(values, np.ones(len(values)), times=times, seed=seed)


def ratios(parts: pl.DataFrame, dialogue_ids: pl.Series, *, times: int, seed: int) -> dict[str, Estimate]:
    """`ratio` of every metric in a frame (dialogue_id, metric, part, whole), on the same resamples of dialogues.

    `dialogue_ids`: all dialogues, also those in which a metric is undefined; their order does not matter.
    """
    ids = dialogue_ids.unique().sort()
    if not len(ids) or parts.is_empty():
        return {}
    rows = parts.join(pl.DataFrame({"dialogue_id": ids}).with_row_index("row"), on="dialogue_id")
    names = parts["metric"].unique().sort().to_list()
    sums = np.zeros((2, len(ids), len(names)))
    column = {name: index for index, name in enumerate(names)}
    at = (rows["row"].to_numpy(), np.array([column[name] for name in rows["metric"]], dtype=np.int64))
    np.add.at(sums[0], at, rows["part"].to_numpy())
    np.add.at(sums[1], at, rows["whole"].to_numpy())
    drawn = resamples(len(ids), times, seed)
    replicates = _divide(drawn @ sums[0], drawn @ sums[1])
    estimates = {}
    for name, index in column.items():
        part, whole = sums[0, :, index], sums[1, :, index]
        if whole.sum() > 0:
            estimates[name] = share(part, whole, replicates[:, index])
    return estimates


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int, *, times: int, seed: int) -> Estimate:
    """A corpus-level value with a centred bootstrap interval.

    `statistic` maps an array (k, n) of how often each dialogue counts to k values.
    """
    value = float(statistic(np.ones((1, n), dtype=np.int64))[0])
    if n < 2 or not np.isfinite(value):
        return Estimate(value, None, None, n)
    replicates = statistic(resamples(n, times, seed))
    return Estimate(value, *interval(replicates, value), n, replicates)


def subsample(statistic: Callable[[np.ndarray], np.ndarray], n: int, *, times: int, seed: int) -> Estimate:
    """A corpus-level value that counts repetition, with a centred interval from half-samples of the dialogues.

    `statistic` maps a 0/1 array (k, n) of the dialogues that count to k values, NaN where undefined.
    """
    value = float(statistic(np.ones((1, n), dtype=np.int64))[0])
    if n < 4 or not np.isfinite(value):
        return Estimate(value, None, None, n)
    replicates = statistic(halves(n, times, seed))
    return Estimate(value, *interval(replicates, value), n, replicates)


def paired_difference(a: np.ndarray, b: np.ndarray, *, times: int, seed: int) -> Estimate | None:
    """Mean of a − b over pairs (the same profile under two conditions); pairs with a NaN are left out.

    The interval is the bootstrap's; where all differences are equal it has no width.
    """
    difference = (a - b)[np.isfinite(a) & np.isfinite(b)]
    n = len(difference)
    if not n:
        return None
    low, high = interval(resamples(n, times, seed) @ difference / n) if n > 1 else (None, None)
    return Estimate(float(difference.mean()), low, high, n)


def spearman(a: np.ndarray, b: np.ndarray, *, times: int, seed: int) -> Estimate | None:
    """Spearman's rank correlation of two values per dialogue, ties with their mean rank, with a bootstrap interval;
    None where either is the same for all. Resamples in which one is are left out."""
    n = len(a)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    drawn = np.repeat(np.tile(np.arange(n), times), resamples(n, times, seed).ravel()).reshape(times, n)
    blocks = np.array_split(drawn, max(1, times * n // _RANKED))
    replicates = np.concatenate([_rank_correlation(a[block], b[block]) for block in blocks])
    return Estimate(float(_rank_correlation(a[None], b[None])[0]), *interval(replicates), n, replicates)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks in each row; NaN where a row has one value only."""
    from scipy.stats import rankdata  # takes longer to import than all else in a notebook, and few need it

    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (rankdata(a, axis=1), rankdata(b, axis=1)))
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return _divide((x * y).sum(axis=1), spread)


def sign_flips(differences: np.ndarray, *, times: int, seed: int) -> np.ndarray:
    """Two-sided p-values of the hypotheses that paired differences are as likely either way (Fisher's randomisation).

    `differences`: (n,) or (n, tests), 0 where a pair is undefined. Signs are drawn `times` times; p is the share of
    draws with a sum at least as far from 0, the observed one included (Phipson and Smyth, Permutation P-values Should
    Never Be Zero, 2010).
    """
    generator = np.random.default_rng(derive_seed(seed, "signs", len(differences)))
    least = np.abs(differences.sum(axis=0)) - 1e-12
    reached = np.zeros(np.shape(least))
    for start in range(0, times, _SIGNS):
        size = (min(_SIGNS, times - start), len(differences))
        signs = generator.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(signs @ differences) >= least).sum(axis=0)
    return (1 + reached) / (times + 1)


def shift(difference: float, replicates: np.ndarray) -> float | None:
    """Two-sided p-value of the hypothesis that a difference of two statistics of paired dialogues is 0.

    Student's t of the difference divided by its bootstrap standard error, the standard deviation of `replicates` (Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, sections 6 and 12). Unlike the share of replicates beyond 0
    it is not limited by their number, which a correction for many tests needs. None where it cannot be estimated.
    """
    defined = replicates[np.isfinite(replicates)]
    error = defined.std(ddof=1) if len(defined) > 1 else 0.0
    if not error > 0:
        return None
    from scipy.stats import t as student

    return float(2 * student.sf(abs(difference) / error, len(defined) - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values of a family of tests, corrected for the chance of any false positive (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(adjusted, 1.0)
    return corrected


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
