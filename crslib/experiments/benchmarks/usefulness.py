"""What dialogues are worth as training data: a new recommender's adapter learns from N of them and is tried on people.

Every source, simulated or human, gives N dialogues; each time an adapter begins anew on the base and learns the
recommender's words by the project's own SFT, with the same seed and in the same number of steps whatever the source.
It then meets human test dialogues: how likely are a human recommender's words to it, and at which place does it rank
the film that this recommender goes on to name? The base without an adapter is the point N = 0.

Of a run only the words of its dialogues are read, as its recommender said and heard them; of people the training part
teaches and the test part measures. Knows nothing of how the dialogues came about.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import logsumexp

from crslib import schemas, stats
from crslib.data import exports
from crslib.data.corpora import Dialogue, Turn, redial
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.experiments.benchmarks import recommender
from crslib.experiments.benchmarks.adapters import BASE, drawn
from crslib.experiments.benchmarks.recommender import Case, Reader, TitleModel
from crslib.identity import digest, file_sha256
from crslib.reporting import text
from crslib.store import Progress, Run, no_progress
from crslib.training import examples, losses, run
from crslib.training.adapter import Adapter, export

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
    "learnt": pl.Int64,
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
_STEP = 4  # dialogues before each step of the optimizer: of so few dialogues the usual 8,192 tokens made two steps
_BATCH = 1024
_MAX_TOKENS = 1024
_N_CTX = 2048  # of the reader of titles
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
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Figures of every point (`POINTS`) and differences between sources of the same size (`DIFFERENCES`).

    `path`: ReDial's zip or folder; `runs`: folders, each a source of its condition's name. Of every source the first N
    dialogues in a seeded order are taken, so smaller sets lie in larger ones, and runs for the same people give the
    same people. Test dialogues (`n_test`, 0: all) and films are the same for all. `tokens` were read and `learnt` are
    the recommender's own among them. Cross-entropies are in nats; films are ranked as `recommender.TitleModel` does,
    among the `n_films` that human training dialogues name most (0: all of ReDial's), those named before left out, given
    the turns before; `FILM` is the cross-entropy of the named one among them. Intervals: 95 %, test dialogues
    resampled; those of differences pair the dialogues, and none knows what another seed of training would give.

    The folder `to` keeps adapters, and a journal of finished points: what was killed goes on. `progress` counts
    dialogues, learnt from and tested on. Raises `CrsError` for files that cannot be read, a source with too
    few dialogues, and where the extra `train` is not installed.
    """
    run.need_extra()
    train, test = redial.read(path, "train"), drawn(redial.read(path, "test"), n_test)
    sources = _simulated(runs) | {HUMAN: train}
    chosen = {name: _first(name, found, max(sizes)) for name, found in sources.items()}
    films = often_named(redial.movies(path), train, n_films)
    points = [(BASE, 0), *((name, n) for n in sorted(set(sizes)) for name in chosen)]
    total = sum(n + len(test) for _, n in points)
    with contextlib.closing(llama.Model(llama.model_path(model))) as speaker, Run(to).journal() as journal:
        bench = _Bench(speaker, model, test, films, to, threads)
        known = {record["key"]: record for record in journal.records}
        records, done = [], 0
        for name, n in points:
            made = bench.encoded(chosen[name][:n] if n else [])
            if (key := bench.key(made)) not in known:

                def tell(reached: int, before: int = done) -> None:
                    progress(before + reached, total)

                known[key] = {"key": key, **bench.point(f"{name}-{n}", made, key, tell)}
                journal.append(known[key])
            records.append({**known[key], "source": name, "n": n})
            done += n + len(test)
            progress(done, total)
    return figures(records), differences(records, list(chosen))


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def spoken(turns: pl.DataFrame) -> list[Dialogue]:
    """The dialogues of a run's table `turns` as words alone: no notes, no people, no items beyond the words."""
    return [
        Dialogue(dialogue_id, "", "", tuple(Turn(row["role"], row["text"], (), None) for row in rows), {})
        for dialogue_id, rows in exports.talks(turns)
    ]


def _simulated(runs: Sequence[Path]) -> dict[str, list[Dialogue]]:
    found: dict[str, list[Dialogue]] = {}
    for folder in map(Run, runs):
        dialogues = folder.read("dialogues")
        if dialogues.is_empty():
            raise CrsError(f"{folder.path} has no dialogues; give the folder of a finished run")
        name = dialogues["condition"][0]
        if name in (*found, BASE, HUMAN):
            raise CrsError(f"two sources are called {name!r}; give runs of different conditions (-p condition=NAME)")
        found[name] = spoken(folder.read("turns"))
    return found


def _first(name: str, dialogues: Sequence[Dialogue], n: int) -> list[Dialogue]:
    """The first `n` in a seeded order of those in which the recommender speaks."""
    able = [one for one in dialogues if any(turn.role == RECOMMENDER for turn in one.turns)]
    if len(able) < n:
        raise CrsError(f"{name} has {len(able)} dialogues to learn from, {n} are asked for; give smaller sizes")
    return drawn(able, n)


def often_named(names: Mapping[str, str], dialogues: Sequence[Dialogue], n: int) -> dict[str, str]:
    """Ids and names of the `n` movies (0: all) that `dialogues` name most often, by id; the first id among equals."""
    count = dict.fromkeys(names, 0)
    for mention in (mention for one in dialogues for turn in one.turns for mention in turn.mentions):
        if mention.item_id in count:
            count[mention.item_id] += 1
    kept = sorted(names, key=lambda item: (-count[item], item))[: n or None]
    return {item: names[item] for item in sorted(kept)}


# ── one point ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Bench:
    """What all points have in common: base, settings, test dialogues and films."""

    def __init__(
        self,
        speaker: llama.Model,
        model: str,
        test: Sequence[Dialogue],
        films: Mapping[str, str],
        to: Path,
        threads: int | None,
    ) -> None:
        from crslib.training.fit import Settings

        self._speaker, self._model, self._to, self._films = speaker, model, to, films
        self._threads = threads or os.cpu_count() or 1
        self._template = ChatTemplate(*speaker.chat_template)
        self._settings = Settings(epochs=1, step_examples=_STEP, batch_tokens=_BATCH)
        self._where, self._how = run.chosen("auto", "auto", self._threads)
        self._test, self._cases = self.encoded(test), recommender.cases(test)
        self._identity = [
            file_sha256(speaker.path),
            asdict(self._settings),
            self._test["tokens"].to_list(),
            dict(films),
            self._how,
        ]

    def encoded(self, dialogues: Sequence[Dialogue]) -> pl.DataFrame:
        """What the recommender reads and says in them: the columns of `examples.SCHEMA`."""
        none = pl.DataFrame(schema=dict(schemas.TABLES["items"]))  # a recommender is told of no items
        return examples.examples(dialogues, RECOMMENDER, self._speaker, self._template, none, max_tokens=_MAX_TOKENS)

    def key(self, made: pl.DataFrame) -> str:
        """Of everything that a point's figures depend on but the number of threads, which moves last digits."""
        return digest([*self._identity, made["tokens"].to_list(), made["kind"].to_list()], "usefulness")

    @functools.cached_property
    def _pupil(self) -> tuple[Any, Any, Mapping[str, Any]]:
        """The base with a new adapter, and the adapter as it began."""
        pupil, base = run.load(self._model, None, self._settings.seed, self._where, self._how)
        return pupil, base, Adapter.of(pupil).pairs

    def point(self, name: str, made: pl.DataFrame, key: str, tell: Callable[[int], None]) -> dict[str, Any]:
        """Trains on the examples `made`, if there are any, and measures; `tell` is told dialogues done."""
        pupil, base, beginning = self._pupil
        pupil.load(beginning)
        steps, adapter = 0, None
        if len(made):
            from crslib.training.fit import fit
            from crslib.training.objectives import OwnWords

            checkpoint, adapter = self._to / f"{key}.pt", self._to / f"{name}.gguf"
            log = fit(
                pupil,
                OwnWords(made, self._where, base.shape.n_ctx),
                None,
                self._settings,
                checkpoint,
                resume=True,
                progress=lambda done, total: tell(len(made) * done // total),
            )
            steps = len(log)
            export(Adapter.of(pupil), base.shape, adapter, name=name)
        sums = losses.by_trainer(pupil, self._test, 2 * _BATCH, lambda done, _: tell(len(made) + done))
        with contextlib.closing(
            llama.LlamaEngine(self._speaker, adapter, n_ctx=_N_CTX, width=1, threads=self._threads)
        ) as reader:
            places = list(ranked(reader, self._cases, self._films))
        if len(made):
            checkpoint.unlink()
        count = examples.count(made)
        return {
            "steps": steps,
            "tokens": count["tokens"],
            "learnt": sum(count[kind] for kind in KINDS),
            "parts": [*word_parts(sums), *film_parts(places)],
        }


def ranked(reader: Reader, cases: Sequence[Case], films: Mapping[str, str]) -> Iterator[tuple[str, int, float]]:
    """Dialogue, place among `films` (id to name) and −log share of the probability, of every target among them."""
    titles, row = TitleModel(reader, list(films.values())), {item: place for place, item in enumerate(films)}
    for case in cases:
        if targets := [row[item] for item in case.targets if item in row]:
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
    """From `ranked`: what each named film counts in each metric of films."""
    rows: Parts = []
    for dialogue_id, place, nats in places:
        gained = recommender.gains(np.array([place]))
        rows += [(dialogue_id, FILM, nats, 1.0), *((dialogue_id, name, float(gained[name][0]), 1.0) for name in RANKS)]
    return rows


def figures(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The columns of `POINTS` for records (source, n, steps, tokens, learnt, parts), in their order."""
    rows = []
    for record in records:
        parts = _parts(record)
        found = stats.ratios(parts, parts["dialogue_id"], times=_TIMES, seed=0)
        about = [record[name] for name in ("source", "n", "steps", "tokens", "learnt")]
        rows += [(*about, name, (e := found[name]).value, e.low, e.high) for name in METRICS if name in found]
    return pl.DataFrame(rows, schema=POINTS, orient="row")


def differences(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> pl.DataFrame:
    """The columns of `DIFFERENCES`: the first of `sources` minus each other one, at every size that both have.

    A difference of two figures over the same test dialogues, which are resampled together.
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
                    found = stats.bootstrap(
                        lambda drawn, p=part, w=whole: (drawn @ p) / (drawn @ w), len(of), times=_TIMES, seed=0
                    )
                    rows.append((sources[0], against, n, metric, found.value, found.low, found.high))
    return pl.DataFrame(rows, schema=DIFFERENCES, orient="row")


def _parts(record: Mapping[str, Any]) -> pl.DataFrame:
    schema = {"dialogue_id": pl.String, "metric": pl.String, "part": pl.Float64, "whole": pl.Float64}
    parts = pl.DataFrame(record["parts"], schema=schema, orient="row")
    return parts.group_by("dialogue_id", "metric").agg(pl.col("part", "whole").sum()).sort("dialogue_id", "metric")


def formatted(points: pl.DataFrame, differed: pl.DataFrame) -> str:
    """Both frames of `measure` as Markdown tables."""
    rows = [
        (source, n, f"{tokens:,}, {learnt:,}", *_cells(part, ".3f"))
        for (source, n, _, tokens, learnt), part in points.group_by(*list(POINTS)[:5], maintain_order=True)
    ]
    tables = [text.markdown(("trained on", "dialogues", "tokens read, own", *METRICS), rows)]
    if len(differed):
        rows = [
            (f"{source} − {against}", n, *_cells(part, "+.3f"))
            for (source, against, n), part in differed.group_by("source", "against", "n", maintain_order=True)
        ]
        tables.append(text.markdown(("difference", "dialogues", *METRICS), rows))
    return "\n\n".join(tables)


def _cells(part: pl.DataFrame, form: str) -> list[str]:
    rows = {metric: row for metric, *row in part.select("metric", "value", "low", "high").iter_rows()}
    return [text.estimate(*rows.get(metric, (None, None, None)), form) for metric in METRICS]
