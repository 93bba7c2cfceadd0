"""From human dialogues to an adapter that a simulation runs on: what `crs train ROLE` does.

A training is a folder: `checkpoint.pt` while it lasts; then `log.parquet`, the PEFT folder `peft`, `ROLE.gguf` and the
model card `README.md`.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crslib.chat import ChatTemplate
from crslib.config import TrainingParameters, resolve
from crslib.corpora import Dialogue, redial
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.identity import file_sha256
from crslib.store import write_parquet, writing
from crslib.training import adapter, examples, losses
from crslib.training.base import Base
from crslib.training.export import Format, export

if TYPE_CHECKING:
    import torch

    from crslib.training.fit import Settings
    from crslib.training.model import LoraLlama, Precision

RANK, ALPHA = 16, 32.0
CHECKPOINT = "checkpoint.pt"
_GPU_BATCH = 16_384  # tokens computed at once on a GPU
Advance = Callable[[int, int], None]


def from_redial(parameters: TrainingParameters, advance: Advance = lambda done, total: None) -> dict[str, Any]:
    """`train` with ReDial's training dialogues and everything else as `parameters` say; what is killed goes on.

    Raises `CrsError` as `train` does, and where the dialogues cannot be read.
    """
    need_extra()
    from crslib.training.fit import Settings

    dialogues = redial.read(resolve(parameters.redial), "train")[: parameters.limit or None]
    on_gpu = chosen(parameters.device, parameters.precision)[0].type == "cuda"
    return train(
        parameters.role,
        dialogues,
        redial.items(),
        parameters.folder,
        Settings(
            epochs=parameters.epochs,
            lr=parameters.lr,
            seed=parameters.seed,
            batch_tokens=_GPU_BATCH if on_gpu else Settings.batch_tokens,
        ),
        model=parameters.model,
        init=resolve(parameters.init) if parameters.init else None,
        device=parameters.device,
        precision=parameters.precision,
        resume=(parameters.folder / CHECKPOINT).exists(),
        validation=parameters.validation,
        negative_weight=parameters.negative_weight,
        source=f"{len(dialogues)} dialogues of ReDial's training part (Li et al. 2018, CC BY 4.0)",
        threads=parameters.threads or None,
        advance=advance,
    )


def train(
    role: str,
    dialogues: Sequence[Dialogue],
    items: pl.DataFrame,
    to: Path,
    settings: "Settings",
    *,
    model: str = llama.BUILT_IN,
    init: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    validation: float = 0.05,
    max_tokens: int = 1024,
    negative_weight: int = 1,
    fmt: Format = "Q8_0",
    source: str = "",
    threads: int | None = None,
    advance: Advance = lambda done, total: None,
) -> dict[str, Any]:
    """SFT of `role` (of `examples.ROLES`) on `dialogues` (train split); the folder `to` is filled. Returns the figures.

    `items`: table `items` of the corpus. `init`: a PEFT folder to continue from. `device`: auto, cpu or cuda;
    `precision`: auto (see `chosen`), float32, bfloat16 or int8. `validation`: share of dialogues kept, with their
    people, to find the best moment. `source`: what the data are and under which licence, for the card. Figures:
    validation loss before and after per kind, tokens, seconds, tokens per second. Raises `CrsError` for what is wrong
    with files, settings or data, and where the extra `train` is not installed.
    """
    need_extra()
    from crslib.training.fit import fit
    from crslib.training.sft import OwnWords

    where, how = chosen(device, precision, threads)
    speaker = llama.Model(llama.model_path(model))
    try:
        template = ChatTemplate(*speaker.chat_template)
        made = examples.examples(
            dialogues, role, speaker, template, items, negative_weight=negative_weight, max_tokens=max_tokens
        )
    finally:
        speaker.close()
    training, held = examples.split(made, validation, settings.seed)
    pupil, base = load(model, init, settings.seed, where, how)
    objective = OwnWords(training, where, base.shape.n_ctx)
    check = OwnWords(held, where, base.shape.n_ctx) if len(held) else None
    before = _figures(pupil, held, settings.batch_tokens)
    log = fit(pupil, objective, check, settings, to / CHECKPOINT, resume=resume, advance=advance)
    figures = _speed(log, where, how) | {
        "examples": len(training),
        "validation_examples": len(held),
        "before": before,
        "after": _figures(pupil, held, settings.batch_tokens),
    }
    finish(pupil, base, role, to, log, figures, fmt, card(role, base, figures, settings, init, source))
    return figures


def prefer(
    role: str,
    pairs: pl.DataFrame,
    held: pl.DataFrame,
    init: Path,
    to: Path,
    settings: "Settings",
    *,
    beta: float = 0.1,
    sft: float = 0.0,
    model: str = llama.BUILT_IN,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    fmt: Format = "Q8_0",
    source: str = "",
    threads: int | None = None,
    advance: Advance = lambda done, total: None,
) -> dict[str, Any]:
    """DPO on `pairs` (columns prompt, chosen, rejected) from the SFT adapter in PEFT folder `init`; see `train`.

    `held`: pairs to find the best moment with; may be empty. `beta`, `sft`: see `dpo.Preferences`. A learning rate of
    some 5e-5 and one epoch are usual. Figures: `before` and `after` on `held` (loss, accuracy and margin of the
    rewards). Raises `CrsError` as `train` does.
    """
    need_extra()
    from crslib.training.dpo import Preferences
    from crslib.training.fit import evaluate, fit

    where, how = chosen(device, precision, threads)
    pupil, base = load(model, init, settings.seed, where, how)
    both = [
        Preferences(frame, pupil, where, beta=beta, sft=sft, batch_tokens=settings.batch_tokens)
        for frame in (pairs, held)
    ]
    objective, check = both[0], both[1] if len(held) else None
    before = evaluate(pupil, check, settings.batch_tokens) if check else {}
    log = fit(pupil, objective, check, settings, to / CHECKPOINT, resume=resume, advance=advance)
    figures = _speed(log, where, how) | {
        "examples": len(pairs),
        "validation_examples": len(held),
        "beta": beta,
        "sft": sft,
        "before": before,
        "after": evaluate(pupil, check, settings.batch_tokens) if check else {},
    }
    finish(pupil, base, role, to, log, figures, fmt, card(role, base, figures, settings, init, source))
    return figures


def compared(figures: Mapping[str, Any]) -> pl.DataFrame:
    """The figures of `train` or `prefer` on what was not trained on, as rows (figure, before, after)."""
    before, after = figures["before"], figures["after"]
    return pl.DataFrame(
        [(name, before[name], after[name]) for name in before],
        schema={"figure": pl.String, "before": pl.Float64, "after": pl.Float64},
        orient="row",
    )


def load(
    model: str, init: Path | None, seed: int, device: "torch.device", precision: "Precision"
) -> tuple["LoraLlama", Base]:
    """The base ready to be trained on `device`, with the adapter of PEFT folder `init` or a new one of rank `RANK`."""
    from crslib.training.model import LoraLlama

    base = Base(llama.model_path(model))
    start = adapter.read(init) if init else None
    if start:
        start.check(base.shape, init)
    rank, alpha = (start.rank, start.alpha) if start else (RANK, ALPHA)
    fused = device.type == "cuda" or bool(shutil.which(os.environ.get("CXX", "g++")))
    pupil = LoraLlama(base, rank=rank, alpha=alpha, seed=seed, precision=precision, fused=fused)
    if start:
        pupil.load(start.pairs)
    return pupil.to(device), base


def finish(
    model: "LoraLlama", base: Base, name: str, to: Path, log: pl.DataFrame, figures: Any, fmt: Format, text: str
) -> None:
    """Writes what a training leaves behind and removes its checkpoint."""
    learnt = adapter.Adapter.of(model)
    adapter.write(learnt, to / "peft", base.shape.name)
    export(learnt, base.shape, to / f"{name}.gguf", fmt, name=f"crs {name}")
    write_parquet(log, to / "log.parquet")
    for file, content in (("figures.json", json.dumps(figures, indent=2) + "\n"), ("README.md", text)):
        with writing(to / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    (to / CHECKPOINT).unlink(missing_ok=True)


def chosen(device: str, precision: str, threads: int | None = None) -> tuple["torch.device", "Precision"]:
    """The device and how its products are computed: bfloat16 on CUDA, float32 on a CPU, where `int8` may be faster.

    `threads` of a CPU, all without it. Raises `CrsError` for a device that is not there.
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
        precision = "bfloat16" if device == "cuda" else "float32"
    torch.set_num_threads(threads or os.cpu_count() or 1)
    return torch.device(device), precision  # type: ignore[return-value]


def need_extra() -> None:
    """Raises `CrsError` when the extra `train` is not installed."""
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        raise CrsError(f"training needs {' and '.join(missing)}; run `pip install 'crslib[train]'`")


def card(name: str, base: Base, figures: Any, settings: "Settings", init: Path | None, source: str) -> str:
    """A model card (Markdown)."""
    rows = [
        f"| {figure} | {value:.3f} | {figures['after'][figure]:.3f} |" for figure, value in figures["before"].items()
    ]
    return "\n".join(
        [
            f"# Adapter: {name}",
            "",
            f"LoRA for {base.shape.name}, `{base.path.name}` (SHA-256 {file_sha256(base.path)}), in format v1.",
            "",
            f"- Data: {source or 'not stated'}; {figures['examples']} examples trained on.",
            f"- Started from: {f'the adapter {init.name}' if init else 'the base'}.",
            f"- Settings: {json.dumps(asdict(settings))}.",
            f"- Hardware: {figures['device']} ({platform.machine()}), {figures['precision']}, "
            f"torch {version('torch')}; {figures['tokens']:,} tokens in {figures['seconds']:,.0f} s.",
            "",
            f"On {figures['validation_examples']} examples of people not trained on (cross-entropy in nats per own "
            "token, by kind; of preferences loss, accuracy and margin):",
            "",
            "| | before | after |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _speed(log: pl.DataFrame, device: "torch.device", precision: str) -> dict[str, Any]:
    tokens, seconds = log.select("tokens", "seconds").row(-1)
    figures = {"device": device.type, "precision": precision, "tokens": tokens, "seconds": seconds}
    return figures | {"tokens_per_s": tokens / seconds}


def _figures(model: "LoraLlama", held: pl.DataFrame, batch_tokens: int) -> dict[str, float]:
    if held.is_empty():
        return {}
    found = losses.table(losses.by_trainer(model, held, batch_tokens), examples.KINDS)
    return dict(zip(found["kind"], found["loss"], strict=True))
