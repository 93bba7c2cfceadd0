"""`crs train` and `crs prefer`: human dialogues in, an adapter that a simulation can use out.

A training has a folder, which holds `checkpoint.pt` during training, and afterwards `log.parquet`, `figures.json`, the
PEFT folder `peft`, `ROLE.gguf` and the model card `README.md`. A killed training resumes from its checkpoint.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crslib.config import ROOT, install, n_threads, resolve
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue, folder, redial
from crslib.data.corpora.folder import Corpus
from crslib.data.corpora.opening import open_corpus
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines import llama, weights
from crslib.engines.base import Sampling
from crslib.engines.loading import CACHE
from crslib.errors import CrsError
from crslib.files import Progress, no_progress, write_parquet, writing
from crslib.identity import derive_seed
from crslib.judging.llm import LocalJudge
from crslib.store import Run
from crslib.training import adapter, cards, examples, losses, preferences
from crslib.training.base import Base
from crslib.training.knowledge import Knowledge
from crslib.training.parameters import (
    CorpusParameters,
    DrawingParameters,
    PairParameters,
    PreferenceParameters,
    TrainingParameters,
)

if TYPE_CHECKING:
    import torch

    from crslib.training.fit import Settings
    from crslib.training.model import LoraLlama, Precision

RANK, ALPHA = 16, 32.0
BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
"""Tokens computed at once on each kind of device; on a CPU by each thread."""
CHECKPOINT = "checkpoint.pt"
_MAX_TOKENS = 1024  # of an example of SFT
_DPO_STEP_TOKENS = 4096  # some six pairs
_GUARD_CHECKS = 4  # how often an epoch measures what is guarded
_WIDTH = 16  # continuations decoded at once
_N_CTX = 1024


# ── supervised fine-tuning ──────────────────────────────────────────────────────────────────────────────────────────


def train(parameters: TrainingParameters, progress: Progress = no_progress) -> dict[str, Any]:
    """SFT of a role; fills the folder of `parameters` and returns the figures. `progress` counts tokens.

    Figures: `before` and `after`, the validation loss in nats per own token by kind of token (empty without
    validation); `examples`, `validation_examples`, `tokens`, `seconds`, `tokens_per_s`, `device`, `precision`.
    Raises `CrsError` for unusable files, settings or data, and where the extra `train` is not installed.
    """
    need_extra()
    from crslib.training.fit import fit
    from crslib.training.objectives import SFTObjective

    corpus = training_corpus(parameters)
    dialogues = chosen(corpus, parameters)
    device, precision = resolve_device(parameters.device, parameters.precision, parameters.threads)
    settings = _settings(parameters, device, step_tokens=parameters.step_tokens)
    with contextlib.closing(llama.Model(llama.model_path(parameters.model))) as tokenizer:
        rows = examples.examples(
            dialogues,
            parameters.role,
            tokenizer,
            ChatTemplate(*tokenizer.chat_template),
            Knowledge(corpus.items, corpus.dialogues, corpus.domain),
            without=[parameters.without] if parameters.without else (),
            negative_weight=parameters.negative_weight,
            max_tokens=_MAX_TOKENS,
        )
    training, held_out = examples.split(rows, parameters.validation, settings.seed)
    init = resolve(parameters.init) if parameters.init else None
    model, base = load_model(parameters.model, init, settings.seed, device, precision)
    objective = SFTObjective(training, device, base.shape.n_ctx)
    validation = SFTObjective(held_out, device, base.shape.n_ctx) if len(held_out) else None
    checkpoint = parameters.folder / CHECKPOINT
    before = _losses(model, held_out, settings.batch_tokens)
    log = fit(model, objective, validation, settings, checkpoint, resume=checkpoint.exists(), progress=progress)
    figures = _speed(log, device, precision) | {
        "examples": len(training),
        "validation_examples": len(held_out),
        "before": before,
        "after": _losses(model, held_out, settings.batch_tokens),
    }
    options = asdict(settings) | {"negative_weight": parameters.negative_weight, "without": parameters.without}
    source = f"{len(dialogues)} dialogues of {corpus.credit}"
    card = cards.model_card(parameters, cards.named(base), figures, options, init, source)
    parts = {*examples.OPTIONAL} & {*examples.WITHOUT[parameters.role]} - {parameters.without}
    about = weights.about(corpus.domain.name, parts)
    _write(model, base, parameters.role, parameters.folder, log, figures, card, about)
    return figures


def training_corpus(parameters: CorpusParameters) -> Corpus:
    """All dialogues of the imported corpus that is given, else those of ReDial's training part, in file order.

    Raises `CrsError` for files that cannot be read and for a corpus's test part, which is for evaluation only.
    """
    corpus = resolve(parameters.corpus) if parameters.corpus else None
    return open_corpus(resolve(parameters.redial), corpus, purpose="train on")


def chosen(corpus: Corpus, parameters: CorpusParameters) -> list[Dialogue]:
    """The dialogues without the first `skip` and at most `limit` of them. Raises `CrsError` where that leaves none."""
    if parameters.skip >= len(corpus.dialogues):
        raise CrsError(f"skip = {parameters.skip} leaves none of {len(corpus.dialogues)} dialogues; skip fewer")
    return [*corpus.dialogues[parameters.skip :][: parameters.limit or None]]


# ── preference optimisation ─────────────────────────────────────────────────────────────────────────────────────────


def make_pairs(parameters: PreferenceParameters, progress: Progress = no_progress) -> pl.DataFrame:
    """Pairs for DPO from the adapter's own continuations: the columns of `preferences.PAIRS`. `progress` counts
    contexts.

    A user's contexts are moments in which one item was named for the first time, with each kind of private note equally
    often; a recommender's are any of its turns. The folder of `parameters` gets `journal.jsonl` with the continuations
    (a killed call resumes from it), `candidates.parquet` with their scores and `pairs.jsonl`, the pairs as TRL reads
    them. Raises `CrsError` for files that cannot be read or written and where no continuation is clearly better than
    another.
    """
    need_extra()
    corpus = training_corpus(parameters)
    catalog = Catalog(corpus.items, corpus.domain)
    contexts = _sample_contexts(chosen(corpus, parameters), parameters, catalog)
    with drawing(parameters, parameters.start, parameters.folder, Sampling()) as engine:
        with Run(parameters.folder).journal() as journal:
            drawn = preferences.candidates(
                contexts, engine, parameters.draws, parameters.seed, journal, progress, told=parameters.told
            )
        scored = preferences.with_rule_scores(contexts, drawn, catalog)
        if parameters.judge:
            with LocalJudge(llama.model_path(parameters.judge), n_threads(parameters.threads)) as judge:
                judged = preferences.judge_scores(judge, contexts, drawn, catalog.domain)
            scored = preferences.with_judge_scores(scored, judged)
        pairs = preferences.select_pairs(contexts, scored, engine)
    write_parquet(scored, parameters.folder / "candidates.parquet")
    with writing(parameters.folder / "pairs.jsonl") as temporary:
        preferences.messages(contexts, pairs).write_ndjson(temporary)
    if pairs.is_empty():
        raise CrsError(f"in {len(contexts)} contexts no continuation is clearly better than another; give more")
    return pairs


def prefer(parameters: PreferenceParameters, pairs: pl.DataFrame, progress: Progress = no_progress) -> dict[str, Any]:
    """DPO on `pairs` (columns of `preferences.PAIRS`) from the adapter of SFT; see `optimise`."""
    credit, about = redial.credit("train"), redial.DOMAIN
    if parameters.corpus:
        corpus = folder.read(resolve(parameters.corpus))
        credit, about = corpus.credit, corpus.domain.name
    source = f"its own continuations of moments in {credit}"
    stage = Stage(parameters.start, parameters.folder, parameters.seed, source, about)
    return optimise(parameters, pairs, stage, progress)


@dataclass(frozen=True)
class Stage:
    """One training on pairs: the adapter that it starts from, the folder that it fills, and what its card says of the
    data (`source`). `domain`: the name of what they are about.

    `people`: human examples (`examples.SCHEMA`) that must stay as likely: training stops when their loss is above
    `limit` (nats per own token), or with None above their loss at the start plus `slack`. Without `people` nothing is
    guarded. `more`: figures of the data, which are written with those of the training.
    """

    start: Path
    folder: Path
    seed: int
    source: str
    domain: str
    people: pl.DataFrame | None = None
    limit: float | None = None
    slack: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)


def optimise(
    parameters: PairParameters,
    pairs: pl.DataFrame,
    stage: Stage,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """DPO on `pairs` (columns of `preferences.PAIRS`); fills the stage's folder and returns the figures, as `train`.

    The pairs of a share of the dialogues are held out for validation. `before` and `after` hold `loss`, `accuracy` and
    `margin` of the implicit rewards and, with a guard, `people`: nats per own token of what people said. Also `beta`,
    `sft`, the guard's `limit`, whether it `stopped` the training, and the stage's `more`. `progress` counts tokens.
    Raises `CrsError` as `train`.
    """
    need_extra()
    from crslib.training.fit import Guard, evaluate, fit
    from crslib.training.objectives import DPOObjective, SFTObjective

    training, held_out = _split_pairs(pairs, parameters.validation, stage.seed)
    device, precision = resolve_device(parameters.device, parameters.precision, parameters.threads)
    sizes = {"step_tokens": _DPO_STEP_TOKENS} | ({} if stage.people is None else {"checks": _GUARD_CHECKS})
    settings = replace(_settings(parameters, device, **sizes), seed=stage.seed)
    model, base = load_model(parameters.model, stage.start, settings.seed, device, precision)
    options: dict[str, Any] = {"beta": parameters.beta, "sft": parameters.sft}
    batch = {"batch_tokens": settings.batch_tokens}
    objective = DPOObjective(training, model, device, **options, **batch)
    validation = DPOObjective(held_out, model, device, **options, **batch) if len(held_out) else None
    people = None if stage.people is None else SFTObjective(stage.people, device, base.shape.n_ctx)

    def measured() -> dict[str, float]:
        of_pairs = evaluate(model, validation, settings.batch_tokens) if validation else {}
        return of_pairs | ({} if people is None else {"people": evaluate(model, people, settings.batch_tokens)["loss"]})

    checkpoint, before = stage.folder / CHECKPOINT, measured()
    guard = None
    if people is not None:
        guard = Guard(people, stage.limit or round(before["people"] + stage.slack, 4))
    log = fit(
        model, objective, validation, settings, checkpoint, guard=guard, resume=checkpoint.exists(), progress=progress
    )
    figures = _speed(log, device, precision) | {
        "examples": len(training),
        "validation_examples": len(held_out),
        **options,
        "before": before,
        "after": measured(),
        **({} if guard is None else {"limit": guard.limit, "stopped": guard.lost(log.to_dicts())}),
        **stage.more,
    }
    card = cards.model_card(
        parameters, cards.named(base), figures, asdict(settings) | options, stage.start, stage.source
    )
    about = weights.about(stage.domain, adapter.parts_of(stage.start))
    _write(model, base, parameters.role, stage.folder, log, figures, card, about)
    return figures


def lacking(parameters: DrawingParameters) -> tuple[str, ...]:
    """What the views of the adapter that continues lack, as those that it was trained in did."""
    return examples.lacking(parameters.role, adapter.parts_of(parameters.start))


def _sample_contexts(
    dialogues: Sequence[Dialogue], parameters: PreferenceParameters, catalog: Catalog
) -> list[preferences.Context]:
    contexts = preferences.human_contexts(dialogues, parameters.role, catalog, lacking(parameters))
    if parameters.role != USER:
        return preferences.sample(contexts, {"": parameters.contexts}, parameters.seed)
    each = -(-parameters.contexts // len(NOTE_KINDS))
    forced = preferences.with_forced_notes(contexts, catalog.domain)
    return preferences.sample(forced, dict.fromkeys(NOTE_KINDS.values(), each), parameters.seed)


def _split_pairs(pairs: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pairs to train on, and those of `share` of the dialogues."""
    dialogue = pl.col("context_id").str.split(":").list.first()
    dialogues = pairs.select(dialogue.unique())["context_id"].to_list()
    dialogues.sort(key=lambda one: derive_seed(seed, "held", one))
    held_out = dialogue.is_in(dialogues[: round(share * len(dialogues))])
    return pairs.filter(~held_out), pairs.filter(held_out)


@contextlib.contextmanager
def drawing(
    parameters: DrawingParameters,
    start: Path,
    folder: Path,
    sampling: Sampling,
) -> Iterator[llama.LlamaEngine]:
    """The engine of adapter `start` (PEFT folder or GGUF), merged into its base; closed at the end.

    `folder` gets a PEFT folder's adapter as GGUF. Raises `CrsError` when a file cannot be read or does not fit.
    """
    merged = weights.merged(
        llama.model_path(parameters.model), _as_gguf(start, parameters.model, folder), "Q8_0", CACHE
    )
    threads = n_threads(parameters.threads)
    with (
        contextlib.closing(llama.Model(merged)) as model,
        contextlib.closing(
            llama.LlamaEngine(model, None, sampling, n_ctx=_N_CTX, width=_WIDTH, threads=threads)
        ) as engine,
    ):
        yield engine


def _as_gguf(start: Path, model: str, folder: Path) -> Path:
    """An adapter as llama.cpp reads it."""
    if start.is_file():
        return start
    shape = Base(llama.model_path(model)).shape
    path = folder / "start.gguf"
    adapter.write_gguf(adapter.read_peft(start, shape), shape, path, "F16")
    return path


# ── model and device ────────────────────────────────────────────────────────────────────────────────────────────────


def load_model(
    model: str, init: Path | None, seed: int, device: "torch.device", precision: "Precision"
) -> tuple["LoraLlama", Base]:
    """The base `model` on `device` with the adapter `init` (PEFT folder or LoRA GGUF) or a new one of rank `RANK`.

    Raises `CrsError` when a file is unfit.
    """
    from crslib.training.model import LoraLlama

    base = Base(llama.model_path(model))
    start = adapter.read(init, base.shape) if init else None
    rank, alpha = (start.rank, start.alpha) if start else (RANK, ALPHA)
    loaded = LoraLlama(base, rank=rank, alpha=alpha, seed=seed, precision=precision)
    if start:
        loaded.load(start.pairs)
    return loaded.to(device), base


def resolve_device(device: str, precision: str, threads: int = 0) -> tuple["torch.device", "Precision"]:
    """The device and the precision of its products; also sets torch to `threads` CPU threads (0: all).

    `device`: auto, cpu or cuda. `precision`: float32, bfloat16, int8 (CPU only: faster on some, less exact) or auto,
    which is bfloat16 on CUDA and on CPUs that multiply it, else float32. Raises `CrsError` for what is not available.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise CrsError(f"device {device!r} is not there; choose auto, cpu or, with a GPU and CUDA's torch, cuda")
    allowed = ("auto", "float32", "bfloat16", "int8")
    if precision not in allowed or (precision == "int8" and device != "cpu"):
        raise CrsError(f"precision {precision!r} is not possible on {device}; choose one of {', '.join(allowed[:3])}")
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" or multiplies_bfloat16() else "float32"
    torch.set_num_threads(n_threads(threads))
    return torch.device(device), precision  # type: ignore[return-value]


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products; without them bfloat16 is slower than float32."""
    import torch

    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def need_extra() -> None:
    """Raises `CrsError` when the extra `train` is not installed."""
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        remedy = f"run `make -C {ROOT} train`" if (ROOT / "Makefile").is_file() else install("train")
        raise CrsError(f"training needs {' and '.join(missing)}; {remedy}")


def _settings(parameters: TrainingParameters | PairParameters, device: "torch.device", **sizes: int) -> "Settings":
    from crslib.training.fit import Settings

    return Settings(
        epochs=parameters.epochs,
        lr=parameters.lr,
        seed=parameters.seed,
        batch_tokens=BATCH_TOKENS[device.type],
        **sizes,
    )


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def before_and_after(figures: Mapping[str, Any]) -> pl.DataFrame:
    """The validation figures of `train` or `prefer` as rows (figure, before, after)."""
    before, after = figures["before"], figures["after"]
    return pl.DataFrame(
        [(name, before[name], after[name]) for name in before],
        schema={"figure": pl.String, "before": pl.Float64, "after": pl.Float64},
        orient="row",
    )


def _write(
    model: "LoraLlama",
    base: Base,
    role: str,
    folder: Path,
    log: pl.DataFrame,
    figures: Mapping[str, Any],
    card: str,
    about: Mapping[str, str],
) -> None:
    """Writes the results of a training and removes its checkpoint. `about`: of `weights.about`, for the adapter."""
    trained = adapter.Adapter.of(model)
    adapter.write_peft(trained, folder / "peft", base.shape.name, about)
    adapter.write_gguf(trained, base.shape, folder / f"{role}.gguf", name=f"crs {role}", about=about)
    write_parquet(log, folder / "log.parquet")
    for file, content in (("README.md", card), ("figures.json", json.dumps(figures, indent=2) + "\n")):
        with writing(folder / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _speed(log: pl.DataFrame, device: "torch.device", precision: str) -> dict[str, Any]:
    tokens, seconds = log.select("tokens", "seconds").row(-1)
    figures = {"device": device.type, "precision": precision, "tokens": tokens, "seconds": seconds}
    return figures | {"tokens_per_s": tokens / seconds}


def _losses(model: "LoraLlama", held_out: pl.DataFrame, batch_tokens: int) -> dict[str, float]:
    """Nats per own token by kind of token."""
    if held_out.is_empty():
        return {}
    table = losses.table(losses.by_trainer(model, held_out, batch_tokens), examples.KINDS)
    return dict(table.select("kind", "loss").iter_rows())
