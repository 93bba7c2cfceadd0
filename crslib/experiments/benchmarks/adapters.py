"""What adapters are worth on human dialogues that nobody trained on: cross-entropy per own token, in either runtime.

The table of `data/adapters`. Adapters are the files that ship (LoRA GGUF), read back by the trainer, so that what is
measured is what runs. Knows nothing of how they came about.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from crslib import stats
from crslib.config import SimulationParameters
from crslib.data.corpora import Dialogue, redial
from crslib.dialogue.scripts import SCRIPTED
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama, weights
from crslib.engines.loading import CACHE, prepared
from crslib.identity import derive_seed
from crslib.metrics import Result, Results
from crslib.reporting import text
from crslib.store import Progress, no_progress
from crslib.training import examples, losses
from crslib.training import run as training_run
from crslib.training.base import Base, transformers_model

BASE = "base"
TORCH, TRANSFORMERS = "torch", "transformers"
BESIDE, PREPARED = "llama.cpp, adapter beside", "llama.cpp, prepared Q8_0"
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
FORESEEN = 50  # human dialogues that `foresight` reads with each model: a minute on two cores
_MAX_TOKENS = 1024
_BATCH = 2048


def measure(
    path: Path,
    adapters: Sequence[tuple[str, str, Path]],
    n: int,
    n_runtimes: int,
    model: str = llama.BUILT_IN,
    without: str = "",
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """The columns of `SCHEMA`: nats per own token with 95 % intervals over dialogues, for all tokens and per kind.

    `path`: ReDial, of whose test part `n` dialogues are drawn (0: all). `adapters`: (role of `examples.ROLES`, name,
    GGUF). Of every role the base without an adapter comes first, and its last adapter also with parts of a user's view
    taken away; then the first `n_runtimes` of the dialogues in torch, in `transformers` where that is installed, and in
    llama.cpp, with the adapter beside its base and merged into it. With `without` (of `examples.WITHOUT`) there is
    nothing but a row per adapter, whose view lacks that: for adapters that were trained so. `progress` counts what was
    read, all rows together. Raises `CrsError` for files that cannot be read, and where the extra `train` is not
    installed.
    """
    training_run.need_extra()
    for _, _, file in adapters:
        llama.adapter_path(str(file))  # before an hour goes by
    dialogues = drawn(redial.read(path, "test"), n)
    if without:
        jobs = [(role, name, file, without, "") for role, name, file in adapters]
    else:
        jobs = [job for role in dict.fromkeys(role for role, _, _ in adapters) for job in _jobs(role, adapters)]
    total = sum(n_runtimes if runtime else len(dialogues) for *_, runtime in jobs)
    done, tables = 0, []
    where, how = training_run.chosen("auto", "float32")  # figures shall not hang on the machine
    load = functools.lru_cache(maxsize=1)(lambda file: training_run.load(model, file, 0, where, how)[0])
    with contextlib.closing(llama.Model(llama.model_path(model))) as speaker:
        template = ChatTemplate(*speaker.chat_template)
        for role, name, file, lacking, runtime in jobs:
            chosen = dialogues[:n_runtimes] if runtime else dialogues
            made = examples.examples(
                chosen, role, speaker, template, redial.items(), max_tokens=_MAX_TOKENS, **examples.WITHOUT[lacking]
            )

            def tell(some: int, _: int, before: int = done) -> None:
                progress(before + some, total)

            sums = _read(speaker, made, file, runtime, load, tell)
            done += len(chosen)
            about = {"role": role, "adapter": name, "without": lacking, "runtime": runtime or TORCH}
            table = losses.table(sums, examples.KINDS)
            tables.append(table.select(*(pl.lit(value).alias(key) for key, value in about.items()), pl.all()))
    return pl.concat(tables).match_to_schema(SCHEMA)


def foresight(dialogues: Sequence[Dialogue], run: Mapping[str, Any], *, times: int, seed: int) -> Results:
    """`{role}_people_cross_entropy`: nats per own token of human dialogues under either model of a run, as it talked.

    `run`: the parameters in its `run.json`. `FORESEEN` of the dialogues are drawn. A user model that knows the targets
    of a run gets those of the human dialogues.
    """
    if not dialogues:
        return Results({}, missing="no human dialogues to read; set `redial`")
    if not run or run["baseline"] == SCRIPTED:
        return Results({}, missing="the run has no model of either role: it is scripted, or has no parameters")
    parameters = SimulationParameters(**{name: run[name] for name in SimulationParameters.model_fields})
    told = {USER: run["baseline"] or USER, RECOMMENDER: RECOMMENDER}
    results = {}
    for role, model, adapter in (
        (USER, parameters.user_model, parameters.user_adapter),
        (RECOMMENDER, parameters.recommender_model, parameters.recommender_adapter),
    ):
        path, beside, _ = prepared(parameters, model, adapter)
        with contextlib.closing(llama.Model(path)) as speaker:
            made = examples.examples(
                drawn(dialogues, FORESEEN),
                told[role],
                speaker,
                ChatTemplate(*speaker.chat_template),
                redial.items(),
                notes=parameters.memory,
                max_tokens=_MAX_TOKENS,
            )
            sums = losses.by_engine(speaker, beside, made, threads=parameters.threads or os.cpu_count() or 1)
        sums = sums.group_by("dialogue_id").agg(pl.col("nats", "n").sum()).sort("dialogue_id")
        estimate = stats.ratio(sums["nats"].to_numpy(), sums["n"].to_numpy(), times=times, seed=seed)
        if estimate is not None:
            results[f"{role}_people_cross_entropy"] = Result(estimate)
    return Results(results)


def drawn(dialogues: Sequence[Dialogue], n: int) -> list[Dialogue]:
    """`n` of the dialogues (0: all), always the same ones."""
    order = sorted(dialogues, key=lambda dialogue: derive_seed(0, "measured", dialogue.dialogue_id))
    return order[: n or None]


def formatted(found: pl.DataFrame) -> str:
    """`measure`'s figures as a Markdown table, a row per measurement."""
    cells = []
    number = (pl.col("kind") == losses.ALL).cum_sum()  # a measurement begins with all its tokens
    for _, part in found.group_by(number, maintain_order=True):
        role, adapter, without, runtime = part.select("role", "adapter", "without", "runtime").row(0)
        n = part["n_dialogues"][0]
        loss = dict(part.select("kind", "loss").iter_rows())
        low, high = part.filter(kind=losses.ALL).select("low", "high").row(0)
        kinds = " / ".join(f"{loss[kind]:.2f}" for kind in examples.KINDS.values() if kind in loss)
        name = f"{adapter}, without {without}" if without else adapter
        cells.append((role, name, runtime, text.estimate(loss[losses.ALL], low, high, ".3f"), kinds, n))
    columns = ("role", "adapter", "runtime", "nats per own token", "text / title / end", "dialogues")
    return text.markdown(columns, cells)


def _jobs(role: str, adapters: Sequence[tuple[str, str, Path]]) -> Iterator[tuple[str, str, Path | None, str, str]]:
    """Role, name of the adapter, its file, what is left out, and the runtime where it is compared with another."""
    own = [(name, file) for of, name, file in adapters if of == role]
    last, file = own[-1]
    yield role, BASE, None, "", ""
    yield from ((role, name, file, "", "") for name, file in own)
    if role == USER:
        yield from ((role, last, file, without, "") for without in examples.WITHOUT if without)
    others = (TRANSFORMERS, BESIDE, PREPARED) if find_spec("transformers") else (BESIDE, PREPARED)
    yield from ((role, last, file, "", runtime) for runtime in (TORCH, *others))


def _read(
    speaker: llama.Model,
    made: pl.DataFrame,
    file: Path | None,
    runtime: str,
    load: Callable[[Path | None], Any],
    tell: Callable[[int, int], None],
) -> pl.DataFrame:
    if runtime in ("", TORCH):
        return losses.by_trainer(load(file), made, _BATCH, tell)
    if runtime == TRANSFORMERS:
        return losses.by_transformers(_transformers(speaker.path, file), made)
    threads = os.cpu_count() or 1
    if runtime == BESIDE or file is None:
        return losses.by_engine(speaker, file, made, threads=threads, progress=tell)
    with contextlib.closing(llama.Model(weights.merged(speaker.path, file, "Q8_0", CACHE))) as merged:
        return losses.by_engine(merged, None, made, threads=threads, progress=tell)


def _transformers(model: Path, file: Path | None) -> Any:
    """The base in `transformers` with an adapter added to its matrices."""
    import torch

    base = Base(model)
    pupil = transformers_model(base)
    if file is not None:
        adapter = training_run.read(file, base.shape)
        for name, (a, b) in adapter.pairs.items():
            delta = torch.from_numpy(adapter.alpha / adapter.rank * b @ a)
            pupil.get_parameter(f"{name}.weight").data += delta
    return pupil
