"""How varied the dialogues are, in words and in items. Dialogues more varied than human ones are not more realistic:
compare each value with the human one.

Repetition grows with the amount of text, so every metric is measured on a fixed amount: distinct-n on `BUDGET` words,
self-BLEU on `SAMPLE` utterances, each of another dialogue, and duplicates, entropy and Gini on equal numbers of
dialogues.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import polars as pl
from scipy import sparse

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER, replace_mentions
from crslib.dialogue.words import RUN, repeats_itself, sentences, words
from crslib.identity import derive_seed
from crslib.metrics.base import Metric, Result, parts_of, per_role
from crslib.metrics.facts import Facts
from crslib.metrics.recommendation import gini, item_counts

BUDGET = 1000  # words of distinct-n
ORDERS = (1, 2, 3)
SENTENCE = 3  # words of a sentence that says something
SAMPLE = 30  # utterances of self-BLEU, each of another dialogue
DRAWS = 100  # random samples of text; the value is their mean
HALF_DRAWS = 10  # the same within each half-sample
_CELLS = 20_000_000  # of a table of half-samples by utterances, at once
TIMES = 100  # most half-samples for the intervals of distinct-n and self-BLEU, which are slow to count

TEXT_METRICS = (
    *per_role(
        *(
            Metric(f"{{role}}_distinct_{n}", "diversity", f"Distinct-{n}, {{role}}", "share", "higher",
                f"Different {n}-grams / all {n}-grams in {BUDGET} words of the {{role}}, whole dialogues in random "
                f"order, mean of {DRAWS} orders; n-grams within utterances.",
                "Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, NAACL 2016",
                settings=f"tok:words|words:{BUDGET}|draws:{DRAWS}", resampling="half", max_resamples=TIMES,
                chart=n == 2, claim="is more diverse" if n == 2 else None)
            for n in ORDERS
        )
    ),
    *per_role(
        Metric("{role}_self_bleu", "diversity", "Self-BLEU, {role}", "share", "lower",
            f"Mean BLEU-4 (sacrebleu) of each of {SAMPLE} utterances, one each of {SAMPLE} random dialogues, against "
            f"the others; mean of {DRAWS} samples.",
            "Zhu et al., Texygen, SIGIR 2018", settings=f"tok:words|eff:yes|smooth:exp|sample:{SAMPLE}|draws:{DRAWS}",
            resampling="half", max_resamples=TIMES, claim="is more diverse")
    ),
    *per_role(
        Metric("{role}_duplicates", "diversity", "Utterances that also occur in another dialogue, {role}", "share",
            "lower",
            "Share of the {role}'s utterances with the same words as one of its utterances in another dialogue. Human: "
            "the same in as many human dialogues.",
            settings="tok:words", resampling="half")
    ),
    *per_role(
        Metric("{role}_loops", "diversity", "Utterances that repeat an earlier one of the dialogue, {role}", "share",
            "lower",
            "Share of the {role}'s utterances with the same words as an earlier one of its own in the same dialogue.",
            settings="tok:words"),
        Metric("{role}_self_repetition", "diversity", "Utterances that repeat themselves, {role}", "share", "lower",
            f"Share of the {{role}}'s utterances with a sentence of two words or more twice, or the same run of {RUN} "
            "words twice; each title is one word.",
            settings="tok:words"),
        Metric("{role}_said_again", "diversity", "Sentences said again, {role}", "share", "lower",
            f"Share of the {{role}}'s sentences of {SENTENCE} words or more (any title is the same word) that it said "
            "in an earlier turn of the dialogue, in the same words.",
            settings="tok:words"),
    ),
)  # fmt: skip
ITEM_METRICS = (
    Metric("item_entropy", "diversity", "Entropy of recommended items", "bits", "higher",
        "−Σ p log₂ p over the catalogue items recommended, p: an item's share of all recommendations, each item once a "
        "dialogue. Human: the same in as many human dialogues.",
        resampling="half", chart=True, claim="is more diverse"),
)  # fmt: skip


def parts(facts: Facts) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of loops: utterances that repeat an earlier one of their speaker."""
    repeated = ~pl.struct("dialogue_id", "role", "utterance").is_first_distinct()
    name = pl.concat_str("role", pl.lit("_loops")).alias("metric")
    return parts_of(facts.turns.select("dialogue_id", name, repeated.alias("value")))


def repetition(turns: pl.DataFrame) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of utterances that repeat themselves and of sentences said again, of
    table `turns`."""
    rows: list[tuple[str, str, bool]] = []
    said: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    spoken = turns.filter(pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    for dialogue_id, role, text in spoken.select("dialogue_id", "role", "text").iter_rows():
        rows.append((dialogue_id, f"{role}_self_repetition", repeats_itself(text)))
        before = said.setdefault((dialogue_id, role), set())
        own = [tuple(words) for words in sentences(replace_mentions(text, " item ")) if len(words) >= SENTENCE]
        rows += [(dialogue_id, f"{role}_said_again", sentence in before) for sentence in own]
        before.update(own)
    schema = {"dialogue_id": pl.String, "metric": pl.String, "value": pl.Boolean}
    return parts_of(pl.DataFrame(rows, schema=schema, orient="row"))


def texts(turns: pl.DataFrame, *, times: int, seed: int) -> dict[str, stats.Estimate]:
    """`{role}_distinct_{n}` and `{role}_self_bleu` of table `turns`, where there is enough text."""
    estimates = {}
    for role in (USER, RECOMMENDER):
        ordered = turns.filter(pl.col("role") == role).sort("dialogue_id", "turn")
        dialogues = ordered.group_by("dialogue_id", maintain_order=True).agg("text")["text"]
        utterances = ([tokens for text in texts if (tokens := words(text))] for texts in dialogues)
        spoken = [dialogue for dialogue in utterances if dialogue]
        for order, estimate in zip(ORDERS, distinct(spoken, times=times, seed=seed), strict=True):
            if estimate is not None:
                estimates[f"{role}_distinct_{order}"] = estimate
        if (estimate := self_bleu(spoken, times=times, seed=seed)) is not None:
            estimates[f"{role}_self_bleu"] = estimate
    return estimates


Spoken = Sequence[Sequence[Sequence[str]]]  # dialogues of utterances of words


def distinct(spoken: Spoken, *, times: int, seed: int) -> list[stats.Estimate | None]:
    """Different n-grams as a share of all, n = 1, 2, 3, in `BUDGET` words; None where there are fewer, or no n-grams.

    Dialogues are taken in random order up to this number of words, the last one cut; the value is the mean over `DRAWS`
    orders. n-grams do not reach across utterances (Li et al., A Diversity-Promoting Objective Function, 2016).
    """
    lengths = np.array([sum(map(len, dialogue)) for dialogue in spoken], dtype=np.int64)
    if lengths.sum() < BUDGET:
        return [None for _ in ORDERS]
    grams = _grams(spoken)
    orders = _orders(len(spoken), seed)
    values = _distinct(grams, lengths, orders).mean(axis=0)
    shuffle = np.random.default_rng(derive_seed(seed, "distinct, halves", len(spoken)))
    replicates = np.array(
        [
            _distinct(grams, lengths, [shuffle.permutation(np.flatnonzero(half)) for _ in range(HALF_DRAWS)]).mean(
                axis=0
            )
            for half in stats.halves(len(spoken), min(times, TIMES), seed)
        ]
    )
    return [
        stats.Estimate(float(value), *stats.interval(replicates[:, i], float(value)), len(spoken), replicates[:, i])
        if np.isfinite(value)
        else None
        for i, value in enumerate(values)
    ]


Grams = list[tuple[np.ndarray, np.ndarray]]
"""Per dialogue: the code of each n-gram, and how many of the dialogue's words are read when it is complete."""


def _grams(spoken: Spoken) -> list[Grams]:
    """The n-grams of each of `ORDERS`. They are coded as pairs of a shorter one and a word."""
    lengths = np.array([len(utterance) for dialogue in spoken for utterance in dialogue], dtype=np.int64)
    utterance = np.repeat(np.arange(len(lengths)), lengths)
    dialogue = np.repeat(np.arange(len(spoken)), [sum(map(len, each)) for each in spoken])
    edges = np.searchsorted(dialogue, np.arange(1, len(spoken)))
    ends = np.arange(1, len(dialogue) + 1) - np.concatenate([[0], edges])[dialogue]
    numbers: dict[str, int] = {}
    flat = (word for each in spoken for words in each for word in words)
    word = np.fromiter((numbers.setdefault(one, len(numbers)) for one in flat), np.int64, len(dialogue))
    codes, coded = word, []
    for order in ORDERS:
        if order > 1:
            codes = np.unique(codes[:-1] * len(numbers) + word[order - 1 :], return_inverse=True)[1]
        whole = utterance[: len(codes)] == utterance[order - 1 :]  # it does not reach across utterances
        at = np.searchsorted(dialogue[order - 1 :][whole], np.arange(1, len(spoken)))
        coded.append(list(zip(np.split(codes[whole], at), np.split(ends[order - 1 :][whole], at), strict=True)))
    return coded


def _distinct(grams: Sequence[Grams], lengths: np.ndarray, orders: Sequence[np.ndarray]) -> np.ndarray:
    """The share of different n-grams in the first `BUDGET` words, (orders of dialogues, n-gram orders); NaN with fewer
    words."""
    values = np.full((len(orders), len(grams)), np.nan)
    for row, order in enumerate(orders):
        read = np.cumsum(lengths[order])
        last = int(np.searchsorted(read, BUDGET))
        if last == len(order):
            continue
        left = BUDGET - (int(read[last - 1]) if last else 0)
        for column, dialogues in enumerate(grams):
            codes, ends = dialogues[order[last]]
            drawn = np.concatenate([*(dialogues[i][0] for i in order[:last]), codes[ends <= left]])
            values[row, column] = len(np.unique(drawn)) / len(drawn) if len(drawn) else np.nan
    return values


def self_bleu(spoken: Spoken, *, times: int, seed: int) -> stats.Estimate | None:
    """Mean BLEU-4 (0 to 1) of an utterance against the others of a sample; None with fewer than `SAMPLE` dialogues.

    One random utterance from each of `SAMPLE` random dialogues, mean over `DRAWS` samples (Zhu et al., Texygen, 2018).
    """
    if len(spoken) < SAMPLE:
        return None
    pick = np.random.default_rng(derive_seed(seed, "self-bleu", len(spoken)))
    rows = np.arange(len(spoken))

    @cache
    def counted(dialogue: int, utterance: int) -> Counts:
        return _count(spoken[dialogue][utterance])

    def sample(among: np.ndarray) -> list[Counts]:
        order = pick.permutation(among)[:SAMPLE].tolist()
        return [counted(dialogue, int(pick.integers(len(spoken[dialogue])))) for dialogue in order]

    def score(among: np.ndarray, draws: int) -> float:
        return float(np.mean([mean_bleu(sample(among)) for _ in range(draws)]))

    value = score(rows, DRAWS)
    if len(spoken) // 2 < SAMPLE:
        return stats.Estimate(value, None, None, len(spoken))
    halves = stats.halves(len(spoken), min(times, TIMES), seed)
    replicates = np.array([score(rows[half > 0], HALF_DRAWS) for half in halves])
    return stats.Estimate(value, *stats.interval(replicates, value), len(spoken), replicates)


Counts = tuple[int, tuple[Counter[tuple[str, ...]], ...]]  # words, and n-grams of each order from 1 to 4


def _count(utterance: Sequence[str]) -> Counts:
    grams = (Counter(tuple(utterance[i : i + n]) for i in range(len(utterance) - n + 1)) for n in range(1, 5))
    return len(utterance), tuple(grams)


def mean_bleu(sample: Sequence[Counts]) -> float:
    """Mean BLEU of each utterance against all the others, in one pass over the sample.

    The same values as sacrebleu's sentence BLEU (exponential smoothing, effective order, the reference length nearest
    to the utterance's), which takes sixty times as long for a sample of 30; a test compares them.
    """
    # Of each n-gram: the greatest count in an utterance, the index of this one, the greatest count in the others.
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for own, (_, orders) in enumerate(sample):
        for gram, count in itertools.chain.from_iterable(grams.items() for grams in orders):
            first, owner, second = most.get(gram, (0, -1, 0))
            most[gram] = (count, own, first) if count > first else (first, owner, max(second, count))
    return sum(_bleu(sample, own, most) for own in range(len(sample))) / len(sample)


def _bleu(sample: Sequence[Counts], own: int, most: Mapping[tuple[str, ...], tuple[int, int, int]]) -> float:
    length, orders = sample[own]
    logs, smoothing = [], 1.0
    for grams in orders:
        total = sum(grams.values())
        if not total:
            break
        matched = 0
        for gram, count in grams.items():
            first, owner, second = most[gram]
            matched += min(count, second if owner == own else first)
        if not matched:
            smoothing *= 2
        logs.append(math.log(matched / total if matched else 1 / (smoothing * total)))
    # Without a single word in common sacrebleu gives 0, smoothing or not.
    if not any(most[gram][2] if most[gram][1] == own else most[gram][0] for gram in orders[0]):
        return 0.0
    others = (other for i, (other, _) in enumerate(sample) if i != own)
    nearest = min(others, key=lambda other: (abs(other - length), other))
    penalty = min(0.0, 1 - nearest / length)
    return math.exp(penalty + sum(logs) / len(logs))


# ── over all dialogues ──────────────────────────────────────────────────────────────────────────────────────────


def whole(facts: Facts, human: Facts, *, times: int, seed: int) -> dict[str, Result]:
    """Duplicates, item entropy and Gini of a run, and of human dialogues at the same number of dialogues.

    The human value is the mean over `DRAWS` draws of as many human dialogues as the run has. If the run has more
    dialogues than there are human ones, its value is such a mean at the number of human dialogues.
    """
    n = min(len(facts.dialogue_ids), len(human.dialogue_ids))
    results = {}
    for name, statistic in STATISTICS.items():
        ours, theirs = statistic(facts), statistic(human)
        if ours is None or theirs is None:
            continue
        run = np.ones((1, len(facts.dialogue_ids)), dtype=np.int64)
        if n < len(facts.dialogue_ids):
            run = _draws(len(facts.dialogue_ids), n, seed)
        value = float(np.nanmean(ours(run)))
        spread = stats.subsample(ours, len(facts.dialogue_ids), times=times, seed=seed)
        shift = value - spread.value
        estimate = stats.Estimate(
            value,
            None if spread.low is None else spread.low + shift,
            None if spread.high is None else spread.high + shift,
            spread.n,
            spread.replicates,
        )
        results[name] = Result(estimate, float(np.nanmean(theirs(_draws(len(human.dialogue_ids), n, seed)))))
    return results


Statistic = Callable[[np.ndarray], np.ndarray]  # 0/1 array (k, dialogues) → k values


def _duplicates(role: str) -> Callable[[Facts], Statistic | None]:
    def prepare(facts: Facts) -> Statistic | None:
        turns = facts.turns.filter(pl.col("role") == role)
        if turns.is_empty():
            return None
        where = pl.DataFrame({"dialogue_id": facts.dialogue_ids}).with_row_index("row")
        at = turns.join(where, on="dialogue_id")
        shape = (len(facts.dialogue_ids), int(at["utterance"].max()) + 1)  # type: ignore[arg-type]
        counts = sparse.csr_array((np.ones(len(at)), (at["row"].to_numpy(), at["utterance"].to_numpy())), shape=shape)
        total = counts.sum(axis=1)
        shared = counts[:, np.asarray((counts > 0).sum(axis=0)).ravel() > 1]
        present = sparse.csr_array((shared > 0).astype(np.int64))

        def share(drawn: np.ndarray) -> np.ndarray:
            blocks = np.array_split(drawn, max(1, len(drawn) * shared.shape[1] // _CELLS))
            twice = [((block @ shared) * ((block @ present) > 1)).sum(axis=1) for block in blocks]
            return np.concatenate(twice) / np.maximum(1, drawn @ total)

        return share

    return prepare


def _items(statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[[Facts], Statistic | None]:
    def prepare(facts: Facts) -> Statistic | None:
        counts = item_counts(facts)
        return (lambda drawn: statistic(drawn @ counts)) if counts.nnz else None

    return prepare


def entropy(counts: np.ndarray) -> np.ndarray:
    """Shannon entropy of each row, in bits; NaN for an empty one."""
    total = counts.sum(axis=-1, keepdims=True)
    share = counts / np.where(total > 0, total, np.nan)
    logs = np.log2(share, out=np.zeros_like(share), where=share > 0)
    return -(share * logs).sum(axis=-1)


STATISTICS: dict[str, Callable[[Facts], Statistic | None]] = {
    "user_duplicates": _duplicates(USER),
    "recommender_duplicates": _duplicates(RECOMMENDER),
    "item_entropy": _items(entropy),
    "gini": _items(gini),
}


def _orders(n: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(derive_seed(seed, "distinct", n))
    return [generator.permutation(n) for _ in range(DRAWS)]


def _draws(n_all: int, n: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(derive_seed(seed, "draws", n_all, n))
    return (generator.random((DRAWS, n_all)).argsort(axis=1) < n).astype(np.int64)
