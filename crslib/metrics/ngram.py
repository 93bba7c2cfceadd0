"""Cross-entropy of simulated words under a trigram model of human dialogues, which is none of the simulators' models.

Trigrams of human training dialogues with interpolated Kneser–Ney smoothing. The model reads each utterance on its own
and every title as the same word.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER, between
from crslib.dialogue.words import words
from crslib.metrics.base import PARTS, Metric, Result, Results, per_role

START, END, ITEM = "<s>", "</s>", "<item>"  # no real word holds a bracket
_RARE = "<rare>"

METRICS = (
    *per_role(
        Metric("{role}_cross_entropy", "realism", "Cross-entropy of the {role}'s words under human trigrams", "nats",
            "human",
            "Mean −log P of the {role}'s words and ends of turns, titles masked, under trigrams of ReDial's {role} "
            "turns (training dialogues, interpolated Kneser–Ney); its exponential is the perplexity. Human: ReDial's "
            "test dialogues. Below human: more commonplace words; above: more unusual ones.",
            "Kneser and Ney, Improved Backing-Off for M-gram Language Modeling, ICASSP 1995",
            settings="order:3|smooth:kneser-ney", chart=True)
    ),
    # Measured by `experiments.benchmarks.adapters.foresight`, which needs the training examples.
    *per_role(
        Metric("{role}_people_cross_entropy", "realism", "Cross-entropy of human words under the {role} model", "nats",
            "lower",
            "Mean −log P of the tokens of human {role}s in ReDial's test dialogues under the run's own {role} model, "
            "prompted as in the run; its exponential is the perplexity. Comparable between models of one tokenizer.",
            needs="models")
    ),
)  # fmt: skip


def tokens(text: str) -> list[str]:
    """The words of an utterance, every title as the word `ITEM`."""
    first, *others = map(words, between(text))
    return first + [word for part in others for word in (ITEM, *part)]


class Trigrams:
    """P(word | the two before it), by interpolated Kneser–Ney smoothing (Kneser and Ney, Improved Backing-Off for
    M-gram Language Modeling, ICASSP 1995; Chen and Goodman, An Empirical Study of Smoothing Techniques for Language
    Modeling, Computer Speech and Language 1999).

    Each order's discount is n₁ / (n₁ + 2 n₂), or ½ where no n-gram occurs exactly once. Words that occur once in
    training are one word, `<rare>`; any of them, and any unknown word, has the probability of `<rare>` divided by
    their number.
    """

    def __init__(self, utterances: Iterable[Sequence[str]]) -> None:
        texts = [list(utterance) for utterance in utterances]
        counts = Counter(word for utterance in texts for word in utterance)
        self._known = {word for word, n in counts.items() if n > 1}
        self._n_rare = max(1, len(counts) - len(self._known))
        trigrams: Counter[tuple[str, ...]] = Counter(gram for utterance in texts for gram in self._grams(utterance))
        bigrams: Counter[tuple[str, ...]] = Counter((v, w) for _, v, w in trigrams)  # in how many contexts each occurs
        unigrams: Counter[tuple[str, ...]] = Counter((w,) for _, w in bigrams)
        self._orders = [_Order(table) for table in (unigrams, bigrams, trigrams)]
        self._n_types = len(self._known | {_RARE, END})

    def nats(self, utterance: Sequence[str]) -> float:
        """−log P of an utterance, in nats: a sum over its words and its end."""
        total = 0.0
        for gram in self._grams(utterance):
            p = 1 / self._n_types
            for n, order in enumerate(self._orders, start=1):
                p = order.interpolated(gram[3 - n :], p)
            total -= math.log(p)
        return total + math.log(self._n_rare) * sum(word not in self._known for word in utterance)

    def _grams(self, utterance: Sequence[str]) -> Iterable[tuple[str, str, str]]:
        padded = [START, START, *(word if word in self._known else _RARE for word in utterance), END]
        return zip(padded, padded[1:], padded[2:], strict=False)


class _Order:
    """Counts of n-grams of one length, with the discount that a context leaves to the shorter ones."""

    def __init__(self, counts: Counter[tuple[str, ...]]) -> None:
        self._counts = counts
        once, twice = (sum(n == times for n in counts.values()) for times in (1, 2))
        self._discount = once / (once + 2 * twice) if once else 0.5
        self._followers = Counter(gram[:-1] for gram in counts)
        self._totals: Counter[tuple[str, ...]] = Counter()
        for gram, n in counts.items():
            self._totals[gram[:-1]] += n

    def interpolated(self, gram: tuple[str, ...], shorter: float) -> float:
        """P(last word | those before it), given its probability after a context shorter by one word."""
        total = self._totals[gram[:-1]]
        if not total:
            return shorter
        own = max(self._counts[gram] - self._discount, 0.0)
        return (own + self._discount * self._followers[gram[:-1]] * shorter) / total


def fit(turns: pl.DataFrame, role: str) -> Trigrams:
    """The model of the utterances of `role` in human dialogues (table `turns`)."""
    return Trigrams(tokens(text) for text in turns.filter(role=role)["text"])


def evaluate(turns: pl.DataFrame, test: pl.DataFrame, train: pl.DataFrame, *, times: int, seed: int) -> Results:
    """`{role}_cross_entropy` of a run (`turns`) under a model of human dialogues `train`; human: that of the human
    dialogues `test`. All three are tables `turns`."""
    if train.is_empty():
        return Results({}, missing="no human dialogues to learn from; set `redial`")
    results, frames = {}, [pl.DataFrame(schema=PARTS)]
    for role in (USER, RECOMMENDER):
        model = fit(train, role)
        ours, theirs = (cost(model, side, role) for side in (turns, test))
        estimate = stats.ratio(ours["part"].to_numpy(), ours["whole"].to_numpy(), times=times, seed=seed)
        if estimate is not None:
            human = float(theirs["part"].sum()) / float(theirs["whole"].sum()) if len(theirs) else None
            results[f"{role}_cross_entropy"] = Result(estimate, human)
            frames.append(ours)
    return Results(results, pl.concat(frames).sort("dialogue_id", "metric"), missing="" if results else "no turns")


def cost(model: Trigrams, turns: pl.DataFrame, role: str) -> pl.DataFrame:
    """Per dialogue in which `role` speaks: (dialogue_id, metric, part in nats, whole in words and ends of turns)."""
    spoken = turns.filter(pl.col("role") == role, pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    utterances = [tokens(text) for text in spoken["text"]]
    return (
        spoken.select(
            "dialogue_id",
            pl.lit(f"{role}_cross_entropy").alias("metric"),
            pl.Series("part", [model.nats(utterance) for utterance in utterances], dtype=pl.Float64),
            pl.Series("whole", [len(utterance) + 1.0 for utterance in utterances], dtype=pl.Float64),
        )
        .group_by("dialogue_id", "metric")
        .agg(pl.col("part", "whole").sum())
        .sort("dialogue_id", "metric")
    )
