"""The model card of an adapter: base, data, command, settings, hardware and validation figures, as Markdown."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crslib.data.corpora import redial
from crslib.identity import file_sha256
from crslib.training.base import Base
from crslib.training.parameters import ImitationParameters, PairParameters, PreferenceParameters, TrainingParameters

_COMMANDS = {TrainingParameters: "train", PreferenceParameters: "prefer", ImitationParameters: "imitate"}
_LICENCE = "that of the base for the adapter (Apache-2.0 for SmolLM2), with attribution to the data above"


def model_card(
    parameters: TrainingParameters | PairParameters,
    base: str,
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    init: Path | None,
    source: str,
) -> str:
    """The card (Markdown).

    `base`: see `named`; `figures`: of `run.train` or `run.prefer`; `settings`: of the training, by name; `init`: the
    adapter that training started from, None for a new one; `source`: the data and their licence.
    """
    return "\n".join(
        [
            f"# Adapter: {parameters.role}",
            "",
            f"LoRA for {base}, in format v1.",
            "",
            f"- Data: {source}; {figures['examples']} training examples.",
            f"- Started from: {_origin(init)}.",
            f"- Command: `{_command(parameters)}`.",
            f"- Settings: {json.dumps(settings)}.",
            f"- Hardware: {figures['device']} ({platform.machine()}), {figures['precision']}, "
            f"torch {version('torch')}; {figures['tokens']:,} tokens in {figures['seconds']:,.0f} s.",
            f"- Licence: {_LICENCE}.",
            "",
            *_validation(figures),
        ]
    )


def named(base: Base) -> str:
    """The base as cards call it: its name, and its file with its hash."""
    return f"{base.shape.name}, `{base.path.name}` (SHA-256 {file_sha256(base.path)})"


def blend_card(base: Base, first: Path, second: Path, share: float, rank: int, loss: float, to: Path) -> str:
    """The card (Markdown) of a mixture; see `blend.blend_files`."""
    return "\n".join(
        [
            f"# Adapter: {to.stem}",
            "",
            f"LoRA for {named(base)}, in format v1. "
            f"It changes every matrix by {1 - share:g} · the change of the first adapter + {share:g} · the second's.",
            "",
            f"- First: {_origin(first)}.",
            f"- Second: {_origin(second)}.",
            f"- Rank {rank}, by singular values; {loss:.2%} of the sum's norm is cut off.",
            f"- Command: `crs blend {first.name} {second.name} --share {share:g} --to {to.name}`.",
            f"- Data: those of the two adapters, see their cards; of this project's, {redial.credit('train')}.",
            f"- Licence: {_LICENCE}.",
            "",
        ]
    )


def _command(parameters: TrainingParameters | PairParameters) -> str:
    """The command that repeats a training. Paths are cut to their last part, since folders differ between machines."""
    words = [f"crs {_COMMANDS[type(parameters)]} {parameters.role}"]
    for field, info in type(parameters).model_fields.items():
        value = getattr(parameters, field)
        if field not in ("role", "to", "device", "threads") and value != info.default:
            shown = Path(value).name if isinstance(value, str) and Path(value).exists() else value
            words.append(f"--{field.replace('_', '-')}" + ("" if value is True else f" {shown}"))
    return " ".join(words)


def _origin(init: Path | None) -> str:
    if init is None:
        return "the base"
    file = init if init.is_file() else init / "adapter_model.safetensors"
    return f"the adapter {init.name} (SHA-256 of {file.name}: {file_sha256(file)})"


def _validation(figures: Mapping[str, Any]) -> list[str]:
    if not figures["before"]:
        return ["There was no validation.", ""]
    return [
        f"On {figures['validation_examples']} validation examples (of SFT cross-entropy in nats per own token, by kind "
        "of token; of DPO loss, accuracy and margin; `people`: nats per own token of the guard dialogues):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {figures['after'][name]:.3f} |" for name, value in figures["before"].items()),
        "",
    ]
