"""The engine of one role: many dialogues, a row of a context each while they speak."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.base import Completion, Finish, Request, Sampling
from crslib.engines.llama.context import Batch, Context, Parked, Work
from crslib.engines.llama.model import AS_THEY_ARE, Model, identity, source
from crslib.engines.llama.sampling import chain, sample
from crslib.errors import CrsError

_REHEARSED = 32  # steps between two resets of the context in `rehearse`


@dataclass
class _Row:
    """An utterance in the making. The last token of `ids` is drawn but not yet fed."""

    request: Request
    tokens: list[int]
    n_cached: int
    sampler: Any
    among: Any  # draws among what a constraint allows
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)

    def free(self) -> None:
        lc.llama_sampler_free(self.sampler)
        lc.llama_sampler_free(self.among)


@dataclass
class _Fed:
    """A request whose prompt has been fed: the logits of the first token (n_vocab,), and its dialogue's cells."""

    request: Request
    n_cached: int
    logits: np.ndarray | None = None  # None where the context has no room for the prompt
    parked: Parked | None = None  # None where the cells are in a row already


class Feeder:
    """A thread that feeds prompts for the engines that share it, one at a time, while theirs takes steps.

    Two contexts at work side by side, each on half of the cores, cost less than sharing out every single product.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "feeder")
        self._asked: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether it computes, or is about to. Only `submit` makes a yes of a no."""
        return bool(self._asked)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Has `work` done when its turn comes; who cancels it before does it without the feeder."""
        asked = self._thread.submit(work, *arguments)
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return asked

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)


class LlamaEngine:
    """One role: a model, optionally with a LoRA adapter, and a way of sampling. See `base.Engine` for the contract.

    `width` is the number of utterances decoded at once (two at least), `n_ctx` the longest dialogue in tokens. Any
    number of dialogues may be alive; each costs memory for its KV cells (23 kB per token with the built-in model). With
    a `feeder`, prompts are fed by its thread too, in a context of their own, while this one takes steps; either has
    half of the `threads` then. Raises `CrsError` when the adapter does not fit the model or memory does not suffice.
    """

    def __init__(
        self,
        model: Model,
        adapter: Path | None = None,
        sampling: Sampling | None = None,
        *,
        n_ctx: int = 1024,
        width: int = 8,
        threads: int = 2,
        feeder: Feeder | None = None,
    ) -> None:
        width = max(width, 2)  # a step of a single row would be rounded by the number of threads, see `Context.prefill`
        self.model, self.width, self.sampling = model, width, sampling or Sampling()
        origin = model.source or source(model.path, adapter, AS_THEY_ARE)
        self.identity: Mapping[str, Any] = identity(origin, self.sampling, n_ctx, width)
        self.chat_template = model.chat_template
        self._threads = threads
        self._context: Context | None = Context(model, adapter, n_ctx, width, threads)
        self._n_ctx = self._context.n_ctx
        self._step_batch = Batch(width)
        self._step_batch.logits[:] = 1
        for row in range(width):
            self._step_batch.row(row, row)
        self._step_batch.handle.n_tokens = width
        self._rows: list[_Row | None] = [None] * width
        self._ended: list[tuple[str, Completion]] = []
        self._parked: dict[str, Parked] = {}
        self._shared: dict[tuple[int, ...], Parked] = {}
        self._scored: list[int] = []  # the tokens that `score` has left in row 0
        # Candidates: everything the chain could still draw, so that it need not look at the whole vocabulary.
        self._cut = math.log(self.sampling.min_p) - 1e-3 if self.sampling.min_p > 0 else -math.inf
        self._coming: list[tuple[Request, Future[_Fed] | None]] = []  # asked for, not yet in a row
        self._feeder, self._beside = feeder, None
        if feeder:
            self._beside = Context(model, adapter, n_ctx, 1, max(threads // 2, 1))

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of every token of the vocabulary; none for control and end tokens."""
        return self.model.pieces

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        return self.model.encode(text, control=control)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return self.model.decode(ids)

    @property
    def work(self) -> tuple[Work, ...]:
        """What has been done so far: by the thread that calls `step`, and by the feeder's if there is one."""
        return tuple(part.work for part in (self._context, self._beside) if part)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is computed meanwhile, by the feeder neither."""
        begun = perf_counter()
        wait([fed for _, fed in self._coming if fed and not fed.cancel()])
        self._context.work.waiting += perf_counter() - begun
        yield
        coming, self._coming = self._coming, []
        for request, fed in coming:
            if fed and fed.cancelled():
                self.submit(request)
            else:
                self._coming.append((request, fed))

    def begin_work(self) -> None:
        """Counts `work` from now on."""
        for part in filter(None, (self._context, self._beside)):
            part.work = Work()

    # ── generation ──

    @property
    def pending(self) -> int:
        """How many requests have not ended: they wait, or their utterances are in the making."""
        return len(self._coming) + sum(row is not None for row in self._rows)

    def submit(self, request: Request) -> None:
        """Puts a request in line; a key has one at a time."""
        self._coming.append((request, self._feeder.submit(self._feed_beside, request) if self._feeder else None))

    def step(self) -> list[tuple[str, Completion]]:
        """Begins an utterance that waits, if a row is free; else takes one step. Returns what has ended by it."""
        slot = next((slot for slot, row in enumerate(self._rows) if row is None), None)
        if slot is None or not (self._coming and self._begin(slot)):
            self._step()
        ended, self._ended = self._ended, []
        return ended

    def _begin(self, slot: int) -> bool:
        """Begins an utterance in a free row, with what the feeder has fed or by feeding it here. False where the feeder
        has everything in hand and there are utterances to go on with meanwhile; where there are none, it waits."""
        at = next((i for i, (_, fed) in enumerate(self._coming) if fed and fed.done()), None)
        if at is not None:
            fed = self._coming.pop(at)[1].result()
        elif (at := next((i for i, (_, fed) in enumerate(self._coming) if not fed or fed.cancel()), None)) is not None:
            self._share()
            fed = self._feed(self._context, slot, self._coming.pop(at)[0])
        elif not any(self._rows):
            begun = perf_counter()
            fed = self._coming.pop(0)[1].result()
            self._context.work.waiting += perf_counter() - begun
        else:
            return False
        self._scored = []
        if fed.logits is None:
            self._ended.append((fed.request.key, Completion((), (), "context_full", fed.n_cached)))
            return True
        prompt = list(fed.request.prompt)
        if fed.parked is not None:
            self._context.restore(slot, fed.parked, len(prompt))
        samplers = (chain(self.sampling, fed.request.seed, truncated=truncated) for truncated in (True, False))
        row = self._rows[slot] = _Row(fed.request, prompt, fed.n_cached, *samplers)
        self._draw(slot, row, fed.logits)
        return True

    def _feed(self, context: Context, slot: int, request: Request) -> _Fed:
        """Feeds a row of `context` what is new of a prompt."""
        parked = self._parked.pop(request.key, None) or Parked()
        n_cached = _common_prefix(parked.tokens, request.prompt[:-1])
        if len(request.prompt) >= self._n_ctx:
            self._parked[request.key] = parked
            return _Fed(request, n_cached)
        start = n_cached
        if not n_cached and 0 < request.n_shared < len(request.prompt):
            parked, start = self._shared_cells(context, slot, request.prompt[: request.n_shared]), request.n_shared
        start = max(min(start, len(request.prompt) - 2), 0)  # two tokens at least, see `Context.prefill`
        context.restore(slot, parked, start)
        context.prefill(slot, request.prompt, start)
        return _Fed(request, n_cached, context.logits(1)[0])

    def _feed_beside(self, request: Request) -> _Fed:
        """The same in the feeder's thread, in a context of its own, from which the cells can be taken."""
        fed = self._feed(self._beside, 0, request)
        if fed.logits is not None:
            fed.logits, fed.parked = fed.logits.copy(), self._beside.park(0, list(request.prompt))
        return fed

    def _share(self) -> None:
        """Leaves half of the threads to the feeder while it has something to do."""
        if self._feeder:
            busy = self._feeder.busy
            self._context.use(self._threads - max(self._threads // 2, 1) if busy else self._threads)

    def _shared_cells(self, context: Context, slot: int, prefix: tuple[int, ...]) -> Parked:
        """The cells of a beginning that many dialogues have, computed when it is first met.

        Always as a prefill of its own, whoever comes first: the roundings are the same for all.
        """
        if prefix not in self._shared:
            context.drop(slot)
            context.prefill(slot, prefix, 0)
            self._shared[prefix] = context.park(slot, list(prefix))
        return self._shared[prefix]

    def _step(self) -> None:
        """Feeds the last token of every row and draws the next."""
        if not any(self._rows):
            return
        batch = self._step_batch
        for slot, row in enumerate(self._rows):
            if row is None:  # a dummy token keeps the shape of the decode, and so its roundings, the same
                self._context.drop(slot)
                batch.token[slot], batch.pos[slot] = 0, 0
            else:
                row.tokens.append(row.ids[-1])
                batch.token[slot], batch.pos[slot] = row.ids[-1], len(row.tokens) - 1
        self._share()
        self._context.work.decode += self._context.decode(batch)
        self._context.work.steps += 1
        logits = self._context.logits(self.width)
        for slot, row in enumerate(self._rows):
            if row is not None:
                self._draw(slot, row, logits[slot])

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        """log P(continuation | prompt) of each, float64 in nats, at temperature 1. Beginnings they have in common are
        computed once, and what a prompt has in common with that of the last call not again.

        Raises `CrsError` when the longest does not fit the context. Not while utterances are in the making.
        """
        if len(prompt) + max(map(len, continuations), default=0) >= self._n_ctx:
            raise CrsError(f"a prompt of {len(prompt)} tokens leaves no room in n_ctx = {self._n_ctx}; raise n_ctx")
        n = _common_prefix(self._scored, prompt[:-1])
        self._context.drop(0, n)
        self._context.prefill(0, prompt, n)
        self._scored = list(prompt)
        path: list[int] = []
        behind = [log_softmax(self._context.logits(1))[0]]  # of the next token, behind each beginning of the path
        scores = np.zeros(len(continuations))
        for index in sorted(range(len(continuations)), key=lambda i: tuple(continuations[i])):
            continuation = list(continuations[index])
            shared = _common_prefix(path, continuation[:-1])
            del path[shared:], behind[shared + 1 :]
            if new := continuation[shared:-1]:
                self._context.drop(0, len(prompt) + shared)
                behind.extend(log_softmax(self.read([*prompt, *path, *new], len(prompt) + shared)))
                path += new
            scores[index] = sum(float(behind[depth][token]) for depth, token in enumerate(continuation))
        self._context.drop(0, len(prompt))
        return scores

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds a text, from `start`, into row 0: the logits after each of its tokens, (n, n_vocab)."""
        return self._context.read(tokens, start)

    def rehearse(self, fed: Sequence[tuple[int, int]], context: int, steps: int) -> tuple[float, float, float]:
        """Seconds that llama.cpp alone needs for such work: prefills of `fed` (tokens before, tokens fed), `steps` full
        steps behind `context` tokens, and the time all of it took, which is less than their sum with a feeder. No words
        come of it: nothing is drawn, every row is busy."""
        filler = (self.model.encode(" and")[0],) * (self._n_ctx - 1)
        kept = {part: part.work for part in (self._context, self._beside) if part}
        cells = self._shared_cells(self._context, 0, filler)
        for slot in range(self.width):
            self._context.restore(slot, cells, context)
        if self._beside:
            self._beside.restore(0, cells, len(filler))
        for part in kept:
            part.work = Work()
        # From the longest to the shortest, so that cells only need to be dropped.
        todo = deque(sorted(((min(before, self._n_ctx - 1 - n), n) for before, n in fed), reverse=True))

        def feed(part: Context) -> None:
            while todo:
                with suppress(IndexError):
                    before, n = todo.popleft()
                    part.drop(0, before)
                    part.prefill(0, filler[: before + n], before)

        begun = perf_counter()
        beside = self._feeder.submit(feed, self._beside) if self._feeder and self._beside else None
        for step in range(steps):
            if step % _REHEARSED == 0:
                for slot in range(self.width):
                    self._context.drop(slot, context)
            self._step_batch.token[:], self._step_batch.pos[:] = filler[0], context + step % _REHEARSED
            self._share()
            self._context.work.decode += self._context.decode(self._step_batch)
        self._context.restore(0, cells, len(filler))
        self._share()
        feed(self._context)
        if beside:
            beside.result()
        seconds = perf_counter() - begun - self._context.work.parking
        done = [part.work for part in kept]
        for part, work in kept.items():
            part.work = work
        self._scored = []
        return sum(work.prefill for work in done), sum(work.decode for work in done), seconds

    def _draw(self, slot: int, row: _Row, logits: np.ndarray) -> None:
        """Draws a row's next token from `logits` (n_vocab,), which it may write to; ends the utterance if that does."""
        begun = perf_counter()
        token, logprob = self._next(row, logits)
        self._context.work.drawn += 1
        self._context.work.sampling += perf_counter() - begun
        if token in self.model.ends:
            self._end(slot, row, "end")
            return
        row.ids.append(token)
        row.logprobs.append(logprob)
        constraint = row.request.constraint
        if len(row.tokens) + 1 >= self._n_ctx:
            self._end(slot, row, "context_full")
        elif len(row.ids) >= self.sampling.max_tokens and not (constraint and constraint.open(row.ids)):
            self._end(slot, row, "max_tokens")

    def _next(self, row: _Row, logits: np.ndarray) -> tuple[int, float]:
        """A token and the model's own log-probability of it."""
        top = logits.max()
        total = float(np.log(np.exp(logits - top).sum())) + float(top)
        constraint = row.request.constraint
        if constraint is not None and not row.forced:
            row.forced.extend(constraint.forced(row.ids))
        if row.forced:
            token = row.forced.popleft()
            return token, float(logits[token]) - total
        choice = constraint.allowed(row.ids) if constraint is not None else None
        if choice is None:
            logits[self.model.controls] = -np.inf
            if constraint is not None and len(constraint.never):
                logits[constraint.never] = -np.inf
            ids = np.flatnonzero(logits >= logits.max() + self._cut)
            token = sample(row.sampler, ids, logits[ids])
        else:
            ids, weights = choice
            token = sample(row.among, ids, logits[ids] + weights)
        return token, float(logits[token]) - total

    def _end(self, slot: int, row: _Row, finish: Finish) -> None:
        row.free()
        self._rows[slot] = None
        self._parked[row.request.key] = self._context.park(slot, row.tokens)
        self._ended.append((row.request.key, Completion(tuple(row.ids), tuple(row.logprobs), finish, row.n_cached)))

    def release(self, key: str) -> None:
        """Frees the parked cells of a dialogue that has ended."""
        self._parked.pop(key, None)

    def close(self) -> None:
        """Frees the contexts and the adapter; the model stays."""
        if self._context is None:
            return
        with self.resting():
            self._coming = []
        for row in filter(None, self._rows):
            row.free()
        self._step_batch.free()
        for part in filter(None, (self._context, self._beside)):
            part.close()
        self._context = self._beside = None
        self._rows = [None] * self.width
        self._parked.clear()
        self._shared.clear()


def all_logits(model: Model, adapter: Path | None, tokens: Sequence[int], *, threads: int) -> np.ndarray:
    """The logits after each of `tokens`, (n, n_vocab), float32."""
    engine = LlamaEngine(model, adapter, n_ctx=len(tokens) + 1, width=1, threads=threads)
    try:
        return engine.read(tokens, 0)
    finally:
        engine.close()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of rows of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _common_prefix(cached: Sequence[int], prompt: Sequence[int]) -> int:
    n = min(len(cached), len(prompt))
    differing = (i for i in range(n) if cached[i] != prompt[i])
    return next(differing, n)
