"""The training loop: AdamW on an adapter, for any loss. A killed training resumes from its last checkpoint.

Only the order of examples is random, and it is derived from seed and epoch. A checkpoint therefore holds no random
state. On a CPU a resumed training ends with the same bits as an uninterrupted one, and SFT does with any number of
threads.

Knows examples by their number and weight only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Protocol

import numpy as np
import polars as pl
import torch
from pydantic import Field, InstanceOf, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.errors import CrsError
from crslib.files import Progress, no_progress, writing
from crslib.identity import derive_seed, digest
from crslib.schemas import STRICT
from crslib.training.adapter import Adapter
from crslib.training.model import LoraLlama

_CLIP = 1.0  # largest norm of a step's gradient


Rows = Sequence[int] | np.ndarray
"""Numbers of examples."""


class Objective(Protocol):
    """A loss over numbered examples."""

    lengths: np.ndarray
    """Tokens of each example, int64."""
    weights: np.ndarray
    """The weight of each example in a mean: its own tokens, or 1."""
    identity: str
    """A hash of the examples and of the loss's parameters."""

    def sums(self, model: LoraLlama, rows: Rows) -> dict[str, torch.Tensor]:
        """`loss` and other figures, each summed over examples `rows` with their weights."""
        ...


@dataclass(frozen=True)
class Settings:
    """Length and schedule of a training: a linear warmup to `lr`, then a half cosine down to zero.

    `warmup`: share of all steps. `step_tokens`: tokens (own and others') per step of the optimizer; where
    `step_examples` is not 0, that many examples per step instead. `batch_tokens`: tokens computed at once, which
    affects memory and speed and, by rounding alone, the result. `checks`: validations per epoch.
    """

    epochs: int = 3
    lr: float = 2e-3
    warmup: float = 0.05
    step_tokens: int = 8192
    step_examples: int = 0
    batch_tokens: int = 1024
    checks: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Guard:
    """What a training must not lose: the mean loss of `objective` may not rise above `limit` (nats)."""

    objective: Objective
    limit: float

    def lost(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last row of a log, if there is one, was measured to be above the limit."""
        measured = rows[-1].get("guard") if rows else None
        return measured is not None and measured > self.limit


LOG = {  # columns of the log, see `fit`
    "step": pl.Int64,
    "epoch": pl.Float64,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "lr": pl.Float64,
    "seconds": pl.Float64,
    "validation": pl.Float64,
    "accuracy": pl.Float64,
    "margin": pl.Float64,
    "guard": pl.Float64,
}


def fit(
    model: LoraLlama,
    training: Objective,
    validation: Objective | None,
    settings: Settings,
    checkpoint: Path,
    *,
    guard: Guard | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """Trains the adapter of `model` in place and returns the log: one row per step, columns of `LOG`.

    `loss` is the mean over the step's examples before the step. `tokens` and `seconds` (computing time) are totals so
    far, including the earlier parts of a resumed training. `validation` (and `accuracy`, `margin` where the objective
    has them) are null except in the rows after which they were measured. At the end `model` holds the adapter with the
    lowest validation loss, or the last one without validation. `checkpoint` is written every `save_every` seconds and
    at the end; with `resume` training continues from it. `progress` counts tokens.

    With a `guard` its loss is measured at every validation, too, as column `guard`. Above the limit training stops, and
    only an adapter that was within the limit when it was measured can be the result: at worst the one at the start.
    Raises `CrsError` when there are no examples, when the checkpoint cannot be read or has other settings, examples or
    precision, and when the loss is not finite.
    """
    if not len(training.weights) or training.weights.sum() <= 0:
        raise CrsError("there are no examples to train on; give more dialogues")
    steps = plan(training.lengths, settings)
    checks = {
        round((n + 1) * len(steps) / (settings.epochs * settings.checks))
        for n in range(settings.epochs * settings.checks)
    }
    optimizer = adamw(model, settings.lr)
    data = training.identity, validation and validation.identity
    guarded = [guard.objective.identity, guard.limit] if guard else []
    key = digest([asdict(settings), data, model.rank, model.precision, *guarded], "training")
    state = _State(key, model, optimizer)
    if guard is not None:
        state.store_if_best(math.inf)
    if resume and checkpoint.exists():
        state.load(checkpoint)
    total, per_epoch = int(sum(training.lengths[rows].sum() for rows in steps)), len(steps) / settings.epochs
    started, earlier, saved = perf_counter(), state.seconds, perf_counter()
    done = int(sum(training.lengths[rows].sum() for rows in steps[: state.step]))
    for rows in [] if guard and guard.lost(state.rows) else steps[state.step :]:
        rate = settings.lr * _rate(state.step, len(steps), settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = step(model, training, rows, settings.batch_tokens, optimizer)
        if not math.isfinite(loss):
            raise CrsError(f"the loss is {loss} at step {state.step + 1}; lower lr (now {settings.lr}) and train again")
        state.step += 1
        done += int(training.lengths[rows].sum())
        row: dict[str, Any] = {
            "step": state.step,
            "epoch": state.step / per_epoch,
            "tokens": done,
            "loss": loss,
            "lr": rate,
        }
        if state.step in checks and (validation is not None or guard is not None):
            row |= _check(model, state, validation, guard, settings.batch_tokens)
        state.seconds = earlier + perf_counter() - started
        state.rows.append(row | {"seconds": state.seconds})
        lost = guard is not None and guard.lost(state.rows)
        if perf_counter() - saved >= save_every or state.step == len(steps) or lost:
            state.save(checkpoint)
            saved = perf_counter()
        progress(done, total)
        if lost:
            break
    state.restore_best()
    return pl.DataFrame(state.rows, schema=LOG)


def _check(
    model: LoraLlama, state: "_State", validation: Objective | None, guard: Guard | None, batch_tokens: int
) -> dict[str, float | None]:
    """The figures of a validation, as columns of the log; the adapter is stored if it may be the result."""
    row: dict[str, float | None] = {}
    rank = -float(state.step)  # without validation the last adapter counts
    if validation is not None:
        means = evaluate(model, validation, batch_tokens)
        row |= {"validation": means["loss"], "accuracy": means.get("accuracy"), "margin": means.get("margin")}
        rank = means["loss"]
    if guard is not None:
        row["guard"] = evaluate(model, guard.objective, batch_tokens)["loss"]
    if guard is None or not guard.lost([row]):
        state.store_if_best(rank)
    return row


def evaluate(model: LoraLlama, objective: Objective, batch_tokens: int) -> dict[str, float]:
    """Weighted means of an objective's figures over all its examples, without training."""

    @torch.no_grad()
    def computed(part: np.ndarray) -> dict[str, torch.Tensor]:
        return objective.sums(model, part)

    sums: dict[str, float] = {}
    parts = batches(np.arange(len(objective.lengths)), objective.lengths, batch_tokens)
    with _one_each(model.lora.device) as mapped:
        for of_part in mapped(computed, parts):
            for name, value in of_part.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / float(objective.weights.sum()) for name, value in sums.items()}


def adamw(model: LoraLlama, lr: float) -> torch.optim.Optimizer:
    """The optimizer of the adapter: AdamW (Loshchilov and Hutter 2019) without weight decay."""
    return torch.optim.AdamW([model.lora], lr=lr, weight_decay=0.0)


def step(
    model: LoraLlama, objective: Objective, rows: np.ndarray, batch_tokens: int, optimizer: torch.optim.Optimizer
) -> float:
    """One optimizer step on examples `rows`, `batch_tokens` at once (on a CPU each of torch's threads); returns their
    mean loss before the step."""
    weight = float(objective.weights[rows].sum())

    def computed(part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        loss = objective.sums(model, part)["loss"] / weight
        (gradient,) = torch.autograd.grad(loss, [model.lora])
        return loss.detach(), gradient

    losses, gradient = [], torch.zeros_like(model.lora)
    with _one_each(model.lora.device) as mapped:
        for loss, of_part in mapped(computed, batches(rows, objective.lengths, batch_tokens)):
            losses.append(loss)  # read at the end only: each reading makes the CPU wait for the GPU
            gradient += of_part
        model.lora.grad = gradient
        torch.nn.utils.clip_grad_norm_([model.lora], _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).sum())


@contextmanager
def _one_each(device: torch.device) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` whose results come in order; on a CPU as many are computed at once as torch has threads, each on one.

    Products of a few hundred tokens are too small to be shared by cores. With one thread to each sum its bits do not
    depend on how many there are.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


def plan(lengths: np.ndarray, settings: Settings) -> list[np.ndarray]:
    """The examples of every step. Each epoch has its own order, cut into steps of `step_tokens` or `step_examples`."""
    steps = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng(derive_seed(settings.seed, "epoch", epoch)).permutation(len(lengths))
        number = (np.cumsum(lengths[order]) - 1) // settings.step_tokens
        if settings.step_examples:
            number = np.arange(len(order)) // settings.step_examples
        steps += [rows for rows in np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(rows)]
    return steps


def batches(rows: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """`rows` by length, longest first, cut into batches of at most `most` tokens (but at least one example)."""
    parts: list[list[int]] = []
    room = 0
    for row in sorted(rows.tolist(), key=lambda row: (-lengths[row], row)):
        if lengths[row] > room:
            parts.append([])
            room = most
        parts[-1].append(row)
        room -= int(lengths[row])
    return [np.array(part) for part in parts]


def _rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate of a step as a share of the highest one."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


_Pairs = dict[str, Annotated[list[InstanceOf[torch.Tensor]], Field(min_length=2, max_length=2)]]


@with_config(STRICT)
class _Stored(TypedDict):
    """A checkpoint. `best`: the lowest loss and its adapter."""

    key: str
    step: Annotated[int, Field(ge=0)]
    seconds: float
    rows: list[dict[str, float | int | None]]
    best: tuple[float, _Pairs] | None
    adapter: _Pairs
    optimizer: dict[str, Any]


_STORED = TypeAdapter(_Stored)


def _no_checkpoint(path: Path, reason: object) -> CrsError:
    return CrsError(f"{path} is not a checkpoint ({str(reason).partition(chr(10))[0]}); remove it")


class _State:
    """The progress of a training: what a checkpoint holds."""

    def __init__(self, key: str, model: LoraLlama, optimizer: torch.optim.Optimizer) -> None:
        self._key, self._model, self._optimizer = key, model, optimizer
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self._best: tuple[float, Mapping[str, Any]] | None = None

    def store_if_best(self, loss: float) -> None:
        if self._best is None or loss < self._best[0]:
            self._best = loss, Adapter.of(self._model).pairs

    def restore_best(self) -> None:
        if self._best is not None:
            self._model.load(self._best[1])

    def save(self, path: Path) -> None:
        best = self._best and (self._best[0], _to_tensors(self._best[1]))
        state = {
            "key": self._key,
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "best": best,
            "adapter": _to_tensors(Adapter.of(self._model).pairs),
            "optimizer": self._optimizer.state_dict(),
        }
        with writing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the type depends on where the damage is
            raise _no_checkpoint(path, error) from None
        if isinstance(state, dict) and state.get("key", self._key) != self._key:
            raise CrsError(f"{path} has other settings, examples or precision; use the same ones, or remove it")
        try:
            stored = _STORED.validate_python(state)
            best = stored["best"] and (stored["best"][0], _to_arrays(stored["best"][1]))
            self._model.load(_to_arrays(stored["adapter"]))
            self._optimizer.load_state_dict(stored["optimizer"])
        except ValidationError as error:
            raise _no_checkpoint(path, json_files.fault(error)) from None
        except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:  # of another model
            raise _no_checkpoint(path, error) from None
        self.step, self.seconds, self.rows, self._best = stored["step"], stored["seconds"], stored["rows"], best


def _to_tensors(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, list[torch.Tensor]]:
    return {name: [torch.from_numpy(half) for half in pair] for name, pair in pairs.items()}


def _to_arrays(pairs: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: (a.numpy(), b.numpy()) for name, (a, b) in pairs.items()}
