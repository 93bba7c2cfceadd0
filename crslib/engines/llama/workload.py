"""What an engine computes, counted and timed, and the time that llama.cpp alone needs for the same work.

A `MeasuredEngine` generates the same text as a `LlamaEngine`; it also counts and times. Knows nothing of dialogues.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from crslib.engines.llama.context import Batch, Context, KVSnapshot
from crslib.engines.llama.engine import LlamaEngine
from crslib.engines.llama.model import Model

_STEPS = 32  # steps of `measure_ceiling` between two resets of the rows


@dataclass
class Work:
    """What one thread of an engine has done: seconds per phase, and what was computed."""

    prefill: float = 0.0  # inside llama.cpp
    decode: float = 0.0  # inside llama.cpp
    sampling: float = 0.0  # log-probabilities, constraints, drawing
    parking: float = 0.0  # copying KV cells
    waiting: float = 0.0  # for the feeder
    steps: int = 0
    rows: int = 0  # of all steps
    drawn: int = 0  # tokens, ends of utterances included
    fed: list[tuple[int, int]] = field(default_factory=list)  # (tokens before, tokens fed) of every prefill


class MeasuredContext(Context):
    """A context that counts in `work` what it computes."""

    def __init__(self, model: Model, adapter: Path | None, n_ctx: int, rows: int, threads: int) -> None:
        self.work = Work()
        super().__init__(model, adapter, n_ctx, rows, threads)
        self.work = Work()  # without the trial of parking

    def decode(self, batch: Batch) -> None:
        begun = perf_counter()
        super().decode(batch)
        seconds = perf_counter() - begun
        if batch is self.batch:
            self.work.prefill += seconds
            self.work.fed.append((int(batch.pos[0]), int(batch.handle.n_tokens)))
        else:
            self.work.decode += seconds
            self.work.steps += 1
            self.work.rows += int(batch.handle.n_tokens)

    def heights(self) -> list[int]:
        found = super().heights()
        self.work = Work()  # without the trial
        return found

    def restore(self, slot: int, snapshot: KVSnapshot, n: int) -> int:
        begun = perf_counter()
        held = super().restore(slot, snapshot, n)
        self.work.parking += perf_counter() - begun
        return held

    def snapshot(self, slot: int, tokens: list[int]) -> KVSnapshot:
        begun = perf_counter()
        snapshot = super().snapshot(slot, tokens)
        self.work.parking += perf_counter() - begun
        return snapshot


class MeasuredEngine(LlamaEngine):
    """A `LlamaEngine` that counts what it does, can be paused, and can measure llama.cpp alone."""

    context_type = MeasuredContext
    _context: MeasuredContext
    _feeder_context: MeasuredContext | None

    @property
    def work(self) -> tuple[Work, ...]:
        """What has been done since `reset_work`: by the thread that calls `step`, then by the feeder's if there is one.

        The feeder's changes while it feeds; read it inside `paused` or when nothing is pending.
        """
        return tuple(context.work for context in self._contexts)

    def reset_work(self) -> None:
        """Counts `work` from 0 again."""
        for context in self._contexts:
            context.work = Work()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which the feeder computes nothing for this engine. The time until it stops counts as `waiting`."""
        begun = perf_counter()
        self._recall()
        self._context.work.waiting += perf_counter() - begun
        yield
        queue, self._queue = self._queue, []
        for request, future in queue:
            if future.cancelled():
                self.submit(request)
            else:
                self._queue.append((request, future))

    def measure_ceiling(self, fed: Sequence[tuple[int, int]], context: int, steps: int) -> tuple[float, float, float]:
        """Seconds that llama.cpp alone needs for work of this size: in prefills, in steps, and in all.

        `fed`: (tokens before, tokens fed) of each prefill. `steps`: steps with every row busy, after `context` tokens.
        With a feeder both threads work, so the last figure is less than the sum of the others. Nothing is drawn, and
        `work` does not count any of it. Not for use while requests are pending.
        """
        filler = (self.model.encode(" and")[0],) * (self._n_ctx - 1)
        saved = [each.work for each in self._contexts]
        self.reset_work()
        cells = self._shared_cells(self._context, 0, filler)
        for slot in range(self.width):
            self._context.restore(slot, cells, context)
        if self._feeder_context:
            self._feeder_context.restore(0, cells, len(filler))
        self.reset_work()
        # From the longest to the shortest, so that a row only needs to drop cells.
        prefills = deque(sorted(((min(start, self._n_ctx - 1 - n), n) for start, n in fed), reverse=True))

        def feed(into: Context) -> None:
            while prefills:
                with suppress(IndexError):  # the other thread may have taken the last one
                    start, n = prefills.popleft()
                    into.drop(0, start)
                    into.prefill(0, filler[: start + n], start)

        begun = perf_counter()
        feeding = self._feeder.submit(feed, self._feeder_context) if self._feeder and self._feeder_context else None
        for step in range(steps):
            if step % _STEPS == 0:
                for slot in range(self.width):
                    self._context.drop(slot, context)
            self._step_batch.token[:], self._step_batch.pos[:] = filler[0], context + step % _STEPS
            self._share_threads()
            self._step_batch.handle.n_tokens = self.width
            self._context.decode(self._step_batch)
        self._context.restore(0, cells, len(filler))
        self._share_threads()
        feed(self._context)
        if feeding:
            feeding.result()
        seconds = perf_counter() - begun - self._context.work.parking
        measured = self.work
        for each, work in zip(self._contexts, saved, strict=True):
            each.work = work
        self._scored = []
        return sum(work.prefill for work in measured), sum(work.decode for work in measured), seconds

    @property
    def _contexts(self) -> list[MeasuredContext]:
        return [context for context in (self._context, self._feeder_context) if context]

    def _next_token(self, row: Any, logits: np.ndarray) -> tuple[int, float]:
        begun = perf_counter()
        token, logprob = super()._next_token(row, logits)
        self._context.work.drawn += 1
        self._context.work.sampling += perf_counter() - begun
        return token, logprob

    def _wait(self, future: Future[Any]) -> Any:
        begun = perf_counter()
        fed = super()._wait(future)
        self._context.work.waiting += perf_counter() - begun
        return fed
