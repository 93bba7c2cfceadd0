"""Whether a classifier can distinguish simulated turns from human ones (Lopez-Paz and Oquab, Revisiting Classifier
Two-Sample Tests, ICLR 2017).

Accuracy on turns of dialogues that the classifier was not trained on: 0.5 is chance, 1 is perfect. Film titles are
masked, because other metrics measure which films are named. A control reads the length of a turn only.
"""

import math

import numpy as np
import polars as pl

from crslib import stats
from crslib.dialogue.utterances import RECOMMENDER, USER, replace_mentions
from crslib.dialogue.words import words
from crslib.identity import derive_seed
from crslib.metrics.base import Metric, Result, Results, per_role

WORDS, LENGTH = "words", "length"
SCHEMA = {
    "features": pl.String,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_dialogues": pl.Int64,
}
_FOLDS = 5
_TOKEN = r"\w+|[^\w\s]"  # words and single punctuation marks; case matters
_LONGEST = 40  # words; the control does not distinguish longer turns

_DEFINITION = (
    "Accuracy (mean of both sides' shares of correctly classified turns) of a logistic regression on {features}, on "
    "turns of dialogues that it was not trained on, with as many human as simulated dialogues; 0.5 is chance. Human: "
    "one half of ReDial's test dialogues against the other; floor: the upper end of its interval."
)
_SOURCE = "Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017"
METRICS = per_role(
    Metric("{role}_two_sample", "realism", "Classifier of simulated and human turns, {role}, by words", "share",
        "lower", _DEFINITION.format(features="words, pairs of words and punctuation marks, titles masked"), _SOURCE,
        settings=f"folds:{_FOLDS}", chart=True, claim="is closer to human dialogues"),
    Metric("{role}_two_sample_length", "realism", "Classifier of simulated and human turns, {role}, by length alone",
        "share", "none", _DEFINITION.format(features="the number of words alone, as a control"), _SOURCE,
        settings=f"folds:{_FOLDS}"),
)  # fmt: skip


def two_sample(
    simulated: pl.DataFrame, human: pl.DataFrame, role: str, *, times: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """The columns of `SCHEMA`, a row for `WORDS` (logistic regression on words, pairs of words and punctuation marks)
    and one for `LENGTH` (on the number of words alone).

    `simulated`, `human`: rows of table `turns`. As many dialogues of either are drawn as the smaller side has, their
    turns of `role` are weighted so that both sides count the same, and no dialogue is in two of the five folds.
    Accuracy is the mean of both sides' shares of correctly classified turns; its 95 % interval is over dialogues. Empty
    where a side has fewer than ten dialogues.
    """
    sides = [_turns(frame, role) for frame in (simulated, human)]
    n = min(frame["dialogue_id"].n_unique() for frame in sides)
    if n < 2 * _FOLDS:
        return pl.DataFrame(schema=SCHEMA)
    sides = [_drawn(frame, n, seed) for frame in sides]
    both = pl.concat(
        frame.select(pl.format("{}:{}", pl.lit(side), "dialogue_id").alias("group"), "text", pl.lit(side).alias("side"))
        for side, frame in enumerate(sides)
    )
    rows = []
    for features in (WORDS, LENGTH):
        classified = both.with_columns(pl.Series("right", _right(both, features), dtype=pl.Float64))
        estimate = _accuracy(classified, times, seed)
        rows.append((features, estimate.value, estimate.low, estimate.high, n))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def evaluate(turns: pl.DataFrame, human: pl.DataFrame, *, times: int, seed: int) -> Results:
    """`{role}_two_sample` and `{role}_two_sample_length` of a run (`turns`) against human dialogues (both table
    `turns`). Human: one half of the human dialogues against the other, at most as many as the run has; floor: the upper
    end of its interval."""
    if human.is_empty():
        return Results({}, missing="no human dialogues to compare with; set `redial`")
    results = {}
    order = sorted(human["dialogue_id"].unique(), key=lambda dialogue: derive_seed(seed, "halves", dialogue))
    first_half = order[: min(len(order) // 2, turns["dialogue_id"].n_unique())]
    one, other = (human.filter(pl.col("dialogue_id").is_in(part)) for part in (first_half, order[len(order) // 2 :]))
    for role in (USER, RECOMMENDER):
        runs = two_sample(turns, human, role, times=times, seed=seed)
        halves = two_sample(one, other, role, times=times, seed=seed)
        for row, half in zip(runs.iter_rows(named=True), halves.iter_rows(named=True), strict=False):
            name = f"{role}_two_sample" + ("" if row["features"] == WORDS else "_length")
            estimate = stats.Estimate(row["accuracy"], row["low"], row["high"], row["n_dialogues"])
            results[name] = Result(estimate, half["accuracy"], half["high"])
    return Results(results, missing="" if results else f"too few dialogues: there must be {2 * _FOLDS} of either side")


def _turns(turns: pl.DataFrame, role: str) -> pl.DataFrame:
    texts = turns.filter(role=role).sort("dialogue_id", "turn").select("dialogue_id", "text")
    return texts.with_columns(pl.col("text").map_elements(masked, return_dtype=pl.String)).filter(pl.col("text") != "")


def masked(text: str) -> str:
    """An utterance in which every film title is the same word."""
    return " ".join(replace_mentions(text, " FILM ").split())


def _drawn(frame: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    order = sorted(frame["dialogue_id"].unique(), key=lambda dialogue: derive_seed(seed, "two samples", dialogue))
    return frame.filter(pl.col("dialogue_id").is_in(order[:n]))


def _right(both: pl.DataFrame, features: str) -> np.ndarray:
    """1 for every turn that a classifier that was not trained on its dialogue puts on the right side, else 0."""
    # Slow to import, and callers of `masked` do not need it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    side, groups = both["side"].to_numpy(), both["group"].to_numpy()
    if features == WORDS:
        inputs = both["text"].to_numpy()
        encoder = TfidfVectorizer(
            lowercase=False, token_pattern=_TOKEN, ngram_range=(1, 2), min_df=2, sublinear_tf=True
        )
    else:
        inputs = np.array([[min(len(words(text)), _LONGEST)] for text in both["text"]])
        encoder = OneHotEncoder(handle_unknown="ignore")
    right = np.zeros(len(side))
    for train, test in GroupKFold(_FOLDS).split(inputs, side, groups):
        classifier = make_pipeline(encoder, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"))
        classifier.fit(inputs[train], side[train])
        right[test] = classifier.predict(inputs[test]) == side[test]
    return right


def _accuracy(classified: pl.DataFrame, times: int, seed: int) -> stats.Estimate:
    """The mean of both sides' shares, with an interval over dialogues; each side is resampled independently."""
    shares = [
        stats.ratio(part["right"].to_numpy(), part["n"].to_numpy(), times=times, seed=seed)
        for _, part in classified.group_by("side", "group")
        .agg(pl.col("right").sum(), pl.len().alias("n"))
        .sort("side", "group")
        .group_by("side", maintain_order=True)
    ]
    one, other = shares
    assert one is not None and other is not None
    value = (one.value + other.value) / 2
    halves = [((share.high or share.value) - (share.low or share.value)) / 2 for share in shares if share]
    half = math.hypot(*halves) / 2
    return stats.Estimate(value, max(value - half, 0.0), min(value + half, 1.0), one.n)
