"""The tagger of dialogue acts, learnt from IARD, and how right it is on dialogues that it has not learnt from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crslib import stats, store
from crslib.data.corpora import iard
from crslib.dialogue import acts
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.acts import GRAMS, histograms, jensen_shannon

MICRO, MACRO = "micro", "macro"
_TIMES = 1000


def build(path: Path, to: Path) -> dict[str, Any]:
    """Learns the tagger from IARD (`path`), writes it and `figures.json` to folder `to`, and returns the figures.

    Learnt from are the dialogues of ReDial's training set; those of its test set are held out, for people in the
    evaluation are from there. `cross_validation`: five-fold by dialogue; `held_out`: that of the written tagger on test
    dialogues; `commonest_act`: one that gives every turn its role's commonest act; `codes`: cross-validation before
    siblings are put together. `divergence`: of its tags from people's own for the same turns, which is what its errors
    alone make of the metrics. Raises `CrsError` when IARD cannot be read or the folder written.
    """
    coded = iard.read(path)
    labelled = acts.named(coded)
    learnt, held = labelled.filter(split="train"), labelled.filter(split="test")
    tagger = acts.fit(learnt)
    acts.write(tagger, to)
    blind, fresh = acts.out_of_fold(learnt), tagger.tag(held)
    codes = coded.filter(split="train")
    figures = {
        "dialogues": {"learnt": learnt["dialogue_id"].n_unique(), "held_out": held["dialogue_id"].n_unique()},
        "turns": {"learnt": learnt.height, "held_out": held.height},
        "cross_validation": accuracy(learnt, blind).to_dicts(),
        "held_out": accuracy(held, fresh).to_dicts(),
        "commonest_act": accuracy(learnt, _commonest(learnt)).to_dicts(),
        "codes": accuracy(codes, acts.out_of_fold(codes)).to_dicts(),
        "divergence": {"cross_validation": _divergence(learnt, blind), "held_out": _divergence(held, fresh)},
    }
    with store.writing(to / acts.FIGURES) as temporary:
        text = json.dumps(figures, indent=1, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return figures


def accuracy(labelled: pl.DataFrame, tagged: pl.DataFrame) -> pl.DataFrame:
    """A row per role and act, and one for all acts of a role pooled (`micro`) and for their mean (`macro`): role, act,
    labelled and tagged (turns), f1 with its 95 % interval over dialogues (low, high), kappa (Cohen's)."""
    rows = []
    for role in (USER, RECOMMENDER):
        truth = _long(labelled).filter(role=role)
        if truth.is_empty():
            continue
        names = truth["act"].unique().sort().to_list()
        sides = [truth, tagged.filter(role=role), truth.join(tagged, on=list(acts.SCHEMA), how="semi")]
        ids = truth["dialogue_id"].unique().sort().to_list()
        labels, tags, both = (_counts(side, ids, names) for side in sides)
        n = labelled.filter(role=role).height

        def f1(counts: np.ndarray, labels=labels, tags=tags, both=both) -> np.ndarray:
            return 2 * (counts @ both) / np.maximum(counts @ (labels + tags), 1)

        def micro(counts: np.ndarray, labels=labels, tags=tags, both=both) -> np.ndarray:
            return 2 * (counts @ both).sum(axis=-1) / (counts @ (labels + tags)).sum(axis=-1)

        kappa = _kappa(*(side.sum(axis=0) for side in (labels, tags, both)), n)
        figures = [(name, lambda counts, at=at, f1=f1: f1(counts)[:, at], kappa[at]) for at, name in enumerate(names)]
        figures += [(MICRO, micro, None), (MACRO, lambda counts, f1=f1: f1(counts).mean(axis=-1), kappa.mean())]
        for name, statistic, agreement in figures:
            found = stats.bootstrap(statistic, len(ids), times=_TIMES, seed=0)
            at = [names.index(name)] if name in names else slice(None)
            n_labels, n_tags = int(labels[:, at].sum()), int(tags[:, at].sum())
            rows.append((role, name, n_labels, n_tags, found.value, found.low, found.high, agreement))
    columns = {"role": pl.String, "act": pl.String, "labelled": pl.Int64, "tagged": pl.Int64}
    schema = {**columns, **dict.fromkeys(("f1", "low", "high", "kappa"), pl.Float64)}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().round(4))


def formatted(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| role | act | turns | F1, cross-validated | kappa | F1, held out | commonest act |", "|---" * 7 + "|"]
    other = {name: {(row["role"], row["act"]): row for row in figures[name]} for name in ("held_out", "commonest_act")}
    for row in figures["cross_validation"]:
        key = row["role"], row["act"]
        shown = [f"{row['f1']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", _two(row["kappa"])]
        shown += [_two((rows.get(key) or {}).get("f1")) for rows in other.values()]
        lines.append(f"| {row['role']} | {row['act']} | {row['labelled']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _long(labelled: pl.DataFrame) -> pl.DataFrame:
    return labelled.explode("acts").select("dialogue_id", "turn", "role", act="acts")


def _counts(side: pl.DataFrame, ids: list[str], names: list[str]) -> np.ndarray:
    found = np.zeros((len(ids), len(names)))
    place = {name: at for at, name in enumerate(names)}, {dialogue_id: at for at, dialogue_id in enumerate(ids)}
    for dialogue_id, act in side.select("dialogue_id", "act").iter_rows():
        found[place[1][dialogue_id], place[0][act]] += 1
    return found


def _kappa(labels: np.ndarray, tags: np.ndarray, both: np.ndarray, n: int) -> np.ndarray:
    """Cohen's kappa of each act, had or not, over n turns."""
    agreed = (both + (n - labels - tags + both)) / n
    chance = (labels * tags + (n - labels) * (n - tags)) / n**2
    return (agreed - chance) / (1 - chance)


def _commonest(labelled: pl.DataFrame) -> pl.DataFrame:
    counts = _long(labelled).group_by("role", "act").len().sort("role", "len", "act", descending=[False, True, False])
    return labelled.join(counts.unique("role", keep="first", maintain_order=True), on="role").select(*acts.SCHEMA)


def _divergence(labelled: pl.DataFrame, tagged: pl.DataFrame) -> dict[str, float]:
    """Jensen–Shannon divergence of tagged from labelled acts, in bits."""
    found = {}
    for name, grams in GRAMS.items():
        sides = histograms(grams(_long(labelled)), grams(tagged))
        found[name] = round(float(jensen_shannon(*(side.sum(axis=0) for side in sides))), 4)
    return found
