"""Cross-entropy of adapters on human test dialogues, per own token, in every runtime: the table of `data/adapters`.

Adapters are read from the files that a simulation uses (LoRA GGUF), by the trainer too. Knows nothing of how they were
trained.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from crslib import stats
from crslib.config import SimulationParameters, n_threads
from crslib.data.corpora import Dialogue, redial
from crslib.dialogue.scripts import SCRIPTED
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama, weights
from crslib.engines.loading import CACHE, engine_files
from crslib.files import Progress, no_progress, write_parquet
from crslib.identity import derive_seed, digest
from crslib.metrics import Result, Results
from crslib.reporting import text
from crslib.simulation.dialogues import shows_facts, style_files
from crslib.training import adapter, examples, losses
from crslib.training import run as training
from crslib.training.base import Base, transformers_model
from crslib.training.knowledge import Knowledge

BASE = "base"
TORCH, TRANSFORMERS = "torch", "transformers"
UNMERGED, MERGED = "llama.cpp, unmerged", "llama.cpp, merged Q8_0"
SCHEMA = {
    "role": pl.String,
    "adapter": pl.String,
    "without": pl.String,
    "runtime": pl.String,
    "kind": pl.String,
    "loss": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_tokens": pl.Int64,
    "n_dialogues": pl.Int64,
}
N_FORESIGHT = 50  # human dialogues that `foresight` reads with each model: a minute on two cores
_MAX_TOKENS = 1024
_Job = tuple[str, str, Path | None, tuple[str, ...], str]
"""Role, adapter's name, its file, parts removed from the view, and the runtime (empty: torch, all dialogues)."""
_BATCH = 2048


def measure(
    path: Path,
    adapters: Sequence[tuple[str, str, Path]],
    n: int,
    n_runtimes: int,
    model: str = llama.BUILT_IN,
    without: Collection[str] = (),
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """The columns of `SCHEMA`: nats per own token with 95 % intervals over dialogues, for all tokens and per kind.

    `path`: ReDial; `n` dialogues of its test part are drawn (0: all). `adapters`: (role of `examples.ROLES`, name,
    GGUF), each read in the view that it was trained in. For each role the rows are: the base, in the view of the last
    adapter; its adapters; the last adapter with each part of its view removed; the last adapter on the first
    `n_runtimes` dialogues in torch, in `transformers` where that is installed, and in llama.cpp with the adapter
    unmerged and merged. With `without` (of `examples.WITHOUT`), for adapters trained so, the rows are the adapters
    alone, with these parts of the view removed. `progress` counts dialogues over all rows. Raises `CrsError` for files
    that cannot be read, and where the extra `train` is not installed.
    """
    training.need_extra()
    for *_, adapter_file in adapters:
        llama.adapter_path(str(adapter_file))  # fails now rather than in an hour
    test = redial.read(path, "test")
    dialogues, known = drawn(test, n), Knowledge(redial.items(), test, redial.domain())
    jobs: list[_Job]
    if without:
        jobs = [(role, name, file, tuple(without), "") for role, name, file in adapters]
    else:
        jobs = [job for role in dict.fromkeys(role for role, _, _ in adapters) for job in _jobs(role, adapters)]
    parts = {(role, name): weights.parts_of(file) for role, name, file in adapters}
    parts |= {(role, BASE): parts[role, name] for role, name, _ in adapters}  # in the view of the last one
    total = sum(n_runtimes if runtime else len(dialogues) for *_, runtime in jobs)
    done, tables = 0, []
    device, precision = training.resolve_device("auto", "float32")  # the same precision on every machine
    load = functools.lru_cache(maxsize=1)(lambda file: training.load_model(model, file, 0, device, precision)[0])
    with contextlib.closing(llama.Model(llama.model_path(model))) as base:
        template = ChatTemplate(*base.chat_template)
        for role, name, file, removed, runtime in jobs:
            subset = dialogues[:n_runtimes] if runtime else dialogues
            lacking = {*removed, *examples.lacking(role, parts[role, name])}
            rows = examples.examples(subset, role, base, template, known, without=lacking, max_tokens=_MAX_TOKENS)

            def count(some: int, _: int, before: int = done) -> None:
                progress(before + some, total)

            sums = _losses(base, rows, file, runtime, load, count)
            done += len(subset)
            about = {"role": role, "adapter": name, "without": " and ".join(removed), "runtime": runtime or TORCH}
            table = losses.table(sums, examples.KINDS)
            tables.append(table.select(*(pl.lit(value).alias(key) for key, value in about.items()), pl.all()))
    return pl.concat(tables).match_to_schema(SCHEMA)


def foresight(dialogues: Sequence[Dialogue], run: Mapping[str, Any], *, times: int, seed: int) -> Results:
    """`{role}_people_cross_entropy`: nats per own token of human dialogues under each model of a run.

    `run`: the parameters in its `run.json`. `N_FORESIGHT` of `dialogues` are drawn. A model that knows targets gets
    those of the human dialogue; a model that writes both sides has no role and no figure.
    """
    if not dialogues:
        return Results({}, missing="no human dialogues to read; set `redial`")
    if run.get("baseline", SCRIPTED) == SCRIPTED:
        missing = "the run has no model of either role: it is scripted, of a file, or has no parameters"
        return Results({}, missing=missing)
    parameters = SimulationParameters.pick(run)
    styled = style_files(parameters)
    results = {}
    for role, view in (
        (USER, run["baseline"] or USER),
        (RECOMMENDER, RECOMMENDER),
    ):
        if not parameters.is_local(role):
            continue  # only a model here can be asked how likely words are
        present = {"notes": parameters.memory, "facts": shows_facts(parameters), "style": styled[role] is not None}
        path, unmerged, source = engine_files(parameters, parameters.model(role), parameters.adapter(role))
        with contextlib.closing(llama.Model(path)) as opened:
            rows = examples.examples(
                drawn(dialogues, N_FORESIGHT),
                view,
                opened,
                ChatTemplate(*opened.chat_template),
                Knowledge(redial.items(), dialogues, redial.domain()),
                without=[part for part, held in present.items() if not held],
                max_tokens=_MAX_TOKENS,
            )
            read = functools.partial(losses.by_engine, opened, unmerged, rows, threads=n_threads(parameters.threads))
            sums = _once(read, source, rows)
        sums = sums.group_by("dialogue_id").agg(pl.col("nats", "n").sum()).sort("dialogue_id")
        estimate = stats.ratio(sums["nats"].to_numpy(), sums["n"].to_numpy(), times=times, seed=seed)
        if estimate is not None:
            results[f"{role}_people_cross_entropy"] = Result(estimate)
    return Results(results)


def _once(read: Callable[[], pl.DataFrame], source: Mapping[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    """What `read` gives for a model and examples; it is kept, since conditions of a comparison share their models."""
    examples_read = rows.select("dialogue_id", "tokens", "target").rows()
    path = CACHE / f"{digest([dict(source), examples_read], 'foresight')}.parquet"
    with contextlib.suppress(OSError, pl.exceptions.PolarsError):  # there is none, or it is damaged
        known = pl.read_parquet(path)
        if dict(known.schema) == losses.SUMS:
            return known
    sums = read()
    write_parquet(sums, path)
    return sums


def drawn(dialogues: Sequence[Dialogue], n: int) -> list[Dialogue]:
    """`n` of the dialogues (0: all) in an order that depends on their ids only."""
    order = sorted(dialogues, key=lambda dialogue: derive_seed(0, "measured", dialogue.dialogue_id))
    return order[: n or None]


def formatted(measured: pl.DataFrame) -> str:
    """The result of `measure` as a Markdown table, a row per measurement."""
    cells = []
    number = (pl.col("kind") == losses.ALL).cum_sum()  # the first row of a measurement is that of all tokens
    for _, part in measured.group_by(number, maintain_order=True):
        role, adapter, without, runtime = part.select("role", "adapter", "without", "runtime").row(0)
        n = part["n_dialogues"][0]
        loss = dict(part.select("kind", "loss").iter_rows())
        low, high = part.filter(kind=losses.ALL).select("low", "high").row(0)
        kinds = " / ".join(f"{loss[kind]:.2f}" for kind in examples.KINDS.values() if kind in loss)
        name = f"{adapter}, without {without}" if without else adapter
        cells.append((role, name, runtime, text.estimate(loss[losses.ALL], low, high, form=".3f"), kinds, n))
    columns = ("role", "adapter", "runtime", "nats per own token", "text / title / end", "dialogues")
    return text.markdown(columns, cells)


def _jobs(role: str, adapters: Sequence[tuple[str, str, Path]]) -> Iterator[_Job]:
    own = [(name, file) for of, name, file in adapters if of == role]
    last, file = own[-1]
    yield role, BASE, None, (), ""
    yield from ((role, name, file, (), "") for name, file in own)
    absent = examples.lacking(role, weights.parts_of(file))
    yield from ((role, last, file, (part,), "") for part in examples.WITHOUT[role] if part not in absent)
    others = (TRANSFORMERS, UNMERGED, MERGED) if find_spec("transformers") else (UNMERGED, MERGED)
    yield from ((role, last, file, (), runtime) for runtime in (TORCH, *others))


def _losses(
    base: llama.Model,
    rows: pl.DataFrame,
    file: Path | None,
    runtime: str,
    load: Callable[[Path | None], Any],
    progress: Progress,
) -> pl.DataFrame:
    """The losses of examples `rows`; see `losses`. `load` opens the base with an adapter in torch."""
    if runtime in ("", TORCH):
        return losses.by_trainer(load(file), rows, _BATCH, progress)
    if runtime == TRANSFORMERS:
        return losses.by_transformers(_transformers(base.path, file), rows)
    if runtime == UNMERGED or file is None:
        return losses.by_engine(base, file, rows, threads=n_threads(0), progress=progress)
    with contextlib.closing(llama.Model(weights.merged(base.path, file, "Q8_0", CACHE))) as merged:
        return losses.by_engine(merged, None, rows, threads=n_threads(0), progress=progress)


def _transformers(path: Path, file: Path | None) -> Any:
    """The base in `transformers`, with the adapter added to its matrices."""
    import torch

    base = Base(path)
    model = transformers_model(base)
    if file is not None:
        lora = adapter.read(file, base.shape)
        for name, (a, b) in lora.pairs.items():
            model.get_parameter(f"{name}.weight").data += torch.from_numpy(lora.alpha / lora.rank * b @ a)
    return model
