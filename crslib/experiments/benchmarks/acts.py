"""Training of the tagger of dialogue acts on IARD, and its accuracy on dialogues outside its training data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crslib import files, stats
from crslib.data.corpora import iard
from crslib.dialogue import acts
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.acts import GRAMS, histograms, jensen_shannon
from crslib.reporting import text

MICRO, MACRO = "micro", "macro"
_TIMES = 1000  # bootstrap resamples
Statistic = Callable[[np.ndarray], np.ndarray]  # weights of dialogues, (k, n) → k figures


def build(path: Path, to: Path) -> dict[str, Any]:
    """Trains the tagger on IARD (`path`), writes it and `figures.json` to folder `to`, and returns the figures.

    It is trained on dialogues of ReDial's training set; those of its test set are held out, because the human dialogues
    of the evaluation are from there. Figures are rows of `accuracy`: `cross_validation`, five-fold by dialogue;
    `held_out`, of the written tagger on test dialogues; `commonest_act`, of a baseline that gives every turn its role's
    commonest act; `codes`, cross-validation before sibling codes are merged. `divergence`: of its tags from the labels
    of the same turns, which is the effect of its errors alone on the metrics. Raises `CrsError` when IARD cannot be
    read or the folder cannot be written.
    """
    coded = iard.read(path)
    labelled = acts.named(coded)
    training, held_out = labelled.filter(split="train"), labelled.filter(split="test")
    tagger = acts.fit(training)
    acts.write(tagger, to)
    cross_tags, held_out_tags = acts.out_of_fold(training), tagger.tag(held_out)
    codes = coded.filter(split="train")
    figures = {
        "dialogues": {"learnt": training["dialogue_id"].n_unique(), "held_out": held_out["dialogue_id"].n_unique()},
        "turns": {"learnt": training.height, "held_out": held_out.height},
        "cross_validation": accuracy(training, cross_tags).to_dicts(),
        "held_out": accuracy(held_out, held_out_tags).to_dicts(),
        "commonest_act": accuracy(training, _commonest(training)).to_dicts(),
        "codes": accuracy(codes, acts.out_of_fold(codes)).to_dicts(),
        "divergence": {
            "cross_validation": _divergence(training, cross_tags),
            "held_out": _divergence(held_out, held_out_tags),
        },
    }
    with files.writing(to / acts.FIGURES) as temporary:
        content = json.dumps(figures, indent=1, sort_keys=True, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")
    return figures


def accuracy(labelled: pl.DataFrame, tagged: pl.DataFrame) -> pl.DataFrame:
    """A row per role and act, one for all acts of a role pooled (`micro`) and one for their mean (`macro`): role, act,
    labelled and tagged (turns), f1 with its 95 % interval over dialogues (low, high), kappa (Cohen's)."""
    rows = [row for role in (USER, RECOMMENDER) for row in _accuracy(role, labelled, tagged)]
    columns = {"role": pl.String, "act": pl.String, "labelled": pl.Int64, "tagged": pl.Int64}
    schema = {**columns, **dict.fromkeys(("f1", "low", "high", "kappa"), pl.Float64)}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().round(4))


def _accuracy(role: str, labelled: pl.DataFrame, tagged: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    truth = _long(labelled).filter(role=role)
    if truth.is_empty():
        return
    names = truth["act"].unique().sort().to_list()
    ids = truth["dialogue_id"].unique().sort().to_list()
    labels = _counts(truth, ids, names)
    tags = _counts(tagged.filter(role=role), ids, names)
    both = _counts(truth.join(tagged, on=list(acts.SCHEMA), how="semi"), ids, names)
    kappa = _kappa(labels.sum(axis=0), tags.sum(axis=0), both.sum(axis=0), labelled.filter(role=role).height)

    def f1(weights: np.ndarray) -> np.ndarray:
        return 2 * (weights @ both) / np.maximum(weights @ (labels + tags), 1)

    def micro(weights: np.ndarray) -> np.ndarray:
        return 2 * (weights @ both).sum(axis=-1) / (weights @ (labels + tags)).sum(axis=-1)

    def row(name: str, statistic: Statistic, act: int | slice, agreement: float | None) -> tuple[Any, ...]:
        estimate = stats.bootstrap(statistic, len(ids), times=_TIMES, seed=0)
        n_labels, n_tags = int(labels[:, act].sum()), int(tags[:, act].sum())
        return role, name, n_labels, n_tags, estimate.value, estimate.low, estimate.high, agreement

    for act, name in enumerate(names):
        yield row(name, lambda weights, act=act: f1(weights)[:, act], act, kappa[act])  # type: ignore[misc]
    yield row(MICRO, micro, slice(None), None)
    yield row(MACRO, lambda weights: f1(weights).mean(axis=-1), slice(None), kappa.mean())


def formatted(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    columns = ("role", "act", "turns", "F1, cross-validated", "kappa", "F1, held out", "commonest act")
    cells = []
    other = {name: {(row["role"], row["act"]): row for row in figures[name]} for name in ("held_out", "commonest_act")}
    for row in figures["cross_validation"]:
        key = row["role"], row["act"]
        shown = [text.estimate(row["f1"], row["low"], row["high"], form=".2f"), _cell(row["kappa"])]
        shown += [_cell((rows.get(key) or {}).get("f1")) for rows in other.values()]
        cells.append((*key, row["labelled"], *shown))
    return text.markdown(columns, cells)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _long(labelled: pl.DataFrame) -> pl.DataFrame:
    return labelled.explode("acts").select("dialogue_id", "turn", "role", act="acts")


def _counts(tagged: pl.DataFrame, ids: list[str], names: list[str]) -> np.ndarray:
    """(dialogues, acts): how many turns of each dialogue have each act."""
    counts = np.zeros((len(ids), len(names)))
    row, column = ({value: place for place, value in enumerate(values)} for values in (ids, names))
    for dialogue_id, act in tagged.select("dialogue_id", "act").iter_rows():
        counts[row[dialogue_id], column[act]] += 1
    return counts


def _kappa(labels: np.ndarray, tags: np.ndarray, both: np.ndarray, n: int) -> np.ndarray:
    """Cohen's kappa of each act (present or absent) over n turns, from how many have it in labels, tags and both."""
    agreed = (both + (n - labels - tags + both)) / n
    chance = (labels * tags + (n - labels) * (n - tags)) / n**2
    return (agreed - chance) / (1 - chance)


def _commonest(labelled: pl.DataFrame) -> pl.DataFrame:
    counts = _long(labelled).group_by("role", "act").len().sort("role", "len", "act", descending=[False, True, False])
    return labelled.join(counts.unique("role", keep="first", maintain_order=True), on="role").select(*acts.SCHEMA)


def _divergence(labelled: pl.DataFrame, tagged: pl.DataFrame) -> dict[str, float]:
    """Jensen–Shannon divergence of tagged from labelled acts, in bits, by kind of n-gram."""
    divergences = {}
    for name, grams in GRAMS.items():
        labels, tags = histograms(grams(_long(labelled)), grams(tagged))
        divergences[name] = round(float(jensen_shannon(labels.sum(axis=0), tags.sum(axis=0))), 4)
    return divergences
