"""Cross-entropy of a role's own tokens in nats, by kind of token, in one of three runtimes: the trainer, `transformers`
and llama.cpp.

Examples have columns dialogue_id, tokens, target and, optionally, kind; without it all targets are of kind 0. Every
function but `table` returns a frame (dialogue_id, kind UInt8, nats Float64, n Int64): sums over an example's targets.
Does not know where the examples come from.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from crslib import stats
from crslib.engines import llama
from crslib.files import Progress, no_progress

if TYPE_CHECKING:
    from crslib.training.model import LoraLlama

ALL = "all"
SUMS = {"dialogue_id": pl.String, "kind": pl.UInt8, "nats": pl.Float64, "n": pl.Int64}
"""What an example's targets cost, by kind: nats of all, and their number."""


def by_trainer(
    model: "LoraLlama",
    examples: pl.DataFrame,
    batch_tokens: int = 2048,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """By the model that is trained, in batches of `batch_tokens` (the fastest way). `progress` counts examples."""
    import torch

    from crslib.training.fit import batches
    from crslib.training.objectives import SFTObjective

    objective = SFTObjective(examples, model.head.device, model.shape.n_ctx)
    by_example: list[np.ndarray] = [np.zeros(0)] * len(examples)
    done = 0
    for rows in batches(np.arange(len(examples)), objective.lengths, batch_tokens):
        with torch.no_grad():
            nats = objective.losses(model, rows).cpu().numpy()
        for row, part in zip(rows, np.split(nats, np.cumsum(objective.weights[rows])[:-1]), strict=True):
            by_example[row] = part
        done += len(rows)
        progress(done, len(examples))
    return _sums(examples, iter(by_example))


def by_transformers(model: Any, examples: pl.DataFrame) -> pl.DataFrame:
    """By a `transformers` causal language model (with its PEFT adapter, if any), one example at a time."""
    import torch

    def nats() -> Iterator[np.ndarray]:
        for tokens, at in _targets(examples):
            with torch.no_grad():
                logits = model(torch.from_numpy(tokens)[None].to(model.device)).logits[0].float().cpu().numpy()
            yield _nats(logits[at], tokens[at + 1])

    return _sums(examples, nats())


def by_engine(
    model: llama.Model,
    adapter: Path | None,
    examples: pl.DataFrame,
    *,
    threads: int = 2,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """By llama.cpp, as in a simulation; `adapter` is None if it is merged into `model`. `progress` counts examples."""

    def nats() -> Iterator[np.ndarray]:
        for done, (tokens, at) in enumerate(_targets(examples), start=1):
            yield _nats(llama.all_logits(model, adapter, tokens.tolist(), threads=threads)[at], tokens[at + 1])
            progress(done, len(examples))

    return _sums(examples, nats())


def table(sums: pl.DataFrame, kinds: Mapping[int, str], *, times: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Mean cross-entropy with a 95 % bootstrap interval over dialogues: a row for all targets, then one per kind.

    Columns kind (`ALL` or a name of `kinds`), loss, low, high (nats per token), n_tokens, n_dialogues.
    """
    groups = [(ALL, sums), *((name, sums.filter(kind=number)) for number, name in sorted(kinds.items()))]
    rows = []
    for name, frame in groups:
        per = frame.group_by("dialogue_id").agg(pl.col("nats", "n").sum()).sort("dialogue_id")
        estimate = stats.ratio(per["nats"].to_numpy(), per["n"].to_numpy(), times=times, seed=seed)
        if estimate is not None:
            rows.append((name, estimate.value, estimate.low, estimate.high, int(per["n"].sum()), estimate.n))
    schema = {"kind": pl.String, "loss": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"n_tokens": pl.Int64, "n_dialogues": pl.Int64}, orient="row")


def _targets(examples: pl.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens (int64) of each example and the positions before its targets."""
    for tokens, target in examples.select("tokens", "target").iter_rows():
        yield np.array(tokens, dtype=np.int64), np.flatnonzero(target[1:])


def _nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """−log softmax of `targets` (n,) in `logits` (n, n_vocab)."""
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    return np.log(total) + top[:, 0] - logits[np.arange(len(targets)), targets]


def _sums(examples: pl.DataFrame, nats: Iterator[np.ndarray]) -> pl.DataFrame:
    has_kind = "kind" in examples.columns
    rows = []
    for row, values in zip(examples.iter_rows(named=True), nats, strict=True):
        at = np.flatnonzero(row["target"][1:]) + 1
        kinds = np.array(row["kind"], dtype=np.int64)[at] if has_kind else np.zeros(len(at), dtype=np.int64)
        for kind in np.unique(kinds).tolist():
            rows.append((row["dialogue_id"], kind, float(values[kinds == kind].sum()), int((kinds == kind).sum())))
    return pl.DataFrame(rows, schema=SUMS, orient="row")
