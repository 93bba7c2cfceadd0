"""The engine of one role: many dialogues take turns in the rows of one llama.cpp context."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.base import Completion, Finish, Request, Sampling
from crslib.engines.guard import ALLOWANCE, Guard
from crslib.engines.llama.context import PREFILL, Context, KVSnapshot, check_logits, step_batch
from crslib.engines.llama.feeder import Feeder
from crslib.engines.llama.model import AS_THEY_ARE, Model, identity, source
from crslib.engines.llama.sampling import chain, sample
from crslib.errors import CrsError

_SCORED_AT_ONCE = 32  # continuations in one batch of `score_tokens`


@dataclass
class _Row:
    """An utterance that is being generated. The last token of `ids` is drawn but not yet fed."""

    request: Request
    tokens: list[int]  # in the KV cells
    n_cached: int
    guard: Guard
    sampler: Any
    constrained_sampler: Any  # draws among the tokens that a constraint allows
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)

    def free(self) -> None:
        lc.llama_sampler_free(self.sampler)
        lc.llama_sampler_free(self.constrained_sampler)


@dataclass
class _Fed:
    """A request whose prompt has been fed: the logits of the first token (n_vocab,), and the dialogue's cells."""

    request: Request
    n_cached: int
    logits: np.ndarray | None = None  # None if the prompt does not fit the context
    snapshot: KVSnapshot | None = None  # None if the cells are in a row already


class LlamaEngine:
    """One role: a model, optionally with a LoRA adapter, and a way of sampling. See `base.Engine` for the contract.

    `width` is the number of utterances that are generated at once at most (at least two), `n_ctx` the longest dialogue
    in tokens. The number of dialogues is not limited; each costs memory for its KV cells (23 kB per token with the
    built-in model). With a `feeder` its thread feeds prompts in a context of one row while the engine takes steps; each
    of the two then has half of the `threads`; where only the engine's own context can restore what it has parked (see
    `Parking`), there is none. Raises `CrsError` when the adapter does not fit the model or memory does not suffice.
    """

    context_type: type[Context] = Context

    def __init__(
        self,
        model: Model,
        adapter: Path | None = None,
        sampling: Sampling | None = None,
        *,
        n_ctx: int = 1024,
        width: int = 8,
        threads: int = 1,
        feeder: Feeder | None = None,
    ) -> None:
        width = max(width, 2)  # the rounding of a decode of one token depends on the number of threads
        self.model, self.width, self.sampling = model, width, sampling or Sampling()
        origin = model.source or source(model.path, adapter, AS_THEY_ARE)
        self.identity: Mapping[str, Any] = identity(origin, self.sampling, n_ctx, width, model.n_gpu_layers)
        self.chat_template = model.chat_template
        self._threads, self._adapter = threads, adapter
        self._context = self.context_type(model, adapter, n_ctx, width, threads)
        if not model.chat_template[0]:
            self.identity = {**self.identity, "chat_template": "none in the file; ChatML"}
        if self._context.parking.kind != "cells":
            self.identity = {**self.identity, "parking": self._context.parking.kind}
        self._n_ctx = self._context.n_ctx
        self._step_batch = step_batch(width)
        self._heights = self._context.heights()
        self._rows: list[_Row | None] = [None] * width
        self._ended: list[tuple[str, Completion]] = []
        self._parked: dict[str, KVSnapshot] = {}  # by key
        self._shared: dict[tuple[int, ...], KVSnapshot] = {}  # by the tokens of a beginning that many dialogues share
        self._scored: list[int] = []  # the prompt that `score` has left in row 0
        # Tokens further below the best one than this cannot be drawn, so the sampler need not look at them.
        self._cut = math.log(self.sampling.min_p) - 1e-3 if self.sampling.min_p > 0 else -math.inf
        self._queue: list[tuple[Request, Future[_Fed]]] = []  # requests that have no row yet
        self._feeder = feeder = feeder if self._context.parking.kind == "cells" else None
        self._feeder_context = self.context_type(model, adapter, n_ctx, 1, max(threads // 2, 1)) if feeder else None
        self._closed = False

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of every token of the vocabulary; none for control and end tokens."""
        return self.model.pieces

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        return self.model.encode(text, control=control)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        return self.model.decode(ids)

    # ── requests ──

    @property
    def pending(self) -> int:
        """How many requests have not ended: they are queued, or their utterances are being generated."""
        return len(self._queue) + sum(row is not None for row in self._rows)

    def submit(self, request: Request) -> None:
        """Queues a request; a key may have one at a time."""
        if self._feeder and self._feeder_context:
            future: Future[_Fed] = self._feeder.submit(self._feed_ahead, self._feeder_context, request)
        else:
            future = Future()  # never begun: the engine cancels it and feeds the prompt itself
        self._queue.append((request, future))

    def step(self) -> list[tuple[str, Completion]]:
        """Begins a queued utterance if a row is free, else draws a token in every row. Returns those that ended."""
        slot = next((slot for slot, row in enumerate(self._rows) if row is None), None)
        fed = None if slot is None else self._next_fed(slot)
        if slot is None or fed is None:
            self._draw_all()
        else:
            self._begin(slot, fed)
        ended, self._ended = self._ended, []
        return ended

    def release(self, key: str) -> None:
        """Frees the parked cells of a dialogue that has ended."""
        self._parked.pop(key, None)

    def close(self) -> None:
        """Frees the contexts and the adapter; the model stays open."""
        if self._closed:
            return
        self._closed = True
        self._recall()
        self._queue.clear()
        for row in filter(None, self._rows):
            row.free()
        self._step_batch.free()
        for context in filter(None, (self._context, self._feeder_context)):
            context.close()
        del self._context, self._feeder_context  # a later use raises instead of ending the process
        self._rows = [None] * self.width
        self._parked.clear()
        self._shared.clear()

    # ── prompts ──

    def _next_fed(self, slot: int) -> _Fed | None:
        """The next request with its prompt fed: by the feeder if it has fed one, else here into row `slot`.

        None if nothing is queued, or if the feeder is feeding the only queued prompt and other utterances can go on.
        """
        for index, (_, future) in enumerate(self._queue):
            if future.done():
                del self._queue[index]
                return future.result()
        for index, (request, future) in enumerate(self._queue):
            if future.cancel():
                del self._queue[index]
                self._share_threads()
                return self._feed(self._context, slot, request)
        if not self._queue or any(self._rows):
            return None
        return self._wait(self._queue.pop(0)[1])

    def _wait(self, future: Future[_Fed]) -> _Fed:
        return future.result()

    def _recall(self) -> None:
        """Cancels the prompts that the feeder has not begun and waits for the one that it is feeding."""
        wait([future for _, future in self._queue if not future.cancel()])

    def _feed(self, context: Context, slot: int, request: Request) -> _Fed:
        """Feeds a row of `context` what is new in a prompt."""
        snapshot = self._parked.pop(request.key, None) or KVSnapshot()
        n_cached = _common_prefix(snapshot.tokens, request.prompt[:-1])
        if len(request.prompt) >= self._n_ctx:
            self._parked[request.key] = snapshot
            return _Fed(request, n_cached)
        start = n_cached
        if not n_cached and 0 < request.n_shared < len(request.prompt):
            snapshot, start = self._shared_cells(context, slot, request.prompt[: request.n_shared]), request.n_shared
        start = max(min(start, len(request.prompt) - 2), 0)  # at least two tokens, see `Context.prefill`
        context.prefill(slot, request.prompt, context.restore(slot, snapshot, start))
        return _Fed(request, n_cached, context.logits(1)[0])

    def _feed_ahead(self, context: Context, request: Request) -> _Fed:
        """As `_feed`, in the feeder's thread and context, with a copy of the cells and logits."""
        fed = self._feed(context, 0, request)
        if fed.logits is not None:
            fed.logits, fed.snapshot = fed.logits.copy(), context.snapshot(0, list(request.prompt))
        return fed

    def _shared_cells(self, context: Context, slot: int, prefix: tuple[int, ...]) -> KVSnapshot:
        """The cells of a beginning that many dialogues share, computed when it is first needed.

        It is always a prefill of its own, so the roundings do not depend on which dialogue comes first.
        """
        if prefix not in self._shared:
            context.drop(slot)
            context.prefill(slot, prefix, 0)
            self._shared[prefix] = context.snapshot(slot, list(prefix))
        return self._shared[prefix]

    def _share_threads(self) -> None:
        """Leaves half of the threads to the feeder while it is busy."""
        if self._feeder:
            busy = self._feeder.busy
            self._context.use_threads(self._threads - max(self._threads // 2, 1) if busy else self._threads)

    # ── utterances ──

    def _begin(self, slot: int, fed: _Fed) -> None:
        """Begins an utterance in a free row and draws its first token."""
        self._scored = []
        if fed.logits is None:
            self._ended.append((fed.request.key, Completion((), (), "context_full", fed.n_cached)))
            return
        prompt = list(fed.request.prompt)
        if fed.snapshot is not None:
            self._context.restore(slot, fed.snapshot, len(prompt))
        samplers = (chain(self.sampling, fed.request.seed, truncated=truncated) for truncated in (True, False))
        guard = Guard(self.pieces, self.sampling.guard)
        row = self._rows[slot] = _Row(fed.request, prompt, fed.n_cached, guard, *samplers)
        self._draw(slot, row, fed.logits)

    def _draw_all(self) -> None:
        """Feeds the last token of every row and draws the next."""
        if not any(self._rows):
            return
        batch, height = self._step_batch, self._lower()
        for slot, row in enumerate(self._rows[:height]):
            if row is None:  # a dummy token gives the decode one of the shapes whose roundings are the same
                self._context.drop(slot)
                batch.token[slot], batch.pos[slot] = 0, 0
            else:
                row.tokens.append(row.ids[-1])
                batch.token[slot], batch.pos[slot] = row.ids[-1], len(row.tokens) - 1
        self._share_threads()
        batch.handle.n_tokens = height
        self._context.decode(batch)
        logits = self._context.logits(height)
        for slot, row in enumerate(self._rows[:height]):
            if row is not None:
                self._draw(slot, row, logits[slot])

    def _lower(self) -> int:
        """How many rows the next step has. Where nothing is queued, the highest utterances are first moved into free
        rows below if the step can then have fewer."""
        busy = [slot for slot, row in enumerate(self._rows) if row is not None]
        needed = busy[-1] + 1 if self._queue else len(busy)
        height = next(height for height in self._heights if height >= needed)
        free = [slot for slot in range(height) if self._rows[slot] is None]
        for slot, lower in zip((slot for slot in busy if slot >= height), free, strict=False):
            row = self._rows[slot]
            assert row is not None
            self._context.restore(lower, self._context.snapshot(slot, row.tokens), len(row.tokens))
            self._rows[lower], self._rows[slot] = row, None
        return height

    def _draw(self, slot: int, row: _Row, logits: np.ndarray) -> None:
        """Draws a row's next token from `logits` (n_vocab,), which may be overwritten, and ends finished utterances."""
        token, logprob = self._next_token(row, logits)
        if token in self.model.ends:
            self._end(slot, row, "end")
            return
        row.ids.append(token)
        row.logprobs.append(logprob)
        row.guard.follow(token)
        beyond = len(row.ids) - self.sampling.max_tokens
        if len(row.tokens) + 1 >= self._n_ctx:
            self._end(slot, row, "context_full")
        elif beyond >= ALLOWANCE or (beyond >= 0 and row.guard.ends_sentence()):
            self._end(slot, row, "max_tokens")

    def _next_token(self, row: _Row, logits: np.ndarray) -> tuple[int, float]:
        """A row's next token and the model's own log-probability of it."""
        top = logits.max()
        total = float(np.log(np.exp(logits - top).sum())) + float(top)
        check_logits(total, self.model)
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
            token = self._free_token(row, logits)
        else:
            token = sample(row.constrained_sampler, choice.tokens, choice.scores(logits[choice.tokens]))
        return token, float(logits[token]) - total

    def _free_token(self, row: _Row, logits: np.ndarray) -> int:
        """Draws a token; one that the guard refuses is taken out of `logits`, and another is drawn."""
        while True:
            ids = np.flatnonzero(logits >= logits.max() + self._cut)
            token = sample(row.sampler, ids, logits[ids])
            if not row.guard.refuses(token, ends=token in self.model.ends):
                return token
            logits[token] = -np.inf

    def _end(self, slot: int, row: _Row, finish: Finish) -> None:
        """Ends an utterance; one that did not end of itself is shortened to what is whole (`guard.whole`)."""
        row.free()
        self._rows[slot] = None
        self._parked[row.request.key] = self._context.snapshot(slot, row.tokens)
        n = len(row.ids) if finish == "end" else row.guard.whole(row.ids)
        completion = Completion(tuple(row.ids[:n]), tuple(row.logprobs[:n]), finish, row.n_cached)
        self._ended.append((row.request.key, completion))

    # ── reading ──

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        """log P(continuation | prompt) of each continuation, float64 in nats, at temperature 1.

        A prefix that continuations share is computed once. A prefix that the prompt shares with that of the last call
        is not computed again. Not for use while utterances are being generated. Raises `CrsError` when the longest text
        does not fit the context, and for a model that computes no numbers.
        """
        if len(prompt) + max(map(len, continuations), default=0) >= self._n_ctx:
            raise CrsError(f"a prompt of {len(prompt)} tokens leaves no room in n_ctx = {self._n_ctx}; raise n_ctx")
        n = self._context.rewind(0, _common_prefix(self._scored, prompt[:-1]))
        self._context.prefill(0, prompt, n)
        self._scored = list(prompt)
        path: list[int] = []  # the tokens in the row after the prompt
        logprobs = [log_softmax(self._context.logits(1))[0]]  # of the token after the prompt and each prefix of `path`
        scores = np.zeros(len(continuations))
        for index in sorted(range(len(continuations)), key=lambda i: tuple(continuations[i])):
            continuation = list(continuations[index])
            shared = _common_prefix(path, continuation[:-1])
            del path[shared:], logprobs[shared + 1 :]
            if new := continuation[shared:-1]:
                known = len(prompt) + shared
                start = self._context.rewind(0, known)
                logprobs.extend(log_softmax(self.read([*prompt, *path, *new], start)[known - start :]))
                path += new
            scores[index] = sum(float(logprobs[depth][token]) for depth, token in enumerate(continuation))
        if not self._context.rewind(0, len(prompt)):
            self._scored = []
        check_logits(scores, self.model)
        return scores

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """log P(token | prompt, tokens before it) of every token of each continuation (float32, nats).

        For thousands of short continuations: several are fed at once, in a context of their own, so that the rounding
        does not depend on the engine's width. Raises `CrsError` when memory does not suffice, and for a model that
        computes no numbers.
        """
        n_ctx = len(prompt) + max(map(len, continuations), default=0)
        context = self.context_type(self.model, self._adapter, n_ctx, _SCORED_AT_ONCE, self._threads)
        try:
            for row in range(_SCORED_AT_ONCE):
                context.prefill(row, prompt, 0)
            first = log_softmax(context.logits(1))[0]
            scores = [np.array([first[one[0]]] if one else (), np.float32) for one in continuations]
            for group in _groups(continuations):
                logits = context.read_rows([continuations[index][:-1] for index in group], prompt)
                for index, rest in zip(group, logits, strict=True):
                    tokens = np.array(continuations[index][1:], np.intp)
                    scores[index] = np.append(scores[index], _log_probabilities(rest, tokens))
                    check_logits(scores[index], self.model)
            return scores
        finally:
            context.close()

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds `tokens` into row 0 from token `start` on. Returns the logits after each of them, (n, n_vocab)."""
        return self._context.read(tokens, start)


def all_logits(model: Model, adapter: Path | None, tokens: Sequence[int], *, threads: int) -> np.ndarray:
    """The logits after each of `tokens`, (n, n_vocab), float32. Raises `CrsError` where they are no numbers."""
    engine = LlamaEngine(model, adapter, n_ctx=len(tokens) + 1, width=1, threads=threads)
    try:
        logits = engine.read(tokens, 0)
        check_logits(logits, model)
        return logits
    finally:
        engine.close()


def _groups(continuations: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indexes of the continuations of more than one token, those of the same length together, as many as fit a batch.

    llama.cpp computes rows of different lengths one after the other.
    """
    by_length: dict[int, list[int]] = {}
    for index, continuation in enumerate(continuations):
        by_length.setdefault(len(continuation), []).append(index)
    for length, indexes in sorted(by_length.items()):
        if length > 1:
            size = min(_SCORED_AT_ONCE, PREFILL // (length - 1))
            yield from (indexes[start : start + size] for start in range(0, len(indexes), size))


def _log_probabilities(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The log-probability of one token in each row of logits."""
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return logits[np.arange(len(tokens)), tokens] - total


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of rows of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _common_prefix(cached: Sequence[int], prompt: Sequence[int]) -> int:
    n = min(len(cached), len(prompt))
    differing = (i for i in range(n) if cached[i] != prompt[i])
    return next(differing, n)
