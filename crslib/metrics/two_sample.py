"""Whether a classifier can distinguish simulated turns from human ones (Lopez-Paz and Oquab, Revisiting Classifier
Two-Sample Tests, ICLR 2017).

Accuracy on turns of dialogues that the classifier was not trained on: 0.5 is chance, 1 is perfect. Titles are
masked, because other metrics measure which items are named. A control reads the length of a turn only. A second judge
reads how turns are written and no word of content; its human turns are of people whom the first one never reads
(`reserved`), so that a simulation that was chosen or trained by the first can be judged by the second.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl

from crslib import stats
from crslib.data.corpora import Dialogue, frames
from crslib.dialogue import form
from crslib.dialogue.utterances import RECOMMENDER, USER, replace_mentions
from crslib.dialogue.words import words
from crslib.identity import derive_seed
from crslib.metrics.base import Metric, Result, Results, per_role

WORDS, LENGTH, FORM = "words", "length", "form"
_FOLDS = 5
_TOKEN = r"\w+|[^\w\s]"  # words and single punctuation marks; case matters
_PENALTY = {WORDS: 10.0, LENGTH: 10.0, FORM: 0.1}  # inverse strength
_LONGEST = 40  # words; the control does not distinguish longer turns

_DEFINITION = (
    "Accuracy (mean of both sides' shares of correctly classified turns) of a logistic regression on {features}, on "
    "turns of dialogues and people that it was not trained on, with as many human as simulated dialogues; 0.5 is "
    "chance. Human: ReDial's test dialogues of one half of their people against those of the other half; floor: the "
    "upper end of its interval."
)
_SOURCE = "Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017"
METRICS = per_role(
    Metric("{role}_two_sample", "realism", "Classifier of simulated and human turns, {role}, by words", "share",
        "lower", _DEFINITION.format(features="words, pairs of words and punctuation marks, titles masked"), _SOURCE,
        settings=f"folds:{_FOLDS}|people:apart", chart=True, claim="is closer to human dialogues"),
    Metric("{role}_two_sample_length", "realism", "Classifier of simulated and human turns, {role}, by length alone",
        "share", "none", _DEFINITION.format(features="the number of words alone, as a control"), _SOURCE,
        settings=f"folds:{_FOLDS}|people:apart"),
    Metric("{role}_two_sample_form", "realism", "Second classifier of simulated and human turns, {role}, by form",
        "share", "lower",
        _DEFINITION.format(features="length, punctuation, capitals and rates of function words, of people whom the "
                           "classifier by words never reads"),
        _SOURCE, settings=f"folds:{_FOLDS}|people:apart, reserved", chart=True, claim="is closer to human dialogues"),
)  # fmt: skip


def two_sample(
    simulated: pl.DataFrame,
    human: pl.DataFrame,
    role: str,
    features: Sequence[str] = (WORDS, LENGTH),
    people: Mapping[str, str] | None = None,
    *,
    mask: str,
    times: int = 1000,
    seed: int = 0,
) -> dict[str, stats.Estimate]:
    """Accuracy by kind of features: `WORDS` (words, pairs of words and punctuation marks), `LENGTH` (the number of
    words alone), `FORM` (`dialogue.form`), each by logistic regression.

    `simulated`, `human`: rows of table `turns`; `mask`: the word for every title. As many dialogues of either are drawn
    as the smaller side has, their turns of `role` are weighted so that both sides count the same, and no dialogue is in
    two of the five folds, or no person where `people` (dialogue → person) has one. Accuracy is the mean of both sides'
    shares of correctly classified turns; its 95 % interval is over dialogues. Empty where a side has fewer than ten
    dialogues, or groups.
    """
    sides = [_turns(frame, role, mask) for frame in (simulated, human)]
    n = min(frame["dialogue_id"].n_unique() for frame in sides)
    if n < 2 * _FOLDS:
        return {}
    sides = [_drawn(frame, n, seed) for frame in sides]
    both = pl.concat(
        frame.select(
            pl.format("{}:{}", pl.lit(side), "dialogue_id").alias("dialogue"),
            pl.format("{}:{}", pl.lit(side), pl.col("dialogue_id").replace(people or {})).alias("group"),
            "text",
            "written",
            pl.lit(side).alias("side"),
        )
        for side, frame in enumerate(sides)
    )
    if both.group_by("side").agg(pl.col("group").n_unique())["group"].min() < _FOLDS:  # type: ignore[operator]
        return {}
    estimates = {}
    for name in features:
        classified = both.with_columns(pl.Series("right", _right(both, name), dtype=pl.Float64))
        estimates[name] = _accuracy(classified, times, seed)
    return estimates


def evaluate(turns: pl.DataFrame, human: Sequence[Dialogue], mask: str, *, times: int, seed: int) -> Results:
    """`{role}_two_sample`, `{role}_two_sample_length` and `{role}_two_sample_form` of a run (table `turns`) against
    human dialogues. Human: the dialogues of one half of the people against the others', at most as many as the run has;
    floor: the upper end of its interval. `mask`: the word for every title.

    No person is in two folds: whoever was read in one would be known again in another by their manner, which a
    simulation cannot have. (Folds of dialogues put people of ReDial's training part at .65 instead of .52.)
    """
    if not human:
        return Results({}, missing="no human dialogues to compare with; set `redial`")
    results = {}
    spoken, n = frames(human)[1], turns["dialogue_id"].n_unique()
    for role in (USER, RECOMMENDER):
        people = {one.dialogue_id: getattr(one, role) or one.dialogue_id for one in human}
        own = {
            judge: [d for d, person in people.items() if reserved(person) == (judge == FORM)] for judge in (WORDS, FORM)
        }
        kinds: tuple[str, ...]
        for judge, kinds in ((WORDS, (WORDS, LENGTH)), (FORM, (FORM,))):
            order = sorted({people[d] for d in own[judge]}, key=lambda person: derive_seed(seed, "halves", person))
            parts = [
                [d for d in own[judge] if people[d] in half]
                for half in (set(order[: len(order) // 2]), set(order[len(order) // 2 :]))
            ]
            one, other = (spoken.filter(pl.col("dialogue_id").is_in(part)) for part in parts)
            one = _drawn(one, n, seed)
            accuracy = partial(two_sample, role=role, features=kinds, people=people, mask=mask, times=times, seed=seed)
            runs = accuracy(turns, spoken.filter(pl.col("dialogue_id").is_in(own[judge])))
            halves = accuracy(one, other)
            for kind, estimate in runs.items():
                if kind in halves:
                    name = f"{role}_two_sample" + ("" if kind == WORDS else f"_{kind}")
                    results[name] = Result(estimate, halves[kind].value, halves[kind].high)
    return Results(results, missing="" if results else f"too few dialogues: there must be {2 * _FOLDS} of either side")


def reserved(person: str) -> bool:
    """Whether a person is read by the judge of form, and not by that of words: one half of all."""
    return derive_seed(0, "second judge", person) % 2 == 0


def _turns(turns: pl.DataFrame, role: str, mask: str) -> pl.DataFrame:
    """(dialogue_id, written: as it is in the table, text: masked) of the turns that are not empty."""
    texts = turns.filter(role=role).sort("dialogue_id", "turn").select("dialogue_id", "text", written="text")
    shown = pl.col("text").map_elements(partial(masked, mask=mask), return_dtype=pl.String)
    return texts.with_columns(shown).filter(pl.col("text") != "")


def masked(text: str, mask: str) -> str:
    """An utterance in which every title is the word `mask`."""
    return " ".join(replace_mentions(text, f" {mask} ").split())


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
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    side, groups = both["side"].to_numpy(), both["group"].to_numpy()
    if features == WORDS:
        inputs = both["text"].to_numpy()
        encoder = TfidfVectorizer(
            lowercase=False, token_pattern=_TOKEN, ngram_range=(1, 2), min_df=2, sublinear_tf=True
        )
    elif features == FORM:
        inputs = np.array([form.features(text) for text in both["written"]])
        encoder = StandardScaler()
    else:
        inputs = np.array([[min(len(words(text)), _LONGEST)] for text in both["text"]])
        encoder = OneHotEncoder(handle_unknown="ignore")
    right = np.zeros(len(side))
    for train, test in GroupKFold(_FOLDS).split(inputs, side, groups):
        regression = LogisticRegression(C=_PENALTY[features], max_iter=1000, class_weight="balanced")
        classifier = make_pipeline(encoder, regression)
        classifier.fit(inputs[train], side[train])
        right[test] = classifier.predict(inputs[test]) == side[test]
    return right


def _accuracy(classified: pl.DataFrame, times: int, seed: int) -> stats.Estimate:
    """The mean of both sides' shares, with an interval over dialogues; each side is resampled independently."""
    shares = [
        stats.ratio(part["right"].to_numpy(), part["n"].to_numpy(), times=times, seed=seed)
        for _, part in classified.group_by("side", "dialogue")
        .agg(pl.col("right").sum(), pl.len().alias("n"))
        .sort("side", "dialogue")
        .group_by("side", maintain_order=True)
    ]
    one, other = shares
    assert one is not None and other is not None
    value = (one.value + other.value) / 2
    replicates = None
    if one.replicates is not None and other.replicates is not None:
        replicates = (one.replicates + other.replicates) / 2
    halves = [((share.high or share.value) - (share.low or share.value)) / 2 for share in shares if share]
    half = math.hypot(*halves) / 2
    return stats.Estimate(value, max(value - half, 0.0), min(value + half, 1.0), one.n, replicates)
