"""Next-item prediction on human dialogues: the movies that ReDial's recommenders name, ranked among all of its movies.

A target is a movie that a recommender of the test set names and that was not mentioned before. Every ranker gets the
turns before it, not the words of the same turn. Movies mentioned before are no candidates; the other movies of the same
turn are. Ids are ReDial's own: a film that could be picked with and without its year counts as two. The prior is fitted
on the training dialogues and on facts of the movies; popularity is the number of training mentions. The corpus's own
counts of mentions include its test set and are not used.

What it does not know: whether another movie would have been as welcome.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from crslib import stats
from crslib.data.corpora import Dialogue, redial
from crslib.dialogue import utterances
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import RecommenderView
from crslib.errors import CrsError
from crslib.experiments.benchmarks import linking
from crslib.recommender.prior import DIALOGUES, ItemPrior, Utterance
from crslib.reporting import text
from crslib.store import Progress, no_progress

METRICS = ("recall@1", "recall@10", "recall@50", "mrr", "ndcg@10")

# Published results of other systems: trained (if at all) on all 10,006 training dialogues and tested on all 1,342 test
# dialogues, with other contexts and candidates. Mostly, movies mentioned before count as targets too, which are far
# easier (He et al., Large Language Models as Zero-Shot Conversational Recommenders, CIKM 2023, section 3).
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "UniCRS (Wang et al. 2022)": {"recall@1": 0.050, "recall@10": 0.215, "recall@50": 0.413},
    "ChatGPT, zero-shot": {"recall@1": 0.037, "recall@10": 0.174},
    "GPT-4, zero-shot": {"recall@1": 0.050},
}

# fused = log prior + LM_WEIGHT · (log P(title | dialogue) - LM_BASE · log P(title | no dialogue)). Tuned on 180
# dialogues of ReDial's training set (those of IARD, Cai and Chen 2020) that were in the training data of neither prior
# nor adapter: the likelihood is best at 0.44 and 0.92, recall at 0.2 and 0.7, and both are flat in between.
LM_WEIGHT, LM_BASE = 0.35, 0.8
OPENING = "Have you seen [["  # the beginning of the utterance that the title continues
_NO_DIALOGUE = "Hi, I am looking for a movie to watch."
_N_EXACT = 10  # the first tokens of the most titles: for these the second token is scored in the dialogue too


class Reader(Protocol):
    """The part of an engine that scores continuations."""

    chat_template: tuple[str, str, str]

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        """log P(continuation | prompt) of each (float64, nats)."""
        ...


@dataclass(frozen=True)
class Case:
    """A turn in which a recommender names new items (`targets`), after `turns` that mention the items `mentioned`."""

    dialogue_id: str
    turns: tuple[Utterance, ...]
    targets: tuple[str, ...]
    mentioned: frozenset[str]


def cases(dialogues: Sequence[Dialogue]) -> list[Case]:
    """One case per recommender's turn with new items, in order."""
    cases = []
    for dialogue in dialogues:
        turns: list[Utterance] = []
        mentioned: set[str] = set()
        for turn in dialogue.turns:
            here = [mention.item_id for mention in turn.mentions]
            new = tuple(item for item in dict.fromkeys(here) if item not in mentioned)
            if turn.role == RECOMMENDER and new:
                cases.append(Case(dialogue.dialogue_id, tuple(turns), new, frozenset(mentioned)))
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
            row |= {name: fact[name] for name in ("genres", "directors", "cast", "imdb_id")}
        rows.append(row)
    return pl.DataFrame(rows, schema=facts.schema)


def fit(items: pl.DataFrame, dialogues: Sequence[Dialogue]) -> ItemPrior:
    """The item prior with each dialogue as a user who liked all items mentioned in it; the text is the user's turns."""
    pairs = {(d.dialogue_id, mention.item_id) for d in dialogues for turn in d.turns for mention in turn.mentions}
    ratings = pl.DataFrame(sorted(pairs), schema={"user_id": pl.String, "item_id": pl.String}, orient="row")
    ratings = ratings.with_columns(rating=pl.lit(1.0), rated_at=pl.lit(None, pl.Int64))
    texts = {d.dialogue_id: " . ".join(turn.text for turn in d.turns if turn.role == USER) for d in dialogues}
    return ItemPrior.fit(items, ratings, texts)


class TitleModel:
    """log P(title | dialogue) of every title by a language model in the role of the recommender.

    The first token is scored in the dialogue, and after the most frequent first tokens the second token too. The rest
    of a title hardly depends on the dialogue and is scored once without one. A title is scored up to the bracket that
    closes its year, or to the end of the mention without a year.
    """

    def __init__(self, reader: Reader, names: Sequence[str]) -> None:
        self._reader = reader
        self._template = ChatTemplate(*reader.chat_template)
        self._opening = reader.encode(OPENING)
        titles = [tuple(reader.encode(utterances.mention(name)[2:].removesuffix(")]]"))) for name in names]
        # Frequent among titles, not among mentions: a property of the catalogue.
        frequent = {token for token, _ in Counter(title[0] for title in titles).most_common(_N_EXACT)}
        self._heads = [title[: 2 if title[0] in frequent else 1] for title in titles]
        no_dialogue = self._prompt([Utterance(USER, _NO_DIALOGUE)])
        self.base: np.ndarray = reader.score(no_dialogue, titles)
        self._tails = self.base - reader.score(no_dialogue, self._heads)

    def __call__(self, turns: Sequence[Utterance]) -> np.ndarray:
        """(n_titles,) in nats."""
        return self._reader.score(self._prompt(turns), self._heads) + self._tails

    def _prompt(self, turns: Sequence[Utterance]) -> list[int]:
        view = RecommenderView.of([turn._asdict() for turn in turns])
        return [*self._template.encode(view.messages, self._reader), *self._opening]


# ── measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


def measure(
    path: Path,
    reader: Reader | None = None,
    *,
    times: int = 1000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """Rows (ranker, metric, value, low, high, n): recall@1/10/50, MRR and NDCG@10 over targets, with 95 % intervals by
    resampling dialogues; `n` is the number of targets.

    `path`: ReDial's zip or folder; without a `reader` the rankers are `popularity` and `prior` alone. Raises `CrsError`
    when something is missing.
    """
    train, test = redial.read(path, "train"), redial.read(path, "test")
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
    titles = TitleModel(reader, [names[item] for item in prior.item_ids]) if reader is not None else None
    ranks: dict[str, list[int]] = {}
    dialogue_ids: list[str] = []
    for done, case in enumerate(test):
        progress(done, len(test))
        mentioned = [row[item] for item in case.mentioned if item in row]
        for ranker, scores in _scores(case, popularity, prior, titles):
            scores = scores.copy()
            scores[mentioned] = -np.inf
            ranks.setdefault(ranker, []).extend(rank(scores, row[target]) for target in case.targets)
        dialogue_ids += [case.dialogue_id] * len(case.targets)
    progress(len(test), len(test))
    rows = [row for name, own in ranks.items() for row in _estimates(name, own, dialogue_ids, times, seed)]
    figures = dict.fromkeys(("value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema={"ranker": pl.String, "metric": pl.String, **figures, "n": pl.Int64}, orient="row")


def _scores(
    case: Case, popularity: np.ndarray, prior: ItemPrior, titles: TitleModel | None
) -> Iterator[tuple[str, np.ndarray]]:
    log_prior = prior.log_prior(case.turns, weights=DIALOGUES).astype(np.float64)
    yield "popularity", popularity
    yield "prior", log_prior
    if titles is not None:
        log_lm = titles(case.turns)
        yield "lm", log_lm
        yield "fused", log_prior + LM_WEIGHT * (log_lm - LM_BASE * titles.base)


def rank(scores: np.ndarray, target: int) -> int:
    """The rank of `target`, 1 for the best score; among equal scores the order of the catalogue decides."""
    return 1 + int((scores > scores[target]).sum() + (scores[:target] == scores[target]).sum())


def gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """The value of each rank in each of `METRICS`. One item is relevant, so the ideal DCG is 1."""
    recalls = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in (1, 10, 50)}
    return recalls | {"mrr": 1 / ranks, "ndcg@10": np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)}


def _estimates(
    ranker: str, ranks: list[int], dialogue_ids: list[str], times: int, seed: int
) -> Iterator[tuple[Any, ...]]:
    dialogue = np.unique(dialogue_ids, return_inverse=True)[1]
    targets = np.bincount(dialogue)
    for metric, gain in gains(np.array(ranks)).items():
        estimate = stats.ratio(np.bincount(dialogue, gain), targets, times=times, seed=seed)
        if estimate is not None:
            yield ranker, metric, estimate.value, estimate.low, estimate.high, len(ranks)


def record(measured: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of `measure` as JSON: `{ranker: {metric: value, …, n, intervals: {metric: [low, high]}}}`."""
    figures: dict[str, dict[str, Any]] = {}
    for row in measured.iter_rows(named=True):
        entry = figures.setdefault(row["ranker"], {})
        entry[row["metric"]] = row["value"]
        entry["n"] = row["n"]
        entry.setdefault("intervals", {})[row["metric"]] = [row["low"], row["high"]]
    return figures


def formatted(measured: pl.DataFrame) -> str:
    """The rows of `measure` as lines of text for a terminal, published figures below."""
    lines = [f"{'':<27}" + "".join(f"{metric:>22}" for metric in METRICS)]
    for ranker, figures in record(measured).items():
        cells = []
        for metric in METRICS:
            cells.append(text.estimate(figures[metric], *figures["intervals"][metric], form=".3f"))
        lines.append(f"{ranker:<27}" + "".join(f"{cell:>22}" for cell in cells))
    lines.append("published, with other contexts and candidates:")
    for system, values in PUBLISHED.items():
        lines.append(f"{system:<27}" + "".join(f"{_cell(values.get(metric)):>22}" for metric in METRICS).rstrip())
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else format(value, ".3f")
