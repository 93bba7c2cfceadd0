"""How many tokens a second an adapter learns from here, by the ways of computing that this machine has.

Steps are those of a training on this kind of device, optimizer included. Examples are random tokens of the sizes that
human dialogues have: what is learnt does not matter for how long it takes.
"""

import os
import shutil
from time import perf_counter

import numpy as np
import polars as pl

from crslib.engines import llama
from crslib.store import Progress, no_progress
from crslib.training import run
from crslib.training.base import Base

WAYS = {
    "cpu": (("float32", True), ("float32", False), ("int8", True), ("bfloat16", True), ("bfloat16", False)),
    "cuda": (("bfloat16", True), ("bfloat16", False), ("float32", True)),
}
"""Precision of the products, and whether the steps between them are compiled into one, of each kind of device; bfloat16
only on a CPU that multiplies it."""
LEARNT = 0.3  # of a user's example: what the user says itself
_LENGTHS = {"cpu": (290, 5), "cuda": (380, 220)}  # mean tokens of an example, and examples in a round: ten steps
_ROUNDS = 3


def measure(device: str = "auto", progress: Progress = no_progress) -> pl.DataFrame:
    """Columns precision, compiled, tokens_per_s: training of an adapter of the built-in base.

    The best of a few rounds, in which the ways take turns, so that a machine that slows down does so for all. `device`:
    auto, cpu or cuda. Raises `CrsError` for a device that is not there or where the extra `train` is not installed.
    """
    run.need_extra()
    from crslib.training.fit import Settings, adamw, plan, step
    from crslib.training.model import LoraLlama
    from crslib.training.objectives import OwnWords

    where, _ = run.chosen(device, "auto")
    base = Base(llama.model_path(llama.BUILT_IN))
    compiler = where.type == "cuda" or bool(shutil.which(os.environ.get("CXX", "g++")))
    fast = where.type == "cuda" or run.multiplies_bfloat16()
    ways = [way for way in WAYS[where.type] if (compiler or not way[1]) and (fast or way[0] != "bfloat16")]
    objective = OwnWords(_examples(*_LENGTHS[where.type], base.shape.n_vocab), where, base.shape.n_ctx)
    settings = Settings(epochs=1, batch_tokens=run.BATCH_TOKENS[where.type])
    steps = plan(objective.lengths, settings)
    pupils = [
        LoraLlama(base, rank=run.RANK, alpha=run.ALPHA, seed=0, precision=precision, fused=fused).to(where)
        for precision, fused in ways
    ]
    optimizers = [adamw(pupil, settings.lr) for pupil in pupils]
    best = [float("inf")] * len(ways)
    for number in range(_ROUNDS + 1):
        for place, pupil in enumerate(pupils):
            begun = perf_counter()
            for rows in steps:  # each ends by reading its loss, for which a GPU has to be done
                step(pupil, objective, rows, settings.batch_tokens, optimizers[place])
            if number:  # the first round compiles
                best[place] = min(best[place], perf_counter() - begun)
            progress(number * len(ways) + place + 1, (_ROUNDS + 1) * len(ways))
    rows = [(*way, float(objective.lengths.sum()) / seconds) for way, seconds in zip(ways, best, strict=True)]
    schema = {"precision": pl.String, "compiled": pl.Boolean, "tokens_per_s": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _examples(mean: int, n: int, n_vocab: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    lengths = random.integers(mean // 2, 3 * mean // 2, size=n)
    tokens = [random.integers(0, n_vocab, size=length).tolist() for length in lengths]
    target = [(random.random(length) < LEARNT).tolist() for length in lengths]
    return pl.DataFrame({"tokens": tokens, "target": target}, schema_overrides={"tokens": pl.List(pl.Int32)})
