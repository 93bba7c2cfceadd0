"""The worth of dialogues as training data: a recommender is trained on N of them and tested on human dialogues.

Every source, simulated or human, gives N dialogues. For each source and N a new adapter of the base is trained on the
recommender's words by the project's own SFT, with the same seed and number of steps for every source. On human test
dialogues it is then measured how likely the human recommender's words are under it, and at which rank it puts the film
that this recommender names next. The base without an adapter is the point N = 0.

Of a run only the texts of its dialogues are used. Of ReDial the training part is a source and the test part the test.
Knows nothing of how the dialogues were made.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import logsumexp

from crslib import schemas, stats
from crslib.config import n_threads
from crslib.data import exports
from crslib.data.corpora import Dialogue, Turn, redial
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.experiments.benchmarks import recommender
from crslib.experiments.benchmarks.adapters import BASE, drawn
from crslib.experiments.benchmarks.recommender import Case
from crslib.files import Progress, no_progress
from crslib.identity import digest, file_sha256
from crslib.recommender.mixture import Reader, TitleModel
from crslib.reporting import text
from crslib.store import Run
from crslib.training import examples, losses, run
from crslib.training.adapter import Adapter, write_gguf
from crslib.training.knowledge import Knowledge

HUMAN = "human"
ALL, FILM = "nats per own token", "nats per film"
KINDS = {"text": "outside titles", "title": "inside titles", "end": "end of turn"}
RANKS = ("recall@1", "recall@10", "recall@50", "mrr")
METRICS = (ALL, *KINDS.values(), FILM, *RANKS)
POINTS = {
    "source": pl.String,
    "n": pl.Int64,
    "steps": pl.Int64,
    "tokens": pl.Int64,
    "own_tokens": pl.Int64,
    "metric": pl.String,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
}
DIFFERENCES = {
    "source": pl.String,
    "against": pl.String,
    "n": pl.Int64,
    "metric": pl.String,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
}
Parts = list[tuple[str, str, float, float]]  # dialogue_id, metric, part, whole: a figure is Σ part / Σ whole
_STEP = 4  # dialogues per step of the optimizer; with the usual 8,192 tokens so few dialogues would make two steps
_BATCH = 1024
_MAX_TOKENS = 1024
_N_CTX = 2048  # for ranking titles
_TIMES = 1000


def measure(
    path: Path,
    runs: Sequence[Path],
    sizes: Sequence[int],
    to: Path,
    *,
    n_test: int = 100,
    n_films: int = 500,
    model: str = llama.BUILT_IN,
    threads: int = 0,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Figures of every point (`POINTS`) and differences between sources of the same size (`DIFFERENCES`).

    `path`: ReDial's zip or folder; `runs`: folders, each a source named after its condition; a curated set, which may
    be of several conditions, is named after its folder. Of every source the first N dialogues in a seeded order are
    used, so smaller sets are parts of larger ones, and runs with the same profiles give dialogues of the same profiles.
    Test dialogues (`n_test`, 0: all) and films are the same for all sources.
    `tokens` are those read in training, `own_tokens` the recommender's among them. Cross-entropies are in nats. Films
    are ranked by `mixture.TitleModel` given the turns before, among the `n_films` that human training dialogues
    name most (0: all of ReDial's) without those already named; `FILM` is the cross-entropy of the named one. Intervals:
    95 %, test dialogues resampled, paired in differences; they do not cover the choice of another training seed.

    The folder `to` gets the adapters and a journal of finished points, from which a killed call resumes. `progress`
    counts dialogues of training and test. Raises `CrsError` for files that cannot be read, a source with too few
    dialogues, and where the extra `train` is not installed.
    """
    run.need_extra()
    train, test = redial.read(path, "train"), drawn(redial.read(path, "test"), n_test)
    sources = _simulated(runs) | {HUMAN: train}
    chosen = {name: _first(name, dialogues, max(sizes)) for name, dialogues in sources.items()}
    films = often_named(redial.movies(path), train, n_films)
    points = [(BASE, 0), *((name, n) for n in sorted(set(sizes)) for name in chosen)]
    total = sum(n + len(test) for _, n in points)
    with contextlib.closing(llama.Model(llama.model_path(model))) as opened, Run(to).journal() as journal:
        bench = _Bench(opened, model, test, films, to, threads)
        known = {record["key"]: record for record in journal.records}
        records, done = [], 0
        for name, n in points:
            rows = bench.encode(chosen[name][:n] if n else [])
            if (key := bench.key(rows)) not in known:

                def count(some: int, before: int = done) -> None:
                    progress(before + some, total)

                known[key] = {"key": key, **bench.point(f"{name}-{n}", rows, key, count)}
                journal.append(known[key])
            records.append({**known[key], "source": name, "n": n})
            done += n + len(test)
            progress(done, total)
    return figures(records), differences(records, list(chosen))


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_texts(turns: pl.DataFrame) -> list[Dialogue]:
    """The dialogues of a run's table `turns` as texts alone, without notes, workers and items."""
    return [
        Dialogue(dialogue_id, "", "", tuple(Turn(row["role"], row["text"], (), None) for row in rows), {})
        for dialogue_id, rows in exports.talks(turns)
    ]


def _simulated(runs: Sequence[Path]) -> dict[str, list[Dialogue]]:
    sources: dict[str, list[Dialogue]] = {}
    for folder in map(Run, runs):
        dialogues = folder.read("dialogues")
        if dialogues.is_empty():
            raise CrsError(f"{folder.path} has no dialogues; give the folder of a finished run")
        name = folder.info.get("parameters", {}).get("condition") or dialogues["condition"][0]
        if name in (*sources, BASE, HUMAN):
            raise CrsError(
                f"two sources are called {name!r}; give runs of different conditions (-p condition=NAME) and curated "
                "sets in folders of other names"
            )
        sources[name] = as_texts(folder.read("turns"))
    return sources


def _first(name: str, dialogues: Sequence[Dialogue], n: int) -> list[Dialogue]:
    """The first `n` in a seeded order of those in which the recommender speaks."""
    able = [one for one in dialogues if any(turn.role == RECOMMENDER for turn in one.turns)]
    if len(able) < n:
        raise CrsError(f"{name} has {len(able)} dialogues to train on, {n} are asked for; give smaller sizes")
    return drawn(able, n)


def often_named(names: Mapping[str, str], dialogues: Sequence[Dialogue], n: int) -> dict[str, str]:
    """Ids and names of the `n` movies (0: all) that `dialogues` name most often, by id; the first id among equals."""
    count = dict.fromkeys(names, 0)
    for mention in (mention for one in dialogues for turn in one.turns for mention in turn.mentions):
        if mention.item_id in count:
            count[mention.item_id] += 1
    most = sorted(names, key=lambda item: (-count[item], item))[: n or None]
    return {item: names[item] for item in sorted(most)}


# ── one point ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Bench:
    """What all points share: base, settings, test dialogues and films."""

    def __init__(
        self,
        opened: llama.Model,
        model: str,
        test: Sequence[Dialogue],
        films: Mapping[str, str],
        to: Path,
        threads: int,
    ) -> None:
        from crslib.training.fit import Settings

        self._opened, self._model, self._to, self._films = opened, model, to, films
        self._threads = n_threads(threads)
        self._template = ChatTemplate(*opened.chat_template)
        self._settings = Settings(epochs=1, step_examples=_STEP, batch_tokens=_BATCH)
        self._device, self._precision = run.resolve_device("auto", "auto", self._threads)
        self._test, self._cases = self.encode(test), recommender.cases(test)
        self._identity = [
            file_sha256(opened.path),
            asdict(self._settings),
            self._test["tokens"].to_list(),
            dict(films),
            self._precision,
        ]

    def encode(self, dialogues: Sequence[Dialogue]) -> pl.DataFrame:
        """The recommender's side of dialogues: the columns of `examples.SCHEMA`."""
        about = redial.domain()
        nothing = Knowledge(pl.DataFrame(schema=dict(schemas.TABLES["items"])), (), about)  # a view of utterances alone
        return examples.examples(dialogues, RECOMMENDER, self._opened, self._template, nothing, max_tokens=_MAX_TOKENS)

    def key(self, rows: pl.DataFrame) -> str:
        """A hash of all that decides a point's figures, except the number of threads, which changes last digits."""
        return digest([*self._identity, rows["tokens"].to_list(), rows["kind"].to_list()], "usefulness")

    @functools.cached_property
    def _untrained(self) -> tuple[Any, Any, Mapping[str, Any]]:
        """The base with a new adapter, its file, and the values of the new adapter."""
        model, base = run.load_model(self._model, None, self._settings.seed, self._device, self._precision)
        return model, base, Adapter.of(model).pairs

    def point(self, name: str, rows: pl.DataFrame, key: str, count: Callable[[int], None]) -> dict[str, Any]:
        """Trains on the examples `rows`, if there are any, and tests; `count` gets the number of dialogues done."""
        model, base, new = self._untrained
        model.load(new)
        steps, adapter = 0, None
        if len(rows):
            from crslib.training.fit import fit
            from crslib.training.objectives import SFTObjective

            checkpoint, adapter = self._to / f"{key}.pt", self._to / f"{name}.gguf"
            log = fit(
                model,
                SFTObjective(rows, self._device, base.shape.n_ctx),
                None,
                self._settings,
                checkpoint,
                resume=True,
                progress=lambda done, total: count(len(rows) * done // total),
            )
            steps = len(log)
            write_gguf(Adapter.of(model), base.shape, adapter, name=name)
        sums = losses.by_trainer(model, self._test, 2 * _BATCH, lambda done, _: count(len(rows) + done))
        with contextlib.closing(
            llama.LlamaEngine(self._opened, adapter, n_ctx=_N_CTX, width=1, threads=self._threads)
        ) as reader:
            places = list(ranked(reader, self._cases, self._films))
        if len(rows):
            checkpoint.unlink()
        counts = examples.count(rows)
        return {
            "steps": steps,
            "tokens": counts["tokens"],
            "own_tokens": sum(counts[kind] for kind in KINDS),
            "parts": [*word_parts(sums), *film_parts(places)],
        }


def ranked(reader: Reader, cases: Sequence[Case], films: Mapping[str, str]) -> Iterator[tuple[str, int, float]]:
    """Dialogue, place among `films` (id to name) and −log share of the probability, of every target among them."""
    titles, row = (
        TitleModel(reader, list(films.values()), redial.domain()),
        {item: place for place, item in enumerate(films)},
    )
    for case in cases:
        if targets := [row[item] for item in case.new if item in row]:
            scores = titles(case.turns)
            scores[[row[item] for item in case.mentioned if item in row]] = -np.inf
            total = float(logsumexp(scores))
            for target in targets:
                yield case.dialogue_id, recommender.rank(scores, target), total - float(scores[target])


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def word_parts(sums: pl.DataFrame) -> Parts:
    """From `losses.by_trainer`: nats and own tokens of each test dialogue, of all kinds together and of each."""
    rows: Parts = []
    for dialogue_id, kind, nats, n in sums.sort("dialogue_id", "kind").iter_rows():
        rows += [(dialogue_id, metric, nats, n) for metric in (ALL, KINDS[examples.KINDS[kind]])]
    return rows


def film_parts(places: Sequence[tuple[str, int, float]]) -> Parts:
    """From `ranked`: each named film's part in each metric of films."""
    rows: Parts = []
    for dialogue_id, place, nats in places:
        gained = recommender.gains(np.array([place]))
        rows += [(dialogue_id, FILM, nats, 1.0), *((dialogue_id, name, float(gained[name][0]), 1.0) for name in RANKS)]
    return rows


def figures(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The columns of `POINTS` for records (source, n, steps, tokens, own_tokens, parts), in their order."""
    rows = []
    for record in records:
        parts = _parts(record)
        estimates = stats.ratios(parts, parts["dialogue_id"], times=_TIMES, seed=0)
        about = [record[name] for name in ("source", "n", "steps", "tokens", "own_tokens")]
        rows += [(*about, name, (e := estimates[name]).value, e.low, e.high) for name in METRICS if name in estimates]
    return pl.DataFrame(rows, schema=POINTS, orient="row")


def differences(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> pl.DataFrame:
    """The columns of `DIFFERENCES`: the first of `sources` minus each other one, at every size that both have.

    Both figures are of the same test dialogues, which are resampled together.
    """
    by_point = {(record["source"], record["n"]): _parts(record) for record in records}
    rows = []
    for against in sources[1:]:
        for n in sorted({n for name, n in by_point if name == against and (sources[0], n) in by_point}):
            both = by_point[sources[0], n].join(by_point[against, n], on=["dialogue_id", "metric"], suffix="_against")
            for metric in METRICS:
                of = both.filter(metric=metric).sort("dialogue_id")
                if len(of):
                    part, whole = (of["part"] - of["part_against"]).to_numpy(), of["whole"].to_numpy()
                    estimate = stats.bootstrap(functools.partial(_ratios, part, whole), len(of), times=_TIMES, seed=0)
                    rows.append((sources[0], against, n, metric, estimate.value, estimate.low, estimate.high))
    return pl.DataFrame(rows, schema=DIFFERENCES, orient="row")


def _ratios(part: np.ndarray, whole: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Σ part / Σ whole of each resample `drawn` (times, n)."""
    return (drawn @ part) / (drawn @ whole)


def _parts(record: Mapping[str, Any]) -> pl.DataFrame:
    schema = {"dialogue_id": pl.String, "metric": pl.String, "part": pl.Float64, "whole": pl.Float64}
    parts = pl.DataFrame(record["parts"], schema=schema, orient="row")
    return parts.group_by("dialogue_id", "metric").agg(pl.col("part", "whole").sum()).sort("dialogue_id", "metric")


def formatted(points: pl.DataFrame, differences: pl.DataFrame) -> str:
    """Both frames of `measure` as Markdown tables."""
    rows = [
        (source, n, f"{tokens:,}, {own:,}", *_cells(part, ".3f"))
        for (source, n, _, tokens, own), part in points.group_by(*list(POINTS)[:5], maintain_order=True)
    ]
    tables = [text.markdown(("trained on", "dialogues", "tokens read, own", *METRICS), rows)]
    if len(differences):
        rows = [
            (f"{source} − {against}", n, *_cells(part, "+.3f"))
            for (source, against, n), part in differences.group_by("source", "against", "n", maintain_order=True)
        ]
        tables.append(text.markdown(("difference", "dialogues", *METRICS), rows))
    return "\n\n".join(tables)


def _cells(part: pl.DataFrame, form: str) -> list[str]:
    rows = {metric: row for metric, *row in part.select("metric", "value", "low", "high").iter_rows()}
    return [text.estimate(*rows.get(metric, (None, None, None)), form=form) for metric in METRICS]
