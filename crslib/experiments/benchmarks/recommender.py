"""Next-item prediction on human dialogues: the movies that ReDial's recommenders name, ranked among all of its movies.

A target is a movie that a recommender of the test set names. Every ranker gets the turns before it, not the words of
the same turn; the other movies of the same turn are candidates. People's own repeats are counted in two ways (`RULES`):

    new      targets were not mentioned before, and movies mentioned before are no candidates;
    repeats  whatever is named is a target, and every movie is a candidate, as published results mostly have it (He et
             al., Large Language Models as Zero-Shot Conversational Recommenders, CIKM 2023, section 3).

Ids are ReDial's own: a film that could be picked with and without its year counts as two. The prior is fitted on the
training dialogues and on facts of the movies; popularity is the number of training mentions. The corpus's own counts of
mentions include its test set and are not used.

What it does not know: whether another movie would have been as welcome.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crslib import stats
from crslib.data.corpora import Dialogue, redial
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.experiments.benchmarks import linking
from crslib.files import Progress, no_progress
from crslib.recommender.mixture import Mixture, Reader, TitleModel
from crslib.recommender.prior import DIALOGUES, ItemPrior, Utterance
from crslib.reporting import text

METRICS = ("recall@1", "recall@10", "recall@50", "mrr", "ndcg@10")
RULES = ("new", "repeats")

# Published results of other systems, under the rule "repeats": trained (if at all) on all 10,006 training dialogues and
# tested on all 1,342 test dialogues, with other contexts and candidates.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "UniCRS (Wang et al. 2022)": {"recall@1": 0.050, "recall@10": 0.215, "recall@50": 0.413},
    "ChatGPT, zero-shot": {"recall@1": 0.037, "recall@10": 0.174},
    "GPT-4, zero-shot": {"recall@1": 0.050},
}

# Fitted to ReDial's own movies by `mixture.measure`. (Simulations use that of the built-in catalogue times 1.2, the
# defaults of `config.SimulationParameters`.)
MIXTURE = Mixture(0.33, 0.89, 0.3)


@dataclass(frozen=True)
class Case:
    """A turn in which a recommender names items (`targets`), after `turns` that mention the items `mentioned`."""

    dialogue_id: str
    turns: tuple[Utterance, ...]
    targets: tuple[str, ...]
    mentioned: frozenset[str]

    @property
    def new(self) -> tuple[str, ...]:
        """The targets that were not mentioned before."""
        return tuple(item for item in self.targets if item not in self.mentioned)


def cases(dialogues: Sequence[Dialogue]) -> list[Case]:
    """One case per recommender's turn with items, in order."""
    cases = []
    for dialogue in dialogues:
        turns: list[Utterance] = []
        mentioned: set[str] = set()
        for turn in dialogue.turns:
            here = [mention.item_id for mention in turn.mentions]
            if turn.role == RECOMMENDER and here:
                targets = tuple(dict.fromkeys(here))
                cases.append(Case(dialogue.dialogue_id, tuple(turns), targets, frozenset(mentioned)))
            mentioned.update(here)
            turns.append(Utterance(turn.role, turn.text, here))
    return cases


# ── rankers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def with_facts(names: Mapping[str, str], dialogues: Sequence[Dialogue], facts: pl.DataFrame) -> pl.DataFrame:
    """Table `items` of a corpus: its names, the genres and makers of the same ids in `facts` (table `items`), and as
    `n_ratings` the number of mentions in `dialogues`."""
    known = {row["item_id"]: row for row in facts.iter_rows(named=True)}
    rows = []
    for row in linking.corpus_items(names, dialogues).iter_rows(named=True):
        if fact := known.get(row["item_id"]):
            row |= {name: fact[name] for name in ("kinds", "makers", "people", "attributes", "external_id")}
        rows.append(row)
    return pl.DataFrame(rows, schema=facts.schema)


def fit(items: pl.DataFrame, dialogues: Sequence[Dialogue]) -> ItemPrior:
    """The item prior with each dialogue as a user who liked all items mentioned in it; the text is the user's turns."""
    pairs = {(d.dialogue_id, mention.item_id) for d in dialogues for turn in d.turns for mention in turn.mentions}
    ratings = pl.DataFrame(sorted(pairs), schema={"user_id": pl.String, "item_id": pl.String}, orient="row")
    ratings = ratings.with_columns(rating=pl.lit(1.0), rated_at=pl.lit(None, pl.Int64))
    texts = {d.dialogue_id: " . ".join(turn.text for turn in d.turns if turn.role == USER) for d in dialogues}
    return ItemPrior.fit(items, ratings, redial.domain(), texts)


# ── measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


def measure(
    path: Path,
    reader: Reader | None = None,
    n_dialogues: int = 0,
    *,
    times: int = 1000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """Rows (rule, ranker, metric, value, low, high, n): recall@1/10/50, MRR and NDCG@10 over the targets of each of
    `RULES`, with 95 % intervals by resampling dialogues; `n` is the number of targets.

    `path`: ReDial's zip or folder; `n_dialogues`: evenly spaced test dialogues, 0 for all. Without a `reader` the
    rankers are `popularity` and `prior` alone. Raises `CrsError` when something is missing.
    """
    train, test = redial.read(path, "train"), redial.read(path, "test")
    if 0 < n_dialogues < len(test):
        test = [test[number * len(test) // n_dialogues] for number in range(n_dialogues)]
    names = redial.movies(path)
    prior = fit(with_facts(names, train, redial.items()), train)
    return evaluate(cases(test), names, train, prior, reader, times=times, seed=seed, progress=progress)


def evaluate(
    test: Sequence[Case],
    names: Mapping[str, str],
    train: Sequence[Dialogue],
    prior: ItemPrior,
    reader: Reader | None = None,
    *,
    times: int = 1000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """The rows of `measure` for given cases, corpus names and a fitted prior."""
    row = {item: number for number, item in enumerate(prior.item_ids)}
    if unknown := sorted({item for case in test for item in case.targets} - row.keys()):
        raise CrsError(
            f"item {unknown[0]!r} of the test dialogues is not in the corpus's catalogue; use files of one zip"
        )
    count = Counter(mention.item_id for d in train for turn in d.turns for mention in turn.mentions)
    popularity = np.array([count[item] for item in prior.item_ids], dtype=np.float64)
    titles = TitleModel(reader, [names[item] for item in prior.item_ids], prior.domain) if reader is not None else None
    ranks: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for done, case in enumerate(test):
        progress(done, len(test))
        mentioned = [row[item] for item in case.mentioned if item in row]
        for ranker, scores in _scores(case, popularity, prior, titles):
            others = scores.copy()
            others[mentioned] = -np.inf
            for rule, targets, candidates in (("new", case.new, others), ("repeats", case.targets, scores)):
                places = ((case.dialogue_id, rank(candidates, row[target])) for target in targets)
                ranks.setdefault((rule, ranker), []).extend(places)
    progress(len(test), len(test))
    by_rule = sorted(ranks.items(), key=lambda entry: RULES.index(entry[0][0]))
    rows = [row for (rule, name), own in by_rule if own for row in _estimates(rule, name, own, times, seed)]
    figures = dict.fromkeys(("value", "low", "high"), pl.Float64)
    schema = {**dict.fromkeys(("rule", "ranker", "metric"), pl.String), **figures, "n": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _scores(
    case: Case, popularity: np.ndarray, prior: ItemPrior, titles: TitleModel | None
) -> Iterator[tuple[str, np.ndarray]]:
    log_prior = prior.log_prior(case.turns, weights=DIALOGUES).astype(np.float64)
    yield "popularity", popularity
    yield "prior", log_prior
    if titles is not None:
        log_model = titles(case.turns)
        yield "lm", log_model
        yield "fused", MIXTURE.scores(log_model, log_prior, titles.base)


def rank(scores: np.ndarray, target: int) -> int:
    """The rank of `target`, 1 for the best score; among equal scores the order of the catalogue decides."""
    return 1 + int((scores > scores[target]).sum() + (scores[:target] == scores[target]).sum())


def gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """The value of each rank in each of `METRICS`. One item is relevant, so the ideal DCG is 1."""
    recalls = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in (1, 10, 50)}
    return recalls | {"mrr": 1 / ranks, "ndcg@10": np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)}


def _estimates(
    rule: str, ranker: str, ranks: list[tuple[str, int]], times: int, seed: int
) -> Iterator[tuple[Any, ...]]:
    dialogue = np.unique([dialogue_id for dialogue_id, _ in ranks], return_inverse=True)[1]
    targets = np.bincount(dialogue)
    for metric, gain in gains(np.array([place for _, place in ranks])).items():
        estimate = stats.ratio(np.bincount(dialogue, gain), targets, times=times, seed=seed)
        if estimate is not None:
            yield rule, ranker, metric, estimate.value, estimate.low, estimate.high, len(ranks)


def record(measured: pl.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of `measure` as JSON: `{rule: {ranker: {metric: value, …, n, intervals: {metric: [low, high]}}}}`."""
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for row in measured.iter_rows(named=True):
        entry = figures.setdefault(row["rule"], {}).setdefault(row["ranker"], {})
        entry[row["metric"]] = row["value"]
        entry["n"] = row["n"]
        entry.setdefault("intervals", {})[row["metric"]] = [row["low"], row["high"]]
    return figures


def formatted(measured: pl.DataFrame) -> str:
    """The rows of `measure` as lines of text for a terminal: a table for each rule, published figures in theirs."""
    heads = {
        "new": "new items only: movies mentioned before are neither targets nor candidates",
        "repeats": "repeats count: every movie named is a target, and every movie a candidate",
    }
    lines: list[str] = []
    for rule, rankers in record(measured).items():
        n = next(iter(rankers.values()))["n"]
        lines += ["", f"{heads[rule]} (n = {n:,})"] if lines else [f"{heads[rule]} (n = {n:,})"]
        lines.append(f"{'':<27}" + "".join(f"{metric:>22}" for metric in METRICS))
        for ranker, figures in rankers.items():
            cells = [text.estimate(figures[metric], *figures["intervals"][metric], form=".3f") for metric in METRICS]
            lines.append(f"{ranker:<27}" + "".join(f"{cell:>22}" for cell in cells))
    lines.append("published, with other contexts and candidates:")
    for system, values in PUBLISHED.items():
        lines.append(f"{system:<27}" + "".join(f"{_cell(values.get(metric)):>22}" for metric in METRICS).rstrip())
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else format(value, ".3f")
