"""Which format of merged weights suits this CPU: measured once, not guessed.

The adapter is merged into the base in every format that llama.cpp computes with natively. Each is timed and compared
with the base and the adapter unmerged. Knows nothing of roles.
"""

import contextlib
import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.config import n_threads
from crslib.engines import llama, trial, weights
from crslib.errors import CrsError
from crslib.files import writing
from crslib.identity import digest, file_sha256
from crslib.schemas import STRICT

MAX_LOSS = 0.02  # nats per token that a format may lose
MARGIN = 1.25  # how many times as fast as the first another format must be: noise must not change the texts of runs
_WIDTH, _CONTEXT, _FED = 16, 200, 32  # of the measurement: rows, tokens before a step, tokens of a prefill
_TEXT = """<|im_start|>system
You are a movie recommender.<|im_end|>
<|im_start|>user
Hi! Something funny for tonight, please. I loved [[The Big Lebowski (1998)]] and [[Groundhog Day (1993)]].<|im_end|>
<|im_start|>assistant
Those are great. Have you seen [[Fargo (1996)]] or [[Raising Arizona (1987)]]?<|im_end|>
<|im_start|>user
I have seen [[Fargo (1996)]], it was dark but good. What is the other one about?<|im_end|>
<|im_start|>assistant
A couple takes a baby from a family that has five. Nicolas Cage is in it. It is very silly!<|im_end|>
<|im_start|>user
That sounds good. Do you know anything newer, maybe with Bill Murray?<|im_end|>
<|im_start|>assistant
Try [[The Grand Budapest Hotel (2014)]]. Or [[Lost in Translation (2003)]] if you like it quiet.<|im_end|>
<|im_start|>user
I will watch that one. Thank you, have a nice evening!<|im_end|>
<|im_start|>assistant
You are welcome. Enjoy the movie! Bye.<|im_end|>
"""


@with_config(STRICT)
class _Figures(TypedDict):
    loss: float
    prefill: float
    decode: float
    tokens_per_s: float


@with_config(STRICT)
class _Measured(TypedDict):
    """A measurement as the cache has it: the figures of `measure` and what they hold for."""

    model: str
    adapter: str
    cpu: str
    llama_cpp_python: str
    formats: dict[weights.Format, _Figures]


_MEASURED = TypeAdapter(_Measured)


def best(model: Path, adapter: Path, cache: Path, report: Callable[[str], None] = lambda what: None) -> weights.Format:
    """The format to merge `adapter` into on this CPU: the fastest of those that lose at most `MAX_LOSS`.

    It is the first of `weights.FORMATS` unless another is `MARGIN` times as fast. Measured once (up to a minute,
    announced by `report`) and cached in `cache` by files, CPU and version of llama.cpp. A damaged measurement is said
    and made anew. Raises `CrsError` as `weights.merged` does, and where llama.cpp ends its process (`trial`).
    """
    key = {
        "model": file_sha256(model),
        "adapter": file_sha256(adapter),
        "cpu": cpu(),
        "llama_cpp_python": version("llama-cpp-python"),
    }
    path = cache / f"{digest(key, 'formats')}.json"
    figures = _measured_before(path, key, report)
    if figures is None:
        report(f"measuring once which weights are the fastest here for {adapter.stem}")
        if said := trial.fault(str(model)):
            raise CrsError(f"{said}; compile it again: {trial.REINSTALL}")
        figures = measure(model, adapter, cache)
        with writing(path) as temporary:
            temporary.write_text(json.dumps({**key, "formats": figures}, indent=1) + "\n", encoding="utf-8")
    return choose(figures)


def _measured_before(
    path: Path, key: Mapping[str, str], report: Callable[[str], None]
) -> Mapping[weights.Format, Mapping[str, float]] | None:
    """The figures in a file of the cache; None where there are none for `key`."""
    if not path.exists():
        return None
    try:
        stored: Any = json_files.read_as(path, _MEASURED, "it is measured anew")
    except CrsError as error:
        report(str(error))
        return None
    if stored["formats"].keys() != set(weights.FORMATS) or any(stored[name] != value for name, value in key.items()):
        report(f"{path} is not readable (it holds another measurement); it is measured anew")
        return None
    return stored["formats"]


def choose(figures: Mapping[weights.Format, Mapping[str, float]]) -> weights.Format:
    """The format that `best` gives for these figures of `measure`."""
    first = weights.FORMATS[0]
    accurate = [fmt for fmt in weights.FORMATS if figures[fmt]["loss"] <= MAX_LOSS]
    fastest = max(accurate, key=lambda fmt: figures[fmt]["tokens_per_s"], default=first)
    return fastest if figures[fastest]["tokens_per_s"] > MARGIN * figures[first]["tokens_per_s"] else first


def measure(model: Path, adapter: Path, cache: Path) -> dict[weights.Format, dict[str, float]]:
    """By format: `loss` (nats per token), `prefill` and `decode` (tokens/s) and `tokens_per_s` of both together.

    `loss` is the Kullback–Leibler divergence of the next token's distribution from that of the base with the unmerged
    adapter, averaged over a dialogue: the rise of the cross-entropy on the model's own words. The speeds are the best
    of two rounds over all formats, for pieces of 32 tokens and steps of 16 rows after 200 tokens; `tokens_per_s`
    assumes two tokens fed for each one drawn. Formats that lose too much are not timed (0). Files of formats that are
    not chosen are removed.
    """
    threads = n_threads(0)
    files = {fmt: weights.merged(model, adapter, fmt, cache) for fmt in weights.FORMATS}
    with contextlib.closing(llama.Model(model)) as opened:
        text = opened.encode(_TEXT, control=True)
        original = _log_probabilities(opened, adapter, text, threads)
    figures: dict[weights.Format, dict[str, float]] = {}
    for fmt, path in files.items():
        with contextlib.closing(llama.Model(path)) as opened:
            merged = _log_probabilities(opened, None, text, threads)
        loss = float((np.exp(original) * (original - merged)).sum(axis=1).mean())
        figures[fmt] = {"loss": round(loss, 5), "prefill": 0.0, "decode": 0.0, "tokens_per_s": 0.0}
    accurate = [fmt for fmt, row in figures.items() if row["loss"] <= MAX_LOSS]
    for _ in range(2):
        for fmt in accurate:
            with (
                contextlib.closing(llama.Model(files[fmt])) as opened,
                contextlib.closing(llama.MeasuredEngine(opened, n_ctx=256, width=_WIDTH, threads=threads)) as engine,
            ):
                fed, stepped, _ = engine.measure_ceiling([(_CONTEXT, _FED)] * 6, _CONTEXT, 6)
            row = figures[fmt]
            row["prefill"] = max(row["prefill"], round(6 * _FED / fed, 1))
            row["decode"] = max(row["decode"], round(6 * _WIDTH / stepped, 1))
    for row in (figures[fmt] for fmt in accurate):
        row["tokens_per_s"] = round(3 / (2 / row["prefill"] + 1 / row["decode"]), 1)
    for fmt in figures.keys() - {choose(figures)}:
        weights.remove(files[fmt])
    return figures


def cpu() -> str:
    """The name of this machine's processor, on Linux with family and model: names such as "AMD EPYC" hide which."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n"):
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    which = [f"{name.removeprefix('cpu ')} {facts[name]}" for name in ("cpu family", "model") if name in facts]
    return f"{facts['model name']} ({', '.join(which)})" if which else facts["model name"]


def _log_probabilities(model: llama.Model, adapter: Path | None, text: list[int], threads: int) -> np.ndarray:
    return llama.log_softmax(llama.all_logits(model, adapter, text, threads=threads))
