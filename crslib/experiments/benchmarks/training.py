"""Training speed on this machine in tokens per second, by precision.

Steps are those of a training on this kind of device, optimizer included. The examples are random tokens with the
lengths of human dialogues, since speed does not depend on their content.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from crslib.engines import llama
from crslib.files import Progress, no_progress
from crslib.training import run
from crslib.training.base import Base

if TYPE_CHECKING:
    from crslib.training.model import Precision

PRECISIONS: Mapping[str, tuple["Precision", ...]] = {
    "cpu": ("float32", "int8", "bfloat16"),
    "cuda": ("bfloat16", "float32"),
}
"""Of the products, on each kind of device; bfloat16 only on a CPU that multiplies it."""
TARGETS = 0.3  # share of a user example's tokens that the user wrote
_LENGTHS = {"cpu": (290, 5), "cuda": (380, 220)}  # mean tokens of an example, and examples in a round: ten steps
_ROUNDS = 3


def measure(device: str = "auto", progress: Progress = no_progress) -> pl.DataFrame:
    """Columns precision, tokens_per_s: training an adapter of the built-in base.

    The best of a few rounds in which the precisions take turns, so that a machine that slows down does so for all of
    them. `device`: auto, cpu or cuda. `progress` counts rounds of each precision. Raises `CrsError` for a device that
    is not available and where the extra `train` is not installed.
    """
    run.need_extra()
    from crslib.training.fit import Settings, adamw, plan, step
    from crslib.training.model import LoraLlama
    from crslib.training.objectives import SFTObjective

    target, _ = run.resolve_device(device, "auto")
    base = Base(llama.model_path(llama.BUILT_IN))
    fast = target.type == "cuda" or run.multiplies_bfloat16()
    precisions = [precision for precision in PRECISIONS[target.type] if fast or precision != "bfloat16"]
    objective = SFTObjective(_examples(*_LENGTHS[target.type], base.shape.n_vocab), target, base.shape.n_ctx)
    settings = Settings(epochs=1, batch_tokens=run.BATCH_TOKENS[target.type])
    steps = plan(objective.lengths, settings)
    models = [
        LoraLlama(base, rank=run.RANK, alpha=run.ALPHA, seed=0, precision=precision).to(target)
        for precision in precisions
    ]
    optimizers = [adamw(model, settings.lr) for model in models]
    best = [float("inf")] * len(models)
    for number in range(_ROUNDS + 1):
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            started = perf_counter()
            for rows in steps:  # each step reads its loss at the end, which waits for a GPU
                step(model, objective, rows, settings.batch_tokens, optimizer)
            if number:  # the first round warms up
                best[place] = min(best[place], perf_counter() - started)
            progress(number * len(models) + place + 1, (_ROUNDS + 1) * len(models))
    tokens = float(objective.lengths.sum())
    return pl.DataFrame({"precision": precisions, "tokens_per_s": [tokens / seconds for seconds in best]})


def _examples(mean: int, n: int, n_vocab: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    lengths = random.integers(mean // 2, 3 * mean // 2, size=n)
    tokens = [random.integers(0, n_vocab, size=length).tolist() for length in lengths]
    target = [(random.random(length) < TARGETS).tolist() for length in lengths]
    return pl.DataFrame({"tokens": tokens, "target": target}, schema_overrides={"tokens": pl.List(pl.Int32)})
