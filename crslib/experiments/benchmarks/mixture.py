"""Fits the mixture of model and item prior that chooses titles to what people name next (maximum likelihood).

The dialogues are ReDial's training dialogues of IARD (Cai and Chen 2020) that are not among those of `path`, so neither
the adapter nor the prior has been fitted on them; the test set is not read. A target is an item that a human
recommender names; items that the recommender named before are neither targets nor candidates, as in a simulation. It is
fitted twice: for the built-in catalogue with the prior of its ratings, which is what simulations use, and for ReDial's
own movies with the prior of its training dialogues, which is what `crs bench recommender` ranks with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import logsumexp

from crslib.data.catalog import Catalog, item_names
from crslib.data.corpora import Dialogue, Mention, Turn, iard, redial
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER
from crslib.errors import CrsError
from crslib.experiments.benchmarks import recommender
from crslib.files import Progress, no_progress
from crslib.recommender.mixture import Mixture, Reader, TitleModel
from crslib.recommender.prior import CATALOGUE, DIALOGUES, ItemPrior

FOLDS = 5
_START = Mixture(0.5, 1.0, 0.3)
GIVEN = {  # mixtures that the fitted one is compared with
    "prior alone": Mixture(0.0, 1.0),
    "as at temperature 0.7 until now": Mixture(1 / 0.7, 1.0),
    "a = 0.5": Mixture(0.5, 1.0),
}


@dataclass(frozen=True)
class Moment:
    """A turn of a dialogue: log P of each item by model, prior and model without a dialogue (n_items,); -inf in the
    prior where an item is no candidate. `targets`: rows of the items that were named."""

    dialogue_id: str
    log_model: np.ndarray
    log_prior: np.ndarray
    log_base: np.ndarray
    targets: tuple[int, ...]


def measure(
    path: Path, labelled: Path, items: pl.DataFrame, ratings: pl.DataFrame, reader: Reader,
    progress: Progress = no_progress,
) -> pl.DataFrame:  # fmt: skip
    """Rows (catalogue, mixture, model, prior, base, nats, n_targets): −log P of a named item, its mean in nats.

    Catalogues are `data` (tables `items` and `ratings`) and `own` (ReDial's). Mixtures are those of `GIVEN`, the one
    `fitted` to all moments, and `held out`: the same fit to the dialogues of four of five folds, measured on the fifth
    (the exponents are those of `fitted`). The dialogues do not say who spoke, so folds are of dialogues, not of people.
    `path`: ReDial's zip or folder; `labelled`: IARD's file or folder. Raises `CrsError` when a file is missing or all
    dialogues of IARD are among those of `path`.
    """
    train, names = redial.read(path, "train"), redial.movies(path)
    dialogues = unread(labelled, {dialogue.dialogue_id for dialogue in train}, names)
    if not dialogues:
        raise CrsError(
            f"all of IARD's training dialogues are in {path}; give the part of ReDial that the adapter was trained on"
        )
    prior = recommender.fit(recommender.with_facts(names, train, redial.items()), train)
    items = items.sort("item_id")
    catalog = Catalog(items, prior.domain)

    def link(mention: Mention) -> str | None:
        linked = catalog.link(utterances.mention(mention.name))
        return linked[0]["item_id"] if linked else None

    rows: list[tuple[Any, ...]] = []
    for catalogue, item_prior, weights, of_item, linked in (
        ("data", ItemPrior.fit(items, ratings, prior.domain), CATALOGUE, item_names(items), link),
        ("own", prior, DIALOGUES, names, lambda mention: mention.item_id),
    ):
        cases = recommender.cases([_linked(dialogue, linked) for dialogue in dialogues])
        moments = list(_moments(cases, item_prior, weights, of_item, reader, progress))
        rows += [(catalogue, *row) for row in compare(moments)]
    figures = dict.fromkeys(("model", "prior", "base", "nats"), pl.Float64)
    schema = {"catalogue": pl.String, "mixture": pl.String, **figures, "n_targets": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def unread(labelled: Path, known: set[str], names: Mapping[str, str]) -> list[Dialogue]:
    """IARD's dialogues of ReDial's training part that are not among `known`, linked to `names` of ReDial's movies."""
    ids = {name: item for item, name in sorted(names.items(), reverse=True)}
    rows = iard.read(labelled).filter(pl.col("split") == "train", ~pl.col("dialogue_id").is_in(sorted(known)))
    dialogues = []
    for (dialogue_id,), turns in rows.partition_by("dialogue_id", as_dict=True, maintain_order=True).items():
        read = []
        for role, text in turns.select("role", "text").iter_rows():
            mentions = (Mention(ids.get(name, ""), name, *span) for name, *span in utterances.mentions(text))
            read.append(Turn(role, text, tuple(mentions), None))
        dialogues.append(Dialogue(str(dialogue_id), "", "", tuple(read), {}))
    return dialogues


def compare(moments: Sequence[Moment]) -> list[tuple[str, float, float, float, float, int]]:
    """Of each mixture: its name, exponents, mean −log P of the targets (nats) and number of targets."""
    fitted = fit(moments)
    dialogues = sorted({moment.dialogue_id for moment in moments})
    fold = {dialogue_id: number % FOLDS for number, dialogue_id in enumerate(dialogues)}
    held_out = []
    for number in range(FOLDS):
        other = fit([moment for moment in moments if fold[moment.dialogue_id] != number], fitted)
        held_out += losses([moment for moment in moments if fold[moment.dialogue_id] == number], other)
    measured = {name: (mixture, losses(moments, mixture)) for name, mixture in (GIVEN | {"fitted": fitted}).items()}
    measured["held out"] = (fitted, held_out)
    return [(name, *mixture, float(np.mean(nats)), len(nats)) for name, (mixture, nats) in measured.items()]


def fit(moments: Sequence[Moment], start: Mixture = _START) -> Mixture:
    """The mixture with the greatest likelihood of the targets; no exponent is below 0. The problem is convex."""

    def mean(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        nats, slope, n = 0.0, np.zeros(3), 0
        for moment in moments:
            own, expected, values = _losses(moment, Mixture(*exponents.tolist()))
            nats += sum(own)
            n += len(own)
            slope += len(own) * expected - values[:, list(moment.targets)].sum(axis=1)
        return nats / n, slope / n

    best = minimize(mean, np.array(start), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 3)
    return Mixture(*(round(float(exponent), 2) for exponent in best.x))


def losses(moments: Sequence[Moment], mixture: Mixture) -> list[float]:
    """−log P (nats) of every target."""
    return [nats for moment in moments for nats in _losses(moment, mixture)[0]]


def _losses(moment: Moment, mixture: Mixture) -> tuple[list[float], np.ndarray, np.ndarray]:
    """−log P of each target; what each exponent multiplies, by its expectation (3,) and of every item (3, n_items)."""
    candidate = np.isfinite(moment.log_prior)
    log_prior = np.where(candidate, moment.log_prior, 0.0).astype(np.float64)
    scores = mixture.scores(moment.log_model, log_prior, moment.log_base)
    scores[~candidate] = -np.inf
    total = float(logsumexp(scores))
    values = np.stack([moment.log_model, log_prior, -moment.log_base])
    return [total - float(scores[target]) for target in moment.targets], values @ np.exp(scores - total), values


def formatted(measured: pl.DataFrame) -> str:
    """The rows of `measure` as lines of text for a terminal."""
    heads = {"data": "the built-in catalogue and its ratings", "own": "ReDial's movies and training dialogues"}
    lines = []
    for catalogue, head in heads.items():
        rows = measured.filter(catalogue=catalogue)
        lines.append(f"{head} (n = {rows['n_targets'][0]:,})")
        lines.append(f"{'':<34}{'model':>7}{'prior':>7}{'base':>7}{'nats per title':>16}")
        for _, name, *exponents, nats, _ in rows.iter_rows():
            lines.append(f"{name:<34}" + "".join(f"{exponent:>7.2f}" for exponent in exponents) + f"{nats:>16.3f}")
    return "\n".join(lines)


def _linked(dialogue: Dialogue, link: Callable[[Mention], str | None]) -> Dialogue:
    turns = []
    for turn in dialogue.turns:
        mentions = tuple(Mention(link(m) or "", m.name, m.start, m.end) for m in turn.mentions)
        turns.append(Turn(turn.role, turn.text, mentions, turn.n_messages))
    return Dialogue(dialogue.dialogue_id, dialogue.user, dialogue.recommender, tuple(turns), dialogue.items)


def _moments(
    cases: Sequence[recommender.Case],
    prior: ItemPrior,
    weights: Mapping[str, float],
    names: Mapping[str, str],
    reader: Reader,
    progress: Progress,
) -> Iterator[Moment]:
    titles = TitleModel(reader, [names[item] for item in prior.item_ids], prior.domain)
    row = {item: number for number, item in enumerate(prior.item_ids)}
    for done, case in enumerate(cases):
        progress(done, len(cases))
        recommended = {item for turn in case.turns if turn.role == RECOMMENDER for item in turn.items if item}
        targets = tuple(row[item] for item in case.targets if item in row and item not in recommended)
        if targets:
            log_prior = prior.log_prior(case.turns, recommended, weights)
            yield Moment(case.dialogue_id, titles(case.turns), log_prior, titles.base, targets)
    progress(len(cases), len(cases))
