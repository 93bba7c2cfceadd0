"""Fits the discriminator of people's and a model's turns that filters training pairs and weighs draws.

It is fitted anew whenever the model has changed (Singhal et al. 2024, D2PO: Discriminator-Guided DPO with Response
Evaluation Models, arXiv 2405.01511), and is asked only about turns of dialogues that it was not fitted on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from crslib.dialogue.discriminator import Discriminator, features
from crslib.errors import CrsError

SCHEMA = {"dialogue_id": pl.String, "text": pl.String, "human": pl.Boolean}
"""Turns of people and of a model, by the dialogue in which they were said."""
MIN_TURNS = 5  # turns with a feature at least: rarer ones are names and slips, and say much of few people
FOLDS = 4
_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)  # inverse strengths of regularisation that are tried


def fit(turns: pl.DataFrame) -> Discriminator:
    """A logistic regression on turns (`SCHEMA`), people's and the model's of the same total weight.

    The strength of its regularisation is that with the lowest log loss on dialogues that it was not fitted on, so that
    D / (1 − D) is an estimate of how much more often people than the model say something. `about` has the number of
    `human_turns` and `model_turns`, and `log_loss` (nats; ln 2 is chance) and `accuracy` on the dialogues left out.
    Raises `CrsError` where there are too few dialogues of either side.
    """
    texts, sides, groups = _arrays(turns)
    if any(len(np.unique(groups[sides == side])) < FOLDS for side in (0, 1)):
        raise CrsError(f"a discriminator needs turns of people and of a model in {FOLDS} dialogues; give more contexts")
    log_loss, accuracy, strength = min(_out_of_fold(texts, sides, groups))
    vectorizer, inputs = _inputs(texts)
    model = _regression(inputs, sides, strength)
    names = vectorizer.get_feature_names_out().tolist()
    weights = {name: round(weight, 4) for name, weight in zip(names, model.coef_[0].tolist(), strict=True)}
    about = {
        "human_turns": int(sides.sum()),
        "model_turns": int((1 - sides).sum()),
        "log_loss": round(log_loss, 4),
        "accuracy": round(accuracy, 4),
        "inverse_regularisation": strength,
    }
    return Discriminator(round(float(model.intercept_[0]), 4), weights, about)


def fold(dialogue_ids: Sequence[str]) -> dict[str, int]:
    """The fold, 0 to `FOLDS` − 1, of each dialogue; the folds are equally large up to one dialogue."""
    return {dialogue_id: number % FOLDS for number, dialogue_id in enumerate(sorted(set(dialogue_ids)))}


def _arrays(turns: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = turns.filter(pl.col("text") != "").sort("dialogue_id", "human", "text")
    return rows["text"].to_numpy(), rows["human"].to_numpy().astype(np.int64), rows["dialogue_id"].to_numpy()


def _inputs(texts: np.ndarray) -> tuple[Any, Any]:
    """A vectorizer of the features that are frequent enough in `texts`, and their sparse matrix."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=features, binary=True, min_df=MIN_TURNS)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError:  # none is
        raise CrsError("too few turns to tell people's words from a model's; give more contexts") from None


def _regression(inputs: Any, sides: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000, class_weight="balanced").fit(inputs, sides)


def _out_of_fold(texts: np.ndarray, sides: np.ndarray, groups: np.ndarray) -> list[tuple[float, float, float]]:
    """(log loss, accuracy, strength) for every strength, on dialogues left out; both sides count the same."""
    folds = fold(groups.tolist())
    number = np.array([folds[group] for group in groups])
    odds = np.zeros((len(_STRENGTHS), len(texts)))
    for part in range(FOLDS):
        own = number == part
        vectorizer, inputs = _inputs(texts[~own])
        left_out = vectorizer.transform(texts[own])
        for row, strength in enumerate(_STRENGTHS):
            odds[row, own] = _regression(inputs, sides[~own], strength).decision_function(left_out)
    measured = []
    for signed, strength in zip(np.where(sides == 1, odds, -odds), _STRENGTHS, strict=True):
        both = [signed[sides == side] for side in (0, 1)]
        log_loss = float(np.mean([np.logaddexp(0, -part).mean() for part in both]))
        measured.append((log_loss, float(np.mean([(part > 0).mean() for part in both])), strength))
    return measured
