"""A model of people's words that no simulator has a part in: how many nats a word of an utterance costs.

Trigrams of human training dialogues with interpolated Kneser–Ney smoothing. It knows no utterance but the one it
reads, and of a film only that one is named.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER, mentions
from crslib.dialogue.words import words

START, END, FILM = "<s>", "</s>", "<film>"  # no word holds a bracket
_RARE = "<rare>"
_NONE = pl.DataFrame(schema={"dialogue_id": pl.String, "metric": pl.String, "part": pl.Float64, "whole": pl.Float64})


def tokens(text: str) -> list[str]:
    """The words of an utterance, every film one and the same word."""
    found, at = [], 0
    for _, start, end in mentions(text):
        found += [*words(text[at:start]), FILM]
        at = end
    return found + words(text[at:])


class Trigrams:
    """P(word | the two before it), by interpolated Kneser–Ney smoothing (Kneser and Ney, Improved Backing-Off for
    M-gram Language Modeling, ICASSP 1995; Chen and Goodman, An Empirical Study of Smoothing Techniques for Language
    Modeling, Computer Speech and Language 1999).

    Each order's discount is n₁ / (n₁ + 2 n₂), ½ where nothing was met just once. Words met once in training are one
    word, `rare`; a word never met costs what one of them costs: its probability, shared by as many words as were put
    into it.
    """

    def __init__(self, utterances: Iterable[Sequence[str]]) -> None:
        said = [list(utterance) for utterance in utterances]
        counts = Counter(word for utterance in said for word in utterance)
        self._known = {word for word, n in counts.items() if n > 1}
        self._n_rare = max(1, len(counts) - len(self._known))
        trigrams = Counter(gram for utterance in said for gram in self._grams(utterance))
        bigrams = Counter((v, w) for _, v, w in trigrams)  # in how many contexts each is met
        unigrams = Counter((w,) for _, w in bigrams)
        self._orders = [_Order(table) for table in (unigrams, bigrams, trigrams)]
        self._n_types = len(self._known | {_RARE, END})

    def nats(self, utterance: Sequence[str]) -> float:
        """−log P of an utterance and its end; there is one word more than it has."""
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
    """Counts of n-grams, of one length, and what a context leaves to the shorter ones."""

    def __init__(self, counts: Counter[tuple[str, ...]]) -> None:
        self._counts = counts
        once, twice = (sum(n == times for n in counts.values()) for times in (1, 2))
        self._discount = once / (once + 2 * twice) if once else 0.5
        self._followers = Counter(gram[:-1] for gram in counts)
        self._totals: Counter[tuple[str, ...]] = Counter()
        for gram, n in counts.items():
            self._totals[gram[:-1]] += n

    def interpolated(self, gram: tuple[str, ...], shorter: float) -> float:
        """P(last word | those before it), given its probability after one word less."""
        total = self._totals[gram[:-1]]
        if not total:
            return shorter
        own = max(self._counts[gram] - self._discount, 0.0)
        return (own + self._discount * self._followers[gram[:-1]] * shorter) / total


def fit(turns: pl.DataFrame, role: str) -> Trigrams:
    """The model of what `role` says in human dialogues (table `turns`)."""
    return Trigrams(tokens(text) for text in turns.filter(role=role)["text"])


def evaluate(
    turns: pl.DataFrame, test: pl.DataFrame, train: pl.DataFrame, *, times: int, seed: int
) -> tuple[dict[str, tuple[stats.Estimate, float | None, None]], pl.DataFrame]:
    """`{role}_cross_entropy` of a run: nats per word of table `turns` under a model of `train`, beside those of `test`
    (human dialogues, table `turns` too), and its parts (dialogue_id, metric, part, whole). Nothing without `train`."""
    found: dict[str, tuple[stats.Estimate, float | None, None]] = {}
    frames = [_NONE]
    if train.is_empty():
        return found, _NONE
    for role in (USER, RECOMMENDER):
        model = fit(train, role)
        ours, theirs = (cost(model, side, role) for side in (turns, test))
        estimate = stats.ratio(ours["part"].to_numpy(), ours["whole"].to_numpy(), times=times, seed=seed)
        if estimate is not None:
            people = theirs["part"].sum() / theirs["whole"].sum() if len(theirs) else None
            found[f"{role}_cross_entropy"] = estimate, people, None
            frames.append(ours)
    return found, pl.concat(frames).sort("dialogue_id", "metric")


def cost(model: Trigrams, turns: pl.DataFrame, role: str) -> pl.DataFrame:
    """Per dialogue in which `role` speaks: (dialogue_id, metric, part in nats, whole in words, ends of turns too)."""
    said = turns.filter(pl.col("role") == role, pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    read = [tokens(text) for text in said["text"]]
    return (
        said.select(
            "dialogue_id",
            pl.lit(f"{role}_cross_entropy").alias("metric"),
            pl.Series("part", [model.nats(utterance) for utterance in read], dtype=pl.Float64),
            pl.Series("whole", [len(utterance) + 1.0 for utterance in read], dtype=pl.Float64),
        )
        .group_by("dialogue_id", "metric")
        .agg(pl.col("part", "whole").sum())
        .sort("dialogue_id", "metric")
    )
