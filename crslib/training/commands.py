"""What `crs train` and `crs prefer` do: parameters and ReDial's training dialogues in, a folder with an adapter out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crslib.config import PreferenceParameters, TrainingParameters, resolve
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue, redial
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines import llama, weights
from crslib.engines.base import Sampling
from crslib.engines.loading import CACHE
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.judging.llm import LocalJudge
from crslib.store import Progress, Run, no_progress, writing
from crslib.training import preferences, run
from crslib.training.adapter import export
from crslib.training.base import Base
from crslib.training.judge import scores
from crslib.training.run import CHECKPOINT

if TYPE_CHECKING:
    from crslib.training.fit import Settings

_STEP_TOKENS = 4096  # of DPO: some six pairs
_ROWS = 16  # continuations written at once
_N_CTX = 1024


def train(parameters: TrainingParameters, progress: Progress = no_progress) -> dict[str, Any]:
    """SFT of a role; see `run.train` for what comes of it. What was killed goes on.

    Raises `CrsError` as that does, and where the dialogues cannot be read.
    """
    run.need_extra()
    dialogues = _dialogues(parameters)
    return run.train(
        parameters.role,
        dialogues,
        redial.items(),
        parameters.folder,
        _settings(parameters),
        model=parameters.model,
        init=resolve(parameters.init) if parameters.init else None,
        device=parameters.device,
        precision=parameters.precision,
        resume=(parameters.folder / CHECKPOINT).exists(),
        validation=parameters.validation,
        negative_weight=parameters.negative_weight,
        without=parameters.without,
        source=f"{len(dialogues)} dialogues of ReDial's training part (Li et al. 2018, CC BY 4.0)",
        command=_command("train", parameters),
        threads=parameters.threads or None,
        progress=progress,
    )


def pairs(parameters: PreferenceParameters, progress: Progress = no_progress) -> pl.DataFrame:
    """Pairs for DPO, made by the adapter itself: the columns of `preferences.PAIRS`; `progress` counts contexts.

    A user's contexts are moments in which one film was named for the first time, each kind of private note alike often;
    a recommender's are any of its turns. In the folder: `journal.jsonl` with the continuations (what was killed goes
    on), `candidates.parquet` with their scores and `pairs.jsonl`, the pairs as TRL reads them. Raises `CrsError` for
    files that cannot be read or written and where no continuation is clearly better than another.
    """
    run.need_extra()
    dialogues = _dialogues(parameters)
    catalog = Catalog(redial.items())
    contexts = drawn(dialogues, parameters.role, catalog, parameters.contexts, parameters.seed)
    base, start = llama.model_path(parameters.model), _as_gguf(parameters)
    model = llama.Model(weights.merged(base, start, "Q8_0", CACHE))
    threads = parameters.threads or os.cpu_count() or 1
    engine = llama.LlamaEngine(model, None, Sampling(), n_ctx=_N_CTX, width=_ROWS, threads=threads)
    try:
        with Run(parameters.folder).journal() as journal:
            made = preferences.candidates(contexts, engine, parameters.draws, parameters.seed, journal, progress)
        judged = preferences.judge(contexts, made, catalog)
        if parameters.judge:
            with LocalJudge(llama.model_path(parameters.judge), threads) as judge:
                judged = preferences.also(judged, scores(judge, contexts, made))
        found = preferences.pairs(contexts, judged, engine)
    finally:
        engine.close()
        model.close()
    with writing(parameters.folder / "candidates.parquet") as temporary:
        judged.write_parquet(temporary)
    preferences.write_jsonl(preferences.messages(contexts, found), parameters.folder / "pairs.jsonl")
    if found.is_empty():
        raise CrsError(f"in {len(contexts)} contexts no continuation is clearly better than another; give more")
    return found


def prefer(parameters: PreferenceParameters, found: pl.DataFrame, progress: Progress = no_progress) -> dict[str, Any]:
    """DPO on the pairs `found`; see `run.prefer`. Those of some dialogues are kept for checks."""
    of = pl.col("context_id").str.split(":").list.first()
    dialogues = found.select(of.unique())["context_id"].to_list()
    dialogues.sort(key=lambda dialogue: derive_seed(parameters.seed, "held", dialogue))
    held = of.is_in(dialogues[: round(parameters.validation * len(dialogues))])
    return run.prefer(
        parameters.role,
        found.filter(~held),
        found.filter(held),
        parameters.start,
        parameters.folder,
        _settings(parameters),
        beta=parameters.beta,
        sft=parameters.sft,
        model=parameters.model,
        device=parameters.device,
        precision=parameters.precision,
        resume=(parameters.folder / CHECKPOINT).exists(),
        source="its own continuations of moments in ReDial's training part (Li et al. 2018, CC BY 4.0)",
        command=_command("prefer", parameters),
        threads=parameters.threads or None,
        progress=progress,
    )


def drawn(dialogues: list[Dialogue], role: str, catalog: Catalog, n: int, seed: int) -> list[preferences.Context]:
    """About `n` contexts of `role`: a user's with one forced note, each kind alike often; any of a recommender's."""
    contexts = preferences.of_people(dialogues, role, catalog)
    if role != "user":
        return preferences.draw(contexts, {"": n}, seed)
    kinds = list(NOTE_KINDS.values())
    return preferences.draw(preferences.forced(contexts), dict.fromkeys(kinds, -(-n // len(kinds))), seed)


def _dialogues(parameters: TrainingParameters | PreferenceParameters) -> list[Dialogue]:
    """ReDial's training dialogues, in file order, without the first `skip` and no more than `limit`."""
    dialogues = redial.read(resolve(parameters.redial), "train")
    if parameters.skip >= len(dialogues):
        raise CrsError(f"skip = {parameters.skip} leaves none of {len(dialogues)} dialogues; pass over fewer")
    return dialogues[parameters.skip :][: parameters.limit or None]


def _settings(parameters: TrainingParameters | PreferenceParameters) -> "Settings":
    from crslib.training.fit import Settings

    device, _ = run.chosen(parameters.device, parameters.precision)
    sizes = {"batch_tokens": run.BATCH_TOKENS[device.type]}
    if isinstance(parameters, PreferenceParameters):
        sizes["step_tokens"] = _STEP_TOKENS
    return Settings(epochs=parameters.epochs, lr=parameters.lr, seed=parameters.seed, **sizes)


def _as_gguf(parameters: PreferenceParameters) -> Path:
    """The adapter of SFT as llama.cpp reads it."""
    if parameters.start.is_file():
        return parameters.start
    base = Base(llama.model_path(parameters.model))
    path = parameters.folder / "start.gguf"
    export(run.read(parameters.start, base.shape), base.shape, path, "F16")
    return path


def _command(name: str, parameters: TrainingParameters | PreferenceParameters) -> str:
    """What to type for the same again; of paths the last part only, for they lie elsewhere on another machine."""
    words = [f"crs {name} {parameters.role}"]
    for field, info in type(parameters).model_fields.items():
        value = getattr(parameters, field)
        if field not in ("role", "to", "device", "threads") and value != info.default:
            words.append(f"--{field.replace('_', '-')} {Path(value).name if isinstance(value, str) else value}")
    return " ".join(words)
