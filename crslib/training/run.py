"""From examples or pairs to an adapter that a simulation runs on.

A training is a folder: `checkpoint.pt` while it lasts; then `log.parquet`, the PEFT folder `peft`, `ROLE.gguf` and the
model card `README.md`.
"""

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crslib.data.corpora import Dialogue
from crslib.dialogue.templates import ChatTemplate
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.identity import file_sha256
from crslib.store import Progress, no_progress, write_parquet, writing
from crslib.training import adapter, examples, losses
from crslib.training.adapter import Format, export, imported
from crslib.training.base import Base, Shape

if TYPE_CHECKING:
    import torch

    from crslib.training.fit import Settings
    from crslib.training.model import LoraLlama, Precision

RANK, ALPHA = 16, 32.0
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
"""Tokens to compute at once on each kind of device."""
CHECKPOINT = "checkpoint.pt"


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
    without: str = "",
    fmt: Format = "Q8_0",
    source: str = "",
    command: str = "",
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """SFT of `role` (of `examples.ROLES`) on `dialogues` (train split); the folder `to` is filled. Returns the figures.

    `items`: table `items` of the corpus. `init`: an adapter to continue from, PEFT folder or LoRA GGUF. `device`: auto,
    cpu or cuda; `precision`: auto (see `chosen`), float32, bfloat16 or int8. `validation`: share of dialogues kept,
    with their people, to find the best moment. `without`: of `examples.WITHOUT`, an ablation. `source`: what the data
    are and under which licence, `command`: what was typed; both for the card. Figures: validation loss before and
    after per kind, tokens, seconds, tokens per second.
    Raises `CrsError` for what is wrong with files, settings or data, and where the extra `train` is not installed.
    """
    need_extra()
    from crslib.training.fit import fit
    from crslib.training.objectives import OwnWords

    where, how = chosen(device, precision, threads)
    speaker = llama.Model(llama.model_path(model))
    try:
        template = ChatTemplate(*speaker.chat_template)
        made = examples.examples(
            dialogues,
            role,
            speaker,
            template,
            items,
            negative_weight=negative_weight,
            max_tokens=max_tokens,
            **examples.WITHOUT[without],
        )
    finally:
        speaker.close()
    training, held = examples.split(made, validation, settings.seed)
    pupil, base = load(model, init, settings.seed, where, how)
    objective = OwnWords(training, where, base.shape.n_ctx)
    check = OwnWords(held, where, base.shape.n_ctx) if len(held) else None
    before = _figures(pupil, held, settings.batch_tokens)
    log = fit(pupil, objective, check, settings, to / CHECKPOINT, resume=resume, progress=progress)
    figures = _speed(log, where, how) | {
        "examples": len(training),
        "validation_examples": len(held),
        "before": before,
        "after": _figures(pupil, held, settings.batch_tokens),
    }
    told = asdict(settings) | {"negative_weight": negative_weight, "without": without}
    finish(pupil, base, role, to, log, figures, fmt, card(role, base, figures, told, init, source, command))
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
    command: str = "",
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """DPO on `pairs` (columns prompt, chosen, rejected) from the SFT adapter `init`; see `train`.

    `held`: pairs to find the best moment with; may be empty. `beta`, `sft`: see `dpo.Preferences`. A learning rate of
    some 5e-5 and one epoch are usual. Figures: `before` and `after` on `held` (loss, accuracy and margin of the
    rewards). Raises `CrsError` as `train` does.
    """
    need_extra()
    from crslib.training.fit import evaluate, fit
    from crslib.training.objectives import Preferences

    where, how = chosen(device, precision, threads)
    pupil, base = load(model, init, settings.seed, where, how)
    both = [
        Preferences(frame, pupil, where, beta=beta, sft=sft, batch_tokens=settings.batch_tokens)
        for frame in (pairs, held)
    ]
    objective, check = both[0], both[1] if len(held) else None
    before = evaluate(pupil, check, settings.batch_tokens) if check else {}
    log = fit(pupil, objective, check, settings, to / CHECKPOINT, resume=resume, progress=progress)
    figures = _speed(log, where, how) | {
        "examples": len(pairs),
        "validation_examples": len(held),
        "beta": beta,
        "sft": sft,
        "before": before,
        "after": evaluate(pupil, check, settings.batch_tokens) if check else {},
    }
    told = asdict(settings) | {"beta": beta, "sft": sft}
    finish(pupil, base, role, to, log, figures, fmt, card(role, base, figures, told, init, source, command))
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
    """The base ready to be trained on `device`, with the adapter `init` (PEFT folder or LoRA GGUF) or a new one of rank
    `RANK`, which changes nothing yet."""
    from crslib.training.model import LoraLlama

    base = Base(llama.model_path(model))
    start = read(init, base.shape) if init else None
    rank, alpha = (start.rank, start.alpha) if start else (RANK, ALPHA)
    fused = device.type == "cuda" or bool(shutil.which(os.environ.get("CXX", "g++")))
    pupil = LoraLlama(base, rank=rank, alpha=alpha, seed=seed, precision=precision, fused=fused)
    if start:
        pupil.load(start.pairs)
    return pupil.to(device), base


def read(path: Path, shape: Shape) -> adapter.Adapter:
    """The adapter of a PEFT folder or a LoRA GGUF. Raises `CrsError` where it does not fit a base of `shape`."""
    if path.is_file():
        return imported(path, shape)
    found = adapter.read(path)
    found.check(shape, path)
    return found


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
    """The device and how its products are computed: without a wish in bfloat16 on CUDA and on a CPU that multiplies it
    (`multiplies_bfloat16`), elsewhere in float32; `int8` may be faster on a CPU, and is less exact.

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
        precision = "bfloat16" if device == "cuda" or multiplies_bfloat16() else "float32"
    torch.set_num_threads(threads or os.cpu_count() or 1)
    return torch.device(device), precision  # type: ignore[return-value]


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it: with them products are faster than float32's, without much slower."""
    import torch

    has = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def need_extra() -> None:
    """Raises `CrsError` when the extra `train` is not installed."""
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        raise CrsError(f"training needs {' and '.join(missing)}; run `pip install 'crslib[train]'`")


def card(
    name: str, base: Base, figures: Any, settings: Mapping[str, Any], init: Path | None, source: str, command: str
) -> str:
    """A model card (Markdown)."""
    return "\n".join(
        [
            f"# Adapter: {name}",
            "",
            f"LoRA for {base.shape.name}, `{base.path.name}` (SHA-256 {file_sha256(base.path)}), in format v1.",
            "",
            f"- Data: {source or 'not stated'}; {figures['examples']} examples trained on.",
            f"- Started from: {_origin(init)}.",
            f"- Made by: {f'`{command}`' if command else 'a call of the library'}.",
            f"- Settings: {json.dumps(settings)}.",
            f"- Hardware: {figures['device']} ({platform.machine()}), {figures['precision']}, "
            f"torch {version('torch')}; {figures['tokens']:,} tokens in {figures['seconds']:,.0f} s.",
            "- Licence: that of the base for the adapter (Apache-2.0 for SmolLM2), with attribution to the data above.",
            "",
            *_checked(figures),
        ]
    )


def _origin(init: Path | None) -> str:
    if init is None:
        return "the base"
    file = init if init.is_file() else init / "adapter_model.safetensors"
    return f"the adapter {init.name} (SHA-256 of {file.name}: {file_sha256(file)})"


def _checked(figures: Any) -> list[str]:
    """The part of a card that says what training did to people who were left out of it."""
    if not figures["validation_examples"]:
        return ["Nothing was kept for checks.", ""]
    return [
        f"On {figures['validation_examples']} examples of people not trained on (cross-entropy in nats per own "
        "token, by kind; of preferences loss, accuracy and margin):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {figures['after'][name]:.3f} |" for name, value in figures["before"].items()),
        "",
    ]


def _speed(log: pl.DataFrame, device: "torch.device", precision: str) -> dict[str, Any]:
    tokens, seconds = log.select("tokens", "seconds").row(-1)
    figures = {"device": device.type, "precision": precision, "tokens": tokens, "seconds": seconds}
    return figures | {"tokens_per_s": tokens / seconds}


def _figures(model: "LoraLlama", held: pl.DataFrame, batch_tokens: int) -> dict[str, float]:
    if held.is_empty():
        return {}
    found = losses.table(losses.by_trainer(model, held, batch_tokens), examples.KINDS)
    return dict(zip(found["kind"], found["loss"], strict=True))
